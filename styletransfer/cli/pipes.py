"""The content image from standard input and the output image to standard output: - in place of a path."""

import dataclasses
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from ..errors import StyleTransferError, UsageError, without_folder
from .console import discard_stdout

if TYPE_CHECKING:  # torch takes seconds to import: `--help` must not
    from ..images import Picture
    from ..transfer import Result

STREAM = Path("-")
Format = Literal["png", "jpeg", "webp", "tiff"]


def read_stdin(max_pixels: int) -> "Picture":
    """Return the image that standard input holds. Raises `StyleTransferError` if it is none."""
    from ..images import UNNAMED, read_picture

    if sys.stdin.isatty():
        raise UsageError("standard input is a terminal; pipe an image into it, or name a file")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "standard input"
        with open(path, "wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        with without_folder(path):
            return dataclasses.replace(read_picture(path, max_pixels), name=UNNAMED)


def check_stdout(*, as_json: bool, resume: bool, save_every: int) -> None:
    """Raise `UsageError` if an image cannot be written to standard output."""
    if sys.stdout.isatty():
        raise UsageError("-o - writes the image to standard output, which is a terminal; redirect it, or name a file")
    for option, is_given in (("--json", as_json), ("--resume", resume), ("--save-every", save_every)):
        if is_given:
            raise UsageError(f"{option} does not go with -o -; name a file")


def write_stdout(result: "Result", extension: str, stdout: Path, path: Path) -> None:
    """Write the image to standard output if the path is that which stands for it; otherwise save it there.

    Raises `StyleTransferError` if it cannot be written.
    """
    if path != stdout:
        result.save(path)
        return
    with tempfile.TemporaryDirectory() as folder, open(result.save(Path(folder) / f"image{extension}"), "rb") as file:
        try:
            shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        except OSError as error:
            discard_stdout()
            raise StyleTransferError(f"cannot write to standard output: {error.strerror or error}") from error

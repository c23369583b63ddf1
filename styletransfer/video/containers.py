"""Opening clips with PyAV: by their contents alone, and with errors that name the file."""

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av

from ..errors import StyleTransferError, UsageError
from ..files import describe_missing

#: What PyAV raises for invalid data, unsupported parameters and fields that are 0.
AV_ERRORS = (av.FFmpegError, OSError, ValueError, ArithmeticError, NotImplementedError, MemoryError)


@contextlib.contextmanager
def open_clip(path: Path, options: dict[str, str] | None = None) -> Iterator[Any]:
    """Yield a file opened for reading as a PyAV container; no other file or address is opened.

    FFmpeg gets the open file instead of its name, in which it looks for protocols and patterns ("12:30.mkv",
    "%03d.mkv"), and an empty list of protocols, so that playlists (HLS, DASH, SDP, concat) cannot open other files or
    addresses. Only the file extension is passed on, because it helps to recognize some formats.

    Args:
        options: for the demuxer and the decoders.

    Raises:
        UsageError: there is no such file.
        StyleTransferError: FFmpeg cannot read it.
    """
    if not path.is_file():
        raise UsageError(describe_missing(path))
    ending = path.suffix if path.suffix[1:].isalnum() and path.suffix.isascii() else ""
    options = {**(options or {}), "protocol_whitelist": ""}
    with contextlib.ExitStack() as stack:
        with readable_errors(path, "read"):
            file = stack.enter_context(io.FileIO(path))
            file.name = f"clip{ending}"
            # Metadata may be in any encoding.
            container = stack.enter_context(av.open(file, "r", options=options, metadata_errors="replace"))
        yield container


@contextlib.contextmanager
def readable_errors(path: Path, action: str) -> Iterator[None]:
    """Convert errors of PyAV to a `StyleTransferError`: "PATH: cannot ACTION the clip: REASON"."""
    try:
        yield
    except AV_ERRORS as error:
        if isinstance(error, StyleTransferError):
            raise
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise StyleTransferError(f"{path}: cannot {action} the clip: {reason}") from error

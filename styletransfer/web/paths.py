"""Names of the page's files, and copies of inputs beside the outputs."""

import itertools
import shutil
from collections.abc import Iterator
from pathlib import Path

from ..errors import StyleTransferError
from ..files import atomic_write, sha256_of


def keep_input(path: Path, folder: Path) -> Path:
    """Return a copy of an input in the folder of the images, where `again` finds it; an existing copy is reused.

    Raises `StyleTransferError` if it cannot be read or written.
    """
    try:
        if path.resolve().parent == folder.resolve():
            return path
        digest = sha256_of(path)
        for place in number_names(folder / path.name):
            if place.exists():
                if sha256_of(place) == digest:
                    return place
                continue
            with open(path, "rb") as source, atomic_write(place) as file:
                shutil.copyfileobj(source, file)
            return place
    except OSError as error:
        raise StyleTransferError(f"{path.name}: cannot read file: {error.strerror or error}") from error
    raise AssertionError("there is always another name")


def number_names(path: Path) -> Iterator[Path]:
    """Yield a path, and then the same with -2, -3, … at the end of its name."""
    yield path
    yield from (path.with_name(f"{path.stem}-{number}{path.suffix}") for number in itertools.count(2))

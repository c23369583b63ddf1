"""The errors that users can fix, which the command prints as one line."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

#: Name of the package on PyPI, where "styletransfer" is another project.
DISTRIBUTION = "styletransfer-torch"


def escape_unprintable(text: str) -> str:
    """Return one line that any terminal can show: line ends, control and non-Unicode characters as escapes.

    They come from file names, which may hold any byte but two, and from the contents of files.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: "1 image", "2 images"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def install_hint(extra: str) -> str:
    """Return the command that installs an optional extra."""
    return f"pip install '{DISTRIBUTION}[{extra}]'"


class StyleTransferError(Exception):
    """An error in an input, a file or the machine. The message says what is wrong, where, and what to do."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(escape_unprintable(message))


class UsageError(StyleTransferError, ValueError):
    """An invalid value of an option or argument."""

    exit_code = 2


@contextlib.contextmanager
def without_folder(path: Path) -> Iterator[None]:
    """Within, our errors name a file without its folder, which is a temporary one."""
    try:
        yield
    except StyleTransferError as error:
        raise type(error)(str(error).replace(str(path), path.name)) from error


def describe_error(error: Exception) -> str:
    """Return an error as one line: our own as its message, any other with its type, cut to 500 characters."""
    if isinstance(error, StyleTransferError):
        return str(error)
    return escape_unprintable(" ".join(f"{type(error).__name__}: {error}".split())[:500])

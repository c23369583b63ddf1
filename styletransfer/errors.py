"""The two ways a run can fail for a reason that its user can mend; the command prints them as one line."""


def escape_unprintable(text: str) -> str:
    """One line that any terminal can show: line ends, control characters and what isn't Unicode, as escapes.

    They come from names of files, which may hold any byte but two, and from what is in files.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def plural(count: int, noun: str) -> str:
    """Return a count with its noun: "1 image", "2 images"."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


class StyleTransferError(Exception):
    """An input, a file or the machine doesn't allow the run. The message says what, where, and what to do."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(escape_unprintable(message))


class UsageError(StyleTransferError, ValueError):
    """An option or argument has a value that can't be meant."""

    exit_code = 2


def describe_error(error: Exception) -> str:
    """An error as one line: ours is its message, of any other the kind too, and not all of a long one."""
    if isinstance(error, StyleTransferError):
        return str(error)
    return escape_unprintable(" ".join(f"{type(error).__name__}: {error}".split())[:500])

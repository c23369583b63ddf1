"""Console output of the commands: messages, the progress bar, and handling of Ctrl-C."""

import codecs
import contextlib
import io
import itertools
import logging
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import StyleTransferError, escape_unprintable

if TYPE_CHECKING:  # torch takes seconds to import: `--help` must not
    from ..transfer import Session, Step


def print_error(message: str, code: int) -> int:
    """Print a message as one line on stderr; return the exit code."""
    print(f"styletransfer: {escape_unprintable(message)}", file=sys.stderr)
    return code


def discard_stdout() -> None:
    """Discard unwritten output: at exit Python would try to flush it again and print a traceback."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


def encode_any_name() -> None:
    """Let stdout print any file name: undecodable bytes unchanged, other unencodable characters as "?"."""

    def replace(error: UnicodeError) -> tuple[str | bytes, int]:
        if not isinstance(error, UnicodeEncodeError):
            raise error
        character = error.object[error.start]
        undecodable = "\udc80" <= character <= "\udcff"  # PEP 383
        return bytes([ord(character) - 0xDC00]) if undecodable else "?", error.start + 1

    codecs.register_error("styletransfer", replace)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="styletransfer")


def save_somewhere(write: Callable[[Path], object], target: Path) -> Path:
    """Write a result to the target, or elsewhere if that fails: it took long to compute. Return its path.

    Raises `StyleTransferError` if it cannot be written anywhere.
    """
    try:
        write(target)
        return target
    except StyleTransferError as error:
        folders = (Path.cwd(), Path.home(), Path(tempfile.gettempdir()))
        # PNG too: other formats limit the size of an image.
        places = ((target.parent, ".png"), *itertools.product(folders, (target.suffix, ".png")))
        for folder, ending in dict.fromkeys(places):  # encoding is slow: try no place twice
            names = (f"{target.stem}{number}{ending}" for number in ("", *(f"-{i}" for i in range(1, 100))))
            free = next((folder / name for name in names if not (folder / name).exists()), None)
            with contextlib.suppress(StyleTransferError):
                if free:
                    write(free)
                    print_error(f"{error}; saved as {free}", error.exit_code)
                    return free
        raise


class _OneLineFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return escape_unprintable(super().format(record))


def show_notices(quiet: bool) -> None:
    """Print the package's log on stderr, one line per record; if quiet, only warnings."""
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLineFormatter("styletransfer: %(message)s"))
    log = logging.getLogger("styletransfer")
    log.addHandler(handler)
    log.setLevel(logging.WARNING if quiet else logging.INFO)


def with_progress_bar(session: "Session", *, quiet: bool) -> "Iterator[Step]":
    """Yield a session's steps under a progress bar with iteration, loss and time left, on stderr.

    There is no bar when quiet or when stderr is not a terminal.
    """
    from tqdm import tqdm

    with tqdm(unit="it", disable=quiet or None, dynamic_ncols=True) as bar:
        due, scale = 0.0, None
        for step in session:
            if step.scale != scale:
                scale = step.scale
                bar.reset(total=step.max_iterations)
                bar.set_description_str("{}×{}".format(*scale.content), refresh=False)
            if not bar.disable and time.monotonic() >= due:  # reading the loss makes a GPU wait
                due = time.monotonic() + bar.mininterval
                seconds = session.pace.seconds_left(step)
                left = "" if seconds is None else f", {seconds:.0f} s left in total"
                bar.set_postfix_str(f"loss {step.losses.total:.4g}{left}", refresh=False)
            bar.update(step.iteration - bar.n)
            yield step


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], int]]:
    """Yield a function that returns the number of the signal received, SIGINT or SIGTERM, or 0.

    The first signal lets the iteration finish, so that its image can be saved; a second one exits at once. So does the
    first before the function is called: there is no image to save yet.
    """
    received, running = 0, False

    def interrupted() -> int:
        nonlocal running
        running = True
        return received

    def handle(number: int, _frame: object) -> None:
        nonlocal received
        if received or not running:
            raise SystemExit(128 + number)
        received = number

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)

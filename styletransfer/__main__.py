"""`python -m styletransfer`, and the command itself."""

import os
import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command; Ctrl-C shows no traceback, neither before the imports are done nor after the work is."""
    _open_missing_streams()
    try:
        from .cli.main import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    try:
        run()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def _open_missing_streams() -> None:
    """Connect standard streams that the caller closed (``2>&-``) to the null device.

    Otherwise the next file to be opened gets the number of the closed one, and what is meant for stderr lands in it.
    """
    for number, (name, mode) in enumerate([("stdin", "r"), ("stdout", "w"), ("stderr", "w")]):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)
            except OSError:
                os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
            stream = open(os.devnull, mode)  # noqa: SIM115  open as long as the process is
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


if __name__ == "__main__":
    main()

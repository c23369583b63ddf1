"""Entry point of the command and of `python -m styletransfer`."""

import atexit
import contextlib
import os
import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Run the command. Ctrl-C shows no traceback, neither during the imports nor after the work."""
    _open_missing_streams()
    # On Apple GPUs, do operations that Metal lacks on the CPU. torch reads this when it is imported.
    os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
    try:
        from .cli.main import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    code = 0
    try:
        run()
    except SystemExit as end:
        code = int(end.code or 0)
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    _exit_quickly(code)


def _exit_quickly(code: int) -> NoReturn:
    """Exit without finalizing the interpreter, which takes half a second once torch is imported."""
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def _open_missing_streams() -> None:
    """Connect standard streams that the caller closed (``2>&-``) to the null device.

    Otherwise the next file to be opened gets the descriptor of the closed one, and output to stderr lands in it.
    """
    for descriptor, (name, mode) in enumerate([("stdin", "r"), ("stdout", "w"), ("stderr", "w")]):
        if getattr(sys, name) is None:
            try:
                os.fstat(descriptor)
            except OSError:
                os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor, which is this one
            stream = open(os.devnull, mode)  # noqa: SIM115  stays open until the process ends
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


if __name__ == "__main__":
    main()

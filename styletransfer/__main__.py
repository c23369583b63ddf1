"""`python -m styletransfer`, and the command itself."""

import signal
import sys
from typing import NoReturn


def main() -> NoReturn:
    """Runs the command; Ctrl-C shows no traceback, neither before the imports are done nor after the work is."""
    try:
        from .cli.main import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    try:
        run()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


if __name__ == "__main__":
    main()

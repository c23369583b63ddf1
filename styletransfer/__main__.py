"""`python -m styletransfer`, and the command itself."""

import sys
from typing import NoReturn


def main() -> NoReturn:
    """Runs the command; Ctrl-C shows no traceback, not even before the imports are done."""
    try:
        from .cli import main as run
    except KeyboardInterrupt:
        sys.exit(130)
    run()


if __name__ == "__main__":
    main()

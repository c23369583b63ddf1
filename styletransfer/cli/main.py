"""The command line: parses, prints, exits.

Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted, 143 terminated.
"""

import io
import signal
import sys
from collections.abc import Sequence
from typing import NoReturn

import typer
from typer.exceptions import TyperException

from ..errors import StyleTransferError
from . import batch, figures, page, picture, video, weights  # noqa: F401  they add their commands
from .arguments import app
from .console import complain


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command and exits. A user's mistake is one line on stderr, never a traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # names that aren't Unicode come out as they came in
        sys.stdout.reconfigure(errors="surrogateescape")
    try:
        code = typer.main.get_command(app).main(arguments, prog_name="styletransfer", standalone_mode=False)
    except TyperException as error:
        code = complain(" ".join(error.format_message().split()), error.exit_code)
    except StyleTransferError as error:
        code = complain(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = 128 + signal.SIGINT
    except BrokenPipeError:  # whoever read stdout has gone
        sys.stderr.close()
        code = 1
    sys.exit(code)

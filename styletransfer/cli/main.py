"""The entry point of the command line.

Exit codes: 0 done, 1 failed, 2 usage error, 130 interrupted, 143 terminated.
"""

import errno
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, NoReturn

import typer
from typer.exceptions import TyperException

from ..errors import StyleTransferError
from ..version import __version__
from . import batch, figures, picture, video, web, weights  # noqa: F401  importing them adds their commands
from .arguments import app
from .console import discard_stdout, encode_any_name, print_error

#: Errors of `print` when a pipe is closed or a disk full; writing other files raises `StyleTransferError` instead.
STDOUT_ERRORS = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def _print_version(value: bool) -> None:
    if value:
        print(f"styletransfer {__version__}")
        raise typer.Exit


@app.callback()
def general_options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Render one image in the style of another: neural style transfer by optimization."""


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command and exit. A user error is one line on stderr, never a traceback."""
    encode_any_name()
    try:
        code = typer.main.get_command(app).main(arguments, prog_name="styletransfer", standalone_mode=False)
        sys.stdout.flush()
    except TyperException as error:
        code = print_error(" ".join(error.format_message().split()), error.exit_code)
    except StyleTransferError as error:
        code = print_error(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = 128 + signal.SIGINT
    except OSError as error:
        if error.errno not in STDOUT_ERRORS or error.filename is not None:
            raise
        discard_stdout()
        code = 1
        if error.errno != errno.EPIPE:  # a reader that closed the pipe needs no message
            print_error(f"cannot write to standard output: {error.strerror or error}", code)
    sys.exit(code)

"""The command that opens the page in the browser."""

from pathlib import Path
from typing import Annotated

import typer

from .arguments import Quiet, app
from .console import interruptible, show_notices


@app.command("ui")
def ui_command(
    folder: Annotated[Path, typer.Option("--folder", metavar="FOLDER", help="Where the pictures go.")] = Path("out"),
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port that the page is served on.")] = 7860,
    host: Annotated[
        str, typer.Option(help="Who can reach it: 127.0.0.1, only this machine; 0.0.0.0, everyone with a password.")
    ] = "127.0.0.1",
    auth: Annotated[
        str | None,
        typer.Option(metavar="USER:PASSWORD", help="What the page asks for; made and printed if others reach it."),
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
    quiet: Quiet = False,
) -> None:
    """Open a page in the browser on which the picture changes while you watch.

    Prints its address. Pictures, and copies of what they were made from, are in FOLDER. Ctrl-C ends it.
    """
    with interruptible() as interrupted:
        show_notices(quiet)
        from ..web.server import choose_login, serve

        login = choose_login(host, auth)

        def announce(address: str) -> None:
            print(address, flush=True)
            if login and not auth:
                print("user {}, password {}".format(*login), flush=True)

        serve(folder, host, port, login, browser, announce, interrupted)

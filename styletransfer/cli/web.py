"""The command `ui`, which serves the web page."""

from pathlib import Path
from typing import Annotated

import typer

from .arguments import MANY, Quiet, app
from .console import interruptible, show_notices


@app.command("ui", rich_help_panel=MANY)
def ui_command(
    folder: Annotated[Path, typer.Option("--folder", metavar="FOLDER", help="Output folder.")] = Path("out"),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 7860,
    host: Annotated[
        str, typer.Option(help="Address to listen on: 127.0.0.1 (only this machine) or 0.0.0.0 (with a password).")
    ] = "127.0.0.1",
    auth: Annotated[
        str | None,
        typer.Option(metavar="USER:PASSWORD", help="Login for the page; generated and printed if others can reach it."),
    ] = None,
    styles: Annotated[
        Path | None,
        typer.Option("--styles", metavar="FOLDER", help="Folder of style images to choose from, besides the examples."),
    ] = None,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
    quiet: Quiet = False,
) -> None:
    """Open the page in the browser: choose images and watch.

    Prints its address. Saves images, and copies of their inputs, in FOLDER. Ctrl-C stops the server.
    """
    with interruptible() as interrupted:
        show_notices(quiet)
        from ..web.server import choose_login, serve

        login = choose_login(host, auth)

        def announce(address: str) -> None:
            print(address, flush=True)
            if login and not auth:
                print("user {}, password {}".format(*login), flush=True)

        serve(folder, host, port, login, browser, announce, interrupted, styles)

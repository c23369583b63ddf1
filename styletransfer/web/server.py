"""The server of the page: only for this machine unless told otherwise, and without any connection to elsewhere."""

import os
import secrets
import tempfile
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

from ..errors import UsageError
from ..files import make_folder

#: The largest file that can be dropped on the page.
LARGEST_UPLOAD = "200mb"
USER = "styletransfer"


def is_local(host: str) -> bool:
    """Whether only this machine reaches a server that listens on this host."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def choose_login(host: str, auth: str | None) -> tuple[str, str] | None:
    """User and password that the page asks for: as given, USER:PASSWORD; made if others reach it; None for nobody.

    Raises `UsageError` if it can't be read.
    """
    if auth is None:
        return None if is_local(host) else (USER, secrets.token_urlsafe(9))
    user, colon, password = auth.partition(":")
    if not (user and colon and password):
        raise UsageError("--auth takes USER:PASSWORD")
    return user, password


def serve(
    folder: Path,
    host: str,
    port: int,
    login: tuple[str, str] | None,
    open_browser: bool,
    ready: Callable[[str], object],
    stopped: Callable[[], object],
) -> None:
    """Serves the page, and paints in this thread, until `stopped` tells true; the picture so far is kept.

    Args:
        folder: where the pictures go; made if it isn't there.
        ready: called with the page's address when it can be opened.

    Raises:
        UsageError: Gradio isn't installed, the folder can't be made, or the address can't be listened on.
    """
    with tempfile.TemporaryDirectory(prefix="styletransfer-page-") as uploads:
        os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": uploads, "HF_HUB_OFFLINE": "1"}
        try:
            import gradio as gr
        except ImportError as error:
            raise UsageError("the page needs Gradio: pip install 'styletransfer[ui]'") from error
        from .layout import CSS, SCRIPT, Page

        make_folder(folder)
        page = Page(folder)
        # Gradio's own fonts come from the network, and its gray, orange and red are too pale to be read by everyone.
        theme = gr.themes.Default(primary_hue="blue", font=["system-ui"], font_mono=["ui-monospace"]).set(
            block_info_text_color="*neutral_600",
            button_primary_background_fill="*primary_600",
            button_cancel_background_fill="#b91c1c",
        )
        try:
            _, address, _ = page.blocks.queue().launch(
                server_name=host,
                server_port=port,
                auth=login,
                inbrowser=open_browser,
                prevent_thread_lock=True,
                quiet=True,
                share=False,
                footer_links=[],
                ssr_mode=False,
                theme=theme,
                css=CSS,
                js=SCRIPT,
                max_file_size=LARGEST_UPLOAD,
                allowed_paths=[str(folder.resolve())],
            )
        except OSError as error:
            raise UsageError(f"{host}:{port} can't be listened on; try another --port: {error}") from error
        ready(address)
        try:
            page.work(stopped)
        finally:
            page.blocks.close(verbose=False)

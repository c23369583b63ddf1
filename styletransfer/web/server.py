"""The page's server: it listens on this machine only, unless set otherwise, and connects to nothing."""

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
    """Return whether only this machine can reach a server that listens on this host."""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def choose_login(host: str, auth: str | None) -> tuple[str, str] | None:
    """Return the user and password that the page asks for, or None.

    Without `auth`, a password is made if others can reach the host. Raises `UsageError` if `auth` is not USER:PASSWORD.
    """
    if auth is None:
        return None if is_local(host) else (USER, secrets.token_urlsafe(9))
    user, colon, password = auth.partition(":")
    if not (user and colon and password):
        raise UsageError("--auth must be USER:PASSWORD")
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
    """Serve the page, and do its runs in this thread, until `stopped` returns true; the image so far is saved.

    Args:
        folder: for the images; created if it does not exist.
        ready: called with the page's address once it can be opened.

    Raises:
        UsageError: Gradio is not installed, the folder cannot be created, or the address is not available.
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
        # Gradio downloads its default fonts, and its gray, orange and red have too little contrast.
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
            raise UsageError(f"cannot listen on {host}:{port}; try another --port: {error}") from error
        ready(address)
        try:
            page.work(stopped)
        finally:
            page.blocks.close(verbose=False)

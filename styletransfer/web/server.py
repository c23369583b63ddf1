"""The page's server: it listens on this machine only, unless set otherwise, and connects to nothing."""

import contextlib
import secrets
import socket
import tempfile
import threading
import time
import webbrowser
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

from ..errors import StyleTransferError, UsageError, install_hint
from ..files import make_folder
from ..options import Options
from ..transfer import keep_model
from .studio import PUBLIC, Studio

USER = "styletransfer"
#: Names and addresses of this machine that reach only it.
LOCAL_NAMES = frozenset(("localhost", "127.0.0.1", "::1"))


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
    styles: Path | None = None,
) -> None:
    """Serve the page, and do its jobs in this thread, until `stopped` returns true; the image so far is saved.

    Args:
        folder: for the images; created if it does not exist.
        ready: called with the page's address once it can be opened.
        styles: a folder of images for the gallery.

    Raises:
        UsageError: the server's packages are not installed, a folder cannot be created or has no images, or the address
            is not available.
    """
    try:
        import uvicorn

        from .app import make_app
    except ImportError as error:
        raise UsageError(f"the page needs Starlette and uvicorn: {install_hint('ui')}") from error
    make_folder(folder)
    with contextlib.ExitStack() as stack:
        temporary = stack.enter_context(tempfile.TemporaryDirectory(prefix="styletransfer-page-"))
        listening = stack.enter_context(contextlib.closing(_listen(host, port)))
        studio = Studio(folder, Path(temporary), styles, None if is_local(host) else PUBLIC)
        app = make_app(studio, login, LOCAL_NAMES | {host} if is_local(host) else None)
        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1, lifespan="off")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        address = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}/"
        stopped()  # from here on a signal ends the server cleanly
        ready(address)
        if open_browser:
            webbrowser.open(address)
        try:
            with contextlib.suppress(StyleTransferError):  # a job reports it
                keep_model(Options())  # the first preview needs it
            studio.queue.work(stopped)
        finally:
            studio.is_closed = server.should_exit = True
            thread.join(5)


def _listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens. Raises `UsageError` if the address is not available."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise UsageError(f"cannot listen on {host}:{port}; try another --port: {error}") from error

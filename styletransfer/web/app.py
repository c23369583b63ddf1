"""The page's routes: files of the page, uploads, jobs, and a stream of their progress for each tab."""

import asyncio
import base64
import binascii
import json
import secrets
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from anyio import CapacityLimiter, to_thread
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import StyleTransferError, UsageError, describe_error
from ..options import Options
from .form import describe_controls
from .studio import Studio, Tab

#: Seconds between checks of a tab's jobs, and at most between events, so that a closed tab is noticed.
POLL_INTERVAL, HEARTBEAT = 0.15, 2.0
#: Longer side of the largest image that a browser must show beside the output, in pixels.
LARGEST_SHOWN = 4096
#: Sizes that the page offers for the finished image.
SIZES = (512, 1024, 2048, 3600)
#: What a browser may load for the page: nothing from elsewhere.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def make_app(studio: Studio, login: tuple[str, str] | None, hosts: frozenset[str] | None) -> ASGIApp:
    """Return the application.

    Args:
        login: user and password to ask for.
        hosts: names of this machine, without port, under which the page may be opened; None for any. It keeps pages of
            other sites from reaching the server under a name of theirs (DNS rebinding).
    """
    routes = _Routes(studio)
    return Starlette(
        routes=[
            Route("/", routes.index),
            Route("/api/setup", routes.setup),
            Route("/api/tabs", routes.open_tab, methods=["POST"]),
            Route("/api/tabs/{tab}/events", routes.events),
            Route("/api/tabs/{tab}/files/{name}", routes.upload, methods=["POST"]),
            Route("/api/tabs/{tab}/jobs", routes.add_job, methods=["POST"]),
            Route("/api/tabs/{tab}/stop", routes.stop, methods=["POST"]),
            Route("/api/tabs/{tab}/estimate", routes.estimate, methods=["POST"]),
            Route("/api/sources/{source}", routes.show_source),
            Route("/api/jobs/{job}/preview", routes.show_preview),
            Route("/api/jobs/{job}/file", routes.send_file),
            Mount("/static", StaticFiles(directory=Path(__file__).parent / "static")),
        ],
        exception_handlers={
            StyleTransferError: _answer_error,
            KeyError: _answer_missing,
            ClientDisconnect: lambda request, error: Response(status_code=400),
        },
        middleware=[Middleware(_Guard, login=login, hosts=hosts)],
    )


class _Guard:
    """Answers requests that must not reach the page, and adds the headers that protect it to all others."""

    def __init__(self, app: ASGIApp, login: tuple[str, str] | None, hosts: frozenset[str] | None) -> None:
        self._app, self._hosts = app, hosts
        self._login = f"{login[0]}:{login[1]}".encode() if login else None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        refusal = self._refuse(Request(scope)) if scope["type"] == "http" else None
        await (refusal or self._app)(scope, receive, send_with_headers)

    def _refuse(self, request: Request) -> Response | None:
        if self._hosts is not None and _read_host(request) not in self._hosts:
            return JSONResponse({"error": "the page is not served under this host name"}, 421)
        if self._login and not secrets.compare_digest(_read_login(request), self._login):
            return Response("Unauthorized", 401, {"WWW-Authenticate": 'Basic realm="styletransfer"'})
        # Only scripts of this page can set a header of their own.
        if request.method == "POST" and request.headers.get("x-styletransfer") != "1":
            return JSONResponse({"error": "only the page itself may do this"}, 403)
        return None


def _read_host(request: Request) -> str | None:
    """Return the host name that a request is for, without port."""
    try:
        return urlsplit("//" + request.headers.get("host", "")).hostname
    except ValueError:
        return None


def _read_size(request: Request) -> int | None:
    """Return the longer side of the image that is asked for, in pixels; None for its own."""
    size = request.query_params.get("size", "")
    return max(1, min(int(size[:9]), LARGEST_SHOWN)) if size.isdecimal() else None


def _read_login(request: Request) -> bytes:
    scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
    try:
        return base64.b64decode(encoded, validate=True) if scheme.lower() == "basic" else b""
    except binascii.Error:
        return b""


async def _read_json(request: Request) -> dict[str, Any]:
    """Return the body of a request. Raises `UsageError` if it is no JSON object."""
    try:
        body = await request.json()
    except ValueError:
        body = None
    if not isinstance(body, dict):
        raise UsageError("the request is no JSON object")
    return body


def _answer_error(request: Request, error: Exception) -> Response:
    message = describe_error(error)
    name = message.split(" ", 1)[0]
    return JSONResponse({"error": message, "field": name if name in Options.__dataclass_fields__ else None}, 400)


def _answer_missing(request: Request, error: Exception) -> Response:
    return JSONResponse({"error": "this is no longer there; reload the page"}, 404)


class _Routes:
    def __init__(self, studio: Studio) -> None:
        self._studio = studio
        # One image of each kind is in memory at once, and waiting requests take no thread.
        self._uploading, self._reading = CapacityLimiter(1), CapacityLimiter(1)

    async def index(self, request: Request) -> Response:
        return FileResponse(Path(__file__).parent / "static" / "index.html")

    async def setup(self, request: Request) -> Response:
        studio = self._studio
        return JSONResponse(
            {
                "controls": describe_controls(),
                "balance": {"alpha": Options.alpha, "beta": Options.beta},
                "contents": [source.describe() for source in studio.contents],
                "styles": [source.describe() for source in studio.styles],
                "sizes": [size for size in SIZES if size <= studio.limits.size],
                "largest": studio.limits.size,
                "file_limit": studio.limits.file,
            }
        )

    async def open_tab(self, request: Request) -> Response:
        name = (await _read_json(request)).get("tab")
        return JSONResponse({"tab": self._studio.open_tab(str(name)).id})

    async def events(self, request: Request) -> Response:
        tab = self._studio.tab(request.path_params["tab"])
        return StreamingResponse(self._watch(tab), media_type="text/event-stream")

    async def _watch(self, tab: Tab) -> AsyncIterator[str]:
        """Yield the jobs that changed, as server-sent events, until the server ends."""
        versions, last_sent = dict[str, tuple[int, int]](), 0.0
        while not self._studio.is_closed:
            tab.last_seen = now = time.monotonic()
            changed = []
            for job in list(tab.jobs.values()):
                version = job.version, self._studio.queue.place(job)
                if versions.get(job.id) != version:
                    versions[job.id] = version
                    changed.append(self._studio.describe(job))
            if changed or now > last_sent + HEARTBEAT:
                last_sent = now
                yield f"data: {json.dumps(changed)}\n\n"
            await asyncio.sleep(POLL_INTERVAL)

    async def upload(self, request: Request) -> Response:
        tab = self._studio.tab(request.path_params["tab"])
        path = self._studio.new_upload_path(tab, request.path_params["name"])
        largest, size = self._studio.largest_upload(tab), 0
        try:
            with open(path, "wb") as file:
                async for chunk in request.stream():
                    if (size := size + len(chunk)) > largest:
                        raise UsageError(f"{path.name} is too large: at most {largest // 1_000_000} MB are allowed now")
                    file.write(chunk)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        source = await to_thread.run_sync(self._studio.add_upload, tab, path, limiter=self._uploading)
        restored = await to_thread.run_sync(self._studio.restore, tab, source, limiter=self._uploading)
        return JSONResponse({**source.describe(), "restored": restored})

    async def add_job(self, request: Request) -> Response:
        tab, body = self._studio.tab(request.path_params["tab"]), await _read_json(request)
        job = await run_in_threadpool(self._studio.add_job, tab, body)
        return JSONResponse(self._studio.describe(job))

    async def stop(self, request: Request) -> Response:
        for job in list(self._studio.tab(request.path_params["tab"]).jobs.values()):
            job.stop()
        return JSONResponse({})

    async def estimate(self, request: Request) -> Response:
        body = await _read_json(request)
        return JSONResponse(await run_in_threadpool(self._studio.estimate_sizes, body))

    async def show_source(self, request: Request) -> Response:
        source, longest = self._studio.source(request.path_params["source"]), _read_size(request) or LARGEST_SHOWN
        data, media_type = await to_thread.run_sync(self._studio.thumbnail, source, longest, limiter=self._reading)
        # A source never changes, and reading a large one takes a second.
        return Response(data, headers={"Cache-Control": "private, max-age=86400"}, media_type=media_type)

    async def show_preview(self, request: Request) -> Response:
        job = self._studio.job(request.path_params["job"])
        data = await to_thread.run_sync(job.preview, _read_size(request), limiter=self._reading)
        return Response(data, media_type="image/jpeg") if data else Response(status_code=404)

    async def send_file(self, request: Request) -> Response:
        path = self._studio.job(request.path_params["job"]).target
        if not path.exists():
            raise KeyError(path)
        return FileResponse(path, filename=path.name)

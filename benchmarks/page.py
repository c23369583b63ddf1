"""Measure the page in Debian's Chromium: its size, the previews' delay, and what it costs to watch a run.

Another part measures what a hundred uploads at once cost its server.
"""

import concurrent.futures
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from measuring import EXAMPLES
from PIL import Image

CONTENT, STYLE = EXAMPLES / "coffee.jpg", EXAMPLES / "swirls.jpg"
#: Seconds without activity for which processor time is measured.
IDLE = 20
_TICKS = os.sysconf("SC_CLK_TCK")


def processor_seconds(pid: int) -> float:
    """Return the processor time of a process and its children."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        children = [
            int(c) for task in Path(f"/proc/{pid}/task").iterdir() for c in (task / "children").read_text().split()
        ]
    except OSError:  # it has ended
        return 0.0
    return (int(fields[11]) + int(fields[12])) / _TICKS + sum(map(processor_seconds, children))


@contextmanager
def start_server(*arguments: str) -> Iterator[tuple[str, int]]:
    """Yield the page's address and the server's process."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "styletransfer", "ui", "--no-browser", "--port", "7862", "--folder", folder]
        server = subprocess.Popen([*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert server.stdout
        try:
            yield server.stdout.readline().strip(), server.pid
        finally:
            server.terminate()
            server.wait()


@contextmanager
def open_page() -> Iterator[tuple[Any, int, int, float]]:
    """Yield a browser that shows the page, its process, the server's, and the seconds until the server was ready."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1440,1000"):
        options.add_argument(argument)
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    start = time.perf_counter()
    with start_server() as (address, server_pid):
        ready = time.perf_counter() - start
        with webdriver.Chrome(options=options, service=service) as browser:
            browser.get(address)
            time.sleep(5)  # until the network is loaded
            yield browser, service.process.pid, server_pid, ready


def seconds_until(is_true: Callable[[], object], interval: float = 0.05) -> float:
    """Return the seconds until a call is true, which is tried once in an interval: asking costs the browser time."""
    start = time.perf_counter()
    while not is_true():
        time.sleep(interval)
    return time.perf_counter() - start


def print_page() -> None:
    """Print all figures of docs/explanation/performance.md."""
    with open_page() as (browser, browser_pid, server_pid, ready):

        def run_script(text: str, *arguments: Any) -> Any:
            return browser.execute_script(text, *arguments)

        def change(name: str, value: object) -> None:
            run_script(
                "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
                "e.dispatchEvent(new Event('change', {bubbles: true}))",
                name,
                value,
            )

        def shown() -> Any:
            return run_script("return document.querySelector('#after img[src*=jobs]')?.getAttribute('src')")

        def is_done(kind: str) -> bool:
            return str(run_script("return document.getElementById('status').textContent")).startswith(f"{kind} done")

        count, size = run_script(
            "const e = performance.getEntriesByType('resource');"
            "return [e.length, e.reduce((sum, one) => sum + one.decodedBodySize, 0)]"
        )
        print(f"the server is ready after {ready:.1f} s; {count} files, {size / 1000:.0f} KB")
        before = processor_seconds(server_pid), processor_seconds(browser_pid)
        time.sleep(IDLE)
        server, chromium = (
            60 / IDLE * (processor_seconds(pid) - then)
            for pid, then in zip((server_pid, browser_pid), before, strict=True)
        )
        print(f"idle, processor seconds a minute: server {server:.1f}, browser {chromium:.1f}")

        browser.find_element("id", "content-file").send_keys(str(CONTENT))
        time.sleep(2)
        browser.find_element("id", "styles-file").send_keys(str(STYLE))
        first = seconds_until(shown)
        done = first + seconds_until(lambda: is_done("Preview"))
        print(f"first preview {first:.1f} s after the second image, finished {done:.1f} s")
        time.sleep(1)
        for balance in (45, 60):
            earlier = shown()
            change("balance", balance)
            seconds = seconds_until(lambda earlier=earlier: shown() != earlier)
            print(f"slider to changed preview {seconds:.1f} s")
            seconds_until(lambda: is_done("Preview"))
            time.sleep(1)

        run_script("document.getElementById('reset').click()")
        for name, value in (("option-model", "vgg19-lite"), ("option-iterations", 50), ("size", 512)):
            change(name, value)
            time.sleep(1)
        seconds_until(lambda: is_done("Preview"))
        for _ in range(2):
            spent = processor_seconds(browser_pid)
            run_script("document.getElementById('render').click()")
            time.sleep(1)
            seconds = 1 + seconds_until(lambda: is_done("Full quality"), interval=0.25)
            print(
                f"full image, as --preset fast: {seconds:.1f} s, browser {processor_seconds(browser_pid) - spent:.1f} s"
            )
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "styletransfer",
            CONTENT,
            STYLE,
            "--preset",
            "fast",
            "-q",
            "-o",
            f"{folder}/a.png",
        ]
        for _ in range(2):
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            print(f"styletransfer … --preset fast: {time.perf_counter() - start:.1f} s")


def peak_memory(pid: int) -> float:
    """Return the largest resident memory that a process had so far, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def print_uploads() -> None:
    """Print memory and answers of a server whose two users upload a hundred files at once while their images are made.

    Of the files, 60 are photographs of 24 megapixels, 20 are broken, and 20 decode to an image of 4 gigapixels.
    """
    noise = Image.effect_noise((6000, 4000), 40).convert("RGB")
    photo, bomb = io.BytesIO(), io.BytesIO()
    noise.save(photo, "JPEG", quality=90)
    Image.new("L", (65000, 65000)).save(bomb, "PNG")
    files = ([photo.getvalue()] * 3 + [photo.getvalue()[:1000], bomb.getvalue()]) * 20

    with start_server() as (address, pid):

        def send(path: str, body: bytes) -> tuple[int, Any]:
            request = urllib.request.Request(address + path, body, {"X-Styletransfer": "1"})
            try:
                with urllib.request.urlopen(request) as answer:
                    return answer.status, json.load(answer)
            except urllib.error.HTTPError as error:
                return error.code, json.load(error)

        def call(path: str, **body: Any) -> Any:
            return send(path, json.dumps(body).encode())[1]

        def start_job(tab: str) -> None:
            inputs = [
                send(f"api/tabs/{tab}/files/{path.name}", path.read_bytes())[1]["id"] for path in (CONTENT, STYLE)
            ]
            call(f"api/tabs/{tab}/jobs", kind="preview", content=inputs[0], styles=inputs[1:])

        def wait_for_jobs(tab: str) -> None:
            for line in events[tab]:
                jobs = json.loads(line[5:]) if line.startswith(b"data:") else []
                if any(job["state"] not in ("waiting", "running") for job in jobs):
                    return

        tabs = [call("api/tabs")["tab"] for _ in range(2)]
        events = {tab: urllib.request.urlopen(f"{address}api/tabs/{tab}/events") for tab in tabs}
        start_job(tabs[0])
        wait_for_jobs(tabs[0])
        print(f"one preview: at most {peak_memory(pid):.0f} MiB")
        for tab in tabs:
            start_job(tab)
        start = time.perf_counter()
        with concurrent.futures.ThreadPoolExecutor(len(files)) as pool:
            paths = [f"api/tabs/{tabs[number % 2]}/files/{number}.png" for number in range(len(files))]
            codes = [code for code, _ in pool.map(send, paths, files)]
        seconds, size = time.perf_counter() - start, sum(map(len, files)) / 1e6
        accepted, refused = codes.count(200), codes.count(400)
        print(f"{len(files)} uploads, {size:.0f} MB: {accepted} accepted, {refused} refused, {seconds:.0f} s")
        for tab in tabs:
            wait_for_jobs(tab)
        print(f"with two previews meanwhile: at most {peak_memory(pid):.0f} MiB")

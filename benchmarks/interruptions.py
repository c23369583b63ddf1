"""Measure runs that are killed and interrupted, and the cost of checkpoints (docs/explanation/reliability.md).

python benchmarks/interruptions.py kills --count 50     SIGKILL at random moments; images against an uninterrupted one
python benchmarks/interruptions.py signals              SIGINT and SIGTERM in every phase: exit code and files left
python benchmarks/interruptions.py checkpoints          seconds and bytes of the checkpoints of a run
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

from PIL import Image

from styletransfer import stylize
from styletransfer.transfer import checkpoint

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
PICTURES = EXAMPLES / "astronaut.jpg", EXAMPLES / "swirls.jpg"
When = Callable[[Path, int], bool]


def start(target: Path, *options: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "styletransfer", *map(str, PICTURES), "-o", str(target), "--model", "vgg19-lite"]
    return subprocess.Popen([*command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def kills(args: argparse.Namespace) -> None:
    """Start runs one after the other, each killed and resumed until its image is written."""
    options = ("--size", "256", "--iterations", "200", "--checkpoint-every", "0", "--resume")
    random.seed(1)
    with tempfile.TemporaryDirectory() as name:
        uninterrupted, target = Path(name) / "alone.png", Path(name) / "killed.png"
        start(uninterrupted, *options).communicate()
        kill_count, same = 0, Counter[bool]()
        while kill_count < args.count or target.exists():
            process = start(target, *options)
            try:
                process.communicate(timeout=random.uniform(1.2, 5))
                assert process.returncode == 0
                same[target.read_bytes() == uninterrupted.read_bytes()] += 1
                target.unlink()
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
                kill_count += 1
            assert not list(Path(name).glob(".styletransfer-*"))
    print(f"{kill_count} kills; of {same.total()} pictures {same[True]} are byte for byte that of a run left alone")


def outcome(options: list[str], number: int, when: When, again: float | None) -> tuple[str, float]:
    """Send a signal once `when` is true, and again after `again` seconds; return a summary and the seconds it took."""
    with tempfile.TemporaryDirectory() as name:
        process = start(Path(name) / "out.png", *options)
        while process.poll() is None and not when(Path(name), process.pid):
            time.sleep(0.005)
        sent = time.monotonic()
        process.send_signal(number)
        if again is not None:
            time.sleep(again)
            process.send_signal(number)
        _, stderr = process.communicate()
        files = sorted(os.listdir(name))
        if "out.png" in files:
            Image.open(Path(name) / "out.png").load()
        traceback = ", a traceback" if "Traceback" in stderr else ""
        return (
            f"exit code {process.returncode}, {' '.join(files) or 'nothing'} left{traceback}",
            time.monotonic() - sent,
        )


def after(seconds: float) -> When:
    begin = time.monotonic()
    return lambda folder, pid: time.monotonic() - begin > seconds


def in_the_loop(folder: Path, pid: int) -> bool:
    return (folder / ".out.png.checkpoint").exists()


def writing(folder: Path, pid: int) -> bool:
    try:
        files = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
    except OSError:
        return False
    return any(file.startswith(str(folder)) for file in files)


def signals(args: argparse.Namespace) -> None:
    long, large = ["--iterations", "5000", "--checkpoint-every", "0"], "--size 4000 --enlarge --scales 1 --iterations 1"
    once = [*large.split(), "--checkpoint-every", "off"]
    phases: list[tuple[str, list[str], list[Callable[[], When]], float | None]] = [
        ("start and set-up", long, [partial(after, 0.03 + 0.12 * i) for i in range(16)], None),
        ("in the loop", long, [lambda: in_the_loop] * 4, None),
        ("twice in the loop", long, [lambda: in_the_loop] * 4, 0.02),
        ("while the picture is written", once, [lambda: writing] * 2, None),
        ("twice then", once, [lambda: writing] * 2, 0.05),
    ]
    for number in (signal.SIGINT, signal.SIGTERM):
        for phase, options, moments, again in phases:
            results = [outcome(options, number, when(), again) for when in moments]
            for what, count in Counter(what for what, _ in results).items():
                seconds = [s for w, s in results if w == what]
                print(f"{signal.Signals(number).name} {phase}: {count} times {what}, {max(seconds):.1f} s at most")


def checkpoints(args: argparse.Namespace) -> None:
    """Measure checkpoints with a full history, as often as they are written by default."""
    for size, iterations in ((512, 800), (4096, 30)):
        times: list[float] = []
        write = checkpoint.CheckpointWriter.write

        def timed(self, *arguments) -> None:  # type: ignore[no-untyped-def]
            begin = time.monotonic()
            write(self, *arguments)  # noqa: B023
            times.append(time.monotonic() - begin)  # noqa: B023

        checkpoint.CheckpointWriter.write = timed  # type: ignore[method-assign]
        with tempfile.TemporaryDirectory() as name:
            path, more = Path(name) / "state", {"enlarge": True, "scales": 1, "model": "vgg19-lite", "beta": 1e5}
            result = stylize(*PICTURES, size=size, iterations=iterations, checkpoint=path, **more)
            mib = path.stat().st_size / 2**20 if path.exists() else 0
        checkpoint.CheckpointWriter.write = write  # type: ignore[method-assign]
        print(
            f"{size} px, {result.seconds:.0f} s: {len(times)} checkpoints of {mib:.0f} MiB in {sum(times):.2f} s, "
            f"{sum(times) / result.seconds:.1%}"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("kills", "signals", "checkpoints"))
    parser.add_argument("--count", type=int, default=50, help="of kills")
    args = parser.parse_args()
    {"kills": kills, "signals": signals, "checkpoints": checkpoints}[args.part](args)


if __name__ == "__main__":
    main()

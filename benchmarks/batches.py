"""Measure batches: throughput, recovery after kill -9, and a cluster that loses workers.

make bench-batch ARGS='--part throughput'    --jobs 1, 2, 4 against separate commands
make bench-batch ARGS='--part scale'         100,000 rows, and a simulated cluster, with workers that paint nothing
make bench-batch ARGS='--part kills'         the batch command is killed ten times
make bench-batch ARGS='--part cluster'       a worker and a node are killed, a node is frozen
make bench-batch ARGS='--part sweep'         a sheet of 2×4 against eight commands
"""

import argparse
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from batch_scale import measure_cluster, measure_rows
from PIL import Image

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
COMMAND = [sys.executable, "-m", "styletransfer"]
OPTIONS = shlex.split("--size 128 --model vgg19-lite --device cpu -q")


def inputs(folder: Path, contents: int, styles: int) -> tuple[str, str]:
    """Make folders of content and style images, cropped from the examples; return their paths."""
    generator = np.random.default_rng(0)
    for name, count, sources in (
        ("photos", contents, ("astronaut", "chelsea", "coffee", "rocket")),
        ("paintings", styles, ("swirls", "mosaic", "woodblock", "ink")),
    ):
        (folder / name).mkdir()
        for number in range(count):
            with Image.open(EXAMPLES / f"{sources[number % len(sources)]}.jpg") as image:
                side = min(image.size) // 2
                x, y = (int(generator.integers(0, length - side)) for length in image.size)
                part = image.convert("RGB").crop((x, y, x + side, y + side))
            part.save(folder / name / f"{number:03}.jpg", quality=95)
    return str(folder / "photos"), str(folder / "paintings")


def batch(photos: str, paintings: str, out: Path, *more: str) -> list[str]:
    return [*COMMAND, "batch", photos, "--styles", paintings, "-o", str(out), *OPTIONS, *more]


def throughput(args: argparse.Namespace) -> None:
    """Print images per minute with 1, 2 and 4 jobs, and with separate commands one after the other."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        photos, paintings = inputs(folder, args.count // 10, 10)
        for jobs in (1, 2, 4):
            start = time.perf_counter()
            options = ("--jobs", str(jobs), "--iterations", str(args.iterations))
            subprocess.run(batch(photos, paintings, folder / f"out{jobs}", *options), check=True, capture_output=True)
            seconds = time.perf_counter() - start
            count = len(list((folder / f"out{jobs}").glob("*.png")))
            print(
                f"--jobs {jobs}: {count} pictures in {seconds:.0f} s, {60 * count / seconds:.1f} a minute", flush=True
            )
        start = time.perf_counter()
        for number in range(args.separate):
            pair = [f"{photos}/{number % (args.count // 10):03}.jpg", f"{paintings}/{number % 10:03}.jpg"]
            options = ("--iterations", str(args.iterations), "-o", str(folder / "one.png"))
            subprocess.run([*COMMAND, *pair, *OPTIONS, *options], check=True, capture_output=True)
        seconds = time.perf_counter() - start
        print(f"{args.separate} commands of their own: {60 * args.separate / seconds:.1f} a minute")


def kills(args: argparse.Namespace) -> None:
    """Kill the command at ten random moments, and run it again each time."""
    generator = random.Random(0)
    with TemporaryDirectory() as name:
        folder = Path(name)
        photos, paintings = inputs(folder, 20, 4)
        command = batch(photos, paintings, folder / "out", "--jobs", "4", "--iterations", "100")
        stamps: dict[str, int] = {}
        repeated = wrong = 0
        for _ in range(10):
            process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(generator.uniform(1, 9))
            process.kill()
            process.wait()
            time.sleep(0.3)  # until its workers notice
            for path in sorted((folder / "out").glob("*.png")):
                with Image.open(path) as image:
                    wrong += image.size != (128, 128) or image.load() is None
                repeated += stamps.setdefault(path.name, path.stat().st_mtime_ns) != path.stat().st_mtime_ns
            print(f"killed; {len(stamps)} of 80 are there", flush=True)
        last = subprocess.run(command, capture_output=True, text=True)
        present = {path.name: path.stat().st_mtime_ns for path in (folder / "out").glob("*.png")}
        repeated += sum(present[name] != stamp for name, stamp in stamps.items())
        others = [p.name for p in (folder / "out").iterdir() if p.suffix != ".png" and p.name != "report.jsonl"]
        print(
            f"exit code {last.returncode}; {len(present)} pictures, {repeated} made twice, {wrong} not whole; "
            f"{len(others)} other files: {others}"
        )


def cluster(args: argparse.Namespace) -> None:
    """Run on three nodes of one worker each: one worker is killed, one with its nanny, and one node is frozen."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        photos, paintings = inputs(folder, 10, 4)
        iterations = ("--iterations", str(args.iterations))
        one_thread = {**os.environ, "OMP_NUM_THREADS": "1"}
        start = time.perf_counter()
        local = batch(photos, paintings, folder / "here", "--jobs", str(os.cpu_count()), *iterations)
        subprocess.run(local, check=True, capture_output=True, env=one_thread)
        print(f"on this machine, --jobs {os.cpu_count()}: {time.perf_counter() - start:.0f} s", flush=True)
        address, nodes = _cluster(folder)
        try:
            for label, harm in (("nothing happens", []), ("harm", nodes[1:])):
                out = folder / label.replace(" ", "-")
                start = time.perf_counter()
                process = subprocess.Popen(
                    batch(photos, paintings, out, "--scheduler", address, *iterations),
                    stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE,
                    text=True,
                )
                if harm:
                    _harm(harm)
                output, errors = process.communicate()
                same = [(out / p.name).read_bytes() == p.read_bytes() for p in (folder / "here").glob("*.png")]
                print(
                    f"on the cluster, {label}: {time.perf_counter() - start:.0f} s, exit code {process.returncode}, "
                    f"{len(output.split())} told ({len(set(output.split()))} different), {sum(same)} of {len(same)} "
                    f"byte-identical {errors.strip()}",
                    flush=True,
                )
        finally:
            for node in nodes:
                os.killpg(node.pid, signal.SIGKILL)


def _cluster(folder: Path) -> tuple[str, list["subprocess.Popen[bytes]"]]:
    """Start a scheduler and three nodes; return its address and all processes, each the leader of a group."""
    file = folder / "scheduler.json"
    common = ["--scheduler-file", str(file), "--host", "127.0.0.1", "--no-dashboard"]
    environment = {**os.environ, "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "30s"}

    def start_process(kind: str, *more: str) -> "subprocess.Popen[bytes]":
        program = f"from distributed.cli.dask_{kind} import main; main()"
        return subprocess.Popen(
            [sys.executable, "-c", program, *common, *more],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    scheduler = start_process("scheduler", "--port", "0")
    while not file.exists() or not file.read_text():
        time.sleep(0.1)
    workers = [start_process("worker", "--nthreads", "1", "--local-directory", str(folder / f"w{n}")) for n in range(3)]
    time.sleep(8)
    return str(json.loads(file.read_text())["address"]), [scheduler, *workers]


def _harm(nodes: list["subprocess.Popen[bytes]"]) -> None:
    time.sleep(12)
    children = Path(f"/proc/{nodes[0].pid}/task/{nodes[0].pid}/children").read_text().split()
    for child in children:
        os.kill(int(child), signal.SIGKILL)
    print("a worker was killed", flush=True)
    time.sleep(4)
    os.killpg(nodes[1].pid, signal.SIGKILL)
    print("a node was killed: worker and nanny", flush=True)
    time.sleep(4)
    os.killpg(nodes[2].pid, signal.SIGSTOP)
    print("a node was frozen", flush=True)


def sweep(args: argparse.Namespace) -> None:
    """Time a sheet of four ratios and two content layers, and the same images by separate commands."""
    pair, layers = [str(EXAMPLES / "astronaut.jpg"), str(EXAMPLES / "swirls.jpg")], ("conv2_2", "conv4_2")
    fixed = [*OPTIONS, "--size", "256", "--iterations", str(args.iterations)]
    with TemporaryDirectory() as name:
        sheet = ["--ratio", "1e-4", "1e-3", "1e-2", "1e-1", "--content-layer", *layers, "-o", f"{name}/sheet.png"]
        start = time.perf_counter()
        subprocess.run([*COMMAND, "sweep", *pair, *fixed, *sheet], check=True, capture_output=True)
        together = time.perf_counter() - start
        start = time.perf_counter()
        for beta, layer in ((beta, layer) for beta in ("1e4", "1e3", "1e2", "10") for layer in layers):
            one = ["--beta", beta, "--content-layer", layer, "-o", f"{name}/one.png"]
            subprocess.run([*COMMAND, *pair, *fixed, *one], check=True, capture_output=True)
        alone = time.perf_counter() - start
    print(f"a sweep of eight {together:.1f} s, eight commands {alone:.1f} s: {alone / together:.2f} times as long")


def scale(args: argparse.Namespace) -> None:
    """Print what a batch costs besides painting."""
    measure_rows((1000, 10_000, 100_000))
    measure_cluster((1, 10, 100))  # 300 in one process took half an hour


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = {"throughput": throughput, "scale": scale, "kills": kills, "cluster": cluster, "sweep": sweep}
    parser.add_argument("--part", choices=parts, required=True)
    parser.add_argument("--count", type=int, default=200, help="pictures")
    parser.add_argument("--iterations", type=int, default=100)
    parser.add_argument("--separate", type=int, default=20, help="commands of their own")
    args = parser.parse_args()
    parts[args.part](args)


if __name__ == "__main__":
    main()

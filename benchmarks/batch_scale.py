"""What a batch costs besides painting: 100,000 rows, and a simulated cluster. See `batches.py`."""

import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from styletransfer.batch import cluster
from styletransfer.batch.jobs import Job, Row
from styletransfer.options import Options

STANDIN = Path(__file__).resolve().parent / "standin.py"
#: Jobs of a simulated cluster.
JOBS = 3000


def write_manifest(folder: Path, rows: int) -> Path:
    """Write a manifest whose rows combine 100 contents, 10 styles and ever other style weights; return its path."""
    for name, count in (("content", 100), ("style", 10)):
        for number in range(count):
            Image.new("RGB", (16, 16), (number, 2, 3)).save(folder / f"{name}{number}.png")
    lines = (f"content{n % 100}.png,style{n // 100 % 10}.png,{n:06}.png,{10 + n // 1000}" for n in range(rows))
    path = folder / "jobs.csv"
    path.write_text("\n".join(["content,style,output,beta", *lines, ""]))
    return path


def run_batch(folder: Path) -> tuple[float, float, float]:
    """Run the command with workers that paint nothing.

    Returns its seconds, and without the workers those of the processor, and the peak bytes.
    """
    measured = folder / "measured.json"
    command = [sys.executable, str(STANDIN), str(measured), "batch", "--manifest", str(folder / "jobs.csv")]
    subprocess.run([*command, "-o", str(folder / "out"), "--jobs", "2", "-q"], check=True, stdout=subprocess.DEVNULL)
    numbers = json.loads(measured.read_text())
    return numbers["seconds"], numbers["own"], numbers["memory"]


def measure_rows(counts: tuple[int, ...]) -> None:
    """Print time and memory of manifests of so many rows, in excess of those of 10 rows: all to do, and all done."""
    least: list[tuple[float, float, float]] = []
    for count in (10, *counts):
        with TemporaryDirectory() as name:
            write_manifest(Path(name), count)
            results = [run_batch(Path(name)) for _ in ("to do", "done")]
            assert len(list((Path(name) / "out").glob("*.png"))) == count
        least = least or results
        for what, result, base in zip(("made", "skipped"), results, least, strict=True):
            seconds, own, memory = (now - before for now, before in zip(result, base, strict=True))
            if count > 10:
                each = f"{1e3 * seconds / count:.2f} ms ({1e3 * own / count:.2f} without the workers)"
                total = f"{seconds:.1f} s, {memory / 1e6:.0f} MB"
                print(f"{count} rows, {what}: {total}; a row {each}, {memory / count / 1e3:.2f} KB", flush=True)


def paint_nothing(job: Job, _stop: object = None) -> Row:
    """Return a finished job's row."""
    return job.row("done", seconds=0.0)


def measure_cluster(counts: tuple[int, ...]) -> None:
    """Print how many jobs a second go through Dask's scheduler with so many workers, all in this process."""
    from distributed import LocalCluster

    cluster.make_picture = paint_nothing  # type: ignore[assignment]
    jobs = [Job("content.png", ("style.png",), Options(), f"{n}.png") for n in range(JOBS)]
    for count in counts:
        with LocalCluster(
            n_workers=count, threads_per_worker=1, processes=False, dashboard_address=None, memory_limit=0
        ) as local:
            start = time.perf_counter()
            rows = sum(1 for _ in cluster.run_on_cluster(jobs, local.scheduler_address, lambda: False))
            seconds = time.perf_counter() - start
        print(f"{count} workers: {rows} jobs in {seconds:.1f} s, {rows / seconds:.0f} a second", flush=True)

"""Measure tiled evaluation: memory by size, time relative to untiled evaluation, differences between the images.

    python benchmarks/any_size.py                    everything; 10800×8100 takes 10 GB and some minutes
    python benchmarks/any_size.py --part memory --sizes 1024 2048 4096

Every measurement runs in its own process. Peak memory is resident memory beyond what the process had before.
"""

import argparse
import json
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import alternating, isolated, load_encoder
from PIL import Image

from styletransfer import Options, stylize
from styletransfer.encoder.tiling import Tiling
from styletransfer.losses import LOSSES, Objective
from styletransfer.runtime import hardware

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent / "examples"
COFFEE, SWIRLS = EXAMPLES / "coffee.jpg", EXAMPLES / "swirls.jpg"
TILE = 512
CPU = torch.device("cpu")


def objective(name: str, width: int, height: int, tiling: Tiling, precision: str = "auto") -> tuple[Objective, Any]:
    options, chosen = Options(), hardware.select_precision(precision, CPU)
    encoder = load_encoder(name)
    encoder.cast(chosen.forward, chosen.backward)
    generator = torch.Generator().manual_seed(0)
    content = torch.rand(1, 3, height, width, generator=generator)
    style = torch.rand(1, 3, 512, 512, generator=generator)
    arguments = (options.content_weights, options.style_weights, 1.0, options.beta)
    return Objective(encoder, content, style, *arguments, tiling=tiling, style_loss=LOSSES["gram"]), content


def memory(name: str, width: int, height: int, tiling: Tiling) -> dict[str, float]:
    """Return the peak MiB of one evaluation, in total and beyond image, gradient and the content's features."""
    with hardware.runtime_settings(CPU):
        warm, x = objective(name, 64, 64, tiling)
        warm.evaluate(x)
        before = hardware._kilobytes("/proc/self/status", "VmRSS")
        task, image = objective(name, width, height, tiling)
        start = time.perf_counter()
        task.evaluate(image)
        seconds = time.perf_counter() - start
        state = 2 * 4 * image.numel() + sum(4 * target.numel() for target in task.content_targets.values())
        peak = 1024 * (hardware._kilobytes("/proc/self/status", "VmHWM") - before)
    return {"width": width, "peak": peak / 2**20, "beyond": (peak - state) / 2**20, "seconds": seconds}


def overhead(name: str, side: int, tilings: list[Tiling]) -> list[float]:
    """Return the seconds of an evaluation with each tiling: medians of three, taken in turn."""
    with hardware.runtime_settings(CPU):
        tasks = [objective(name, side, side * 3 // 4, tiling) for tiling in tilings]
        return alternating(CPU, 3, *(partial(task.evaluate, image) for task, image in tasks))


def picture(tile: str, precision: str, iterations: int, threads: int | None = None) -> dict[str, Any]:
    torch.set_num_threads(threads or torch.get_num_threads())
    result = stylize(
        COFFEE,
        SWIRLS,
        size=2048,
        enlarge=True,
        scales=1,
        iterations=iterations,
        tile=tile,
        model="vgg19-lite",
        precision=precision,
    )
    pixels = np.asarray(result.image).astype(int)
    return {"pixels": pixels, "peak": result.peak_memory_bytes / 2**20, "loss": result.losses[-1].total}


def processes(count: int) -> dict[str, Any]:
    """Run the command in `count` processes on this machine; return what it reports, as seconds and losses."""
    options = shlex.split("--size 1024 --enlarge --scales 1 --iterations 15 --model vgg19-lite --json -q")
    options += shlex.split(f"--device cpu --tile 256 --precision fp32 -o out/ranks{count}.png")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    run = ["-m", "torch.distributed.run", "--nproc-per-node", str(count), "--master-port", port] if count > 1 else []
    command = [sys.executable, *run, "-m", "styletransfer", str(COFFEE), str(SWIRLS), *options]
    process = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, Any] = json.loads(process.stdout)
    return result


def seams(file: Path, period: int, offset: int) -> None:
    """Print the mean difference of neighboring rows and columns at tile borders, and elsewhere.

    Other multiples of 16 tell seams from the grid of the poolings, which shows in an image after few iterations.
    """
    Image.MAX_IMAGE_PIXELS = None
    with Image.open(file) as image:
        pixels = np.asarray(image.convert("RGB")).astype(np.int16)
    for axis, name in ((0, "rows"), (1, "columns")):
        step = np.mean([np.abs(np.diff(pixels[..., c], axis=axis)).mean(axis=1 - axis) for c in range(3)], axis=0)
        place = np.arange(1, len(step) + 1) + offset
        at, grid = place % period == 0, place % 16 == 0
        print(
            f"{name}: at {at.sum()} multiples of {period} {step[at].mean():.2f}, at other multiples of 16 "
            f"{step[grid & ~at].mean():.2f} ± {step[grid & ~at].std():.2f}, elsewhere {step[~grid].mean():.2f} (of 255)"
        )


def plot(rows: list[dict[str, float]], path: Path) -> None:
    """Draw memory against width as an SVG, both axes logarithmic."""
    left, bottom, width, height = 85, 260, 420, 220
    xs = [np.log2(row["width"]) for row in rows]
    low, high = 5, 14  # log2 MiB

    def point(x: float, y: float) -> str:
        across, up = (x - xs[0]) / (xs[-1] - xs[0]), (np.log2(y) - low) / (high - low)
        return f"{left + width * across:.1f},{bottom - height * up:.1f}"

    lines = []
    for key, color, label in (
        ("peak", "#999", "all of one evaluation"),
        ("beyond", "#c40", "beyond image and gradient"),
    ):
        points = [point(x, max(row[key], 1)) for x, row in zip(xs, rows, strict=True)]
        lines.append(f'<polyline points="{" ".join(points)}" fill="none" stroke="{color}" stroke-width="2"/>')
        x, y = points[-1].split(",")
        lines.append(f'<text x="{float(x) - 5}" y="{float(y) - 8}" fill="{color}" text-anchor="end">{label}</text>')
    for x, row in zip(xs, rows, strict=True):
        lines.append(
            f'<text x="{point(x, 32).split(",")[0]}" y="{bottom + 18}" text-anchor="middle">{row["width"]:.0f}</text>'
        )
    for y in range(low, high + 1, 3):
        spot = float(point(xs[0], 2**y).split(",")[1])
        lines.append(f'<text x="{left - 8}" y="{spot + 4}" text-anchor="end">{2**y} MiB</text>')
        lines.append(f'<line x1="{left}" x2="{left + width}" y1="{spot}" y2="{spot}" stroke="#ddd"/>')
    style = 'font-family="sans-serif" font-size="12"'
    path.write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" width="530" height="300" {style}>{"".join(lines)}</svg>\n'
    )


def show_memory(args: argparse.Namespace) -> list[dict[str, float]]:
    rows = []
    print(f"one evaluation, vgg19-lite, --tile {TILE}: peak MiB, and beyond image, gradient and the content's features")
    for side in args.sizes:
        rows.append(isolated(memory, "vgg19-lite", side, side * 3 // 4, Tiling(TILE, TILE, 6)))
        print("{width:6.0f} {peak:8.0f} {beyond:8.0f} {seconds:8.1f} s".format(**rows[-1]), flush=True)
    if args.plot:
        plot(rows, args.plot)
    return rows


def show_overhead(args: argparse.Namespace) -> list[Any]:
    tilings = [Tiling(), Tiling(None, 256, 1), Tiling(None, 256, 3), Tiling(None, 256, 4), Tiling(None, 256, 6)]
    tilings += [Tiling(1024, 256, 6), Tiling(512, 256, 6)]
    return compared([("vgg19-lite", 2048), ("vgg19-lite", 4096), ("vgg19", 2048)], tilings)


def show_large(args: argparse.Namespace) -> list[Any]:
    """Compare tilings at 4096 px, where untiled evaluation takes 19 GB."""
    return compared([("vgg19", 4096)], [Tiling(), Tiling(None, 256, 4), Tiling(None, 256, 6)])


def compared(pictures: list[tuple[str, int]], tilings: list[Tiling]) -> list[Any]:
    """Print how long each tiling takes relative to the first; return the seconds."""
    result = []
    for name, side in pictures:
        times = isolated(overhead, name, side, tilings)
        print(f"{name}, {side}×{side * 3 // 4}: whole {times[0]:.2f} s an evaluation", flush=True)
        for tiling, seconds in zip(tilings[1:], times[1:], strict=True):
            print(f"    {tiling}: {seconds / times[0]:.2f} times as long")
        result.append((name, side, times))
    return result


def show_picture(args: argparse.Namespace) -> list[Any]:
    """Compare tiled and untiled images; the control is fewer threads, since the optimization magnifies rounding."""
    result = []
    for precision, iterations in (("fp32", 3), ("fp32", 10), ("fp32", 30), ("auto", 30)):
        plain = isolated(picture, "off", precision, iterations)
        print(f"2048 px, {iterations} iterations, {precision}: whole {plain['peak']:.0f} MiB, loss {plain['loss']:.5f}")
        row: dict[str, Any] = {"precision": precision, "iterations": iterations, "whole": plain["peak"]}
        for name, arguments in ((f"--tile {TILE}", (str(TILE), None)), ("whole, two threads", ("off", 2))):
            other = isolated(picture, arguments[0], precision, iterations, arguments[1])
            difference = abs(plain["pixels"] - other["pixels"])
            print(
                f"    {name:20} {other['peak']:.0f} MiB, loss {other['loss']:.5f}; "
                f"pixels differ by {difference.max()} of 255 at most, {difference.mean():.3f} on average",
                flush=True,
            )
            row[name] = {"peak": other["peak"], "most": int(difference.max()), "mean": float(difference.mean())}
        result.append(row)
    return result


def show_processes(args: argparse.Namespace) -> list[Any]:
    result = []
    for count in (1, 2, 4):
        run = processes(count)
        print(f"{count} processes: {run['seconds']:.1f} s, loss {run['loss']['total']:.5f}", flush=True)
        result.append({"processes": count, "seconds": run["seconds"], "loss": run["loss"]})
    return result


PARTS: dict[str, Callable[[argparse.Namespace], list[Any]]] = {
    "memory": show_memory,
    "overhead": show_overhead,
    "large": show_large,
    "picture": show_picture,
    "processes": show_processes,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, help="only this one")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1024, 2048, 4096, 8192, 10800])
    parser.add_argument("--plot", type=Path, help="draw the memory into this SVG")
    parser.add_argument("--json", type=Path, default=Path("out/any_size.json"))
    parser.add_argument(
        "--seams", nargs=3, metavar=("FILE", "PERIOD", "OFFSET"), help="only look for seams in a picture"
    )
    args = parser.parse_args()
    if args.seams:
        seams(Path(args.seams[0]), int(args.seams[1]), int(args.seams[2]))
        return
    args.json.parent.mkdir(parents=True, exist_ok=True)
    report = {part: show(args) for part, show in PARTS.items() if args.part in (None, part)}
    args.json.write_text(json.dumps(report, indent=1))
    print(args.json)


if __name__ == "__main__":
    main()

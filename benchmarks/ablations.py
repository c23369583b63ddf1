"""Ablation study: runs at the defaults, each with one thing changed or left out.

The images are compared by the judge (`judge.py`), since some changes change the loss or its rounding.
"""

import contextlib
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from unittest.mock import patch

from judge import Judge, Verdict
from measuring import EXAMPLES, isolated
from PIL import Image

from styletransfer import Options, stylize
from styletransfer.encoder import tuning
from styletransfer.optim import curvature
from styletransfer.transfer import planning


def _ignore(*_: object) -> None:
    """Take the place of a method, so that it has no effect."""


def _pairs(number: int) -> AbstractContextManager[object]:
    return patch.object(planning, "HISTORY", number)


#: Options that differ from the defaults, and a context with something replaced.
ABLATIONS: dict[str, tuple[dict[str, object], Callable[[], AbstractContextManager[object]]]] = {
    "the defaults": ({}, contextlib.nullcontext),
    "everything in float32": ({"precision": "fp32"}, contextlib.nullcontext),
    "everything in bfloat16": ({"precision": "bf16"}, contextlib.nullcontext),
    "direct convolutions": ({}, lambda: patch.object(tuning, "choose_algorithm", lambda *_: None)),
    "one scale": ({"scales": "1"}, contextlib.nullcontext),
    "20 pairs in L-BFGS's history": ({}, lambda: _pairs(20)),
    "100 pairs": ({}, lambda: _pairs(100)),
    "no spectrum": ({}, lambda: patch.object(curvature.Spectrum, "learn", _ignore)),
    "each scale's spectrum from scratch": ({}, lambda: patch.object(curvature.InverseHessian, "inherit", _ignore)),
}


def run_ablation(name: str, content: Path, style: Path, options: Options, output: Path) -> tuple[float, int, Verdict]:
    """Return the seconds of a run, with the network loaded from disk, its iterations and its distances."""
    changes, patched = ABLATIONS[name]
    start = time.perf_counter()
    with patched():
        result = stylize(content, style, options.with_changes(changes))
    seconds = time.perf_counter() - start
    result.save(output)
    image = Image.open(output)
    return seconds, sum(iterations for *_, iterations in result.scales), Judge(content, style, image.size)(image)


def print_ablations(content: str, style: str, size: int, folder: Path) -> None:
    """Print time and distances of each ablation; keep the images in a folder."""
    paths = EXAMPLES / f"{content}.jpg", EXAMPLES / f"{style}.jpg"
    folder.mkdir(parents=True, exist_ok=True)
    print(f"\n{f'{content}, {style}, {size} px':36}  seconds  iterations  content  style")
    for number, name in enumerate(ABLATIONS):
        output = folder / f"{content}-{style}-{size}-{number}.png"
        seconds, iterations, verdict = isolated(run_ablation, name, *paths, Options(size=size), output)
        print(f"{name:36}{seconds:9.1f}{iterations:12}{verdict.content:9.3f}{verdict.style:7.3f}", flush=True)

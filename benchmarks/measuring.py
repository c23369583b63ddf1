"""Helpers of the benchmarks: isolated processes, median times, networks, the name of the processor."""

import concurrent.futures
import itertools
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from styletransfer import Options
from styletransfer.encoder import weights
from styletransfer.encoder.vgg import Encoder

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent / "examples"


def isolated(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of a call in a fresh process."""
    spawn = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=spawn) as pool:
        return pool.submit(function, *arguments).result()


def alternating(device: torch.device, runs: int, *functions: Callable[[], object]) -> list[float]:
    """Return the median seconds of each function, called in turn after one warm-up call each."""
    times: list[list[float]] = [[] for _ in functions]
    for run, (i, function) in itertools.product(range(runs + 1), enumerate(functions)):
        wait(device)
        start = time.perf_counter()
        function()
        wait(device)
        if run:
            times[i].append(time.perf_counter() - start)
    return [statistics.median(t) for t in times]


def wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def load_encoder(name: str) -> Encoder:
    """Return a known network, not normalized, cut to the layers of the default losses."""
    options = Options()
    return Encoder(weights.load_weights(name).convolutions, {**options.content_weights, **options.style_weights})


def processor() -> str:
    """Return the name of the CPU."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or os.uname().machine

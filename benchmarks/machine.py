"""What depends on the processor: the algorithms of the convolutions, other programs beside a run, the start."""

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from measuring import EXAMPLES, isolated, load_encoder
from torch import Tensor

from styletransfer.encoder import convolution, tuning, winograd
from styletransfer.encoder.vgg import level
from styletransfer.runtime import hardware

CPU = torch.device("cpu")
COMMAND = [sys.executable, "-m", "styletransfer", str(EXAMPLES / "chelsea.jpg"), str(EXAMPLES / "woodblock.jpg")]


def shortest(call: Callable[[], object], runs: int) -> float:
    """Return the shortest time of some calls after the first, in seconds."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times[1:])


@torch.no_grad()
def time_layers(size: int) -> list[tuple[str, dict[str, float], str]]:
    """Return for each layer of VGG-19 and an image of this size what it costs by each algorithm, and the chosen one.

    Padding, bias, ReLU and the changes of layout that an algorithm needs are part of it; they aren't of "bare".
    """
    rows, done = [], set[tuple[int, ...]]()
    with hardware.runtime_settings(CPU):
        encoder = load_encoder("vgg19")
        for name in encoder.names:
            kernel, bias = encoder.convolution(name)[:2]
            side = size >> level(name)
            if (*kernel.shape, side) in done:
                continue
            done.add((*kernel.shape, side))
            x = torch.rand(1, kernel.shape[1], side, side).contiguous(memory_format=torch.channels_last)
            calls = _list_calls(x, kernel, bias)
            seconds = {way: shortest(call, 5) for way, call in calls.items()}
            chosen = encoder.variant(name, (size, size))
            label = next((way for way, variant in tuning.VARIANTS.items() if variant == chosen), "direct")
            rows.append((f"{kernel.shape[1]} → {kernel.shape[0]} at {side}×{side}", seconds, label))
    return rows


def _list_calls(x: Tensor, kernel: Tensor, bias: Tensor) -> dict[str, Callable[[], Tensor]]:
    calls: dict[str, Callable[[], Tensor]] = {"bare": lambda: F.conv2d(x, kernel, padding=1)}
    for way, variant in (("direct", None), *tuning.VARIANTS.items()):
        transformed = variant and winograd.transform(kernel, variant)
        calls[way] = lambda t=transformed: convolution.convolve(x, True, True, kernel, bias, None, t)  # type: ignore[misc]
    if torch._nnpack_available():
        contiguous = kernel.contiguous()

        def convolve_by_nnpack() -> Tensor:
            padded = F.pad(x.contiguous(), (1, 1, 1, 1), mode="replicate")
            y = torch._nnpack_spatial_convolution(padded, contiguous, bias, 0, 1).relu_()
            return y.contiguous(memory_format=torch.channels_last)

        padded = F.pad(x.contiguous(), (1, 1, 1, 1), mode="replicate")
        calls["NNPACK"] = convolve_by_nnpack
        calls["NNPACK, bare"] = lambda: torch._nnpack_spatial_convolution(padded, contiguous, bias, 0, 1)
    return calls


def print_layers(size: int = 384) -> None:
    rows = isolated(time_layers, size)
    ways = list(rows[0][1])
    print(f"\nVGG-19, {size}×{size}, forward, ms: {', '.join(ways)}; chosen")
    for label, seconds, chosen in rows:
        print(f"{label:22}" + "".join(f"{1e3 * seconds.get(way, 0):8.1f}" for way in ways) + f"  {chosen}")


def time_command(*options: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        output = ("-q", "-o", str(Path(folder) / "out.png"))
        subprocess.run([*COMMAND, *options, *output], check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start


def print_load(options: tuple[str, ...] = ("--preset", "fast", "--size", "320")) -> None:
    """Print the seconds of the command alone and beside a busy program, twice each, in turn."""
    time_command(*options)
    seconds: dict[str, list[float]] = {"alone": [], "beside a busy program": []}
    for _, (label, times) in itertools.product(range(2), seconds.items()):
        busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"])] if label != "alone" else []
        try:
            times.append(time_command(*options))
        finally:
            for process in busy:
                process.kill()
                process.wait()
    print(f"\nthe command, {' '.join(options)}, {os.cpu_count()} cores:")
    for label, times in seconds.items():
        print(f"    {label:24}" + ", ".join(f"{t:.1f}" for t in times) + " s")


def print_start() -> None:
    """Print the shortest of five times from the shell on: of Python with torch, of the help, and of one iteration."""
    python = [sys.executable, "-c", "import os, torch; os._exit(0)"]
    calls = {
        "Python and torch": lambda: subprocess.run(python, check=True),
        "styletransfer --help": lambda: subprocess.run([*COMMAND[:3], "--help"], check=True, capture_output=True),
        "one iteration at 128 px": lambda: time_command("--size", "128", "--iterations", "1"),
    }
    print("\nfrom the shell to the end:")
    for label, call in calls.items():
        print(f"    {label:28}{shortest(call, 5):.2f} s")

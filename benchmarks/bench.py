"""Seconds per evaluation of loss and gradient, by network and size; and of the default run, from the shell to the file.

    make bench        (the table of docs/method.md)

The VGG-19 here has random weights of the true shape: the time doesn't depend on their values.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from styletransfer import Options, weights
from styletransfer.objective import Objective
from styletransfer.options import LAYERS
from styletransfer.vgg import Encoder

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def vgg19_shaped() -> weights.Convolutions:
    """Random convolutions of VGG-19's widths."""
    widths, channels, result = {"1": 64, "2": 128, "3": 256, "4": 512, "5": 512}, 3, {}
    for layer in LAYERS:
        width = widths[layer[4]]
        result[layer] = (torch.randn(width, channels, 3, 3) * (2 / (9 * channels)) ** 0.5, torch.zeros(width))
        channels = width
    return result


def seconds_per_evaluation(convolutions: weights.Convolutions, size: int, runs: int = 5) -> float:
    """Median time of one evaluation at size × size, after one to warm up."""
    options = Options()
    encoder = Encoder(convolutions, {**options.content_weights, **options.style_weights})
    content, style = torch.rand(2, 1, 3, size, size)
    objective = Objective(encoder, content, style, options.content_weights, options.style_weights, 1.0, 1e3)
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        objective.evaluate(content)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def default_run() -> dict[str, float]:
    """Wall time of the command at its defaults with the bundled network, and how much of it stylize() took."""
    with tempfile.TemporaryDirectory() as folder:
        pictures = [EXAMPLES / "astronaut.jpg", EXAMPLES / "swirls.jpg"]
        command = [sys.executable, "-m", "styletransfer", *pictures, "--model", "vgg19-lite", "--json"]
        start = time.perf_counter()
        done = subprocess.run([*command, "-o", Path(folder) / "out.png"], check=True, capture_output=True, text=True)
        return {"shell to file": time.perf_counter() - start, "in stylize()": json.loads(done.stdout)["seconds"]}


def main() -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    networks = {"vgg19-lite": weights.resolve("vgg19-lite")[1], "vgg19-shaped": vgg19_shaped()}
    for name, convolutions in networks.items():
        for size in (256, 512):
            print(f"{name:14}{size:5} px  {seconds_per_evaluation(convolutions, size):7.3f} s per evaluation")
    for what, seconds in default_run().items():
        print(f"default run, vgg19-lite, 512 px: {seconds:6.1f} s {what}")


if __name__ == "__main__":
    main()

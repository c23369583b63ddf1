"""Measure speed and memory, side by side with the limits of the hardware and with the popular tools.

    make bench                                                      CPU: more than an hour on two cores
    make bench ARGS='--part table'                                  only this
    make bench ARGS='--part layers'                                 algorithms of convolutions
    make bench ARGS='--part page'                                   the page; also uploads, load, start
    make bench ARGS='--part quality --size 256 --iterations 100 --pairs 1'
    make bench ARGS='--part ablations --pairs 3'                    runs with one thing changed
    make bench-gpu                                                  on CUDA

Prints tables and writes everything as JSON. Each part runs in its own process, so that none profits from what another
has set up. Times are medians; the floor and our evaluations alternate within one process.
"""

import argparse
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from ablations import print_ablations
from machine import print_layers, print_load, print_start
from measuring import EXAMPLES, HERE, alternating, isolated, load_encoder, processor
from page import print_page, print_uploads
from quality import PAIRS, compare_pairs
from reference import Reference
from torch import Tensor

from styletransfer import Options
from styletransfer.encoder.vgg import Encoder
from styletransfer.losses import LOSSES, Evaluate, Objective
from styletransfer.losses.gram import gram_matrix
from styletransfer.optim import InverseHessian, Iterate, minimize
from styletransfer.runtime import hardware
from styletransfer.transfer import evaluation

# --- limits of the hardware ----------------------------------------------------------------------------------------


def peaks(device_name: str) -> dict[str, float]:
    """Return the GFLOP/s of a 4096 × 4096 matrix product in each precision."""
    device = hardware.select_device(device_name)
    result = {}
    on_cpu = ("fp32", "bf16") if hardware.bf16_is_fast() else ("fp32",)  # emulated, it would take minutes
    for name in ("fp32", "tf32", "bf16") if device.type == "cuda" else on_cpu:
        dtype = torch.bfloat16 if name == "bf16" else torch.float32
        with hardware.runtime_settings(device, tf32=name == "tf32"):
            a, b = torch.randn(2, 4096, 4096, device=device).to(dtype)
            (seconds,) = alternating(device, 5, lambda a=a, b=b: a @ b)
        result[name] = 2 * 4096**3 / seconds / 1e9
    return result


def floor(encoder: Encoder, size: int, device: torch.device, precision: hardware.Precision) -> Callable[[], None]:
    """Return the bare convolutions of an evaluation, forward and backward (input only), as fast as torch has them."""

    def tensor(dtype: torch.dtype, *shape: int) -> Tensor:
        return torch.randn(shape, device=device).to(dtype, memory_format=torch.channels_last)

    calls = []
    for name in encoder.names:
        side = size >> (int(name[4]) - 1)
        weight, _, projection, _ = encoder.convolution(name)
        kernels = [(*weight.shape[:2], 3)] + ([] if projection is None else [(*projection.shape, 1)])
        for out, into, kernel in kernels:
            for dtype, n, m in ((precision.forward, into, out), (precision.backward, out, into)):
                calls.append((tensor(dtype, 1, n, side, side), tensor(dtype, m, n, kernel, kernel)))

    def run() -> None:
        for x, kernel in calls:
            F.conv2d(x, kernel, padding=kernel.shape[2] // 2)

    return run


def middle_of_a_run(
    name: str, size: int, precision: hardware.Precision, device: torch.device
) -> tuple[Encoder, Tensor, Evaluate, Iterator[Iterate]]:
    """Return network, image, evaluation and steps of L-BFGS with a full history, at size × size."""
    options = Options()
    encoder = load_encoder(name).to(device)
    encoder.cast(precision.forward, precision.backward)
    content, style = torch.rand(2, 1, 3, size, size, device=device)
    weights = options.content_weights, options.style_weights, options.alpha, options.beta
    objective = Objective(encoder, content, style, *weights, style_loss=LOSSES[options.style_loss])
    hardware.release_memory(device)  # as stylize() does
    evaluate = evaluation.capture_graph(objective.evaluate, content)
    return encoder, content, evaluate, minimize(evaluate, content, "lbfgs", curvature=full_history(content, precision))


def full_history(image: Tensor, precision: hardware.Precision) -> InverseHessian:
    """Return a history filled with pairs of random images like this one."""
    curvature = InverseHessian(image, dtype=precision.backward)
    for _ in range(curvature.history):
        curvature.learn(*torch.rand(2, *image.shape, device=image.device))
    return curvature


def per_evaluation(name: str, size: int, precision_name: str, device_name: str, runs: int) -> dict[str, float]:
    """Return the seconds of the floor, of an evaluation and of a whole iteration."""
    device = hardware.select_device(device_name)
    precision = hardware.select_precision(precision_name, device)
    with hardware.runtime_settings(device, tf32=precision.tf32):
        encoder, content, evaluate, steps = middle_of_a_run(name, size, precision, device)
        next(steps)
        bare = floor(encoder, size, device, precision)
        if device.type == "cuda":
            graph = evaluation.capture_graph(lambda x: (x, (bare(), x)[1]), content)
            seconds = alternating(device, runs, lambda: graph(content), lambda: evaluate(content), lambda: next(steps))
        else:
            seconds = alternating(device, runs, bare, lambda: evaluate(content), lambda: next(steps))
    return dict(zip(("floor", "evaluation", "iteration"), seconds, strict=True))


def beyond_the_floor(size: int, device_name: str) -> dict[str, float]:
    """Return the seconds of the floor, and of what else an iteration with VGG-19 needs, as fast as torch has it.

    Padding, pooling, summing gradients and the losses themselves come on top.
    """
    device = hardware.select_device(device_name)
    precision = hardware.select_precision("auto", device)
    with hardware.runtime_settings(device, tf32=precision.tf32), torch.no_grad():
        encoder, content, *_ = middle_of_a_run("vgg19", size, precision, device)
        maps, shape = {}, {"memory_format": torch.channels_last}
        for name in encoder.names:
            channels, side = encoder.convolution(name)[0].shape[0], size >> (int(name[4]) - 1)
            maps[name] = torch.rand(1, channels, side, side, device=device).to(precision.forward, **shape)
        gradients = {name: x.to(precision.backward) for name, x in maps.items()}
        style_layers = Options().style_weights
        matrices = {
            name: torch.rand(gradients[name].shape[1], gradients[name].shape[1], 1, 1).to(gradients[name])
            for name in style_layers
        }
        curvature = full_history(content, precision)

        def apply_relu_gradient(x: Tensor) -> Tensor:
            return torch.ops.aten.threshold_backward.grad_input(x, x, 0, grad_input=x)

        calls: dict[str, Callable[[], object]] = {
            "floor": floor(encoder, size, device, precision),
            "Gram matrices": lambda: [gram_matrix(maps[name]) for name in style_layers],
            "their gradients K·F": lambda: [F.conv2d(gradients[name], matrices[name]) for name in style_layers],
            "features to the precision of the backward pass": lambda: [x.to(precision.backward) for x in maps.values()],
            "the gradient of ReLU": lambda: [apply_relu_gradient(x) for x in gradients.values()],
            "L-BFGS, 50 pairs": lambda: curvature.learn(content, curvature.apply(content)),
        }
        return dict(zip(calls, alternating(device, 5, *calls.values()), strict=True))


# --- memory --------------------------------------------------------------------------------------------------------


def memory_of_ours(name: str, size: int, precision_name: str, device_name: str) -> int:
    """Return the peak bytes of some iterations with a full history."""
    device = hardware.select_device(device_name)
    precision = hardware.select_precision(precision_name, device)
    with hardware.runtime_settings(device, tf32=precision.tf32):
        *_, steps = middle_of_a_run(name, size, precision, device)
        for _ in range(4):
            next(steps)
    return hardware.peak_memory(device)


def memory_of_reference(name: str, size: int, device_name: str) -> int:
    """Return the peak bytes of an iteration of the reference; its history is filled on a cheap function."""
    device, options = hardware.select_device(device_name), Options()
    encoder = load_encoder(name).to(device)
    content, style = torch.rand(2, 1, 3, size, size, device=device)
    reference = Reference(encoder, content, style, options)
    original, scales = reference.loss, torch.rand_like(content) + 0.5
    count = itertools.count()
    reference.loss = lambda x: (scales * x * x).sum() if next(count) < 104 else original(x)  # type: ignore[method-assign]
    reference.optimize(content, "lbfgs", 105, lambda *_: None)
    return hardware.peak_memory(device)


#: The parts of a whole run, and those that are run on their own.
PARTS = ("table", "memory", "quality", "command", "beyond")
MACHINE = {
    "layers": print_layers,
    "load": print_load,
    "start": print_start,
    "page": print_page,
    "uploads": print_uploads,
}


# --- the command ---------------------------------------------------------------------------------------------------


def command(args: argparse.Namespace) -> dict[str, float]:
    """Time the command at its defaults with the bundled network, from shell to file; return also the evaluations."""
    with tempfile.TemporaryDirectory() as folder:
        spent = Path(folder) / "seconds"
        start = time.perf_counter()
        options = ["--model", "vgg19-lite", "--device", args.device, "-q", "-o", Path(folder) / "out.png"]
        timed = [sys.executable, HERE / "timed_command.py", spent, args.content, args.style, *options]
        subprocess.run(timed, check=True, stdout=subprocess.DEVNULL)
        total = time.perf_counter() - start
        return {"seconds": total, "evaluations": float(spent.read_text())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--content", type=Path, default=EXAMPLES / "coffee.jpg")
    parser.add_argument("--style", type=Path, default=EXAMPLES / "swirls.jpg")
    parser.add_argument("--size", type=int, default=512, help="of whole runs")
    parser.add_argument("--iterations", type=int, default=500, help="of reference and peer in the time to quality")
    numbers = range(1, 1 + len(PAIRS))
    parser.add_argument("--pairs", type=int, nargs="+", choices=numbers, default=numbers, help="in whole runs")
    parser.add_argument("--figure", type=Path, default=Path("out/quality.svg"), help="of the time to quality")
    parser.add_argument("--part", choices=(*PARTS, "ablations", *MACHINE), help="only this one")
    parser.add_argument("--json", type=Path, default=Path("out/bench.json"))
    args = parser.parse_args()
    device = hardware.select_device(args.device)
    gpu = device.type == "cuda"
    machine = torch.cuda.get_device_name(device) if gpu else f"{processor()}, {torch.get_num_threads()} threads"
    report: dict[str, Any] = {"machine": machine, "torch": torch.__version__}
    print(f"torch {torch.__version__}, {machine}")

    if args.part in MACHINE:
        MACHINE[args.part]()
        return
    if args.part == "ablations":
        for content, style in (PAIRS[number - 1] for number in args.pairs):
            print_ablations(content, style, args.size, args.figure.parent / "ablations")
        return
    if args.part in (None, "table"):
        report["peaks"] = isolated(peaks, args.device)
        print("matrix product: " + ", ".join(f"{k} {v:.0f} GFLOP/s" for k, v in report["peaks"].items()))
        head = f"{'floor':>9}{'evaluation':>12}{'of the floor':>14}{'iteration':>11}{'of the floor':>14}"
        print(f"\n{'':25}{head}")
        report["table"] = []
        precisions = ("fp32", "tf32", "bf16", "auto") if gpu else ("fp32", "auto")
        for name, size, precision in itertools.product(("vgg19-lite", "vgg19"), (192, 384, 512, 1024), precisions):
            runs = 20 if gpu else 5 if size < 1024 else 2
            row = isolated(per_evaluation, name, size, precision, args.device, runs)
            report["table"].append({"network": name, "size": size, "precision": precision, **row})
            ratios = [row[what] / row["floor"] for what in ("evaluation", "iteration")]
            print(
                f"{name:14}{size:5} {precision:6}{row['floor']:8.4f} s{row['evaluation']:10.4f} s{ratios[0]:14.2f}"
                f"{row['iteration']:9.4f} s{ratios[1]:14.2f}",
                flush=True,
            )
    if args.part == "beyond":
        for size in (512, 1024):
            report[f"beyond {size}"] = row = isolated(beyond_the_floor, size, args.device)
            bare = row.pop("floor")
            print(f"\nvgg19, {size}, auto: floor {bare:.4f} s")
            for what, seconds in row.items():
                print(f"    {what:45}{seconds / bare:6.3f} of it")
            print(f"    {'all of it':45}{1 + sum(row.values()) / bare:6.3f}")
    if args.part in (None, "memory"):
        name = "vgg19"
        for size in (1024, 2048):
            ours = isolated(memory_of_ours, name, size, "auto", args.device)
            reference = isolated(memory_of_reference, name, size, args.device)
            report[f"memory {size}"] = {"ours": ours, "reference": reference}
            sizes = f"ours {ours / 2**20:.0f} MiB, reference {reference / 2**20:.0f} MiB: {ours / reference:.2f}"
            print(f"\npeak memory at {size} with a full history, {name}: {sizes}", flush=True)
    if args.part in (None, "command"):
        report["command"] = run = command(args)
        share = run["evaluations"] / run["seconds"]
        print(f"\ncommand, vgg19-lite, shell to file: {run['seconds']:.1f} s, {share:.0%} of it in evaluations")
    if args.part in (None, "quality"):
        report["quality"] = compare_pairs(args.pairs, args.size, args.iterations, args.device, args.figure)
    args.json.parent.mkdir(parents=True, exist_ok=True)
    args.json.write_text(json.dumps(report, indent=1))
    print(f"\n{args.json}")


if __name__ == "__main__":
    main()

"""GPU runs: precisions, CUDA graphs, synchronization and memory; everything else matches the CPU."""

import dataclasses
import functools
import gc
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_checkpoint import stop_and_resume

from styletransfer import Options, images, stylize
from styletransfer.encoder import weights
from styletransfer.encoder.tiling import Tiling
from styletransfer.encoder.vgg import Encoder
from styletransfer.losses import LOSSES, Objective
from styletransfer.optim import InverseHessian, minimize
from styletransfer.runtime import hardware
from styletransfer.transfer import evaluation

pytestmark = pytest.mark.gpu

EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
SMALL = Options(iterations=8, model="vgg19-lite", device="cuda")
OPTIONS = Options()
LAYERS = {**OPTIONS.content_weights, **OPTIONS.style_weights}
TILINGS = [Tiling(), Tiling(None, 64, 1), Tiling(None, 96, 6), Tiling(128, 64, 6)]


@pytest.fixture
def device() -> torch.device:
    return hardware.select_device("cuda")


def load_image(name: str, width: int, height: int) -> torch.Tensor:
    return images.read_picture(EXAMPLES / f"{name}.jpg").resize((width, height)).tensor()


def make_encoder(pooling: str = "avg") -> Encoder:
    return Encoder(weights.load_weights("vgg19-8bit").convolutions, LAYERS, pooling)


def make_objective(encoder: Encoder, content: torch.Tensor, style: torch.Tensor, tiling: Tiling) -> Objective:
    shares = OPTIONS.content_weights, OPTIONS.style_weights
    return Objective(
        encoder, content, style, *shares, OPTIONS.alpha, OPTIONS.beta, tiling=tiling, style_loss=LOSSES["gram"]
    )


@functools.cache
def compute_reference(pooling: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return terms and gradient of VGG-19 in float64 on the CPU."""
    content, style, image = (load_image(name, 328, 250).double() for name in ("coffee", "swirls", "chelsea"))
    return make_objective(make_encoder(pooling).double(), content, style, Tiling()).evaluate(image)


@pytest.mark.parametrize("tiling", TILINGS)
@pytest.mark.parametrize(
    ("precision", "pooling", "losses", "gradients"),
    [
        ("fp32", "avg", 1e-6, 5e-3),
        ("fp32", "max", 1e-6, 5e-3),
        ("fp32", "l2", 1e-6, 5e-3),
        ("tf32", "avg", 1e-4, 0.05),
        ("auto", "avg", 1e-4, 0.05),
        ("bf16", "avg", 0.01, 0.3),
    ],
)
def test_losses_and_gradient_match_float64(
    device: torch.device, precision: str, pooling: str, losses: float, gradients: float, tiling: Tiling
) -> None:
    chosen = hardware.select_precision(precision, device)
    content, style, image = (load_image(name, 328, 250).to(device) for name in ("coffee", "swirls", "chelsea"))
    with hardware.runtime_settings(device, chosen.tf32):
        encoder = make_encoder(pooling).to(device).cast(chosen.forward, chosen.backward)
        terms, gradient = make_objective(encoder, content, style, tiling).evaluate(image)
    expected, expected_gradient = compute_reference(pooling)
    loss_error = (terms.cpu() / expected - 1).abs()[:3].max().item()
    gradient_error = ((gradient.cpu() - expected_gradient).norm() / expected_gradient.norm()).item()
    print(f"{precision} {pooling} {tiling}: losses off by {loss_error:.1e}, gradient by {gradient_error:.1e}")
    assert loss_error < losses and gradient_error < gradients


@pytest.mark.parametrize("tiling", TILINGS)
@pytest.mark.parametrize("precision", ["fp32", "auto"])
def test_evaluation_is_captured_and_matches_the_eager_one(
    device: torch.device, caplog: pytest.LogCaptureFixture, precision: str, tiling: Tiling
) -> None:
    caplog.set_level("INFO")
    chosen = hardware.select_precision(precision, device)
    content, style, image = (load_image(name, 320, 240).to(device) for name in ("coffee", "swirls", "chelsea"))
    with hardware.runtime_settings(device, chosen.tf32, deterministic=True):
        encoder = make_encoder().to(device).cast(chosen.forward, chosen.backward)
        eager = make_objective(encoder, content, style, tiling).evaluate
        # Nothing else refers to this objective; the tensors below overwrite all memory that is free.
        captured = evaluation.capture_graph(make_objective(encoder, content, style, tiling).evaluate, content)
        assert "without a CUDA graph" not in caplog.text
        gc.collect()
        noise = [torch.full((1 << exponent,), torch.nan, device=device) for exponent in range(8, 24) for _ in range(4)]
        del noise
        for x in (image, content, image):
            for value, expected in zip(captured(x), eager(x), strict=True):
                torch.testing.assert_close(value, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


def test_evaluation_that_cannot_be_captured_runs_eagerly(caplog: pytest.LogCaptureFixture) -> None:
    def evaluate(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (x * x.sum().item(),)  # synchronizes with the host

    with caplog.at_level("INFO", logger="styletransfer"):
        assert evaluation.capture_graph(evaluate, torch.ones(1, 3, 4, 4, device="cuda")) is evaluate
    assert "without a CUDA graph" in caplog.text


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_optimizer_loop_never_synchronizes(device: torch.device, optimizer: str) -> None:
    content, style = (load_image(name, 160, 128).to(device) for name in ("coffee", "swirls"))
    chosen = hardware.select_precision("auto", device)
    with hardware.runtime_settings(device, chosen.tf32):
        encoder = make_encoder().to(device).cast(chosen.forward, chosen.backward)
        evaluate = evaluation.capture_graph(make_objective(encoder, content, style, Tiling()).evaluate, content)
        steps = minimize(evaluate, content, optimizer, curvature=InverseHessian(content, 5, chosen.backward))
        for _ in range(8):
            next(steps)
        torch.cuda.set_sync_debug_mode("error")
        try:
            for _ in range(12):
                next(steps)
        finally:
            torch.cuda.set_sync_debug_mode("default")


_MEASURE = """
import sys, torch
from styletransfer import Options
from styletransfer.runtime import hardware, plan
from styletransfer.encoder import weights
from styletransfer.encoder.tiling import Tiling
from styletransfer.encoder.vgg import Encoder
from styletransfer.losses import LOSSES, Objective
from styletransfer.optim import InverseHessian, minimize
from styletransfer.transfer import evaluation

columns, rows, kept = (int(a) or None for a in sys.argv[2:])
gpu, o, tiling = hardware.select_device("cuda"), Options(), Tiling(columns, rows, kept)
p = hardware.select_precision(sys.argv[1], gpu)
layers = {**o.content_weights, **o.style_weights}
with hardware.runtime_settings(gpu, p.tf32):
    encoder = Encoder(weights.load_weights("vgg19-8bit").convolutions, layers).to(gpu).cast(p.forward, p.backward)

    def run_steps(content):
        shares = o.content_weights, o.style_weights, 1.0, 10.0
        objective = Objective(encoder, content, style, *shares, tiling=tiling, style_loss=LOSSES["gram"])
        hardware.release_memory(gpu)
        evaluate = evaluation.capture_graph(objective.evaluate, content)
        steps = minimize(evaluate, content, "lbfgs", curvature=InverseHessian(content, 20, p.backward))
        for _ in range(3):
            next(steps)

    style = torch.rand(1, 3, 96, 96, device=gpu)
    run_steps(style)  # warm-up: the libraries allocate their workspaces
    content, style = torch.rand(2, 1, 3, 1536, 2048, device=gpu)
    hardware.release_memory(gpu)
    torch.cuda.reset_peak_memory_stats(gpu)
    before = torch.cuda.memory_reserved(gpu)
    run_steps(content)
    model = plan.MemoryModel(encoder, 1536, 2048, p, tuple(o.content_weights), 20)
    print(model.memory(tiling, 20), torch.cuda.max_memory_reserved(gpu) - before)
"""


@pytest.mark.parametrize(
    "arguments",
    [
        *("auto 0 0 1", "auto 0 128 1", "auto 0 128 3", "auto 0 128 6", "auto 1024 128 6"),
        *("tf32 0 0 1", "bf16 0 0 1", "fp32 0 0 1", "fp32 0 128 6"),
    ],
)
def test_predicted_memory_is_close_to_measured_memory(arguments: str) -> None:
    command = [sys.executable, "-c", _MEASURE, *arguments.split()]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    predicted, measured = map(int, process.stdout.split())
    print(f"{arguments}: predicted {predicted / 2**20:.0f} MiB, measured {measured / 2**20:.0f} MiB")
    assert measured / 1.25 < predicted < 1.25 * measured


_STYLIZE = """
import logging, sys, torch
from styletransfer import stylize
logging.basicConfig(level="INFO")
total = torch.cuda.get_device_properties(0).total_memory
reserved = torch.empty(0, dtype=torch.uint8, device="cuda")
{prepare}
options = {{"model": "vgg19-8bit", "device": "cuda", "enlarge": True, "scales": "1", "iterations": 3}}
result = stylize(sys.argv[1], sys.argv[2], size={size}, **options)
print(result.stopped, result.peak_memory_bytes - reserved.nbytes)
"""
ALLOW = "torch.cuda.set_per_process_memory_fraction(1.2 * 2**30 / total)"
HOLD = "reserved = torch.empty(torch.cuda.mem_get_info()[0] - 3 * 2**30, dtype=torch.uint8, device='cuda')"


@pytest.mark.parametrize(
    ("prepare", "size", "limit", "message"),
    [
        (ALLOW, 1024, 1.2, "out of memory"),  # the device reports more
        (HOLD, 2048, 3, "2048×1638: strips"),  # the rest is in use
    ],
    ids=["allowed", "held"],
)
def test_stylize_fits_into_little_memory(
    content_path: Path, style_path: Path, prepare: str, size: int, limit: float, message: str
) -> None:
    code = _STYLIZE.format(prepare=prepare, size=size)
    process = subprocess.run([sys.executable, "-c", code, content_path, style_path], capture_output=True, text=True)
    print(process.stdout, process.stderr)
    assert message in process.stderr
    stopped, memory = process.stdout.split()
    assert stopped == "iterations" and int(memory) < limit * 2**30


CHANGES: list[dict[str, Any]] = [
    *({}, {"optimizer": "adam", "jitter": 0.05}, {"color": "luminance"}, {"color": "content"}, {"seamless": True}),
    *({"tv": 1.0, "l1": 0.5, "l2": 0.5}, {"init": "noise"}, {"tile": "48"}),
    {"style_loss": "gram"},
    # After 8 iterations on each of two scales, rounding alone changes the loss by more than a percent.
    {"scales": "2", "iterations": 4},
]


@pytest.mark.parametrize("changes", CHANGES)
def test_image_matches_the_cpu(content_path: Path, style_path: Path, changes: dict[str, Any]) -> None:
    options = dataclasses.replace(SMALL, precision="fp32", **changes)
    cpu, gpu = (stylize(content_path, style_path, options, device=device) for device in ("cpu", "cuda"))
    assert (cpu.device, gpu.device) == ("cpu", "cuda:0")
    np.testing.assert_allclose(gpu.best.total, cpu.best.total, rtol=1e-2)
    assert (gpu.tensor - cpu.tensor).abs().mean() < 5e-3


@pytest.mark.parametrize("changes", [{}, {"pooling": "max"}, {"pooling": "l2"}, {"optimizer": "adam"}])
def test_deterministic_runs_are_identical(content_path: Path, style_path: Path, changes: dict[str, Any]) -> None:
    options = dataclasses.replace(SMALL, deterministic=True, iterations=60, **changes)
    one, two = (stylize(content_path, style_path, options) for _ in range(2))
    assert torch.equal(one.tensor, two.tensor)


@pytest.mark.parametrize("changes", [{}, {"optimizer": "adam"}, {"scales": "2"}])
def test_resumed_run_gives_the_same_image(
    content_path: Path, style_path: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    options = dataclasses.replace(SMALL, deterministic=True, iterations=40, checkpoint_every="0", **changes)
    uninterrupted = stylize(content_path, style_path, options)
    for stop in (4, 17, 35):
        resumed = stop_and_resume(content_path, style_path, options, tmp_path / "state", stop)
        assert torch.equal(resumed.tensor, uninterrupted.tensor)


def test_diverged_run_recovers_with_a_warning(
    content_path: Path, style_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = dataclasses.replace(SMALL, optimizer="sgd", learning_rate=1e30, iterations=30)
    result = stylize(content_path, style_path, options)
    assert "no longer finite" in caplog.text and bool(result.tensor.isfinite().all())


def test_batch_and_video_run_on_the_gpu(content_path: Path, style_path: Path, tmp_path: Path) -> None:
    """Each command runs in its own process."""
    command = [sys.executable, "-m", "styletransfer"]
    options = ["--iterations", "5", "--model", "vgg19-lite", "--device", "cuda", "-q"]
    batch = ["batch", content_path, "--styles", style_path, content_path, "-o", tmp_path / "out", "--jobs", "2"]
    process = subprocess.run([*command, *map(str, batch), *options], capture_output=True, text=True)
    assert process.returncode == 0 and len(process.stdout.splitlines()) == 2, process.stderr
    pytest.importorskip("av")
    pytest.importorskip("cv2")
    frames = tmp_path / "frames"
    frames.mkdir()
    for number in range(3):
        images.read_picture(content_path).rgb.save(frames / f"{number}.png")
    clip = ["video", frames, style_path, "-o", tmp_path / "clip.mkv", "--size", "64"]
    process = subprocess.run([*command, *map(str, clip), *options], capture_output=True, text=True)
    assert process.returncode == 0 and (tmp_path / "clip.mkv").stat().st_size > 1000, process.stderr

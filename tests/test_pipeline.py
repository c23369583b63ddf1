"""stylize() on small images, with the bundled network or random weights."""

import base64
import copy
import dataclasses
import gc
import io
import itertools
import logging
import math
import re
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL as WIDTHS
from conftest import TINY, random_convolutions, stylize_and_listen
from PIL import Image, ImageChops, ImageFilter

from styletransfer import Options, StyleTransferError, UsageError, images, load_model, stylize
from styletransfer.encoder.tiling import Tiling
from styletransfer.encoder.vgg import Encoder
from styletransfer.images import Inputs, Picture, RegionInput, StyleInput, read_inputs
from styletransfer.losses import LOSSES, Objective, Region, Style
from styletransfer.optim import InverseHessian
from styletransfer.runtime import hardware, plan
from styletransfer.transfer import Step, estimate, open_session, run, timing
from styletransfer.transfer.bleed import SEAMLESS_BLEED
from styletransfer.transfer.canvas import content_canvas, upsample_residual
from styletransfer.transfer.checkpoint import CheckpointWriter
from styletransfer.transfer.evaluation import make_objective, wrap_borders
from styletransfer.transfer.planning import plan_scale
from styletransfer.transfer.problem import WINDOW, choose_scales, prepared_problem
from styletransfer.transfer.stage import SETTLED

SMALL = Options(iterations=8, weights=str(TINY))
LITE = Options(iterations=8, model="vgg19-lite")


def test_result_has_the_contents_size_and_a_lower_loss(content_path: Path, style_path: Path) -> None:
    result = stylize(content_path, style_path, LITE, style_loss="gram", iterations=40, beta=100.0)
    assert result.size == result.image.size == (80, 64)
    assert result.tensor.shape == (1, 3, 64, 80)
    assert result.tensor.min() >= 0 and result.tensor.max() <= 1
    assert result.iterations == 40 and len(result.losses) == 41 and result.stopped == "iterations"
    assert result.best.total == min(losses.total for losses in result.losses) < 0.2 * result.losses[0].total
    assert result.best.style < 0.2 * result.losses[0].style
    assert result.model == "vgg19-lite" and result.device == "cpu"
    assert result.seconds > 0 and result.peak_memory_bytes > 50e6


def test_paths_pillow_images_and_tensors_give_the_same_result(content_path: Path, style_path: Path) -> None:
    paths = stylize(str(content_path), style_path, SMALL)
    opened = stylize(Image.open(content_path), Image.open(style_path), SMALL)
    tensors = stylize(*(images.read_picture(path).tensor() for path in (content_path, style_path)), SMALL)
    assert torch.equal(paths.tensor, opened.tensor)
    assert torch.equal(paths.tensor, tensors.tensor)


def test_only_the_ratio_of_alpha_and_beta_matters(content_path: Path, style_path: Path) -> None:
    one = stylize(content_path, style_path, SMALL, alpha=1, beta=1e3)
    other = stylize(content_path, style_path, SMALL, alpha=256, beta=256e3)  # a power of two: the same rounding
    assert torch.equal(one.tensor, other.tensor)


def test_higher_content_weight_lowers_the_content_loss(content_path: Path, style_path: Path) -> None:
    """The weights are so far apart that each loss is less than half the next one on any machine."""
    options = dataclasses.replace(LITE, size=48, iterations=30, style_loss="gram")
    results = [stylize(content_path, style_path, options, beta=beta) for beta in (1000.0, 3.0, 0.001)]
    content, style = ([getattr(r.best, name) for r in results] for name in ("content", "style"))
    assert content[0] > 2 * content[1] > 4 * content[2]
    assert 4 * style[0] < 2 * style[1] < style[2]


def test_listener_gets_every_step_and_can_stop_the_run(content_path: Path, style_path: Path) -> None:
    steps: list[Step] = []
    result = stylize_and_listen(content_path, style_path, SMALL, lambda step: steps.append(step) or len(steps) == 4)
    assert [step.iteration for step in steps] == [0, 1, 2, 3]
    assert [step.losses for step in steps] == result.losses
    assert result.stopped == "interrupted" and result.iterations == 3
    assert torch.equal(result.tensor, steps[-1].image.clamp(0, 1))


def test_loop_left_by_break_has_the_best_image_and_can_continue(content_path: Path, style_path: Path) -> None:
    uninterrupted = stylize(content_path, style_path, SMALL, scales="2")
    with open_session(content_path, style_path, dataclasses.replace(SMALL, scales="2")) as session:
        for stop in ((40, 3), (40, 8), (80, 5)):  # within a scale, at its end, and in the next one
            for step in session.run:
                if (step.scale.content[0], step.iteration) == stop:
                    break
            result = session.run.result()
            assert result.stopped == ("iterations" if stop == (40, 8) else "interrupted")
            assert result.best.total == min(losses.total for losses in result.losses)
            assert result.losses[-1] == step.losses and result.scales[-1] == (stop[0], stop[0] * 4 // 5, stop[1])
        assert [step.iteration for step in session.run] == [6, 7, 8]
        assert not list(session.run)
        result = session.run.result()
    assert torch.equal(result.tensor, uninterrupted.tensor) and result.losses == uninterrupted.losses


def test_run_resumes_from_a_state_in_memory(content_path: Path, style_path: Path) -> None:
    uninterrupted = stylize(content_path, style_path, SMALL)
    with open_session(content_path, style_path, SMALL) as session:
        with pytest.raises(ValueError, match="no step"):
            session.run.state_dict()
        with pytest.raises(ValueError, match="no step"):
            session.run.result()
        next(itertools.islice(session.run, 5, None))
        state = copy.deepcopy(session.run.state_dict())
        list(session.run)  # must not change the copy
        resumed = run.Run(session.run.problem, state)
        assert torch.equal(copy.deepcopy(resumed.state_dict())["tensors"]["image"], state["tensors"]["image"])
        assert [step.iteration for step in resumed] == [6, 7, 8]
        assert torch.equal(resumed.result().tensor, uninterrupted.tensor)


def test_listener_gets_every_step_where_losses_are_read_at_intervals(
    content_path: Path, style_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = stylize(content_path, style_path, SMALL, iterations=25)
    monkeypatch.setattr("styletransfer.transfer.stage.READ_EVERY", {"cpu": 10})
    steps: list[Step] = []
    result = stylize_and_listen(content_path, style_path, SMALL, steps.append, iterations=25)
    assert [step.iteration for step in steps] == list(range(26))
    assert result.losses == expected.losses == [step.losses for step in steps]
    stopped = stylize_and_listen(content_path, style_path, SMALL, lambda step: step.iteration == 13, iterations=25)
    assert stopped.stopped == "interrupted" and stopped.iterations == 13
    assert torch.equal(stopped.tensor, steps[13].image.clamp(0, 1))


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_same_seed_gives_the_same_image(content_path: Path, style_path: Path, optimizer: str) -> None:
    runs = [
        stylize(content_path, style_path, SMALL, init="noise", seed=seed, optimizer=optimizer).tensor
        for seed in (1, 1, 2)
    ]
    assert torch.equal(runs[0], runs[1])
    assert not torch.equal(runs[0], runs[2])


@pytest.mark.parametrize("init", ["content", "style", "noise", "file"])
def test_init_sets_the_starting_image(content_path: Path, style_path: Path, tmp_path: Path, init: str) -> None:
    if init == "file":
        init = str(tmp_path / "start.png")
        Image.new("RGB", (30, 50), (255, 0, 51)).save(init)
    start = stylize(content_path, style_path, SMALL, iterations=0, init=init).tensor
    assert start.shape == (1, 3, 64, 80)
    if init == "content":
        assert torch.equal(start, images.read_picture(content_path).tensor())
    elif init == "style":  # 64×64, cropped to the content's aspect ratio: the middle 64×51.2
        middle = Image.open(style_path).resize((80, 64), Image.Resampling.LANCZOS, box=(0, 6.4, 64, 57.6))
        np.testing.assert_allclose(start[0].permute(1, 2, 0).numpy() * 255, np.asarray(middle), atol=0.01)
    elif init == "noise":
        assert abs(start.mean().item() - 0.5) < 0.02 and abs(start.std().item() - 12**-0.5) < 0.02
    else:
        np.testing.assert_allclose(start.mean((0, 2, 3)).numpy(), [1, 0, 0.2], atol=1e-6)


def test_init_noise_interpolates_between_image_and_noise(content_path: Path, style_path: Path) -> None:
    content, mixed, noise = (
        stylize(content_path, style_path, SMALL, iterations=0, seed=3, **options).tensor
        for options in ({}, {"init_noise": 0.25}, {"init": "noise"})
    )
    np.testing.assert_allclose(mixed.numpy(), (0.75 * content + 0.25 * noise).numpy(), atol=1e-6)
    with pytest.raises(UsageError, match=r"init_noise is 1\.5"):
        stylize(content_path, style_path, SMALL, init_noise=1.5)


def test_output_size_follows_size_and_enlarge(style_path: Path) -> None:
    content = Image.new("RGB", (200, 120), "teal")
    options = dataclasses.replace(SMALL, iterations=0)
    assert stylize(content, style_path, options, size=100).size == (100, 60)
    assert stylize(content, style_path, options, size=400).size == (200, 120)
    assert stylize(content, style_path, options, size=400, enlarge=True).size == (400, 240)
    assert stylize(content.rotate(90, expand=True), style_path, options, size=101).size == (61, 101)


@pytest.mark.parametrize("size", [(1, 1), (1, 4000), (4000, 40)])
def test_image_too_small_for_the_network_is_rejected(style_path: Path, size: tuple[int, int]) -> None:
    with pytest.raises(UsageError, match=r"conv5_1 needs 16"):
        stylize(Image.new("RGB", size), style_path, SMALL)


def test_shallow_layers_accept_smaller_images(style_path: Path) -> None:
    shallow = dataclasses.replace(
        SMALL, style_loss="gram", content_layers=("conv1_1",), style_layers=("conv1_1",), iterations=2
    )
    assert stylize(Image.new("RGB", (5, 7)), style_path, shallow).size == (5, 7)
    with pytest.raises(UsageError, match=r"4×7 pixels, but conv1_1 needs 5"):
        stylize(Image.new("RGB", (4, 7)), style_path, shallow)


def test_alpha_of_the_content_is_preserved(style_path: Path, tmp_path: Path) -> None:
    content = Image.new("RGBA", (64, 48), (200, 30, 30, 255))
    content.paste((0, 0, 0, 0), (0, 0, 32, 48))
    result = stylize(content, style_path, SMALL, iterations=2)
    expected = np.asarray(content)[..., 3]
    for name in ("a.png", "a.webp", "a.tif"):
        saved = Image.open(result.save(tmp_path / name))
        np.testing.assert_array_equal(np.asarray(saved)[..., 3], expected)
    assert Image.open(result.save(tmp_path / "a.jpg")).mode == "RGB"


def test_saved_images_contain_their_settings(content_path: Path, style_path: Path, tmp_path: Path) -> None:
    from styletransfer import __version__

    result = stylize(content_path, style_path, LITE, beta=500.0, init=str(style_path))
    for name in ("a.png", "a.jpg", "a.webp", "a.tiff"):
        path = result.save(tmp_path / name)
        settings = images.read_settings(path)
        assert settings["beta"] == 500.0 and settings["version"] == __version__
        assert (settings["content"], settings["style"]) == (content_path.name, style_path.name)
        assert str(content_path.parent) not in path.read_bytes().decode("latin-1")
        assert str(style_path.parent) not in path.read_bytes().decode("latin-1")
        # The settings suffice to reproduce the image.
        names = {field.name for field in dataclasses.fields(Options)}
        again = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items() if k in names}
        assert dataclasses.replace(Options(**again), init=str(style_path)) == result.options


@dataclasses.dataclass
class Clock:
    """A simulated clock that only evaluations advance: a second per 10,000 pixels, and the overhead."""

    now: float = 1000.0

    def cost(self, width: int, height: int) -> float:
        """Return the seconds of an evaluation; the canvas has a bleed of 4 pixels on each side."""
        return ((width + 8) * (height + 8) + timing.OVERHEAD["cpu"]) / 10_000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    original, simulated = Objective.evaluate, Clock()

    def evaluate(self: Objective, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        simulated.now += simulated.cost(image.shape[3] - 8, image.shape[2] - 8)
        return original(self, image)

    monkeypatch.setattr(Objective, "evaluate", evaluate)
    monkeypatch.setattr(time, "monotonic", lambda: simulated.now)
    return simulated


def test_seconds_left_cover_all_scales(content_path: Path, style_path: Path, clock: Clock) -> None:
    """At the end of a scale it is the time of the finer ones; at the end of the last one it is 0."""
    seconds_left: dict[tuple[int, int], float | None] = {}
    with open_session(
        content_path, style_path, dataclasses.replace(SMALL, scales="2", enlarge=True, size=160)
    ) as session:
        for step in session:
            seconds_left[step.scale.content[0], step.iteration] = session.pace.seconds_left(step)
        result = session.result()
    (small, _, coarse_iterations), (large, height, fine_iterations) = result.scales
    assert seconds_left[small, 0] is None and seconds_left[large, fine_iterations] == 0
    ends = seconds_left[small, coarse_iterations], seconds_left[large, 0]
    assert ends == pytest.approx([fine_iterations * clock.cost(large, height)] * 2, rel=0.1)


def test_run_stops_when_the_loss_has_settled(content_path: Path, style_path: Path) -> None:
    result = stylize(content_path, style_path, model="vgg19-lite", size=48, beta=10.0, iterations=500)
    totals = np.array([losses.total for losses in result.losses])
    falls = (totals[:-WINDOW] - totals[WINDOW:]) / totals[WINDOW:]
    assert result.stopped == "converged" and result.iterations < 500
    assert falls[-1] < SETTLED <= falls[:-1].min()


def test_default_precision_reaches_the_loss_of_float32(content_path: Path, style_path: Path) -> None:
    options = dataclasses.replace(LITE, size=48, beta=10.0, iterations=40)
    exact, auto = (stylize(content_path, style_path, options, precision=precision) for precision in ("fp32", "auto"))
    np.testing.assert_allclose(auto.best.total, exact.best.total, rtol=0.05)  # no closer: the iterates diverge


def break_down(monkeypatch: pytest.MonkeyPatch, after: int, until: float = math.inf, exact: bool = True) -> None:
    """Make loss and gradient NaN in evaluations after + 1 to `until`; in float32 only if `exact`."""
    original, count = Objective.evaluate, 0

    def evaluate(self: Objective, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal count
        count += 1
        terms, gradient = original(self, image)
        is_finite = (
            after >= count or count > until or (not exact and self.encoder.conv1_1_adjoint.dtype == torch.float32)
        )
        return (terms, gradient) if is_finite else (terms * math.nan, gradient * math.nan)

    monkeypatch.setattr(Objective, "evaluate", evaluate)


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_best_image_is_kept_when_the_loss_diverges(
    content_path: Path, style_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str
) -> None:
    before = stylize(content_path, style_path, SMALL, optimizer=optimizer, iterations=3)
    break_down(monkeypatch, after=4)
    result = stylize(content_path, style_path, SMALL, optimizer=optimizer, iterations=40)
    assert result.stopped == "diverged" and result.iterations < 40
    assert torch.equal(result.tensor, before.tensor)


def test_run_recovers_from_a_loss_that_is_not_finite(
    content_path: Path, style_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """L-BFGS continues from the best image in full precision, Adam with shorter steps; also from the start."""
    options = dataclasses.replace(SMALL, style_loss="gram", iterations=40, beta=10.0)
    for after, optimizer, precision in ((0, "lbfgs", "bf16"), (9, "lbfgs", "bf16"), (9, "adam", "fp32")):
        with monkeypatch.context() as patch:
            break_down(patch, after, until=10 if optimizer == "adam" else math.inf, exact=optimizer == "adam")
            result = stylize(content_path, style_path, options, optimizer=optimizer, precision=precision)
        assert result.stopped == "iterations" and result.iterations == 40
        totals = [losses.total for losses in result.losses]
        assert math.isfinite(result.best.total) and result.best.total == min(t for t in totals if math.isfinite(t))
        assert result.best_iteration > 25 and result.best.total < 0.8 * min(totals[: after + 1])
        assert result.tensor.isfinite().all()
    assert [record.message.split(":")[0] for record in caplog.records] == [
        f"the loss was no longer finite after {n} iterations" for n in (0, 8 + 12, 9)
    ]


def test_recovered_run_can_be_resumed(
    content_path: Path, style_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = dataclasses.replace(SMALL, optimizer="adam", iterations=20, checkpoint_every="0")
    path = tmp_path / "state"
    with monkeypatch.context() as patch:
        break_down(patch, after=5, until=6)
        uninterrupted = stylize(content_path, style_path, options)
    with monkeypatch.context() as patch:
        break_down(patch, after=5, until=6)
        stylize_and_listen(content_path, style_path, options, lambda step: step.iteration == 12, checkpoint=path)
    resumed = stylize(content_path, style_path, options, checkpoint=path, resume=True)
    assert torch.equal(resumed.tensor, uninterrupted.tensor)


def test_starting_image_without_a_finite_loss_is_an_error(
    content_path: Path, style_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_down(monkeypatch, after=0)
    with pytest.raises(StyleTransferError, match="not finite"):
        stylize(content_path, style_path, SMALL)


def test_excessive_learning_rate_of_adam_returns_the_starting_image(content_path: Path, style_path: Path) -> None:
    result = stylize(content_path, style_path, SMALL, optimizer="adam", learning_rate=50.0)
    assert result.best_iteration == 0 and result.best.total == result.losses[0].total < result.losses[-1].total
    assert torch.equal(result.tensor, images.read_picture(content_path).tensor())


def test_error_names_the_unknown_setting_or_device(content_path: Path, style_path: Path) -> None:
    with pytest.raises(UsageError, match="sise"):
        stylize(content_path, style_path, sise=100)
    for device in ("cuda:99", "toaster", "meta"):
        with pytest.raises(UsageError, match=device):
            stylize(content_path, style_path, SMALL, device=device)


def test_importing_the_cli_loads_neither_torch_nor_pillow() -> None:
    import subprocess
    import sys

    code = "import sys, styletransfer.cli; assert 'torch' not in sys.modules and 'PIL' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("size", "scales", "expected"),
    [
        (255, "auto", [255]),
        (256, "auto", [128, 256]),
        (512, "auto", [128, 256, 512]),
        (768, "auto", [192, 384, 768]),
        (10800, "auto", [169, 338, 675, 1350, 2700, 5400, 10800]),
        (1000, "3", [250, 500, 1000]),
        (200, "9", [100, 200]),  # at most down to the smallest useful size
    ],
)
def test_scales_double_from_a_small_size(size: int, scales: str, expected: list[int]) -> None:
    content, style = Picture(Image.new("RGB", (1200, 800))), Picture(Image.new("RGB", (4000, 4000)))
    inputs = Inputs(content, [RegionInput([StyleInput(style, 1.0)])], style, None, [])
    options = Options(size=size, scales=scales, enlarge=True, style_scale=0.5)
    chosen = choose_scales(inputs.content.rgb.size, [style.rgb.size for style in inputs.styles], options)
    assert [scale.content[0] for scale in chosen] == expected
    assert chosen[-1].content == (size, round(size * 2 / 3))
    assert chosen[-1].fit_style(style) == (min(4000, round(size / 2)),) * 2


@pytest.mark.parametrize(
    ("iterations", "brief", "long", "message"),
    [(25, 0.0, 1e9, " seconds on"), (25, 0.0, 0.0, "preset fast"), (9, 0.0, 0.0, ""), (25, 1e9, 1e9, "")],
)
def test_expected_duration_is_logged_once_at_the_start(
    content_path: Path,
    style_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    iterations: int,
    brief: float,
    long: float,
    message: str,
) -> None:
    monkeypatch.setattr(timing, "BRIEF", brief)
    monkeypatch.setattr(timing, "LONG", long)
    with caplog.at_level(logging.INFO, logger="styletransfer"):
        stylize(content_path, style_path, SMALL, iterations=iterations, scales="2")
    lines = [record.getMessage() for record in caplog.records if "this takes up to about" in record.getMessage()]
    assert len(lines) == bool(message) and all(message in line for line in lines)


def test_upsample_residual_adds_the_change_to_the_finer_content() -> None:
    rng = np.random.default_rng(0)
    content = Picture(Image.fromarray(rng.integers(0, 256, (60, 80, 3), dtype=np.uint8)))
    coarse, fine = content.resize((40, 30)).tensor(), content.tensor()
    np.testing.assert_array_equal(upsample_residual(coarse, content, (80, 60)), fine)
    brighter = upsample_residual(coarse + 0.1, content, (80, 60))
    np.testing.assert_allclose(brighter, (fine + 0.1).clamp(0, 1), atol=1e-6)


def test_finer_scales_have_fewer_iterations_and_report_their_size(content_path: Path, style_path: Path) -> None:
    steps: list[tuple[int, int, int]] = []

    def listen(step: Step) -> None:
        steps.append((step.scale.content[0], step.iteration, step.max_iterations))

    result = stylize_and_listen(content_path, style_path, SMALL, listen, iterations=90, scales="2", style_loss="gram")
    assert result.scales == [(40, 32, 90), (80, 64, 27)] and result.iterations == 117
    assert steps == [(40, i, 90) for i in range(91)] + [(80, i, 27) for i in range(28)]
    assert result.size == (80, 64) and len(result.losses) == 28
    few = stylize(content_path, style_path, SMALL, iterations=26, scales="2")
    assert few.scales == [(40, 32, 26), (80, 64, 25)]


def test_run_stopped_on_a_coarse_scale_returns_the_full_size(content_path: Path, style_path: Path) -> None:
    result = stylize_and_listen(content_path, style_path, SMALL, lambda step: step.iteration == 3, scales="2")
    assert result.size == (80, 64) and result.scales == [(40, 32, 3)] and result.stopped == "interrupted"
    content = images.read_picture(content_path)
    assert not torch.equal(result.tensor, content.tensor())


@pytest.mark.parametrize("tile", ["auto", "16", "48"])
def test_tiled_result_equals_the_untiled_one(tile: str, content_path: Path, style_path: Path) -> None:
    untiled = stylize(content_path, style_path, SMALL, precision="fp32", iterations=4)
    tiled = stylize(content_path, style_path, SMALL, precision="fp32", iterations=4, tile=tile)
    assert (untiled.tensor - tiled.tensor).abs().max() < 2e-3


def test_run_continues_with_smaller_tiles_when_out_of_memory(
    content_path: Path, style_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    large = dataclasses.replace(LITE, size=320, enlarge=True, scales="1", precision="fp32", iterations=5)
    large = dataclasses.replace(large, beta=100.0, style_loss="gram")
    expected = stylize(content_path, style_path, large)
    evaluate, evaluations = Objective.evaluate, []

    def failing(self: Objective, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        evaluations.append(self.tiling)
        if self.tiling == Tiling() and len(evaluations) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1.00 GiB")
        return evaluate(self, image)

    monkeypatch.setattr(Objective, "evaluate", failing)
    caplog.set_level("INFO")
    result = stylize(content_path, style_path, large)
    assert "out of memory after 3 iterations; continuing with: " in caplog.text
    assert result.stopped == "iterations" and len(result.losses) == 6
    assert [loss.total for loss in result.losses[:4]] == [loss.total for loss in expected.losses[:4]]
    np.testing.assert_allclose(result.best.total, expected.best.total, rtol=0.02)
    with pytest.raises(StyleTransferError, match="memory"):
        stylize(content_path, style_path, large, tile="off")


def test_estimate_has_size_memory_and_time_of_every_scale(content_path: Path, style_path: Path, clock: Clock) -> None:
    coarse, fine = estimate(content_path, style_path, SMALL, size=160, enlarge=True, scales=2, iterations=100)
    assert (coarse.size, coarse.iterations) == ((80, 64), 100)
    assert (fine.size, fine.iterations) == ((160, 128), 30)
    assert isinstance(fine.plan, plan.Plan) and fine.plan.memory > coarse.plan.memory > 0
    assert (coarse.seconds, fine.seconds) == pytest.approx((clock.cost(80, 64), clock.cost(160, 128)))


def test_coarser_image_is_returned_when_memory_becomes_scarce(
    content_path: Path, style_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The free memory drops at the third iteration."""
    free = [10**12]
    monkeypatch.setattr(hardware, "free_memory", lambda device: free[0])

    def listen(step: Step) -> None:
        free[0] = 10**6 if step.iteration > 2 else free[0]

    result = stylize_and_listen(content_path, style_path, SMALL, listen, scales="2")
    assert result.stopped == "memory" and result.size == (80, 64) and result.scales == [(40, 32, 8)]
    with pytest.raises(StyleTransferError, match="need"):  # rejected if known from the start
        stylize(content_path, style_path, SMALL, scales="2")


@pytest.mark.parametrize("scales", ["1", "3"])
def test_time_limit_is_met_with_all_scales_done(
    content_path: Path, style_path: Path, clock: Clock, scales: str
) -> None:
    """The run would take hours; an evaluation at full size takes 4.6 seconds."""
    options = dataclasses.replace(SMALL, style_loss="gram", iterations=100_000, size=192, enlarge=True, scales=scales)
    start = stylize(content_path, style_path, options, scales="1", iterations=0)
    result = stylize(content_path, style_path, options, time="2m")
    assert result.stopped == "time" and result.size == (192, 154)
    assert 120 - 2 * clock.cost(192, 154) < result.seconds < 120 + 0.5 * clock.cost(192, 154)
    assert result.best.total < 0.5 * start.losses[0].total
    assert len(result.scales) == int(scales) and all(iterations > 0 for *_, iterations in result.scales)


def test_expected_duration_of_a_resumed_run_is_logged_once_it_is_measured(
    content_path: Path,
    style_path: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    clock: Clock,
) -> None:
    monkeypatch.setattr(timing, "BRIEF", 0.0)
    monkeypatch.setattr(timing, "LONG", 1e9)
    options, path = dataclasses.replace(SMALL, iterations=90, checkpoint_every="0"), tmp_path / "state"
    stylize_and_listen(content_path, style_path, options, lambda step: step.iteration == 30, checkpoint=path)
    with caplog.at_level(logging.INFO, logger="styletransfer"):
        stylize(content_path, style_path, options, checkpoint=path, resume=True)
    lines = [record.getMessage() for record in caplog.records if "this takes up to about" in record.getMessage()]
    assert lines == [f"this takes up to about {91 * clock.cost(80, 64):.0f} seconds on this machine"]


def test_time_limit_includes_reading_the_inputs(
    content_path: Path, style_path: Path, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    def read_slowly(*arguments: Any) -> Inputs:
        clock.now += 100
        return read_inputs(*arguments)

    monkeypatch.setattr("styletransfer.transfer.problem.read_inputs", read_slowly)
    options = dataclasses.replace(SMALL, iterations=100_000, time="2m")
    for make in (stylize, load_model(weights=str(TINY)).stylize):
        result = make(content_path, style_path, options)
        assert result.stopped == "time" and result.seconds == pytest.approx(120, abs=2 * clock.cost(80, 64))


def test_each_step_is_saved_once(
    content_path: Path, style_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The state of a run is large."""
    saved, write = list[int](), CheckpointWriter.write

    def count(writer: CheckpointWriter, state: dict[str, Any]) -> None:
        saved.append(len(state["progress"]["runs"][-1]["losses"]) - 1)
        write(writer, state)

    monkeypatch.setattr(CheckpointWriter, "write", count)
    monkeypatch.setattr("styletransfer.transfer.checkpoint.SHARE", 1e9)  # due after every step, however slow the disk
    options = dataclasses.replace(SMALL, checkpoint_every="0")
    for last in (8, 3):  # to the end, and interrupted
        saved.clear()
        path = tmp_path / f"{last}"
        stylize_and_listen(content_path, style_path, options, lambda step: step.iteration == last, checkpoint=path)  # noqa: B023
        assert saved == list(range(last + 1))


def test_history_of_a_scale_is_released_before_the_next_is_planned(
    content_path: Path, style_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On large images it is most of the memory."""
    alive = list[int]()

    def count_and_plan(*arguments: Any) -> plan.Plan:
        gc.collect()
        alive.append(sum(type(thing) is InverseHessian for thing in gc.get_objects()))
        return plan_scale(*arguments)

    monkeypatch.setattr(run, "plan_scale", count_and_plan)
    stylize(content_path, style_path, SMALL, scales="2")
    assert alive == [0] * 4  # of both scales before the work, and of each as it begins


def test_coarser_image_is_upsampled_when_time_is_short(
    content_path: Path, style_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timing, "WORTHWHILE", 1e9)
    result = stylize(content_path, style_path, SMALL, size=160, enlarge=True, scales=2, iterations=20, time="1h")
    assert result.size == (160, 128) and result.scales == [(80, 64, 20)]
    assert result.stopped == "time"


def test_regularizers_keep_the_image_closer_to_the_content(content_path: Path, style_path: Path) -> None:
    content = images.read_picture(content_path).resize((60, 48)).tensor()

    def measure_change(**weights: float) -> torch.Tensor:
        options = dataclasses.replace(LITE, size=60, iterations=30, beta=100.0, **weights)
        return (stylize(content_path, style_path, options).tensor - content).abs()

    plain, l1, l2 = measure_change(), measure_change(l1=1e3), measure_change(l2=1e4)
    assert l1.mean() < 0.4 * plain.mean() and l2.square().mean() < 0.1 * plain.square().mean()
    # L1 leaves many values unchanged, L2 few.
    unchanged = [(values < 0.5 / 255).float().mean().item() for values in (plain, l1, l2)]
    assert unchanged[1] > 10 * max(unchanged[0], unchanged[2])


def test_jitter_varies_by_iteration_and_repeats_with_the_seed(content_path: Path, style_path: Path) -> None:
    options = dataclasses.replace(SMALL, optimizer="adam", learning_rate=0.0)
    runs = [stylize(content_path, style_path, options, jitter=0.1, seed=seed) for seed in (0, 0, 1)]
    totals = [[loss.total for loss in run.losses] for run in runs]
    assert len(set(totals[0])) == 9 and totals[0] == totals[1] and not set(totals[0]) & set(totals[2])
    assert len({loss.total for loss in stylize(content_path, style_path, options).losses}) == 1


@pytest.mark.parametrize("scales", ["1", "2"])
def test_seamless_image_continues_across_its_borders(content_path: Path, style_path: Path, scales: str) -> None:
    """The content's opposite borders differ in color, and the style is so smooth that a seam would show."""
    smooth = Image.open(style_path).filter(ImageFilter.GaussianBlur(4))

    def differences(image: torch.Tensor) -> list[np.ndarray]:
        """Return the mean differences of neighboring rows and columns, first of those across the borders."""
        return [(image - image.roll(1, axis)).abs().mean((0, 1, 5 - axis)).numpy() for axis in (2, 3)]

    plain, seamless = (
        differences(stylize(content_path, smooth, LITE, iterations=10, seamless=flag, scales=scales).tensor)
        for flag in (False, True)
    )
    for before, after in zip(plain, seamless, strict=True):
        assert after[0] / after[1:].mean() < 0.7 * before[0] / before[1:].mean()


def test_tiled_seamless_result_equals_the_untiled_one(content_path: Path, style_path: Path) -> None:
    options = dataclasses.replace(SMALL, precision="fp32", iterations=4, seamless=True)
    untiled, tiled = (stylize(content_path, style_path, options, tile=tile).tensor for tile in ("off", "128"))
    assert (untiled - tiled).abs().max() < 2e-3


def test_seamless_loss_does_not_depend_on_where_the_borders_are() -> None:
    """Up to conv3_1, which sees 10 pixels to each side, the bleed has all that is beyond the borders."""
    rng = torch.Generator().manual_seed(1)
    style, image = (torch.rand(1, 3, *size, generator=rng, dtype=torch.float64) for size in ((50, 60), (64, 80)))
    layers = {"conv1_1": 0.3, "conv2_1": 0.3, "conv3_1": 0.4}
    inner = torch.nn.functional.pad(torch.ones(1, 1, 64, 80, dtype=torch.float64), (SEAMLESS_BLEED,) * 4)
    canvas = torch.nn.functional.pad(image, (SEAMLESS_BLEED,) * 4)
    region = Region([Style(style)], inner, share=1.0)
    encoder = Encoder(random_convolutions(WIDTHS), layers).double()
    objective = Objective(encoder, canvas, [region], {}, layers, 0.0, 1.0, style_loss=LOSSES["gram"])
    evaluate = wrap_borders(objective.evaluate, SEAMLESS_BLEED)
    terms, gradient = evaluate(canvas)
    shifted = torch.nn.functional.pad(image.roll((16, -32), (2, 3)), (SEAMLESS_BLEED,) * 4)
    shifted_terms, shifted_gradient = evaluate(shifted)
    np.testing.assert_allclose(shifted_terms[0].item(), terms[0].item(), rtol=1e-9)
    inside = slice(SEAMLESS_BLEED, -SEAMLESS_BLEED)
    expected = gradient[..., inside, inside].roll((16, -32), (2, 3)).numpy()
    np.testing.assert_allclose(shifted_gradient[..., inside, inside].numpy(), expected, atol=1e-9 * abs(expected).max())


def test_seamless_content_counts_once_wherever_the_borders_are(style_path: Path) -> None:
    """A change beside a border, which the bleed repeats, costs as much as the same change in the middle."""
    rng = torch.Generator().manual_seed(1)
    content = images.to_pil(torch.rand(1, 3, 96, 128, generator=rng)).filter(ImageFilter.GaussianBlur(2))
    change = torch.nn.functional.pad(torch.rand(1, 3, 96, 32, generator=rng), (0, 96)) * 0.3
    losses = []
    for shift in (0, 64):
        rolled = ImageChops.offset(content, shift, 0)
        with prepared_problem(rolled, style_path, dataclasses.replace(LITE, seamless=True)) as problem:
            objective = make_objective(problem, problem.encoder(problem.precision), problem.scales[0], Tiling())
            image = content_canvas(problem, problem.scales[0])
            canvas = torch.nn.functional.pad(change.roll(shift, 3), (SEAMLESS_BLEED,) * 4, mode="circular") + image
            losses.append(objective.evaluate(canvas)[0][1].item())
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.1)


def test_seamless_gradient_matches_finite_differences() -> None:
    weights = torch.rand(1, 3, 12, 13, dtype=torch.float64)

    def plain(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.stack([(weights * image**3).sum(), *image.new_zeros(3)]), 3 * weights * image**2

    evaluate, canvas = wrap_borders(plain, 3), torch.rand(1, 3, 12, 13, dtype=torch.float64)
    _, gradient = evaluate(canvas)
    direction = torch.randn(canvas.shape, dtype=torch.float64)
    ahead, behind = (evaluate(canvas + s * 1e-6 * direction)[0][0].item() for s in (1, -1))
    np.testing.assert_allclose((ahead - behind) / 2e-6, (gradient * direction).sum().item(), rtol=1e-6)


def test_result_shows_itself_in_notebooks(tmp_path: Path, style_path: Path) -> None:
    content = Image.effect_noise((900, 720), 60).convert("RGB").filter(ImageFilter.GaussianBlur(20))
    result = stylize(content, style_path, SMALL, iterations=1, size=900, scales="1")
    shown = Image.open(io.BytesIO(result._repr_png_()))
    assert shown.format == "PNG" and shown.size == (640, 512)
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(result.image.resize((640, 512), reducing_gap=2.0)))
    page = result._repr_html_()
    assert page is not None and "<script" not in page
    after, before = (base64.b64decode(data) for data in re.findall(r"base64,([^\"]+)\"", page))
    for data, image in ((after, result.image), (before, content)):
        pixels, expected = (np.asarray(i.resize((64, 51)), float) for i in (Image.open(io.BytesIO(data)), image))
        assert np.abs(pixels - expected).mean() < 2

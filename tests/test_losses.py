"""The loss terms, compared with NumPy in float64."""

from collections.abc import Callable
from pathlib import Path
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from conftest import TINY

from styletransfer import Options, UsageError, stylize
from styletransfer.losses import LOSSES, Moments, register
from styletransfer.losses.content import content_loss
from styletransfer.losses.gram import gram_matrix
from styletransfer.losses.pixels import (
    HALF_A_LEVEL,
    absolute_change,
    gamut_loss,
    squared_change,
    total_variation,
)
from styletransfer.options import OWN_STYLE_LOSSES

RNG = np.random.default_rng(1)


def style_loss(gram: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the default style loss and its gradient with respect to the Gram matrix."""
    loss, empty = LOSSES["gram"], gram.new_empty(0)
    value, slopes = loss.distance_and_gradient(Moments(gram, empty), loss.prepare(Moments(target, empty)))
    return value, slopes.second


def test_every_style_loss_is_an_option() -> None:
    assert tuple(LOSSES) == get_args(get_type_hints(Options)["style_loss"])


def test_registered_style_loss_is_an_option(content_path: Path, style_path: Path) -> None:
    with pytest.raises(UsageError, match="style_loss is 'mine'"):
        Options(style_loss="mine")  # type: ignore[arg-type]
    register("mine", LOSSES["gram"])
    try:
        options = Options(weights=str(TINY), iterations=2)
        results = [stylize(content_path, style_path, options, style_loss=name) for name in ("gram", "mine")]
        assert torch.equal(*(result.tensor for result in results))
        assert Options.from_settings(results[1].settings()).style_loss == "mine"
    finally:
        del LOSSES["mine"]
        OWN_STYLE_LOSSES.clear()


def test_gram_matrix_is_the_mean_product_over_positions() -> None:
    f = RNG.normal(size=(1, 3, 4, 5))
    expected = np.zeros((3, 3))
    for i in range(3):
        for j in range(3):
            expected[i, j] = sum(f[0, i, y, x] * f[0, j, y, x] for y in range(4) for x in range(5)) / 20
    np.testing.assert_allclose(gram_matrix(torch.tensor(f)).numpy(), expected, rtol=1e-12)


def test_content_and_style_loss_are_relative_to_their_targets() -> None:
    a, b = RNG.normal(0, 3, size=(2, 1, 3, 4, 5))
    expected = ((a - b) ** 2).sum() / (b**2).sum()
    np.testing.assert_allclose(content_loss(torch.tensor(a), torch.tensor(b))[0].item(), expected)
    g, h = RNG.normal(0, 3, size=(2, 7, 7))
    expected = ((g - h) ** 2).sum() / (h**2).sum()
    np.testing.assert_allclose(style_loss(torch.tensor(g), torch.tensor(h))[0].item(), expected)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_losses_do_not_depend_on_the_scale_of_features(scale: float) -> None:
    """Filters need no normalization: networks whose layers differ by factors have the same losses."""
    f, g = torch.tensor(RNG.normal(0, 3, size=(2, 1, 3, 4, 5)))
    for loss, x, y in ((content_loss, f, g), (style_loss, gram_matrix(f), gram_matrix(g))):
        scaled = scale if x is f else scale**2  # Gram matrices are quadratic
        np.testing.assert_allclose(loss(scaled * x, scaled * y)[0].item(), loss(x, y)[0].item())


def test_loss_for_a_zero_target_is_absolute() -> None:
    a = RNG.normal(0, 3, size=(1, 3, 4, 5))
    for loss, target in ((content_loss, torch.zeros(1, 3, 4, 5)), (style_loss, torch.zeros(1, 3, 4, 5))):
        np.testing.assert_allclose(loss(torch.tensor(a), target)[0].item(), (a**2).sum())


def test_total_variation_of_a_ramp() -> None:
    ramp = torch.arange(6.0).repeat(1, 3, 4, 1)  # rises by 1 per column, by 0 per row
    assert total_variation(ramp)[0].item() == 1.0
    assert total_variation(2 * ramp.mT)[0].item() == 4.0


def test_gamut_loss_counts_only_values_outside_0_to_1() -> None:
    assert gamut_loss(torch.tensor([0.0, 0.5, 1.0]))[0].item() == 0
    np.testing.assert_allclose(gamut_loss(torch.tensor([-0.5, 0.5, 1.25, 1.0]))[0].item(), (0.25 + 0.0625) / 4)


def test_l1_and_l2_are_means_and_l1_is_quadratic_near_0() -> None:
    x = RNG.normal(0, 0.3, size=(1, 3, 4, 5))
    np.testing.assert_allclose(squared_change(torch.tensor(x))[0].item(), (x**2).mean())
    expected = np.where(abs(x) < HALF_A_LEVEL, x**2 / (2 * HALF_A_LEVEL), abs(x) - HALF_A_LEVEL / 2).mean()
    np.testing.assert_allclose(absolute_change(torch.tensor(x))[0].item(), expected)
    np.testing.assert_allclose(expected, abs(x).mean(), rtol=0.01)
    tiny = torch.tensor([1e-3, -1e-3, 0.0], dtype=torch.float64)  # below half a level
    np.testing.assert_allclose(absolute_change(tiny)[0].item(), 2e-6 / 3 / (2 * HALF_A_LEVEL))


@pytest.mark.parametrize(
    "loss",
    [
        lambda x: content_loss(x, torch.full_like(x, 0.3)),
        lambda x: style_loss(x[0, 0], torch.full_like(x[0, 0], 0.3)),
        total_variation,
        gamut_loss,
        absolute_change,
        squared_change,
    ],
)
def test_gradients_match_finite_differences(
    loss: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]],
) -> None:
    x = torch.tensor(RNG.normal(0.5, 0.6, size=(1, 3, 5, 5)))
    gradient = torch.zeros_like(x)
    value = loss(x)[1]
    (gradient if value.shape == x.shape else gradient[0, 0]).copy_(value)
    for _ in range(10):
        bump = 1e-6 * torch.tensor(RNG.normal(size=x.shape))
        ahead, behind = loss(x + bump)[0], loss(x - bump)[0]
        np.testing.assert_allclose(((ahead - behind) / 2).item(), (gradient * bump).sum().item(), rtol=1e-5)


def test_gram_matrix_of_bfloat16_is_accumulated_in_float32() -> None:
    f = torch.tensor(RNG.normal(1, 1, size=(1, 8, 64, 64))).bfloat16()
    flat = f.double().flatten(2)[0].numpy()
    gram = gram_matrix(f)
    assert gram.dtype == torch.float32
    np.testing.assert_allclose(gram.numpy(), flat @ flat.T / flat.shape[1], rtol=1e-5, atol=1e-6)

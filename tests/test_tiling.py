"""Evaluation in bands and strips equals untiled evaluation up to rounding, for all sizes."""

import numpy as np
import pytest
import torch
from conftest import SMALL, random_convolutions
from hypothesis import example, given, settings
from hypothesis import strategies as st

from styletransfer.encoder.tiling import Tiling, bands
from styletransfer.encoder.vgg import Encoder
from styletransfer.losses import LOSSES, Objective, Region, Style, TemporalPrior, nearest
from styletransfer.options import LAYERS

PAPERS = ["conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1"]
CONVOLUTIONS = random_convolutions(SMALL, rank=3)


def make_objective(
    dtype: torch.dtype,
    size: tuple[int, int],
    style: list[str],
    content: list[str],
    pooling: str,
    tiling: Tiling,
    masked: bool = False,
    style_loss: str = "gram",
) -> Objective:
    matched = LOSSES[style_loss].matched_layers
    encoder = Encoder(CONVOLUTIONS, [*style, *content, *matched], pooling).to(dtype)
    rng = torch.Generator().manual_seed(1)
    content_image, style_image = (
        torch.rand(1, 3, *s, generator=rng, dtype=torch.float64).to(dtype) for s in (size, (70, 83))
    )
    equal = ({layer: 1 / len(layers) for layer in layers} for layers in (content, style))
    regions = [Region([Style(style_image)])]
    if masked:
        masks = [torch.rand(1, 1, *s, generator=rng, dtype=dtype) for s in (size, size, (70, 83))]
        regions = [Region([Style(style_image, 0.4, masks[2]), Style(content_image, 0.6)], masks[0])]
        regions.append(Region([Style(style_image)], masks[1] * (masks[1] > 0.5)))
    weight = torch.rand(1, 1, *size, generator=rng, dtype=torch.float64).to(dtype)
    terms = {"alpha": 1.0, "beta": 1e3, "tv": 0.3, "l1": 2.0, "l2": 3.0, "style_loss": LOSSES[style_loss]}
    prior = TemporalPrior(content_image.flip(2), weight)
    mask = weight.flip(3) if masked else None
    return Objective(encoder, content_image, regions, *equal, **terms, tiling=tiling, prior=prior, content_mask=mask)  # type: ignore[arg-type]


layer_sets = st.lists(st.sampled_from(LAYERS), min_size=1, max_size=5, unique=True)
tilings = st.builds(
    Tiling,
    columns=st.none() | st.integers(1, 150),
    rows=st.none() | st.integers(1, 150),
    kept=st.integers(1, 6),
)


@settings(max_examples=30)
@given(
    size=st.tuples(st.integers(16, 170), st.integers(16, 170)),
    style=layer_sets,
    content=layer_sets,
    pooling=st.sampled_from(["avg", "max", "l2"]),
    tiling=tilings,
    masked=st.booleans(),
    style_loss=st.sampled_from(list(LOSSES)),
)
@example((97, 131), PAPERS, ["conv4_2"], "avg", Tiling(32, 16, 6), True, "wasserstein")
@example((97, 131), PAPERS, ["conv4_1"], "avg", Tiling(32, 16, 4), True, "nearest")
@example((65, 65), PAPERS, ["conv4_2"], "avg", Tiling(64, 64, 6), False, "gram")  # one pixel more than a tile
@example((31, 40), PAPERS, ["conv4_2"], "max", Tiling(64, 64, 3), False, "moments")  # smaller than a tile
@example((170, 16), PAPERS, ["conv1_1"], "l2", Tiling(16, 1, 6), True, "moments")
@example(
    (16, 16), ["conv1_1", "conv4_4", "conv5_1"], ["conv4_4"], "avg", Tiling(), False, "gram"
)  # one position in the deepest layer
def test_tiled_loss_and_gradient_equal_the_untiled_ones(
    size: tuple[int, int],
    style: list[str],
    content: list[str],
    pooling: str,
    tiling: Tiling,
    masked: bool,
    style_loss: str,
) -> None:
    image = torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    arguments = (torch.float64, size, style, content, pooling)
    terms, gradient = make_objective(*arguments, Tiling(), masked, style_loss).evaluate(image)
    tiled_terms, tiled_gradient = make_objective(*arguments, tiling, masked, style_loss).evaluate(image)
    # The root of a covariance without full rank amplifies rounding.
    tolerance = {"gram": 1e-10, "wasserstein": 1e-6}.get(style_loss, 1e-9)
    np.testing.assert_allclose(tiled_terms.numpy(), terms.numpy(), rtol=tolerance)
    assert (tiled_gradient - gradient).norm() <= tolerance * gradient.norm()


@pytest.mark.parametrize("tiling", [Tiling(64, 32, 6), Tiling(None, 17, 3), Tiling(80, None, 1)])
def test_samples_of_many_features_are_the_same_in_parts(tiling: Tiling, monkeypatch: pytest.MonkeyPatch) -> None:
    """With more features than are matched, all parts of an image see the same ones, whatever the parts."""
    monkeypatch.setattr(nearest, "MOST_FEATURES", 40)
    monkeypatch.setattr(nearest, "MOST_CONTENT_FEATURES", 30)
    monkeypatch.setattr(nearest, "BLOCK", 50)
    image = torch.rand(1, 3, 130, 170, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    arguments = (torch.float64, (130, 170), PAPERS, ["conv4_2"], "avg")
    terms, gradient = make_objective(*arguments, Tiling(), True, "nearest").evaluate(image)
    tiled_terms, tiled_gradient = make_objective(*arguments, tiling, True, "nearest").evaluate(image)
    np.testing.assert_allclose(tiled_terms.numpy(), terms.numpy(), rtol=1e-9)
    assert (tiled_gradient - gradient).norm() <= 1e-9 * gradient.norm()


@pytest.mark.parametrize("tiling", [Tiling(64, 32, 6), Tiling(None, 50, 3), Tiling(80, None, 1)])
def test_tiled_float32_agrees_within_rounding(tiling: Tiling) -> None:
    image = torch.rand(1, 3, 203, 157, generator=torch.Generator().manual_seed(2))
    arguments = (torch.float32, (203, 157), PAPERS, ["conv4_2"], "avg")
    exact, exact_gradient = make_objective(torch.float64, *arguments[1:], Tiling()).evaluate(image.double())
    _, gradient = make_objective(*arguments, Tiling()).evaluate(image)
    tiled_terms, tiled_gradient = make_objective(*arguments, tiling).evaluate(image)
    # On several processors and thread counts: 2e-7 to 3e-5, untiled and tiled. Too narrow a halo gives 2e-3.
    for actual in (gradient, tiled_gradient):
        assert (actual.double() - exact_gradient).norm() <= 2e-4 * exact_gradient.norm()
    np.testing.assert_allclose(tiled_terms.numpy(), exact.numpy(), rtol=1e-3)


@given(width=st.integers(16, 400), columns=st.integers(1, 500))
def test_bands_cover_every_column_of_every_layer_once(width: int, columns: int) -> None:
    encoder = Encoder(CONVOLUTIONS, PAPERS)
    all_bands = bands(width, columns, encoder)
    for layer in LAYERS[:13]:
        covered = [i for band in all_bands for i in range(*band.at(layer)[1].indices(width))]
        assert covered == list(range(width >> (int(layer[4]) - 1))), layer
    for band in all_bands:
        core = band.left + band.core.start, band.left + band.core.stop
        assert band.left == max(0, core[0] - 80) and band.right == min(width, core[1] + 80)

"""The gradient that the optimiser gets, against finite differences of the loss in float64."""

import numpy as np
import pytest
import torch
from conftest import SMALL, random_convolutions

from styletransfer.network import Encoder
from styletransfer.network.formats import Convolutions
from styletransfer.objective import GAMUT_WEIGHT, Anchor, Losses, Objective, Region, Style
from styletransfer.objective.losses import HALF_A_LEVEL, gram_matrix

CONTENT = {"conv4_2": 0.75, "conv2_2": 0.25}
STYLE = {"conv1_1": 0.1, "conv2_1": 0.2, "conv3_1": 0.3, "conv4_1": 0.2, "conv5_1": 0.2}


def make(
    pooling: str = "avg",
    alpha: float = 1.0,
    beta: float = 10.0,
    tv: float = 0.5,
    regions: bool = False,
    l1: float = 0.2,
    l2: float = 0.3,
    metrics: bool = False,
) -> tuple[Objective, torch.Tensor]:
    rng = torch.Generator().manual_seed(3)
    content = torch.rand(1, 3, 33, 48, generator=rng, dtype=torch.float64)
    style = torch.rand(1, 3, 40, 32, generator=rng, dtype=torch.float64)
    weights = with_metrics(rng) if metrics else random_convolutions(SMALL)
    encoder = Encoder(weights, {**CONTENT, **STYLE}, pooling).double()
    image = torch.rand(1, 3, 33, 48, generator=rng, dtype=torch.float64) * 1.2 - 0.1  # some values outside [0, 1]
    styles = masked(style) if regions else style
    anchor = Anchor(content.flip(3), 9 * torch.rand(1, 1, 33, 48, generator=rng, dtype=torch.float64))
    return Objective(encoder, content, styles, CONTENT, STYLE, alpha, beta, tv, l1=l1, l2=l2, anchor=anchor), image


def with_metrics(rng: torch.Generator) -> Convolutions:
    """A network whose layers look at three directions of the one before and bring a metric."""
    return {
        layer: convolution._replace(metric=torch.randn(len(convolution.bias), len(convolution.bias), generator=rng))
        for layer, convolution in random_convolutions(SMALL, rank=3).items()
    }


def masked(style: torch.Tensor) -> list[Region]:
    """Two regions with soft masks; the first has a mean of two styles, of which one has a mask too."""
    rng = torch.Generator().manual_seed(4)
    left, right, part = (torch.rand(1, 1, *s, generator=rng, dtype=torch.float64) for s in [(33, 48)] * 2 + [(40, 32)])
    left[..., 30:], right[..., :25] = 0, 0
    return [Region([Style(style.flip(3), 0.3), Style(style, 0.7, part)], left), Region([Style(style)], right)]


@pytest.mark.parametrize("metrics", [False, True])
@pytest.mark.parametrize(("pooling", "regions"), [("avg", False), ("max", False), ("l2", False), ("avg", True)])
def test_gradient_against_finite_differences(pooling: str, regions: bool, metrics: bool) -> None:
    objective, image = make(pooling, regions=regions, metrics=metrics)
    _, gradient = objective.evaluate(image)
    rng = torch.Generator().manual_seed(5)
    for _ in range(5):
        direction = torch.randn(image.shape, generator=rng, dtype=torch.float64)
        h = 1e-6
        ahead, behind = (objective.evaluate(image + s * h * direction)[0][0].item() for s in (1, -1))
        slope = (gradient * direction).sum().item()
        np.testing.assert_allclose((ahead - behind) / (2 * h), slope, rtol=1e-5)


def test_gradient_of_single_pixels_corners_included() -> None:
    objective, image = make()
    _, gradient = objective.evaluate(image)
    for pixel in [(0, 0, 0, 0), (0, 2, 32, 47), (0, 1, 0, 20), (0, 1, 16, 24)]:
        bump = torch.zeros_like(image)
        bump[pixel] = 1e-5
        ahead, behind = (objective.evaluate(image + s * bump)[0][0].item() for s in (1, -1))
        np.testing.assert_allclose((ahead - behind) / 2e-5, gradient[pixel].item(), rtol=1e-4)


@pytest.mark.parametrize("metrics", [False, True])
def test_total_is_the_weighted_sum_of_the_terms_in_numpy(metrics: bool) -> None:
    objective, image = make(alpha=2.0, beta=30.0, tv=4.0, l1=5.0, l2=7.0, metrics=metrics)
    losses = Losses(*objective.evaluate(image)[0].tolist())
    features = {layer: f.numpy()[0] for layer, f in objective.encoder(image).items()}
    for layer, f in features.items():
        if (metric := objective.encoder.metric(layer)) is not None:
            features[layer] = np.einsum("ij,jhw->ihw", metric.numpy(), f)
    content = style = 0.0
    for layer, w in CONTENT.items():
        target = objective.content_targets[layer].numpy()[0]
        content += w * ((features[layer] - target) ** 2).mean() / (target**2).mean()
    for layer, w in STYLE.items():
        flat = features[layer].reshape(len(features[layer]), -1)
        gram = flat @ flat.T / flat.shape[1]
        target = objective.style_targets[0][layer].numpy()
        style += w * ((gram - target) ** 2).mean() / (target**2).mean()
    x = image.numpy()
    tv = (np.diff(x, axis=2) ** 2).mean() + (np.diff(x, axis=3) ** 2).mean()
    outside = (np.maximum(-x, 0) ** 2 + np.maximum(x - 1, 0) ** 2).mean()
    np.testing.assert_allclose([losses.content, losses.style, losses.tv], [content, style, tv], rtol=1e-6)
    change = abs(x - objective.content.numpy())
    rounded = np.where(change < HALF_A_LEVEL, change**2 / (2 * HALF_A_LEVEL), change - HALF_A_LEVEL / 2)
    expected = 2 * content + 30 * style + 4 * tv + GAMUT_WEIGHT * 32 * outside
    expected += 5 * rounded.mean() + 7 * (change**2).mean()
    assert objective.anchor
    expected += (objective.anchor.weights.numpy() * (x - objective.anchor.image.numpy()) ** 2).mean()
    np.testing.assert_allclose(losses.total, expected, rtol=1e-6)


def test_the_style_of_regions_is_that_of_guided_gram_matrices_in_numpy() -> None:
    """Σ T² F Fᵀ / Σ T², T the mask at the layer's positions: the mean of the 2×2 below it, over and over."""
    objective, image = make(regions=True)
    rng = torch.Generator().manual_seed(3)
    torch.rand(1, 3, 33, 48, generator=rng, dtype=torch.float64)
    style = torch.rand(1, 3, 40, 32, generator=rng, dtype=torch.float64)

    def guided(picture: torch.Tensor, mask: torch.Tensor | None, layer: str) -> np.ndarray:
        features = objective.encoder(picture)[layer].numpy()[0]
        t = np.ones(picture.shape[2:]) if mask is None else mask[0, 0].numpy()
        while t.shape != features.shape[1:]:
            h, w = t.shape[0] // 2, t.shape[1] // 2
            t = t[: 2 * h, : 2 * w].reshape(h, 2, w, 2).mean((1, 3))
        return np.einsum("ihw,jhw,hw->ij", features, features, t**2) / (t**2).sum()

    loss = 0.0
    for region in masked(style):
        assert region.mask is not None
        for layer, w in STYLE.items():
            target = sum(s.share * guided(s.image, s.mask, layer) for s in region.styles)
            slope = guided(image, region.mask, layer) - target
            loss += (region.mask.numpy() ** 2).mean() * w * (slope**2).mean() / (target**2).mean()
    np.testing.assert_allclose(Losses(*objective.evaluate(image)[0].tolist()).style, loss, rtol=1e-9)


def test_the_content_picture_has_no_content_loss_and_the_style_picture_no_style_loss() -> None:
    objective, _ = make()
    rng = torch.Generator().manual_seed(3)
    content = torch.rand(1, 3, 33, 48, generator=rng, dtype=torch.float64)
    assert Losses(*objective.evaluate(content)[0].tolist()).content == 0
    style = torch.rand(1, 3, 40, 32, generator=rng, dtype=torch.float64)
    features = objective.encoder(style)
    for layer, target in objective.style_targets[0].items():
        np.testing.assert_allclose(gram_matrix(features[layer]).numpy(), target.numpy())


def test_a_picture_tiled_twice_has_the_same_style_up_to_its_borders() -> None:
    """Everything is a mean: the size of a picture doesn't change its Gram matrices."""
    encoder = Encoder(random_convolutions(SMALL), ["conv1_1"]).double()
    once = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    grams = [gram_matrix(encoder(x)["conv1_1"]) for x in (once, once.repeat(1, 1, 2, 2))]
    assert (grams[0] - grams[1]).norm() < 0.02 * grams[0].norm()


def test_a_gradient_carried_back_in_bfloat16_is_close_and_the_losses_are_the_same() -> None:
    exact, image = make()
    exact.encoder.cast(torch.float32, torch.float32)
    terms, gradient = exact.evaluate(image.float())
    mixed, _ = make()
    mixed.encoder.cast(torch.float32, torch.bfloat16)
    mixed_terms, mixed_gradient = mixed.evaluate(image.float())
    assert mixed_gradient.dtype == torch.float32 and mixed_gradient.is_contiguous()
    np.testing.assert_allclose(mixed_terms.numpy(), terms.numpy(), rtol=1e-6)
    assert 0 < (mixed_gradient - gradient).norm() < 0.02 * gradient.norm()

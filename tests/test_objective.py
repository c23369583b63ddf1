"""The objective, compared with NumPy, and its gradient, with finite differences, in float64."""

import warnings

import numpy as np
import pytest
import scipy.linalg
import torch
from conftest import SMALL, random_convolutions
from scipy.linalg import LinAlgWarning

from styletransfer.encoder.formats import Convolutions
from styletransfer.encoder.vgg import Encoder
from styletransfer.losses import GAMUT_WEIGHT, LOSSES, Losses, Objective, Region, Style, TemporalPrior
from styletransfer.losses.gram import gram_matrix
from styletransfer.losses.nearest import NEAREST_LAYERS, NEAREST_SCALE
from styletransfer.losses.pixels import HALF_A_LEVEL

CONTENT = {"conv4_2": 0.75, "conv2_2": 0.25}
STYLE = {"conv1_1": 0.1, "conv2_1": 0.2, "conv3_1": 0.3, "conv4_1": 0.2, "conv5_1": 0.2}

_RNG = torch.Generator().manual_seed(2)
CONTENT_IMAGE = torch.rand(1, 3, 33, 48, generator=_RNG, dtype=torch.float64)
STYLE_IMAGE = torch.rand(1, 3, 40, 32, generator=_RNG, dtype=torch.float64)


def make_objective(
    pooling: str = "avg",
    alpha: float = 1.0,
    beta: float = 10.0,
    tv: float = 0.5,
    regions: bool = False,
    l1: float = 0.2,
    l2: float = 0.3,
    metrics: bool = False,
    style_loss: str = "gram",
    content_mask: torch.Tensor | None = None,
) -> tuple[Objective, torch.Tensor]:
    rng = torch.Generator().manual_seed(3)
    content, style = CONTENT_IMAGE, STYLE_IMAGE
    weights = make_convolutions_with_metrics(rng) if metrics else random_convolutions(SMALL)
    encoder = Encoder(weights, {**CONTENT, **STYLE}, pooling).double()
    image = torch.rand(1, 3, 33, 48, generator=rng, dtype=torch.float64) * 1.2 - 0.1  # some values outside [0, 1]
    styles = make_regions(style) if regions else style
    prior = TemporalPrior(content.flip(3), 9 * torch.rand(1, 1, 33, 48, generator=rng, dtype=torch.float64))
    weights = CONTENT, STYLE, alpha, beta, tv
    terms = {"style_loss": LOSSES[style_loss], "l1": l1, "l2": l2, "prior": prior, "content_mask": content_mask}
    return Objective(encoder, content, styles, *weights, **terms), image


def make_convolutions_with_metrics(rng: torch.Generator) -> Convolutions:
    """Return convolutions with projections of rank 3 and a metric each."""
    return {
        layer: convolution._replace(metric=torch.randn(len(convolution.bias), len(convolution.bias), generator=rng))
        for layer, convolution in random_convolutions(SMALL, rank=3).items()
    }


def make_regions(style: torch.Tensor) -> list[Region]:
    """Return two regions with soft masks; the first averages two styles, one of which has a mask."""
    rng = torch.Generator().manual_seed(4)
    left, right, part = (torch.rand(1, 1, *s, generator=rng, dtype=torch.float64) for s in [(33, 48)] * 2 + [(40, 32)])
    left[..., 30:], right[..., :25] = 0, 0
    return [Region([Style(style.flip(3), 0.3), Style(style, 0.7, part)], left), Region([Style(style)], right)]


@pytest.mark.parametrize("style_loss", LOSSES)
@pytest.mark.parametrize("metrics", [False, True])
@pytest.mark.parametrize(("pooling", "regions"), [("avg", False), ("max", False), ("l2", False), ("avg", True)])
def test_gradient_matches_finite_differences(pooling: str, regions: bool, metrics: bool, style_loss: str) -> None:
    objective, image = make_objective(pooling, regions=regions, metrics=metrics, style_loss=style_loss)
    _, gradient = objective.evaluate(image)
    rng = torch.Generator().manual_seed(5)
    for _ in range(5):
        direction = torch.randn(image.shape, generator=rng, dtype=torch.float64)
        # Where another neighbor becomes the nearest, the slope jumps.
        h = 1e-8 if style_loss == "nearest" else 1e-6
        ahead, behind = (objective.evaluate(image + s * h * direction)[0][0].item() for s in (1, -1))
        slope = (gradient * direction).sum().item()
        # Square roots of small eigenvalues are not linear within a step of h.
        np.testing.assert_allclose(
            (ahead - behind) / (2 * h), slope, rtol=1e-4 if style_loss == "wasserstein" else 1e-5
        )


def test_gradient_of_single_pixels_matches_finite_differences() -> None:
    objective, image = make_objective()
    _, gradient = objective.evaluate(image)
    for pixel in [(0, 0, 0, 0), (0, 2, 32, 47), (0, 1, 0, 20), (0, 1, 16, 24)]:
        bump = torch.zeros_like(image)
        bump[pixel] = 1e-5
        ahead, behind = (objective.evaluate(image + s * bump)[0][0].item() for s in (1, -1))
        np.testing.assert_allclose((ahead - behind) / 2e-5, gradient[pixel].item(), rtol=1e-4)


def features_in_numpy(encoder: Encoder, image: torch.Tensor) -> dict[str, np.ndarray]:
    """Return the feature map of each layer, N×H×W, times its metric."""
    features = {layer: f.numpy()[0] for layer, f in encoder(image).items()}
    for layer, f in features.items():
        if (metric := encoder.feature_transform(layer)) is not None:
            features[layer] = np.einsum("ij,jhw->ihw", metric.numpy(), f)
    return features


def shrink_in_numpy(features: np.ndarray, mask: torch.Tensor | None) -> np.ndarray:
    """Return a mask averaged over 2×2 blocks down to the size of a feature map; ones without a mask."""
    t = np.ones(features.shape[1:]) if mask is None else mask[0, 0].numpy()
    while t.shape != features.shape[1:]:
        h, w = t.shape[0] // 2, t.shape[1] // 2
        t = t[: 2 * h, : 2 * w].reshape(h, 2, w, 2).mean((1, 3))
    return t


def nearest_in_numpy(
    features: np.ndarray,
    content: np.ndarray,
    style: np.ndarray,
    mask: torch.Tensor | None = None,
    style_mask: torch.Tensor | None = None,
) -> float:
    """Return 1 − the largest cosine of each position with one of the style's less its penalty, by brute force."""
    t, inside = shrink_in_numpy(features, mask), shrink_in_numpy(style, style_mask)
    bank = style[:, inside >= inside.max() / 2].T
    rows = [x.reshape(len(x), -1).T for x in (features, content)]
    image, own, bank = ((x - bank.mean(0)) / np.linalg.norm(x - bank.mean(0), axis=1)[:, None] for x in (*rows, bank))
    own = own[t.ravel() >= t.max() / 2]
    penalty = np.array([0.5 * np.sort(own @ s)[-10:].mean() for s in bank])
    best = [max(float(f @ s) - v for s, v in zip(bank, penalty - penalty.min(), strict=True)) for f in image]
    return float(((1 - np.array(best)) * t.ravel() ** 2).sum() / (t**2).sum())


def moments_in_numpy(features: np.ndarray, mask: torch.Tensor | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return Σ T² F Fᵀ / Σ T² and Σ T² F / Σ T² for the mask T of a layer's size."""
    t = shrink_in_numpy(features, mask)
    weights = t**2 / (t**2).sum()
    return np.einsum("ihw,jhw,hw->ij", features, features, weights), np.einsum("ihw,hw->i", features, weights)


def distance_in_numpy(
    style_loss: str, image: tuple[np.ndarray, np.ndarray], style: tuple[np.ndarray, np.ndarray]
) -> float:
    """Return a style loss by its formula, from second moments and means."""
    (a, mean_a), (b, mean_b) = image, style
    if style_loss in ("gram", "nearest"):
        return float(((a - b) ** 2).sum() / (b**2).sum())
    covariance_a, covariance_b = a - np.outer(mean_a, mean_a), b - np.outer(mean_b, mean_b)
    means = ((mean_a - mean_b) ** 2).sum()
    if style_loss == "moments":
        deviation_a, deviation_b = (np.sqrt(np.diag(c).clip(0)) for c in (covariance_a, covariance_b))
        return float((means + ((deviation_a - deviation_b) ** 2).sum()) / np.trace(b))
    assert style_loss == "wasserstein"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LinAlgWarning)  # singular, as there are fewer positions than filters
        root = scipy.linalg.sqrtm(covariance_b).real
        cross = scipy.linalg.sqrtm(root @ covariance_a @ root).real
    between = np.trace(covariance_a + covariance_b - 2 * cross)
    return float((between + means) / np.trace(b))


#: Differences due to the minimum variance and eigenvalue, and to scipy's square root of a singular matrix.
TOLERANCES = {"moments": 1e-3, "wasserstein": 1e-5}


@pytest.mark.parametrize("style_loss", LOSSES)
@pytest.mark.parametrize("metrics", [False, True])
def test_total_is_the_weighted_sum_of_the_terms_in_numpy(metrics: bool, style_loss: str) -> None:
    objective, image = make_objective(
        alpha=2.0, beta=30.0, tv=4.0, l1=5.0, l2=7.0, metrics=metrics, style_loss=style_loss
    )
    losses = Losses(*objective.evaluate(image)[0].tolist())
    features = features_in_numpy(objective.encoder, image)
    content = style = 0.0
    for layer, w in CONTENT.items():
        target = objective.content.targets[layer].numpy()[0]
        content += w * ((features[layer] - target) ** 2).mean() / (target**2).mean()
    style_features = features_in_numpy(objective.encoder, STYLE_IMAGE)
    for layer, w in STYLE.items():
        style += w * distance_in_numpy(style_loss, *(moments_in_numpy(f[layer]) for f in (features, style_features)))
    if share := LOSSES[style_loss].nearest_share:
        maps = features, features_in_numpy(objective.encoder, CONTENT_IMAGE), style_features
        nearest = sum(w * nearest_in_numpy(*(f[x] for f in maps)) for x, w in NEAREST_LAYERS.items())
        style = (1 - share) * style + share * NEAREST_SCALE * nearest
    x = image.numpy()
    tv = (np.diff(x, axis=2) ** 2).mean() + (np.diff(x, axis=3) ** 2).mean()
    outside = (np.maximum(-x, 0) ** 2 + np.maximum(x - 1, 0) ** 2).mean()
    np.testing.assert_allclose([losses.content, losses.tv], [content, tv], rtol=1e-6)
    np.testing.assert_allclose(losses.style, style, rtol=TOLERANCES.get(style_loss, 1e-9))
    assert objective.original is not None and objective.prior
    change = abs(x - objective.original.numpy())
    rounded = np.where(change < HALF_A_LEVEL, change**2 / (2 * HALF_A_LEVEL), change - HALF_A_LEVEL / 2)
    expected = 2 * content + 30 * losses.style + 4 * tv + GAMUT_WEIGHT * 32 * outside
    expected += 5 * rounded.mean() + 7 * (change**2).mean()
    expected += (objective.prior.weight.numpy() * (x - objective.prior.image.numpy()) ** 2).mean()
    np.testing.assert_allclose(losses.total, expected, rtol=1e-6)


@pytest.mark.parametrize("style_loss", LOSSES)
@pytest.mark.parametrize("metrics", [False, True])
def test_style_loss_of_regions_is_that_of_guided_positions_in_numpy(metrics: bool, style_loss: str) -> None:
    objective, image = make_objective(regions=True, metrics=metrics, style_loss=style_loss)
    loss, nearest_share = 0.0, LOSSES[style_loss].nearest_share
    features, content = (features_in_numpy(objective.encoder, x) for x in (image, CONTENT_IMAGE))
    for region in make_regions(STYLE_IMAGE):
        assert region.mask is not None
        region_share = float((region.mask.numpy() ** 2).mean())
        styles = [(s.share, s.mask, features_in_numpy(objective.encoder, s.image)) for s in region.styles]
        for layer, w in STYLE.items():
            style_moments = [(share, moments_in_numpy(f[layer], mask)) for share, mask, f in styles]
            second, mean = (sum(share * moments[i] for share, moments in style_moments) for i in (0, 1))
            image_moments = moments_in_numpy(features[layer], region.mask)
            distance = distance_in_numpy(style_loss, image_moments, (np.asarray(second), np.asarray(mean)))
            loss += (1 - nearest_share) * region_share * w * distance
        for layer, w in NEAREST_LAYERS.items():
            for share, mask, f in styles:
                nearest = nearest_in_numpy(features[layer], content[layer], f[layer], region.mask, mask)
                loss += nearest_share * NEAREST_SCALE * region_share * share * w * nearest
    actual = Losses(*objective.evaluate(image)[0].tolist()).style
    np.testing.assert_allclose(actual, loss, rtol=TOLERANCES.get(style_loss, 1e-9))


@pytest.mark.parametrize("metrics", [False, True])
def test_content_mask_weighs_positions_in_numpy_and_in_the_gradient(metrics: bool) -> None:
    mask = torch.rand(1, 1, 33, 48, generator=torch.Generator().manual_seed(6), dtype=torch.float64)
    mask[..., :20] = 0
    objective, image = make_objective(beta=0.0, tv=0.0, l1=0.0, l2=0.0, metrics=metrics, content_mask=mask)
    features, content = features_in_numpy(objective.encoder, image), 0.0
    for layer, w in CONTENT.items():
        target = features_in_numpy(objective.encoder, CONTENT_IMAGE)[layer]
        weights = shrink_in_numpy(target, mask)
        content += w * (weights * (features[layer] - target) ** 2).sum() / (target**2).sum()
    terms, gradient = objective.evaluate(image)
    np.testing.assert_allclose(Losses(*terms.tolist()).content, content, rtol=1e-9)
    direction = torch.randn(image.shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    ahead, behind = (objective.evaluate(image + s * 1e-6 * direction)[0][0].item() for s in (1, -1))
    np.testing.assert_allclose((ahead - behind) / 2e-6, (gradient * direction).sum().item(), rtol=1e-5)


def test_content_loss_of_the_content_image_is_0() -> None:
    objective, _ = make_objective()
    assert Losses(*objective.evaluate(CONTENT_IMAGE)[0].tolist()).content == 0


@pytest.mark.parametrize("metrics", [False, True])
@pytest.mark.parametrize("style_loss", LOSSES)
def test_style_loss_is_0_for_the_style_image_and_1_for_zero_features(style_loss: str, metrics: bool) -> None:
    loss = LOSSES[style_loss]
    objective, _ = make_objective(metrics=metrics)
    size = STYLE_IMAGE.shape[2:]
    style_objective = Objective(
        objective.encoder, torch.zeros(1, 3, *size).double(), STYLE_IMAGE, CONTENT, STYLE, 0.0, 1.0, style_loss=loss
    )
    terms, gradient = style_objective.evaluate(STYLE_IMAGE)
    assert abs(Losses(*terms.tolist()).style) < 1e-6
    assert gradient.isfinite().all()
    for style in style_objective.style.styles[0].values():
        value, slopes = loss.distance_and_gradient(style.map(torch.zeros_like), loss.prepare(style))
        np.testing.assert_allclose(value.item(), 1, rtol=1e-2)  # the minimum variance remains
        assert slopes.second.isfinite().all() and torch.allclose(slopes.second, slopes.second.T)


def test_repeating_an_image_keeps_its_gram_matrix_up_to_borders() -> None:
    """Gram matrices are means over positions, so the image size does not change them."""
    encoder = Encoder(random_convolutions(SMALL), ["conv1_1"]).double()
    image = torch.rand(1, 3, 64, 64, dtype=torch.float64)
    grams = [gram_matrix(encoder(x)["conv1_1"]) for x in (image, image.repeat(1, 1, 2, 2))]
    assert (grams[0] - grams[1]).norm() < 0.02 * grams[0].norm()


def test_bfloat16_backward_pass_keeps_the_losses_and_nearly_the_gradient() -> None:
    exact, image = make_objective()
    exact.encoder.cast(torch.float32, torch.float32)
    terms, gradient = exact.evaluate(image.float())
    mixed, _ = make_objective()
    mixed.encoder.cast(torch.float32, torch.bfloat16)
    mixed_terms, mixed_gradient = mixed.evaluate(image.float())
    assert mixed_gradient.dtype == torch.float32 and mixed_gradient.is_contiguous()
    np.testing.assert_allclose(mixed_terms.numpy(), terms.numpy(), rtol=1e-6)
    assert 0 < (mixed_gradient - gradient).norm() < 0.02 * gradient.norm()

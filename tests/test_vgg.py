"""The encoder compared with torchvision's VGG-19 and torch's autograd."""

import numpy as np
import pytest
import torch
from conftest import SMALL, kernel_of, random_convolutions
from torch import nn
from torchvision.models.vgg import cfgs, make_layers

from styletransfer import UsageError
from styletransfer.encoder import convolution, tuning, winograd
from styletransfer.encoder.backward import BackwardPass
from styletransfer.encoder.vgg import Encoder
from styletransfer.options import LAYERS

STYLE = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")


@pytest.mark.parametrize(("height", "width"), [(32, 48), (33, 50)])
@pytest.mark.parametrize("pooling", ["avg", "max", "l2"])
def test_features_match_torchvisions_vgg19(pooling: str, height: int, width: int) -> None:
    torch.manual_seed(0)
    reference = make_layers(cfgs["E"]).double().eval()  # VGG-19 without its classifier
    convolutions = [m for m in reference if isinstance(m, nn.Conv2d)]
    for m in convolutions:
        m.padding_mode, m._reversed_padding_repeated_twice = "replicate", [1, 1, 1, 1]
    weights = {layer: (m.weight, m.bias) for layer, m in zip(LAYERS, convolutions, strict=True)}
    pool = {"avg": nn.AvgPool2d(2), "max": nn.MaxPool2d(2), "l2": nn.LPPool2d(2, 2)}[pooling]
    image = torch.rand(1, 3, height, width, dtype=torch.float64)

    features, expected = Encoder(weights, LAYERS, pooling)(image), []
    with torch.no_grad():
        x = image
        for module in reference:
            x = pool(x) if isinstance(module, nn.MaxPool2d) else module(x).clone()
            if isinstance(module, nn.ReLU):
                expected.append(x.clone())
    assert list(features) == list(LAYERS)
    for layer, value in zip(LAYERS, expected, strict=True):
        np.testing.assert_allclose(features[layer].numpy(), value.numpy(), rtol=1e-6, atol=1e-9, err_msg=layer)


@pytest.mark.parametrize("large", [1 << 23, 0])  # borders by a padded copy, or by strips for few channels
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
@pytest.mark.parametrize("rank", [None, 3])
def test_all_ways_of_convolving_agree(
    rank: int | None, dtype: torch.dtype, tolerance: float, large: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(convolution, "LARGE_MAP", large)
    encoder = Encoder(random_convolutions(SMALL, rank=rank), ["conv2_2"])
    image = x = torch.rand(1, 3, 90, 75, dtype=torch.float64)
    for name in encoder.names:
        x = torch.nn.functional.avg_pool2d(x, 2) if name == "conv2_1" else x
        layer = encoder.convolution(name)
        x = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
        x = torch.nn.functional.conv2d(x, kernel_of(layer), layer.bias.double()).relu()
    features = encoder.to(dtype)(image.to(dtype))["conv2_2"]
    np.testing.assert_allclose(features.numpy(), x.numpy(), rtol=tolerance, atol=tolerance * float(x.max()))


@pytest.mark.parametrize("variant", tuning.VARIANTS)
@pytest.mark.parametrize(
    ("filters", "size"), [((5, 7), (13, 18)), ((8, 3), (4, 8)), ((5, 7), (37, 41)), ((8, 3), (3, 2))]
)
@pytest.mark.parametrize(("top", "bottom"), [(True, True), (True, False), (False, True), (False, False)])
def test_winograd_convolution_matches_the_direct_one(
    filters: tuple[int, int],
    size: tuple[int, int],
    top: bool,
    bottom: bool,
    variant: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(winograd, "BLOCK", 20 * 36 * 8 * 4)  # several blocks, of which the last has fewer rows
    kernel = torch.randn(filters[0], filters[1], 3, 3, dtype=torch.float64)
    bias, x = torch.randn(filters[0], dtype=torch.float64), torch.rand(1, filters[1], *size, dtype=torch.float64)
    padded = torch.nn.functional.pad(x, (1, 1, int(top), int(bottom)), mode="replicate").requires_grad_()
    linear = torch.nn.functional.conv2d(padded, kernel, bias)
    gradient = torch.randn_like(linear)
    transformed = winograd.transform(kernel.float(), tuning.VARIANTS[variant])

    actual = convolution.convolve(x.float(), top, bottom, kernel.float(), bias.float(), None, transformed)
    tolerance = 1e-4 if transformed.variant.side == 4 else 3e-4  # the larger block rounds more
    np.testing.assert_allclose(actual.numpy(), linear.relu().detach().numpy(), rtol=tolerance, atol=tolerance)
    if top and bottom:  # the whole map: autograd's gradient of the padded one, with its border added inside
        (ring,) = torch.autograd.grad(linear, padded, gradient)
        ring[:, :, 1] += ring[:, :, 0]
        ring[:, :, -2] += ring[:, :, -1]
        ring[..., 1] += ring[..., 0]
        ring[..., -2] += ring[..., -1]
        adjoint = kernel.float().flip(2, 3).transpose(0, 1).contiguous()
        actual_gradient = convolution.convolve_back(gradient.float(), top, bottom, adjoint, None, transformed)
        expected = ring[:, :, 1:-1, 1:-1].numpy()
        np.testing.assert_allclose(actual_gradient.numpy(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("variant", tuning.VARIANTS)
def test_encoder_with_winograd_matches_float64(variant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All weights are positive: near 0, float32 and float64 may fall on different sides of the ReLU."""
    torch.manual_seed(0)
    monkeypatch.setattr(tuning, "_NARROW", 0)
    random, layers = random_convolutions(SMALL), ["conv1_1", "conv2_2"]
    weights = {name: (layer.weight.abs(), layer.bias.abs()) for name, layer in random.items()}
    encoder, image = Encoder(weights, layers), torch.rand(1, 3, 41, 46)
    for name in encoder.names:
        costs: tuning.Costs = {"direct": [(10, 1.0), (400, 1.0)], variant: [(10, 2.0), (400, 0.1)]}
        encoder.costs[tuning.name_shape(encoder.convolution(name).weight)] = costs
    assert all(encoder.variant(name, (41, 46)) == tuning.VARIANTS[variant] for name in encoder.names)
    assert encoder.variant("conv2_2", (4, 6)) is None  # too few positions
    actual, (terms, gradient) = encoder(image), _sum_squares(encoder, image)
    exact = Encoder(weights, layers).double()
    assert exact.variant("conv2_2", (41, 46)) is None
    expected, (exact_terms, exact_gradient) = exact(image.double()), _sum_squares(exact, image.double())
    for layer, features in expected.items():
        np.testing.assert_allclose(actual[layer].numpy(), features.numpy(), rtol=1e-4, atol=1e-5)
    for layer, features in encoder(torch.cat([image, image.flip(3)])).items():
        np.testing.assert_allclose(features[:1].numpy(), actual[layer].numpy(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(terms, exact_terms, rtol=1e-5)
    np.testing.assert_allclose(gradient.numpy(), exact_gradient.numpy(), rtol=1e-3, atol=1e-4 * float(gradient.max()))


def _sum_squares(encoder: Encoder, image: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Return half the sum of the squared features, and its gradient."""
    total, gradient = [0.0], torch.zeros_like(image)

    def feature_hook(name: str, top: int, x: torch.Tensor) -> torch.Tensor:
        total[0] += float(x.double().square().sum()) / 2
        return x

    backward_pass = BackwardPass(encoder, image)
    backward_pass.forward(feature_hook)
    backward_pass.backward(lambda *_: None, feature_hook, gradient)
    return total[0], gradient


@pytest.mark.parametrize("size", [(16, 16), (17, 31), (37, 18)])
@pytest.mark.parametrize(("pooling", "rank"), [("avg", None), ("max", None), ("l2", None), ("avg", 3)])
def test_gradient_matches_autograd(pooling: str, rank: int | None, size: tuple[int, int]) -> None:
    """Down to one position in the deepest layer, where every convolution sees more border than image."""
    encoder = Encoder(random_convolutions(SMALL, rank=rank), STYLE, pooling).double()
    image = torch.rand(1, 3, *size, dtype=torch.float64, requires_grad=True)
    rng = torch.Generator().manual_seed(2)

    x, loss = image, torch.zeros(())
    coefficients, matrices = {}, {}
    for previous, name in zip(("", *encoder.names), encoder.names, strict=False):
        x = encoder.pool(x) if previous and previous[4] != name[4] else x
        layer = encoder.convolution(name)
        x = torch.nn.functional.pad(x, (1, 1, 1, 1), mode="replicate")
        x = torch.nn.functional.conv2d(x, kernel_of(layer), layer.bias).relu()
        if name in STYLE:
            coefficients[name] = torch.randn(x.shape, generator=rng, dtype=torch.float64)
            matrices[name] = torch.randn(x.shape[1], x.shape[1], generator=rng, dtype=torch.float64)
            loss = loss + (coefficients[name] * x).sum()
            loss = loss + (torch.einsum("ij,bjhw->bihw", matrices[name], x.detach()) * x).sum()
    (expected,) = torch.autograd.grad(loss, image)

    backward_pass = BackwardPass(encoder, image.detach())
    backward_pass.forward(lambda name, top, features: coefficients[name])
    gradient = torch.zeros_like(image)

    def gradient_hook(name: str, top: int, features: torch.Tensor) -> torch.Tensor | None:
        return torch.einsum("ij,bjhw->bihw", matrices[name], features) if name in matrices else None

    backward_pass.backward(gradient_hook, lambda name, top, features: None, gradient)
    np.testing.assert_allclose(gradient.numpy(), expected.numpy(), rtol=1e-9, atol=1e-12)


def test_encoder_ends_after_the_deepest_layer_used() -> None:
    encoder = Encoder(random_convolutions(SMALL), ["conv3_1", "conv1_1"])
    assert list(encoder(torch.rand(1, 3, 16, 16))) == ["conv1_1", "conv3_1"]
    assert len(list(encoder.buffers())) == 3 * 5
    assert encoder.minimum_size == 4


def test_minimum_size_is_what_the_deepest_layer_needs() -> None:
    encoder = Encoder(random_convolutions(SMALL), ["conv5_4"])
    assert encoder(torch.rand(1, 3, encoder.minimum_size, 40))["conv5_4"].shape[2:] == (1, 2)
    with pytest.raises(ValueError, match="16"):
        encoder(torch.rand(1, 3, encoder.minimum_size - 1, 40))


def test_layer_beyond_the_weights_is_rejected() -> None:
    short = {layer: c for layer, c in random_convolutions(SMALL).items() if layer < "conv5_2"}
    with pytest.raises(UsageError, match="conv5_3"):
        Encoder(short, ["conv5_3"])


def test_dead_filters_do_not_dilute_the_losses() -> None:
    """The same network is padded with dead filters, as a narrow encoder is to fit VGG-19's shape."""
    from styletransfer.losses import LOSSES, Moments
    from styletransfer.losses.content import content_loss
    from styletransfer.losses.gram import gram_matrix

    narrow, wide, channels = random_convolutions(SMALL), {}, 3
    for layer, (weight, bias, *_) in narrow.items():
        n = len(weight)
        w, b = torch.zeros(3 * n, channels, 3, 3), torch.zeros(3 * n)
        w[:n, : weight.shape[1]], b[:n] = weight, bias
        wide[layer], channels = (w, b), 3 * n
    x, y = torch.rand(2, 1, 3, 32, 32)
    losses = []
    for weights in (narrow, wide):
        encoder = Encoder(weights, ["conv4_2"])
        f, g = encoder(x)["conv4_2"], encoder(y)["conv4_2"]
        image, style = (Moments(gram_matrix(x), x.mean((0, 2, 3))) for x in (f, g))
        losses.append([content_loss(f, g)[0].item()])
        losses[-1] += [loss.distance(image, loss.prepare(style)).item() for loss in LOSSES.values()]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)

"""The losses as modules, differentiated by autograd, against the gradients of a run, which are written by hand."""

import numpy as np
import pytest
import torch
from conftest import SMALL, random_convolutions
from test_objective import CONTENT, CONTENT_IMAGE, STYLE, STYLE_IMAGE, make_convolutions_with_metrics
from torch import Tensor, nn

from styletransfer import UsageError, load_model
from styletransfer.encoder.vgg import Encoder
from styletransfer.losses import (
    LOSSES,
    ContentLoss,
    FeatureExtractor,
    GramLoss,
    MomentsLoss,
    NearestLoss,
    Objective,
    StatisticLoss,
    TotalVariationLoss,
    WassersteinLoss,
)
from styletransfer.losses.nearest import NEAREST_SCALE

MODULES = {"gram": GramLoss, "moments": MomentsLoss, "wasserstein": WassersteinLoss}
ALPHA, BETA, TV = 1.5, 10.0, 2.0


def make_encoder(metrics: bool = False, pooling: str = "avg") -> Encoder:
    weights = (
        make_convolutions_with_metrics(torch.Generator().manual_seed(3)) if metrics else random_convolutions(SMALL)
    )
    return Encoder(weights, {**CONTENT, **STYLE}, pooling).double()


@pytest.mark.parametrize("metrics", [False, True])
@pytest.mark.parametrize(("name", "pooling"), [*((name, "avg") for name in LOSSES), ("gram", "max"), ("gram", "l2")])
def test_autograd_agrees_with_the_gradient_of_a_run(name: str, pooling: str, metrics: bool) -> None:
    encoder, loss = make_encoder(metrics, pooling), LOSSES[name]
    features = FeatureExtractor(encoder)
    own, painting = features(CONTENT_IMAGE), features(STYLE_IMAGE)

    def evaluate(image: Tensor) -> Tensor:
        maps = features(image)
        if name == "nearest":
            share = loss.nearest_share
            matching = NEAREST_SCALE * NearestLoss(painting, own)(maps)
            style = (1 - share) * GramLoss(painting, STYLE)(maps) + share * matching
        else:
            style = MODULES[name](painting, STYLE)(maps)
        return ALPHA * ContentLoss(CONTENT)(maps, own) + BETA * style + TV * TotalVariationLoss()(image)

    image = torch.rand(CONTENT_IMAGE.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    total = evaluate(image.requires_grad_())
    total.backward()
    objective = Objective(encoder, CONTENT_IMAGE, STYLE_IMAGE, CONTENT, STYLE, ALPHA, BETA, TV, style_loss=loss)
    terms, gradient = objective.evaluate(image.detach())
    assert image.grad is not None
    np.testing.assert_allclose(total.item(), terms[0].item(), rtol=1e-9)
    scale = gradient.abs().max().item()
    np.testing.assert_allclose(image.grad / scale, gradient / scale, atol=1e-6 if name == "wasserstein" else 1e-9)


@pytest.mark.parametrize("module", [*MODULES.values(), NearestLoss])
def test_loss_of_a_batch_is_the_mean_of_its_images(module: type[StatisticLoss] | type[NearestLoss]) -> None:
    features = FeatureExtractor(make_encoder())
    images = torch.rand(3, 3, 32, 40, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    loss, content = module(features(STYLE_IMAGE)), ContentLoss(CONTENT)
    whole, parts = features(images), [features(image[None]) for image in images]
    np.testing.assert_allclose(loss(whole).item(), np.mean([loss(part).item() for part in parts]), rtol=1e-9)
    target = features(images.flip(0))
    means = [content(part, features(image[None])).item() for part, image in zip(parts, images.flip(0), strict=True)]
    np.testing.assert_allclose(content(whole, target).item(), np.mean(means), rtol=1e-9)


@pytest.mark.parametrize("module", [*MODULES.values(), NearestLoss])
def test_style_itself_has_no_loss(module: type[StatisticLoss] | type[NearestLoss]) -> None:
    features = FeatureExtractor(make_encoder())(STYLE_IMAGE)
    loss = module(features)
    assert abs(loss(features).item()) < 1e-6
    assert loss(FeatureExtractor(make_encoder())(STYLE_IMAGE.square())).item() > 0.01


def test_modules_move_to_another_precision() -> None:
    features = FeatureExtractor(make_encoder())(STYLE_IMAGE)
    maps = {layer: map_.float() for layer, map_ in FeatureExtractor(make_encoder())(CONTENT_IMAGE).items()}
    for module in (*MODULES.values(), NearestLoss):
        loss = module(features).float()
        value = loss(maps)
        assert value.dtype == torch.float32 and value.isfinite()


def test_trained_network_learns_the_style() -> None:
    """A network of one convolution, trained with the modules: the loss falls, the encoder does not change."""
    torch.manual_seed(0)
    features = FeatureExtractor(make_encoder().float())
    photos = torch.rand(4, 3, 32, 32)
    style, content, network = (
        GramLoss(features(STYLE_IMAGE.float())),
        ContentLoss(CONTENT),
        nn.Conv2d(3, 3, 5, padding=2),
    )
    before = {name: buffer.clone() for name, buffer in features.named_buffers()}
    assert not list(features.parameters())
    optimizer, losses = torch.optim.Adam(network.parameters(), 0.02), []
    for _ in range(40):
        optimizer.zero_grad()
        output = features(network(photos))
        loss = content(output, features(photos)) + 10 * style(output)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
    assert all(torch.equal(buffer, before[name]) for name, buffer in features.named_buffers())


def test_model_has_a_feature_extractor() -> None:
    model = load_model("vgg19-lite", device="cpu")
    image = torch.rand(2, 3, 32, 48)
    maps = model.feature_extractor(["conv1_1", "conv3_1"])(image)
    assert list(maps) == ["conv1_1", "conv3_1"] and maps["conv3_1"].shape[2:] == (8, 12)
    by_default = model.feature_extractor()(image)
    painting = {layer: map_[:1] for layer, map_ in by_default.items()}
    for loss in (GramLoss(painting), NearestLoss(painting, painting)):
        assert loss(by_default).isfinite()
    assert ContentLoss()(by_default, by_default) == 0
    with pytest.raises(UsageError, match="conv9_1"):
        model.feature_extractor(["conv9_1"])


@pytest.mark.parametrize("module", [*MODULES.values(), NearestLoss])
def test_style_is_of_one_image_and_of_all_layers(module: type[StatisticLoss] | type[NearestLoss]) -> None:
    features = FeatureExtractor(make_encoder())
    with pytest.raises(ValueError, match="one image, not 2"):
        module(features(torch.cat([STYLE_IMAGE, STYLE_IMAGE])))
    with pytest.raises(ValueError, match="lack conv3_1"):
        module({layer: map_ for layer, map_ in features(STYLE_IMAGE).items() if layer != "conv3_1"})

"""The losses as `torch.nn.Module`s, for training loops of your own: autograd differentiates them.

    features = st.load_model("vgg19").feature_extractor()         # images B×3×H×W in [0, 1] -> {layer: B×N×H'×W'}
    style = GramLoss(features(style_image))
    content = ContentLoss()
    output = features(network(photo))
    (content(output, features(photo)) + 10 * style(output)).backward()

They are the same functions as those of a run, whose gradients are written by hand (`Objective`). The loss of a batch is
the mean of its images' losses. Values outside [0, 1], such as 0…255, are not rejected: the losses are then those of
another image.

`GramAndNearest`, the default style loss of a run, is ``(1 - s) * gram + s * NEAREST_SCALE * nearest`` of
`GramLoss(style)` and `NearestLoss(style, content)`, with ``s = NEAREST_SHARE``.

Images, features and losses must be on one device: the extractor is on that of `load_model`, a loss on that of the
features it was made from, and `.to(device)` moves either. Both are in float32 and have no trainable parameters. The
`state_dict` of a loss is empty: construct it again from the style image instead of saving it.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from ..encoder.vgg import Encoder
from ..options import Options
from .base import Moments, StyleLoss
from .content import apply_channel_matrix, content_loss
from .gram import Gram
from .moments import MeanAndDeviation
from .nearest import NEAREST_LAYERS, Bank, as_rows, find_nearest, make_bank
from .style import compute_moments
from .wasserstein import Wasserstein

#: Feature maps by layer, B×N×H×W each.
Features = Mapping[str, Tensor]


class FeatureExtractor(nn.Module):
    """Maps images B×3×H×W, RGB in [0, 1], to the features that losses compare: ``{layer: B×N×H'×W'}``.

    Differentiable with respect to the images; the weights are buffers, not trained. Each side H' is H // 2^(block − 1).

    Raises:
        ValueError: an image is smaller than a position of the deepest layer.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the features by layer."""
        features = self.encoder(images)
        return {
            layer: apply_channel_matrix(map_, self.encoder.feature_transform(layer)) for layer, map_ in features.items()
        }


class ContentLoss(nn.Module):
    """Σ_l w_l ‖F − P‖² / ‖P‖², over layers l, of features F and those of the content, P.

    Gatys et al. 2016, eq. 1. Deviation: relative to P (docs/explanation/method.md).

    Args:
        weights: of the layers; conv4_2 if not given.
    """

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        super().__init__()
        self.weights = dict(weights or Options().content_weights)

    def forward(self, features: Features, target: Features) -> Tensor:
        """Return the loss, a scalar. Gradients reach the features, not the target, whose batch may be of one image."""
        losses = []
        for layer, weight in self.weights.items():
            targets = target[layer].detach().expand_as(features[layer])
            losses += [weight * content_loss(f, p)[0] for f, p in zip(features[layer], targets, strict=True)]
        return torch.stack(losses).sum() / _batch_size(features)


class _StyleLossModule(nn.Module):
    """Holds what a loss needs of the style on each layer, a tuple; `to` moves it as it moves buffers."""

    def __init__(self, weights: Mapping[str, float], targets: Mapping[str, tuple[Any, ...]]) -> None:
        super().__init__()
        self.weights, self._targets = dict(weights), dict(targets)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "_StyleLossModule":
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for layer, target in self._targets.items():
            self._targets[layer] = tuple(fn(value) if isinstance(value, Tensor) else value for value in target)
        return self


class StatisticLoss(_StyleLossModule):
    """Σ_l w_l · distance, over layers l, of the statistics of features from those of a style.

    Args:
        distance: such as one of `LOSSES`.
        style: features of the style image, 1×N×H×W.
        weights: of the layers; equal shares of conv1_1 to conv5_1 if not given.

    Raises:
        ValueError: the features are of several images, or lack a layer.
    """

    def __init__(self, distance: StyleLoss, style: Features, weights: Mapping[str, float] | None = None) -> None:
        weights = weights or Options().style_weights
        moments = {layer: _compute_moments(_take_only(style, layer)[0], distance.uses_mean) for layer in weights}
        super().__init__(weights, {layer: distance.prepare(moments[layer]) for layer in weights})
        self.distance = distance

    def forward(self, features: Features) -> Tensor:
        """Return the loss, a scalar."""
        losses = [
            weight * self.distance.distance(_compute_moments(map_, self.distance.uses_mean), self._targets[layer])
            for layer, weight in self.weights.items()
            for map_ in features[layer]
        ]
        return torch.stack(losses).sum() / _batch_size(features)


class GramLoss(StatisticLoss):
    """`Gram`, the style loss of the paper, as a module."""

    def __init__(self, style: Features, weights: Mapping[str, float] | None = None) -> None:
        super().__init__(Gram(), style, weights)


class MomentsLoss(StatisticLoss):
    """`MeanAndDeviation` as a module."""

    def __init__(self, style: Features, weights: Mapping[str, float] | None = None) -> None:
        super().__init__(MeanAndDeviation(), style, weights)


class WassersteinLoss(StatisticLoss):
    """`Wasserstein` as a module."""

    def __init__(self, style: Features, weights: Mapping[str, float] | None = None) -> None:
        super().__init__(Wasserstein(), style, weights)


class NearestLoss(_StyleLossModule):
    """Nearest-neighbor matching (`NearestTerm`) as a module. The features of the style are all used: no subset.

    Args:
        style: features of the style image, 1×N×H×W.
        content: features of the content image, for the penalty; without them there is none.
        weights: of the layers; conv3_1 and conv4_1 if not given.

    Raises:
        ValueError: the features are of several images, or lack a layer.
    """

    def __init__(
        self, style: Features, content: Features | None = None, weights: Mapping[str, float] | None = None
    ) -> None:
        weights = weights or NEAREST_LAYERS
        own = {layer: as_rows(_take_only(content, layer)) for layer in weights} if content else {}
        super().__init__(
            weights, {layer: make_bank(as_rows(_take_only(style, layer)), own.get(layer)) for layer in weights}
        )

    def forward(self, features: Features) -> Tensor:
        """Return the loss, a scalar."""
        losses = []
        for layer, weight in self.weights.items():
            bank = Bank(*self._targets[layer])
            for map_ in features[layer]:
                unit, _, best = find_nearest(as_rows(map_[None]), bank)
                losses.append(weight * (1 - (unit * bank.features[best]).sum(1) + bank.penalty[best]).mean())
        return torch.stack(losses).sum() / _batch_size(features)


class TotalVariationLoss(nn.Module):
    """The mean squared difference between neighboring pixels, summed over both directions (`total_variation`)."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the loss of images B×3×H×W, a scalar."""
        return images.diff(dim=2).square().mean() + images.diff(dim=3).square().mean()


def _take_only(features: Features, layer: str) -> Tensor:
    """Return the features of the only image at a layer, 1×N×H×W, without gradient."""
    if layer not in features:
        raise ValueError(f"the features lack {layer}: make the extractor with it, or give weights without it")
    if len(features[layer]) != 1:
        raise ValueError(f"a style loss takes the features of one image, not {len(features[layer])}: make one for each")
    return features[layer].detach()


def _compute_moments(features: Tensor, with_mean: bool) -> Moments:
    """Return the moments of a feature map N×H×W."""
    return compute_moments(features[None], None, features[0].numel(), with_mean)


def _batch_size(features: Features) -> int:
    return len(next(iter(features.values())))

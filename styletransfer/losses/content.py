"""The content term: each position of a feature map against a target of its own, evaluated in parts."""

from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from ..encoder.tiling import Band
from ..encoder.vgg import Encoder, level
from .base import PositionTerm, squared_norm


class ContentTerm(PositionTerm):
    """Σ_l w_l `content_loss`, over layers l.

    Args:
        content: 1×3×H×W in [0, 1].
        weights: shares of the layers, of sum 1.
        rows: height of the strips in which the content goes through the encoder; None for the whole.
        mask: 1×1×H×W, a factor of the loss at each place; None for 1.
    """

    def __init__(
        self,
        encoder: Encoder,
        content: Tensor,
        weights: Mapping[str, float],
        rows: int | None,
        mask: Tensor | None = None,
    ) -> None:
        self.encoder, self.weights = encoder, dict(weights)
        self.targets: dict[str, Tensor] = {}
        done: dict[str, int] = defaultdict(int)
        for layer, features in encoder.features(content, rows):
            if layer not in weights:
                continue
            if layer not in done:
                size = 1, features.shape[1], content.shape[2] >> level(layer), features.shape[3]
                whole = torch.empty(
                    size, dtype=features.dtype, device=features.device, memory_format=torch.channels_last
                )
                self.targets[layer] = whole
            strip = slice(done[layer], done[layer] + features.shape[2])
            self.targets[layer][:, :, strip] = apply_channel_matrix(features, encoder.feature_transform(layer))
            done[layer] = strip.stop
        self._masks = None if mask is None else pool_mask(mask, self.weights)
        self._norms = {layer: squared_norm(target) for layer, target in self.targets.items()}

    def evaluate(
        self, band: Band, layer: str, top: int, features: Tensor, scale: float
    ) -> tuple[Tensor | float, Tensor | None]:
        """As `PositionTerm.evaluate`."""
        weight = self.weights.get(layer)
        if not weight:
            return 0.0, None
        within, columns = band.at(layer)
        target = self.targets[layer][:, :, top : top + features.shape[2], columns]
        transform = self.encoder.feature_transform(layer)
        seen = apply_channel_matrix(features[..., within], transform)
        factors = self._masks[layer][:, :, top : top + features.shape[2], columns] if self._masks else None
        loss, slope = content_loss(seen, target, self._norms[layer], factors)
        return weight * loss, apply_channel_matrix(slope, None if transform is None else transform.T) * (scale * weight)


def content_loss(
    features: Tensor, target: Tensor, whole: float | None = None, factors: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return ‖F − P‖² / ‖P‖² over filters and positions, and its gradient with respect to F.

    Gatys, Ecker, Bethge 2016, eq. 1. Deviation: half of ‖F − P‖² there, which makes the balance with the style depend
    on the image's size and on how much there is in it: ‖P‖² per value goes from 4.8 to 20.

    Args:
        whole: ‖P‖² of all of P, where these are parts.
        factors: of the squared differences, 1×1×h×w; None for 1.
    """
    whole = squared_norm(target) if whole is None else whole
    difference = features - target
    weighted = difference if factors is None else difference * factors
    loss = (difference.square() if factors is None else difference * weighted).sum() / whole
    return loss, weighted * (2 / whole)


def pool_mask(mask: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
    """Return a mask 1×1×H×W as it follows the poolings, as a mean, down to each layer: 1×1×h×w."""
    levels = [mask]
    for _ in range(max(map(level, layers), default=0)):
        levels.append(F.avg_pool2d(levels[-1], 2))
    return {layer: levels[level(layer)] for layer in layers}


def apply_channel_matrix(features: Tensor, matrix: Tensor | None) -> Tensor:
    """Return the product of a matrix n×n with features 1×n×H×W at every position; None stands for the identity."""
    return features if matrix is None else F.conv2d(features, matrix[:, :, None, None].to(features.dtype))

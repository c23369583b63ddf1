"""Nearest-neighbor feature matching: each position of a feature map against the style's most similar feature."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..encoder.tiling import Band, Tiling
from ..encoder.vgg import Encoder
from ..options import NEAREST_SHARE
from .base import PositionTerm
from .content import apply_channel_matrix
from .gram import Gram
from .style import Region, compute_once, count_positions, make_guides

#: Shares of the layers whose features are matched.
NEAREST_LAYERS = {"conv3_1": 0.3, "conv4_1": 0.7}
#: Factor of the loss of matching: with it, content distances at the default α/β are about those of Gram matrices.
NEAREST_SCALE = 0.43
#: Maximum numbers of features of a style image and of the content image on a layer; a random subset of more.
MOST_FEATURES, MOST_CONTENT_FEATURES = 1024, 1024
#: The penalty of a style feature: this share of its mean similarity to so many most similar features of the content.
HUB_PENALTY, HUB_NEIGHBORS = 0.5, 10
#: Number of positions compared with all features of a style at a time, which bounds the memory.
BLOCK = 1024
#: Minimum norm that centered features are divided by, relative to the mean norm of the style's.
LEAST_NORM = 1e-3


@dataclass(frozen=True)
class GramAndNearest(Gram):
    """(1 − s) · the loss of Gram matrices + s · `NEAREST_SCALE` · that of `NearestTerm`, for a share s from 0 to 1.

    Gram matrices alone leave parts of the content unpainted; matching alone ignores how often a feature occurs in the
    style.
    """

    nearest_share: float = NEAREST_SHARE

    @property
    def matched_layers(self) -> tuple[str, ...]:
        """As `StyleLoss.matched_layers`."""
        return tuple(NEAREST_LAYERS) if self.nearest_share else ()


class Bank(NamedTuple):
    """Features of a style on one layer.

    Attributes:
        features: K×N, centered and of norm 1.
        mean: N.
        penalty: K, what each feature's similarity is lowered by.
        least: minimum norm that centered features of the image are divided by.
    """

    features: Tensor
    mean: Tensor
    penalty: Tensor
    least: Tensor


class NearestTerm(PositionTerm):
    """Σ_r s_r Σ_l w_l · mean over positions p of 1 − max_j (cos(F_p − μ, S_j − μ) − v_j), of regions r and layers l.

    S are a style's features on the layer and μ is their mean: Kolkin et al., *Neural Neighbor Style Transfer*, 2022,
    eq. 1 and 2. Deviations: F is centered by the style's mean too, not by its own, and neighbors are looked up in every
    evaluation. So the loss is a function of each position alone, and neither parts of an image nor resumed runs nor
    L-BFGS need anything for it. Several styles in a region are a mean of their losses.

    The penalty v keeps features that are similar to much of the content from being taken everywhere, which would change
    the proportions of the painting's colors. It is the local scaling of Conneau et al., *Word Translation Without
    Parallel Data*, ICLR 2018, section 2.3: the mean similarity to the most similar features of the content.

    Args:
        regions: and their styles, as for `StyleTerm`.
        shares: of the regions.
        content: 1×3×H×W in [0, 1].
        tiling: in which content and styles go through the encoder.
        penalize: whether to use the penalty, which only makes sense if the image stays close to the content.
    """

    def __init__(
        self,
        encoder: Encoder,
        regions: Sequence[Region],
        shares: Sequence[float],
        content: Tensor,
        tiling: Tiling,
        *,
        penalize: bool,
    ) -> None:
        self.encoder, self.shares, self.weights, self.tiling = encoder, shares, NEAREST_LAYERS, tiling
        self.positions = {layer: count_positions(layer, content) for layer in self.weights}
        self._guides = [make_guides(region.mask, self.weights) for region in regions]
        self._banks: list[list[tuple[dict[str, Bank], float]]] = []
        for region in regions:
            own = self._sample(content, region.mask, MOST_CONTENT_FEATURES) if penalize else {}
            self._banks.append([])
            for style in region.styles:
                sample = partial(self._sample, style.image, style.mask, MOST_FEATURES)
                what = "sample", tiling.strip_rows(style.image.shape[3])
                features = compute_once(encoder, style, what, sample)
                banks = {layer: make_bank(rows, own.get(layer)) for layer, rows in features.items()}
                self._banks[-1].append((banks, style.share))

    def evaluate(
        self, band: Band, layer: str, top: int, features: Tensor, scale: float
    ) -> tuple[Tensor | float, Tensor | None]:
        """As `PositionTerm.evaluate`."""
        if layer not in self.weights:
            return 0.0, None
        within, columns = band.at(layer)
        transform = self.encoder.feature_transform(layer)
        rows = as_rows(apply_channel_matrix(features[..., within], transform))
        loss, slope = rows.new_zeros(()), torch.zeros_like(rows)
        for guides, share, styles in zip(self._guides, self.shares, self._banks, strict=True):
            factors = rows.new_full((len(rows),), share * self.weights[layer] / self.positions[layer])
            if guides:
                factors *= guides[layer][0, 0, top : top + features.shape[2], columns].flatten().square()
            for banks, style_share in styles:
                loss += add_match(rows, banks[layer], factors * style_share, slope)
        width = columns.stop - columns.start
        slope = slope.mul_(scale).view(-1, width, slope.shape[1]).permute(2, 0, 1)[None].to(features.dtype)
        return loss, apply_channel_matrix(slope, None if transform is None else transform.T)

    def _sample(self, image: Tensor, mask: Tensor | None, most: int) -> dict[str, Tensor]:
        """Return the features of an image on each layer, K×N, within its mask if it has one; at most `most` of them."""
        guides = make_guides(mask, self.weights)
        chosen, found, done = {}, {layer: list[Tensor]() for layer in self.weights}, dict.fromkeys(self.weights, 0)
        for layer in self.weights:
            inside = torch.arange(count_positions(layer, image))
            if guides:
                guide = guides[layer].flatten().cpu()
                inside = inside[guide >= guide.max() / 2]
            order = torch.randperm(len(inside), generator=torch.Generator().manual_seed(0))
            chosen[layer] = inside[order[:most]].sort().values
        for layer, features in self.encoder.features(image, self.tiling.strip_rows(image.shape[3])):
            if layer not in self.weights:
                continue
            rows, start = as_rows(apply_channel_matrix(features, self.encoder.feature_transform(layer))), done[layer]
            done[layer] = start + len(rows)
            here = chosen[layer][(chosen[layer] >= start) & (chosen[layer] < done[layer])] - start
            found[layer].append(rows[here.to(rows.device)])
        return {layer: torch.cat(parts) for layer, parts in found.items()}


def make_bank(style: Tensor, content: Tensor | None) -> Bank:
    """Return the bank of a style's features K×N; without the content's, M×N, it has no penalty."""
    mean = style.mean(0)
    centered = style - mean
    unit = F.normalize(centered)
    penalty = unit.new_zeros(len(unit))
    if content is not None:
        similarities = F.normalize(content - mean) @ unit.T
        neighbors = similarities.topk(min(HUB_NEIGHBORS, len(content)), dim=0).values
        penalty = HUB_PENALTY * neighbors.mean(0)
        penalty -= penalty.min()  # a constant less: the loss stays near 0
    return Bank(unit, mean, penalty, LEAST_NORM * centered.norm(dim=1).mean())


def add_match(features: Tensor, bank: Bank, factors: Tensor, gradient: Tensor) -> Tensor:
    """Return Σ_p c_p (1 − max_j (cos(F_p − μ, S_j) − v_j)), and add its gradient with respect to F to `gradient`.

    Args:
        features: M×N, F.
        factors: M, c.
        gradient: M×N.
    """
    loss = factors.new_zeros(())
    for rows, c, slope in zip(*(torch.split(x, BLOCK) for x in (features, factors[:, None], gradient)), strict=True):
        unit, norms, best = find_nearest(rows, bank)
        nearest = bank.features[best]
        cosines = (unit * nearest).sum(1, keepdim=True)
        loss += (c * (1 - cosines + bank.penalty[best, None])).sum()
        slope += (unit * cosines - nearest) * (c / norms)
    return loss


def find_nearest(features: Tensor, bank: Bank) -> tuple[Tensor, Tensor, Tensor]:
    """Return features M×N centered and of norm 1, their norms M×1 before, and the bank index of each one's nearest."""
    centered = features - bank.mean
    norms = centered.norm(dim=1, keepdim=True).clamp(min=bank.least)
    unit = centered / norms
    return unit, norms, torch.addmm(bank.penalty, unit.detach(), bank.features.T, beta=-1).argmax(1)


def as_rows(features: Tensor) -> Tensor:
    """Return a feature map 1×N×H×W as a matrix HW×N in at least float32."""
    rows = features[0].permute(1, 2, 0).flatten(0, 1)
    return rows.to(torch.promote_types(rows.dtype, torch.float32))

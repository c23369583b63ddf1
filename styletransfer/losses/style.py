"""The style term: a style loss over layers, regions and several styles, evaluated in parts."""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TypeVar

import torch
from torch import Tensor

from ..encoder.tiling import Band, Tiling
from ..encoder.vgg import Encoder, level
from .base import Moments, StyleLoss
from .content import apply_channel_matrix, pool_mask
from .gram import gram_matrix

T = TypeVar("T")
#: What was computed from so many style images, each in one size, is kept by an encoder for the next run.
KEPT_STYLES = 8


@dataclass(frozen=True)
class Style:
    """A style image of a region.

    Attributes:
        image: 1×3×H×W in [0, 1].
        share: of it in the style of its region, which is a mean over its images; all shares together are 1.
        mask: 1×1×H×W in [0, 1], the weight of each of its pixels; None for equal weights.
    """

    image: Tensor
    share: float = 1.0
    mask: Tensor | None = None

    @cached_property
    def digest(self) -> bytes:
        """The SHA-256 of image and mask."""
        digest = hashlib.sha256()
        for tensor in (self.image, self.mask):
            digest.update(b"" if tensor is None else tensor.cpu().contiguous().numpy().data)
        return digest.digest()


@dataclass(frozen=True)
class Region:
    """A part of the image and its styles.

    Several styles are a mean of their moments: for Gram matrices the gradient is that of the mean of the squared
    distances, which differs from this one's by a constant only.

    Attributes:
        mask: 1×1×H×W in [0, 1], of the image's size; None for the whole image.
        share: of the region in the style loss; that of its positions if not given.
    """

    styles: Sequence[Style]
    mask: Tensor | None = None
    share: float | None = None


class StyleTerm:
    """Σ_r s_r Σ_l w_l · distance, of regions r and layers l, from the moments of an image that are added up in parts.

    Args:
        loss: has the distance on one layer.
        weights: shares of the layers, of sum 1.
        tiling: in which the style images go through the encoder.
    """

    def __init__(
        self,
        loss: StyleLoss,
        encoder: Encoder,
        regions: Sequence[Region],
        weights: Mapping[str, float],
        tiling: Tiling,
    ) -> None:
        self.loss, self.encoder, self.weights = loss, encoder, dict(weights)
        self._guides = [make_guides(region.mask, self.weights) for region in regions]
        # A position counts as much as it does without masks, however small its region is.
        self.shares = [
            region.share or (1.0 if region.mask is None else region.mask.square().mean().item()) for region in regions
        ]
        #: For each region, the moments of its styles by layer.
        self.styles = [self._mean_moments(region.styles, tiling) for region in regions]
        self._targets = [{layer: loss.prepare(m) for layer, m in styles.items()} for styles in self.styles]

    def zeros(self) -> list[dict[str, Moments]]:
        """Return moments to add to, for each region by layer."""
        return [{layer: moments.map(torch.zeros_like) for layer, moments in styles.items()} for styles in self.styles]

    def add(
        self, sums: list[dict[str, Moments]], band: Band, layer: str, top: int, features: Tensor, positions: int
    ) -> None:
        """Add what a strip of a layer's features contributes to the moments of every region.

        Args:
            top: row of the map at which the strip begins.
            positions: of the whole map.
        """
        if layer not in self.weights:
            return
        for region, moments in enumerate(sums):
            guide = self._guide(region, band, layer, top, features)
            part = compute_moments(features[..., band.at(layer)[0]], guide, positions, self.loss.uses_mean)
            moments[layer].second.add_(part.second)
            moments[layer].mean.add_(part.mean)

    def evaluate(
        self, sums: list[dict[str, Moments]], positions: Mapping[str, int], scale: float
    ) -> tuple[Tensor, list[dict[str, Moments]]]:
        """Return the loss, and what `pull` needs of its gradient.

        Args:
            sums: the moments of the whole image.
            positions: of each layer's map.
            scale: of the gradient.
        """
        total, slopes = next(iter(sums[0].values())).second.new_zeros(()), list[dict[str, Moments]]()
        for moments, targets, share in zip(sums, self._targets, self.shares, strict=True):
            slopes.append({})
            for layer, weight in self.weights.items():
                transform = self.encoder.feature_transform(layer)
                loss, slope = self.loss.distance_and_gradient(moments[layer].transform(transform), targets[layer])
                total = total + share * weight * loss
                slope = slope.transform(None if transform is None else transform.T)
                factor, dtype = scale * share * weight, self.encoder.get_buffer(f"{layer}_adjoint").dtype
                slopes[-1][layer] = Moments(
                    (slope.second * (factor * 2 / positions[layer])).to(dtype),
                    (slope.mean * (factor / positions[layer])).to(dtype),
                )
        return total, slopes

    def pull(
        self, slopes: list[dict[str, Moments]], band: Band, layer: str, top: int, features: Tensor
    ) -> Tensor | None:
        """Return the gradient with respect to a strip of a layer's features within the band's core."""
        if layer not in self.weights:
            return None
        total = None
        for region, by_layer in enumerate(slopes):
            guide, slope = self._guide(region, band, layer, top, features), by_layer[layer]
            weight = None if guide is None else guide.square().to(features.dtype)
            part = apply_channel_matrix(features if weight is None else features * weight, slope.second)
            if len(slope.mean):
                constant = slope.mean[:, None, None]
                part += constant if weight is None else constant * weight
            total = part if total is None else total.add_(part)
        return total

    def _guide(self, region: int, band: Band, layer: str, top: int, features: Tensor) -> Tensor | None:
        """Return a region's factor of a strip of a layer's features within the band's core, if it has a mask."""
        guides = self._guides[region]
        return guides[layer][:, :, top : top + features.shape[2], band.at(layer)[1]] if guides else None

    def _mean_moments(self, styles: Sequence[Style], tiling: Tiling) -> dict[str, Moments]:
        """Return the moments of several styles together, as the loss sees them."""
        total: dict[str, Moments] = {}
        for style in styles:
            for layer, moments in self._moments_of(style, tiling.strip_rows(style.image.shape[3])).items():
                part = moments.map(partial(torch.mul, other=style.share))
                total[layer] = total[layer] + part if layer in total else part
        return {layer: moments.transform(self.encoder.feature_transform(layer)) for layer, moments in total.items()}

    def _moments_of(self, style: Style, rows: int | None) -> dict[str, Moments]:
        what = "moments", rows, tuple(self.weights), self.loss.uses_mean
        return compute_once(self.encoder, style, what, partial(self._compute_moments, style, rows))

    def _compute_moments(self, style: Style, rows: int | None) -> dict[str, Moments]:
        total: dict[str, Moments] = {}
        guides, done = make_guides(style.mask, self.weights), defaultdict[str, int](int)
        for layer, features in self.encoder.features(style.image, rows):
            if layer not in self.weights:
                continue
            strip = slice(done[layer], done[layer] + features.shape[2])
            guide, done[layer] = guides[layer][:, :, strip] if guides else None, strip.stop
            part = compute_moments(features, guide, count_positions(layer, style.image), self.loss.uses_mean)
            total[layer] = total[layer] + part if layer in total else part
        return total


def compute_once(encoder: Encoder, style: Style, what: Hashable, compute: Callable[[], T]) -> T:
    """Return `compute()`, cached by the encoder for the last `KEPT_STYLES` style images.

    Args:
        what: the name of the result, and all that it depends on besides the style and the encoder.
    """
    key, kept = (style.digest, style.image.shape), encoder.kept
    while key not in kept and len(kept) >= KEPT_STYLES:
        del kept[next(iter(kept))]  # the oldest
    results = kept.setdefault(key, {})
    if what not in results:
        results[what] = compute()
    found: T = results[what]
    return found


def compute_moments(features: Tensor, guide: Tensor | None, positions: int, with_mean: bool) -> Moments:
    """Return the moments of features 1×N×H×W, or what they contribute to those of a map with more positions."""
    guided = features if guide is None else features * guide
    second = gram_matrix(guided, positions)
    if not with_mean:
        return Moments(second, second.new_empty(0))
    weighted = guided if guide is None else guided * guide
    return Moments(second, weighted.sum((0, 2, 3), dtype=second.dtype) / positions)


def make_guides(mask: Tensor | None, layers: Mapping[str, float]) -> dict[str, Tensor] | None:
    """Return a mask 1×1×H×W as a factor of each style layer's features, 1×1×h×w, whose mean square is 1.

    Gatys et al. 2017, *Controlling Perceptual Factors in Neural Style Transfer*, section 4.1; there the sum of squares
    is 1, and Gram matrices aren't divided by M. It follows the poolings as a mean; a region's border is as soft as a
    layer's positions are large.
    """
    if mask is None:
        return None
    masks = pool_mask(mask, layers)
    return {k: m / m.square().mean().sqrt().clamp(min=torch.finfo(m.dtype).tiny) for k, m in masks.items()}


def count_positions(layer: str, image: Tensor) -> int:
    """Return M, the number of positions that a layer has of an image."""
    return (image.shape[2] >> level(layer)) * (image.shape[3] >> level(layer))

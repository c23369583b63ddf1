"""The objective: evaluate(image) -> loss terms and gradient. The optimiser sees nothing else.

Gatys, Ecker, Bethge, CVPR 2016, eq. 7: total = α · content + β · style. Three deviations: both are relative to their
targets (`losses`), there is a total variation term on request, and a term that keeps the values within what a file can
hold.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from ..machine import ranks
from ..network import Band, Encoder, Tiling, Trace, bands, level
from .losses import (
    Loss,
    absolute_change,
    content_loss,
    energy,
    gamut_loss,
    gram_matrix,
    squared_change,
    style_loss,
    temporal_loss,
    total_variation,
)

#: Image 1×3×H×W -> (terms in the order of `Losses`, gradient of the total), on the image's device.
Evaluate = Callable[[Tensor], tuple[Tensor, Tensor]]

#: Weight of the gamut loss as a multiple of α + β. From 10 to 1000 the losses are the same within 3 %.
GAMUT_WEIGHT = 100.0


@dataclass(frozen=True)
class Losses:
    """The loss terms of one image: total = α · content + β · style + tv_weight · tv + the terms of single pixels, which
    are the gamut loss and, on request, L1 and L2 of the change from the content and the temporal loss."""

    total: float
    content: float
    style: float
    tv: float = 0.0


@dataclass(frozen=True)
class Style:
    """A picture whose style a region is to have.

    Attributes:
        image: 1×3×H×W in [0, 1].
        share: of it in the style of its region, which is a mean over its pictures; all shares together are 1.
        mask: 1×1×H×W in [0, 1], how much each of its pixels counts; None for all alike.
    """

    image: Tensor
    share: float = 1.0
    mask: Tensor | None = None


@dataclass(frozen=True)
class Region:
    """A part of the image and what style it is to have.

    Several styles are a mean of their Gram matrices: the gradient is that of the mean of their squared distances, which
    differs from this one's by a constant only.

    Attributes:
        mask: 1×1×H×W in [0, 1], of the image's size; None for the whole image.
        share: of the region in the style loss; that of its positions if not given.
    """

    styles: Sequence[Style]
    mask: Tensor | None = None
    share: float | None = None


@dataclass(frozen=True)
class Anchor:
    """A picture that the image is to stay near, 1×3×H×W in its size, and how near at each pixel, 1×1×H×W."""

    image: Tensor
    weights: Tensor


class Objective:
    """What the generated picture is to minimise.

    The style loss depends on the image only through Gram matrices, which are sums over positions. So it is evaluated in
    two passes, each of which can work through the image in parts: the first adds up Gram matrices and content loss; the
    second knows from them the gradient with respect to each feature, and takes it back to the image.

    Args:
        encoder: returns at least the layers named in the weights.
        content: an image tensor 1×3×H×W in [0, 1]. The image to evaluate has its size.
        style: another one of any size, or regions with styles of their own.
        content_weights, style_weights: shares of the layers in the content and in the style loss, each of sum 1.
        alpha, beta, tv, l1, l2: weights of the content loss, the style loss, the total variation, and of the mean
            absolute and squared change from the content's pixels.
        tiling: in which parts; the whole image at once if not given.
        anchor: adds its temporal loss.
    """

    def __init__(
        self,
        encoder: Encoder,
        content: Tensor,
        style: Tensor | Sequence[Region],
        content_weights: Mapping[str, float],
        style_weights: Mapping[str, float],
        alpha: float,
        beta: float,
        tv: float = 0.0,
        tiling: Tiling | None = None,
        *,
        l1: float = 0.0,
        l2: float = 0.0,
        anchor: Anchor | None = None,
    ) -> None:
        self.encoder, self.alpha, self.beta, self.tv, self.tiling = encoder, alpha, beta, tv, tiling or Tiling()
        self.anchor = anchor
        self.l1, self.l2, self.content = l1, l2, content if l1 or l2 else None
        self.content_weights, self.style_weights = dict(content_weights), dict(style_weights)
        self.bands = ranks.take_share(bands(content.shape[3], self.tiling.columns, encoder))
        self.content_targets: dict[str, Tensor] = {}
        done: dict[str, int] = defaultdict(int)
        for layer, features in encoder.features(content, self._rows(content)):
            if layer not in content_weights:
                continue
            if layer not in done:
                size = 1, features.shape[1], content.shape[2] >> level(layer), features.shape[3]
                whole = torch.empty(
                    size, dtype=features.dtype, device=features.device, memory_format=torch.channels_last
                )
                self.content_targets[layer] = whole
            rows = slice(done[layer], done[layer] + features.shape[2])
            self.content_targets[layer][:, :, rows] = _mix(features, encoder.metric(layer))
            done[layer] = rows.stop
        regions = [Region([Style(style)])] if isinstance(style, Tensor) else style
        self.guides = [_make_guides(region.mask, self.style_weights) for region in regions]
        # A position counts as much as it does without masks, however small its region is.
        self.shares = [
            region.share or (1.0 if region.mask is None else region.mask.square().mean().item()) for region in regions
        ]
        self.style_targets = [self._style_targets(region.styles) for region in regions]
        self.content_energies, *self.style_energies = (
            {layer: energy(target) for layer, target in targets.items()}
            for targets in (self.content_targets, *self.style_targets)
        )

    def _style_targets(self, styles: Sequence[Style]) -> dict[str, Tensor]:
        """The Gram matrix of each style layer: the mean of the pictures' own."""
        total: dict[str, Tensor] = {}
        for style in styles:
            guides, done = _make_guides(style.mask, self.style_weights), defaultdict[str, int](int)
            for layer, features in self.encoder.features(style.image, self._rows(style.image)):
                if layer not in self.style_weights:
                    continue
                if guides:
                    rows = slice(done[layer], done[layer] + features.shape[2])
                    features, done[layer] = features * guides[layer][:, :, rows], rows.stop
                gram = style.share * gram_matrix(features, _positions(layer, style.image))
                total[layer] = total[layer] + gram if layer in total else gram
        return {layer: _measure(gram, self.encoder.metric(layer)) for layer, gram in total.items()}

    def _rows(self, image: Tensor) -> int | None:
        """The height of strips as wide as an image that take no more memory than those of the bands."""
        rows, columns = self.tiling.rows, self.tiling.columns
        return rows if rows is None or columns is None else max(16, rows * columns // image.shape[3])

    @torch.no_grad()
    def evaluate(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The loss terms of an image 1×3×H×W in the order of `Losses`, and the gradient of the total, of its shape.

        Nothing here waits for the device: the terms are a tensor, to be read when somebody wants to know.
        """
        # First of all: between the maps it would lie in the way of the next evaluation's, and the heap would grow.
        gradient = torch.zeros_like(image)
        content = image.new_zeros(())
        grams = [{layer: torch.zeros_like(gram) for layer, gram in targets.items()} for targets in self.style_targets]

        def first(band: Band, layer: str, top: int, features: Tensor) -> Tensor | None:
            if layer in self.style_weights:
                self._add_grams(grams, band, layer, top, features, _positions(layer, image))
            loss, slope = self._content_terms(band, layer, top, features)
            content.add_(loss)
            return slope

        def second(band: Band, layer: str, top: int, features: Tensor) -> Tensor | None:
            return self._content_terms(band, layer, top, features)[1]

        def trace(band: Band) -> Trace:
            return Trace(self.encoder, image[..., band.left : band.right], self.tiling.rows, self.tiling.kept)

        traces = [(band, trace(band)) for band in self.bands]
        for band, way in traces:
            way.forward(partial(first, band))
        ranks.sum_over_processes([content, *(gram for region in grams for gram in region.values())])
        style, mixings = self._style_terms(grams, image)
        for band, way in traces:
            part = gradient[..., band.left : band.right]
            way.backward(partial(self._pull, mixings, band), partial(second, band), part, band.core)
        ranks.sum_over_processes([gradient])
        return self._add_regularizers(image, content, style, gradient)

    def _guide(self, region: int, band: Band, layer: str, top: int, features: Tensor) -> Tensor | None:
        """A region's factor of a strip of a layer's features within the band's core, if it has a mask."""
        guides = self.guides[region]
        return guides[layer][:, :, top : top + features.shape[2], band.at(layer)[1]] if guides else None

    def _add_grams(
        self, grams: list[dict[str, Tensor]], band: Band, layer: str, top: int, features: Tensor, positions: int
    ) -> None:
        """Adds what a strip contributes to the Gram matrices of every region."""
        within = features[..., band.at(layer)[0]]
        for region, gram in enumerate(grams):
            guide = self._guide(region, band, layer, top, features)
            gram[layer] += gram_matrix(within if guide is None else within * guide, positions)

    def _style_terms(self, grams: list[dict[str, Tensor]], image: Tensor) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """The style loss, and for every region ``{layer: K}``: its gradient with respect to the features F is K·F."""
        total, mixings = image.new_zeros(()), []
        regions = zip(grams, self.style_targets, self.style_energies, self.shares, strict=True)
        for gram, targets, energies, share in regions:
            mixings.append(dict[str, Tensor]())
            for layer, weight in self.style_weights.items():
                metric = self.encoder.metric(layer)
                loss, slope = style_loss(_measure(gram[layer], metric), targets[layer], energies[layer])
                total = total + share * weight * loss
                slope = _measure(slope, None if metric is None else metric.T)
                mixing = slope * (self.beta * share * weight * 2 / _positions(layer, image))
                mixings[-1][layer] = mixing.to(self.encoder.get_buffer(f"{layer}_adjoint").dtype)
        return total, mixings

    def _pull(
        self, mixings: list[dict[str, Tensor]], band: Band, layer: str, top: int, features: Tensor
    ) -> Tensor | None:
        """The gradient of the style loss with respect to a strip of a layer's features within the band's core."""
        if layer not in self.style_weights:
            return None
        total = None
        for region, mixing in enumerate(mixings):
            guide = self._guide(region, band, layer, top, features)
            seen = features if guide is None else features * guide.square().to(features.dtype)
            mixed = _mix(seen, mixing[layer])
            total = mixed if total is None else total.add_(mixed)
        return total

    def _content_terms(
        self, band: Band, layer: str, top: int, features: Tensor
    ) -> tuple[Tensor | float, Tensor | None]:
        """What a strip of a layer's features contributes to the content loss, and α times its gradient."""
        weight = self.content_weights.get(layer)
        if not weight:
            return 0.0, None
        target = self.content_targets[layer]
        within, columns = band.at(layer)
        target = target[:, :, top : top + features.shape[2], columns]
        metric = self.encoder.metric(layer)
        loss, slope = content_loss(_mix(features[..., within], metric), target, self.content_energies[layer])
        return weight * loss, _mix(slope, None if metric is None else metric.T) * (self.alpha * weight)

    def _add_regularizers(
        self, image: Tensor, content: Tensor, style: Tensor, gradient: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The loss terms and the gradient of the total: the network's and that of the pixels' own terms."""
        variation = image.new_zeros(())
        if self.tv:
            variation, slope = total_variation(image)
            gradient += slope.mul_(self.tv)
        pixels = image.new_zeros(())
        for top in range(0, image.shape[2], rows := self._rows(image) or image.shape[2]):
            strip = slice(top, top + rows)
            for weight, (loss, slope) in self._pixel_terms(image, strip):
                pixels = pixels + weight * loss
                gradient[:, :, strip].add_(slope, alpha=weight)
        total = torch.stack([self.alpha * content, self.beta * style, self.tv * variation, pixels]).sum()
        return torch.stack([total, content, style, variation]), gradient

    def _pixel_terms(self, image: Tensor, rows: slice) -> Iterator[tuple[float, Loss]]:
        """What the terms of single pixels are in some rows, each with its weight."""
        part, values = image[:, :, rows], image.numel()
        yield GAMUT_WEIGHT * (self.alpha + self.beta), gamut_loss(part, values)
        if self.content is not None:
            change = part - self.content[:, :, rows]
            yield self.l1, absolute_change(change, values)
            yield self.l2, squared_change(change, values)
        if self.anchor:
            change = part - self.anchor.image[:, :, rows]
            yield 1.0, temporal_loss(change, self.anchor.weights[:, :, rows], values)


def _mix(features: Tensor, matrix: Tensor | None) -> Tensor:
    """The product of a matrix n×n with features 1×n×H×W at every position; the features themselves without one."""
    return features if matrix is None else F.conv2d(features, matrix[:, :, None, None].to(features.dtype))


def _measure(gram: Tensor, metric: Tensor | None) -> Tensor:
    """The Gram matrix T G Tᵀ of T·F from that of features F; the same without a metric T."""
    return gram if metric is None else metric @ gram @ metric.T


def _make_guides(mask: Tensor | None, layers: Mapping[str, float]) -> dict[str, Tensor] | None:
    """A mask 1×1×H×W as a factor of each style layer's features, 1×1×h×w, its mean square 1 (Gatys et al. 2017,
    *Controlling Perceptual Factors in Neural Style Transfer*, section 4.1: there the sum of squares is 1, and Gram
    matrices aren't divided by M).

    It follows the poolings as a mean; a region's border is as soft as a layer's positions are large.
    """
    if mask is None:
        return None
    levels = [mask]
    for _ in range(max(map(level, layers), default=0)):
        levels.append(F.avg_pool2d(levels[-1], 2))
    scaled = [m / m.square().mean().sqrt().clamp(min=torch.finfo(m.dtype).tiny) for m in levels]
    return {layer: scaled[level(layer)] for layer in layers}


def _positions(layer: str, image: Tensor) -> int:
    """M, the number of positions that a layer has of an image."""
    return (image.shape[2] >> level(layer)) * (image.shape[3] >> level(layer))

"""The objective: evaluate(image) -> loss terms and gradient. The optimizer sees nothing else."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..encoder.backward import BackwardPass
from ..encoder.tiling import Band, Tiling, bands
from ..encoder.vgg import Encoder
from ..runtime import distributed
from .base import PositionTerm, StyleLoss
from .content import ContentTerm
from .nearest import NEAREST_SCALE, NearestTerm
from .pixels import (
    Loss,
    TemporalPrior,
    absolute_change,
    gamut_loss,
    squared_change,
    temporal_loss,
    total_variation,
)
from .style import Region, Style, StyleTerm, count_positions

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


class Objective:
    """What the output image minimizes: α · content + β · style (Gatys, Ecker, Bethge, CVPR 2016, eq. 7).

    Deviations: both are relative to their targets, and there are terms of pixels.

    Content and style losses are functions of sums over positions. So they are evaluated in two passes, each of which
    can go through the image in parts: the first adds up moments and content loss; these give the gradient with respect
    to each feature, which the second takes back to the image.

    Args:
        encoder: returns at least the layers named in the weights.
        content: an image tensor 1×3×H×W in [0, 1]. The image to evaluate has its size.
        style: another one of any size, or regions with styles of their own.
        content_weights, style_weights: shares of the layers in the content and in the style loss, each of sum 1.
        alpha, beta, tv, l1, l2: weights of the content loss, the style loss, the total variation, and of the mean
            absolute and squared change from the content's pixels.
        tiling: in which parts; the whole image at once if not given.
        style_loss: the distance on each style layer, such as those of `LOSSES`.
        prior: adds its temporal loss.
        content_mask: 1×1×H×W, at least 0, a factor of the content loss at each place; None for 1.
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
        style_loss: StyleLoss,
        l1: float = 0.0,
        l2: float = 0.0,
        prior: TemporalPrior | None = None,
        content_mask: Tensor | None = None,
    ) -> None:
        self.encoder, self.alpha, self.beta, self.tv, self.tiling = encoder, alpha, beta, tv, tiling or Tiling()
        self.prior, self.l1, self.l2 = prior, l1, l2
        self.original = content if l1 or l2 else None
        self.bands = distributed.take_share(bands(content.shape[3], self.tiling.columns, encoder))
        rows = self.tiling.strip_rows(content.shape[3])
        self.content = ContentTerm(encoder, content, content_weights, rows, content_mask)
        regions = [Region([Style(style)])] if isinstance(style, Tensor) else style
        self.style = StyleTerm(style_loss, encoder, regions, style_weights, self.tiling)
        self.statistic_share = 1 - style_loss.nearest_share
        self.nearest_weight = style_loss.nearest_share * NEAREST_SCALE
        #: Terms that compare each position with a target of its own, and their weights.
        self.position_terms: list[tuple[PositionTerm, float]] = [(self.content, alpha)]
        if style_loss.nearest_share:
            nearest = NearestTerm(encoder, regions, self.style.shares, content, self.tiling, penalize=alpha > 0)
            self.position_terms.append((nearest, beta * self.nearest_weight))

    @torch.no_grad()
    def evaluate(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the loss terms of an image 1×3×H×W in the order of `Losses`, and the gradient of the total, 1×3×H×W.

        Nothing here waits for the device: the terms are a tensor, to be read when they are needed.
        """
        # First of all: between the maps it would lie in the way of the next evaluation's, and the heap would grow.
        gradient = torch.zeros_like(image)
        losses = [image.new_zeros(()) for _ in self.position_terms]
        sums = self.style.zeros()
        positions = {layer: count_positions(layer, image) for layer in self.style.weights}

        def first(band: Band, layer: str, top: int, features: Tensor) -> Tensor | None:
            self.style.add(sums, band, layer, top, features, positions.get(layer, 0))
            parts, slope = self._compare_positions(band, layer, top, features)
            for loss, part in zip(losses, parts, strict=True):
                loss.add_(part)
            return slope

        def second(band: Band, layer: str, top: int, features: Tensor) -> Tensor | None:
            return self._compare_positions(band, layer, top, features)[1]

        traces = [
            (band, BackwardPass(self.encoder, image[..., band.left : band.right], self.tiling.rows, self.tiling.kept))
            for band in self.bands
        ]
        for band, trace in traces:
            trace.forward(partial(first, band))
        moments = [m for by_layer in sums for m in by_layer.values()]
        distributed.sum_over_processes([*losses, *(m.second for m in moments), *(m.mean for m in moments)])
        style, slopes = self.style.evaluate(sums, positions, self.beta * self.statistic_share)
        content, *nearest = losses
        style = self.statistic_share * style + self.nearest_weight * sum(nearest)
        for band, trace in traces:
            part = gradient[..., band.left : band.right]
            trace.backward(partial(self.style.pull, slopes, band), partial(second, band), part, band.core)
        distributed.sum_over_processes([gradient])
        return self._add_pixel_terms(image, content, style, gradient)

    def _compare_positions(
        self, band: Band, layer: str, top: int, features: Tensor
    ) -> tuple[list[Tensor | float], Tensor | None]:
        """Return the loss of each position term on a strip, and the gradient of their weighted sum."""
        losses, total = list[Tensor | float](), None
        for term, weight in self.position_terms:
            loss, slope = term.evaluate(band, layer, top, features, weight)
            losses.append(loss)
            if slope is not None:
                total = slope if total is None else total.add_(slope)
        return losses, total

    def _add_pixel_terms(
        self, image: Tensor, content: Tensor, style: Tensor, gradient: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the loss terms and the gradient of the total: the network's and that of the pixels' own terms."""
        variation = image.new_zeros(())
        if self.tv:
            variation, slope = total_variation(image)
            gradient += slope.mul_(self.tv)
        pixels = image.new_zeros(())
        for top in range(0, image.shape[2], rows := self.tiling.strip_rows(image.shape[3]) or image.shape[2]):
            strip = slice(top, top + rows)
            for weight, (loss, slope) in self._pixel_terms(image, strip):
                pixels = pixels + weight * loss
                gradient[:, :, strip].add_(slope, alpha=weight)
        total = torch.stack([self.alpha * content, self.beta * style, self.tv * variation, pixels]).sum()
        return torch.stack([total, content, style, variation]), gradient

    def _pixel_terms(self, image: Tensor, rows: slice) -> Iterator[tuple[float, Loss]]:
        """Yield the terms of single pixels in some rows, each with its weight."""
        part, values = image[:, :, rows], image.numel()
        yield GAMUT_WEIGHT * (self.alpha + self.beta), gamut_loss(part, values)
        if self.original is not None:
            change = part - self.original[:, :, rows]
            yield self.l1, absolute_change(change, values)
            yield self.l2, squared_change(change, values)
        if self.prior:
            change = part - self.prior.image[:, :, rows]
            yield 1.0, temporal_loss(change, self.prior.weight[:, :, rows], values)

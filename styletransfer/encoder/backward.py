"""The forward and the backward pass of one image through the encoder, without autograd."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from .convolution import convolve_back
from .streaming import Queue, StreamingConv
from .vgg import Encoder, level

#: Called with a layer's name, a row of its feature map and a strip of the map that begins there, 1×N×rows×W. Returns
#: the part of the loss's gradient with respect to the strip that depends only on the strip, or None.
FeatureHook = Callable[[str, int, Tensor], Tensor | None]
#: Called likewise in the backward pass: returns the part of the gradient with respect to a strip that depends on
#: statistics of the whole image, or None.
GradientHook = Callable[[str, int, Tensor], Tensor | None]


class BackwardPass:
    """Forward and backward pass of one image through the encoder, without autograd.

    The backward pass of frozen convolutions needs only the signs of their outputs, a byte each, and the features that
    the hooks use; these are kept in its precision. The image can be processed in strips, and the maps of the first
    blocks, which are the largest, can be recomputed instead of kept; then only the rows between the second forward
    pass and the backward pass are in memory: twice the halo and some strips. The result is always the same.

    Args:
        image: 1×3×H×W, RGB in [0, 1].
        rows: height of a strip; None for one strip.
        kept: the first block whose maps are kept: 1 for all, 6 for none.
    """

    def __init__(self, encoder: Encoder, image: Tensor, rows: int | None = None, kept: int = 1) -> None:
        self.encoder, self.image, self.rows, self.kept = encoder, image, rows or image.shape[2], kept
        self.precision = encoder.get_buffer(f"{encoder.names[0]}_adjoint").dtype
        self.layers: dict[str, _Layer] = {}
        for name in encoder.names:
            kernel, projection = encoder.get_buffer(f"{name}_adjoint"), encoder._buffers[f"{name}_projection_adjoint"]
            same = self.precision == encoder.get_buffer(f"{name}_weight").dtype
            transformed = encoder.transformed(name, image.shape[2:]) if same else None
            backward = partial(convolve_back, kernel=kernel, projection=projection, transformed=transformed)
            height = image.shape[2] >> level(name)
            self.layers[name] = _Layer(name, encoder.is_pooled(name), height, StreamingConv(backward, height))

    @torch.no_grad()
    def forward(self, feature_hook: FeatureHook) -> None:
        """Call the feature hook with the features of the encoder's layers."""
        for name, top, x in self.encoder.maps(self.image, self.rows, self.encoder.names):
            gradient = feature_hook(name, top, x) if name in self.encoder.layers else None
            if level(name) + 1 >= self.kept:
                self._keep(name, x, gradient)
            del x, gradient

    @torch.no_grad()
    def backward(
        self, gradient_hook: GradientHook, feature_hook: FeatureHook, gradient: Tensor, columns: slice = slice(None)
    ) -> None:
        """Add the gradient of a loss that is a sum over layers to `gradient`; call once, after `forward`.

        The gradient with respect to a layer's features is the sum of what the two hooks return for them.

        Args:
            feature_hook: called again with the features that were not kept.
            gradient: with respect to the image, of its shape; added to in place.
            columns: of the image, to which the hooks' gradients and the gradient hook's features are limited.
        """
        recomputed = [name for name in self.encoder.names if level(name) + 1 < self.kept]
        maps = self.encoder.maps(self.image, self.rows, recomputed)
        deepest, done = self.layers[self.encoder.names[-1]], 0
        while deepest.missing:
            strip: Tensor | None = None
            for layer in reversed(self.layers.values()):
                rows = layer.take(strip.shape[2] if strip is not None else self.rows >> level(layer.name))
                while layer.waiting.rows < rows:
                    name, top, x = next(maps)
                    self._keep(name, x, feature_hook(name, top, x) if name in self.encoder.layers else None)
                strip = self._backpropagate(layer, layer.waiting.take(rows), strip, gradient_hook, columns)
                if strip is None:
                    break
            else:
                assert strip is not None
                gradient[:, :, done : done + strip.shape[2]].add_(strip)
                done += strip.shape[2]

    def _keep(self, name: str, x: Tensor, gradient: Tensor | None) -> None:
        # Mixing precisions within one operation is slow, and the backward pass needs only its own.
        x = x.to(self.precision) if self.encoder.needs_values(name) else _make_relu_mask(x)
        self.layers[name].waiting.push(x, gradient if gradient is None else gradient.to(self.precision))

    def _backpropagate(
        self,
        layer: "_Layer",
        pieces: list[tuple[Tensor, Tensor | None]],
        gradient: Tensor | None,
        gradient_hook: GradientHook,
        columns: slice,
    ) -> Tensor | None:
        """Return the ready rows of the gradient at a layer's input, from a strip of that at the next layer's input."""
        if gradient is None:
            gradient = torch.cat([torch.zeros_like(x) for x, _ in pieces], 2)
        elif layer.pooled:
            gradient = self.encoder.pool_backward(gradient, [x for x, _ in pieces])
        core = slice(*((c and c >> level(layer.name)) for c in (columns.start, columns.stop)))
        top = 0
        while pieces:  # they are large: free each after its use
            x, kept_term = pieces.pop(0)
            part = gradient[:, :, top : top + x.shape[2]]
            for term in (kept_term, gradient_hook(layer.name, layer.used, x[..., core])):
                if term is not None:
                    part[..., core].add_(term)
            layer.used += x.shape[2]
            _relu_backward(part, x)
            top += x.shape[2]
            del x, kept_term, term, part
        return layer.convolution.push(gradient)


def _make_relu_mask(x: Tensor) -> Tensor:
    """Return where features are positive, a byte each; on a GPU where they are not, as `_relu_backward` needs."""
    return x.to(torch.bool) if x.device.type == "cpu" else x <= 0


def _relu_backward(gradient: Tensor, x: Tensor) -> None:
    """Set the gradient to 0 in place where features are not positive; x is the features or their `_make_relu_mask`.

    On a CPU filling under a mask takes ten times as long as multiplying by numbers, on a GPU a third of that.
    """
    if x.dtype == torch.bool:
        if x.device.type != "cpu":
            gradient.masked_fill_(x, 0)
            return
        x = x.view(torch.uint8).to(gradient.dtype)  # multiplying by booleans takes five times as long
    torch.ops.aten.threshold_backward.grad_input(gradient, x, 0, grad_input=gradient)


@dataclass
class _Layer:
    """One layer of a `BackwardPass`.

    Attributes:
        pooled: whether pooling follows.
        missing: rows of the gradient not yet requested.
        convolution: maps the gradient to that of the layer's input.
        waiting: features or their signs, and the gradients that the feature hook returned for them.
        used: rows of these already consumed.
    """

    name: str
    pooled: bool
    missing: int
    convolution: StreamingConv
    waiting: Queue = field(default_factory=Queue)
    used: int = 0

    def take(self, following: int) -> int:
        """Return how many rows belong to so many rows of the next layer, and count them as no longer missing."""
        rows = 2 * following if self.pooled else max(1, following)
        if rows >= self.missing - self.pooled:  # pooling drops the last of an odd number
            rows = self.missing
        self.missing -= rows
        return rows

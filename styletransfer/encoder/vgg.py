"""The encoder: VGG-19's trunk of 3×3 convolutions at any width, cut after the last layer used.

Simonyan and Zisserman, *Very Deep Convolutional Networks for Large-Scale Image Recognition*, ICLR 2015.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError
from ..options import LAYERS
from . import winograd
from .convolution import Convolution, convolve, convolve_back
from .strips import Queue, StreamingConv, StreamingPool


def _average_pool(x: Tensor) -> Tensor:
    if x.device.type == "cpu":
        return F.avg_pool2d(x, 2)
    # Of channels-last maps on a GPU a mean over two axes takes a third of the time.
    count, channels, height, width = x.shape
    even = x[:, :, : height // 2 * 2, : width // 2 * 2].permute(0, 2, 3, 1)
    return even.view(count, height // 2, 2, width // 2, 2, channels).mean((2, 4)).permute(0, 3, 1, 2)


def _l2_pool(x: Tensor) -> Tensor:
    # The gradient of a square root is infinite at 0, and ReLU features are often exactly 0 in a whole window.
    return (_average_pool(x.square()) * 4).clamp(min=1e-30).sqrt()


POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "avg": _average_pool,
    "max": lambda x: F.max_pool2d(x, 2),
    "l2": _l2_pool,
}

#: Called with a layer's name, the number of a row of its feature map and a strip of the map from there on, 1×N×rows×W.
#: Gives the part of the loss's gradient with respect to the strip that can be told from it alone, if there is any.
FeatureHook = Callable[[str, int, Tensor], Tensor | None]
#: Called likewise on the way back: the part of the gradient with respect to a strip that is known only after all strips
#: were seen.
GradientHook = Callable[[str, int, Tensor], Tensor | None]


class Encoder(nn.Module):
    """Maps an image to the feature maps of chosen layers; `BackwardPass` takes gradients with respect to those back.

    Args:
        weights: ``{"conv1_1": Convolution, …}``, or as much of its fields as there are, that take RGB in [0, 1], in the
            order of `LAYERS` (`weights.load` gives them so).
        layers: names of the layers to return; the network ends after the deepest.
        pooling: "avg" (as in the paper, where VGG-19 was trained with max), "max" or "l2".

    Borders are padded by replication. Deviation: VGG-19 pads with zeros, which the optimization paints as a frame.

    Raises:
        UsageError: the weights don't reach one of the layers.
    """

    def __init__(
        self, weights: Mapping[str, Sequence[Tensor | None]], layers: Iterable[str], pooling: str = "avg"
    ) -> None:
        super().__init__()
        self.layers = sorted(set(layers), key=LAYERS.index)
        missing = [layer for layer in self.layers if layer not in weights]
        if missing:
            raise UsageError(f"the network ends at {list(weights)[-1]}: it has no {', '.join(missing)}")
        self.pool, self.average = POOLINGS[pooling], pooling == "avg"
        self.names = LAYERS[: LAYERS.index(self.layers[-1]) + 1]
        self._transformed: dict[str, Tensor] = {}
        #: What was computed with these weights and is kept for the next run.
        self.kept: dict[Any, Any] = {}
        for name in self.names:
            self._store(name, Convolution(*weights[name]))  # type: ignore[arg-type]

    def _store(self, name: str, layer: Convolution) -> None:
        """Channels-last, which oneDNN and cuDNN need no copies for; what the way back takes is called `adjoint`."""
        projection = None if layer.projection is None else layer.projection[:, :, None, None]
        tensors = {
            "weight": layer.weight,
            "adjoint": layer.weight.flip(2, 3).transpose(0, 1),
            "projection": projection,
            "projection_adjoint": None if projection is None else projection.transpose(0, 1),
        }
        for what, value in tensors.items():
            if value is not None:
                value = value.detach().clone(memory_format=torch.channels_last)
            self.register_buffer(f"{name}_{what}", value)
        self._transformed.pop(name, None)
        self.register_buffer(f"{name}_bias", layer.bias.detach().clone())
        self.register_buffer(f"{name}_metric", None if layer.metric is None else layer.metric.detach().clone())

    def convolution(self, name: str) -> Convolution:
        """What one layer holds."""
        projection = self._buffers[f"{name}_projection"]
        if projection is not None:
            projection = projection[:, :, 0, 0]
        return Convolution(
            self.get_buffer(f"{name}_weight"), self.get_buffer(f"{name}_bias"), projection, self.feature_transform(name)
        )

    def feature_transform(self, name: str) -> Tensor | None:
        """T of one layer, N×N: what its features are to be multiplied by before they are compared; None for nothing."""
        return self._buffers[f"{name}_metric"]

    def transforms(self, name: str, size: Sequence[int]) -> bool:
        """Whether a layer's maps of an image (height, width) are convolved as `winograd` does."""
        height, width = (side >> level(name) for side in size)
        return winograd.pays(self.get_buffer(f"{name}_weight"), height * width)

    def transformed(self, name: str, size: Sequence[int]) -> Tensor | None:
        """Of a layer's kernel, for `winograd`, if that is the way."""
        if not self.transforms(name, size):
            return None
        if name not in self._transformed:
            self._transformed[name] = winograd.transform(self.get_buffer(f"{name}_weight"))
        return self._transformed[name]

    def cast(self, forward: torch.dtype, backward: torch.dtype) -> "Encoder":
        """Computes features in one precision and gradients in another from now on; returns itself."""
        for name in self.names:
            layer = self.convolution(name)
            if self.get_buffer(f"{name}_adjoint").dtype != layer.weight.dtype:  # exact again, as far as the weights are
                self._store(name, layer)
        for name, buffer in self.named_buffers():
            if not name.endswith("metric"):  # Gram matrices are never less than float32
                buffer.data = buffer.to(backward if name.endswith("adjoint") else forward)
        self._transformed.clear()
        self.kept.clear()
        return self

    @property
    def minimum_size(self) -> int:
        """The least side of an image, in pixels, that leaves one position at the deepest layer."""
        return 1 << level(self.names[-1])

    @property
    def halo(self) -> int:
        """How many pixels beyond its own, on every side, a part of a picture needs to be seen as within the whole.

        A convolution looks one position further, which is 1, 2, 4, … pixels: 70 up to conv5_1. Rounded up to whole
        positions of the deepest layer, so that what is padded beyond reaches no position that counts.
        """
        return -(-sum(1 << level(name) for name in self.names) // self.minimum_size) * self.minimum_size

    def is_pooled(self, layer: str) -> bool:
        """Whether a pooling follows a layer."""
        following = self.names[self.names.index(layer) + 1 :]
        return bool(following) and _follows_pooling(following[0])

    def needs_values(self, layer: str) -> bool:
        """Whether the way back needs a layer's features: of the others only where they are positive."""
        return layer in self.layers or (self.is_pooled(layer) and not self.average)

    def macs(self, layer: str) -> float:
        """Multiply-adds per pixel of the image for one layer's features."""
        weight, _, projection, _ = self.convolution(layer)
        return (weight.numel() + (0 if projection is None else projection.numel())) / 4.0 ** level(layer)

    @property
    def macs_per_pixel(self) -> float:
        """Multiply-adds per pixel of the image for the features."""
        return sum(map(self.macs, self.names))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Image B×3×H×W, RGB in [0, 1] -> ``{layer: B×N×H'×W'}`` after ReLU; H' = H // 2^(block − 1)."""
        return dict(self.features(image))

    @torch.no_grad()
    def features(self, image: Tensor, rows: int | None = None) -> Iterator[tuple[str, Tensor]]:
        """The same layer by layer, so that nobody need hold more than one large map.

        With `rows`, in strips of about so many rows of the image: each layer's from top to bottom, the layers in turn.
        """
        for name, _, x in self.maps(image, rows or image.shape[2], self.names):
            if name in self.layers:
                yield name, x
            del x

    def maps(self, image: Tensor, rows: int, names: Sequence[str]) -> Iterator[tuple[str, int, Tensor]]:
        """Strips of the feature maps of the first layers, which are named, and where each begins.

        Raises:
            ValueError: the image is smaller than `minimum_size`.
        """
        if min(image.shape[2:]) < self.minimum_size:
            raise ValueError(f"{self.names[-1]} needs {self.minimum_size} pixels at the shorter side of an image")
        pools = [StreamingPool(self.pool) for _ in range(5)]
        convolutions = {}
        for name in names:
            weight, bias = self.convolution(name)[:2]
            projection, transformed = self._buffers[f"{name}_projection"], self.transformed(name, image.shape[2:])
            operation = partial(convolve, kernel=weight, bias=bias, projection=projection, transformed=transformed)
            convolutions[name] = StreamingConv(operation, image.shape[2] >> level(name))
        for top in range(0, image.shape[2], rows):
            x: Tensor | None = image[:, :, top : top + rows]
            for name in names:
                if x is not None and _follows_pooling(name):
                    x = pools[level(name)].push(x)
                if x is None:
                    break
                x = x.to(self.get_buffer(f"{name}_weight").dtype, memory_format=torch.channels_last)
                begin, x = convolutions[name].done, convolutions[name].push(x)
                if x is None:
                    break
                yield name, begin, x

    def pool_backward(self, gradient: Tensor, strips: list[Tensor]) -> Tensor:
        """Gradient with respect to the pooling's input, which is in strips, from that with respect to its output."""
        if not self.average:
            with torch.enable_grad():
                x = torch.cat(strips, 2).requires_grad_()
                return torch.autograd.grad(self.pool(x), x, gradient)[0]
        # Up to ten times as fast as autograd's on channels-last maps, on a GPU twice as fast as F.interpolate.
        count, channels, height, width = gradient.shape
        quarter = (gradient / 4).permute(0, 2, 3, 1)[:, :, None, :, None].expand(-1, -1, 2, -1, 2, -1)
        # A copy, always: of a single position reshape() would give four views of the same memory.
        gradient = quarter.contiguous().view(count, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)
        width, height = strips[0].shape[3], sum(strip.shape[2] for strip in strips)
        missing = width - gradient.shape[3], height - gradient.shape[2]
        return F.pad(gradient, (0, missing[0], 0, missing[1])) if any(missing) else gradient


def level(layer: str) -> int:
    """How often the picture's sides were halved before a layer."""
    return int(layer[4]) - 1


def _follows_pooling(layer: str) -> bool:
    return level(layer) > 0 and layer.endswith("_1")


class BackwardPass:
    """The way of one image through the encoder and of a gradient back, without autograd.

    Frozen convolutions need no more than the signs of their outputs, a byte each, and what the taps use of them; this
    is kept in the precision of the way back. The image can go in strips, and the maps of the first blocks, which are
    the largest, can be computed once more instead of being kept. Of those, only the rows between the way there and the
    way back are then in memory: twice the halo and some strips. The result is the same in every case.

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
            back = partial(convolve_back, kernel=kernel, projection=projection, transformed=transformed)
            height = image.shape[2] >> level(name)
            self.layers[name] = _Layer(name, encoder.is_pooled(name), height, StreamingConv(back, height))

    @torch.no_grad()
    def forward(self, tap: FeatureHook) -> None:
        """Shows the features of the encoder's layers to the tap."""
        for name, top, x in self.encoder.maps(self.image, self.rows, self.encoder.names):
            pull = tap(name, top, x) if name in self.encoder.layers else None
            if level(name) + 1 >= self.kept:
                self._keep(name, x, pull)
            del x, pull

    @torch.no_grad()
    def backward(self, pull: GradientHook, tap: FeatureHook, gradient: Tensor, columns: slice = slice(None)) -> None:
        """Adds the gradient with respect to the image of a loss that is a sum over layers; once, after `forward`.

        With respect to a layer's features it is what the tap has given for them plus what `pull` gives.

        Args:
            tap: sees the features again that weren't kept.
            gradient: of the image's shape; what it is added to.
            columns: those of the image that count: the maps of the tap and of `pull` are for these only.
        """
        lost = [name for name in self.encoder.names if level(name) + 1 < self.kept]
        again = self.encoder.maps(self.image, self.rows, lost)
        deepest, done = self.layers[self.encoder.names[-1]], 0
        while deepest.missing:
            strip: Tensor | None = None
            for layer in reversed(self.layers.values()):
                rows = layer.take(strip.shape[2] if strip is not None else self.rows >> level(layer.name))
                while layer.waiting.rows < rows:
                    name, top, x = next(again)
                    self._keep(name, x, tap(name, top, x) if name in self.encoder.layers else None)
                strip = self._back(layer, layer.waiting.take(rows), strip, pull, columns)
                if strip is None:
                    break
            else:
                assert strip is not None
                gradient[:, :, done : done + strip.shape[2]].add_(strip)
                done += strip.shape[2]

    def _keep(self, name: str, x: Tensor, pull: Tensor | None) -> None:
        # Mixing precisions within one operation is slow, and the way back needs no more than its own.
        x = x.to(self.precision) if self.encoder.needs_values(name) else _shorten(x)
        self.layers[name].waiting.push(x, pull if pull is None else pull.to(self.precision))

    def _back(
        self,
        layer: "_Layer",
        pieces: list[tuple[Tensor, Tensor | None]],
        gradient: Tensor | None,
        pull: GradientHook,
        columns: slice,
    ) -> Tensor | None:
        """Takes a strip of the gradient from what follows a layer to its input; gives the rows that are ready."""
        if gradient is None:
            gradient = torch.cat([torch.zeros_like(x) for x, _ in pieces], 2)
        elif layer.pooled:
            gradient = self.encoder.pool_backward(gradient, [x for x, _ in pieces])
        within = slice(*((c and c >> level(layer.name)) for c in (columns.start, columns.stop)))
        top = 0
        while pieces:  # none is needed twice, and they are large
            x, known = pieces.pop(0)
            part = gradient[:, :, top : top + x.shape[2]]
            for more in (known, pull(layer.name, layer.used, x[..., within])):
                if more is not None:
                    part[..., within].add_(more)
            layer.used += x.shape[2]
            _rectify(part, x)
            top += x.shape[2]
            del x, known, more, part
        return layer.convolution.push(gradient)


def _shorten(x: Tensor) -> Tensor:
    """Where features are positive, a byte each; on a GPU where they aren't, as `_rectify` takes it there."""
    return x.to(torch.bool) if x.device.type == "cpu" else x <= 0


def _rectify(gradient: Tensor, x: Tensor) -> None:
    """The gradient of ReLU, in place: 0 where features aren't positive; x is those or what `_shorten` gives.

    On a CPU filling under a mask takes ten times as long as multiplying with numbers, on a GPU a third of it.
    """
    if x.dtype == torch.bool:
        if x.device.type != "cpu":
            gradient.masked_fill_(x, 0)
            return
        x = x.view(torch.uint8).to(gradient.dtype)  # multiplying by truth values takes five times as long
    torch.ops.aten.threshold_backward.grad_input(gradient, x, 0, grad_input=gradient)


@dataclass
class _Layer:
    """One layer of a `BackwardPass`.

    Attributes:
        pooled: whether a pooling follows.
        missing: rows of the gradient that are still to come.
        convolution: takes the gradient to the layer's input.
        waiting: features, and the gradients that the feature hook returned for them.
        used: rows of these that were needed already.
    """

    name: str
    pooled: bool
    missing: int
    convolution: StreamingConv
    waiting: Queue = field(default_factory=Queue)
    used: int = 0

    def take(self, following: int) -> int:
        """How many rows belong to so many rows of what follows; they are not missing any more."""
        rows = 2 * following if self.pooled else max(1, following)
        if rows >= self.missing - self.pooled:  # the pooling leaves out the last of an odd number
            rows = self.missing
        self.missing -= rows
        return rows

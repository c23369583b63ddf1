"""The encoder: VGG-19's trunk of 3×3 convolutions at any width, cut after the last layer used.

Simonyan and Zisserman, *Very Deep Convolutional Networks for Large-Scale Image Recognition*, ICLR 2015.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError
from ..options import LAYERS
from . import tuning, winograd
from .convolution import Convolution, convolve
from .streaming import StreamingConv, StreamingPool


def _average_pool(x: Tensor) -> Tensor:
    if x.device.type == "cpu":
        return F.avg_pool2d(x, 2)
    # For channels-last maps on a GPU a mean over two axes takes a third of the time.
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


class Encoder(nn.Module):
    """Network that maps an image to the feature maps of chosen layers; `BackwardPass` computes its gradients.

    Args:
        weights: ``{"conv1_1": Convolution, …}`` for RGB in [0, 1], in the order of `LAYERS`, as `weights.load` returns
            them; a tuple of the first fields of a `Convolution` will do.
        layers: names of the layers to return; the network ends after the deepest.
        pooling: "avg" (as in the paper, where VGG-19 was trained with max), "max" or "l2".

    Borders are padded by replication. Deviation: VGG-19 pads with zeros, which become a frame in the image.

    Raises:
        UsageError: there is no such layer, or the weights end before one.
    """

    def __init__(
        self, weights: Mapping[str, Sequence[Tensor | None]], layers: Iterable[str], pooling: str = "avg"
    ) -> None:
        super().__init__()
        names = set(layers)
        if unknown := names.difference(LAYERS):
            raise UsageError(f"{', '.join(sorted(unknown))} is no layer; the layers are {', '.join(LAYERS)}")
        self.layers = sorted(names, key=LAYERS.index)
        missing = [layer for layer in self.layers if layer not in weights]
        if missing:
            raise UsageError(f"the network ends at {list(weights)[-1]}: it has no layer {', '.join(missing)}")
        self.pool, self.average = POOLINGS[pooling], pooling == "avg"
        self.names = LAYERS[: LAYERS.index(self.layers[-1]) + 1]
        self._winograd_kernels: dict[str, winograd.TransformedKernel] = {}
        #: What convolutions cost on this processor, by `tuning.name_shape`; measured when they are first asked for.
        self.costs: dict[str, tuning.Costs] = {}
        #: Results computed with these weights, for the next run.
        self.kept: dict[Any, Any] = {}
        for name in self.names:
            self._store(name, Convolution(*weights[name]))  # type: ignore[arg-type]

    def _store(self, name: str, layer: Convolution) -> None:
        """Register a layer's buffers, `adjoint` for the backward pass; channels-last saves oneDNN and cuDNN copies."""
        projection = None if layer.projection is None else layer.projection[:, :, None, None]
        tensors = {
            "weight": layer.weight,
            "adjoint": layer.weight.flip(2, 3).transpose(0, 1),
            "projection": projection,
            "projection_adjoint": None if projection is None else projection.transpose(0, 1),
        }
        for field_name, value in tensors.items():
            if value is not None:
                value = value.detach().clone(memory_format=torch.channels_last)
            self.register_buffer(f"{name}_{field_name}", value)
        self._winograd_kernels.pop(name, None)
        self.register_buffer(f"{name}_bias", layer.bias.detach().clone())
        self.register_buffer(f"{name}_metric", None if layer.metric is None else layer.metric.detach().clone())

    def convolution(self, name: str) -> Convolution:
        """Return the parameters of a layer."""
        projection = self._buffers[f"{name}_projection"]
        if projection is not None:
            projection = projection[:, :, 0, 0]
        return Convolution(
            self.get_buffer(f"{name}_weight"), self.get_buffer(f"{name}_bias"), projection, self.feature_transform(name)
        )

    def feature_transform(self, name: str) -> Tensor | None:
        """Return the matrix T of a layer, N×N, to multiply its features by before comparing; None for the identity."""
        return self._buffers[f"{name}_metric"]

    def variant(self, name: str, size: Sequence[int]) -> winograd.Variant | None:
        """Return how `winograd` convolves a layer's maps for an image of this size (height, width); None if not."""
        kernel = self.get_buffer(f"{name}_weight")
        if not tuning.is_worth_measuring(kernel):
            return None
        shape = tuning.name_shape(kernel)
        if shape not in self.costs:
            self.costs[shape] = tuning.convolution_costs(kernel)
        height, width = (side >> level(name) for side in size)
        return tuning.choose_algorithm(self.costs[shape], height * width)

    def transformed(self, name: str, size: Sequence[int]) -> winograd.TransformedKernel | None:
        """Return a layer's transformed kernel for `winograd`; None if it is not used."""
        variant = self.variant(name, size)
        if variant is None:
            return None
        kept = self._winograd_kernels.get(name)
        if kept is None or kept.variant.side != variant.side:
            kept = winograd.transform(self.get_buffer(f"{name}_weight"), variant)
        self._winograd_kernels[name] = kept._replace(variant=variant)
        return self._winograd_kernels[name]

    def cast(self, forward: torch.dtype, backward: torch.dtype) -> "Encoder":
        """Set the precision of features and that of gradients; return the encoder itself."""
        for name in self.names:
            layer = self.convolution(name)
            if self.get_buffer(f"{name}_adjoint").dtype != layer.weight.dtype:  # restore lost precision
                self._store(name, layer)
        for name, buffer in self.named_buffers():
            if not name.endswith("metric"):  # Gram matrices are at least float32
                buffer.data = buffer.to(backward if name.endswith("adjoint") else forward)
        self._winograd_kernels.clear()
        self.kept.clear()
        return self

    @property
    def minimum_size(self) -> int:
        """The smallest side of an image, in pixels, that leaves one position at the deepest layer."""
        return 1 << level(self.names[-1])

    @property
    def halo(self) -> int:
        """The width in pixels of the margin that a part of an image needs on every side for exact features.

        Every convolution needs one position more, which is 1, 2, 4, … pixels: 70 up to conv5_1. Rounded up to whole
        positions of the deepest layer, so that the padding beyond affects no position within the part.
        """
        return -(-sum(1 << level(name) for name in self.names) // self.minimum_size) * self.minimum_size

    def is_pooled(self, layer: str) -> bool:
        """Return whether pooling follows a layer."""
        following = self.names[self.names.index(layer) + 1 :]
        return bool(following) and _follows_pooling(following[0])

    def needs_values(self, layer: str) -> bool:
        """Return whether the backward pass needs a layer's features, not only where they are positive."""
        return layer in self.layers or (self.is_pooled(layer) and not self.average)

    def macs(self, layer: str) -> float:
        """Return the multiply-adds per pixel of the image for one layer's features."""
        weight, _, projection, _ = self.convolution(layer)
        return (weight.numel() + (0 if projection is None else projection.numel())) / 4.0 ** level(layer)

    @property
    def macs_per_pixel(self) -> float:
        """The multiply-adds per pixel of the image for the features."""
        return sum(map(self.macs, self.names))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return ``{layer: B×N×H'×W'}`` after ReLU of an image B×3×H×W, RGB in [0, 1]; H' = H // 2^(block − 1).

        In plain PyTorch, so that autograd differentiates it. Raises `ValueError` as `maps`.
        """
        self._check_size(image)
        features, x = dict[str, Tensor](), image
        for name in self.names:
            weight, bias, projection, _ = self.convolution(name)
            x = (self.pool(x) if _follows_pooling(name) else x).to(weight.dtype)
            if projection is not None:
                x = F.conv2d(x, projection[:, :, None, None])
            x = F.relu(F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), weight, bias))
            if name in self.layers:
                features[name] = x
        return features

    def _check_size(self, image: Tensor) -> None:
        if min(image.shape[2:]) < self.minimum_size:
            raise ValueError(f"{self.names[-1]} needs at least {self.minimum_size} pixels on the image's shorter side")

    @torch.no_grad()
    def features(self, image: Tensor, rows: int | None = None) -> Iterator[tuple[str, Tensor]]:
        """Yield the features layer by layer, so that only one large map is in memory at a time.

        With `rows`, in strips of about so many rows of the image: each layer's from top to bottom, the layers in turn.
        """
        for name, _, x in self.maps(image, rows or image.shape[2], self.names):
            if name in self.layers:
                yield name, x
            del x

    def maps(self, image: Tensor, rows: int, names: Sequence[str]) -> Iterator[tuple[str, int, Tensor]]:
        """Yield name, first row and strip of the feature maps of these layers, which must be the first ones.

        Raises:
            ValueError: the image is smaller than `minimum_size`.
        """
        self._check_size(image)
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
        """Return the gradient with respect to the pooling's input, given in strips, from that of its output."""
        if not self.average:
            with torch.enable_grad():
                x = torch.cat(strips, 2).requires_grad_()
                return torch.autograd.grad(self.pool(x), x, gradient)[0]
        # Up to ten times as fast as autograd's on channels-last maps, on a GPU twice as fast as F.interpolate.
        count, channels, height, width = gradient.shape
        quarter = (gradient / 4).permute(0, 2, 3, 1)[:, :, None, :, None].expand(-1, -1, 2, -1, 2, -1)
        # Always a copy: for a single position reshape() would return four views of the same memory.
        gradient = quarter.contiguous().view(count, 2 * height, 2 * width, channels).permute(0, 3, 1, 2)
        width, height = strips[0].shape[3], sum(strip.shape[2] for strip in strips)
        missing = width - gradient.shape[3], height - gradient.shape[2]
        return F.pad(gradient, (0, missing[0], 0, missing[1])) if any(missing) else gradient


def level(layer: str) -> int:
    """Return how often the image's sides are halved before a layer."""
    return int(layer[4]) - 1


def _follows_pooling(layer: str) -> bool:
    return level(layer) > 0 and layer.endswith("_1")

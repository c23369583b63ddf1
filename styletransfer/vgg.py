"""The encoder: VGG-19's trunk of 3×3 convolutions at any width, cut after the last layer used.

Simonyan and Zisserman, *Very Deep Convolutional Networks for Large-Scale Image Recognition*, ICLR 2015.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .errors import UsageError
from .options import LAYERS

#: A filter that hardly fires on the job's pictures is scaled as if its mean activation were this share of its layer's
#: average. Without the floor such filters get thousandfold weights and ruin the conditioning of the optimisation.
ACTIVATION_FLOOR = 0.05
#: Feature maps with so many values are not copied for the sake of their padding, if their border is cheap to do again.
LARGE_MAP = 1 << 23


def _l2_pool(x: Tensor) -> Tensor:
    # The gradient of a square root is infinite at 0, and ReLU features are often exactly 0 in a whole window.
    return (F.avg_pool2d(x.square(), 2) * 4).clamp(min=1e-30).sqrt()


POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "avg": lambda x: F.avg_pool2d(x, 2),
    "max": lambda x: F.max_pool2d(x, 2),
    "l2": _l2_pool,
}

#: oneDNN's convolution that applies the ReLU while the values are still in the cache: what inductor's code calls.
_FUSED = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)

#: Called with a layer's name and its feature map F, 1×N×H×W; gives the gradient of a loss with respect to F as a map of
#: F's shape and a matrix K, N×N, that stands for K·F. Either may be None.
Tap = Callable[[str, Tensor], tuple[Tensor | None, Tensor | None]]


class Encoder(nn.Module):
    """Maps an image to the feature maps of chosen layers, and gradients with respect to those back to the image.

    Both ways are written out, without autograd: frozen convolutions need no more than that, the maps are kept in
    between in the precision of the way back only, and each way has its own precision (`cast`).

    Args:
        weights: ``{"conv1_1": (weight Cout×Cin×3×3, bias Cout), …}`` that take RGB in [0, 1], in the order of `LAYERS`
            (`weights.load` gives them so).
        layers: names of the layers to return; the network ends after the deepest.
        pooling: "avg" (as in the paper, where VGG-19 was trained with max), "max" or "l2".

    Borders are padded by replication. Deviation: VGG-19 pads with zeros, which the optimisation paints as a frame.

    Raises:
        UsageError: the weights don't reach one of the layers.
    """

    def __init__(self, weights: Mapping[str, tuple[Tensor, Tensor]], layers: Iterable[str], pooling: str = "avg"):
        super().__init__()
        self.layers = sorted(set(layers), key=LAYERS.index)
        missing = [layer for layer in self.layers if layer not in weights]
        if missing:
            raise UsageError(f"the network ends at {list(weights)[-1]}: it has no {', '.join(missing)}")
        self.pool, self.average = POOLINGS[pooling], pooling == "avg"
        self.names = LAYERS[: LAYERS.index(self.layers[-1]) + 1]
        for name in self.names:
            self._set(name, *weights[name])

    def _set(self, name: str, weight: Tensor, bias: Tensor) -> None:
        """Channels-last, which oneDNN and cuDNN need no copies for; `adjoint` is the kernel of the way back."""
        adjoint = weight.flip(2, 3).transpose(0, 1)
        for what, value in (("weight", weight), ("adjoint", adjoint)):
            value = value.detach().clone(memory_format=torch.channels_last)
            self.register_buffer(f"{name}_{what}", value)
        self.register_buffer(f"{name}_bias", bias.detach().clone())

    def convolution(self, name: str) -> tuple[Tensor, Tensor]:
        """Weight and bias of one layer."""
        return self.get_buffer(f"{name}_weight"), self.get_buffer(f"{name}_bias")

    def cast(self, forward: torch.dtype, backward: torch.dtype) -> "Encoder":
        """Computes features in one precision and gradients in another from now on; returns itself."""
        for name, buffer in self.named_buffers():
            buffer.data = buffer.to(backward if name.endswith("adjoint") else forward)
        return self

    @property
    def minimum_size(self) -> int:
        """The least side of an image, in pixels, that leaves one position at the deepest layer."""
        return int(2 ** (int(self.names[-1][4]) - 1))

    @property
    def macs_per_pixel(self) -> float:
        """Multiply-adds per pixel of the image for the features."""
        return float(sum(9 * self.convolution(n)[0].shape[:2].numel() / 4 ** (int(n[4]) - 1) for n in self.names))

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Image B×3×H×W, RGB in [0, 1] -> ``{layer: B×N×H'×W'}`` after ReLU; H' = H // 2^(block − 1)."""
        return dict(self.features(image))

    @torch.no_grad()
    def features(self, image: Tensor) -> Iterator[tuple[str, Tensor]]:
        """The same layer by layer, so that nobody need hold more than one large map."""
        for name, x in self._maps(image):
            if name in self.layers:
                yield name, x
            del x

    @torch.no_grad()
    def gradient(self, image: Tensor, tap: Tap) -> Tensor:
        """Gradient with respect to the image 1×3×H×W of a loss that is a sum over layers.

        `tap` sees each layer's features on the way there and says what the loss's gradient there is.
        """
        kept: dict[str, Tensor] = {}
        pulls: dict[str, tuple[Tensor | None, Tensor | None]] = {}
        backward = self.get_buffer(f"{self.names[-1]}_adjoint").dtype
        for name, x in self._maps(image):
            if name in self.layers:
                pulls[name] = tap(name, x)
            # Mixing precisions within one operation is slow, and the way back needs no more than its own.
            kept[name] = x.to(backward)
            del x
        gradient: Tensor | None = None
        for previous, name in reversed(list(zip((None, *self.names), self.names, strict=False))):
            gradient = _injected(gradient, kept[name], *pulls.pop(name, (None, None)))
            torch.ops.aten.threshold_backward.grad_input(gradient, kept.pop(name), 0, grad_input=gradient)
            gradient = _convolution_back(gradient, self.get_buffer(f"{name}_adjoint"))
            if previous and previous[4] != name[4]:
                gradient = self._pool_back(gradient, kept[previous])
        assert gradient is not None
        return gradient.to(image.dtype, memory_format=torch.contiguous_format)

    def _maps(self, image: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Layer by layer the name and the feature map."""
        x, block = image, "1"
        for name in self.names:
            if name[4] != block:
                x, block = self.pool(x), name[4]
            weight, bias = self.convolution(name)
            x = x.to(weight.dtype, memory_format=torch.channels_last)
            x = _convolution(x, weight, bias)
            yield name, x

    def _pool_back(self, gradient: Tensor, x: Tensor) -> Tensor:
        """Gradient with respect to the pooling's input x, from that with respect to its output."""
        if not self.average:
            with torch.enable_grad():
                x = x.detach().requires_grad_()
                return torch.autograd.grad(self.pool(x), x, gradient)[0]
        # Up to ten times as fast as autograd's on channels-last maps.
        gradient = F.interpolate(gradient / 4, scale_factor=2, mode="nearest")
        missing = x.shape[3] - gradient.shape[3], x.shape[2] - gradient.shape[2]
        return F.pad(gradient, (0, missing[0], 0, missing[1])) if any(missing) else gradient

    @torch.no_grad()
    def normalize(self, images: Sequence[Tensor]) -> None:
        """Rescales the filters so that each one's mean activation over images and positions is 1 (paper, section 2).

        ReLU and the poolings are positively homogeneous, so dividing a filter by its mean m_c and multiplying the next
        layer's weights on it by m_c changes nothing but the scale of each map. It makes α and β mean the same for
        every set of weights. Two deviations: m_c is never below `ACTIVATION_FLOOR` of its layer's average, and filters
        that never fire on these images don't dilute the means over filters in the losses.

        Args:
            images: tensors 1×3×H×W, RGB in [0, 1]; the job's own pictures at a fixed small size.
        """
        means = self._mean_activations(images)
        previous = torch.ones_like(self.convolution("conv1_1")[0][0, :, 0, 0])
        for name in self.names:
            weight, bias = self.convolution(name)
            firing = means[name] > 0
            average = means[name][firing].mean() if firing.any() else torch.ones_like(previous[0])
            # Losses are means over all N filters; this factor turns them into means over the N₊ that fire: features
            # times √(N/N₊) multiply the content loss by N/N₊ and the Gram loss by (N/N₊)².
            share = firing.sum().clamp(min=1) / firing.numel()
            scale = means[name].clamp(min=ACTIVATION_FLOOR * average) * share.sqrt()
            self._set(name, weight * previous[None, :, None, None] / scale[:, None, None, None], bias / scale)
            previous = scale

    def _mean_activations(self, images: Sequence[Tensor]) -> dict[str, Tensor]:
        """Mean over images and positions of each filter of each layer: ``{layer: N}``, each image counting equally."""
        every_layer = Encoder({name: self.convolution(name) for name in self.names}, self.names)
        every_layer.pool = self.pool
        maps = [every_layer(image) for image in images]
        return {name: torch.stack([m[name].mean((0, 2, 3)) for m in maps]).mean(0) for name in self.names}


def _injected(gradient: Tensor | None, features: Tensor, pull: Tensor | None, mixing: Tensor | None) -> Tensor:
    """The gradient that comes from deeper layers plus a tap's own: a map and a matrix K that stands for K·F."""
    parts = [] if gradient is None else [gradient]
    if mixing is not None:
        parts.append(F.conv2d(features, mixing.to(features.dtype)[:, :, None, None]))
    if pull is not None:
        parts.append(pull.to(features.dtype))
    total = parts[0] if parts else torch.zeros_like(features)
    for part in parts[1:]:
        total = total.add_(part)
    return total


def _convolution(x: Tensor, kernel: Tensor, bias: Tensor) -> Tensor:
    """A 3×3 convolution with replicated borders, and its ReLU."""
    channels, height, width = x.shape[1:]
    if x.numel() < LARGE_MAP or channels * (height + width) > height * width / 2:
        return _rectified_convolution(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, bias)
    # A padded copy would cost more memory and time than doing the border once more.
    y = _rectified_convolution(x, kernel, bias, padding=1)
    for row, strip, padding in ((0, x[:, :, :2], (1, 1, 1, 0)), (-1, x[:, :, -2:], (1, 1, 0, 1))):
        y[:, :, row] = _rectified_convolution(F.pad(strip, padding, mode="replicate"), kernel, bias)[:, :, 0]
    for column, strip, padding in ((0, x[..., :2], (1, 0, 1, 1)), (-1, x[..., -2:], (0, 1, 1, 1))):
        y[..., column] = _rectified_convolution(F.pad(strip, padding, mode="replicate"), kernel, bias)[..., 0]
    return y


def _rectified_convolution(x: Tensor, kernel: Tensor, bias: Tensor, padding: int = 0) -> Tensor:
    if _FUSED and x.device.type == "cpu" and x.dtype == torch.float32:
        return cast(Tensor, _FUSED(x, kernel, bias, [padding] * 2, [1, 1], [1, 1], 1, "relu", [], ""))
    return F.conv2d(x, kernel, bias, padding=padding).relu_()


def _convolution_back(gradient: Tensor, kernel: Tensor) -> Tensor:
    """Adjoint of a 3×3 convolution with replicated borders; kernel is the flipped and transposed one.

    What reaches the padding, a ring one pixel wide, is added to the border pixels that it replicates. The ring is
    computed from the four border strips: taking it from one convolution of (H + 2)×(W + 2) costs a tenth more.
    """
    x = F.conv2d(gradient, kernel, padding=1)
    for row, taps in ((0, kernel[:, :, 2:]), (-1, kernel[:, :, :1])):
        ring = F.conv2d(gradient[:, :, row, None], taps, padding=(0, 2))[:, :, 0]
        ring[..., 1] += ring[..., 0]
        ring[..., -2] += ring[..., -1]
        x[:, :, row] += ring[..., 1:-1]
    for column, taps in ((0, kernel[..., 2:]), (-1, kernel[..., :1])):
        x[..., column] += F.conv2d(gradient[..., column, None], taps, padding=(1, 0))[..., 0]
    return x

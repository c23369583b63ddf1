"""One convolution of the encoder: what it holds, and how it and its adjoint are computed with replicated borders."""

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from . import winograd

#: Feature maps with so many values are not copied for the sake of their padding, if their border is cheap to do again.
LARGE_MAP = 1 << 23
#: Convolutions that add the bias and apply the ReLU while the values are still in the cache: oneDNN's, as inductor's
#: code calls it, and cuDNN's.
_FUSED = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)
_FUSED_ON_GPUS = torch.ops.aten.cudnn_convolution_relu if torch.version.cuda else None


class Convolution(NamedTuple):
    """What a layer holds, of N filters on the C channels of the layer before.

    Attributes:
        weight: N×C×3×3; N×r×3×3 after a projection.
        bias: N.
        projection: r×C: the r directions of the layer before that the filters look at (Zhang, Zou, He, Sun,
            *Accelerating Very Deep Convolutional Networks*, 2015, section 3.1, there after the filters). None for all.
        metric: T, N×N, of a layer that stands for a larger one: distances of T·F are those of the larger one's
            features. None where the layer's own are compared.
    """

    weight: Tensor
    bias: Tensor
    projection: Tensor | None = None
    metric: Tensor | None = None

    def to(self, dtype: torch.dtype) -> "Convolution":
        """The same in another precision."""
        return Convolution(*(None if tensor is None else tensor.to(dtype) for tensor in self))  # type: ignore[arg-type]


def convolve(
    x: Tensor,
    top: bool,
    bottom: bool,
    kernel: Tensor,
    bias: Tensor,
    projection: Tensor | None,
    transformed: Tensor | None,
) -> Tensor:
    """A 3×3 convolution and its ReLU, with replicated borders: left and right, and at the top and bottom if told.

    Args:
        x: B×C×H×W.
        kernel, bias: N×C×3×3 and N; N×r×3×3 if there is a projection.
        projection: r×C×1×1.
        transformed: of the kernel (`winograd.transform`), where that is the faster way for a single map.
    """
    if projection is not None:
        x = F.conv2d(x, projection)
    if transformed is not None and len(x) == 1:
        return winograd.convolve(x, top, bottom, transformed, bias)
    channels, height, width = x.shape[1:]
    if x.numel() < LARGE_MAP or channels * (height + width) > height * width / 2:
        return _convolve_and_rectify(_replicate(x, True, True, top, bottom), kernel, bias)
    # A padded copy would cost more memory and time than doing the border once more.
    if top != bottom:
        x, top, bottom = _replicate(x, False, False, top, bottom), False, False
    y = _convolve_and_rectify(x, kernel, bias, (int(top), 1))
    if top:
        for row, strip in ((0, x[:, :, :2]), (-1, x[:, :, -2:])):
            strip = _replicate(strip, True, True, row == 0, row != 0)
            y[:, :, row] = _convolve_and_rectify(strip, kernel, bias)[:, :, 0]
    for column, strip in ((0, x[..., :2]), (-1, x[..., -2:])):
        strip = _replicate(strip, column == 0, column != 0, top, top)
        y[..., column] = _convolve_and_rectify(strip, kernel, bias)[..., 0]
    return y


def _replicate(x: Tensor, left: bool, right: bool, top: bool, bottom: bool) -> Tensor:
    """Maps B×C×H×W with their border repeated, a position wide, on the sides that are told.

    Torch's own knows no channels-last maps on a GPU and takes ten times as long there.
    """
    count, channels, height, width = x.shape
    size = count, channels, height + top + bottom, width + left + right
    y = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    y[:, :, int(top) : top + height, int(left) : left + width] = x
    for there, border, inner in ((top, 0, 1), (bottom, -1, -2)):
        if there:
            y[:, :, border] = y[:, :, inner]
    for there, border, inner in ((left, 0, 1), (right, -1, -2)):
        if there:
            y[..., border] = y[..., inner]
    return y


def _convolve_and_rectify(x: Tensor, kernel: Tensor, bias: Tensor, padding: tuple[int, int] = (0, 0)) -> Tensor:
    if _FUSED and x.device.type == "cpu" and x.dtype == torch.float32:
        return cast(Tensor, _FUSED(x, kernel, bias, padding, [1, 1], [1, 1], 1, "relu", [], ""))
    if _FUSED_ON_GPUS and x.device.type == "cuda" and x.dtype != torch.float64:
        return cast(Tensor, _FUSED_ON_GPUS(x, kernel, bias, [1, 1], padding, [1, 1], 1))
    return F.conv2d(x, kernel, bias, padding=padding).relu_()


def convolve_back(
    gradient: Tensor, top: bool, bottom: bool, kernel: Tensor, projection: Tensor | None, transformed: Tensor | None
) -> Tensor:
    """Adjoint of the linear part of `convolve`; kernel is the flipped and transposed one, projection C×r×1×1.

    What reaches the padding, a ring one pixel wide, is added to the border pixels that it replicates. The ring is
    computed from the border strips: taking it from one convolution of (H + 2)×(W + 2) costs a tenth more.
    """
    rows = [(0, kernel[:, :, 2:])] * top + [(-1, kernel[:, :, :1])] * bottom
    rings = [F.conv2d(gradient[:, :, row, None], taps, padding=(0, 2))[:, :, 0] for row, taps in rows]
    if top != bottom:
        gradient = F.pad(gradient, (0, 0, int(top), int(bottom)))
    within = int(top and bottom)
    if transformed is None:
        x = F.conv2d(gradient, kernel, padding=(within, 1))
    else:
        x = winograd.convolve(gradient, bool(within), bool(within), transformed, adjoint=True)
    for (row, _), ring in zip(rows, rings, strict=True):
        # No +=, which would copy what was added to onto itself.
        ring[..., 1].add_(ring[..., 0])
        ring[..., -2].add_(ring[..., -1])
        x[:, :, row].add_(ring[..., 1:-1])
    for column, taps in ((0, kernel[..., 2:]), (-1, kernel[..., :1])):
        x[..., column].add_(F.conv2d(gradient[..., column, None], taps, padding=(within, 0))[..., 0])
    return x if projection is None else F.conv2d(x, projection)

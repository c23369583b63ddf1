"""One convolution of the encoder: its parameters, and its forward and backward pass with replicated borders."""

from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from . import winograd

#: Feature maps with at least so many values are not copied to pad them, if computing their border twice is cheap.
LARGE_MAP = 1 << 23
#: Convolutions that add the bias and apply the ReLU while the values are still in the cache: oneDNN's, which
#: inductor's code calls, and cuDNN's.
_FUSED = getattr(torch.ops.mkldnn, "_convolution_pointwise", None)
_FUSED_ON_GPUS = torch.ops.aten.cudnn_convolution_relu if torch.version.cuda else None


class Convolution(NamedTuple):
    """Parameters of a layer of N filters on the C channels of the layer before.

    Attributes:
        weight: N×C×3×3; N×r×3×3 after a projection.
        bias: N.
        projection: r×C: the r directions of the layer before that the filters see (Zhang, Zou, He, Sun,
            *Accelerating Very Deep Convolutional Networks*, 2015, section 3.1, there after the filters). None for all.
        metric: the feature transform T, N×N, of a layer that replaces a larger one: distances of T·F approximate those
            of the larger one's features. None for the identity.
    """

    weight: Tensor
    bias: Tensor
    projection: Tensor | None = None
    metric: Tensor | None = None

    def to(self, dtype: torch.dtype) -> "Convolution":
        """Return the parameters in another precision."""
        return Convolution(*(None if tensor is None else tensor.to(dtype) for tensor in self))  # type: ignore[arg-type]


def convolve(
    x: Tensor,
    top: bool,
    bottom: bool,
    kernel: Tensor,
    bias: Tensor,
    projection: Tensor | None,
    transformed: winograd.TransformedKernel | None,
) -> Tensor:
    """Return a 3×3 convolution and its ReLU, with replicated borders on the left and right.

    Args:
        x: B×C×H×W.
        top, bottom: whether to replicate the border there too.
        kernel, bias: N×C×3×3 and N; N×r×3×3 if there is a projection.
        projection: r×C×1×1.
        transformed: the kernel for `winograd`, to use that for a single map; None for a direct convolution.
    """
    if projection is not None:
        x = F.conv2d(x, projection)
    if transformed is not None and len(x) == 1:
        return winograd.convolve(x, top, bottom, transformed, bias)
    channels, height, width = x.shape[1:]
    if x.numel() < LARGE_MAP or channels * (height + width) > height * width / 2:
        return _convolve_and_rectify(_replicate(x, True, True, top, bottom), kernel, bias)
    # A padded copy would cost more memory and time than computing the border twice.
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
    """Return maps B×C×H×W padded by one position on the given sides, replicating their border.

    Torch's own padding does not support channels-last maps on a GPU and takes ten times as long there.
    """
    count, channels, height, width = x.shape
    size = count, channels, height + top + bottom, width + left + right
    y = torch.empty(size, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    y[:, :, int(top) : top + height, int(left) : left + width] = x
    for padded, border, inner in ((top, 0, 1), (bottom, -1, -2)):
        if padded:
            y[:, :, border] = y[:, :, inner]
    for padded, border, inner in ((left, 0, 1), (right, -1, -2)):
        if padded:
            y[..., border] = y[..., inner]
    return y


def _convolve_and_rectify(x: Tensor, kernel: Tensor, bias: Tensor, padding: tuple[int, int] = (0, 0)) -> Tensor:
    if _FUSED and x.device.type == "cpu" and x.dtype == torch.float32:
        return cast(Tensor, _FUSED(x, kernel, bias, padding, [1, 1], [1, 1], 1, "relu", [], ""))
    if _FUSED_ON_GPUS and x.device.type == "cuda" and x.dtype != torch.float64:
        return cast(Tensor, _FUSED_ON_GPUS(x, kernel, bias, [1, 1], padding, [1, 1], 1))
    return F.conv2d(x, kernel, bias, padding=padding).relu_()


def convolve_back(
    gradient: Tensor,
    top: bool,
    bottom: bool,
    kernel: Tensor,
    projection: Tensor | None,
    transformed: winograd.TransformedKernel | None,
) -> Tensor:
    """Return the gradient at the input of `convolve`; kernel is flipped and transposed, projection C×r×1×1.

    The gradient of the padding, a ring one pixel wide, is added to the border pixels that it replicates. The ring is
    computed from the border strips: taking it from one convolution of (H + 2)×(W + 2) costs a tenth more.
    """
    rows = [(0, kernel[:, :, 2:])] * top + [(-1, kernel[:, :, :1])] * bottom
    rings = [F.conv2d(gradient[:, :, row, None], taps, padding=(0, 2))[:, :, 0] for row, taps in rows]
    if top != bottom:
        gradient = F.pad(gradient, (0, 0, int(top), int(bottom)))
    padding_rows = int(top and bottom)
    if transformed is None:
        x = F.conv2d(gradient, kernel, padding=(padding_rows, 1))
    else:
        x = winograd.convolve(gradient, bool(padding_rows), bool(padding_rows), transformed, adjoint=True)
    for (row, _), ring in zip(rows, rings, strict=True):
        # `+=` would copy the sum onto itself.
        ring[..., 1].add_(ring[..., 0])
        ring[..., -2].add_(ring[..., -1])
        x[:, :, row].add_(ring[..., 1:-1])
    for column, taps in ((0, kernel[..., 2:]), (-1, kernel[..., :1])):
        x[..., column].add_(F.conv2d(gradient[..., column, None], taps, padding=(padding_rows, 0))[..., 0])
    return x if projection is None else F.conv2d(x, projection)

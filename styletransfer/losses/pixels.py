"""The loss terms of pixels, as pure functions. All are means, so that a weight has the same effect at any size.

Each returns a pair (scalar tensor, gradient). Images are 1×3×H×W in [0, 1].
"""

from dataclasses import dataclass

import torch
from torch import Tensor

Loss = tuple[Tensor, Tensor]
HALF_A_LEVEL = 0.5 / 255


@dataclass(frozen=True)
class TemporalPrior:
    """Per-pixel temporal prior: an image that the output stays near, 1×3×H×W in its size, and weights, 1×1×H×W."""

    image: Tensor
    weight: Tensor


def total_variation(image: Tensor) -> Loss:
    """Return the mean squared difference between neighboring pixels, summed over both directions, and its gradient.

    Not in the paper: the smoothing regularizer of Mahendran and Vedaldi, *Understanding Deep Image Representations by
    Inverting Them*, CVPR 2015, eq. 4 with β = 2.
    """
    total, gradient = image.new_zeros(()), torch.zeros_like(image)
    for axis in (2, 3):
        length = image.shape[axis] - 1
        value, slope = _compute_mean_square(image.narrow(axis, 1, length) - image.narrow(axis, 0, length))
        total = total + value
        gradient.narrow(axis, 1, length).add_(slope)
        gradient.narrow(axis, 0, length).sub_(slope)
    return total, gradient


def gamut_loss(image: Tensor, values: int | None = None) -> Loss:
    """Return the mean squared distance of the values from [0, 1], and its gradient.

    For a part of an image, pass the full image's number of `values`: the result is what the part contributes.

    Not in the paper, which clamps the final image. Without this term 2 % of the values end outside, where no file can
    hold them, and clamping them made the loss three times higher than what was optimized (docs/explanation/method.md).
    """
    return _compute_mean_square(image - image.clamp(0, 1), values)


def absolute_change(change: Tensor, values: int | None = None) -> Loss:
    """Return the mean absolute value of a change of an image, and its gradient; `values` as in `gamut_loss`.

    Not in the paper: the L1 regularizer, of the change from the content in place of a network's weights. Within half an
    8-bit level it is a parabola (Huber, 1964), since optimizers need a continuous gradient.
    """
    count = values or change.numel()
    slope = (change / HALF_A_LEVEL).clamp_(-1, 1)
    return (slope * (change - slope * (HALF_A_LEVEL / 2))).sum() / count, slope / count


def squared_change(change: Tensor, values: int | None = None) -> Loss:
    """Return the mean square of a change of an image, and its gradient (L2); `values` as in `gamut_loss`."""
    return _compute_mean_square(change, values)


def temporal_loss(change: Tensor, weights: Tensor, values: int | None = None) -> Loss:
    """Return the mean of w · d² for a change d, 1×3×H×W, and weights w, 1×1×H×W, and its gradient.

    `values` as in `gamut_loss`. Ruder, Dosovitskiy, Brox, *Artistic Style Transfer for Videos*, GCPR 2016, eq. 7.
    """
    count, slope = values or change.numel(), change * weights
    return (slope * change).sum() / count, slope.mul_(2 / count)


def _compute_mean_square(difference: Tensor, count: int | None = None) -> Loss:
    count = count or difference.numel()
    return difference.square().sum() / count, difference * (2 / count)

"""The loss terms, as pure functions. Content and style losses are relative to their targets, the others are means, so
that a setting looks the same with every photograph and painting, and at 256 and at 4096 pixels.

Each loss comes with its gradient, as in the paper's eq. 2 and 6: a pair (scalar tensor, gradient).

Shapes: a feature map F is 1×N×H×W, of N filters at M = H·W positions; images are 1×3×H×W in [0, 1].
Source of all: Gatys, Ecker, Bethge, *Image Style Transfer Using Convolutional Neural Networks*, CVPR 2016.
"""

import torch
from torch import Tensor

Loss = tuple[Tensor, Tensor]
HALF_A_LEVEL = 0.5 / 255


def energy(target: Tensor) -> float:
    """Sum of the squares of a target, which distances from it are relative to; 1 for a target of zeros alone.

    With biases, no image has such features: a black image's have half to twice the energy of a photograph's.
    """
    norm = torch.linalg.vector_norm(target, dtype=torch.promote_types(target.dtype, torch.float32))
    return float(norm) ** 2 or 1.0


def content_loss(features: Tensor, target: Tensor, whole: float | None = None) -> Loss:
    """‖F − P‖² / ‖P‖² over filters and positions, and its gradient with respect to F.

    Of a part of a map it is what the part contributes: `whole` is the energy of all of P.

    The paper's eq. 1 is half of ‖F − P‖², which makes the balance with the style depend on the picture's size and on
    how much there is in it: from 4.8 to 30 per value in the photographs tried.
    """
    return _relative(features - target, energy(target) if whole is None else whole)


def gram_matrix(features: Tensor, positions: int | None = None) -> Tensor:
    """Gram matrix N×N of a feature map 1×N×H×W: G = F Fᵀ / M (eq. 3), accumulated in at least float32.

    It is a sum over positions: with `positions`, M of the whole map, those of its parts add up to that of the whole.

    The paper divides by M in the loss (eq. 4); dividing here lets pictures of different sizes be compared.
    """
    features = features.to(torch.promote_types(features.dtype, torch.float32))
    n, m = features.shape[1], positions or features.shape[2] * features.shape[3]
    if features.device.type != "cpu":
        flat = features.flatten(2)[0]
        return flat @ flat.T / m
    # The same sum is the weight gradient of a 1×1 convolution. oneDNN does it three to ten times faster than the matrix
    # product of torch's BLAS on AMD processors, and without a copy of channels-last maps.
    kernel = features.new_empty(n, n, 1, 1)
    arguments = (None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1, [False, True, False])
    gram: Tensor = torch.ops.aten.convolution_backward(features, features, kernel, *arguments)[1]
    return gram[:, :, 0, 0] / m


def style_loss(gram: Tensor, target: Tensor, whole: float | None = None) -> Loss:
    """‖G − A‖² / ‖A‖² for one layer, and its gradient with respect to G; `whole` is the energy of A, if it is known.

    Eq. 4 has ‖G − A‖² / (4 N²), G and A divided by M. So one painting counts up to thirty times as much as another, and
    one of its layers up to forty times as much as another: ‖A‖² / N² goes from 1.2 to 320 (docs/method.md). The
    gradient with respect to the features follows as K·F, K = 2/M of that one (eq. 6): G − A is symmetric.
    """
    return _relative(gram - target, energy(target) if whole is None else whole)


def total_variation(image: Tensor) -> Loss:
    """Sum over the two directions of the mean squared difference between neighbouring pixels, and its gradient.

    Not in the paper: the smoothing regulariser of Mahendran and Vedaldi, *Understanding Deep Image Representations by
    Inverting Them*, CVPR 2015, eq. 4 with β = 2.
    """
    total, gradient = image.new_zeros(()), torch.zeros_like(image)
    for axis in (2, 3):
        length = image.shape[axis] - 1
        value, slope = _mean_square(image.narrow(axis, 1, length) - image.narrow(axis, 0, length))
        total = total + value
        gradient.narrow(axis, 1, length).add_(slope)
        gradient.narrow(axis, 0, length).sub_(slope)
    return total, gradient


def gamut_loss(image: Tensor, values: int | None = None) -> Loss:
    """Mean squared distance of the values from [0, 1], and its gradient.

    Of a part of an image it is what the part contributes: `values` is the number of the whole.

    Not in the paper, which clamps the finished picture. Left free, 2 % of the values end outside, where no file can
    hold them, and clamping them made the loss three times higher than what was optimised (docs/method.md).
    """
    return _mean_square(image - image.clamp(0, 1), values)


def absolute_change(change: Tensor, values: int | None = None) -> Loss:
    """Mean absolute value of a change of an image, and its gradient; of a part, as `gamut_loss`.

    Not in the paper: the L1 regulariser, with the change from the content in place of a network's weights. Within half
    a level of 8 bits it is a parabola (Huber, 1964), since optimisers need a gradient that doesn't jump.
    """
    count = values or change.numel()
    slope = (change / HALF_A_LEVEL).clamp_(-1, 1)
    return (slope * (change - slope * (HALF_A_LEVEL / 2))).sum() / count, slope / count


def squared_change(change: Tensor, values: int | None = None) -> Loss:
    """Mean square of a change of an image, and its gradient; of a part, as `gamut_loss`. The L2 regulariser."""
    return _mean_square(change, values)


def temporal_loss(change: Tensor, weights: Tensor, values: int | None = None) -> Loss:
    """Mean over all values of w · d², of a change d, 1×3×H×W, and weights w by pixel, 1×1×H×W, and its gradient; of a
    part, as `gamut_loss`.

    Ruder, Dosovitskiy, Brox, *Artistic Style Transfer for Videos*, GCPR 2016, eq. 7.
    """
    count, slope = values or change.numel(), change * weights
    return (slope * change).sum() / count, slope.mul_(2 / count)


def _mean_square(difference: Tensor, count: int | None = None) -> Loss:
    return _relative(difference, count or difference.numel())


def _relative(difference: Tensor, whole: float) -> Loss:
    return difference.square().sum() / whole, difference * (2 / whole)

"""The style loss of Gatys, Ecker, Bethge, *Image Style Transfer Using Convolutional Neural Networks*, CVPR 2016."""

from typing import Any

import torch
from torch import Tensor

from .base import Moments, StyleLoss, squared_norm


class Gram(StyleLoss):
    """‖G − A‖² / ‖A‖², of Gram matrices G and A: which filters fire together, anywhere in the image (eq. 3–5).

    Deviation: eq. 4 has ‖G − A‖² / (4 N²), with which one style image, and one of its layers, counts many times as much
    as another: ‖A‖² / N² goes from 1.2 to 146 (docs/explanation/method.md).
    """

    uses_mean = False

    def prepare(self, style: Moments) -> Any:
        """Return A and ‖A‖²."""
        return style.second, squared_norm(style.second)

    def distance(self, moments: Moments, target: Any) -> Tensor:
        """Return the loss."""
        return self.distance_and_gradient(moments, target)[0]

    def distance_and_gradient(self, moments: Moments, target: Any) -> tuple[Tensor, Moments]:
        """Return the loss and 2 (G − A) / ‖A‖² (eq. 6), in closed form since this is the default."""
        gram, whole = target
        difference = moments.second - gram
        return difference.square().sum() / whole, Moments(difference * (2 / whole), moments.mean)


def gram_matrix(features: Tensor, positions: int | None = None) -> Tensor:
    """Return the Gram matrix N×N of a feature map 1×N×H×W: G = F Fᵀ / M (eq. 3), accumulated in at least float32.

    It is a sum over positions: with `positions`, M of the whole map, those of its parts add up to that of the whole.

    The paper divides by M in the loss (eq. 4); dividing here lets images of different sizes be compared.
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

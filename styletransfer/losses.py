"""The loss terms, as pure functions. Every one is a mean, so that a setting looks the same at 256 and at 4096 pixels.

Shapes: a feature map F is 1×N×H×W, of N filters at M = H·W positions; images are 1×3×H×W in [0, 1].
Source of all: Gatys, Ecker, Bethge, *Image Style Transfer Using Convolutional Neural Networks*, CVPR 2016.
"""

import torch
from torch import Tensor


def content_loss(features: Tensor, target: Tensor) -> Tensor:
    """Mean over filters and positions of (F − P)².

    The paper's eq. 1 is half the *sum*, which makes the balance with the style depend on the picture's size.
    """
    return torch.nn.functional.mse_loss(features, target)


def gram_matrix(features: Tensor) -> Tensor:
    """Gram matrix N×N of a feature map 1×N×H×W: G = F Fᵀ / M (eq. 3).

    The paper divides by M in the loss (eq. 4); dividing here lets pictures of different sizes be compared.
    """
    flat = features.flatten(2)[0]
    return flat @ flat.T / flat.shape[1]


def style_loss(gram: Tensor, target: Tensor) -> Tensor:
    """Mean over the N² entries of (G − A)² for one layer.

    Eq. 4 has 1/(4 N² M²) and Gram sums over positions: four times less than this mean; β absorbs the factor.
    """
    return torch.nn.functional.mse_loss(gram, target)


def total_variation(image: Tensor) -> Tensor:
    """Sum over the two directions of the mean squared difference between neighbouring pixels.

    Not in the paper: the smoothing regulariser of Mahendran and Vedaldi, *Understanding Deep Image Representations by
    Inverting Them*, CVPR 2015, eq. 4 with β = 2.
    """
    dy = image[..., 1:, :] - image[..., :-1, :]
    dx = image[..., :, 1:] - image[..., :, :-1]
    return dy.square().mean() + dx.square().mean()


def gamut_loss(image: Tensor) -> Tensor:
    """Mean squared distance of the values from [0, 1].

    Not in the paper, which clamps the finished picture. Left free, 2 % of the values end outside, where no file can
    hold them, and clamping them made the loss three times higher than what was optimised (docs/method.md).
    """
    return (image - image.clamp(0, 1)).square().mean()

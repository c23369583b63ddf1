"""The Wasserstein style loss of crowsonkb's style-transfer-pytorch."""

from typing import Any

import torch
from torch import Tensor

from .base import Moments, StyleLoss

#: The least eigenvalue under a root, as a share of the trace: the gradient of a root is infinite at 0.
LEAST_EIGENVALUE = 1e-14


class Wasserstein(StyleLoss):
    """Squared 2-Wasserstein distance of the Gaussians with the features' means and covariances, relative to the style.

    tr(Σ + Σₛ − 2 (Σₛ^½ Σ Σₛ^½)^½) + ‖μ − μₛ‖² (Olkin and Pukelsheim, 1982), divided by tr Σₛ + ‖μₛ‖². The trace of the
    root is the sum of the roots of the eigenvalues, whose gradient needs no differences of eigenvalues.
    """

    def prepare(self, style: Moments) -> Any:
        """Return μₛ, Σₛ^½, tr Σₛ and the denominator, in float64."""
        mean, covariance = (_to_float64(tensor) for tensor in (style.mean, style.covariance))
        values, vectors = torch.linalg.eigh(covariance)
        root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
        return mean, root, covariance.diagonal().sum(), _to_float64(style.second).diagonal().sum()

    def distance(self, moments: Moments, target: Any) -> Tensor:
        """Return the loss."""
        mean, root, trace, whole = (_to_float64(tensor) for tensor in target)
        covariance = _to_float64(moments.covariance)
        values = torch.linalg.eigvalsh(root @ covariance @ root).clamp(min=LEAST_EIGENVALUE * trace**2)
        between = covariance.diagonal().sum() + trace - 2 * values.sqrt().sum()
        loss: Tensor = (between + (_to_float64(moments.mean) - mean).square().sum()) / whole
        return loss.to(moments.second)


def _to_float64(tensor: Tensor) -> Tensor:
    """Return a tensor in float64, on the CPU if its device is an Apple GPU, which has no float64."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()

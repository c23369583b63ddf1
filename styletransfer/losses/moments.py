"""The style loss of Huang and Belongie, *Arbitrary Style Transfer … with Adaptive Instance Normalization*, 2017."""

from typing import Any

import torch
from torch import Tensor

from .base import Moments, StyleLoss

#: The least variance of a filter, as a share of the mean over the filters: the gradient of a root is infinite at 0.
LEAST_VARIANCE = 1e-6


class MeanAndDeviation(StyleLoss):
    """(‖μ − μₛ‖² + ‖σ − σₛ‖²) / (‖μₛ‖² + ‖σₛ‖²), of the mean μ and standard deviation σ of each filter (eq. 13).

    How much of each feature there is, not which occur together. Deviation: squared distances, relative to the style.
    """

    def prepare(self, style: Moments) -> Any:
        """Return μₛ, σₛ, the denominator, and the least variance."""
        whole = style.second.diagonal().sum()
        least = LEAST_VARIANCE * whole / len(style.second)
        return style.mean, _deviation(style, least), whole, least

    def distance(self, moments: Moments, target: Any) -> Tensor:
        """Return the loss."""
        mean, deviation, whole, least = target
        differences = torch.cat([moments.mean - mean, _deviation(moments, least) - deviation])
        loss: Tensor = differences.square().sum() / whole
        return loss


def _deviation(moments: Moments, least: Tensor) -> Tensor:
    return moments.covariance.diagonal().clamp(min=least).sqrt()

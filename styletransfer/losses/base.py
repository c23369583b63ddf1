"""What a style loss is: a distance between second moments and means of feature maps, which are sums over positions.

Notation: a feature map F is 1×N×H×W, of N filters at M = H·W positions. Each position may have a weight w, of mean 1.
The gradient with respect to F is w (2 D F + d) / M, of those with respect to second moments (D) and mean (d).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..encoder.tiling import Band


@dataclass(frozen=True)
class Moments:
    """Statistics of a feature map. Being sums over positions, those of its parts add up to those of the whole.

    Attributes:
        second: Σ w F Fᵀ / M, N×N: the Gram matrix.
        mean: Σ w F / M, N; empty where the loss does not use it.
    """

    second: Tensor
    mean: Tensor

    @property
    def covariance(self) -> Tensor:
        """Σ w (F − μ)(F − μ)ᵀ / M, N×N."""
        return self.second - torch.outer(self.mean, self.mean)

    def map(self, function: Callable[[Tensor], Tensor]) -> "Moments":
        """Return the moments with a function applied to each."""
        return Moments(function(self.second), function(self.mean))

    def __add__(self, other: "Moments") -> "Moments":
        return Moments(self.second + other.second, self.mean + other.mean)

    def transform(self, matrix: Tensor | None) -> "Moments":
        """Return the moments of T·F for a matrix T; None stands for the identity."""
        if matrix is None:
            return self
        return Moments(matrix @ self.second @ matrix.T, matrix @ self.mean if len(self.mean) else self.mean)


class StyleLoss(ABC):
    """A distance between the statistics of two feature maps of one layer.

    Subclasses define `prepare` and `distance`. Tiles, strips, masks, several styles, several processes and feature
    transforms are the objective's business.
    """

    #: Whether `Moments.mean` is needed: it costs a pass over every feature map.
    uses_mean = True
    #: Share of nearest-neighbor matching (`nearest.py`) in the style loss; the rest is this distance.
    nearest_share: float = 0.0

    @property
    def matched_layers(self) -> tuple[str, ...]:
        """The layers whose features are matched."""
        return ()

    @abstractmethod
    def prepare(self, style: Moments) -> Any:
        """Return what `distance` needs of the style's statistics; called once per scale and layer."""

    @abstractmethod
    def distance(self, moments: Moments, target: Any) -> Tensor:
        """Return the distance from the style, a scalar: 0 at the style itself, 1 for an image without features.

        Differentiable with respect to the moments. Filters that never fire must not change it: no division by N.

        Args:
            target: what `prepare` has returned.
        """

    def distance_and_gradient(self, moments: Moments, target: Any) -> tuple[Tensor, Moments]:
        """Return `distance` and its gradient with respect to the moments, that to `second` symmetric."""
        with torch.enable_grad():
            free = moments.map(lambda tensor: tensor.detach().requires_grad_())
            value = self.distance(free, target)
            second, mean = torch.autograd.grad(value, [free.second, free.mean], materialize_grads=True)
        return value.detach(), Moments((second + second.T) / 2, mean)


class PositionTerm(ABC):
    """A loss that is a sum over positions, each compared with a target of its own."""

    @abstractmethod
    def evaluate(
        self, band: Band, layer: str, top: int, features: Tensor, scale: float
    ) -> tuple[Tensor | float, Tensor | None]:
        """Return what a strip of a layer's features contributes to the loss, and the gradient with respect to it.

        The gradient is that within the band's core; None for layers that the term does not compare.

        Args:
            top: row of the map at which the strip begins.
            scale: of the gradient.
        """


def squared_norm(target: Tensor) -> float:
    """Return the sum of the squares of a target, which distances from it are relative to; 1 for zeros alone.

    With biases, no image has such features: a black image's have half to twice the squared norm of a photograph's.
    """
    norm = torch.linalg.vector_norm(target, dtype=torch.promote_types(target.dtype, torch.float32))
    return float(norm) ** 2 or 1.0

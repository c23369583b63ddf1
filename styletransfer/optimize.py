"""The drivers: an image and evaluate() -> a stream of Step. They know of no file, no bar and no network."""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from .objective import Losses

Evaluate = Callable[[Tensor], tuple[Losses, Tensor]]

#: Curvature pairs that L-BFGS remembers; 20 reached what 100 do (docs/method.md).
HISTORY = 20
#: Sufficient decrease and curvature constants of the strong Wolfe conditions (Nocedal and Wright, section 3.1).
C1, C2 = 1e-4, 0.9
#: The first step has no curvature to go by: it changes the picture by this much on average (values 0…1).
FIRST_STEP = 0.01
ADAM_LEARNING_RATE = 0.02


@dataclass(frozen=True)
class Step:
    """One iteration, as listeners see it.

    Attributes:
        iteration: 0 for the starting image, then 1, 2, …
        losses: of `image`.
        image: the iterate, 1×3×H×W; not changed afterwards. Values may lie slightly outside [0, 1] until it is written.
        evaluations: how often loss and gradient were computed so far.
        seconds: since the start of the optimisation.
    """

    iteration: int
    losses: Losses
    image: Tensor
    evaluations: int
    seconds: float


class DivergenceError(ArithmeticError):
    """The loss or its gradient is not finite and no smaller step helps."""


@dataclass(frozen=True)
class _Point:
    """An image with its loss and gradient; along a search direction also the slope there."""

    step: float
    image: Tensor
    losses: Losses
    gradient: Tensor
    slope: float = 0.0

    @property
    def finite(self) -> bool:
        return math.isfinite(self.losses.total) and math.isfinite(self.slope)


def minimize(evaluate: Evaluate, image: Tensor, optimizer: str, learning_rate: float | None = None) -> Iterator[Step]:
    """Yields the start and then every iterate, until there is no further decrease; the caller stops when it has enough.

    Raises `DivergenceError` when the loss is not finite and stays so.
    """
    start, evaluations = time.monotonic(), 0

    def counted(x: Tensor) -> tuple[Losses, Tensor]:
        nonlocal evaluations
        evaluations += 1
        return evaluate(x)

    points = (
        _lbfgs(counted, image) if optimizer == "lbfgs" else _adam(counted, image, learning_rate or ADAM_LEARNING_RATE)
    )
    for iteration, point in enumerate(points):
        yield Step(iteration, point.losses, point.image, evaluations, time.monotonic() - start)


def _lbfgs(evaluate: Evaluate, image: Tensor) -> Iterator[_Point]:
    """Limited-memory BFGS with a strong Wolfe line search (Nocedal and Wright, algorithms 7.4, 7.5, 3.5)."""
    x = image.detach()
    point = _Point(0.0, x, *evaluate(x))
    if not math.isfinite(point.losses.total):
        raise DivergenceError
    yield point
    pairs: deque[tuple[Tensor, Tensor, float]] = deque(maxlen=HISTORY)
    while True:
        direction = _direction(point.gradient, pairs)
        slope = _dot(direction, point.gradient)
        if not slope < 0 and pairs:  # rounding spoilt the curvature: forget it
            pairs.clear()
            continue
        if not slope < 0:
            return
        trial = 1.0 if pairs else FIRST_STEP * direction.numel() / direction.abs().sum().item()
        found = _line_search(evaluate, point, direction, slope, trial)
        if found is None:
            if not pairs:  # not even straight downhill
                return
            pairs.clear()
            continue
        s, y = found.image - point.image, found.gradient - point.gradient
        curvature = _dot(s, y)
        if curvature > 1e-10 * math.sqrt(_dot(s, s) * _dot(y, y)):
            pairs.append((s, y, curvature))
        point = found
        yield point


def _dot(a: Tensor, b: Tensor) -> float:
    return torch.dot(a.flatten(), b.flatten()).item()


def _direction(gradient: Tensor, pairs: deque[tuple[Tensor, Tensor, float]]) -> Tensor:
    """−H g by the two-loop recursion over the pairs (s, y, sᵀy), oldest first."""
    q, alphas = gradient.neg(), []
    for s, y, sy in reversed(pairs):
        alphas.append(_dot(s, q) / sy)
        q.add_(y, alpha=-alphas[-1])
    if pairs:
        _, y, sy = pairs[-1]
        q.mul_(sy / _dot(y, y))
    for (s, y, sy), alpha in zip(pairs, reversed(alphas), strict=True):
        q.add_(s, alpha=alpha - _dot(y, q) / sy)
    return q


def _line_search(evaluate: Evaluate, origin: _Point, direction: Tensor, slope: float, step: float) -> _Point | None:
    """A point along direction that fulfils the strong Wolfe conditions.

    Failing that, the lowest of 20 trials if it lies below the origin, else None. A trial whose loss is not finite
    counts as too long a step; `DivergenceError` when no step is short enough."""
    start = origin.losses.total

    def at(t: float) -> _Point:
        x = origin.image.add(direction, alpha=t)
        losses, gradient = evaluate(x)
        return _Point(t, x, losses, gradient, _dot(direction, gradient))

    low = _Point(0.0, origin.image, origin.losses, origin.gradient, slope)
    high: _Point | None = None
    for _ in range(20):
        point = at(step)
        too_long = not point.finite or point.losses.total > start + C1 * step * slope
        if too_long or ((high is not None or low.step > 0) and point.losses.total >= low.losses.total):
            high = point
        elif abs(point.slope) <= -C2 * slope:
            return point
        elif point.slope * ((high.step if high else math.inf) - low.step) >= 0:
            low, high = point, low
        else:
            low = point
        step = _next_step(low, high)
        if high is not None and abs(high.step - low.step) * direction.abs().max().item() < 1e-7:
            break
    if low.step == 0 and not point.finite:
        raise DivergenceError
    return low if low.step > 0 and low.losses.total < start else None


def _next_step(low: _Point, high: _Point | None) -> float:
    """Where to try next: between the two by cubic interpolation (Nocedal and Wright, eq. 3.59), or further out."""
    if high is None:
        return 4 * low.step
    width = high.step - low.step
    if not high.finite:
        return low.step + 0.1 * width
    d1 = low.slope + high.slope - 3 * (high.losses.total - low.losses.total) / width
    root = d1 * d1 - low.slope * high.slope
    if root < 0:
        return low.step + width / 2
    d2 = math.copysign(math.sqrt(root), width)
    bottom = high.slope - low.slope + 2 * d2
    share = 0.5 if bottom == 0 else 1 - (high.slope + d2 - d1) / bottom
    return low.step + width * min(max(share, 0.1), 0.9)


def _adam(evaluate: Evaluate, image: Tensor, learning_rate: float) -> Iterator[_Point]:
    """Adam (Kingma and Ba, 2015). Every gradient is tiny here, so its ε is too: the step depends on no loss scale."""
    x = image.detach().clone().requires_grad_()
    optimizer = torch.optim.Adam([x], lr=learning_rate, eps=1e-20)
    while True:
        losses, gradient = evaluate(x.detach())
        if not math.isfinite(losses.total) or not gradient.isfinite().all():
            raise DivergenceError
        yield _Point(0.0, x.detach().clone(), losses, gradient)
        x.grad = gradient
        optimizer.step()

"""The optimizers: from an image and evaluate() to a stream of iterates."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..losses import Evaluate
from ..options import LEARNING_RATES
from .curvature import InverseHessian

#: A step of L-BFGS is taken if the loss falls by at least this share of what the slope promises (Nocedal and Wright,
#: eq. 3.4).
SUFFICIENT_DECREASE = 1e-4
#: After so many steps refused in a row L-BFGS forgets what it knows of the curvature.
PATIENCE = 6
#: The first step has no curvature to go by: it changes the picture by this much on average (values 0…1).
FIRST_STEP = 0.01
MOMENTUM = 0.9  # of SGD


State = Callable[[], dict[str, Tensor]]
_Points = Iterator[tuple[Tensor, Tensor, Tensor, State]]


@dataclass(frozen=True)
class Iterate:
    """An image on the way to the minimum. Each costs one evaluation of loss and gradient.

    Attributes:
        iteration: 0 for the starting image, then 1, 2, …
        terms: the loss terms of `image`, the total first, as a tensor on its device.
        image: 1×3×H×W; not changed afterwards. Values may lie slightly outside [0, 1].
        tried: total loss where the step would have led; that of `terms` if it was taken. A tensor too.
        state: returns what `minimize` needs besides the image to resume from here; only until the next one is made.
    """

    iteration: int
    terms: Tensor
    image: Tensor
    tried: Tensor
    state: State


def minimize(
    evaluate: Evaluate,
    image: Tensor,
    optimizer: str,
    learning_rate: float | None = None,
    *,
    curvature: InverseHessian | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> Iterator[Iterate]:
    """Yield the start and then every iterate, without end: the caller stops.

    Args:
        evaluate: image -> (terms, the total first; gradient of the total). It is called once before each step.
        image: the start, 1×3×H×W.
        optimizer: "lbfgs", or one of `options.LEARNING_RATES`.
        learning_rate: the step of these.
        curvature: what L-BFGS knows already, as from a similar function; it goes on learning.
        state: of the step to resume from, whose image is the start; the steps are then, bit for bit, those that would
            have followed.
    """
    if optimizer == "lbfgs":
        points = _lbfgs(evaluate, image.detach(), curvature or InverseHessian(image), state)
    else:
        rate = LEARNING_RATES[optimizer] if learning_rate is None else learning_rate
        points = _first_order(evaluate, image, optimizer, rate, state)
    del image, state  # they may be large
    for iteration, (terms, x, tried, state_now) in enumerate(points):
        yield Iterate(iteration, terms, x, tried, state_now)


def _lbfgs(evaluate: Evaluate, x: Tensor, curvature: InverseHessian, state: Mapping[str, Tensor] | None) -> _Points:
    """Limited-memory BFGS with backtracking (Nocedal and Wright, algorithms 7.5 and 3.1).

    A step that doesn't lower the loss enough, or leads to one that is not finite, is not taken, and the next one is
    shorter. All decisions are made on the image's device, so that a GPU never waits for the host.
    """
    if state:
        # Evaluated anew, the gradient would be of x with its last bits rounded otherwise.
        terms, gradient, length, refused = (state[name].clone() for name in ("terms", "gradient", "length", "refused"))
        curvature.load(state)
        del state
    else:
        terms, gradient = evaluate(x)
        length, refused = x.new_ones(()), x.new_zeros(())

    def current_state() -> dict[str, Tensor]:
        mine = {"terms": terms, "gradient": gradient, "length": length, "refused": refused}
        return {**mine, **curvature.state()}

    yield terms, x, terms[0], current_state
    while True:
        direction = curvature.apply(gradient).neg_()
        slope = direction.flatten() @ gradient.flatten()
        first = FIRST_STEP / direction.abs().mean().clamp(min=torch.finfo(x.dtype).tiny)
        full = length * torch.where(curvature.alive.any(), 1.0, first)
        new_terms, new_gradient = evaluate(x.addcmul(direction, full))
        rise = new_terms[0] - terms[0]
        promise = full * slope
        taken = (promise < 0) & (rise <= SUFFICIENT_DECREASE * promise) & new_gradient.sum().isfinite()
        # The minimum of the parabola through both losses and the slope (eq. 3.58), if that is a sensible place.
        shorter = (-promise / (2 * (rise - promise))).nan_to_num(0.1).clamp(0.1, 0.5)
        length = torch.where(taken, 1.0, length * shorter)
        refused = torch.where(taken, 0, refused + 1)
        stuck = refused >= PATIENCE
        curvature.forget(stuck)
        length, refused = torch.where(stuck, 1.0, length), torch.where(stuck, 0, refused)
        step = direction.mul_(full).masked_fill_(~taken, 0.0)
        torch.where(taken, new_gradient, gradient, out=new_gradient)
        curvature.learn(step, gradient.sub_(new_gradient).neg_())
        x, gradient, terms = x + step, new_gradient, torch.where(taken, new_terms, terms)
        del direction, step, new_gradient  # as large as the picture
        yield terms, x, new_terms[0], current_state


def _first_order(
    evaluate: Evaluate, image: Tensor, name: str, learning_rate: float, state: Mapping[str, Tensor] | None
) -> _Points:
    """SGD with momentum, Adagrad, RMSprop or Adam, as torch has them, on a path that depends on no scale of the loss.

    Every gradient is tiny here. So the three that divide by its size have a tiny ε too; to SGD, which doesn't, it comes
    divided by the mean size that it had at first, so that this one's step too is in values 0…1.
    """
    x = image.detach().clone().requires_grad_()
    optimizer: torch.optim.Optimizer
    if name == "sgd":
        optimizer = torch.optim.SGD([x], lr=learning_rate, momentum=MOMENTUM)
    else:
        kinds = {"adagrad": torch.optim.Adagrad, "rmsprop": torch.optim.RMSprop, "adam": torch.optim.Adam}
        optimizer = kinds[name]([x], lr=learning_rate, eps=1e-20)
    if state:
        optimizer.state[x] = {key: value.clone() for key, value in state.items()}
    kept = optimizer.state[x]

    def current_state() -> dict[str, Tensor]:
        return dict(kept)

    while True:
        terms, gradient = evaluate(x.detach())
        if name == "sgd" and "unit" not in kept:
            kept["unit"] = gradient.abs().mean().clamp(min=torch.finfo(x.dtype).tiny)
        yield terms, x.detach().clone(), terms[0], current_state
        x.grad = gradient / kept["unit"] if name == "sgd" else gradient
        optimizer.step()

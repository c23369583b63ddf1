"""The optimizers: from a starting image and an `Evaluate` to an iterator over iterates."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..losses import Evaluate
from ..options import LEARNING_RATES
from .curvature import InverseHessian

#: L-BFGS accepts a step if the loss falls by at least this share of the predicted fall (Nocedal and Wright, eq. 3.4).
SUFFICIENT_DECREASE = 1e-4
#: After so many rejected steps in a row L-BFGS resets its history.
PATIENCE = 6
#: A step without a history, as the first is, changes the image by this much on average (values 0…1).
FIRST_STEP = 0.01
MOMENTUM = 0.9  # of SGD


State = Callable[[], dict[str, Tensor]]
_Points = Iterator[tuple[Tensor, Tensor, Tensor, State]]


@dataclass(frozen=True)
class Iterate:
    """An iterate of an optimizer, which costs one evaluation of loss and gradient.

    Attributes:
        iteration: 0 for the starting image, then 1, 2, …
        terms: the loss terms of `image`, the total first, as a tensor on its device.
        image: 1×3×H×W; not changed afterwards. Values may lie slightly outside [0, 1].
        tried: total loss where the step would have led; that of `terms` if it was accepted. A tensor too.
        state: returns what `minimize` needs besides the image to resume from here; valid until the next iterate.
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
        evaluate: image -> (terms, the total first; gradient of the total). It is called once per iterate.
        image: the start, 1×3×H×W.
        optimizer: "lbfgs", or one of `options.LEARNING_RATES`.
        learning_rate: of the latter; by default the one listed there.
        curvature: what L-BFGS has learned before, as from a similar function; every step updates it.
        state: of the iterate to resume from, whose image is the start; those that follow are then the same, bit for
            bit, as without the interruption.
    """
    if optimizer == "lbfgs":
        points = _iterate_lbfgs(evaluate, image.detach(), curvature or InverseHessian(image), state)
    else:
        rate = LEARNING_RATES[optimizer] if learning_rate is None else learning_rate
        points = _iterate_first_order(evaluate, image, optimizer, rate, state)
    del image, state  # they may be large
    for iteration, (terms, x, tried, get_state) in enumerate(points):
        yield Iterate(iteration, terms, x, tried, get_state)


def _iterate_lbfgs(
    evaluate: Evaluate, x: Tensor, curvature: InverseHessian, state: Mapping[str, Tensor] | None
) -> _Points:
    """Yield the iterates of limited-memory BFGS with backtracking (Nocedal and Wright, algorithms 7.5 and 3.1).

    A step that does not lower the loss enough, or leads to one that is not finite, is rejected, and the next one is
    shorter. All decisions are made on the image's device, so that a GPU never waits for the host.
    """
    if state:
        # Evaluating x again would change the gradient's last bits: x + step is rounded differently.
        terms, gradient, length, refused = (state[name].clone() for name in ("terms", "gradient", "length", "refused"))
        curvature.load(state)
        del state
    else:
        terms, gradient = evaluate(x)
        length, refused = x.new_ones(()), x.new_zeros(())

    def get_state() -> dict[str, Tensor]:
        own = {"terms": terms, "gradient": gradient, "length": length, "refused": refused}
        return {**own, **curvature.state()}

    yield terms, x, terms[0], get_state
    while True:
        direction = curvature.apply(gradient).neg_()
        slope = direction.flatten() @ gradient.flatten()
        first = FIRST_STEP / direction.abs().mean().clamp(min=torch.finfo(x.dtype).tiny)
        full = length * torch.where(curvature.alive.any(), 1.0, first)
        new_terms, new_gradient = evaluate(x.addcmul(direction, full))
        rise = new_terms[0] - terms[0]
        predicted = full * slope
        accepted = (predicted < 0) & (rise <= SUFFICIENT_DECREASE * predicted) & new_gradient.sum().isfinite()
        # The minimum of the parabola through both losses and the slope (eq. 3.58), within 0.1 to 0.5 of the step.
        shorter = (-predicted / (2 * (rise - predicted))).nan_to_num(0.1).clamp(0.1, 0.5)
        length = torch.where(accepted, 1.0, length * shorter)
        refused = torch.where(accepted, 0, refused + 1)
        stuck = refused >= PATIENCE
        curvature.forget(stuck)
        length, refused = torch.where(stuck, 1.0, length), torch.where(stuck, 0, refused)
        step = direction.mul_(full).masked_fill_(~accepted, 0.0)
        torch.where(accepted, new_gradient, gradient, out=new_gradient)
        curvature.learn(step, gradient.sub_(new_gradient).neg_())
        x, gradient, terms = x + step, new_gradient, torch.where(accepted, new_terms, terms)
        del direction, step, new_gradient  # as large as the image
        yield terms, x, new_terms[0], get_state


def _iterate_first_order(
    evaluate: Evaluate, image: Tensor, name: str, learning_rate: float, state: Mapping[str, Tensor] | None
) -> _Points:
    """Yield the iterates of torch's SGD with momentum, Adagrad, RMSprop or Adam, whatever the scale of the loss.

    Gradients are tiny here. The three that divide by the gradient's size have a tiny ε too. SGD, which does not, gets
    it divided by its mean absolute value at the start, so that its learning rate is in values 0…1 too.
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
    optimizer_state = optimizer.state[x]

    def get_state() -> dict[str, Tensor]:
        return dict(optimizer_state)

    while True:
        terms, gradient = evaluate(x.detach())
        if name == "sgd" and "unit" not in optimizer_state:
            optimizer_state["unit"] = gradient.abs().mean().clamp(min=torch.finfo(x.dtype).tiny)
        yield terms, x.detach().clone(), terms[0], get_state
        x.grad = gradient / optimizer_state["unit"] if name == "sgd" else gradient
        optimizer.step()

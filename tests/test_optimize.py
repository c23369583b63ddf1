"""The optimizers, compared with scipy, on functions with a known minimum or with values that are not finite."""

import math
from itertools import islice, pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import minimize as scipy_minimize
from scipy.optimize import rosen, rosen_der

from styletransfer.optim import InverseHessian
from styletransfer.optim.optimize import MOMENTUM, SUFFICIENT_DECREASE, minimize
from styletransfer.options import LEARNING_RATES


def rosenbrock(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    v = x.double().flatten().numpy()
    return torch.tensor([float(rosen(v)), 0, 0, 0], dtype=torch.float64), torch.tensor(rosen_der(v)).reshape(x.shape)


def test_lbfgs_needs_few_more_evaluations_than_scipy() -> None:
    start = torch.full((1, 3, 2, 5), -0.7, dtype=torch.float64)
    reference = scipy_minimize(rosen, start.flatten().numpy(), jac=rosen_der, method="L-BFGS-B", options={"maxcor": 20})
    steps = list(islice(minimize(rosenbrock, start, "lbfgs"), 400))
    first = next(step for step in steps if step.terms[0].item() <= max(reference.fun, 1e-9))
    assert first.iteration + 1 <= 1.3 * reference.nfev  # every iteration is one evaluation
    np.testing.assert_allclose(steps[-1].image.numpy(), 1, atol=1e-5)
    totals = [step.terms[0].item() for step in steps]
    assert totals == sorted(totals, reverse=True)


def test_lbfgs_solves_an_ill_conditioned_quadratic() -> None:
    scales = torch.logspace(0, 4, 48, dtype=torch.float64).reshape(1, 3, 4, 4)

    def quadratic(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.stack([(scales * x * x).sum() / 2, *x.new_zeros(3)]), scales * x

    last = list(islice(minimize(quadratic, torch.ones(1, 3, 4, 4, dtype=torch.float64), "lbfgs"), 450))[-1]
    assert last.terms[0].item() < 1e-10  # from 28 000


@pytest.mark.parametrize("factor", [1e-9, 1.0, 1e9])
def test_iterates_do_not_depend_on_the_scale_of_the_loss(factor: float) -> None:
    """Only the ratio of α and β may matter."""

    def scaled(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        terms, gradient = rosenbrock(x)
        return terms * factor, gradient * factor

    start = torch.full((1, 3, 2, 5), -0.7, dtype=torch.float64)
    for optimizer in ("lbfgs", *LEARNING_RATES):
        plain, other = (list(islice(minimize(f, start, optimizer), 15))[-1].image for f in (rosenbrock, scaled))
        np.testing.assert_allclose(other.numpy(), plain.numpy(), rtol=1e-6)


def test_accepted_steps_decrease_the_loss_and_rejected_ones_change_nothing() -> None:
    steps = list(islice(minimize(rosenbrock, torch.full((1, 3, 2, 5), 3.0, dtype=torch.float64), "lbfgs"), 100))
    rejected = 0
    for before, after in pairwise(steps):
        displacement = (after.image - before.image).flatten()
        slope = float(displacement @ rosenbrock(before.image)[1].flatten())
        if float(after.tried) == after.terms[0].item():
            assert after.terms[0].item() <= before.terms[0].item() + SUFFICIENT_DECREASE * slope
        else:
            assert torch.equal(after.image, before.image) and torch.equal(after.terms, before.terms)
            rejected += 1
    assert 0 < rejected < 20


def test_resuming_with_the_curvature_equals_an_uninterrupted_run() -> None:
    """A run resumed with its history is as good as an uninterrupted one."""
    start = torch.full((1, 3, 2, 5), -0.7, dtype=torch.float64)
    uninterrupted = list(islice(minimize(rosenbrock, start, "lbfgs"), 41))[-1]
    curvature = InverseHessian(start)
    stopped = list(islice(minimize(rosenbrock, start, "lbfgs", curvature=curvature), 21))[-1]
    resumed = list(islice(minimize(rosenbrock, stopped.image, "lbfgs", curvature=curvature), 21))[-1]
    np.testing.assert_allclose(resumed.terms[0].item(), uninterrupted.terms[0].item(), rtol=1e-9)


def test_adam_matches_kingma_and_ba() -> None:
    start, rate = torch.tensor([[[[0.3, -0.8]]]], dtype=torch.float64), 0.05
    x, m, v = start.numpy().copy().ravel(), np.zeros(2), np.zeros(2)
    steps = minimize(rosenbrock, start, "adam", learning_rate=rate)
    for t in range(1, 30):
        np.testing.assert_allclose(next(steps).image.numpy().ravel(), x, rtol=1e-9)
        g = rosen_der(x)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        x = x - rate * (m / (1 - 0.9**t)) / np.sqrt(v / (1 - 0.999**t))


@pytest.mark.parametrize("name", ["sgd", "adagrad", "rmsprop"])
def test_other_optimizers_match_their_formulas(name: str) -> None:
    """SGD with torch's momentum (v = μ v + g), AdaGrad (Duchi et al. 2011), RMSProp (Hinton's lecture 6e, ρ = 0.99)."""
    start, rate = torch.tensor([[[[0.3, -0.8]]]], dtype=torch.float64), 0.01
    x, v, total = start.numpy().copy().ravel(), np.zeros(2), np.zeros(2)
    unit = np.abs(rosen_der(x)).mean()
    steps = minimize(rosenbrock, start, name, learning_rate=rate)
    for _ in range(30):
        np.testing.assert_allclose(next(steps).image.numpy().ravel(), x, rtol=1e-9)
        g = rosen_der(x)
        if name == "sgd":
            v = MOMENTUM * v + g / unit
            x = x - rate * v
        else:
            total = total + g * g if name == "adagrad" else 0.99 * total + 0.01 * g * g
            x = x - rate * g / np.sqrt(total)


def test_learning_rate_of_0_changes_nothing() -> None:
    start = torch.full((1, 3, 2, 5), -0.7, dtype=torch.float64)
    last = list(islice(minimize(rosenbrock, start, "adam", learning_rate=0.0), 4))[-1]
    assert torch.equal(last.image, start)


@pytest.mark.parametrize("beyond", [math.nan, math.inf])
def test_lbfgs_backs_away_from_losses_that_are_not_finite(beyond: float) -> None:
    def evaluate(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if float(x.max()) > 1:
            return x.new_full((4,), beyond), torch.full_like(x, math.nan)
        return torch.stack([-x.sum(), *x.new_zeros(3)]), -torch.ones_like(x)

    steps = list(islice(minimize(evaluate, torch.zeros(1, 3, 2, 2, dtype=torch.float64), "lbfgs"), 400))
    assert all(math.isfinite(step.terms[0].item()) for step in steps)
    assert 1 - 1e-6 < float(steps[-1].image.max()) <= 1


@pytest.mark.parametrize("optimizer", ["lbfgs", *LEARNING_RATES])
def test_yielded_iterates_are_not_changed_afterwards(optimizer: str) -> None:
    steps = islice(minimize(rosenbrock, torch.zeros(1, 3, 2, 2, dtype=torch.float64), optimizer), 6)
    images = [(step.image, step.image.clone()) for step in steps]
    assert all(torch.equal(image, copy) for image, copy in images)

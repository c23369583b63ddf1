"""The drivers against scipy, on functions with a known minimum, and on functions that break down."""

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


def test_lbfgs_needs_few_more_evaluations_than_scipys() -> None:
    start = torch.full((1, 3, 2, 5), -0.7, dtype=torch.float64)
    scipys = scipy_minimize(rosen, start.flatten().numpy(), jac=rosen_der, method="L-BFGS-B", options={"maxcor": 20})
    steps = list(islice(minimize(rosenbrock, start, "lbfgs"), 400))
    first = next(step for step in steps if step.terms[0].item() <= max(scipys.fun, 1e-9))
    assert first.iteration + 1 <= 1.3 * scipys.nfev  # every iteration is one evaluation
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
def test_the_path_does_not_depend_on_the_scale_of_the_loss(factor: float) -> None:
    """Only the ratio of α and β may matter."""

    def scaled(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        terms, gradient = rosenbrock(x)
        return terms * factor, gradient * factor

    start = torch.full((1, 3, 2, 5), -0.7, dtype=torch.float64)
    for optimizer in ("lbfgs", *LEARNING_RATES):
        plain, other = (list(islice(minimize(f, start, optimizer), 15))[-1].image for f in (rosenbrock, scaled))
        np.testing.assert_allclose(other.numpy(), plain.numpy(), rtol=1e-6)


def test_every_step_taken_lowers_the_loss_enough_and_the_others_are_not_taken() -> None:
    steps = list(islice(minimize(rosenbrock, torch.full((1, 3, 2, 5), 3.0, dtype=torch.float64), "lbfgs"), 100))
    refused = 0
    for before, after in pairwise(steps):
        moved = (after.image - before.image).flatten()
        slope = float(moved @ rosenbrock(before.image)[1].flatten())
        if float(after.tried) == after.terms[0].item():
            assert after.terms[0].item() <= before.terms[0].item() + SUFFICIENT_DECREASE * slope
        else:
            assert torch.equal(after.image, before.image) and torch.equal(after.terms, before.terms)
            refused += 1
    assert 0 < refused < 20


def test_curvature_is_carried_over() -> None:
    """Going on with what was learned is as good as not having stopped."""
    start = torch.full((1, 3, 2, 5), -0.7, dtype=torch.float64)
    whole = list(islice(minimize(rosenbrock, start, "lbfgs"), 41))[-1]
    curvature = InverseHessian(start)
    half = list(islice(minimize(rosenbrock, start, "lbfgs", curvature=curvature), 21))[-1]
    rest = list(islice(minimize(rosenbrock, half.image, "lbfgs", curvature=curvature), 21))[-1]
    np.testing.assert_allclose(rest.terms[0].item(), whole.terms[0].item(), rtol=1e-9)


def test_adam_is_kingma_and_bas() -> None:
    start, rate = torch.tensor([[[[0.3, -0.8]]]], dtype=torch.float64), 0.05
    x, m, v = start.numpy().copy().ravel(), np.zeros(2), np.zeros(2)
    steps = minimize(rosenbrock, start, "adam", learning_rate=rate)
    for t in range(1, 30):
        np.testing.assert_allclose(next(steps).image.numpy().ravel(), x, rtol=1e-9)
        g = rosen_der(x)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        x = x - rate * (m / (1 - 0.9**t)) / np.sqrt(v / (1 - 0.999**t))


@pytest.mark.parametrize("name", ["sgd", "adagrad", "rmsprop"])
def test_the_lectures_other_optimizers_by_their_formulas(name: str) -> None:
    """SGD with momentum as torch has it (v = μ v + g), Duchi et al. 2011, and Hinton's lecture 6e with ρ = 0.99."""
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


def test_a_learning_rate_of_0_is_taken_at_its_word() -> None:
    start = torch.full((1, 3, 2, 5), -0.7, dtype=torch.float64)
    last = list(islice(minimize(rosenbrock, start, "adam", learning_rate=0.0), 4))[-1]
    assert torch.equal(last.image, start)


@pytest.mark.parametrize("beyond", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_beyond_a_wall_is_backed_away_from(beyond: float) -> None:
    def walled(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if float(x.max()) > 1:
            return x.new_full((4,), beyond), torch.full_like(x, math.nan)
        return torch.stack([-x.sum(), *x.new_zeros(3)]), -torch.ones_like(x)

    steps = list(islice(minimize(walled, torch.zeros(1, 3, 2, 2, dtype=torch.float64), "lbfgs"), 400))
    assert all(math.isfinite(step.terms[0].item()) for step in steps)
    assert 1 - 1e-6 < float(steps[-1].image.max()) <= 1


@pytest.mark.parametrize("optimizer", ["lbfgs", *LEARNING_RATES])
def test_iterates_handed_out_are_not_changed_afterwards(optimizer: str) -> None:
    steps = islice(minimize(rosenbrock, torch.zeros(1, 3, 2, 2, dtype=torch.float64), optimizer), 6)
    held = [(step.image, step.image.clone()) for step in steps]
    assert all(torch.equal(image, copy) for image, copy in held)

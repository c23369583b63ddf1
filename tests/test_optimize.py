"""The drivers against scipy, on functions with a known minimum, and on functions that break down."""

import math
from itertools import islice

import numpy as np
import pytest
import torch
from scipy.optimize import minimize as scipy_minimize
from scipy.optimize import rosen, rosen_der

from styletransfer.objective import Losses
from styletransfer.optimize import C1, C2, DivergenceError, _line_search, _Point, minimize


def rosenbrock(x: torch.Tensor) -> tuple[Losses, torch.Tensor]:
    v = x.double().flatten().numpy()
    return Losses(float(rosen(v)), 0, 0), torch.tensor(rosen_der(v)).reshape(x.shape)


def test_lbfgs_needs_no_more_evaluations_than_scipys() -> None:
    start = torch.full((1, 3, 2, 5), -0.7, dtype=torch.float64)
    scipys = scipy_minimize(rosen, start.flatten().numpy(), jac=rosen_der, method="L-BFGS-B", options={"maxcor": 20})
    steps = list(islice(minimize(rosenbrock, start, "lbfgs"), 400))
    first = next(step for step in steps if step.losses.total <= max(scipys.fun, 1e-9))
    assert first.evaluations <= 1.3 * scipys.nfev
    np.testing.assert_allclose(steps[-1].image.numpy(), 1, atol=1e-5)
    totals = [step.losses.total for step in steps]
    assert totals == sorted(totals, reverse=True)


def test_lbfgs_solves_an_ill_conditioned_quadratic_and_ends_by_itself() -> None:
    scales = torch.logspace(0, 4, 48, dtype=torch.float64).reshape(1, 3, 4, 4)

    def quadratic(x: torch.Tensor) -> tuple[Losses, torch.Tensor]:
        return Losses(float((scales * x * x).sum() / 2), 0, 0), scales * x

    last = list(islice(minimize(quadratic, torch.ones(1, 3, 4, 4, dtype=torch.float64), "lbfgs"), 2000))[-1]
    assert last.iteration < 1999
    assert last.losses.total < 1e-10  # it ends where steps fall below 1e-7 of the value range


@pytest.mark.parametrize("factor", [1e-9, 1.0, 1e9])
def test_the_path_does_not_depend_on_the_scale_of_the_loss(factor: float) -> None:
    """Only the ratio of α and β may matter."""

    def scaled(x: torch.Tensor) -> tuple[Losses, torch.Tensor]:
        losses, gradient = rosenbrock(x)
        return Losses(losses.total * factor, 0, 0), gradient * factor

    start = torch.full((1, 3, 2, 5), -0.7, dtype=torch.float64)
    for optimizer in ("lbfgs", "adam"):
        plain, other = (list(islice(minimize(f, start, optimizer), 15))[-1].image for f in (rosenbrock, scaled))
        np.testing.assert_allclose(other.numpy(), plain.numpy(), rtol=1e-6)


def test_every_line_search_meets_the_strong_wolfe_conditions() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        x = torch.tensor(rng.uniform(-1.5, 1.5, (1, 3, 1, 2)))
        losses, gradient = rosenbrock(x)
        slope = -float((gradient * gradient).sum())
        origin = _Point(0.0, x, losses, gradient)
        found = _line_search(rosenbrock, origin, -gradient, slope, 10.0 ** rng.uniform(-6, 1))
        assert found is not None
        assert found.losses.total <= losses.total + C1 * found.step * slope
        assert abs(float((found.gradient * -gradient).sum())) <= -C2 * slope


def test_adam_is_kingma_and_bas() -> None:
    start, rate = torch.tensor([[[[0.3, -0.8]]]], dtype=torch.float64), 0.05
    x, m, v = start.numpy().copy().ravel(), np.zeros(2), np.zeros(2)
    steps = minimize(rosenbrock, start, "adam", rate)
    for t in range(1, 30):
        np.testing.assert_allclose(next(steps).image.numpy().ravel(), x, rtol=1e-9)
        g = rosen_der(x)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        x = x - rate * (m / (1 - 0.9**t)) / np.sqrt(v / (1 - 0.999**t))


def test_a_loss_that_is_not_finite_beyond_a_wall_is_backed_away_from() -> None:
    def walled(x: torch.Tensor) -> tuple[Losses, torch.Tensor]:
        if float(x.max()) > 1:
            return Losses(math.nan, 0, 0), torch.full_like(x, math.nan)
        return Losses(float(-x.sum()), 0, 0), -torch.ones_like(x)

    steps = []
    with pytest.raises(DivergenceError):  # at the wall itself no step is short enough
        steps.extend(minimize(walled, torch.zeros(1, 3, 2, 2, dtype=torch.float64), "lbfgs"))
    assert all(math.isfinite(step.losses.total) for step in steps)
    assert float(steps[-1].image.max()) > 1 - 1e-6


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_a_start_without_a_finite_loss_is_divergence(optimizer: str) -> None:
    def broken(x: torch.Tensor) -> tuple[Losses, torch.Tensor]:
        return Losses(math.inf, 0, 0), torch.full_like(x, math.nan)

    with pytest.raises(DivergenceError):
        next(minimize(broken, torch.zeros(1, 3, 2, 2), optimizer))


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
def test_iterates_handed_out_are_not_changed_afterwards(optimizer: str) -> None:
    steps = islice(minimize(rosenbrock, torch.zeros(1, 3, 2, 2, dtype=torch.float64), optimizer), 6)
    held = [(step.image, step.image.clone()) for step in steps]
    assert all(torch.equal(image, copy) for image, copy in held)

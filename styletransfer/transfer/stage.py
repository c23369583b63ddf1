"""The optimization on one scale of a run."""

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..errors import StyleTransferError
from ..losses import Losses
from ..optim import PATIENCE, InverseHessian, Iterate, minimize, spectrum_of
from ..options import LEARNING_RATES
from ..runtime import hardware
from ..runtime.plan import Plan, make_smaller_plan
from .evaluation import make_evaluate
from .planning import memory_model, plan_scale
from .problem import WINDOW, Problem, Scale

log = logging.getLogger(__name__)

#: A scale ends when the loss fell by less than this share within `WINDOW` iterations: nobody sees such a change.
SETTLED = 0.02
#: On a GPU the loss is read once in so many iterations, since reading makes the GPU wait for the host.
READ_EVERY = {"cuda": 10}
#: When the loss is no longer finite the run continues more carefully, at most so often, with so much shorter steps.
RECOVERIES, SHORTER = 3, 0.25


@dataclass
class ScaleRecord:
    """One scale of a run: the losses of all iterates, the index of the best, why it ended ("" if it has not)."""

    scale: Scale
    losses: list[Losses] = field(default_factory=list)
    best: int = 0
    stopped: str = ""

    @property
    def iterations(self) -> int:
        """The number of iterations done."""
        return len(self.losses) - 1

    def reason_to_stop(self, tried: Tensor, max_iterations: int, window: int) -> str:
        """Return why the scale ends here, as in `Result.stopped`; "" if it continues.

        Args:
            tried: the loss where the last step would have led.
            window: iterations within which the loss must fall.
        """
        totals = [loss.total for loss in self.losses]
        stuck = len(totals) > 2 * PATIENCE and totals[-1] == totals[-1 - 2 * PATIENCE]
        if not math.isfinite(totals[-1]) or (stuck and not math.isfinite(float(tried))):
            return "diverged"
        if len(totals) > max_iterations:
            return "iterations"
        before, now = min(totals[:-window], default=math.inf), min(totals)
        return "converged" if stuck or before - now < SETTLED * now else ""


@dataclass
class Caution:
    """How carefully a run works, on this scale and those after it.

    Attributes:
        precision: of the network.
        learning_rate: of first-order optimizers; None for their defaults.
        recoveries: how often it was increased.
    """

    precision: hardware.Precision
    learning_rate: float | None
    recoveries: int = 0

    def can_increase(self, problem: Problem) -> bool:
        """Return whether there is a more careful way."""
        is_inexact = self.precision.backward != torch.float32
        return self.recoveries < RECOVERIES and (is_inexact or problem.options.optimizer in LEARNING_RATES)

    def increase(self, problem: Problem) -> None:
        """Continue in full precision, with shorter steps; L-BFGS has tried those already."""
        self.precision = hardware.select_precision("fp32", problem.device)
        optimizer = problem.options.optimizer
        if optimizer in LEARNING_RATES:
            rate = LEARNING_RATES[optimizer] if self.learning_rate is None else self.learning_rate
            self.learning_rate = SHORTER * rate
        self.recoveries += 1


class Stage:
    """The optimization on one scale.

    Args:
        plan: in which parts it is evaluated.
        canvas: the last iterate, 1×3×H×W with the bleed: the start, or that to resume from.
        best: the iterate with the lowest loss.
        state: of the optimizer, to resume from.

    Attributes:
        canvas, best: as above; on a GPU `best` is one of those whose loss was read.
        iterate: the last one; None before the first.
    """

    def __init__(
        self,
        problem: Problem,
        record: ScaleRecord,
        caution: Caution,
        plan: Plan,
        canvas: Tensor,
        best: Tensor,
        state: Mapping[str, Tensor],
    ) -> None:
        self.problem, self.record, self.caution = problem, record, caution
        self.plan, self.canvas, self.best, self._state = plan, canvas, best, state
        self.iterate: Iterate | None = None
        self.max_iterations = problem.max_iterations(record.scale)
        self._curvature: InverseHessian | None = None
        self._unread: list[Tensor] = []

    @property
    def spectrum(self) -> dict[str, Tensor]:
        """The part of L-BFGS's history that is of use on another scale; empty with other optimizers."""
        return spectrum_of(self._curvature.state() if self._curvature else self._state)

    @property
    def is_read(self) -> bool:
        """Whether the losses of all iterates are in the record."""
        return not self._unread

    def state(self) -> Mapping[str, Tensor]:
        """Return the optimizer's state after the last iterate; its tensors change with the next one."""
        return self.iterate.state() if self.iterate else self._state

    def suspend(self, *, keep_state: bool) -> None:
        """Release L-BFGS's history; with `keep_state` not what resuming needs."""
        self._state = self.state() if keep_state else {}
        self.iterate = self._curvature = None

    def prepare(self, plan: Plan, spectrum: Mapping[str, Tensor]) -> None:
        """Make an empty L-BFGS history with a spectrum. A plan that takes less memory replaces plan and state."""
        if self.plan.memory > plan.memory:
            self.plan, self._state = plan, {}
        self._make_curvature()
        if self._curvature:
            self._curvature.inherit(spectrum)

    def iterates(self) -> Iterator[Iterate]:
        """Yield the iterates after those done, until there is a reason to stop."""
        every = READ_EVERY.get(self.problem.device.type, 1)
        while True:
            for iterate in self._minimize_in_memory():
                self.iterate = iterate
                self._unread.append(iterate.terms)
                if iterate.iteration % every == 0 or iterate.iteration >= self.max_iterations:
                    self.read()
                yield iterate
                if self.record.stopped:
                    break
            if self.record.stopped != "diverged" or not self._recover():
                return

    def read(self) -> None:
        """Read the losses that are only on the device, and see what follows from them."""
        if not self.iterate or not self._unread:
            return
        record, prior = self.record, self.problem.prior
        record.losses += [Losses(*row) for row in torch.stack(self._unread).tolist()]
        self._unread.clear()
        if self.iterate.iteration == 0 or record.losses[-1].total <= record.losses[record.best].total:
            record.best, self.best = self.iterate.iteration, self.iterate.image
        window = prior.window if prior else WINDOW
        record.stopped = record.reason_to_stop(self.iterate.tried, self.max_iterations, window)

    def _minimize_in_memory(self) -> Iterator[Iterate]:
        """Yield the optimizer's iterates after those done. When memory runs out, continue in smaller parts."""
        done = self.record.iterations
        while True:
            first = max(done, 0)
            try:
                for number, iterate in enumerate(self._minimize(first), first):
                    if number > done:
                        done, self.canvas = number, iterate.image
                        yield replace(iterate, iteration=number)
            except (RuntimeError, MemoryError) as error:
                # What is free now says nothing: memory that the process keeps for itself is free too.
                model = memory_model(self.problem, self.record.scale, self.caution.precision)
                smaller = make_smaller_plan(model, self.plan)
                if self.problem.options.tile == "off" or not smaller or not hardware.is_out_of_memory(error):
                    raise
                self.plan = smaller
            hardware.release_memory(self.problem.device)
            log.info("out of memory after %d iterations; continuing with: %s", max(done, 0), self.plan)

    def _minimize(self, done: int) -> Iterator[Iterate]:
        encoder = self.problem.encoder(self.caution.precision)
        evaluate = make_evaluate(self.problem, encoder, self.record.scale, self.plan.tiling, self.canvas, done)
        state, self._state = self._state, {}
        optimizer, rate = self.problem.options.optimizer, self.caution.learning_rate
        return minimize(evaluate, self.canvas, optimizer, rate, curvature=self._curvature, state=state)

    def _recover(self) -> bool:
        """After a loss that is not finite: return to the best image, to continue more carefully if possible."""
        if not self.caution.can_increase(self.problem):
            return False
        self.caution.increase(self.problem)
        log.warning(
            "the loss was no longer finite after %d iterations: continuing from the best image, in full precision and "
            "with shorter steps",
            self.record.iterations,
        )
        self.record.stopped = ""
        if not math.isfinite(self.record.losses[0].total):
            self.record.losses.clear()
        with contextlib.suppress(StyleTransferError):  # if it doesn't fit, smaller parts are tried on the way
            self.plan = plan_scale(self.problem, self.record.scale, self.caution.precision)
        self.canvas, self._state, self._curvature = self.best, {}, None
        self._make_curvature()
        return True

    def _make_curvature(self) -> None:
        if self.problem.options.optimizer == "lbfgs":
            self._curvature = make_history(self.canvas, self.plan, self.caution.precision)


def make_history(image: Tensor, plan: Plan, precision: hardware.Precision) -> InverseHessian:
    """Return an empty L-BFGS history for images like this one, as long as planned."""
    return InverseHessian(image, plan.history or 1, precision.backward)

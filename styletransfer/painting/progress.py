"""How far the work on a picture is: the runs on its scales, the rule by which one ends, and what a checkpoint holds."""

import dataclasses
import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..machine import ranks
from ..machine.plan import Plan
from ..network import Tiling
from ..objective import Losses
from ..optimizer import PATIENCE, Step
from .checkpoint import Checkpoint
from .job import Job, Scale

log = logging.getLogger(__name__)

#: A run ends when the loss fell by less than this share within `Job.window` iterations: nobody sees such a change.
SETTLED = 0.02
#: L-BFGS's pairs are in a checkpoint as far as they don't take more; without them it begins to learn anew.
HISTORY_BYTES = 1 << 30
#: How long the run will take is told by so many iterations, after as many to warm up, on the first scale with so long a
#: side: on smaller ones an iteration takes longer for its pixels. Not if it takes less than so many seconds; beyond so
#: many, with what would be sooner.
TIMED, TELLING, BRIEF, PATIENT = 10, 128, 20, 120
#: An iteration takes as long as if its scale had so many pixels more: what doesn't depend on the size. On a GPU that is
#: the launching of some hundred kernels (docs/performance.md).
OVERHEAD = {"cpu": 14_000, "cuda": 400_000}
#: When there is a time limit: how many iterations must fit in what is left for a finer scale to be begun.
WORTHWHILE = 8


@dataclass
class Run:
    """The work on one scale: the losses of all iterations, which is best, and why it ended, once it has."""

    scale: Scale
    losses: list[Losses] = field(default_factory=list)
    best: int = 0
    stopped: str = ""

    @property
    def iterations(self) -> int:
        """Iterations done."""
        return len(self.losses) - 1

    def reason_to_stop(self, tried: Tensor, iterations: int, window: int) -> str:
        """As in `Result.stopped`; empty if there is none.

        Args:
            tried: the loss where the last step would have led.
            iterations: at most.
            window: as in `Job`.
        """
        totals = [loss.total for loss in self.losses]
        stuck = len(totals) > 2 * PATIENCE and totals[-1] == totals[-1 - 2 * PATIENCE]
        if not math.isfinite(totals[-1]) or (stuck and not math.isfinite(float(tried))):
            return "diverged"
        if len(totals) > iterations:
            return "iterations"
        before, now = min(totals[:-window], default=math.inf), min(totals)
        return "converged" if stuck or before - now < SETTLED * now else ""


class Clock:
    """How long a picture may still take (`Options.time`).

    Attributes:
        pace: seconds of an iteration, as measured last, on the present scale.
        until: when the present scale is to end, if there is a finer one for which there is time.
    """

    def __init__(self, job: Job) -> None:
        self._overhead = OVERHEAD.get(job.device.type, OVERHEAD["cpu"])
        self._scales, self._limit, self._end = job.scales, job.options.seconds, job.start + job.options.seconds
        self._work = [job.max_iterations(scale) * self._cost(scale) for scale in job.scales]
        self._began, self._warm, self._announced = job.start, 0.0, False
        self.until, self.pace = math.inf, 0.0
        self._scale = job.scales[0]

    def enter(self, scale: Scale) -> None:
        """Gives a scale, which begins now, its part of the time: each costs about as much as all before it."""
        self.pace *= self._cost(scale) / self._cost(self._scale)
        self._scale, finer, now = scale, len(self._scales) - 1 - self._scales.index(scale), time.monotonic()
        self.until = now + (self._end - now) / 2**finer

    def announce(self, step: Step, run: Run) -> None:
        """Tells once how long the run takes at most, as soon as the steps on a large enough scale show it."""
        if step.iteration == TIMED:
            self._warm = step.seconds
        scale = run.scale
        small = max(scale.content) < TELLING and scale != self._scales[-1]
        if step.iteration != 2 * TIMED or small or self._announced:
            return
        self._announced = True
        pace = (step.seconds - self._warm) / TIMED
        seconds = time.monotonic() - self._began + self._predict(scale, step.iteration, pace)
        if not BRIEF <= seconds <= self._limit:
            return
        told = f"{seconds:.0f} seconds" if seconds < PATIENT else f"{seconds / 60:.0f} minutes"
        sooner = "" if seconds < PATIENT else "; for a draft within seconds: --preset fast"
        log.info("this takes up to about %s on this machine%s", told, sooner)

    def seconds_left(self, step: Step, run: Run) -> float | None:
        """How long the run takes from now at most, told by the iterations on this scale; None if that can't be."""
        if not self.pace:
            return None
        return min(self._predict(run.scale, step.iteration, self.pace), self._end - time.monotonic())

    def _predict(self, scale: Scale, done: int, pace: float) -> float:
        """Seconds of all iterations but those done, by what one takes on a scale."""
        return pace * (sum(self._work[self._scales.index(scale) :]) / self._cost(scale) - done)

    def _cost(self, scale: Scale) -> int:
        """What an iteration costs, in pixels."""
        return math.prod(scale.content) + self._overhead

    @property
    def spent(self) -> float:
        """Seconds of the limit that are used up; 0 without a limit."""
        return time.monotonic() - self._end + self._limit if math.isfinite(self._end) else 0.0

    def charge(self, seconds: float) -> None:
        """Takes off what was spent before an interruption."""
        self._end -= seconds

    def allows(self, scale: Scale, last: Scale) -> bool:
        """Whether there is time for enough iterations on a scale, told by those on the last one."""
        pace = self.pace * self._cost(scale) / self._cost(last)
        short = math.isfinite(self._end) and self._end - time.monotonic() < WORTHWHILE * pace
        return not ranks.any_process(short)

    def is_up(self, scale: Scale) -> bool:
        """Whether another iteration would take too long; there is more time where no finer scale is worthwhile."""
        if not math.isfinite(self._end):
            return False
        after, finer = time.monotonic() + self.pace, self._scales[self._scales.index(scale) + 1 :]
        if finer and not self.allows(finer[0], scale):
            return ranks.any_process(after > self._end)
        return ranks.any_process(after > self.until)


@dataclass
class Progress:
    """What a checkpoint holds of the work.

    Attributes:
        runs: in order; the last may be under way.
        plan: of the last run's scale.
        backward: in what gradients are carried back: which is faster was measured, and may be told otherwise next time.
        recoveries: how often the loss was no longer finite.
        seconds: spent of the time limit.
        image: the last canvas.
        best: the best one.
        optimizer: what `minimize` needs besides to resume from `image`.
    """

    runs: list[Run]
    plan: Plan
    backward: torch.dtype
    recoveries: int
    seconds: float
    image: Tensor
    best: Tensor
    optimizer: Mapping[str, Tensor]

    def described(self) -> dict[str, Any]:
        """All but the tensors, for JSON."""
        runs = [dataclasses.asdict(run) for run in self.runs]
        plan, backward = dataclasses.asdict(self.plan), str(self.backward).removeprefix("torch.")
        rest = {"recoveries": self.recoveries, "seconds": self.seconds}
        return {"runs": runs, "plan": plan, "backward": backward, **rest}

    def tensors(self) -> dict[str, Tensor]:
        """The last canvas, the best if that is another one, and the optimiser's state if it isn't too large."""
        state = {f"optimizer.{name}": tensor for name, tensor in self.optimizer.items()}
        if sum(tensor.nbytes for tensor in state.values()) > HISTORY_BYTES:
            state = {}
        best = {} if self.best is self.image else {"best": self.best}
        return {**state, "image": self.image, **best}

    @classmethod
    def from_checkpoint(cls, saved: Checkpoint, device: torch.device) -> "Progress":
        """Takes over what `described` and `tensors` have told; the tensors are taken out, since they may be large."""
        tensors = {name: saved.tensors.pop(name).to(device) for name in list(saved.tensors)}
        image = tensors.pop("image")
        best = tensors.pop("best", image)
        told, runs = saved.progress, list[Run]()
        for run in told["runs"]:
            scale = Scale(tuple(run["scale"]["content"]), run["scale"]["style"])
            losses = [Losses(**terms) for terms in run["losses"]]
            runs.append(Run(scale, losses, run["best"], run["stopped"]))
        plan = Plan(**{**told["plan"], "tiling": Tiling(**told["plan"]["tiling"])})
        backward = getattr(torch, told["backward"])
        optimizer = {name.removeprefix("optimizer."): tensor for name, tensor in tensors.items()}
        return cls(runs, plan, backward, told["recoveries"], told["seconds"], image, best, optimizer)

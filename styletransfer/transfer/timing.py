"""The time that a run takes: its deadline, and the time left."""

import logging
import math
import time
from collections.abc import Collection

import torch

from ..options import Options
from ..runtime import distributed, hardware
from .problem import Scale, choose_scales, limit_iterations
from .run import Run, Step

log = logging.getLogger(__name__)

#: The duration of a run is logged after so many iterations on the first scale with so long a side: on smaller ones an
#: iteration takes longer for its pixels. Not if it is less than BRIEF seconds; beyond LONG with what would be sooner.
MEASURED, LEAST_SIDE, BRIEF, LONG = 20, 128, 20, 120
#: An iteration takes as long as if its scale had so many pixels more: what doesn't depend on the size. On a GPU that is
#: the launching of some hundred kernels.
OVERHEAD = {"cpu": 14_000, "cuda": 400_000}
#: How many iterations must fit in the time left for a finer scale to be started.
WORTHWHILE = 8


class Pace:
    """Measures how long iterations take, and predicts from it how long the rest of the run does."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._first, self._began, self._seconds = 0, 0.0, 0.0
        self._scale: Scale | None = None

    def update(self, step: Step) -> None:
        """Take in a step, when it is made."""
        now = time.monotonic()
        if step.scale != self._scale:
            # Until there are two steps to compare, as on the scale before; each pixel takes as long.
            self._seconds *= self.cost(step.scale) / self.cost(self._scale or step.scale)
            self._scale, self._first, self._began = step.scale, step.iteration, now
        elif step.iteration > self._first:
            self._seconds = (now - self._began) / (step.iteration - self._first)

    def measured(self, step: Step) -> int:
        """Return how many iterations on the step's scale were measured."""
        return step.iteration - self._first

    def cost(self, scale: Scale) -> int:
        """Return what an iteration costs, in pixels."""
        return iteration_cost(scale, self._run.problem.device)

    @property
    def rate(self) -> float:
        """The seconds that an iteration takes for each pixel of its `cost`; 0 while unknown."""
        return self._seconds / self.cost(self._scale) if self._scale else 0.0

    def seconds(self, scale: Scale) -> float:
        """Return the seconds of an iteration on a scale; 0 while unknown."""
        return self._seconds * self.cost(scale) / self.cost(self._scale) if self._scale else 0.0

    def predict(self, step: Step) -> float:
        """Return the seconds that all iterations after this step take; 0 while unknown."""
        problem = self._run.problem
        finer = problem.scales[problem.scales.index(step.scale) + 1 :]
        rest = (step.max_iterations - step.iteration) * self.seconds(step.scale)
        return rest + sum(problem.max_iterations(scale) * self.seconds(scale) for scale in finer)

    def seconds_left(self, step: Step) -> float | None:
        """Return the seconds that the run takes from this step at most; None while unknown."""
        if not self._seconds:
            return None
        return min(self.predict(step), self._run.problem.options.seconds - self._run.seconds)


def estimate_cost(content: tuple[int, int], styles: Collection[tuple[int, int]], options: Options) -> int:
    """Return what a run costs at most: the sum of `Pace.cost` over all iterations.

    Args:
        content, styles: width and height of the images.
    """
    device = hardware.select_device(options.device)
    scales = choose_scales(content, styles, options)
    return sum(limit_iterations(options, i > 0) * iteration_cost(scale, device) for i, scale in enumerate(scales))


def iteration_cost(scale: Scale, device: torch.device) -> int:
    """Return what an iteration on a scale costs, in pixels: those of the image, and the overhead of an iteration."""
    return math.prod(scale.content) + OVERHEAD.get(device.type, OVERHEAD["cpu"])


class Deadline:
    """Ends a run in time (`Options.time`).

    Each scale has a part of the time, as it costs about as much as all before it; a finer one is not started unless
    there is time for `WORTHWHILE` iterations.
    """

    def __init__(self, run: Run, pace: Pace) -> None:
        self._run, self._pace, self._limit = run, pace, run.problem.options.seconds
        self._scale: Scale | None = None
        self._scale_end = math.inf
        if run.records and self._is_over(run.seconds > self._limit):
            run.stop("time")

    def update(self, step: Step) -> None:
        """End the scale or the run after this step if another iteration would take too long."""
        if math.isinf(self._limit):
            return
        scales, record = self._run.problem.scales, self._run.records[-1]
        finer = scales[scales.index(step.scale) + 1 :]
        now, pace = self._run.seconds, self._pace.seconds(step.scale)
        left = self._limit - now
        if step.scale != self._scale:
            self._scale, self._scale_end = step.scale, now + left / 2 ** len(finer)
        is_last = not finer or self._is_over(left < WORTHWHILE * self._pace.seconds(finer[0]))
        if not record.stopped and self._is_over(now + pace > (self._limit if is_last else self._scale_end)):
            self._run.end_scale("time")
        if record.stopped in ("time", "iterations", "converged") and finer and is_last:
            self._run.stop("time")

    def _is_over(self, mine: bool) -> bool:
        """Return whether it is for any process: all end after the same step."""
        return math.isfinite(self._limit) and distributed.any_process(mine)


def log_duration(run: Run, pace: Pace, step: Step) -> bool:
    """Log how long the run takes at most, unless its deadline comes first; return False while it is too early."""
    small = max(step.scale.content) < LEAST_SIDE and step.scale != run.problem.scales[-1]
    if pace.measured(step) < MEASURED or small:
        return False
    seconds = run.seconds + pace.predict(step)
    if BRIEF <= seconds <= run.problem.options.seconds:
        duration = f"{seconds:.0f} seconds" if seconds < LONG else f"{seconds / 60:.0f} minutes"
        sooner = "" if seconds < LONG else "; for a draft within seconds: preset fast"
        log.info("this takes up to about %s on this machine%s", duration, sooner)
    return True

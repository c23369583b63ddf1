"""The loop: scale by scale, step by step, from the canvas to the finished picture."""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import StyleTransferError
from ..machine import hardware, ranks
from ..machine.plan import Plan, make_smaller_plan
from ..objective import Losses
from ..optimizer import InverseHessian, Step, minimize, spectrum_of
from ..options import LEARNING_RATES
from .bleed import add_bleed, trim_bleed
from .canvas import content_canvas, make_finisher, make_start, step_up
from .checkpoint import Checkpoint, CheckpointWriter
from .evaluation import make_evaluate
from .job import Job, Scale
from .planning import find_needs, plan_scale
from .progress import Clock, Progress, Run

log = logging.getLogger(__name__)

#: On a GPU the loss is read once in so many iterations, since reading makes the GPU wait for the host.
READ_EVERY = {"cuda": 10}
#: When the loss is no longer finite the run goes on more carefully, at most so often, and with so much shorter steps.
RECOVERIES, SHORTER = 3, 0.25


class Painting:
    """The work on a picture: `paint` does it, from the start or from where a run was interrupted.

    Args:
        saved: the checkpoint to resume from; its tensors are taken out of it, since they may be large.

    Attributes:
        image: the canvas, 1×3×H×W and `bleed_width` more on every side, as it was best on the scale of the last run.
        runs: in order; the last may be under way.
        recoveries: how often the loss was no longer finite.
    """

    def __init__(self, job: Job, saved: Checkpoint | None = None) -> None:
        self.job, self.runs, self.recoveries = job, list[Run](), 0
        self.image: Tensor
        self._last: Tensor
        self._plan: Plan
        self._curvature: InverseHessian | None = None
        self._finish: Callable[[Tensor], Tensor]
        self._state: Mapping[str, Tensor] = job.spectrum
        self._clock = Clock(job)
        if saved:
            before = Progress.from_checkpoint(saved, job.device)
            self.runs, self.recoveries, self._plan = before.runs, before.recoveries, before.plan
            self._last, self.image, self._state = before.image, before.best, before.optimizer
            self._clock.charge(before.seconds)
            self.job = cast(job, replace(job.precision, backward=before.backward))
            for _ in range(self.recoveries):
                self.job = _make_careful(self.job)

    def paint(self) -> None:
        """Works through the scales from coarse to fine, each with a plan of its own.

        Raises:
            StyleTransferError: memory doesn't suffice, or the loss of the start is not finite.
        """
        for scale in self.job.scales:
            plan_scale(self.job, scale)  # what won't fit is refused before the work begins
        for scale in self.job.scales:
            if any(run.scale == scale and run.stopped for run in self.runs):
                continue
            if scale != self.job.scales[0] and not self._clock.allows(scale, self.runs[-1].scale):
                self.runs[-1].stopped = "time"
                break
            try:
                self._enter(scale)
            except StyleTransferError as error:  # others have taken memory meanwhile
                if not self.runs or self.runs[-1].scale == scale:
                    raise
                log.warning("%s", error)
                self.runs[-1].stopped = "memory"
                break
            self._clock.enter(scale)
            self._work(scale)
            if self.runs[-1].stopped in ("callback", "diverged"):
                break
        if not math.isfinite(self.runs[-1].losses[0].total):
            raise StyleTransferError("the loss of the starting picture is not finite: the weights are not usable")

    def try_out(self, plan: Plan) -> Iterator[Step]:
        """Steps from the content on the last scale, evaluated by this plan: to see how long they take."""
        scale = self.job.scales[-1]
        self._plan, self._last = plan, content_canvas(self.job, scale)
        self._curvature = make_curvature(self.job, self._last, plan)
        return self._steps(Run(scale))

    @property
    def picture(self) -> Tensor:
        """The best image on the scale of the last run, 1×3×H×W."""
        return trim_bleed(self.image, self.job.options)

    def finish(self) -> Tensor:
        """The picture in the size of the last scale as it is to be saved, 1×3×H×W in [0, 1] on the CPU."""
        job, image, scale = self.job, self.picture, self.job.scales[-1]
        if self.runs[-1].scale != scale:
            image = step_up(image, job.base, scale.content, seamless=job.options.seamless)
        return make_finisher(job, scale.content)(image.clamp(0, 1).to(job.device)).cpu()

    @property
    def spectrum(self) -> dict[str, Tensor]:
        """What L-BFGS has learnt that is of use for another picture; empty of other optimisers."""
        return spectrum_of(self._curvature.state() if self._curvature else {})

    def _enter(self, scale: Scale) -> None:
        """Makes the plan of a scale, its canvas, and L-BFGS's memory; of the last scale's the spectrum remains."""
        spectrum = spectrum_of(self._curvature.state() if self._curvature else self._state)
        self._curvature = None
        hardware.release_memory(self.job.device)
        plan = plan_scale(self.job, scale)
        begun = bool(self.runs) and self.runs[-1].scale == scale
        if begun and self._plan.memory <= plan.memory:
            plan = self._plan
        else:
            self._state = {}
        if not begun:
            if self.runs:
                start = step_up(self.picture, self.job.base, scale.content, seamless=self.job.options.seamless)
            else:
                start = make_start(self.job)
            self.image = self._last = add_bleed(start, self.job.options).to(self.job.device)
            del start  # large
        if plan.tiling.rows:
            log.info("%d×%d: %s", *scale.content, plan)
        self._plan, self._curvature = plan, make_curvature(self.job, self.image, plan)
        if self._curvature:
            self._curvature.inherit(spectrum)
        self._finish = make_finisher(self.job, scale.content)

    def _work(self, scale: Scale) -> None:
        """Optimises on one scale, from the start or from where it was, until a reason to stop."""
        iterations = self.job.max_iterations(scale)
        if not self.runs or self.runs[-1].stopped:
            self.runs.append(Run(scale))
        run = self.runs[-1]
        self._follow(self._steps(run), run, iterations)
        while run.stopped == "diverged" and self._recover(run):
            self._follow(self._steps(run), run, iterations)
        self._last = self.image

    def _follow(self, steps: Iterator[Step], run: Run, iterations: int) -> None:
        """Keeps the best of the steps, shows them to the listener and writes checkpoints, until a reason to stop."""
        every, asked, unread = READ_EVERY.get(self.job.device.type, 1), False, list[Tensor]()
        for step in steps:
            self._clock.announce(step, run)
            if self.job.callback:
                image = self._finish(trim_bleed(step.image, self.job.options))
                left = self._clock.seconds_left(step, run)
                shown = replace(step, image=image, max_iterations=iterations, seconds_left=left)
                asked = bool(self.job.callback(shown)) or asked
            unread.append(step.terms)
            if step.iteration % every and step.iteration < iterations:
                continue
            run.losses += [Losses(*row) for row in torch.stack(unread).tolist()]
            unread.clear()
            if step.iteration == 0 or run.losses[-1].total <= run.losses[run.best].total:
                run.best, self.image = step.iteration, step.image
            asked = ranks.any_process(asked)
            run.stopped = run.reason_to_stop(step.tried, iterations, self.job.window)
            if not run.stopped and self._clock.is_up(run.scale):
                run.stopped = "time"
            writer = self.job.writer
            if writer and run.stopped != "diverged" and writer.is_due(last=asked):
                self._save_progress(writer, step)
            run.stopped = "callback" if asked else run.stopped
            if run.stopped:
                return

    def _save_progress(self, writer: CheckpointWriter, step: Step) -> None:
        seconds, state = self._clock.spent, step.state()
        backward = self.job.precision.backward
        now = Progress(self.runs, self._plan, backward, self.recoveries, seconds, step.image, self.image, state)
        writer.write(now.described(), now.tensors())

    def _steps(self, run: Run) -> Iterator[Step]:
        """The optimiser's steps that follow those done. When memory runs out they go on from the last one, in smaller
        parts."""
        start, done = time.monotonic(), run.iterations
        before, first = done, 0.0
        while True:
            try:
                for number, step in enumerate(self._minimize(run.scale, max(done, 0)), max(done, 0)):
                    if number > done:
                        done, self._last, seconds = number, step.image, time.monotonic() - start
                        if done - before == 1:  # with what comes before it
                            first = seconds
                        else:
                            self._clock.pace = (seconds - first) / (done - before - 1)
                        yield replace(step, iteration=number, seconds=seconds)
            except (RuntimeError, MemoryError) as error:
                # What is free now doesn't tell: memory that the process keeps for itself is free too.
                smaller = make_smaller_plan(find_needs(self.job, run.scale), self._plan)
                if self.job.options.tile == "off" or not smaller or not hardware.is_out_of_memory(error):
                    raise
                self._plan = smaller
            hardware.release_memory(self.job.device)
            log.info("out of memory after %d iterations; continuing with: %s", max(done, 0), self._plan)

    def _minimize(self, scale: Scale, done: int) -> Iterator[Step]:
        evaluate = make_evaluate(self.job, scale, self._plan.tiling, self._last, done)
        state, self._state = self._state, {}
        name, rate = self.job.options.optimizer, self.job.options.learning_rate
        return minimize(evaluate, self._last, name, rate, curvature=self._curvature, state=state)

    def _recover(self, run: Run) -> bool:
        """After the loss was not finite: back to the best picture, and on from there more carefully, if that can be."""
        if self.recoveries == RECOVERIES or not _can_be_more_careful(self.job):
            return False
        log.warning(
            "the loss was no longer finite after %d iterations: continuing from the best picture, in full "
            "precision and with shorter steps",
            run.iterations,
        )
        self.recoveries += 1
        self.job = _make_careful(self.job)
        if not math.isfinite(run.losses[0].total):
            run.losses.clear()
        with contextlib.suppress(StyleTransferError):  # if it doesn't fit, smaller parts are tried on the way
            self._plan = plan_scale(self.job, run.scale)
        self._last, self._state, self._curvature = self.image, {}, None
        self._curvature = make_curvature(self.job, self.image, self._plan)
        return True


def make_curvature(job: Job, image: Tensor, plan: Plan) -> InverseHessian | None:
    """L-BFGS's memory for images like this one, with as many pairs as planned; None for other optimisers."""
    if job.options.optimizer != "lbfgs":
        return None
    return InverseHessian(image, plan.history or 1, job.precision.backward)


def _can_be_more_careful(job: Job) -> bool:
    return job.options.optimizer in LEARNING_RATES or job.precision.backward != torch.float32


def _make_careful(job: Job) -> Job:
    """The job in full precision, and with shorter steps; L-BFGS has tried those already."""
    job, options = cast(job, hardware.select_precision("fp32", job.device)), job.options
    if options.optimizer in LEARNING_RATES:
        rate = LEARNING_RATES[options.optimizer] if options.learning_rate is None else options.learning_rate
        options = replace(options, learning_rate=SHORTER * rate)
    return replace(job, options=options)


def cast(job: Job, precision: hardware.Precision) -> Job:
    """The job in another precision, in which its encoder is from now on."""
    job.encoder.cast(precision.forward, precision.backward)
    return replace(job, precision=precision)

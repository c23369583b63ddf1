"""The optimization of one image: an iterable over its steps, from the coarsest scale to the finest."""

import contextlib
import dataclasses
import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..encoder import Tiling
from ..errors import StyleTransferError
from ..losses import Losses
from ..optim import PATIENCE, InverseHessian, Iterate, minimize, spectrum_of
from ..options import LEARNING_RATES
from ..runtime import distributed, hardware
from ..runtime.plan import Plan, make_smaller_plan
from .bleed import add_bleed, trim_bleed
from .canvas import make_finisher, make_start, upsample_residual
from .checkpoint import check_same_run
from .evaluation import make_evaluate
from .planning import memory_model, plan_scale
from .problem import WINDOW, Problem, Scale
from .result import Result

log = logging.getLogger(__name__)

#: A scale ends when the loss fell by less than this share within `WINDOW` iterations: nobody sees such a change.
SETTLED = 0.02
#: On a GPU the loss is read once in so many iterations, since reading makes the GPU wait for the host.
READ_EVERY = {"cuda": 10}
#: When the loss is no longer finite the run continues more carefully, at most so often, with so much shorter steps.
RECOVERIES, SHORTER = 3, 0.25
#: L-BFGS's pairs are in a state only up to so many bytes; without them a resumed run starts with an empty history.
HISTORY_BYTES = 1 << 30


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


@dataclass(frozen=True)
class Step:
    """One iteration of a run, which costs one evaluation of loss and gradient.

    Attributes:
        scale: the size that is worked at.
        iteration: 0 for the starting image of the scale, then 1, 2, …
        max_iterations: the most that this scale can have.
        terms: the fields of `Losses`, as a tensor on the device.
    """

    scale: Scale
    iteration: int
    max_iterations: int
    terms: Tensor
    _canvas: Tensor
    _run: "Run"

    @property
    def losses(self) -> Losses:
        """The loss terms as numbers; on a GPU this waits until they are computed."""
        return Losses(*self.terms.tolist())

    @property
    def image(self) -> Tensor:
        """The iterate, 1×3×H×W. Its values may lie slightly outside [0, 1], which writing a file clips."""
        return make_finisher(self._run.problem, self.scale.content)(trim_bleed(self._canvas, self._run.problem.options))


@dataclass
class _Stage:
    """The optimization on one scale.

    Attributes:
        canvas: the last iterate, 1×3×H×W with the bleed.
        best: the iterate with the lowest loss that was read.
        curvature: L-BFGS's history; None for other optimizers.
        state: of the optimizer, to resume from.
        iterate: the last one, None before the first.
        unread: loss terms that are still on the device only.
    """

    record: ScaleRecord
    plan: Plan
    canvas: Tensor
    best: Tensor
    curvature: InverseHessian | None = None
    state: Mapping[str, Tensor] = field(default_factory=dict)
    iterate: Iterate | None = None
    unread: list[Tensor] = field(default_factory=list)


class Run:
    """The optimization of one image. Iterating over it does the work, step by step and scale by scale.

    Ending the iteration early, by ``break`` or `stop`, loses nothing: `result` has the best image so far, iterating
    again continues, and `state_dict` can be saved to resume in another process.

    Args:
        problem: what to optimize.
        state: of an earlier run (`state_dict`), to resume from.

    Attributes:
        records: of the scales so far; the last one may be in progress.
        precision: of the network.

    Raises:
        DifferentError: the state is of a run with other settings or inputs.
    """

    def __init__(self, problem: Problem, state: Mapping[str, Any] | None = None) -> None:
        self.problem, self.records, self.recoveries = problem, list[ScaleRecord](), 0
        self._before, self._started = 0.0, time.monotonic()
        self.precision, self._learning_rate = problem.precision, problem.options.learning_rate
        self._stage: _Stage | None = None
        self._stop = ""
        if state:
            check_same_run(state["run"], problem.identity)
            self._load(state["progress"], dict(state["tensors"]))

    @property
    def seconds(self) -> float:
        """The time since the run began, including that before an interruption."""
        return self._before + time.monotonic() - self._started

    @property
    def stopped(self) -> str:
        """Why the run ended, as in `Result.stopped`; "" while it has not."""
        return self._stop or (self.records[-1].stopped if self.records else "")

    @property
    def spectrum(self) -> dict[str, Tensor]:
        """The part of L-BFGS's history that is of use for another image; empty with other optimizers."""
        curvature = self._stage and self._stage.curvature
        return spectrum_of(curvature.state()) if curvature else {}

    def stop(self, reason: str = "interrupted") -> None:
        """End the iteration after the present step.

        Among several processes this ends all of them after the same step, which ``break`` would not.
        """
        self._stop = self._stop or reason

    def end_scale(self, reason: str) -> None:
        """End the present scale after the present step, and continue with the next one."""
        self._read()
        self.records[-1].stopped = self.records[-1].stopped or reason

    def __iter__(self) -> Iterator[Step]:
        """Yield the start and then every iterate of each scale.

        Raises:
            StyleTransferError: memory doesn't suffice.
        """
        if self._stop == "interrupted":
            self._stop = ""
        if self._stage and self._stage.iterate:
            self._stage.state = self._stage.iterate.state()
        ended = [record.scale for record in self.records if record.stopped]
        scales = [scale for scale in self.problem.scales if scale not in ended]
        for scale in scales:
            plan_scale(self.problem, scale, self.precision)  # what does not fit is refused before the work begins
        for scale in scales:
            if self._stop or (self.records and self.records[-1].stopped == "diverged"):
                break
            try:
                stage = self._enter(scale)
            except StyleTransferError as error:  # other programs have taken memory since
                if not self.records or self.records[-1].scale == scale:
                    raise
                log.warning("%s", error)
                self._stop = "memory"
                break
            yield from self._optimize(stage)

    def result(self) -> Result:
        """Return the best image so far.

        Raises:
            StyleTransferError: the loss of the start is not finite.
            ValueError: no step was made.
        """
        if not self._stage or not self.records:
            raise ValueError("the run has made no step: iterate over it first")
        self._read()
        problem, last, size = self.problem, self.records[-1], self.problem.scales[-1].content
        if not math.isfinite(last.losses[0].total):
            raise StyleTransferError("the loss of the starting image is not finite: the weights are not usable")
        image = trim_bleed(self._stage.best, problem.options)
        if last.scale.content != size:
            image = upsample_residual(image, problem.base, size, seamless=problem.options.seamless)
        return Result(
            tensor=make_finisher(problem, size)(image.clamp(0, 1).to(problem.device)).cpu(),
            losses=last.losses,
            best=last.losses[last.best],
            best_iteration=last.best,
            scales=[(*record.scale.content, record.iterations) for record in self.records],
            options=problem.options,
            model=problem.weights.name,
            device=str(problem.device),
            stopped=self.stopped or "interrupted",
            seconds=self.seconds,
            peak_memory_bytes=hardware.peak_memory(problem.device),
            alpha=problem.inputs.content.resize(size).alpha,
            inputs=problem.inputs.names,
            digest=problem.originals.digest,
        )

    # --- the state --------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to resume: on a CPU the resumed run makes the same image, byte for byte.

        Returns:
            "run": settings and hashes of the inputs, which must be the same when resumed; "progress": numbers and
            texts; both can be written as JSON. "tensors": by name. The tensors change with the next step: write or
            copy them before it. L-BFGS's history is left out if it takes more than `HISTORY_BYTES`.

        Raises:
            ValueError: no step was made.
        """
        self._read()
        stage = self._stage
        if not stage or not self.records:
            raise ValueError("the run has made no step: there is no state yet")
        learned = stage.iterate.state() if stage.iterate else stage.state
        state = {f"optimizer.{name}": tensor for name, tensor in learned.items()}
        if sum(tensor.nbytes for tensor in state.values()) > HISTORY_BYTES:
            state = {}
        best = {} if stage.best is stage.canvas else {"best": stage.best}
        progress = {
            "runs": [dataclasses.asdict(record) for record in self.records],
            "plan": dataclasses.asdict(stage.plan),
            "backward": str(self.precision.backward).removeprefix("torch."),
            "recoveries": self.recoveries,
            "seconds": self.seconds,
        }
        return {"run": self.problem.identity, "progress": progress, "tensors": {**state, "image": stage.canvas, **best}}

    def _load(self, progress: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
        for saved in progress["runs"]:
            scale = Scale(tuple(saved["scale"]["content"]), saved["scale"]["style"])
            losses = [Losses(**terms) for terms in saved["losses"]]
            self.records.append(ScaleRecord(scale, losses, saved["best"], saved["stopped"]))
        plan = Plan(**{**progress["plan"], "tiling": Tiling(**progress["plan"]["tiling"])})
        tensors = {name: tensor.to(self.problem.device) for name, tensor in tensors.items()}
        image = tensors.pop("image")
        best = tensors.pop("best", image)
        state = {name.removeprefix("optimizer."): tensor for name, tensor in tensors.items()}
        self._stage = _Stage(self.records[-1], plan, image, best, state=state)
        self._before = progress["seconds"]
        # Which precision is faster was measured, and may come out otherwise this time.
        self.precision = replace(self.precision, backward=getattr(torch, progress["backward"]))
        for _ in range(progress["recoveries"]):
            self._be_careful()

    # --- the work ---------------------------------------------------------------------------------------------------

    def _enter(self, scale: Scale) -> _Stage:
        """Prepare a scale: its plan, its canvas, and an empty L-BFGS history with the spectrum of the last scale."""
        stage, problem = self._stage, self.problem
        spectrum = problem.prior.spectrum if problem.prior else {}
        if stage:
            spectrum = spectrum_of(stage.curvature.state() if stage.curvature else stage.state)
            stage.curvature = None
        hardware.release_memory(problem.device)
        plan = plan_scale(problem, scale, self.precision)
        if stage and stage.record.scale == scale:
            if stage.plan.memory > plan.memory:
                stage.plan, stage.state = plan, {}
            stage.iterate = None
        else:
            if stage:
                image = trim_bleed(stage.best, problem.options)
                start = upsample_residual(image, problem.base, scale.content, seamless=problem.options.seamless)
                del image
            else:
                start = make_start(problem)
            self._stage = stage = None  # large
            canvas = add_bleed(start, problem.options).to(problem.device)
            del start
            self._stage = stage = _Stage(ScaleRecord(scale), plan, canvas, canvas)
            self.records.append(stage.record)
        if stage.plan.tiling.rows:
            log.info("%d×%d: %s", *scale.content, stage.plan)
        stage.curvature = make_curvature(problem, stage.canvas, stage.plan, self.precision.backward)
        if stage.curvature:
            stage.curvature.inherit(spectrum)
        return stage

    def _optimize(self, stage: _Stage) -> Iterator[Step]:
        """Yield the steps of a scale until there is a reason to stop."""
        scale, record = stage.record.scale, stage.record
        most, every = self.problem.max_iterations(scale), READ_EVERY.get(self.problem.device.type, 1)
        while True:
            for iterate in self._iterates(stage):
                stage.iterate = iterate
                stage.unread.append(iterate.terms)
                is_read = iterate.iteration % every == 0 or iterate.iteration >= most
                if is_read:
                    self._read()
                yield Step(scale, iterate.iteration, most, iterate.terms, iterate.image, self)
                together = is_read or distributed.world_size() == 1  # all processes end after the same step
                if together and distributed.any_process(bool(self._stop)):
                    self.stop()
                    return
                if record.stopped:
                    break
            if record.stopped != "diverged" or not self._recover(stage):
                return

    def _read(self) -> None:
        """Read the losses that are only on the device, and see what follows from them."""
        stage = self._stage
        if not stage or not stage.iterate or not stage.unread:
            return
        record, iterate = stage.record, stage.iterate
        record.losses += [Losses(*row) for row in torch.stack(stage.unread).tolist()]
        stage.unread.clear()
        if iterate.iteration == 0 or record.losses[-1].total <= record.losses[record.best].total:
            record.best, stage.best = iterate.iteration, iterate.image
        most, prior = self.problem.max_iterations(record.scale), self.problem.prior
        record.stopped = record.reason_to_stop(iterate.tried, most, prior.window if prior else WINDOW)

    def _iterates(self, stage: _Stage) -> Iterator[Iterate]:
        """Yield the optimizer's iterates after those done. When memory runs out, continue in smaller parts."""
        done = stage.record.iterations
        while True:
            first = max(done, 0)
            try:
                for number, iterate in enumerate(self._minimize(stage, first), first):
                    if number > done:
                        done, stage.canvas = number, iterate.image
                        yield replace(iterate, iteration=number)
            except (RuntimeError, MemoryError) as error:
                # What is free now says nothing: memory that the process keeps for itself is free too.
                smaller = make_smaller_plan(memory_model(self.problem, stage.record.scale, self.precision), stage.plan)
                if self.problem.options.tile == "off" or not smaller or not hardware.is_out_of_memory(error):
                    raise
                stage.plan = smaller
            hardware.release_memory(self.problem.device)
            log.info("out of memory after %d iterations; continuing with: %s", max(done, 0), stage.plan)

    def _minimize(self, stage: _Stage, done: int) -> Iterator[Iterate]:
        encoder, scale = self.problem.encoder(self.precision), stage.record.scale
        evaluate = make_evaluate(self.problem, encoder, scale, stage.plan.tiling, stage.canvas, done)
        state, stage.state = stage.state, {}
        optimizer = self.problem.options.optimizer
        return minimize(evaluate, stage.canvas, optimizer, self._learning_rate, curvature=stage.curvature, state=state)

    def _recover(self, stage: _Stage) -> bool:
        """After a loss that is not finite: return to the best image, to continue more carefully if possible."""
        record, optimizer = stage.record, self.problem.options.optimizer
        careful = optimizer in LEARNING_RATES or self.precision.backward != torch.float32
        if self.recoveries == RECOVERIES or not careful:
            return False
        log.warning(
            "the loss was no longer finite after %d iterations: continuing from the best image, in full precision and "
            "with shorter steps",
            record.iterations,
        )
        self.recoveries += 1
        self._be_careful()
        record.stopped = ""
        if not math.isfinite(record.losses[0].total):
            record.losses.clear()
        with contextlib.suppress(StyleTransferError):  # if it doesn't fit, smaller parts are tried on the way
            stage.plan = plan_scale(self.problem, record.scale, self.precision)
        stage.canvas, stage.state, stage.curvature = stage.best, {}, None
        stage.curvature = make_curvature(self.problem, stage.best, stage.plan, self.precision.backward)
        return True

    def _be_careful(self) -> None:
        """Continue in full precision, and with shorter steps; L-BFGS has tried those already."""
        self.precision = hardware.select_precision("fp32", self.problem.device)
        optimizer, rate = self.problem.options.optimizer, self._learning_rate
        if optimizer in LEARNING_RATES:
            self._learning_rate = SHORTER * (LEARNING_RATES[optimizer] if rate is None else rate)


def make_curvature(problem: Problem, image: Tensor, plan: Plan, dtype: torch.dtype) -> InverseHessian | None:
    """Return an empty L-BFGS history for images like this one, as long as planned; None for other optimizers."""
    if problem.options.optimizer != "lbfgs":
        return None
    return InverseHessian(image, plan.history or 1, dtype)

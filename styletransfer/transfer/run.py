"""The optimization of one image: an iterable over its steps, from the coarsest scale to the finest."""

import dataclasses
import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..encoder.tiling import Tiling
from ..errors import StyleTransferError
from ..images import fit_size
from ..losses import Losses
from ..runtime import distributed, hardware
from ..runtime.plan import Plan
from .bleed import add_bleed, trim_bleed
from .canvas import make_finisher, make_start, upsample_residual
from .checkpoint import check_same_run
from .planning import plan_scale
from .problem import Problem, Scale, parse_tuning, serialize_tuning
from .result import SHOWN, Result
from .stage import Caution, ScaleRecord, Stage

log = logging.getLogger(__name__)

#: L-BFGS's pairs are in a state only up to so many bytes; without them a resumed run starts with an empty history.
HISTORY_BYTES = 1 << 30


@dataclass(frozen=True)
class Step:
    """One iteration of a run, which costs one evaluation of loss and gradient. It stays valid after the next one.

    Attributes:
        scale: the size that is worked at, one of `Run.problem.scales`. Losses of different scales are not comparable.
        iteration: 0 for the starting image of the scale, then 1, 2, …
        max_iterations: the most that this scale can have.
        terms: the fields of `Losses`, as a tensor on the device.
    """

    scale: Scale
    iteration: int
    max_iterations: int
    terms: Tensor
    _canvas: Tensor
    _problem: Problem

    @property
    def losses(self) -> Losses:
        """The loss terms as numbers; on a GPU this waits until they are computed."""
        return Losses(*self.terms.tolist())

    @property
    def image(self) -> Tensor:
        """The iterate as it would be saved, 1×3×H×W, but that its values may lie slightly outside [0, 1]."""
        return make_finisher(self._problem, self.scale.content)(trim_bleed(self._canvas, self._problem.options))


class Run:
    """The optimization of one image. Iterating over it does the work, step by step and scale by scale.

    Ending the iteration early, by ``break`` or `stop`, loses nothing: `result` has the best image so far, iterating
    again continues, and `state_dict` can be saved to resume in another process.

    Args:
        problem: what to optimize.
        state: of an earlier run (`state_dict`), to resume from.
        began: `time.monotonic` from which its `seconds` count, such as before the inputs were read; now by default.

    Attributes:
        problem: as given; `problem.scales` are the sizes, the coarsest first.
        records: of the scales so far; the last one may be in progress.

    Raises:
        DifferentError: the state is of a run with other settings or inputs.
    """

    def __init__(self, problem: Problem, state: Mapping[str, Any] | None = None, *, began: float | None = None) -> None:
        self.problem, self.records = problem, list[ScaleRecord]()
        self._before, self._began = 0.0, time.monotonic() if began is None else began
        self._caution = Caution(problem.precision, problem.options.learning_rate)
        self._stage: Stage | None = None
        self._stop = ""
        if state:
            check_same_run(state["run"], problem.identity)
            self._load(state["progress"], dict(state["tensors"]))

    @property
    def seconds(self) -> float:
        """The time since the run began, including that before an interruption."""
        return self._before + time.monotonic() - self._began

    @property
    def stopped(self) -> str:
        """Why the run ended, as in `Result.stopped`; "" while it has not."""
        return self._stop or (self.records[-1].stopped if self.records else "")

    @property
    def precision(self) -> hardware.Precision:
        """The precision of the network, at present."""
        return self._caution.precision

    @property
    def is_read(self) -> bool:
        """Whether all losses are read: after every step, on a GPU after every tenth (`READ_EVERY`)."""
        return self._stage is None or self._stage.is_read

    @property
    def spectrum(self) -> dict[str, Tensor]:
        """The part of L-BFGS's history that is of use for another image; empty with other optimizers."""
        return self._stage.spectrum if self._stage else {}

    def stop(self, reason: str = "interrupted") -> None:
        """End the iteration after the present step.

        Among several processes this ends all of them after the same step, which ``break`` would not.

        Args:
            reason: as in `Result.stopped`.
        """
        self._stop = self._stop or reason

    def end_scale(self, reason: str) -> None:
        """End the present scale after the present step, and continue with the next one."""
        if self._stage:
            self._stage.read()
        self.records[-1].stopped = self.records[-1].stopped or reason

    def __iter__(self) -> Iterator[Step]:
        """Yield the start and then every iterate of each scale.

        Raises:
            StyleTransferError: memory does not suffice.
        """
        if self._stop == "interrupted":
            self._stop = ""
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
            del stage  # large

    def _optimize(self, stage: Stage) -> Iterator[Step]:
        """Yield the steps of a scale. Its last iterate, which holds L-BFGS's history, goes with this call."""
        scale, most = stage.record.scale, stage.max_iterations
        for iterate in stage.iterates():
            hardware.adapt_thread_count()
            yield Step(scale, iterate.iteration, most, iterate.terms, iterate.image, self.problem)
            together = stage.is_read or distributed.world_size() == 1  # all processes end after the same step
            if together and distributed.any_process(bool(self._stop)):
                self.stop()
                return

    def _enter(self, scale: Scale) -> Stage:
        """Prepare a scale: its plan, its canvas, and an empty L-BFGS history with the spectrum of the last scale."""
        stage, problem = self._stage, self.problem
        resumes = stage is not None and stage.record.scale == scale
        spectrum = stage.spectrum if stage else problem.prior.spectrum if problem.prior else {}
        if stage:
            stage.suspend(keep_state=resumes)
        hardware.release_memory(problem.device)
        plan = plan_scale(problem, scale, self.precision)
        if not stage or not resumes:
            if stage:
                image = trim_bleed(stage.best, problem.options)
                start = upsample_residual(image, problem.base, scale.content, seamless=problem.options.seamless)
                del image
            else:
                start = make_start(problem)
            self._stage = stage = None  # large
            canvas = add_bleed(start, problem.options).to(problem.device)
            del start
            self.records.append(ScaleRecord(scale))
            self._stage = stage = Stage(problem, self.records[-1], self._caution, plan, canvas, canvas, {})
        stage.prepare(plan, spectrum)
        if stage.plan.tiling.rows:
            log.info("%d×%d: %s", *scale.content, stage.plan)
        return stage

    def result(self) -> Result:
        """Return the best image so far.

        Raises:
            StyleTransferError: the loss of the start is not finite.
            ValueError: no step was made.
        """
        stage, problem, last = self._check_begun(), self.problem, self.records[-1]
        if not math.isfinite(last.losses[0].total):
            raise StyleTransferError("the loss of the starting image is not finite: the weights are not usable")
        image, size = trim_bleed(stage.best, problem.options), problem.scales[-1].content
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
            content=problem.originals.content.rgb.resize(fit_size(size, SHOWN), reducing_gap=2),
        )

    # --- the state --------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return all that is needed to resume: on a CPU the resumed run makes the same image, byte for byte.

        Returns:
            "run": settings and hashes of the inputs, which must be the same when resumed; "progress": numbers and
            texts; both can be written as JSON. "tensors": by name. The tensors change with the next step: write or
            copy them before it. L-BFGS's history is left out if it takes more than `HISTORY_BYTES`.

        Among several processes call it only while `is_read`: reading losses in one of them alone could end its scale.

        Raises:
            ValueError: no step was made.
        """
        stage = self._check_begun()
        state = {f"optimizer.{name}": tensor for name, tensor in stage.state().items()}
        if sum(tensor.nbytes for tensor in state.values()) > HISTORY_BYTES:
            state = {}
        best = {} if stage.best is stage.canvas else {"best": stage.best}
        progress = {
            "runs": [dataclasses.asdict(record) for record in self.records],
            "plan": dataclasses.asdict(stage.plan),
            **serialize_tuning(self.precision, self.problem.costs),
            "recoveries": self._caution.recoveries,
            "seconds": self.seconds,
        }
        return {"run": self.problem.identity, "progress": progress, "tensors": {**state, "image": stage.canvas, **best}}

    def _check_begun(self) -> Stage:
        """Return the stage of the last scale, with all losses read."""
        if not self._stage or not (self._stage.iterate or self._stage.record.losses):
            raise ValueError("the run has made no step: iterate over it first")
        self._stage.read()
        return self._stage

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
        self._stage = Stage(self.problem, self.records[-1], self._caution, plan, image, best, state)
        self._before = progress["seconds"]
        self._caution.precision, costs = parse_tuning(progress, self.precision)
        self.problem.costs.update(costs)
        for _ in range(progress["recoveries"]):
            self._caution.increase(self.problem)

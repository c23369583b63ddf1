"""The work itself: scale by scale, network by network, step by step, from the canvas to the finished picture."""

import contextlib
import dataclasses
import itertools
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from . import color, hardware, plan, ranks
from .checkpoint import Checkpoint, Keeper
from .curvature import HISTORY, InverseHessian
from .errors import StyleTransferError
from .images import Picture, fitted
from .inputs import Inputs, Part, Styled
from .objective import Evaluate, Losses, Objective, Region, Style, Tiling
from .optimize import PATIENCE, Step, minimize
from .options import LEARNING_RATES, Options
from .vgg import Encoder

log = logging.getLogger(__name__)

Callback = Callable[[Step], object]

#: Pixels by which the canvas is larger than the picture on every side: mirrored from the content, trimmed at the end.
#: A pixel at the border is seen by fewer filters than others and comes out with nearly twice their contrast.
BLEED = 4
#: The same for seamless pictures, where it is what follows beyond the border, is seen and doesn't count. A multiple of
#: 16, so that every position of every layer lies on one side of the border; those of conv5_1 see 70 pixels.
WRAPPED = 48
WARM_START_ITERATIONS = 150
#: The run ends when the loss fell by less than this share within so many iterations: nobody sees such a change.
SETTLED, WINDOW = 0.02, 50
#: Each finer scale has half the iterations of the one before and costs four times as much for each; at least so many.
FINER_ITERATIONS = 30
#: Pixels of the longer side of the part of a picture by which the time of an iteration is told.
SAMPLE = 1024
#: L-BFGS's pairs are in a checkpoint as far as they don't take more; without them it begins to learn anew.
HISTORY_BYTES = 1 << 30
#: On a GPU the loss is read once in so many iterations, since reading makes the GPU wait for the host.
READ_EVERY = 10
#: When there is a time limit: the small network's share of the first scale's time, and how many iterations must fit in
#: what is left for a finer scale to be begun.
FIRST_SHARE, WORTHWHILE = 0.35, 8
#: When the loss is no longer finite the run goes on more carefully, at most so often, and with so much shorter steps.
RECOVERIES, SHORTER = 3, 0.25


@dataclass(frozen=True)
class Scale:
    """One of the sizes that are worked through: (width, height) of the content, the longer side of the styles."""

    content: tuple[int, int]
    style: int

    def of(self, style: Picture) -> tuple[int, int]:
        """(width, height) of a style picture; it isn't enlarged."""
        return fitted(style.rgb.size, self.style)


@dataclass(frozen=True)
class Network:
    """An encoder, cut to the run's layers and normalised on its pictures."""

    name: str
    encoder: Encoder


@dataclass(frozen=True)
class Job:
    """What stays the same on all scales. The last network is the one that counts; one before it makes a warm start.

    `originals` are the inputs as they were given, `inputs` as the network is to see them (`Options.color`).
    """

    originals: Inputs
    inputs: Inputs
    scales: list[Scale]
    networks: list[Network]
    options: Options
    precision: hardware.Precision
    device: torch.device
    callback: Callback | None = None
    keeper: Keeper | None = None
    start: float = field(default_factory=time.monotonic)


@dataclass
class Run:
    """What a network does on one scale: the losses of all iterations, which is best, and why it ended, once it has."""

    network: str
    scale: Scale
    losses: list[Losses] = field(default_factory=list)
    best: int = 0
    stopped: str = ""

    @property
    def iterations(self) -> int:
        """Iterations done."""
        return len(self.losses) - 1


class Painting:
    """The work on a picture: `paint` does it, from the start or from where a run was interrupted.

    Args:
        saved: the checkpoint to go on from; its tensors are taken out of it, since they may be large.

    Attributes:
        image: the canvas, 1×3×H×W and `bleed` more on every side, as it was best on the scale of the last run.
        runs: in order; the last may be under way.
        recoveries: how often the loss was no longer finite.
    """

    def __init__(self, job: Job, saved: Checkpoint | None = None) -> None:
        self.job, self.runs, self.recoveries = job, list[Run](), 0
        self.image: Tensor
        self._last: Tensor
        self._plan: plan.Plan
        self._curvature: InverseHessian | None = None
        self._finished: Callable[[Tensor], Tensor]
        self._state: Mapping[str, Tensor] = {}
        self._ends = job.start + job.options.seconds
        #: When this network is to end on this scale, and how long one of its iterations takes.
        self._until, self._pace = math.inf, 0.0
        if saved:
            self._restore(saved)

    def paint(self) -> None:
        """Works through the scales from coarse to fine, each with a plan of its own.

        Raises:
            StyleTransferError: memory doesn't suffice, or the loss of the start is not finite.
        """
        for scale in self.job.scales:
            plan_for(self.job, scale)  # what won't fit is refused before the work begins
        for index, scale in enumerate(self.job.scales):
            networks = self.job.networks[-1:] if index else self.job.networks
            if self._ended(networks[-1], scale):
                continue
            if index and not self._worthwhile(scale):
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
            now = time.monotonic()
            # Each scale costs about as much as all before it.
            share = (self._ends - now) / 2 ** (len(self.job.scales) - 1 - index)
            for network in networks:
                if not self._ended(network, scale):
                    mine = 1.0 if network is networks[-1] else FIRST_SHARE
                    self._until = now + mine * share
                    self._work(network, scale, most_iterations(self.job.options, index))
            if self.runs[-1].stopped in ("callback", "diverged"):
                break
        if not math.isfinite(self.runs[-1].losses[0].total):
            raise StyleTransferError("the loss of the starting picture is not finite: the weights are not usable")

    @property
    def picture(self) -> Tensor:
        """The best image on the scale of the last run, 1×3×H×W."""
        return trimmed(self.image, self.job.options)

    def _ended(self, network: Network, scale: Scale) -> bool:
        """Whether this has been done."""
        return any(run.network == network.name and run.scale == scale and run.stopped for run in self.runs)

    def _enter(self, scale: Scale) -> None:
        """Makes the plan of a scale, its canvas, and L-BFGS's memory, which goes from one network to the next."""
        self._curvature = None
        hardware.release_memory(self.job.device)
        choice = plan_for(self.job, scale)
        begun = bool(self.runs) and self.runs[-1].scale == scale
        if begun and self._plan.memory <= choice.memory:
            choice = self._plan
        else:
            self._state = {}
        if not begun:
            content = self.job.inputs.content
            if self.runs:
                start = stepped_up(self.picture, content, scale.content, seamless=self.job.options.seamless)
            else:
                start = _initial(self.job)
            self.image = self._last = with_bleed(start, self.job.options).to(self.job.device)
            del start  # large
        if choice.tiling.rows or len(self.job.scales) > 1:
            log.info("%d×%d: %s", *scale.content, choice)
        self._plan, self._curvature = choice, _curvature(self.job, self.image, choice)
        self._finished = finisher(self.job, scale.content)
        if begun and self.runs[-1].stopped:  # it was interrupted between two networks
            if self._curvature and self._state:
                self._curvature.load(self._state)
            self._last, self._state = self.image, {}

    def _work(self, network: Network, scale: Scale, iterations: int) -> None:
        """Optimises with one network on one scale, from the start or from where it was, until a reason to stop."""
        asked = bool(self.runs) and self.runs[-1].stopped == "callback"
        if asked:  # while another network was at work: only the losses are wanted, of what there is
            self.job, iterations = replace(self.job, callback=None, keeper=None), 0
        if network is not self.job.networks[-1]:
            iterations = min(WARM_START_ITERATIONS, iterations)
        if not self.runs or self.runs[-1].stopped:
            self.runs.append(Run(network.name, scale))
        run = self.runs[-1]
        self._follow(self._steps(network, run), run, iterations)
        while run.stopped == "diverged" and self._recover(run):
            self._follow(self._steps(network, run), run, iterations)
        if asked:
            run.stopped = "callback"
        self._last = self.image

    def _follow(self, steps: Iterator[Step], run: Run, iterations: int) -> None:
        """Keeps the best of the steps, shows them to the listener and writes checkpoints, until a reason to stop."""
        every = READ_EVERY if self.job.device.type == "cuda" else 1
        unread: list[Tensor] = []
        for step in steps:
            unread.append(step.terms)
            if step.iteration % every and step.iteration < iterations:
                continue
            run.losses += [Losses(*row) for row in torch.stack(unread).tolist()]
            unread.clear()
            if step.iteration == 0 or run.losses[-1].total <= run.losses[run.best].total:
                run.best, self.image = step.iteration, step.image
            image = self._finished(trimmed(step.image, self.job.options))
            shown = replace(step, image=image, network=run.network, most=iterations)
            asked = ranks.agreed(bool(self.job.callback and self.job.callback(shown)))
            run.stopped = _reason_to_stop(run.losses, step.tried, iterations)
            if not run.stopped and self._time_is_up(run):
                run.stopped = "time"
            keeper = self.job.keeper
            if keeper and run.stopped != "diverged" and keeper.due(last=asked):
                keeper.write(self._progress(), self._tensors(step))
            run.stopped = "callback" if asked else run.stopped
            if run.stopped:
                return

    def _worthwhile(self, scale: Scale) -> bool:
        """Whether there is time for enough iterations on a scale, told by those of the last run."""
        pace = self._pace * math.prod(scale.content) / math.prod(self.runs[-1].scale.content)
        short = math.isfinite(self._ends) and self._ends - time.monotonic() < WORTHWHILE * pace
        return not ranks.agreed(short)

    def _time_is_up(self, run: Run) -> bool:
        """Whether another iteration would take too long; there is more time where no finer scale is worthwhile."""
        if not math.isfinite(self._ends):
            return False
        after, finer = time.monotonic() + self._pace, self.job.scales[self.job.scales.index(run.scale) + 1 :]
        if run.network == self.job.networks[-1].name and finer and not self._worthwhile(finer[0]):
            return ranks.agreed(after > self._ends)
        return ranks.agreed(after > self._until)

    def _steps(self, network: Network, run: Run) -> Iterator[Step]:
        """The optimiser's steps that follow those done. When memory runs out they go on from the last one, in smaller
        parts."""
        start, done = time.monotonic(), run.iterations
        before = done
        while True:
            try:
                for number, step in enumerate(self._plain_steps(network, run.scale, max(done, 0)), max(done, 0)):
                    if number > done:
                        done, self._last, seconds = number, step.image, time.monotonic() - start
                        self._pace = seconds / (done - before)
                        yield replace(step, iteration=number, seconds=seconds)
            except (RuntimeError, MemoryError) as error:
                # What is free now doesn't tell: memory that the process keeps for itself is free too.
                smaller = plan.smaller(needs(self.job, run.scale), self._plan)
                if self.job.options.tile == "off" or not smaller or not hardware.out_of_memory(error):
                    raise
                self._plan = smaller
            hardware.release_memory(self.job.device)
            log.info("out of memory after %d iterations; going on: %s", max(done, 0), self._plan)

    def _plain_steps(self, network: Network, scale: Scale, done: int) -> Iterator[Step]:
        objective = _objective(self.job, network.encoder, scale, self._plan.tiling)
        hardware.release_memory(self.job.device)  # what making it has left in pieces
        state, self._state = self._state, {}
        options, image = self.job.options, self._last
        evaluate: Evaluate = objective.evaluate
        if options.color == "luminance":
            evaluate = color.in_luminance(evaluate)
        if (keep := _mask(self.job, self.job.inputs.keep, scale)) is not None:
            evaluate = _keeping(evaluate, keep, _content(self.job, scale))
        if options.seamless:
            evaluate = _wrapping(evaluate, bleed(options))
        evaluate = hardware.captured(evaluate, image)
        if options.jitter:
            evaluate = _jittering(evaluate, options.jitter, options.seed, done)
        if self._plan.tiling.rows and image.device.type == "cpu":  # memory is scarce
            evaluate = _without_gaps(evaluate)
        rate = options.learning_rate
        return minimize(evaluate, image, options.optimizer, rate, curvature=self._curvature, state=state)

    def _recover(self, run: Run) -> bool:
        """After the loss was not finite: back to the best picture, and on from there more carefully, if that can be."""
        if self.recoveries == RECOVERIES or not _can_be_more_careful(self.job):
            return False
        log.warning(
            "the loss was not finite any more after %d iterations: going on from the best picture, in full "
            "precision and with shorter steps",
            run.iterations,
        )
        self.recoveries += 1
        self.job = _more_careful(self.job)
        if not math.isfinite(run.losses[0].total):
            run.losses.clear()
        with contextlib.suppress(StyleTransferError):  # if it doesn't fit, smaller parts are tried on the way
            self._plan = plan_for(self.job, run.scale)
        self._last, self._state, self._curvature = self.image, {}, None
        self._curvature = _curvature(self.job, self.image, self._plan)
        return True

    def _progress(self) -> dict[str, Any]:
        """For a checkpoint, all but the tensors."""
        runs = [dataclasses.asdict(run) for run in self.runs]
        spent = time.monotonic() - self._ends + self.job.options.seconds if math.isfinite(self._ends) else 0.0
        return {"runs": runs, "plan": dataclasses.asdict(self._plan), "recoveries": self.recoveries, "seconds": spent}

    def _tensors(self, step: Step) -> dict[str, Tensor]:
        """For a checkpoint: the last canvas, the best if that is another one, and the optimiser's state."""
        state = {f"optimizer.{name}": tensor for name, tensor in step.state().items()}
        if sum(tensor.nbytes for tensor in state.values()) > HISTORY_BYTES:
            state = {}
        best = {} if self.image is step.image else {"best": self.image}
        return {**state, "image": step.image, **best}

    def _restore(self, saved: Checkpoint) -> None:
        """Takes over what `_progress` and `_tensors` have told."""
        tensors = {name: saved.tensors.pop(name).to(self.job.device) for name in list(saved.tensors)}
        self._last = tensors.pop("image")
        self.image = tensors.pop("best", self._last)
        self._state = {name.removeprefix("optimizer."): tensor for name, tensor in tensors.items()}
        told = saved.progress
        for run in told["runs"]:
            scale = Scale(tuple(run["scale"]["content"]), run["scale"]["style"])
            losses = [Losses(**terms) for terms in run["losses"]]
            self.runs.append(Run(run["network"], scale, losses, run["best"], run["stopped"]))
        self._plan = plan.Plan(**{**told["plan"], "tiling": Tiling(**told["plan"]["tiling"])})
        self.recoveries = told["recoveries"]
        self._ends -= told["seconds"]
        for _ in range(self.recoveries):
            self.job = _more_careful(self.job)


def most_iterations(options: Options, index: int) -> int:
    """Iterations at most on a scale."""
    if index == 0:
        return options.iterations
    return min(options.iterations, max(FINER_ITERATIONS, options.iterations >> index))


def _reason_to_stop(losses: list[Losses], tried: Tensor, iterations: int) -> str:
    """As in `Result.stopped`; empty if there is none."""
    totals = [loss.total for loss in losses]
    stuck = len(totals) > 2 * PATIENCE and totals[-1] == totals[-1 - 2 * PATIENCE]
    if not math.isfinite(totals[-1]) or (stuck and not math.isfinite(float(tried))):
        return "diverged"
    if len(losses) > iterations:
        return "iterations"
    before, now = min(totals[:-WINDOW], default=math.inf), min(totals)
    return "converged" if stuck or before - now < SETTLED * now else ""


def _can_be_more_careful(job: Job) -> bool:
    return job.options.optimizer in LEARNING_RATES or job.precision.backward != torch.float32


def _more_careful(job: Job) -> Job:
    """The job in full precision, and with shorter steps; L-BFGS has tried those already."""
    precision, options = hardware.precision("fp32", job.device), job.options
    for network in job.networks:
        network.encoder.cast(precision.forward, precision.backward)
    if options.optimizer in LEARNING_RATES:
        rate = LEARNING_RATES[options.optimizer] if options.learning_rate is None else options.learning_rate
        options = replace(options, learning_rate=SHORTER * rate)
    return replace(job, precision=precision, options=options)


def _without_gaps(evaluate: Evaluate) -> Evaluate:
    """The same function, giving back before and after what is free: gaps between what lasts, of pieces of many sizes.

    They grew to half as much as a picture in strips needs, after coarser scales; this takes 3 % of the time.
    """

    def evaluated(image: Tensor) -> tuple[Tensor, Tensor]:
        hardware.release_memory(image.device)
        result = evaluate(image)
        hardware.release_memory(image.device)
        return result

    return evaluated


def _curvature(job: Job, image: Tensor, choice: plan.Plan) -> InverseHessian | None:
    if job.options.optimizer != "lbfgs":
        return None
    return InverseHessian(image, choice.history or 1, job.precision.backward)


# --- plans --------------------------------------------------------------------------------------------------------


def needs(job: Job, scale: Scale) -> plan.Needs:
    """What a scale needs a plan for."""
    options, (width, height) = job.options, scale.content
    masks = sum((part.mask is not None) + len(part.styles) for part in job.inputs.parts) if options.mask else 0
    return plan.Needs(
        encoder=job.networks[-1].encoder,
        height=height + 2 * bleed(options),
        width=width + 2 * bleed(options),
        precision=job.precision,
        content_layers=tuple(options.content_weights),
        history=HISTORY if options.optimizer == "lbfgs" else 0,
        world=ranks.world(),
        images=bool(options.l1 or options.l2) + 4 / 3 * (job.inputs.keep is not None) + 4 / 9 * masks,
    )


def plan_for(job: Job, scale: Scale) -> plan.Plan:
    """The plan for a scale. Raises `StyleTransferError` if nothing fits."""
    free = hardware.free_memory(job.device)
    if free is not None and job.device.type != "cuda":
        free //= ranks.neighbours()
    return plan.make(needs(job, scale), free, job.options.tile)


def seconds_per_iteration(job: Job, scale: Scale, choice: plan.Plan) -> float:
    """Of the network that counts, told from some iterations on the middle of the picture."""
    width, height = scale.content
    part = Scale((min(width, SAMPLE), min(height, SAMPLE)), scale.style)
    left, top = (width - part.content[0]) // 2, (height - part.content[1]) // 2
    box = left, top, left + part.content[0], top + part.content[1]
    middle = Picture(job.inputs.content.resized(scale.content).rgb.crop(box))
    sample = replace(job, inputs=replace(job.inputs, content=middle), scales=[part])
    tiling = replace(choice.tiling, columns=None)
    painting = Painting(sample)
    painting._plan = replace(choice, tiling=tiling)
    painting._last = with_bleed(middle.tensor(), job.options).to(job.device)
    painting._curvature = _curvature(sample, painting._last, choice)
    steps = painting._steps(job.networks[-1], Run("", part))
    times = [step.seconds for step in itertools.islice(steps, 4)]
    wider = needs(job, scale).work(choice.tiling) / needs(sample, part).work(tiling)
    return (times[3] - times[1]) / 2 * wider * width * height / math.prod(part.content)


# --- canvases -----------------------------------------------------------------------------------------------------


def bleed(options: Options) -> int:
    """Pixels by which the canvas is larger than the picture on every side."""
    return WRAPPED if options.seamless else BLEED


def with_bleed(image: Tensor, options: Options) -> Tensor:
    """The canvas: an image 1×3×H×W with pixels more on every side, mirrored, or those of the opposite side."""
    mode = "circular" if options.seamless else "reflect"
    return torch.nn.functional.pad(image, (bleed(options),) * 4, mode=mode)


def trimmed(canvas: Tensor, options: Options) -> Tensor:
    """The image on a canvas."""
    return canvas[..., (inner := slice(bleed(options), -bleed(options))), inner]


def stepped_up(image: Tensor, content: Picture, size: tuple[int, int], *, seamless: bool = False) -> Tensor:
    """An image 1×3×H×W in a finer size (width, height): the finer content plus, enlarged, what was changed so far.

    Enlarging the image itself would lose the photograph's detail; the loss would start ten times higher.
    """
    height, width = image.shape[2:]
    change = image.cpu() - content.resized((width, height)).tensor()
    enlarged = partial(torch.nn.functional.interpolate, mode="bicubic", antialias=True)
    if seamless:  # three in a row, of which the middle one counts
        rows = enlarged(torch.cat([change] * 3, 2), size=(3 * size[1], width)).narrow(2, size[1], size[1])
        change = enlarged(torch.cat([rows] * 3, 3), size=(size[1], 3 * size[0])).narrow(3, size[0], size[0])
    else:
        change = enlarged(change, size=(size[1], size[0]))
    return change.add_(content.resized(size).tensor()).clamp_(0, 1)


def _initial(job: Job) -> Tensor:
    """The starting image 1×3×H×W of the coarsest scale: the content or the middle of another picture, and noise."""
    (width, height), options = job.scales[0].content, job.options
    share = 1.0 if options.init == "noise" else options.init_noise
    if options.init == "content":
        image = job.inputs.content.resized((width, height)).tensor()
    else:
        image = Picture(ImageOps.fit(job.inputs.start.rgb, (width, height), Image.Resampling.LANCZOS)).tensor()
    if not share:
        return image
    channels = 1 if options.color == "luminance" else 3
    noise = torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(options.seed))
    return torch.lerp(image, noise.expand(1, 3, -1, -1), share)


def _objective(job: Job, encoder: Encoder, scale: Scale, tiling: Tiling) -> Objective:
    options, device = job.options, job.device

    def styled(given: Styled) -> Style:
        size = scale.of(given.picture)
        mask = given.mask.resized(size).tensor()[:, :1].to(device) if given.mask else None
        return Style(given.picture.resized(size).tensor().to(device), given.share, mask)

    return Objective(
        encoder,
        _content(job, scale),
        [Region([styled(s) for s in part.styles], *_counting(job, part, scale)) for part in job.inputs.parts],
        content_weights=options.content_weights,
        style_weights=options.style_weights,
        alpha=options.alpha,
        beta=options.beta,
        tv=options.tv,
        tiling=tiling,
        l1=options.l1,
        l2=options.l2,
    )


def _content(job: Job, scale: Scale) -> Tensor:
    """The content for the canvas, 1×3×H×W."""
    return with_bleed(job.inputs.content.resized(scale.content).tensor(), job.options).to(job.device)


def _mask(job: Job, mask: Picture | None, scale: Scale) -> Tensor | None:
    """A mask of the content for the canvas, 1×1×H×W."""
    if mask is None:
        return None
    return with_bleed(mask.resized(scale.content).tensor()[:, :1], job.options).to(job.device)


def _counting(job: Job, part: Part, scale: Scale) -> tuple[Tensor | None, float | None]:
    """The mask of a region, and its share if that isn't the mask's.

    Without what is kept: the rest alone is to have the style, and not so much more of it that the mean over both is
    right. Without what is beyond the border of a seamless picture: it is counted on the opposite side.
    """
    mask, keep = (_mask(job, given, scale) for given in (part.mask, job.inputs.keep))
    if keep is not None:
        mask = 1 - keep if mask is None else mask * (1 - keep)
    if not job.options.seamless:
        return mask, None
    width, height = scale.content
    inner = torch.nn.functional.pad(torch.ones(1, 1, height, width, device=job.device), (WRAPPED,) * 4)
    mask = inner if mask is None else mask * inner
    return mask, (mask.square().sum() / (width * height)).item()


def _keeping(evaluate: Evaluate, keep: Tensor, content: Tensor) -> Evaluate:
    """The same of the image with the content where `keep` is 1: there, what the optimiser does makes no difference."""

    def evaluated(image: Tensor) -> tuple[Tensor, Tensor]:
        terms, gradient = evaluate(torch.lerp(image, content, keep))
        return terms, gradient.mul_(1 - keep)

    return evaluated


def _wrapping(evaluate: Evaluate, margin: int) -> Evaluate:
    """The same of the image laid in rows: what is beyond a border is what is within the opposite one."""

    def folded(gradient: Tensor, axis: int) -> Tensor:
        size = gradient.shape[axis] - 2 * margin
        inner = gradient.narrow(axis, margin, size)
        inner.narrow(axis, size - margin, margin).add_(gradient.narrow(axis, 0, margin))
        inner.narrow(axis, 0, margin).add_(gradient.narrow(axis, margin + size, margin))
        return inner

    def evaluated(canvas: Tensor) -> tuple[Tensor, Tensor]:
        inner = canvas[..., margin:-margin, margin:-margin]
        terms, gradient = evaluate(torch.nn.functional.pad(inner, (margin,) * 4, mode="circular"))
        return terms, torch.nn.functional.pad(folded(folded(gradient, 2), 3), (margin,) * 4)

    return evaluated


def _jittering(evaluate: Evaluate, size: float, seed: int, done: int) -> Evaluate:
    """The same of the image with noise, of which every evaluation has its own; `done` were before."""
    count = itertools.count(done)

    def evaluated(image: Tensor) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed((1_000_003 * seed + next(count)) % 2**63)
        return evaluate(torch.randn(image.shape, generator=generator).to(image).mul_(size).add_(image))

    return evaluated


def finisher(job: Job, size: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """What makes the picture of an image 1×3×H×W of the canvas, for one (width, height): with the content's chroma, the
    photograph where it stays."""
    given = job.originals
    if job.options.color != "luminance" and given.keep is None:
        return lambda image: image
    content = given.content.resized(size).tensor().to(job.device)
    keep = None if given.keep is None else given.keep.resized(size).tensor()[:, :1].to(job.device)

    def finished(image: Tensor) -> Tensor:
        if job.options.color == "luminance":
            image = color.with_chroma(image.clamp(0, 1), content)
        return image if keep is None else torch.lerp(image, content, keep)

    return finished

"""stylize(): inputs -> targets -> optimisation -> Result."""

import contextlib
import dataclasses
import hashlib
import itertools
import logging
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from . import checkpoint, hardware, images, plan, ranks, weights
from .checkpoint import Checkpoint
from .curvature import HISTORY, InverseHessian
from .errors import StyleTransferError, UsageError
from .images import Picture
from .objective import Losses, Objective, Tiling
from .optimize import PATIENCE, Step, minimize
from .options import WITHOUT_EFFECT, Options
from .vgg import Encoder

log = logging.getLogger(__name__)

Source = str | os.PathLike[str] | Image.Image | Tensor
Callback = Callable[[Step], object]

#: Pixels by which the canvas is larger than the picture on every side: mirrored from the content, trimmed at the end.
#: A pixel at the border is seen by fewer filters than others and comes out with nearly twice their contrast.
BLEED = 4
#: The longer side at which the filters' mean activations are taken, so that they don't depend on --size.
NORMALIZATION_SIZE = 256
#: A network with so many multiply-adds per pixel is worth starting with the bundled one, which has 23 000 and needs a
#: tenth of the time; VGG-19 has 360 000.
LARGE = 100_000
WARM_START_ITERATIONS = 150
#: The run ends when the loss fell by less than this share within so many iterations: nobody sees such a change.
SETTLED, WINDOW = 0.02, 50
#: Larger pictures start smaller, with the longer side between half of this and this: there, strokes are as large beside
#: the picture as the filters see.
COARSEST = 768
#: No scale but the last has a shorter side.
SMALLEST = 32
#: Each finer scale has half the iterations of the one before and costs four times as much for each; at least so many.
FINER_ITERATIONS = 30
#: Pixels of the longer side of the part of a picture by which `estimate` tells the time.
SAMPLE = 1024
#: Values of --init that are no file.
STARTS = ("content", "style", "noise")
#: L-BFGS's pairs are in a checkpoint as far as they don't take more; without them it begins to learn anew.
HISTORY_BYTES = 1 << 30
#: On a GPU the loss is read once in so many iterations, since reading makes the GPU wait for the host.
READ_EVERY = 10


@dataclass(frozen=True)
class Result:
    """What a run has made.

    Attributes:
        tensor: the picture, float32 1×3×H×W on the CPU, RGB in [0, 1].
        losses: of the start of the last scale worked on, and of each of its iterations, in order.
        best: the losses of the picture, the lowest total of all.
        best_iteration: where they were reached; earlier than the last if the loss rose again.
        warm_start_iterations: done with the bundled network before.
        scales: width, height and iterations of every scale, the coarsest first.
        options: the settings of the run.
        model: name of the network, or of the file it came from.
        device: "cpu", "cuda:0", …
        stopped: why it ended: "iterations" (all done), "converged" (no visible change any more), "callback" (asked to),
            "diverged" (the loss was no longer finite; the picture is the best before that), or "memory" (there was no
            longer enough for a finer scale; the picture is an enlarged one).
        seconds: wall time from the call to the picture.
        peak_memory_bytes: of the process on a CPU (resident), of torch's allocations on a GPU.
        alpha: the content's opacity, Pillow mode L, or None.
        inputs: file names of content and style, without folders.
        checkpoint: where the run's checkpoint is, or would be, if there was to be one.
    """

    tensor: Tensor
    losses: list[Losses]
    best: Losses
    best_iteration: int
    warm_start_iterations: int
    scales: list[tuple[int, int, int]]
    options: Options
    model: str
    device: str
    stopped: str
    seconds: float
    peak_memory_bytes: int
    alpha: Image.Image | None = None
    inputs: tuple[str, str] = ("image", "image")
    checkpoint: Path | None = None

    @property
    def iterations(self) -> int:
        """Iterations done, on all scales."""
        return sum(iterations for *_, iterations in self.scales)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.tensor.shape[3], self.tensor.shape[2]

    @property
    def image(self) -> Image.Image:
        """The picture for Pillow: mode RGB, or RGBA if the content has transparent parts."""
        image = images.to_pil(self.tensor)
        if self.alpha is not None:
            image.putalpha(self.alpha)
        return image

    def settings(self) -> dict[str, Any]:
        """How the picture was made, as embedded in it; no folders, so that it can be passed on."""
        from . import __version__

        settings = {k: v for k, v in dataclasses.asdict(self.options).items() if k not in WITHOUT_EFFECT}
        settings["weights"] = self.options.weights and Path(self.options.weights).name
        settings["init"] = Path(self.options.init).name
        made = {"version": __version__, "content": self.inputs[0], "style": self.inputs[1], "model": self.model}
        return {**settings, **made, "iterations": self.iterations, "loss": dataclasses.asdict(self.best)}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the picture as PNG, JPEG, WebP or TIFF, by the ending; returns the path.

        The checkpoint of a run that came to its end has then served, and is removed.

        Raises:
            UsageError: unknown ending, or no such folder.
            StyleTransferError: it can't be written.
        """
        target = Path(path)
        images.check_output(target, self.options.bit_depth)
        images.write(self.tensor, target, alpha=self.alpha, bit_depth=self.options.bit_depth, settings=self.settings())
        if self.checkpoint and self.stopped != "callback":
            self.checkpoint.unlink(missing_ok=True)
        return target


def stylize(
    content: Source,
    style: Source,
    options: Options | None = None,
    *,
    callback: Callback | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    **changes: Any,
) -> Result:
    """Renders the content picture in the style of the other.

    Args:
        content, style: paths, Pillow images, or image tensors 1×3×H×W in [0, 1].
        options: the settings; the defaults if not given.
        callback: called with every `Step`, on a GPU with every tenth; a true return value ends the run with the best
            picture so far.
        checkpoint: a file in which the run's state is kept while it lasts; none if not given.
        resume: go on from the checkpoint, if it is there. On a CPU the picture is then, byte for byte, what it would
            have been, unless the optimiser's memory was too large to be kept (`HISTORY_BYTES`).
        changes: single settings by name, as ``stylize(a, b, size=1024, beta=1e4)``.

    Raises:
        UsageError: a setting or an input that can't be meant, or that differs from the checkpoint's.
        StyleTransferError: an input, the weights or the checkpoint can't be read, or memory doesn't suffice.
    """
    start = time.monotonic()
    options = _changed(options, changes)
    kept = Path(checkpoint) if checkpoint is not None and options.checkpoint_every != "off" else None
    device = hardware.device(options.device)
    precision = hardware.precision(options.precision, device)
    with hardware.tuned(device, tf32=precision.tf32), _memory_told(device):
        job = _prepared(content, style, options, precision, device, callback, hashed=kept is not None)
        if kept:
            job = _with_checkpoints(job, kept, (content, style), resume)
        runs = _paint(job)
        done, size, model = runs[-1], job.scales[-1].content, job.networks[-1].name
        image = _trimmed(done.image)
        if done.scale != job.scales[-1]:
            image = _stepped_up(image, job.pictures[0], size)
    return Result(
        tensor=image.clamp(0, 1).cpu(),
        losses=done.losses,
        best=done.losses[done.best],
        best_iteration=done.best,
        warm_start_iterations=sum(run.iterations for run in runs if run.network != model),
        scales=[(*run.scale.content, run.iterations) for run in runs if run.network == model],
        options=options,
        model=model,
        device=str(device),
        stopped=done.stopped,
        seconds=time.monotonic() - start,
        peak_memory_bytes=hardware.peak_memory(device),
        alpha=job.pictures[0].resized(size).alpha,
        inputs=(job.pictures[0].name, job.pictures[1].name),
        checkpoint=kept,
    )


def _changed(options: Options | None, changes: Mapping[str, Any]) -> Options:
    try:
        return dataclasses.replace(options or Options(), **changes)
    except TypeError as error:
        raise UsageError(str(error).replace("Options.__init__() got an ", "")) from error


@contextlib.contextmanager
def _memory_told(device: torch.device) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not hardware.out_of_memory(error):
            raise
        raise StyleTransferError(f"there is not enough memory on {device}: use a smaller --size") from error


@dataclass(frozen=True)
class _Scale:
    """(width, height) of content and style in one of the sizes that are worked through."""

    content: tuple[int, int]
    style: tuple[int, int]


@dataclass(frozen=True)
class _Network:
    name: str
    encoder: Encoder


@dataclass(frozen=True)
class _Job:
    """What stays the same on all scales. The last network is the one that counts; one before it makes a warm start."""

    pictures: tuple[Picture, Picture]
    start: Picture
    scales: list[_Scale]
    networks: list[_Network]
    options: Options
    precision: hardware.Precision
    device: torch.device
    callback: Callback | None
    hashes: Mapping[str, str]
    keeper: checkpoint.Keeper | None = None
    saved: Checkpoint | None = None


@dataclass(frozen=True)
class _Run:
    """What a network has made on one scale: the best canvas, the losses of all iterations, which one is best, why it
    ended; empty as long as it hasn't."""

    network: str
    scale: _Scale
    image: Tensor
    losses: list[Losses]
    best: int
    stopped: str

    @property
    def iterations(self) -> int:
        return len(self.losses) - 1


def _prepared(
    content: Source,
    style: Source,
    options: Options,
    precision: hardware.Precision,
    device: torch.device,
    callback: Callback | None,
    hashed: bool = False,
) -> _Job:
    """Reads the inputs and the networks, and checks what can be checked."""
    pictures = images.read(content, options.max_pixels), images.read(style, options.max_pixels)
    start = pictures[1]
    if options.init not in STARTS:
        start = images.read(options.init, options.max_pixels)
    scales = _scales(pictures, options)
    size = scales[-1].content
    if max(size) < options.size != Options.size:
        log.info("%s has %d×%d pixels and keeps them (--enlarge makes it larger)", pictures[0].name, *size)
    model, convolutions = weights.resolve(options.model, options.weights, options.preprocessing)
    networks = [_Network(model, _encoder(convolutions, pictures, options, device))]
    _check_sizes(pictures, scales[-1], networks[0].encoder)
    if small := _warm_start(networks[0].encoder, options):
        networks.insert(0, _Network("vgg19-lite", _encoder(small, pictures, options, device)))
    for network in networks:
        network.encoder.cast(precision.forward, precision.backward)
    hashes: dict[str, str] = {}
    if hashed:
        tensors = [tensor.contiguous().numpy() for layer in convolutions.values() for tensor in layer]
        hashes = {
            "content": _hash(_pixels(pictures[0])),
            "style": _hash(_pixels(pictures[1])),
            "weights": _hash(*tensors),
        }
        hashes |= {"init": options.init if options.init in STARTS else _hash(_pixels(start))}
    return _Job(pictures, start, scales, networks, options, precision, device, callback, hashes)


def _hash(*parts: Any) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def _pixels(picture: Picture) -> bytes:
    return picture.rgb.tobytes() + (picture.alpha.tobytes() if picture.alpha else b"")


def _with_checkpoints(job: _Job, path: Path, sources: tuple[Source, Source], resume: bool) -> _Job:
    """The job with what writes its checkpoints, and with the one to go on from."""
    from . import __version__

    asked = {k: v for k, v in dataclasses.asdict(job.options).items() if k not in WITHOUT_EFFECT}
    asked |= {**job.hashes, "device": str(job.device), "version": __version__}
    saved = None
    if resume and path.exists():
        saved = checkpoint.read(path)
        checkpoint.compare(saved.run, asked)
        log.info("going on after %d iterations", sum(len(run["losses"]) - 1 for run in saved.progress["runs"]))
    elif resume:
        log.info("there is no checkpoint %s: starting from the beginning", path)
    elif path.exists():
        log.info("starting anew, though there is a checkpoint; it is kept for now: --resume goes on from it")
    if ranks.rank():
        return dataclasses.replace(job, saved=saved)
    files = [os.path.abspath(s) if isinstance(s, str | os.PathLike) else None for s in sources]
    again = {"content": files[0], "style": files[1], "options": _absolute(job.options)}
    keeper = checkpoint.Keeper(path, float(job.options.checkpoint_every), asked, again, saved is not None)
    return dataclasses.replace(job, keeper=keeper, saved=saved)


def _absolute(options: Options) -> dict[str, Any]:
    """The options, understood in any folder."""
    told = dataclasses.asdict(options)
    told["weights"] = options.weights and os.path.abspath(options.weights)
    if options.init not in STARTS:
        told["init"] = os.path.abspath(options.init)
    return told


def _paint(job: _Job) -> list[_Run]:
    """Works through the scales from coarse to fine, each with a plan of its own."""
    runs, begun = _restored(job)
    skipped = len(runs)
    for scale in job.scales:
        _plan(job, scale.content)  # what won't fit is refused before the work begins
    for index, scale in enumerate(job.scales):
        networks = job.networks[-1:] if index else job.networks
        if skipped >= len(networks):
            skipped -= len(networks)
            continue
        curvature = None
        hardware.release_memory(job.device)
        try:
            choice = _plan(job, scale.content)
            if begun and begun.plan.memory <= choice.memory:
                choice = begun.plan
        except StyleTransferError as error:  # others have taken memory meanwhile
            if not runs:
                raise
            log.warning("%s", error)
            runs[-1] = dataclasses.replace(runs[-1], stopped="memory")
            break
        if choice.tiling.rows or len(job.scales) > 1:
            log.info("%d×%d: %s", *scale.content, choice)
        if job.options.optimizer == "lbfgs":
            canvas = torch.empty(1, 3, *(side + 2 * BLEED for side in reversed(scale.content)), device=job.device)
            curvature = InverseHessian(canvas, choice.history, job.precision.backward)
            del canvas
        iterations = _most(job.options, index)
        for network in networks[skipped:]:
            warming = network is not job.networks[-1]
            if runs and runs[-1].stopped == "callback":  # only the losses are wanted, of what there is
                quiet = dataclasses.replace(job, callback=None)
                quiet = dataclasses.replace(quiet, keeper=None)
                run = _run(quiet, network, scale, _start(job, scale, runs), choice, 0, curvature, runs)
                return [*runs, dataclasses.replace(run, stopped="callback")]
            most = min(WARM_START_ITERATIONS, iterations) if warming else iterations
            start = begun.image if begun else _start(job, scale, runs)
            runs.append(_run(job, network, scale, start, choice, most, curvature, runs, begun))
            begun, job, skipped = None, dataclasses.replace(job, saved=None), 0
        if runs[-1].stopped in ("callback", "diverged"):
            break
    return runs


def _most(options: Options, index: int) -> int:
    """Iterations at most on a scale."""
    if index == 0:
        return options.iterations
    return min(options.iterations, max(FINER_ITERATIONS, options.iterations >> index))


def _start(job: _Job, scale: _Scale, runs: list[_Run]) -> Tensor:
    """The canvas to start with: what was made before, or as the options say."""
    if runs and runs[-1].scale == scale:
        return runs[-1].image
    if runs:
        image = _stepped_up(_trimmed(runs[-1].image), job.pictures[0], scale.content)
    else:
        image = _initial(job.pictures[0].resized(scale.content), job.start, job.options)
    return _with_bleed(image).to(job.device)


def _stepped_up(image: Tensor, content: Picture, size: tuple[int, int]) -> Tensor:
    """An image 1×3×H×W in a finer size: the finer content plus, enlarged, what was changed so far.

    Enlarging the image itself would lose the photograph's detail; the loss would start ten times higher.
    """
    height, width = image.shape[2:]
    change = image.cpu() - content.resized((width, height)).tensor()
    change = torch.nn.functional.interpolate(change, size=(size[1], size[0]), mode="bicubic", antialias=True)
    return change.add_(content.resized(size).tensor()).clamp_(0, 1)


def _needs(job: _Job, size: tuple[int, int]) -> plan.Job:
    """What a picture of (width, height) needs a plan for."""
    options = job.options
    return plan.Job(
        encoder=job.networks[-1].encoder,
        height=size[1] + 2 * BLEED,
        width=size[0] + 2 * BLEED,
        precision=job.precision,
        content_layers=tuple(options.content_weights),
        history=HISTORY if options.optimizer == "lbfgs" else 0,
        world=ranks.world(),
    )


def _plan(job: _Job, size: tuple[int, int]) -> plan.Plan:
    """The plan for a picture of (width, height)."""
    free = hardware.free_memory(job.device)
    if free is not None and job.device.type != "cuda":
        free //= ranks.neighbours()
    return plan.make(_needs(job, size), free, job.options.tile)


def _run(
    job: _Job,
    network: _Network,
    scale: _Scale,
    image: Tensor,
    choice: plan.Plan,
    iterations: int,
    curvature: InverseHessian | None,
    before: list[_Run],
    begun: "_Begun | None" = None,
) -> _Run:
    """Optimises with one network on one scale until a reason to stop, from the start or from where a run was."""
    every = READ_EVERY if image.device.type == "cuda" else 1
    losses: list[Losses] = list(begun.run.losses) if begun else []
    unread: list[Tensor] = []
    best = begun.run.best if begun else 0
    if begun and (stopped := _reason_to_stop(losses, begun.tried, iterations)):
        return dataclasses.replace(begun.run, stopped=stopped)
    state = begun.state if begun and choice == begun.plan else None
    steps = _steps(job, network, scale, image, choice, curvature, len(losses) - 1, state)
    if begun:
        image = begun.run.image
    del begun, state
    for step in steps:
        unread.append(step.terms)
        if step.iteration % every and step.iteration < iterations:
            continue
        losses += [Losses(*row) for row in torch.stack(unread).tolist()]
        unread.clear()
        if losses[-1].total <= losses[best].total:
            best, image = step.iteration, step.image
        shown = dataclasses.replace(step, image=_trimmed(step.image), network=network.name, most=iterations)
        asked = ranks.agreed(bool(job.callback and job.callback(shown)))
        stopped = "callback" if asked else _reason_to_stop(losses, step.tried, iterations)
        if job.keeper and job.keeper.due(last=asked):
            run = _Run(network.name, scale, image, losses, best, "")
            job.keeper.write(_progress([*before, run], choice), _state(run, step))
        if stopped:
            return _Run(network.name, scale, image, losses, best, stopped)
    raise AssertionError("minimize never ends")


@dataclass(frozen=True)
class _Begun:
    """Where an interrupted run was: its losses and best canvas, its last one, the optimiser's state, the plan."""

    run: _Run
    image: Tensor
    tried: Tensor
    state: dict[str, Tensor]
    plan: plan.Plan


def _progress(runs: list[_Run], choice: plan.Plan) -> dict[str, Any]:
    """For a checkpoint, what `_restored` reads: all but the tensors."""
    told = [
        {field.name: getattr(run, field.name) for field in dataclasses.fields(run) if field.name != "image"}
        for run in runs
    ]
    for run in told:
        run["scale"] = dataclasses.asdict(run["scale"])
        run["losses"] = [dataclasses.astuple(losses) for losses in run["losses"]]
    return {"runs": told, "plan": dataclasses.asdict(choice)}


def _state(run: _Run, step: Step) -> dict[str, Tensor]:
    """For a checkpoint, what `_restored` reads: the tensors."""
    state = {f"optimizer.{name}": tensor for name, tensor in step.state().items()}
    if sum(tensor.nbytes for tensor in state.values()) > HISTORY_BYTES:
        state = {}
    images = {"image": step.image} if run.image is step.image else {"image": step.image, "best": run.image}
    return {**state, **images, "tried": step.tried.clone()}


def _restored(job: _Job) -> tuple[list[_Run], _Begun | None]:
    """What a checkpoint holds: the runs that had ended, without their pictures, and the one that hadn't."""
    if job.saved is None:
        return [], None
    tensors = {name: tensor.to(job.device) for name, tensor in job.saved.tensors.items()}
    image = tensors.pop("image")
    best, tried = tensors.pop("best", image), tensors.pop("tried")
    runs = []
    for told in job.saved.progress["runs"]:
        scale = _Scale(tuple(told["scale"]["content"]), tuple(told["scale"]["style"]))
        losses = [Losses(*row) for row in told["losses"]]
        runs.append(_Run(told["network"], scale, best, losses, told["best"], told["stopped"]))
    state = {name.removeprefix("optimizer."): tensor for name, tensor in tensors.items()}
    made = dict(job.saved.progress["plan"])
    choice = plan.Plan(**{**made, "tiling": Tiling(**made["tiling"])})
    return runs[:-1], _Begun(runs[-1], image, tried, state, choice)


def _steps(
    job: _Job,
    network: _Network,
    scale: _Scale,
    image: Tensor,
    choice: plan.Plan,
    curvature: InverseHessian | None,
    done: int = -1,
    state: Mapping[str, Tensor] | None = None,
) -> Iterator[Step]:
    """The optimiser's steps that follow so many done. When memory runs out they go on from the last one, in smaller
    parts."""
    start = time.monotonic()
    while True:
        try:
            steps = _plain_steps(job, network, scale, image, choice.tiling, curvature, state)
            state = None
            for number, step in enumerate(steps, max(done, 0)):
                if number > done:
                    done, image = number, step.image
                    yield dataclasses.replace(step, iteration=number, seconds=time.monotonic() - start)
        except (RuntimeError, MemoryError) as error:
            if job.options.tile == "off" or not hardware.out_of_memory(error):
                raise
        hardware.release_memory(job.device)
        # What is free now doesn't tell: memory that the process keeps for itself is free too.
        choice = plan.make(_needs(job, scale.content), int(0.8 * choice.memory / plan.SHARE))
        log.info("out of memory after %d iterations; going on: %s", max(done, 0), choice)


def _plain_steps(
    job: _Job,
    network: _Network,
    scale: _Scale,
    image: Tensor,
    tiling: Tiling,
    curvature: InverseHessian | None,
    state: Mapping[str, Tensor] | None,
) -> Iterator[Step]:
    objective = _objective(job, network.encoder, scale, tiling)
    hardware.release_memory(job.device)  # what making it has left in pieces
    evaluate = hardware.captured(objective.evaluate, image)
    options = job.options
    return minimize(evaluate, image, options.optimizer, options.learning_rate, curvature=curvature, state=state)


def _reason_to_stop(losses: list[Losses], tried: Tensor, iterations: int) -> str:
    """As in `Result.stopped`; empty if there is none."""
    totals = [loss.total for loss in losses]
    stuck = len(totals) > 2 * PATIENCE and totals[-1] == totals[-1 - 2 * PATIENCE]
    if not math.isfinite(totals[0]):
        raise StyleTransferError("the loss of the starting picture is not finite: the weights are not usable")
    if not math.isfinite(totals[-1]) or (stuck and not math.isfinite(float(tried))):
        return "diverged"
    if len(losses) > iterations:
        return "iterations"
    before, now = min(totals[:-WINDOW], default=math.inf), min(totals)
    return "converged" if stuck or before - now < SETTLED * now else ""


def _objective(job: _Job, encoder: Encoder, scale: _Scale, tiling: Tiling) -> Objective:
    options = job.options
    return Objective(
        encoder,
        _with_bleed(job.pictures[0].resized(scale.content).tensor()).to(job.device),
        job.pictures[1].resized(scale.style).tensor().to(job.device),
        content_weights=options.content_weights,
        style_weights=options.style_weights,
        alpha=options.alpha,
        beta=options.beta,
        tv=options.tv,
        tiling=tiling,
    )


def _encoder(
    convolutions: weights.Convolutions, pictures: tuple[Picture, Picture], options: Options, device: torch.device
) -> Encoder:
    """A network cut to the run's layers and normalised on its two pictures."""
    encoder = Encoder(convolutions, {**options.content_weights, **options.style_weights}, options.pooling).to(device)
    small = [p.resized(_fitted(p.rgb.size, NORMALIZATION_SIZE, encoder.minimum_size)) for p in pictures]
    encoder.normalize([picture.tensor().to(device) for picture in small])
    return encoder


def _warm_start(encoder: Encoder, options: Options) -> weights.Convolutions | None:
    """The bundled network if it is worth starting with it."""
    if options.warm_start == "off" or options.iterations == 0 or encoder.macs_per_pixel < LARGE:
        return None
    _, small = weights.resolve("vgg19-lite")
    return small if set(encoder.layers) <= small.keys() else None


def _scales(pictures: tuple[Picture, Picture], options: Options) -> list[_Scale]:
    """The sizes to work through, the coarsest first."""
    longer = max(_fitted(pictures[0].rgb.size, options.size, enlarge=options.enlarge))
    count = 1 + max(0, math.ceil(math.log2(longer / COARSEST))) if options.scales == "auto" else int(options.scales)
    scales: list[_Scale] = []
    for size in (max(1, round(longer / 2**i)) for i in range(count)):
        content = _fitted(pictures[0].rgb.size, size, enlarge=options.enlarge)
        style = _fitted(pictures[1].rgb.size, max(1, round(size * options.style_scale)))
        if not scales or min(*content, *style) >= SMALLEST:
            scales.insert(0, _Scale(content, style))
    return scales


def _initial(content: Picture, other: Picture, options: Options) -> Tensor:
    """The starting image 1×3×H×W, of the content's size: the content, noise, or the middle of another picture."""
    size = content.rgb.size
    if options.init == "content":
        return content.tensor()
    if options.init == "noise":
        return torch.rand(1, 3, size[1], size[0], generator=torch.Generator().manual_seed(options.seed))
    return Picture(ImageOps.fit(other.rgb, size, Image.Resampling.LANCZOS)).tensor()


def _with_bleed(image: Tensor) -> Tensor:
    """The canvas: an image 1×3×H×W with `BLEED` mirrored pixels on every side."""
    return torch.nn.functional.pad(image, (BLEED,) * 4, mode="reflect")


def _trimmed(canvas: Tensor) -> Tensor:
    return canvas[..., BLEED:-BLEED, BLEED:-BLEED]


def _fitted(size: tuple[int, int], longer: int, shorter: int = 1, *, enlarge: bool = False) -> tuple[int, int]:
    """(width, height) in the same proportions with the longer side as told, unless that would enlarge it; neither
    side falls below `shorter`."""
    scale = longer / max(size)
    if scale > 1 and not enlarge:
        scale = 1
    return max(shorter, round(size[0] * scale)), max(shorter, round(size[1] * scale))


def _check_sizes(pictures: tuple[Picture, Picture], scale: _Scale, encoder: Encoder) -> None:
    needed = max(encoder.minimum_size, BLEED + 1)  # the bleed mirrors that much
    for picture, size in zip(pictures, (scale.content, scale.style), strict=True):
        if min(size) < needed:
            raise UsageError(
                f"{picture.name} would be {size[0]}×{size[1]} pixels; {encoder.layers[-1]} needs "
                f"{needed} at the shorter side: use a larger picture or --size"
            )


# --- what it would take -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """What a scale of a run will take.

    Attributes:
        size: width and height in pixels.
        plan: bands, strips, pairs and bytes.
        seconds: of an iteration of the network that counts, from some iterations on a part of the picture.
        iterations: at most.
    """

    size: tuple[int, int]
    plan: plan.Plan
    seconds: float
    iterations: int


def estimate(content: Source, style: Source, options: Options | None = None, **changes: Any) -> list[Estimate]:
    """What `stylize` would do with the same arguments and how long it would take, scale by scale, without doing it.

    Raises:
        UsageError, StyleTransferError: as `stylize`.
    """
    options = _changed(options, changes)
    device = hardware.device(options.device)
    precision = hardware.precision(options.precision, device)
    with hardware.tuned(device, tf32=precision.tf32), _memory_told(device):
        job = _prepared(content, style, options, precision, device, None)
        plans = [_plan(job, scale.content) for scale in job.scales]
        return [
            Estimate(scale.content, choice, _seconds(job, scale, choice), _most(options, index))
            for index, (scale, choice) in enumerate(zip(job.scales, plans, strict=True))
        ]


def _seconds(job: _Job, scale: _Scale, choice: plan.Plan) -> float:
    """Of an iteration, told from some on the middle of the picture."""
    (width, height), style = scale.content, scale.style
    part = _Scale((min(width, SAMPLE), min(height, SAMPLE)), style)
    left, top = (width - part.content[0]) // 2, (height - part.content[1]) // 2
    box = left, top, left + part.content[0], top + part.content[1]
    middle = job.pictures[0].resized(scale.content).rgb.crop(box)
    sample = dataclasses.replace(job, pictures=(Picture(middle), job.pictures[1]))
    tiling = dataclasses.replace(choice.tiling, columns=None)
    start = _start(sample, part, [])
    curvature = InverseHessian(start, choice.history or 1, job.precision.backward)
    steps = _steps(sample, job.networks[-1], part, start, dataclasses.replace(choice, tiling=tiling), curvature)
    times = [step.seconds for step in itertools.islice(steps, 4)]
    wider = _needs(job, scale.content).work(choice.tiling) / _needs(sample, part.content).work(tiling)
    return (times[3] - times[1]) / 2 * wider * width * height / math.prod(part.content)

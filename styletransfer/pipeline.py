"""stylize(): inputs -> targets -> optimisation -> Result."""

import contextlib
import dataclasses
import hashlib
import logging
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from . import color, hardware, images, inputs, plan, ranks, weights
from .checkpoint import Checkpoint, Keeper, compare, read
from .errors import StyleTransferError, UsageError
from .images import Picture, fitted
from .inputs import Inputs, Source, Styles
from .objective import Losses
from .options import STARTS, Options
from .painting import (
    Callback,
    Job,
    Network,
    Painting,
    Scale,
    bleed,
    finisher,
    most_iterations,
    plan_for,
    seconds_per_iteration,
    stepped_up,
)
from .vgg import Encoder

log = logging.getLogger(__name__)

#: The longer side at which the filters' mean activations are taken, so that they don't depend on --size.
NORMALIZATION_SIZE = 256
#: A network with so many multiply-adds per pixel is worth starting with the bundled one, which has 23 000 and needs a
#: tenth of the time; VGG-19 has 360 000.
LARGE = 100_000
#: Larger pictures start smaller, with the longer side between half of this and this: there, strokes are as large beside
#: the picture as the filters see.
COARSEST = 768
#: No scale but the last has a shorter side.
SMALLEST = 32


@dataclass(frozen=True)
class Result:
    """What a run has made.

    Attributes:
        tensor: the picture, float32 1×3×H×W on the CPU, RGB in [0, 1].
        losses: of the start of the last scale worked on, and of each of its iterations, in order.
        best: the losses of the picture (in grey with color="luminance"), the lowest total of all.
        best_iteration: where they were reached; earlier than the last if the loss rose again.
        warm_start_iterations: done with the bundled network before.
        scales: width, height and iterations of every scale, the coarsest first.
        options: the settings of the run.
        model: name of the network, or of the file it came from.
        device: "cpu", "cuda:0", …
        stopped: why it ended: "iterations" (all done), "converged" (no visible change any more), "callback" (asked to),
            "diverged" (the loss was no longer finite; the picture is the best before that), "time" (it is up), or
            "memory" (there was no longer enough for a finer scale). With the last two the picture may be an enlarged
            one: `scales` tells.
        seconds: wall time from the call to the picture.
        peak_memory_bytes: of the process on a CPU (resident), of torch's allocations on a GPU.
        alpha: the content's opacity, Pillow mode L, or None.
        inputs: file names of content and styles, without folders; a list of them for a folder of styles.
        digest: SHA-256 of the files of its pictures together, if all are files.
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
    inputs: Sequence[str | list[str]] = ("image", "image")
    digest: str | None = None
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
        """How the picture was made, as embedded in it; no folders, so that it can be passed on. `again` reads it."""
        from . import __version__

        settings = self.options.with_files(lambda name: Path(name).name).that_matter()
        content, *styles = self.inputs
        style = styles[0] if len(styles) == 1 and isinstance(styles[0], str) else styles
        if not self.options.weights:
            settings["model"] = self.model  # that "auto" was
        made = {"iterations": self.iterations, "stopped": self.stopped, "loss": dataclasses.asdict(self.best)}
        told = {"version": __version__, "content": content, "style": style, "inputs": self.digest}
        return {**settings, **told, "result": made}

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
    style: Styles,
    options: Options | None = None,
    *,
    callback: Callback | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    **changes: Any,
) -> Result:
    """Renders the content picture in the style of the other.

    Args:
        content: a path, a Pillow image, or an image tensor 1×3×H×W in [0, 1].
        style: likewise, or a folder of pictures, or several of these (`Options.style_weight`, `Options.mask`).
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
    keeps = options.checkpoint_every != "off"
    path = Path(checkpoint) if checkpoint is not None and (keeps or resume) else None
    with _prepared(content, style, options) as (job, convolutions):
        job = dataclasses.replace(job, callback=callback, start=start)
        saved = None
        if path:
            asked = _identity(job, convolutions)
            saved = _saved(path, asked) if resume else None
            keeper = _keeper(path, job, asked, content, style, saved is not None) if keeps else None
            job = dataclasses.replace(job, keeper=keeper)
        painting = Painting(job, saved)
        painting.paint()
        runs, size, model = painting.runs, job.scales[-1].content, job.networks[-1].name
        content_picture, image = job.inputs.content, painting.picture
        if runs[-1].scale != job.scales[-1]:
            image = stepped_up(image, content_picture, size, seamless=options.seamless)
        image = finisher(job, size)(image.clamp(0, 1).to(job.device)).cpu()
    done = runs[-1]
    if done.stopped == "callback" and job.keeper and job.keeper.spares:
        path = None  # it is another run's
    return Result(
        tensor=image,
        losses=done.losses,
        best=done.losses[done.best],
        best_iteration=done.best,
        warm_start_iterations=sum(run.iterations for run in runs if run.network != model),
        scales=[(*run.scale.content, run.iterations) for run in runs if run.network == model],
        options=options,
        model=model,
        device=str(job.device),
        stopped=done.stopped,
        seconds=time.monotonic() - start,
        peak_memory_bytes=hardware.peak_memory(job.device),
        alpha=content_picture.resized(size).alpha,
        inputs=job.inputs.names,
        digest=job.originals.digest,
        checkpoint=path,
    )


def _changed(options: Options | None, changes: Mapping[str, Any]) -> Options:
    try:
        return dataclasses.replace(options or Options(), **changes)
    except TypeError as error:
        raise UsageError(str(error).replace("Options.__init__() got an ", "")) from error


@contextlib.contextmanager
def memory_told(device: torch.device) -> Iterator[None]:
    """Within, memory that runs out is a `StyleTransferError` that says what to do."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not hardware.out_of_memory(error):
            raise
        raise StyleTransferError(f"there is not enough memory on {device}: use a smaller --size") from error


@contextlib.contextmanager
def _prepared(content: Source, style: Styles, options: Options) -> Iterator[tuple[Job, weights.Convolutions]]:
    """Gives the job and the weights it came from, with the machine set up for it."""
    device = hardware.device(options.device)
    precision = hardware.precision(options.precision, device)
    with hardware.tuned(device, precision.tf32, options.deterministic), memory_told(device):
        yield _read(content, style, options, precision, device)


def _read(
    content: Source,
    style: Styles,
    options: Options,
    precision: hardware.Precision,
    device: torch.device,
) -> tuple[Job, weights.Convolutions]:
    """Reads the inputs and the networks, and checks what can be checked."""
    originals = inputs.read(content, style, options)
    scales = _scales(originals, options)
    size = scales[-1].content
    pictures = _recolored(originals, scales[-1], options.color)
    if max(size) < options.size != Options.size:
        log.info("%s has %d×%d pixels and keeps them (--enlarge makes it larger)", pictures.content.name, *size)
    model, convolutions = weights.resolve(options.model, options.weights, options.preprocessing)
    normal = [pictures.content, *pictures.styles]
    networks = [Network(model, _encoder(convolutions, normal, options, device))]
    _check_sizes(pictures, scales[-1], networks[0].encoder, bleed(options))
    if small := _warm_start(networks[0].encoder, options):
        networks.insert(0, Network("vgg19-lite", _encoder(small, normal, options, device)))
    for network in networks:
        network.encoder.cast(precision.forward, precision.backward)
    return Job(originals, pictures, scales, networks, options, precision, device), convolutions


def _recolored(given: Inputs, scale: Scale, colors: Any) -> Inputs:
    """The inputs as the network is to see them; colours are matched in the size of the last scale."""
    if colors == "style":
        return given

    def recolored(style: Picture) -> Picture:
        return color.prepared(given.content, style, colors, (scale.content, scale.of(style)))[1]

    grey = color.luminance if colors == "luminance" else lambda picture: picture
    made = {id(style): recolored(style) for style in given.styles}
    parts = [
        dataclasses.replace(part, styles=[dataclasses.replace(s, picture=made[id(s.picture)]) for s in part.styles])
        for part in given.parts
    ]
    start = made.get(id(given.start)) or grey(given.start)
    return dataclasses.replace(given, content=grey(given.content), parts=parts, start=start)


# --- checkpoints --------------------------------------------------------------------------------------------------


def _identity(job: Job, convolutions: weights.Convolutions) -> dict[str, Any]:
    """What must be the same when a run goes on."""
    from . import __version__

    digest, hashes = hashlib.sha256(), job.originals.hashes()
    for layer in convolutions.values():
        for tensor in layer:
            digest.update(tensor.contiguous().numpy().data)  # not copied
    if job.options.init in STARTS:
        hashes["init"] = job.options.init
    # Of several GPUs another one may go on.
    told = {"weights": digest.hexdigest(), "device": job.device.type, "version": __version__}
    return {**job.options.that_matter(), **hashes, **told}


def _saved(path: Path, asked: dict[str, Any]) -> Checkpoint | None:
    """The checkpoint to go on from, if there is one."""
    if not path.exists():
        log.info("there is no checkpoint %s: starting from the beginning", path)
        return None
    saved = read(path)
    compare(saved.run, asked)
    log.info("going on after %d iterations", sum(len(run["losses"]) - 1 for run in saved.progress["runs"]))
    return saved


def _keeper(
    path: Path,
    job: Job,
    asked: dict[str, Any],
    content: Source,
    style: Styles,
    resumed: bool,
) -> Keeper | None:
    """What writes the checkpoints, in the process that does."""
    if path.exists() and not resumed:
        log.info("starting anew, though there is a checkpoint; it is kept for now: --resume goes on from it")
    if ranks.rank():
        return None
    sources = (content, *inputs.several(style))
    files = [_absolute(source) for source in sources]
    options = dataclasses.asdict(job.options.with_files(os.path.abspath))  # understood in any folder
    again = {"content": files[0], "styles": files[1:], "options": options}
    return Keeper(path, float(job.options.checkpoint_every), asked, again, resumed)


def _absolute(source: Source | Sequence[Source]) -> Any:
    """A path, or several, that can be understood in any folder; None for what is no file."""
    if isinstance(source, str | os.PathLike):
        return os.path.abspath(source)
    return [_absolute(one) for one in source] if isinstance(source, list | tuple) else None


def _encoder(
    convolutions: weights.Convolutions, pictures: Sequence[Picture], options: Options, device: torch.device
) -> Encoder:
    """A network cut to the run's layers and normalised on its pictures."""
    encoder = Encoder(convolutions, {**options.content_weights, **options.style_weights}, options.pooling).to(device)
    small = [p.resized(fitted(p.rgb.size, NORMALIZATION_SIZE, encoder.minimum_size)) for p in pictures]
    encoder.normalize([picture.tensor().to(device) for picture in small])
    return encoder


def _warm_start(encoder: Encoder, options: Options) -> weights.Convolutions | None:
    """The bundled network if it is worth starting with it."""
    if options.warm_start == "off" or options.iterations == 0 or encoder.macs_per_pixel < LARGE:
        return None
    _, small = weights.resolve("vgg19-lite")
    return small if set(encoder.layers) <= small.keys() else None


def _scales(pictures: Inputs, options: Options) -> list[Scale]:
    """The sizes to work through, the coarsest first."""
    whole = pictures.content.rgb.size
    longer = max(fitted(whole, options.size, enlarge=options.enlarge))
    smallest = max(SMALLEST, bleed(options) + 1)
    count = 1 + max(0, math.ceil(math.log2(longer / COARSEST))) if options.scales == "auto" else int(options.scales)
    scales: list[Scale] = []
    for size in (max(1, round(longer / 2**i)) for i in range(count)):
        scale = Scale(fitted(whole, size, enlarge=options.enlarge), max(1, round(size * options.style_scale)))
        sides = [*scale.content, *(side for style in pictures.styles for side in scale.of(style))]
        if not scales or min(sides) >= smallest:
            scales.insert(0, scale)
    return scales


def _check_sizes(pictures: Inputs, scale: Scale, encoder: Encoder, bleed: int) -> None:
    needed = max(encoder.minimum_size, bleed + 1)  # the bleed mirrors that much
    for picture, size in [(pictures.content, scale.content), *((p, scale.of(p)) for p in pictures.styles)]:
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


def estimate(content: Source, style: Styles, options: Options | None = None, **changes: Any) -> list[Estimate]:
    """What `stylize` would do with the same arguments and how long it would take, scale by scale, without doing it.

    Raises:
        UsageError, StyleTransferError: as `stylize`.
    """
    options = _changed(options, changes)
    with _prepared(content, style, options) as (job, _):
        plans = [plan_for(job, scale) for scale in job.scales]
        return [
            Estimate(scale.content, choice, seconds_per_iteration(job, scale, choice), most_iterations(options, index))
            for index, (scale, choice) in enumerate(zip(job.scales, plans, strict=True))
        ]

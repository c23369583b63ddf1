"""stylize(): inputs -> targets -> optimisation -> Result."""

import dataclasses
import logging
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from . import hardware, images, weights
from .curvature import InverseHessian
from .errors import StyleTransferError, UsageError
from .images import Picture
from .objective import Losses, Objective
from .optimize import PATIENCE, Step, minimize
from .options import Options
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
#: On a GPU the loss is read once in so many iterations, since reading makes the GPU wait for the host.
READ_EVERY = 10


@dataclass(frozen=True)
class Result:
    """What a run has made.

    Attributes:
        tensor: the picture, float32 1×3×H×W on the CPU, RGB in [0, 1].
        losses: of the start, which a warm start may have made, and of every iteration, in order.
        best: the losses of the picture, the lowest total of all.
        best_iteration: where they were reached; earlier than the last if the loss rose again.
        warm_start_iterations: done with the bundled network before.
        options: the settings of the run.
        model: name of the network, or of the file it came from.
        device: "cpu", "cuda:0", …
        stopped: why it ended: "iterations" (all done), "converged" (no visible change any more), "callback" (asked to),
            or "diverged" (the loss was no longer finite; the picture is the best before that).
        seconds: wall time from the call to the picture.
        peak_memory_bytes: of the process on a CPU (resident), of torch's allocations on a GPU.
        alpha: the content's opacity, Pillow mode L, or None.
        inputs: file names of content and style, without folders.
    """

    tensor: Tensor
    losses: list[Losses]
    best: Losses
    best_iteration: int
    warm_start_iterations: int
    options: Options
    model: str
    device: str
    stopped: str
    seconds: float
    peak_memory_bytes: int
    alpha: Image.Image | None = None
    inputs: tuple[str, str] = ("image", "image")

    @property
    def iterations(self) -> int:
        """Iterations done."""
        return len(self.losses) - 1

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

        settings = dataclasses.asdict(self.options)
        settings["weights"] = self.options.weights and Path(self.options.weights).name
        settings["init"] = Path(self.options.init).name
        made = {"version": __version__, "content": self.inputs[0], "style": self.inputs[1], "model": self.model}
        return {**settings, **made, "iterations": self.iterations, "loss": dataclasses.asdict(self.best)}

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes the picture as PNG, JPEG, WebP or TIFF, by the ending; returns the path.

        Raises:
            UsageError: unknown ending, or no such folder.
            StyleTransferError: it can't be written.
        """
        target = Path(path)
        images.check_output(target, self.options.bit_depth)
        images.write(self.tensor, target, alpha=self.alpha, bit_depth=self.options.bit_depth, settings=self.settings())
        return target


def stylize(
    content: Source, style: Source, options: Options | None = None, *, callback: Callback | None = None, **changes: Any
) -> Result:
    """Renders the content picture in the style of the other.

    Args:
        content, style: paths, Pillow images, or image tensors 1×3×H×W in [0, 1].
        options: the settings; the defaults if not given.
        callback: called with every `Step`, on a GPU with every tenth; a true return value ends the run with the best
            picture so far.
        changes: single settings by name, as ``stylize(a, b, size=1024, beta=1e4)``.

    Raises:
        UsageError: a setting or an input that can't be meant.
        StyleTransferError: an input or the weights can't be read, or memory doesn't suffice.
    """
    start = time.monotonic()
    try:
        options = dataclasses.replace(options or Options(), **changes)
    except TypeError as error:
        raise UsageError(str(error).replace("Options.__init__() got an ", "")) from error
    device = hardware.device(options.device)
    precision = hardware.precision(options.precision, device)
    pictures = images.read(content), images.read(style)
    start_picture = images.read(options.init) if options.init not in ("content", "style", "noise") else pictures[1]
    sizes = (
        _fitted(pictures[0].rgb.size, options.size, enlarge=options.enlarge),
        _fitted(pictures[1].rgb.size, options.size),
    )
    if max(sizes[0]) < options.size != Options.size:
        log.info("%s has %d×%d pixels and keeps them (--enlarge makes it larger)", pictures[0].name, *sizes[0])
    try:
        with hardware.tuned(device, tf32=precision.tf32):
            model, convolutions = weights.resolve(options.model, options.weights, options.preprocessing)
            encoder = _encoder(convolutions, pictures, options, device)
            _check_sizes(pictures, sizes, encoder)
            resized = pictures[0].resized(sizes[0]), pictures[1].resized(sizes[1])
            targets = _with_bleed(resized[0].tensor()).to(device), resized[1].tensor().to(device)
            image = _with_bleed(_initial(resized[0], start_picture, options)).to(device)
            curvature = None
            if options.optimizer == "lbfgs":
                curvature = InverseHessian(image, dtype=precision.backward)

            def run(network: str, encoder: Encoder, image: Tensor, iterations: int, callback: Callback | None) -> _Run:
                objective = _objective(encoder.cast(precision.forward, precision.backward), targets, options)
                return _run(network, objective, image, options, iterations, curvature, callback)

            small, warm = _warm_start(encoder, options), None
            if small:
                iterations = min(WARM_START_ITERATIONS, options.iterations)
                warm = run("vgg19-lite", _encoder(small, pictures, options, device), image, iterations, callback)
            if warm and warm.stopped == "callback":
                done = run(model, encoder, warm.image, 0, None)
            else:
                done = run(model, encoder, warm.image if warm else image, options.iterations, callback)
    except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        raise StyleTransferError(
            f"not enough memory for {sizes[0][0]}×{sizes[0][1]} pixels on {device}: use a smaller --size"
        ) from error
    return Result(
        tensor=_trimmed(done.image).clamp(0, 1).cpu(),
        losses=done.losses,
        best=done.losses[done.best],
        best_iteration=done.best,
        warm_start_iterations=len(warm.losses) - 1 if warm else 0,
        options=options,
        model=model,
        device=str(device),
        stopped=warm.stopped if warm and warm.stopped == "callback" else done.stopped,
        seconds=time.monotonic() - start,
        peak_memory_bytes=hardware.peak_memory(device),
        alpha=resized[0].alpha,
        inputs=(pictures[0].name, pictures[1].name),
    )


@dataclass(frozen=True)
class _Run:
    """What one network has made: the best canvas, the losses of all iterations, which one is best, why it ended."""

    image: Tensor
    losses: list[Losses]
    best: int
    stopped: str


def _run(
    network: str,
    objective: Objective,
    image: Tensor,
    options: Options,
    iterations: int,
    curvature: InverseHessian | None,
    callback: Callback | None,
) -> _Run:
    """Optimises with one network until a reason to stop."""
    every = READ_EVERY if image.device.type == "cuda" else 1
    evaluate = hardware.captured(objective.evaluate, image)
    losses: list[Losses] = []
    unread: list[Tensor] = []
    best = 0
    steps = minimize(evaluate, image, options.optimizer, learning_rate=options.learning_rate, curvature=curvature)
    for step in steps:
        unread.append(step.terms)
        if step.iteration % every and step.iteration < iterations:
            continue
        losses += [Losses(*row) for row in torch.stack(unread).tolist()]
        unread.clear()
        if losses[-1].total <= losses[best].total:
            best, image = step.iteration, step.image
        asked = callback and callback(dataclasses.replace(step, image=_trimmed(step.image), network=network))
        stopped = "callback" if asked else _reason_to_stop(losses, step, iterations)
        if stopped:
            return _Run(image, losses, best, stopped)
    raise AssertionError("minimize never ends")


def _reason_to_stop(losses: list[Losses], step: Step, iterations: int) -> str:
    """As in `Result.stopped`; empty if there is none."""
    totals = [loss.total for loss in losses]
    stuck = len(totals) > 2 * PATIENCE and totals[-1] == totals[-1 - 2 * PATIENCE]
    if not math.isfinite(totals[0]):
        raise StyleTransferError("the loss of the starting picture is not finite: the weights are not usable")
    if not math.isfinite(totals[-1]) or (stuck and not math.isfinite(float(step.tried))):
        return "diverged"
    if step.iteration >= iterations:
        return "iterations"
    before, now = min(totals[:-WINDOW], default=math.inf), min(totals)
    return "converged" if stuck or before - now < SETTLED * now else ""


def _objective(encoder: Encoder, targets: tuple[Tensor, Tensor], options: Options) -> Objective:
    return Objective(
        encoder,
        *targets,
        content_weights=options.content_weights,
        style_weights=options.style_weights,
        alpha=options.alpha,
        beta=options.beta,
        tv=options.tv,
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


def _check_sizes(
    pictures: tuple[Picture, Picture], sizes: tuple[tuple[int, int], tuple[int, int]], encoder: Encoder
) -> None:
    needed = max(encoder.minimum_size, BLEED + 1)  # the bleed mirrors that much
    for picture, size in zip(pictures, sizes, strict=True):
        if min(size) < needed:
            raise UsageError(
                f"{picture.name} would be {size[0]}×{size[1]} pixels; {encoder.layers[-1]} needs "
                f"{needed} at the shorter side: use a larger picture or --size"
            )

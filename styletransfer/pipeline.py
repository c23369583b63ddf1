"""stylize(): inputs -> targets -> optimisation -> Result."""

import dataclasses
import logging
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor

from . import images, weights
from .errors import StyleTransferError, UsageError
from .images import Picture
from .objective import Losses, Objective
from .optimize import DivergenceError, Step, minimize
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


@dataclass(frozen=True)
class Result:
    """What a run has made.

    Attributes:
        tensor: the picture, float32 1×3×H×W on the CPU, RGB in [0, 1].
        losses: of the start and of every iteration, in order.
        best: the losses of the picture, the lowest total of all.
        best_iteration: where they were reached; earlier than the last if the loss rose again.
        options: the settings of the run.
        model: name of the network, or of the file it came from.
        device: "cpu", "cuda:0", …
        stopped: why it ended: "iterations" (all done), "converged" (no further decrease), "callback" (asked to), or
            "diverged" (the loss was no longer finite; the picture is the best before that).
        seconds: wall time from the call to the picture.
        peak_memory_bytes: of the process on a CPU (resident), of torch's allocations on a GPU.
        alpha: the content's opacity, Pillow mode L, or None.
        inputs: file names of content and style, without folders.
    """

    tensor: Tensor
    losses: list[Losses]
    best: Losses
    best_iteration: int
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
        callback: called with every `Step`; a true return value ends the run with the best picture so far.
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
    device = _device(options.device)
    pictures = images.read(content), images.read(style)
    start_picture = images.read(options.init) if options.init not in ("content", "style", "noise") else pictures[1]
    sizes = (
        _fitted(pictures[0].rgb.size, options.size, enlarge=options.enlarge),
        _fitted(pictures[1].rgb.size, options.size),
    )
    if max(sizes[0]) < options.size != Options.size:
        log.info("%s has %d×%d pixels and keeps them (--enlarge makes it larger)", pictures[0].name, *sizes[0])
    try:
        model, encoder = _encoder(pictures, options, device)
        _check_sizes(pictures, sizes, encoder)
        resized = pictures[0].resized(sizes[0]), pictures[1].resized(sizes[1])
        objective = Objective(
            encoder,
            _with_bleed(resized[0].tensor()).to(device),
            resized[1].tensor().to(device),
            content_weights=options.content_weights,
            style_weights=options.style_weights,
            alpha=options.alpha,
            beta=options.beta,
            tv=options.tv,
        )
        image = _with_bleed(_initial(resized[0], start_picture, options)).to(device)
        best, losses, stopped = _run(objective, image, options, callback)
    except (torch.OutOfMemoryError, RuntimeError, MemoryError) as error:
        if isinstance(error, RuntimeError) and "memory" not in str(error):
            raise
        raise StyleTransferError(
            f"not enough memory for {sizes[0][0]}×{sizes[0][1]} pixels on {device}: use a smaller --size"
        ) from error
    return Result(
        tensor=best.image.clamp(0, 1).cpu(),
        losses=losses,
        best=best.losses,
        best_iteration=best.iteration,
        options=options,
        model=model,
        device=str(device),
        stopped=stopped,
        seconds=time.monotonic() - start,
        peak_memory_bytes=_peak_memory(device),
        alpha=resized[0].alpha,
        inputs=(pictures[0].name, pictures[1].name),
    )


def _run(
    objective: Objective, image: Tensor, options: Options, callback: Callback | None
) -> tuple[Step, list[Losses], str]:
    """Optimises; returns the best step, the losses of all, and why it stopped."""
    losses: list[Losses] = []
    best: Step | None = None
    try:
        for step in minimize(objective.evaluate, image, options.optimizer, options.learning_rate):
            step = dataclasses.replace(step, image=step.image[..., BLEED:-BLEED, BLEED:-BLEED])
            losses.append(step.losses)
            if best is None or step.losses.total < best.losses.total:
                best = step
            if callback is not None and callback(step):
                return best, losses, "callback"
            if step.iteration >= options.iterations:
                return best, losses, "iterations"
    except DivergenceError:
        if best is None:
            raise StyleTransferError(
                "the loss of the starting picture is not finite: the weights are not usable"
            ) from None
        return best, losses, "diverged"
    assert best is not None  # minimize yields the start or raises
    return best, losses, "converged"


def _encoder(pictures: tuple[Picture, Picture], options: Options, device: torch.device) -> tuple[str, Encoder]:
    """The network of the run, normalised on its own two pictures."""
    model, convolutions = weights.resolve(options.model, options.weights, options.preprocessing)
    encoder = Encoder(convolutions, {**options.content_weights, **options.style_weights}, options.pooling).to(device)
    small = [p.resized(_fitted(p.rgb.size, NORMALIZATION_SIZE, encoder.minimum_size)) for p in pictures]
    encoder.normalize([picture.tensor().to(device) for picture in small])
    return model, encoder


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


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        device = torch.device("meta")
    if device.type == "cpu":
        return device
    if device.type == "cuda" and torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count():
        return torch.device("cuda", device.index or 0)
    if device.type == "mps" and torch.backends.mps.is_available():
        return device
    if device.type in ("cuda", "mps"):
        raise UsageError(f"there is no device {name} here; use --device cpu or auto")
    raise UsageError(f"device is {name!r}; it can be auto, cpu, cuda, cuda:N or mps")


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":  # has no such count in the standard library
        return 0
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit

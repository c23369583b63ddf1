"""The canvas: the image that is optimized, from its start to the picture that is made of it."""

from collections.abc import Callable
from functools import partial

import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..images import Picture, color
from ..losses import TemporalPrior
from .bleed import add_bleed
from .problem import Problem, Scale


def content_canvas(problem: Problem, scale: Scale) -> Tensor:
    """The content for the canvas of a scale, 1×3×H×W."""
    return add_bleed(problem.inputs.content.resize(scale.content).tensor(), problem.options).to(problem.device)


def mask_canvas(problem: Problem, mask: Picture | None, scale: Scale) -> Tensor | None:
    """A mask of the content for the canvas of a scale, 1×1×H×W; None without a mask."""
    if mask is None:
        return None
    return add_bleed(mask.resize(scale.content).tensor()[:, :1], problem.options).to(problem.device)


def make_start(problem: Problem) -> Tensor:
    """Return the start of the coarsest scale, 1×3×H×W: the content or the middle of another image, and noise."""
    (width, height), options, prior = problem.scales[0].content, problem.options, problem.prior
    share = 0.0 if prior else 1.0 if options.init == "noise" else options.init_noise
    start = prior.image if prior else problem.inputs.start
    if start is None:
        image = problem.inputs.content.resize((width, height)).tensor()
    else:
        image = Picture(ImageOps.fit(start.rgb, (width, height), Image.Resampling.LANCZOS)).tensor()
    if not share:
        return image
    channels = 1 if options.color == "luminance" else 3
    noise = torch.rand(1, channels, height, width, generator=torch.Generator().manual_seed(options.seed))
    return torch.lerp(image, noise.expand(1, 3, -1, -1), share)


def temporal_prior(problem: Problem, scale: Scale) -> TemporalPrior | None:
    """Return what the canvas of a scale is to stay near; None if nothing."""
    if problem.prior is None:
        return None
    image = problem.prior.image.resize(scale.content).tensor()
    weights = torch.nn.functional.interpolate(problem.prior.weight, image.shape[2:], mode="area")
    return TemporalPrior(*(add_bleed(part, problem.options).to(problem.device) for part in (image, weights)))


def upsample_residual(image: Tensor, content: Picture, size: tuple[int, int], *, seamless: bool = False) -> Tensor:
    """An image 1×3×H×W in a finer size (width, height): the finer content plus, enlarged, what was changed so far.

    Enlarging the image itself would lose the photograph's detail; the loss would start ten times higher.
    """
    height, width = image.shape[2:]
    change = image.cpu() - content.resize((width, height)).tensor()
    enlarge = partial(torch.nn.functional.interpolate, mode="bicubic", antialias=True)
    if seamless:  # three in a row, of which the middle one counts
        rows = enlarge(torch.cat([change] * 3, 2), size=(3 * size[1], width)).narrow(2, size[1], size[1])
        change = enlarge(torch.cat([rows] * 3, 3), size=(size[1], 3 * size[0])).narrow(3, size[0], size[0])
    else:
        change = enlarge(change, size=(size[1], size[0]))
    return change.add_(content.resize(size).tensor()).clamp_(0, 1)


def make_finisher(problem: Problem, size: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """What makes the picture of an image 1×3×H×W of the canvas, for one (width, height): with the content's chroma, the
    photograph where it stays."""
    given = problem.originals
    if problem.options.color != "luminance" and given.keep is None:
        return lambda image: image
    content = given.content.resize(size).tensor().to(problem.device)
    keep = None if given.keep is None else given.keep.resize(size).tensor()[:, :1].to(problem.device)

    def finish(image: Tensor) -> Tensor:
        if problem.options.color == "luminance":
            image = color.add_chroma(image.clamp(0, 1), content)
        return image if keep is None else torch.lerp(image, content, keep)

    return finish

"""The canvas: the image that is optimized, from its start to the output image."""

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
    """Return the content image with its bleed in the size of a scale, 1×3×H×W."""
    return add_bleed(problem.inputs.content.resize(scale.content).tensor(), problem.options).to(problem.device)


def mask_canvas(problem: Problem, mask: Picture | None, scale: Scale) -> Tensor | None:
    """Return a mask of the content with its bleed in the size of a scale, 1×1×H×W; None without a mask."""
    if mask is None:
        return None
    return add_bleed(mask.resize(scale.content).tensor()[:, :1], problem.options).to(problem.device)


def make_start(problem: Problem) -> Tensor:
    """Return the start of the coarsest scale, 1×3×H×W: the content or the center of another image, with noise."""
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
    """Return the temporal prior with its bleed in the size of a scale; None if there is none."""
    if problem.prior is None:
        return None
    image = problem.prior.image.resize(scale.content).tensor()
    weights = torch.nn.functional.interpolate(problem.prior.weight, image.shape[2:], mode="area")
    return TemporalPrior(*(add_bleed(part, problem.options).to(problem.device) for part in (image, weights)))


def upsample_residual(image: Tensor, content: Picture, size: tuple[int, int], *, seamless: bool = False) -> Tensor:
    """Return an image 1×3×H×W in a finer size (width, height): the finer content plus the upsampled residual.

    Upsampling the image itself would lose the content's detail; the loss would start ten times higher.
    """
    height, width = image.shape[2:]
    residual = image.cpu() - content.resize((width, height)).tensor()
    upsample = partial(torch.nn.functional.interpolate, mode="bicubic", antialias=True)
    if seamless:  # three copies in a row, of which the middle one counts
        rows = upsample(torch.cat([residual] * 3, 2), size=(3 * size[1], width)).narrow(2, size[1], size[1])
        residual = upsample(torch.cat([rows] * 3, 3), size=(size[1], 3 * size[0])).narrow(3, size[0], size[0])
    else:
        residual = upsample(residual, size=(size[1], size[0]))
    return residual.add_(content.resize(size).tensor()).clamp_(0, 1)


def make_finisher(problem: Problem, size: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    """Return a function that turns a canvas without bleed, 1×3×H×W of this (width, height), into the output image.

    It adds the content's chroma (`Options.color`) and restores the content where it is kept (`Options.keep`).
    """
    originals = problem.originals
    if problem.options.color != "luminance" and originals.keep is None:
        return lambda image: image
    content = originals.content.resize(size).tensor().to(problem.device)
    keep = None if originals.keep is None else originals.keep.resize(size).tensor()[:, :1].to(problem.device)

    def finish(image: Tensor) -> Tensor:
        if problem.options.color == "luminance":
            image = color.add_chroma(image.clamp(0, 1), content)
        return image if keep is None else torch.lerp(image, content, keep)

    return finish

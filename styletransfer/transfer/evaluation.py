"""What is evaluated on a scale: the objective, and what is wrapped around its evaluation.

A wrapper takes evaluate() and returns one that the optimizer can't tell from it.
"""

import itertools
import logging

import torch
from torch import Tensor

from ..encoder import Encoder, Tiling
from ..images import RegionInput, StyleInput
from ..losses import LOSSES, Evaluate, Objective, Region, Style
from ..runtime import hardware
from .bleed import SEAMLESS_BLEED, bleed_width
from .canvas import content_canvas, mask_canvas, temporal_prior
from .problem import Problem, Scale

log = logging.getLogger(__name__)


def make_evaluate(
    problem: Problem, encoder: Encoder, scale: Scale, tiling: Tiling, image: Tensor, done: int
) -> Evaluate:
    """What the optimizer is to minimize on a scale.

    Args:
        image: of the canvas's shape and on its device.
        done: iterations done before, with the same noise to come after them (`Options.jitter`).
    """
    options = problem.options
    evaluate: Evaluate = make_objective(problem, encoder, scale, tiling).evaluate
    hardware.release_memory(problem.device)  # what making it has left in pieces
    if options.color == "luminance":
        evaluate = stay_gray(evaluate)
    if (keep := mask_canvas(problem, problem.inputs.keep, scale)) is not None:
        evaluate = keep_content(evaluate, keep, content_canvas(problem, scale))
    if options.seamless:
        evaluate = wrap_borders(evaluate, bleed_width(options))
    evaluate = capture_graph(evaluate, image)
    if options.jitter:
        evaluate = add_jitter(evaluate, options.jitter, options.seed, done)
    if tiling.rows and image.device.type == "cpu":  # memory is scarce
        evaluate = release_gaps(evaluate)
    return evaluate


# --- the objective -------------------------------------------------------------------------------------------------


def make_objective(problem: Problem, encoder: Encoder, scale: Scale, tiling: Tiling) -> Objective:
    """The objective of a scale, evaluated in these parts."""
    options, device = problem.options, problem.device

    def load(given: StyleInput) -> Style:
        size = scale.fit_style(given.picture)
        mask = given.mask.resize(size).tensor()[:, :1].to(device) if given.mask else None
        return Style(given.picture.resize(size).tensor().to(device), given.share, mask)

    return Objective(
        encoder,
        content_canvas(problem, scale),
        [
            Region(list(map(load, region.styles)), *_mask_and_share(problem, region, scale))
            for region in problem.inputs.regions
        ],
        content_weights=options.content_weights,
        style_weights=options.style_weights,
        alpha=options.alpha,
        beta=options.beta,
        tv=options.tv,
        l1=options.l1,
        l2=options.l2,
        tiling=tiling,
        style_loss=LOSSES[options.style_loss],
        prior=temporal_prior(problem, scale),
    )


def _mask_and_share(problem: Problem, region: RegionInput, scale: Scale) -> tuple[Tensor | None, float | None]:
    """The mask of a region, and its share if that isn't the mask's.

    Without what is kept: the rest alone is to have the style, and not so much more of it that the mean over both is
    right. Without what is beyond the border of a seamless picture: it is counted on the opposite side.
    """
    mask, keep = (mask_canvas(problem, given, scale) for given in (region.mask, problem.inputs.keep))
    if keep is not None:
        mask = 1 - keep if mask is None else mask * (1 - keep)
    if not problem.options.seamless:
        return mask, None
    width, height = scale.content
    inner = torch.nn.functional.pad(torch.ones(1, 1, height, width, device=problem.device), (SEAMLESS_BLEED,) * 4)
    mask = inner if mask is None else mask * inner
    return mask, (mask.square().sum() / (width * height)).item()


# --- wrappers ------------------------------------------------------------------------------------------------------


def stay_gray(evaluate: Evaluate) -> Evaluate:
    """The same loss for gray images only: its gradient is projected on them, so that an optimizer stays there.

    Left free, the canvas would take on colors that lower the loss and are lost in the end.
    """

    def wrapper(image: Tensor) -> tuple[Tensor, Tensor]:
        terms, gradient = evaluate(image)
        return terms, gradient.copy_(gradient.mean(1, keepdim=True))

    return wrapper


def keep_content(evaluate: Evaluate, keep: Tensor, content: Tensor) -> Evaluate:
    """The same of the image with the content where `keep` is 1: there, what the optimizer does makes no difference.

    Args:
        keep: 1×1×H×W in [0, 1].
        content: 1×3×H×W in [0, 1].
    """

    def wrapper(image: Tensor) -> tuple[Tensor, Tensor]:
        terms, gradient = evaluate(torch.lerp(image, content, keep))
        return terms, gradient.mul_(1 - keep)

    return wrapper


def wrap_borders(evaluate: Evaluate, margin: int) -> Evaluate:
    """The same of the image laid in rows: what is beyond a border is what is within the opposite one.

    Args:
        margin: pixels of the canvas beyond the picture's border.
    """

    def fold(gradient: Tensor, axis: int) -> Tensor:
        size = gradient.shape[axis] - 2 * margin
        inner = gradient.narrow(axis, margin, size)
        inner.narrow(axis, size - margin, margin).add_(gradient.narrow(axis, 0, margin))
        inner.narrow(axis, 0, margin).add_(gradient.narrow(axis, margin + size, margin))
        return inner

    def wrapper(canvas: Tensor) -> tuple[Tensor, Tensor]:
        inner = canvas[..., margin:-margin, margin:-margin]
        terms, gradient = evaluate(torch.nn.functional.pad(inner, (margin,) * 4, mode="circular"))
        return terms, torch.nn.functional.pad(fold(fold(gradient, 2), 3), (margin,) * 4)

    return wrapper


def add_jitter(evaluate: Evaluate, size: float, seed: int, done: int) -> Evaluate:
    """The same of the image with noise, of which every evaluation has its own; `done` were before."""
    count = itertools.count(done)

    def wrapper(image: Tensor) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed((1_000_003 * seed + next(count)) % 2**63)
        return evaluate(torch.randn(image.shape, generator=generator).to(image).mul_(size).add_(image))

    return wrapper


def release_gaps(evaluate: Evaluate) -> Evaluate:
    """The same function, giving back before and after what is free: gaps between what lasts, of pieces of many sizes.

    They grew to half as much as a picture in strips needs, after coarser scales; this takes 3 % of the time.
    """

    def wrapper(image: Tensor) -> tuple[Tensor, Tensor]:
        hardware.release_memory(image.device)
        result = evaluate(image)
        hardware.release_memory(image.device)
        return result

    return wrapper


def capture_graph(evaluate: Evaluate, image: Tensor) -> Evaluate:
    """The same function as one CUDA graph, for images of this one's shape; itself on other devices.

    A graph is launched as a whole: the hundreds of kernels of an evaluation need no Python in between. Where it can't
    be captured, a notice says why and the function runs as it is.
    """
    if image.device.type != "cuda":
        return evaluate
    try:
        held = image.clone()
        aside = torch.cuda.Stream(image.device)  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream(image.device))
        with torch.cuda.stream(aside):  # what libraries set up at first must not be captured
            for _ in range(3):
                evaluate(held)
        torch.cuda.current_stream(image.device).wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = evaluate(held)
    except RuntimeError as error:
        torch.cuda.empty_cache()
        log.info("evaluating without a CUDA graph: %s", str(error).partition("\n")[0].partition(". ")[0])
        return evaluate

    def replay(x: Tensor, _read: Evaluate = evaluate) -> tuple[Tensor, Tensor]:
        # The graph reads the function's own tensors, the targets among them: they have to live as long as it.
        held.copy_(x)
        graph.replay()
        return results[0].clone(), results[1].clone()

    return replay

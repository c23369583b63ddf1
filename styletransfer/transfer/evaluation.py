"""The function that is minimized on a scale: the objective's evaluation, and wrappers around it.

A wrapper takes an `Evaluate` and returns another.
"""

import itertools
import logging
import math

import torch
from torch import Tensor

from ..encoder.tiling import Tiling
from ..encoder.vgg import Encoder
from ..images import RegionInput, StyleInput
from ..losses import Evaluate, Objective, Region, Style
from ..runtime import hardware
from .bleed import SEAMLESS_BLEED, bleed_width
from .canvas import content_canvas, mask_canvas, temporal_prior
from .problem import Problem, Scale

log = logging.getLogger(__name__)


def make_evaluate(
    problem: Problem, encoder: Encoder, scale: Scale, tiling: Tiling, image: Tensor, done: int
) -> Evaluate:
    """Return the function to minimize on a scale.

    Args:
        image: of the canvas's shape and on its device.
        done: iterations done before; a resumed run continues with the same noise (`Options.jitter`).
    """
    options = problem.options
    evaluate: Evaluate = make_objective(problem, encoder, scale, tiling).evaluate
    hardware.release_memory(problem.device)  # fragments left from building it
    if options.color == "luminance":
        evaluate = stay_gray(evaluate)
    if (keep := mask_canvas(problem, problem.inputs.keep, scale)) is not None:
        evaluate = keep_content(evaluate, keep, content_canvas(problem, scale))
    if options.seamless:
        evaluate = wrap_borders(evaluate, bleed_width(options))
    evaluate = capture_graph(evaluate, image)
    if options.jitter:
        evaluate = add_jitter(evaluate, options.jitter, options.seed, done)
    if tiling.rows and tiling.kept > 1 and image.device.type == "cpu":  # computed twice to save memory
        evaluate = release_gaps(evaluate)
    return evaluate


# --- the objective -------------------------------------------------------------------------------------------------


def make_objective(problem: Problem, encoder: Encoder, scale: Scale, tiling: Tiling) -> Objective:
    """Return the objective of a scale, evaluated in the parts of `tiling`."""
    options, device = problem.options, problem.device

    def load(style: StyleInput) -> Style:
        size = scale.fit_style(style.picture)
        mask = style.mask.resize(size).tensor()[:, :1].to(device) if style.mask else None
        return Style(style.picture.resize(size).tensor().to(device), style.share, mask)

    return Objective(
        encoder,
        content_canvas(problem, scale),
        [
            Region(list(map(load, region.styles)), *_load_mask_and_share(problem, region, scale))
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
        style_loss=problem.style_loss,
        prior=temporal_prior(problem, scale),
        content_mask=_weigh_content(problem, scale),
    )


def _weigh_content(problem: Problem, scale: Scale) -> Tensor | None:
    """Return how much the content counts at each place, 1×1×H×W; None for equal weights.

    The bleed of a seamless image does not count: it counts on the opposite side. The rest counts for more instead,
    because the content loss is relative to the canvas.
    """
    mask, faces = (mask_canvas(problem, m, scale) for m in (problem.inputs.content_mask, problem.inputs.faces))
    weights = mask
    if faces is not None:
        face_weights = 1 + (problem.options.faces - 1) * faces
        weights = face_weights if weights is None else weights * face_weights
    if problem.options.seamless:
        inner = _mask_bleed(problem, scale)
        inner /= inner.mean()
        weights = inner if weights is None else weights * inner
    return weights


def _mask_bleed(problem: Problem, scale: Scale) -> Tensor:
    """Return 0 in the bleed of a seamless image and 1 elsewhere, 1×1×H×W."""
    width, height = scale.content
    return torch.nn.functional.pad(torch.ones(1, 1, height, width, device=problem.device), (SEAMLESS_BLEED,) * 4)


def _load_mask_and_share(problem: Problem, region: RegionInput, scale: Scale) -> tuple[Tensor | None, float | None]:
    """Return the mask of a region, and its share if that differs from the mask's.

    The mask excludes kept content (`Options.keep`): otherwise the rest would have too much of the style, to make the
    mean over both right. It also excludes the bleed of a seamless image, which counts on the opposite side.
    """
    mask, keep = (mask_canvas(problem, picture, scale) for picture in (region.mask, problem.inputs.keep))
    if keep is not None:
        mask = 1 - keep if mask is None else mask * (1 - keep)
    if not problem.options.seamless:
        return mask, None
    inner = _mask_bleed(problem, scale)
    mask = inner if mask is None else mask * inner
    return mask, (mask.square().sum() / math.prod(scale.content)).item()


# --- wrappers ------------------------------------------------------------------------------------------------------


def stay_gray(evaluate: Evaluate) -> Evaluate:
    """Return the function with its gradient projected onto gray images, so that a gray image stays gray.

    Otherwise the canvas would take on colors that lower the loss and are lost in the end.
    """

    def wrapper(image: Tensor) -> tuple[Tensor, Tensor]:
        terms, gradient = evaluate(image)
        return terms, gradient.copy_(gradient.mean(1, keepdim=True))

    return wrapper


def keep_content(evaluate: Evaluate, keep: Tensor, content: Tensor) -> Evaluate:
    """Return the function of the image with the content where `keep` is 1; the gradient is 0 there.

    Args:
        keep: 1×1×H×W in [0, 1].
        content: 1×3×H×W in [0, 1].
    """

    def wrapper(image: Tensor) -> tuple[Tensor, Tensor]:
        terms, gradient = evaluate(torch.lerp(image, content, keep))
        return terms, gradient.mul_(1 - keep)

    return wrapper


def wrap_borders(evaluate: Evaluate, margin: int) -> Evaluate:
    """Return the function of the image continued periodically beyond its borders.

    Args:
        margin: width of the bleed in pixels.
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
    """Return the function of the image plus noise, drawn anew for each evaluation; `done` were before."""
    count = itertools.count(done)

    def wrapper(image: Tensor) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed((1_000_003 * seed + next(count)) % 2**63)
        return evaluate(torch.randn(image.shape, generator=generator).to(image).mul_(size).add_(image))

    return wrapper


def release_gaps(evaluate: Evaluate) -> Evaluate:
    """Return the same function, which returns free memory to the system before and after each evaluation.

    After coarser scales, gaps between lasting tensors take an eighth of the memory that an image in strips needs.
    Releasing them takes 4 % of the time, but a tenth where all maps are kept, and there it saves nothing.
    """

    def wrapper(image: Tensor) -> tuple[Tensor, Tensor]:
        hardware.release_memory(image.device)
        result = evaluate(image)
        hardware.release_memory(image.device)
        return result

    return wrapper


def capture_graph(evaluate: Evaluate, image: Tensor) -> Evaluate:
    """Return the same function as one CUDA graph, for images of this shape; the function itself on other devices.

    A graph is launched as a whole: the hundreds of kernels of an evaluation need no Python in between. If capturing
    fails, the reason is logged and the function itself returned.
    """
    if image.device.type != "cuda":
        return evaluate
    try:
        static_image = image.clone()
        side_stream = torch.cuda.Stream(image.device)  # type: ignore[no-untyped-call]
        side_stream.wait_stream(torch.cuda.current_stream(image.device))
        with torch.cuda.stream(side_stream):  # warm-up: libraries' initialization must not be captured
            for _ in range(3):
                evaluate(static_image)
        torch.cuda.current_stream(image.device).wait_stream(side_stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = evaluate(static_image)
    except RuntimeError as error:
        torch.cuda.empty_cache()
        log.info("evaluating without a CUDA graph: %s", str(error).partition("\n")[0].partition(". ")[0])
        return evaluate

    def replay(x: Tensor, _keep_alive: Evaluate = evaluate) -> tuple[Tensor, Tensor]:
        # The graph reads tensors of the function, such as its targets: they must live as long as the graph.
        static_image.copy_(x)
        graph.replay()
        return results[0].clone(), results[1].clone()

    return replay

"""Estimates of a run: the plan of each scale, its memory, and its time."""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image

from ..images import Picture, Source, Styles
from ..optim import minimize
from ..options import Options
from ..runtime.plan import Plan
from .canvas import content_canvas
from .evaluation import make_evaluate
from .planning import memory_model, plan_scale
from .problem import Problem, Scale, prepared_problem
from .stage import make_history
from .timing import iteration_cost

#: Longer side in pixels, at most, of the crop on which the time of an iteration is measured. A larger crop is no more
#: accurate: an iteration takes about as long per pixel (docs/explanation/performance.md).
SAMPLE = 512


@dataclass(frozen=True)
class Estimate:
    """The estimated plan and time of one scale.

    Attributes:
        size: width and height in pixels.
        plan: bands, strips, pairs and bytes.
        seconds: of an iteration, extrapolated from some on a crop of the image.
        iterations: the maximum.
    """

    size: tuple[int, int]
    plan: Plan
    seconds: float
    iterations: int


def estimate(content: Source, style: Styles, options: Options | None = None, **changes: Any) -> Iterator[Estimate]:
    """Yield plan and time of each scale that `stylize` would work at with these arguments, without running it.

    Each scale takes some seconds, in which a few iterations are timed. Until the last one is taken, torch is set up as
    in a run.

    Raises:
        UsageError, StyleTransferError: as `stylize`, when the first is taken.
    """
    with prepared_problem(content, style, (options or Options()).with_changes(changes)) as problem:
        plans = [plan_scale(problem, scale, problem.precision) for scale in problem.scales]
        for scale, plan in zip(problem.scales, plans, strict=True):
            yield Estimate(scale.content, plan, measure_iteration(problem, scale, plan), problem.max_iterations(scale))


def measure_iteration(problem: Problem, scale: Scale, plan: Plan) -> float:
    """Return the seconds of an iteration, extrapolated from the shortest of three on the middle of the image."""
    sample, part = _crop_middle(problem, scale)
    tiling = replace(plan.tiling, columns=None)
    image = content_canvas(sample, part)
    evaluate = make_evaluate(sample, problem.encoder(problem.precision), part, tiling, image, 0)
    curvature = make_history(image, plan, problem.precision)
    iterates = minimize(evaluate, image, problem.options.optimizer, problem.options.learning_rate, curvature=curvature)
    times = [(iterate.terms.tolist(), time.monotonic())[1] for iterate in itertools.islice(iterates, 4)]  # syncs GPUs
    shortest = min(after - before for before, after in itertools.pairwise(times))
    full, sampled = (memory_model(problem, scale, problem.precision), memory_model(sample, part, problem.precision))
    pixels = iteration_cost(scale, problem.device) / iteration_cost(part, problem.device)
    return shortest * pixels * full.work(plan.tiling) / sampled.work(tiling)


def _crop_middle(problem: Problem, scale: Scale) -> tuple[Problem, Scale]:
    """Return the problem of the middle of the content image in a scale, and its only scale."""
    (width, height), original = scale.content, problem.inputs.content.rgb
    part = Scale((min(width, SAMPLE), min(height, SAMPLE)), min(scale.style, SAMPLE))
    left, top = (width - part.content[0]) / 2, (height - part.content[1]) / 2
    x, y = original.width / width, original.height / height
    box = (left * x, top * y, (left + part.content[0]) * x, (top + part.content[1]) * y)
    middle = Picture(original.resize(part.content, Image.Resampling.LANCZOS, box=box))
    return replace(problem, inputs=replace(problem.inputs, content=middle), scales=[part]), part

"""Estimates of a run: the plan of each scale, its memory, and its time."""

import itertools
import math
import time
from dataclasses import dataclass, replace
from typing import Any

from ..images import Picture, Source, Styles
from ..optim import minimize
from ..options import Options
from ..runtime.plan import Plan
from .canvas import content_canvas
from .evaluation import make_evaluate
from .planning import memory_model, plan_scale
from .problem import Problem, Scale, prepared_problem
from .stage import make_history

#: Longer side in pixels, at most, of the crop on which the time of an iteration is measured.
SAMPLE = 1024


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


def estimate(content: Source, style: Styles, options: Options | None = None, **changes: Any) -> list[Estimate]:
    """Return plan and time of each scale that `stylize` would work at with these arguments, without running it.

    Raises:
        UsageError, StyleTransferError: as `stylize`.
    """
    with prepared_problem(content, style, (options or Options()).with_changes(changes)) as problem:
        plans = [plan_scale(problem, scale, problem.precision) for scale in problem.scales]
        return [
            Estimate(scale.content, plan, measure_iteration(problem, scale, plan), problem.max_iterations(scale))
            for scale, plan in zip(problem.scales, plans, strict=True)
        ]


def measure_iteration(problem: Problem, scale: Scale, plan: Plan) -> float:
    """Return the seconds of an iteration, extrapolated from some on the middle of the image."""
    width, height = scale.content
    part = Scale((min(width, SAMPLE), min(height, SAMPLE)), scale.style)
    left, top = (width - part.content[0]) // 2, (height - part.content[1]) // 2
    box = left, top, left + part.content[0], top + part.content[1]
    middle = Picture(problem.inputs.content.resize(scale.content).rgb.crop(box))
    sample = replace(problem, inputs=replace(problem.inputs, content=middle), scales=[part])
    tiling = replace(plan.tiling, columns=None)
    image = content_canvas(sample, part)
    evaluate = make_evaluate(sample, problem.encoder(problem.precision), part, tiling, image, 0)
    curvature = make_history(image, plan, problem.precision)
    iterates = minimize(evaluate, image, problem.options.optimizer, problem.options.learning_rate, curvature=curvature)
    times = [(iterate.terms.tolist(), time.monotonic())[1] for iterate in itertools.islice(iterates, 4)]  # syncs GPUs
    full, sampled = (memory_model(problem, scale, problem.precision), memory_model(sample, part, problem.precision))
    ratio = full.work(plan.tiling) / sampled.work(tiling)
    return (times[3] - times[1]) / 2 * ratio * width * height / math.prod(part.content)

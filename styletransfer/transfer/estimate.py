"""What a run will take: the plan of each scale, its memory, and its time."""

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
from .planning import find_needs, plan_scale
from .problem import Job, Scale, prepared_job
from .run import make_curvature

#: Pixels of the longer side of the part of a picture by which the time of an iteration is told.
SAMPLE = 1024


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
    plan: Plan
    seconds: float
    iterations: int


def estimate(content: Source, style: Styles, options: Options | None = None, **changes: Any) -> list[Estimate]:
    """What `stylize` would do with the same arguments and how long it would take, scale by scale, without doing it.

    Raises:
        UsageError, StyleTransferError: as `stylize`.
    """
    with prepared_job(content, style, (options or Options()).with_changes(changes)) as job:
        plans = [plan_scale(job, scale, job.precision) for scale in job.scales]
        return [
            Estimate(scale.content, plan, measure_iteration(job, scale, plan), job.max_iterations(scale))
            for scale, plan in zip(job.scales, plans, strict=True)
        ]


def measure_iteration(job: Job, scale: Scale, plan: Plan) -> float:
    """Seconds of an iteration of the network that counts, told from some iterations on the middle of the picture."""
    width, height = scale.content
    part = Scale((min(width, SAMPLE), min(height, SAMPLE)), scale.style)
    left, top = (width - part.content[0]) // 2, (height - part.content[1]) // 2
    box = left, top, left + part.content[0], top + part.content[1]
    middle = Picture(job.inputs.content.resize(scale.content).rgb.crop(box))
    sample = replace(job, inputs=replace(job.inputs, content=middle), scales=[part])
    tiling = replace(plan.tiling, columns=None)
    image = content_canvas(sample, part)
    evaluate, curvature = (
        make_evaluate(sample, job.encoder(job.precision), part, tiling, image, 0),
        make_curvature(sample, image, plan, job.precision.backward),
    )
    iterates = minimize(evaluate, image, job.options.optimizer, job.options.learning_rate, curvature=curvature)
    times = [(iterate.terms.tolist(), time.monotonic())[1] for iterate in itertools.islice(iterates, 4)]  # GPUs wait
    whole, sampled = (find_needs(job, scale, job.precision), find_needs(sample, part, job.precision))
    wider = whole.work(plan.tiling) / sampled.work(tiling)
    return (times[3] - times[1]) / 2 * wider * width * height / math.prod(part.content)

"""The plan of a scale: what it needs, and what fits into the memory that is free."""

from ..optim import HISTORY
from ..runtime import distributed, hardware
from ..runtime.plan import Needs, Plan, make_plan
from .bleed import bleed_width
from .problem import Job, Scale


def find_needs(job: Job, scale: Scale, precision: hardware.Precision) -> Needs:
    """Return what a plan for a scale depends on."""
    options, (width, height) = job.options, scale.content
    given = [[region.mask, *(style.mask for style in region.styles)] for region in job.inputs.regions]
    masks = sum(mask is not None for of_region in given for mask in of_region)
    whole = bool(options.l1 or options.l2) + 4 / 3 * ((job.inputs.keep is not None) + (job.nearness is not None))
    return Needs(
        encoder=job.encoder(precision),
        height=height + 2 * bleed_width(options),
        width=width + 2 * bleed_width(options),
        precision=precision,
        content_layers=tuple(options.content_weights),
        history=HISTORY if options.optimizer == "lbfgs" else 0,
        world_size=distributed.world_size(),
        images=whole + 4 / 9 * masks,
    )


def plan_scale(job: Job, scale: Scale, precision: hardware.Precision) -> Plan:
    """Return the plan of a scale. Raises `StyleTransferError` if nothing fits."""
    free = hardware.free_memory(job.device)
    if free is not None and job.device.type != "cuda":
        free //= distributed.processes_here()
    return make_plan(find_needs(job, scale, precision), free, job.options.tile)

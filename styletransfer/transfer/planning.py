"""The plan of a scale: what it needs, and what fits into the memory that is free."""

from ..optim import HISTORY
from ..runtime import distributed, hardware
from ..runtime.plan import MemoryModel, Plan, make_plan
from .bleed import bleed_width
from .problem import Problem, Scale


def memory_model(problem: Problem, scale: Scale, precision: hardware.Precision) -> MemoryModel:
    """Return what a plan for a scale depends on."""
    options, (width, height) = problem.options, scale.content
    given = [[region.mask, *(style.mask for style in region.styles)] for region in problem.inputs.regions]
    masks = sum(mask is not None for of_region in given for mask in of_region)
    whole = bool(options.l1 or options.l2) + 4 / 3 * ((problem.inputs.keep is not None) + (problem.prior is not None))
    return MemoryModel(
        encoder=problem.encoder(precision),
        height=height + 2 * bleed_width(options),
        width=width + 2 * bleed_width(options),
        precision=precision,
        content_layers=tuple(options.content_weights),
        history=HISTORY if options.optimizer == "lbfgs" else 0,
        world_size=distributed.world_size(),
        images=whole + 4 / 9 * masks,
    )


def plan_scale(problem: Problem, scale: Scale, precision: hardware.Precision) -> Plan:
    """Return the plan of a scale. Raises `StyleTransferError` if nothing fits."""
    free = hardware.free_memory(problem.device)
    if free is not None and problem.device.type != "cuda":
        free //= distributed.processes_here()
    return make_plan(memory_model(problem, scale, precision), free, problem.options.tile)

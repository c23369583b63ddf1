"""The plan of a scale: how it fits into the free memory."""

from ..optim import HISTORY
from ..runtime import distributed, hardware
from ..runtime.plan import MemoryModel, Plan, make_plan
from .bleed import bleed_width
from .problem import Problem, Scale


def memory_model(problem: Problem, scale: Scale, precision: hardware.Precision) -> MemoryModel:
    """Return the memory model of a scale, which its plan depends on."""
    options, (width, height) = problem.options, scale.content
    masks = [[region.mask, *(style.mask for style in region.styles)] for region in problem.inputs.regions]
    mask_count = sum(mask is not None for region_masks in masks for mask in region_masks)
    images = bool(options.l1 or options.l2) + 4 / 3 * ((problem.inputs.keep is not None) + (problem.prior is not None))
    return MemoryModel(
        encoder=problem.encoder(precision),
        height=height + 2 * bleed_width(options),
        width=width + 2 * bleed_width(options),
        precision=precision,
        content_layers=tuple(options.content_weights),
        matched_layers=problem.style_loss.matched_layers,
        history=HISTORY if options.optimizer == "lbfgs" else 0,
        world_size=distributed.world_size(),
        images=images + 4 / 9 * mask_count,
    )


def plan_scale(problem: Problem, scale: Scale, precision: hardware.Precision) -> Plan:
    """Return the plan of a scale. Raises `StyleTransferError` if nothing fits."""
    free = hardware.free_memory(problem.device)
    if free is not None and problem.device.type != "cuda":
        free //= distributed.processes_here()
    return make_plan(memory_model(problem, scale, precision), free, problem.options.tile)

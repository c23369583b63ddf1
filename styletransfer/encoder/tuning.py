"""Autotuning: selects the fastest algorithm for each convolution on this processor, by measuring.

It depends on the number of filters and channels, the size of the feature map and the processor: in float32 Winograd's
convolutions took 0.4 to 1.3 times as long as direct ones on one processor (docs/explanation/performance.md).
"""

import math
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from ..measurements import load_or_measure
from . import convolution, winograd
from .winograd import Variant

#: What a convolution costs, for each algorithm: the seconds with a small and with a larger map, and their positions.
Costs: TypeAlias = dict[str, list[tuple[int, float]]]
#: The algorithms besides "direct", in the order of the memory that they take.
VARIANTS = {
    f"winograd{side}{'-onednn' if onednn else ''}": Variant(side, onednn)
    for side in (4, 6)
    for onednn in (False, True)
    if not onednn or winograd.onednn_product
}
#: An algorithm that takes more memory and has larger rounding errors must take at most this share of the time.
MAX_TIME_SHARE = 0.9
#: Layers of fewer filters times channels are convolved directly: there is nothing to gain (VGG-19's first has 192).
_NARROW = 1024
#: Layers of at least so many filters times channels are measured on smaller maps, to save time.
_WIDE = 256 * 512
#: Sides of the maps that are measured: multiples of both variants' blocks. Beyond the larger one the time is
#: proportional to the positions.
_SMALL, _LARGE, _LARGE_IF_WIDE = 12, 48, 36
#: Every algorithm is timed so often; one that takes longer than the fastest by this factor, only once.
_REPEATS, _TOO_SLOW = 3, 3.0


def choose_algorithm(costs: Costs, positions: int) -> Variant | None:
    """Return the fastest algorithm for a map of so many positions: a variant of `winograd`, None for direct."""
    best, least = "direct", math.inf
    for name in ("direct", *VARIANTS):
        seconds = _estimate(costs[name], positions) if name in costs else math.inf
        if seconds < MAX_TIME_SHARE * least:
            best, least = name, seconds
    return VARIANTS.get(best)


def _estimate(measured: list[tuple[int, float]], positions: int) -> float:
    """Return the seconds of a convolution of a map of so many positions."""
    (few, short), (many, long) = measured
    if positions >= many:
        return long * positions / many
    return short + (long - short) * max(0, positions - few) / (many - few)


def is_worth_measuring(kernel: Tensor) -> bool:
    """Return whether `winograd` can convolve maps with a kernel N×C×3×3, and may save time."""
    usable = kernel.device.type == "cpu" and kernel.dtype == torch.float32
    return usable and kernel.shape[0] * kernel.shape[1] >= _NARROW


def name_shape(kernel: Tensor) -> str:
    """Return the name under which the costs of a kernel N×C×3×3 are stored."""
    return f"{kernel.shape[0]}x{kernel.shape[1]}"


def convolution_costs(kernel: Tensor) -> Costs:
    """Return the costs of a convolution on this processor, with the present number of threads.

    Args:
        kernel: N×C×3×3, whose values do not matter.
    """
    measure = partial(_measure, *kernel.shape[:2])
    return load_or_measure(f"convolution {name_shape(kernel)}", measure, parse_costs)


def parse_costs(stored: Mapping[str, list[list[float]]]) -> Costs:
    """Return costs that were stored as JSON. Raises as `load_or_measure` allows if they are damaged."""
    costs = {name: [(int(positions), float(seconds)) for positions, seconds in pair] for name, pair in stored.items()}
    for (few, short), (many, long) in [costs["direct"], *costs.values()]:
        if not (0 < few < many and 0 < short < math.inf and 0 < long < math.inf):
            raise ValueError("a cost is infinite or not positive")
    return costs


@torch.no_grad()
def _measure(filters: int, channels: int) -> Costs:
    """Return the costs of a convolution.

    Only the forward pass is timed: the backward pass is the same convolution with channels and filters exchanged, and
    for every algorithm took the same time within a tenth.
    """
    sides = _SMALL, _LARGE_IF_WIDE if filters * channels >= _WIDE else _LARGE
    generator = torch.Generator().manual_seed(0)  # the caller's random numbers stay as they are

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).contiguous(memory_format=torch.channels_last)

    kernel, bias, maps = draw(filters, channels, 3, 3), torch.zeros(filters), [draw(1, channels, n, n) for n in sides]
    transformed = {side: winograd.transform(kernel, Variant(side)) for side in (4, 6)}
    kernels = {name: transformed[variant.side]._replace(variant=variant) for name, variant in VARIANTS.items()}
    costs: Costs = {}
    for x in maps:
        calls = {
            name: partial(convolution.convolve, x, True, True, kernel, bias, None, kernels.get(name))
            for name in ("direct", *VARIANTS)
        }
        if not costs:  # small: of these the preparations of the first call would take longest
            for call in calls.values():
                call()
        for name, seconds in _time_in_turn(calls).items():
            costs.setdefault(name, []).append((x.shape[2] * x.shape[3], float(f"{seconds:.3g}")))
    return costs


def _time_in_turn(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Return the shortest time of each of the calls; of those that are too slow, that of the first call."""
    seconds = dict.fromkeys(calls, math.inf)
    for _ in range(_REPEATS):
        least = min(seconds.values())
        for name, call in calls.items():
            if seconds[name] <= _TOO_SLOW * least:
                start = time.perf_counter()
                call()
                seconds[name] = min(seconds[name], time.perf_counter() - start)
    return seconds

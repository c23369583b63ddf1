"""The plan: the tiling of the evaluation and the length of L-BFGS's history that fit into memory."""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

import torch

from ..encoder import winograd
from ..encoder.tiling import Tiling, bands
from ..encoder.vgg import Encoder, level
from ..errors import StyleTransferError
from .hardware import Precision

#: Share of the free memory that a plan may use: the model is not exact, and other processes need some too.
SHARE = 0.85
#: Target bytes of the largest map of a strip.
STRIP = 64 << 20
#: Most image-sized float32 tensors alive at once, without L-BFGS's pairs.
VECTORS = 11
#: A plan that was too large is replaced by one that takes at most this share of its memory.
SMALLER = 0.8
#: Bytes that do not grow with the image: Gram matrices, the libraries' own buffers, gaps in the heap.
CONSTANT = 10 << 20
#: Iterations that L-BFGS takes with so many pairs, relative to 50 (docs/explanation/any-size.md).
ITERATIONS = {50: 1.0, 20: 1.06, 10: 1.25, 5: 1.3, 3: 1.5}
#: Relative time of an evaluation in strips, due to copies at their borders and smaller convolutions.
STRIPS = 1.15


@dataclass(frozen=True)
class Plan:
    """How an image is evaluated and optimized, and the memory and time that takes.

    Attributes:
        tiling: bands and strips.
        history: pairs of L-BFGS.
        memory: bytes beyond what the process uses already.
        work: relative time of an evaluation; 1 for the whole image at once.
    """

    tiling: Tiling
    history: int
    memory: int
    work: float

    def __str__(self) -> str:
        columns, rows, kept = self.tiling.columns, self.tiling.rows, self.tiling.kept
        parts = [f"bands of {columns} columns"] if columns else []
        parts += [f"strips of {rows} rows"] if rows else ["whole"]
        parts += (
            [f"maps kept from block {kept} on"] if 1 < kept < 6 else ["all maps kept"] if kept == 1 and rows else []
        )
        parts += [f"{self.history} pairs of L-BFGS"] if self.history else []
        return ", ".join(parts)


@dataclass(frozen=True)
class MemoryModel:
    """Model of the memory and time that an optimization takes.

    Attributes:
        encoder: cut to the layers in use.
        height, width: of the image in pixels.
        precision: of the network.
        content_layers: those whose features of the content image are kept.
        history: the most pairs of L-BFGS; 0 for Adam.
        world_size: number of processes that share the bands.
        images: number of other images of this size, with three channels, that are kept.
        matched_layers: those whose features are matched: their gradients are kept from the forward pass on.
    """

    encoder: Encoder
    height: int
    width: int
    precision: Precision
    content_layers: tuple[str, ...]
    history: int
    world_size: int = 1
    images: float = 0
    matched_layers: tuple[str, ...] = ()

    def _count_values(self, layers: Iterable[str]) -> float:
        """Return the feature values per pixel of the image."""
        return float(sum(self.encoder.convolution(name)[0].shape[0] / 4 ** level(name) for name in layers))

    def _count_backward_bytes(self, layers: Iterable[str]) -> float:
        """Return the bytes per pixel of the image that the backward pass needs of these layers."""
        itemsize = self.precision.backward.itemsize
        return sum(self._count_values([name]) * (itemsize if self.encoder.needs_values(name) else 1) for name in layers)

    @cached_property
    def fixed(self) -> int:
        """The bytes that do not depend on the tiling: `CONSTANT`, transformed kernels, one convolution's workspace."""
        variants = {name: self.encoder.variant(name, (self.height, self.width)) for name in self.encoder.names}
        kernels = [
            winograd.count_bytes(self.encoder.convolution(name)[0], variant)
            for name, variant in variants.items()
            if variant
        ]
        return CONSTANT + sum(size for size, _ in kernels) + max((workspace for _, workspace in kernels), default=0)

    def _list_layers(self, first: int, last: int) -> list[str]:
        return [name for name in self.encoder.names if first <= level(name) + 1 <= last]

    @property
    def _largest(self) -> float:
        """The feature values per pixel of the largest map."""
        return max(self._count_values([name]) for name in self.encoder.names)

    def _count_maps(self, tiling: Tiling) -> float:
        """Return how many maps as large as the largest one a convolution and its neighbors hold at once.

        Measured: docs/explanation/any-size.md for the CPU, `make test-gpu` on an H100, where cuDNN needs workspaces in
        float32.
        """
        if tiling.rows or self.encoder.convolution(self.encoder.names[0])[0].device.type != "cuda":
            return 3.5
        if self.precision.backward == torch.bfloat16:
            return 1.0
        return 2.7 if self.precision.tf32 else 5.0

    def memory(self, tiling: Tiling, history: int) -> int:
        """Return the peak bytes of the objective and the optimizer."""
        forward, backward = self.precision.forward.itemsize, self.precision.backward.itemsize
        pixels, rows = self.height * self.width, tiling.rows or self.height
        widths = [band.right - band.left for band in bands(self.width, tiling.columns, self.encoder)]
        own_widths = sorted(widths, reverse=True)[: -(-len(widths) // self.world_size)]
        in_flight = min(self.height, 2 * self.encoder.halo + 3 * rows)
        kept_layers = self._list_layers(tiling.kept, 5)
        matched = self._count_values(name for name in self.matched_layers if name in kept_layers) * backward
        kept = self.height * sum(own_widths) * (self._count_backward_bytes(kept_layers) + matched)
        recomputed = in_flight * own_widths[0] * self._count_backward_bytes(self._list_layers(1, tiling.kept - 1))
        strip = min(rows + 4, self.height) * own_widths[0] * self._count_maps(tiling) * self._largest * forward
        targets = pixels * self._count_values(self.content_layers) * forward
        optimizer = pixels * (12 * (VECTORS + self.images) + 6 * backward * history)
        return int(self.fixed + kept + recomputed + strip + targets + optimizer)

    def work(self, tiling: Tiling) -> float:
        """Return the time of an evaluation relative to one of the whole image at once."""
        recomputed = sum(map(self.encoder.macs, self._list_layers(1, tiling.kept - 1))) / self.encoder.macs_per_pixel
        forward_share = 1 / 2 if self.precision.forward == self.precision.backward else 2 / 3
        total_width = sum(band.right - band.left for band in bands(self.width, tiling.columns, self.encoder))
        return float((1 + forward_share * recomputed) * (STRIPS if tiling.rows else 1.0) * total_width / self.width)

    def plan(self, tiling: Tiling, history: int) -> Plan:
        """Return the plan with this tiling and so many pairs."""
        return Plan(tiling, history, self.memory(tiling, history), self.work(tiling))

    def _choose_rows(self, width: int) -> int:
        """Return the rows of a strip of this width."""
        rows = int(STRIP / (self._largest * self.precision.forward.itemsize * width)) // 32 * 32
        return min(max(32, rows), self.height)

    def tilings(self, tile: str) -> list[Tiling]:
        """Return the tilings to try: whole, strips with more or fewer maps kept, and ever narrower bands."""
        whole = [Tiling()] if self.world_size == 1 else []
        if tile == "off":
            return [Tiling()]
        if tile != "auto":
            columns = int(tile) if int(tile) < self.width else None
            return [Tiling(columns, min(int(tile), self._choose_rows(columns or self.width)), 6)]
        strips = [Tiling(None, self._choose_rows(self.width), kept) for kept in (1, 3, 4, 6)] if whole else []
        widest = self.width if whole else -(-self.width // self.world_size)
        widths = [w for w in (widest, 8192, 4096, 2048, 1024, 512, 256, 128) if w < self.width and w <= widest]
        blocks = (6,) if whole else (1, 3, 4, 6)
        return whole + strips + [Tiling(w, min(self._choose_rows(w), w), kept) for w in widths for kept in blocks]


def make_plan(model: MemoryModel, free: int | None, tile: str = "auto") -> Plan:
    """Return the fastest plan that fits into memory.

    Args:
        free: bytes available to the process; None if unknown.
        tile: as in `Options`: "auto", "off" for the whole image even if it does not fit, or a number.

    Raises:
        StyleTransferError: nothing fits.
    """
    plans = [
        model.plan(tiling, history)
        for tiling in model.tilings(tile)
        for history in ([pairs for pairs in ITERATIONS if pairs <= model.history] or [model.history])
    ]
    if tile == "off" or free is None:
        return plans[0]
    fitting = [plan for plan in plans if plan.memory <= SHARE * free]
    if not fitting:
        least = min(plan.memory for plan in plans) / SHARE / 2**30
        remedy = "a smaller size" + (" or set tile to auto" if tile != "auto" else "")
        raise StyleTransferError(
            f"{model.width}×{model.height} pixels need {least:.1f} GiB of free memory, "
            f"but {free / 2**30:.1f} are available: use {remedy}"
        )
    return min(fitting, key=lambda plan: plan.work * ITERATIONS.get(plan.history, 1.0))


def make_smaller_plan(model: MemoryModel, than: Plan) -> Plan | None:
    """Return the fastest plan with as many pairs that takes clearly less memory for the rest; None without one."""
    most = model.fixed + SMALLER * (model.memory(than.tiling, 0) - model.fixed)
    plans = [model.plan(tiling, than.history) for tiling in model.tilings("auto") if model.memory(tiling, 0) <= most]
    return min(plans, key=lambda plan: plan.work, default=None)

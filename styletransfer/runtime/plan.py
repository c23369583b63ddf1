"""The plan: in which parts a picture is evaluated, and how much the optimizer remembers, in the memory there is."""

from collections.abc import Iterable
from dataclasses import dataclass

from ..encoder import Encoder, Tiling, bands, level, winograd
from ..errors import StyleTransferError
from .hardware import Precision

#: Share of the free memory that may be planned with: formulas are not exact, and others want some too.
SHARE = 0.85
#: Bytes of the largest map of a strip, as its height is chosen.
STRIP = 64 << 20
#: Image-sized float32 tensors that are alive at once at most, without L-BFGS's pairs.
VECTORS = 11
#: What is too large is replaced by what takes at most this share of it.
SMALLER = 0.8
#: Bytes of what doesn't grow with the picture: Gram matrices, the libraries' own buffers, gaps in the heap.
CONSTANT = 10 << 20
#: How many iterations L-BFGS takes with so many pairs, relative to 50 (docs/any-size.md).
ITERATIONS = {50: 1.0, 20: 1.06, 10: 1.25, 5: 1.3, 3: 1.5}
#: Time of working in strips relative to the whole, for copies at their borders and smaller convolutions.
STRIPS = 1.15


@dataclass(frozen=True)
class Plan:
    """How a picture is evaluated and optimized, and what that takes.

    Attributes:
        tiling: bands and strips.
        history: pairs of L-BFGS.
        memory: bytes beyond what the process has already.
        work: relative time of an evaluation; 1 for the whole picture at once.
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
    """What a plan is made for.

    Attributes:
        encoder: cut to the layers that are used.
        height, width: of the image in pixels.
        precision: of the network.
        content_layers: those whose features of the content picture are held.
        history: the most pairs of L-BFGS; 0 for Adam.
        world_size: how many processes share the bands.
        images: what else is held that is as large as the picture, in images of three channels.
    """

    encoder: Encoder
    height: int
    width: int
    precision: Precision
    content_layers: tuple[str, ...]
    history: int
    world_size: int = 1
    images: float = 0

    def _values(self, layers: Iterable[str]) -> float:
        """Feature values per pixel of the image."""
        return float(sum(self.encoder.convolution(name)[0].shape[0] / 4 ** level(name) for name in layers))

    def _kept(self, layers: Iterable[str]) -> float:
        """Bytes per pixel of the image of what the way back needs of these layers."""
        itemsize = self.precision.backward.itemsize
        return sum(self._values([name]) * (itemsize if self.encoder.needs_values(name) else 1) for name in layers)

    def _transformed(self) -> int:
        """Bytes of transformed kernels, and of what a convolution with one takes."""
        kernels = [
            winograd.memory(self.encoder.convolution(name)[0])
            for name in self.encoder.names
            if self.encoder.transforms(name, (self.height, self.width))
        ]
        return sum(kept for kept, _ in kernels) + max((working for _, working in kernels), default=0)

    def _blocks(self, first: int, last: int) -> list[str]:
        return [name for name in self.encoder.names if first <= level(name) + 1 <= last]

    @property
    def _largest(self) -> float:
        """Feature values per pixel of the largest map."""
        return max(self._values([name]) for name in self.encoder.names)

    def memory(self, tiling: Tiling, history: int) -> int:
        """Bytes of the objective and the optimizer at their peak."""
        there, back = self.precision.forward.itemsize, self.precision.backward.itemsize
        pixels, rows = self.height * self.width, tiling.rows or self.height
        widths = [band.right - band.left for band in bands(self.width, tiling.columns, self.encoder)]
        mine = sorted(widths, reverse=True)[: -(-len(widths) // self.world_size)]
        in_flight = min(self.height, 2 * self.encoder.halo + 3 * rows)
        kept = self.height * sum(mine) * self._kept(self._blocks(tiling.kept, 5))
        lost = in_flight * mine[0] * self._kept(self._blocks(1, tiling.kept - 1))
        strip = min(rows + 4, self.height) * mine[0] * 3.5 * self._largest * there
        targets = pixels * self._values(self.content_layers) * there
        optimizer = pixels * (12 * (VECTORS + self.images) + 6 * back * history)
        return int(CONSTANT + self._transformed() + kept + lost + strip + targets + optimizer)

    def work(self, tiling: Tiling) -> float:
        """Time of an evaluation relative to one of the whole picture at once."""
        again = sum(map(self.encoder.macs, self._blocks(1, tiling.kept - 1))) / self.encoder.macs_per_pixel
        there = 1 / 2 if self.precision.forward == self.precision.backward else 2 / 3
        wide = sum(band.right - band.left for band in bands(self.width, tiling.columns, self.encoder))
        return float((1 + there * again) * (STRIPS if tiling.rows else 1.0) * wide / self.width)

    def plan(self, tiling: Tiling, history: int) -> Plan:
        """What this tiling and so many pairs take."""
        return Plan(tiling, history, self.memory(tiling, history), self.work(tiling))

    def _strip(self, width: int) -> int:
        """Rows of a strip so wide."""
        rows = int(STRIP / (self._largest * self.precision.forward.itemsize * width)) // 32 * 32
        return min(max(32, rows), self.height)

    def tilings(self, tile: str) -> list[Tiling]:
        """What can be tried: the whole, strips with more or less of the maps kept, bands, ever narrower."""
        whole = [Tiling()] if self.world_size == 1 else []
        if tile == "off":
            return [Tiling()]
        if tile != "auto":
            columns = int(tile) if int(tile) < self.width else None
            return [Tiling(columns, min(int(tile), self._strip(columns or self.width)), 6)]
        strips = [Tiling(None, self._strip(self.width), kept) for kept in (1, 3, 4, 6)] if whole else []
        widest = self.width if whole else -(-self.width // self.world_size)
        widths = [w for w in (widest, 8192, 4096, 2048, 1024, 512, 256, 128) if w < self.width and w <= widest]
        kepts = (6,) if whole else (1, 3, 4, 6)
        return whole + strips + [Tiling(w, min(self._strip(w), w), kept) for w in widths for kept in kepts]


def make_plan(model: MemoryModel, free: int | None, tile: str = "auto") -> Plan:
    """The fastest plan that fits.

    Args:
        free: bytes that the process can still take; None if unknown.
        tile: as in `Options`: "auto", "off" for the whole picture whatever it takes, or a number.

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
        way_out = "a smaller --size" + (" or --tile auto" if tile != "auto" else "")
        raise StyleTransferError(
            f"{model.width}×{model.height} pixels need {least:.1f} GiB of free memory, "
            f"there are {free / 2**30:.1f}: use {way_out}"
        )
    return min(fitting, key=lambda plan: plan.work * ITERATIONS.get(plan.history, 1.0))


def make_smaller_plan(model: MemoryModel, than: Plan) -> Plan | None:
    """The fastest plan with as many pairs that takes clearly less memory for the rest, if there is one."""
    most = SMALLER * model.memory(than.tiling, 0)
    plans = [model.plan(tiling, than.history) for tiling in model.tilings("auto") if model.memory(tiling, 0) <= most]
    return min(plans, key=lambda plan: plan.work, default=None)

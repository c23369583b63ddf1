"""Tiling of an image: bands of columns, and strips of rows within them."""

import itertools
from dataclasses import dataclass

from .vgg import Encoder, level


@dataclass(frozen=True)
class Tiling:
    """How an image is evaluated: affects memory and time, not the result (docs/explanation/any-size.md).

    Attributes:
        columns: width in pixels of the bands, evaluated one after the other; None for one band.
        rows: height in pixels of the strips of a band; None for one strip.
        kept: the first block whose feature maps are kept for the backward pass; 1 for all, 6 for none.
    """

    columns: int | None = None
    rows: int | None = None
    kept: int = 1

    def strip_rows(self, width: int) -> int | None:
        """Return the height at which strips of this width take no more memory than those of the bands."""
        if self.rows is None or self.columns is None:
            return self.rows
        return max(16, self.rows * self.columns // width)


@dataclass(frozen=True)
class Band:
    """Columns `left` to `right` of the image: those in `core` and the halo around them."""

    left: int
    right: int
    core: slice

    def at(self, layer: str) -> tuple[slice, slice]:
        """Return the core's columns of a layer's map: within the band's map, and within the whole image's."""
        within = slice(self.core.start >> level(layer), self.core.stop >> level(layer))
        offset = self.left >> level(layer)
        return within, slice(offset + within.start, offset + within.stop)


def bands(width: int, columns: int | None, encoder: Encoder) -> list[Band]:
    """Return bands of about `columns` columns of an image of this width, with the encoder's halo on both sides.

    Every cut lies between two positions of the deepest layer. A remainder narrower than one joins its neighbor.
    """
    unit = encoder.minimum_size
    step = max(unit, (columns or width) // unit * unit)
    cuts = [*range(0, max(1, width - unit + 1), step), width]
    result = []
    for start, stop in itertools.pairwise(cuts):
        left, right = max(0, start - encoder.halo), min(width, stop + encoder.halo)
        result.append(Band(left, right, slice(start - left, stop - left)))
    return result

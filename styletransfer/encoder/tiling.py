"""In which parts a picture goes through the network: bands of columns, and strips of rows within them."""

import itertools
from dataclasses import dataclass

from .vgg import Encoder, level


@dataclass(frozen=True)
class Tiling:
    """How an image is evaluated: memory and time depend on it, the result doesn't (docs/any-size.md).

    Attributes:
        columns: width in pixels of the bands that are worked through one after the other; None for one band.
        rows: height of the strips in which a band is worked through; None for one strip.
        kept: the first block of the network whose maps are kept between the two passes; 1 for all, 6 for none.
    """

    columns: int | None = None
    rows: int | None = None
    kept: int = 1

    def strip_rows(self, width: int) -> int | None:
        """Return the height of strips so wide that take no more memory than those of the bands."""
        if self.rows is None or self.columns is None:
            return self.rows
        return max(16, self.rows * self.columns // width)


@dataclass(frozen=True)
class Band:
    """Columns of the image from left to right, of which those in `core` count; the others are the halo."""

    left: int
    right: int
    core: slice

    def at(self, layer: str) -> tuple[slice, slice]:
        """Which columns of a layer's map count: in the band's map, and the same ones in the whole image's."""
        within = slice(self.core.start >> level(layer), self.core.stop >> level(layer))
        offset = self.left >> level(layer)
        return within, slice(offset + within.start, offset + within.stop)


def bands(width: int, columns: int | None, encoder: Encoder) -> list[Band]:
    """Cuts an image so wide into bands of about so many columns, each with the encoder's halo on both sides.

    Every cut lies between two positions of the deepest layer. A rest narrower than one position goes to its neighbor.
    """
    unit = encoder.minimum_size
    step = max(unit, (columns or width) // unit * unit)
    cuts = [*range(0, max(1, width - unit + 1), step), width]
    result = []
    for start, stop in itertools.pairwise(cuts):
        left, right = max(0, start - encoder.halo), min(width, stop + encoder.halo)
        result.append(Band(left, right, slice(start - left, stop - left)))
    return result

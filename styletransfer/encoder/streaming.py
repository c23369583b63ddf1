"""Streaming operations on feature maps in strips of rows, from top to bottom, for images of any height.

A strip is a tensor 1×N×rows×W. A map that consists of one strip is never copied.
"""

from collections import deque
from collections.abc import Callable

import torch
from torch import Tensor


class StreamingConv:
    """A 3×3 operation on a map in strips.

    Args:
        operation: (rows, top, bottom) -> rows; top and bottom say whether the map's border is there. If not, the
            outermost row is only context for its neighbor, and the result is a row shorter.
        height: rows of the whole map.
    """

    def __init__(self, operation: Callable[[Tensor, bool, bool], Tensor], height: int) -> None:
        self.operation, self.missing, self.done = operation, height, 0
        self.rest: Tensor | None = None

    def push(self, rows: Tensor) -> Tensor | None:
        """Take the next rows; return those of the result that can be computed now, if any."""
        self.missing -= rows.shape[2]
        top, bottom = self.done == 0, self.missing == 0
        if self.rest is not None:
            rows = torch.cat((self.rest, rows), 2)
        if rows.shape[2] + top + bottom < 3:
            self.rest = rows
            return None
        # A copy, because a view would keep the whole strip in memory.
        self.rest = None if bottom else rows[:, :, -2:].clone()
        result = self.operation(rows, top, bottom)
        self.done += result.shape[2]
        return result


class StreamingPool:
    """2×2 pooling of a map in strips; the last of an odd number of rows is dropped."""

    def __init__(self, pool: Callable[[Tensor], Tensor]) -> None:
        self.pool = pool
        self.rest: Tensor | None = None

    def push(self, rows: Tensor) -> Tensor | None:
        """Take the next rows; return those of the result that can be computed now, if any."""
        if self.rest is not None:
            rows = torch.cat((self.rest, rows), 2)
        even = rows.shape[2] // 2 * 2
        self.rest = rows[:, :, even:].clone() if even < rows.shape[2] else None
        return self.pool(rows[:, :, :even]) if even else None


class Queue:
    """First-in, first-out queue of the rows of a map, and of a second map of the same height or None."""

    def __init__(self) -> None:
        self.strips: deque[tuple[Tensor, Tensor | None]] = deque()
        self.rows = 0

    def push(self, strip: Tensor, other: Tensor | None) -> None:
        """Append a strip of both."""
        self.strips.append((strip, other))
        self.rows += strip.shape[2]

    def take(self, count: int) -> list[tuple[Tensor, Tensor | None]]:
        """Remove and return the first `count` rows, which must be there, in pieces as they lie in memory."""
        self.rows -= count
        pieces: list[tuple[Tensor, Tensor | None]] = []
        while count:
            strip, other = self.strips.popleft()
            if strip.shape[2] > count:
                rest = other if other is None else other[:, :, count:]
                self.strips.appendleft((strip[:, :, count:], rest))
                strip, other = strip[:, :, :count], other if other is None else other[:, :, :count]
            pieces.append((strip, other))
            count -= strip.shape[2]
        return pieces

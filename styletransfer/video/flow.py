"""Where the pixels of a frame come from: optical flow, where it can be trusted, and pictures moved along it.

Frames and pictures are H×W×3, RGB, 8 bits. A flow is H×W×2, float32, in pixels (x, y): from where a pixel is in one
frame to where it is in the other.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

Array = np.ndarray[Any, Any]

#: Share of a frame's pixels that must come from the one before, and of the whole range how much they may differ from
#: where they come from: else it shows something else (docs/video.md).
SAME, DIFFERENT = 0.25, 0.15
#: Levels of 255, on average over a few pixels around, below which two places are the same, and are alike.
STILL, ALIKE = 3, 12


@dataclass(frozen=True)
class Motion:
    """What a frame has of an earlier one.

    Attributes:
        source: H×W×2, for every pixel the place in the earlier frame that it comes from.
        trust: H×W, float32: 1 where that is so, 0 where it can't be told or wasn't to be seen.
        alike: H×W, float32: 1 where it looks as there, be it so or not; 0 where that is outside.
    """

    source: Array
    trust: Array
    alike: Array

    def move(self, picture: Array) -> Array:
        """A picture of the earlier frame, H×W×C, as far as this frame has it, its border continued."""
        return _look(picture, self.source)

    def take(self, values: Array) -> Array:
        """Values of the earlier frame's places, H×W, as far as this frame has them: the nearest ones, unmixed."""
        taken: Array = cv2.remap(values, *np.moveaxis(self.source, 2, 0), cv2.INTER_NEAREST)
        return taken


def find_motion(before: Array, now: Array) -> Motion:
    """How a frame has moved since an earlier one of its size, by DIS flow (Kroeger et al., ECCV 2016) both ways.

    Trust is c of Ruder, Dosovitskiy, Brox, *Artistic Style Transfer for Videos*, GCPR 2016: 0 where the two flows
    disagree (eq. 5) and at the borders of what moves (eq. 6), and here besides where a pixel comes from outside. But
    what looks the same as before in the same place hasn't moved: in a plain sky the flows disagree for no reason.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # with more, the flow depends on how many
    try:
        gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (before, now)]
        forward, backward = (_flow(*pair) for pair in (gray, gray[::-1]))
    finally:
        cv2.setNumThreads(threads)
    source, trusted = _places(backward) + backward, trust(forward, backward)
    still = (trusted == 0) & _is_inside(source) & (_difference(before, now) < STILL)
    source = np.where(still[..., None], _places(backward), source)
    alike = _is_inside(source) & (_difference(_look(before, source), now) < ALIKE)
    return Motion(source, np.where(still, np.float32(1), trusted), alike.astype(np.float32))


def trust(forward: Array, backward: Array) -> Array:
    """c by the flows from an earlier frame and back to it; as in `Motion`."""
    source = _places(backward) + backward
    there = cv2.remap(forward, *np.moveaxis(source, 2, 0), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    agree = _squares(there + backward) <= 0.01 * (_squares(there) + _squares(backward)) + 0.5
    gradients = sum(_squares(gradient) for gradient in np.gradient(backward, axis=(0, 1)))
    smooth = gradients <= 0.01 * _squares(backward) + 0.002
    result: Array = (agree & smooth & _is_inside(source)).astype(np.float32)
    return result


def is_cut(before: Array, now: Array) -> bool:
    """Whether a frame shows something else than the one before: hardly anything in it comes from there."""
    motion = find_motion(before, now)
    change = np.abs(motion.move(before).astype(np.float32) - now).mean(2) / 255
    return float((motion.trust * (change < DIFFERENT)).mean()) < SAME


def _flow(first: Array, second: Array) -> Array:
    shape = first.shape
    least = 32  # of the coarsest size that DIS works on
    if min(shape) < least:
        size = tuple(max(least, side) for side in reversed(shape))
        first, second = (cv2.resize(frame, size) for frame in (first, second))
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(0)  # of its own accord it ends at half the size
    flow: Array = dis.calc(first, second, None)
    if flow.shape[:2] != shape:
        factors = shape[1] / flow.shape[1], shape[0] / flow.shape[0]
        flow = cv2.resize(flow, shape[::-1]) * np.asarray(factors, np.float32)
    return flow


def _is_inside(source: Array) -> Array:
    height, width = source.shape[:2]
    return np.asarray(((source >= 0) & (source <= (width - 1, height - 1))).all(2))


def _look(picture: Array, source: Array) -> Array:
    x, y = np.moveaxis(source, 2, 0)
    found: Array = cv2.remap(picture, x, y, cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE)
    return found


def _difference(first: Array, second: Array) -> Array:
    """Mean absolute difference of two frames within 5×5 pixels, H×W."""
    difference: Array = cv2.blur(np.abs(first.astype(np.float32) - second).mean(2), (5, 5))
    return difference


def _places(flow: Array) -> Array:
    height, width = flow.shape[:2]
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), 2).astype(np.float32)


def _squares(vectors: Array) -> Array:
    squares: Array = np.square(vectors).sum(2)
    return squares

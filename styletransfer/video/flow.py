"""Optical flow between frames, where it can be trusted, and images warped along it.

Frames and images are H×W×3, RGB, 8 bits. A flow is H×W×2, float32: the displacement (x, y) in pixels from a pixel's
position in one frame to that in the other.
"""

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

Array = np.ndarray[Any, Any]

#: There is a cut where less than this share of a frame's pixels comes from the frame before; such pixels differ from
#: their source by less than this share of the value range (docs/explanation/video.md).
SAME, DIFFERENT = 0.25, 0.15
#: Mean difference over 5×5 pixels, in levels of 255, below which a pixel has not moved, or looks like its source.
STILL, ALIKE = 3, 12


@dataclass(frozen=True)
class Motion:
    """The motion from an earlier frame to a later one.

    Attributes:
        source: H×W×2, position in the earlier frame that each pixel comes from.
        trust: H×W, float32: 1 where the source is reliable, 0 where it is not or the pixel was occluded.
        alike: H×W, float32: 1 where a pixel looks like its source, reliable or not; 0 where the source is outside.
    """

    source: Array
    trust: Array
    alike: Array

    def move(self, picture: Array) -> Array:
        """Return an image of the earlier frame, H×W×C, warped to the later one; its borders are replicated."""
        return _sample(picture, self.source)

    def take(self, values: Array) -> Array:
        """Return values of the earlier frame's pixels, H×W, warped to the later one with nearest-neighbor sampling."""
        warped: Array = cv2.remap(values, *np.moveaxis(self.source, 2, 0), cv2.INTER_NEAREST)
        return warped


def find_motion(before: Array, now: Array) -> Motion:
    """Return the motion between two frames of one size, by forward and backward DIS flow (Kroeger et al., ECCV 2016).

    Trust is c of Ruder, Dosovitskiy, Brox, *Artistic Style Transfer for Videos*, GCPR 2016: 0 where the two flows
    disagree (eq. 5) and at motion boundaries (eq. 6), and here also where the source is outside of the frame. But a
    pixel that looks the same in both frames has not moved: in a plain sky the flows disagree for no reason.
    """
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # with more threads, the flow depends on their number
    try:
        gray = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in (before, now)]
        forward, backward = (_compute_flow(*pair) for pair in (gray, gray[::-1]))
    finally:
        cv2.setNumThreads(threads)
    source, trusted = _make_grid(backward) + backward, trust(forward, backward)
    still = (trusted == 0) & _is_inside(source) & (_compute_difference(before, now) < STILL)
    source = np.where(still[..., None], _make_grid(backward), source)
    alike = _is_inside(source) & (_compute_difference(_sample(before, source), now) < ALIKE)
    return Motion(source, np.where(still, np.float32(1), trusted), alike.astype(np.float32))


def trust(forward: Array, backward: Array) -> Array:
    """Return `Motion.trust` for the flows from the earlier frame and back to it, before unmoved pixels are added."""
    source = _make_grid(backward) + backward
    warped = cv2.remap(forward, *np.moveaxis(source, 2, 0), cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    agree = _squared_norm(warped + backward) <= 0.01 * (_squared_norm(warped) + _squared_norm(backward)) + 0.5
    gradients = sum(_squared_norm(gradient) for gradient in np.gradient(backward, axis=(0, 1)))
    smooth = gradients <= 0.01 * _squared_norm(backward) + 0.002
    result: Array = (agree & smooth & _is_inside(source)).astype(np.float32)
    return result


def is_cut(before: Array, now: Array) -> bool:
    """Return whether there is a cut between two frames: hardly any pixel comes from the first."""
    motion = find_motion(before, now)
    change = np.abs(motion.move(before).astype(np.float32) - now).mean(2) / 255
    return float((motion.trust * (change < DIFFERENT)).mean()) < SAME


def _compute_flow(first: Array, second: Array) -> Array:
    shape = first.shape
    least = 32  # shortest side that DIS works on
    if min(shape) < least:
        size = tuple(max(least, side) for side in reversed(shape))
        first, second = (cv2.resize(frame, size) for frame in (first, second))
    dis = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    dis.setFinestScale(0)  # the preset ends at half the resolution
    flow: Array = dis.calc(first, second, None)
    if flow.shape[:2] != shape:
        factors = shape[1] / flow.shape[1], shape[0] / flow.shape[0]
        flow = cv2.resize(flow, shape[::-1]) * np.asarray(factors, np.float32)
    return flow


def _is_inside(source: Array) -> Array:
    height, width = source.shape[:2]
    return np.asarray(((source >= 0) & (source <= (width - 1, height - 1))).all(2))


def _sample(image: Array, source: Array) -> Array:
    x, y = np.moveaxis(source, 2, 0)
    sampled: Array = cv2.remap(image, x, y, cv2.INTER_LANCZOS4, borderMode=cv2.BORDER_REPLICATE)
    return sampled


def _compute_difference(first: Array, second: Array) -> Array:
    """Return the mean absolute difference of two frames within 5×5 pixels, H×W."""
    difference: Array = cv2.blur(np.abs(first.astype(np.float32) - second).mean(2), (5, 5))
    return difference


def _make_grid(flow: Array) -> Array:
    height, width = flow.shape[:2]
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), 2).astype(np.float32)


def _squared_norm(vectors: Array) -> Array:
    squares: Array = np.square(vectors).sum(2)
    return squares

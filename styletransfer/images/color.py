"""Whose colors the picture gets (Gatys et al., *Controlling Perceptual Factors in Neural Style Transfer*, CVPR 2017).

All arithmetic is on sRGB-encoded values in [0, 1]: these are what the network sees, what is optimized and what a file
holds, and equal steps in them look about equal.
"""

from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .images import Picture

Matrix = np.ndarray[Any, np.dtype[np.float64]]

#: Luma Y' of RGB: that of YIQ, the paper's color space, of BT.601, and of Pillow's mode L.
LUMA = (0.299, 0.587, 0.114)
#: Along an axis of color where the style's standard deviation is below this there is noise, or nothing, as in a
#: scanned drawing: it is stretched as if it were this. With 1 / 255, noise of two levels became red and green specks.
LEAST_DEVIATION = 4 / 255
_PIXELS_AT_ONCE = 1 << 20


def match_colors(
    content: Picture,
    style: Picture,
    color: Literal["style", "content", "luminance"],
    sizes: tuple[tuple[int, int], tuple[int, int]],
) -> tuple[Picture, Picture]:
    """Content and style as the network is to see them.

    Args:
        color: "style": as they are; "content": the style recolored by `transfer_colors`; "luminance": both gray, and
            the style recolored likewise, which is then L_S' = σ_C / σ_S · (L_S − μ_S) + μ_C (section 5.1).
        sizes: (width, height) of content and style in which they are matched, and which the style then has: in another
            size a picture of fine strokes has other variances.
    """
    if color == "style":
        return content, style
    if color == "luminance":
        content, style = to_luminance(content), to_luminance(style)
    return content, transfer_colors(style.resize(sizes[1]), content.resize(sizes[0]))


def to_luminance(picture: Picture) -> Picture:
    """The picture in gray: its luma Y' in all three channels."""
    return Picture(picture.rgb.convert("L").convert("RGB"), picture.alpha, picture.name)


def transfer_colors(style: Picture, content: Picture) -> Picture:
    """The style with its colors transformed to mean and covariance of the content's.

    x -> A (x − μ_S) + μ_C with A = Σ_C^½ Σ_S^−½, the symmetric roots: section 5.2, and "Image Analogies" in *Preserving
    Color in Neural Artistic Style Transfer* (arXiv 1606.05897). What leaves [0, 1] is clipped.
    """
    (style_mean, style_covariance), (mean, covariance) = _statistics(style), _statistics(content)
    matrix = _power(covariance, 0.5) @ _power(style_covariance, -0.5, LEAST_DEVIATION**2)
    offset = 255 * (mean - matrix @ style_mean)
    rgb = style.rgb.convert("RGB", tuple(np.column_stack([matrix, offset]).flat))
    return Picture(rgb, style.alpha, style.name)


def _statistics(picture: Picture) -> tuple[Matrix, Matrix]:
    """Mean (3) and covariance (3×3) of the colors that show: weighted by opacity, unless nothing shows."""
    alpha = picture.alpha
    if alpha is None or alpha.getbbox() is None:
        alpha = Image.new("L", picture.rgb.size, 255)
    pixels, weights = np.asarray(picture.rgb).reshape(-1, 3), np.asarray(alpha).ravel()
    moments = np.zeros((4, 4))
    for start in range(0, len(pixels), _PIXELS_AT_ONCE):
        part = slice(start, start + _PIXELS_AT_ONCE)
        x = np.insert(pixels[part] / 255, 3, 1.0, axis=1)
        moments += (x.T * weights[part]) @ x
    moments /= moments[3, 3]
    mean = moments[3, :3]
    return mean, moments[:3, :3] - np.outer(mean, mean)


def _power(covariance: Matrix, exponent: float, least: float = 0.0) -> Matrix:
    """A symmetric matrix to a power, its eigenvalues taken to be at least so large."""
    values, vectors = np.linalg.eigh(covariance)
    result: Matrix = (vectors * np.maximum(values, least) ** exponent) @ vectors.T
    return result


def add_chroma(image: Tensor, content: Tensor) -> Tensor:
    """The luma of an image in the colors of the content, both 1×3×H×W in [0, 1]; of the same shape and range.

    With the chroma, I and Q of YIQ, unchanged, R, G and B all change by as much as Y' does (section 5.1). A pixel that
    this would take out of [0, 1] keeps luma and hue, and loses as much chroma as it must.
    """
    luma, chroma = _luma(image), content - _luma(content)
    tiny = torch.finfo(chroma.dtype).tiny
    highest, lowest = chroma.amax(1, keepdim=True).clamp_(min=tiny), chroma.amin(1, keepdim=True).clamp_(max=-tiny)
    share = torch.minimum((1 - luma) / highest, luma / -lowest).clamp_(max=1)
    return chroma.mul_(share).add_(luma).clamp_(0, 1)


def _luma(image: Tensor) -> Tensor:
    """1×1×H×W."""
    return torch.einsum("nchw,c->nhw", image, image.new_tensor(LUMA))[:, None]

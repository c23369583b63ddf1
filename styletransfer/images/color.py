"""Color control (Gatys et al., *Controlling Perceptual Factors in Neural Style Transfer*, CVPR 2017).

All values are sRGB-encoded, in [0, 1], as seen by the network, optimized and saved; equal steps look about equal.
"""

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .images import Picture

Matrix = np.ndarray[Any, np.dtype[np.float64]]

#: Luma Y' of RGB: that of YIQ, the paper's color space, of BT.601, and of Pillow's mode L.
LUMA = (0.299, 0.587, 0.114)
#: Lower limit of the style's standard deviation along a color axis, used instead of a smaller one, which is noise or
#: nothing, as in a scanned drawing: with 1 / 255, noise of two levels became red and green specks.
LEAST_DEVIATION = 4 / 255
_PIXELS_AT_ONCE = 1 << 20


def to_luminance(picture: Picture) -> Picture:
    """Return the image in gray: its luma Y' in all three channels."""
    return Picture(picture.rgb.convert("L").convert("RGB"), picture.alpha, picture.name)


def transfer_colors(style: Picture, content: Picture) -> Picture:
    """Return the style with its colors transformed to the mean and covariance of the content's.

    x -> A (x − μ_S) + μ_C with A = Σ_C^½ Σ_S^−½, the symmetric roots: section 5.2, and "Image Analogies" in *Preserving
    Color in Neural Artistic Style Transfer* (arXiv 1606.05897). Values outside [0, 1] are clipped. Of gray images it is
    L_S' = σ_C / σ_S · (L_S − μ_S) + μ_C (section 5.1).
    """
    (style_mean, style_covariance), (mean, covariance) = _compute_statistics(style), _compute_statistics(content)
    matrix = _raise_to_power(covariance, 0.5) @ _raise_to_power(style_covariance, -0.5, LEAST_DEVIATION**2)
    offset = 255 * (mean - matrix @ style_mean)
    rgb = style.rgb.convert("RGB", tuple(np.column_stack([matrix, offset]).flat))
    return Picture(rgb, style.alpha, style.name)


def _compute_statistics(picture: Picture) -> tuple[Matrix, Matrix]:
    """Return mean (3) and covariance (3×3) of the colors, weighted by opacity unless all are transparent."""
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


def _raise_to_power(covariance: Matrix, exponent: float, least: float = 0.0) -> Matrix:
    """Return a symmetric matrix to a power, its eigenvalues clamped to at least `least`."""
    values, vectors = np.linalg.eigh(covariance)
    result: Matrix = (vectors * np.maximum(values, least) ** exponent) @ vectors.T
    return result


def add_chroma(image: Tensor, content: Tensor) -> Tensor:
    """Return the luma of an image in the colors of the content; all are 1×3×H×W in [0, 1].

    With the chroma, I and Q of YIQ, unchanged, R, G and B all change by as much as Y' does (section 5.1). A pixel that
    would leave [0, 1] keeps its luma and hue, and loses as much chroma as necessary.
    """
    luma, chroma = _compute_luma(image), content - _compute_luma(content)
    tiny = torch.finfo(chroma.dtype).tiny
    highest, lowest = chroma.amax(1, keepdim=True).clamp_(min=tiny), chroma.amin(1, keepdim=True).clamp_(max=-tiny)
    share = torch.minimum((1 - luma) / highest, luma / -lowest).clamp_(max=1)
    return chroma.mul_(share).add_(luma).clamp_(0, 1)


def _compute_luma(image: Tensor) -> Tensor:
    """Return the luma, 1×1×H×W."""
    return torch.einsum("nchw,c->nhw", image, image.new_tensor(LUMA))[:, None]

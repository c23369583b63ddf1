"""Winograd's 3×3 convolutions, with a quarter or a fifth of the multiplications, for float32 on a CPU.

F(4×4, 3×3) and F(6×6, 3×3) of Lavin and Gray, *Fast Algorithms for Convolutional Neural Networks*, CVPR 2016. A direct
convolution of many filters runs at the processor's peak; only fewer operations are faster. A block of m×m positions of
the result is Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A, of a kernel g and a tile d of t×t, t = m + 2: t² products instead of 9·m², over
all channels and tiles t² matrix products. These bound it: at the processor's peak they take 25 % (m = 4) or 20 %
(m = 6) of the time of a direct convolution. The transforms, which wait for memory, take three times as long as the
products for 64 channels and a third as long for 512.

The relative error is 1.2e-6 (m = 4) or 2.7e-6 (m = 6), that of a direct convolution 4e-7. In bfloat16 it would be 3 %:
not used there.
"""

import math
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

#: The points at which the polynomials are multiplied, besides infinity, by the side m of a block: those of Lavin and
#: Gray, whose transforms round least. The second is 1.
_POINTS = {4: (0.0, 1.0, -1.0, 2.0, -2.0), 6: (0.0, 1.0, -1.0, 2.0, -2.0, 0.5, -0.5)}
#: Target bytes of the values of the tiles that are computed at once: they should stay in the cache.
BLOCK = 12 << 20

#: oneDNN's product of a matrix with a transposed one: on some of AMD's processors twice as fast as torch's BLAS.
onednn_product = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


class Variant(NamedTuple):
    """A variant of the convolution: the side m of a block, and whether oneDNN multiplies instead of torch's BLAS."""

    side: int
    onednn: bool = False


class TransformedKernel(NamedTuple):
    """Kernels N×C×3×3 transformed for a variant: t²×N×C."""

    values: Tensor
    variant: Variant


@cache
def _matrices(side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return Aᵀ (m×t), G (t×3) and Bᵀ (t×t) of blocks of m = `side` positions, by Lagrange's interpolation."""
    points = _POINTS[side]
    a, g, b = torch.zeros(side, side + 2), torch.zeros(side + 2, 3), torch.zeros(side + 2, side + 2)
    for row, point in enumerate(points):
        others = [other for other in points if other != point]
        scale = math.prod(point - other for other in others)
        a[:, row] = torch.tensor([point**power for power in range(side)])
        g[row] = torch.tensor([point**power / scale for power in range(3)])
        b[row, :-1] = torch.tensor(_expand(others))
    a[-1, -1] = g[-1, -1] = 1
    b[-1] = torch.tensor(_expand(points))
    return a, g, b


def _expand(roots: tuple[float, ...] | list[float]) -> list[float]:
    """Return the coefficients of the polynomial with these roots, the constant one first."""
    coefficients = [1.0]
    for root in roots:
        higher, lower = [0.0, *coefficients], [*coefficients, 0.0]
        coefficients = [x - root * y for x, y in zip(higher, lower, strict=True)]
    return coefficients


def transform(kernel: Tensor, variant: Variant) -> TransformedKernel:
    """Return G g Gᵀ of every kernel, from N×C×3×3."""
    filters, channels = kernel.shape[:2]
    g = _matrices(variant.side)[1]
    values = (torch.kron(g, g) @ kernel.reshape(filters * channels, 9).T).view(-1, filters, channels)
    return TransformedKernel(values, variant)


def count_bytes(kernel: Tensor, variant: Variant) -> tuple[int, int]:
    """Return the bytes of `transform` of a kernel N×C×3×3, and those that `convolve` needs besides its result."""
    filters, channels = kernel.shape[:2]
    products = 4 * (variant.side + 2) ** 2
    tiles = _count_tiles(max(filters, channels), variant.side)
    return products * filters * channels, products * tiles * (channels + 2 * filters)


def _count_tiles(channels: int, side: int) -> int:
    """Return how many tiles make up a block."""
    return BLOCK // (4 * (side + 2) ** 2 * channels)


def convolve(
    x: Tensor,
    top: bool,
    bottom: bool,
    kernel: TransformedKernel,
    bias: Tensor | None = None,
    adjoint: bool = False,
) -> Tensor:
    """Return a convolution with replicated borders, a bias and a ReLU; or its adjoint, with zero borders and neither.

    Args:
        x: 1×C×H×W, channels-last; 1×N×H×W for the adjoint.
        top, bottom: whether to add a border there, as on the left and right.
        kernel: from `transform`.
        adjoint: convolve with the flipped and transposed kernel. Reversing a tile and its result is equivalent to
            flipping the kernel, so that it needs no transform of its own.
    """
    side, onednn = kernel.variant
    matrices = kernel.values if adjoint else kernel.values.transpose(1, 2)
    height, width = x.shape[2] + top + bottom - 2, x.shape[3]
    across, down = -(-width // side), -(-height // side)
    channels, filters = matrices.shape[1:]
    result = torch.empty((1, filters, side * down, side * across), memory_format=torch.channels_last)
    step = max(1, _count_tiles(max(channels, filters), side) // across)
    step = -(-down // -(-down // step))  # equal blocks
    for first in range(0, down, step):
        rows = min(step, down - first)
        begin = side * first - top
        end = begin + side * rows + 2
        borders = 1, 1 + side * across - width, max(0, -begin), max(0, end - x.shape[2])
        part = F.pad(x[:, :, max(0, begin) : end], borders, mode="constant" if adjoint else "replicate")
        values = _transform_tiles(part, side, adjoint)
        products = _multiply(values, matrices, onednn)
        del values  # large
        if bias is not None:
            # Adds to every position: the column of Aᵀ of the point 1 is all ones.
            products[side + 3] += bias
        blocks = _transform_products(products, side, adjoint).view(side, side, rows, across, filters)
        del products
        strip = result[:, :, side * first : side * (first + rows)].permute(0, 2, 3, 1)
        target = strip.view(rows, side, across, side, filters).permute(1, 3, 0, 2, 4)
        if adjoint:
            target.copy_(blocks)
        else:
            torch.clamp_min(blocks, 0, out=target)
    if result.shape[2:] == (height, width):
        return result
    return result[:, :, :height, :width].contiguous(memory_format=torch.channels_last)


def _transform_tiles(x: Tensor, side: int, adjoint: bool) -> Tensor:
    """Return Bᵀ d B of the tiles d of a map 1×C×(mh + 2)×(mw + 2), which overlap by two: t²×hw×C."""
    x = x.contiguous(memory_format=torch.channels_last)
    b = _matrices(side)[2]
    b = b.flip(1) if adjoint else b
    _, channels, height, width = x.shape
    tile, rows, across = side + 2, height // side, width // side
    row, right = width * channels, channels  # steps in memory
    # Vertically on whole rows, before columns are copied for two tiles: a quarter (m = 6) less to multiply.
    half = torch.bmm(b.expand(rows, tile, tile), x.as_strided((rows, tile, row), (side * row, row, 1)))
    tiles = half.as_strided((tile, tile, rows, across, channels), (row, right, tile * row, side * right, 1))
    tiles = tiles.reshape(tile, tile, rows * across * channels)
    return torch.bmm(b.expand(tile, tile, tile), tiles).view(tile * tile, rows * across, channels)


def _transform_products(products: Tensor, side: int, adjoint: bool) -> Tensor:
    """Return Aᵀ p A of the products p, t²×hw×N: m×m×hwN."""
    a = _matrices(side)[0]
    a = a.flip(0) if adjoint else a
    tile = side + 2
    half = torch.bmm(a.expand(tile, side, tile), products.view(tile, tile, -1))
    return (a @ half.view(tile, -1)).view(side, side, -1)


def _multiply(values: Tensor, kernel: Tensor, onednn: bool) -> Tensor:
    """Return the matrix products of values t²×T×C with kernels t²×C×N: t²×T×N."""
    if not onednn:
        return torch.bmm(values, kernel)
    assert onednn_product is not None
    result = values.new_empty(*values.shape[:2], kernel.shape[2])
    for product, value, matrix in zip(result, values, kernel, strict=True):
        product.copy_(onednn_product(value, matrix.T, None, "none", [], ""))
    return result

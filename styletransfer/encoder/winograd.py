"""Winograd's 3×3 convolutions, with a quarter of the multiplications, for float32 on a CPU.

F(4×4, 3×3) of Lavin and Gray, *Fast Algorithms for Convolutional Neural Networks*, CVPR 2016. A direct convolution of
many filters runs at the processor's peak; only fewer operations are faster. A 4×4 block of the result is
Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A, of a kernel g and a 6×6 tile d: 36 products instead of 144, over all channels and tiles
36 matrix products.

The relative error is 2 to 4e-6, twice that of a direct convolution. In bfloat16 it would be 3 %: not used there.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_B = torch.tensor(
    [
        [4.0, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ]
)
_G = torch.tensor([[6.0, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
_A = torch.tensor([[1.0, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]])
#: A constant added to this one of the 36 products adds to every position: the second column of Aᵀ is all ones.
_CONSTANT = 7
#: Where it is faster (docs/performance.md): with fewer channels the transforms, with fewer positions reading 36 numbers
#: per kernel, take longer than the products save.
LEAST_CHANNELS, LEAST_POSITIONS = 256, 400
#: Tiles that are computed at once: the products are as fast as with all, and their memory is bounded.
TILES = 384

#: oneDNN's product of a matrix with a transposed one: on AMD's processors twice as fast as torch's BLAS.
_product = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def pays(kernel: Tensor, positions: int) -> bool:
    """Return whether `convolve` is the fastest for maps of so many positions with a kernel N×C×3×3."""
    usable = _product is not None and kernel.device.type == "cpu" and kernel.dtype == torch.float32
    return usable and min(kernel.shape[:2]) >= LEAST_CHANNELS and positions >= LEAST_POSITIONS


def transform(kernel: Tensor) -> Tensor:
    """Return G g Gᵀ of every kernel, 36×N×C, from N×C×3×3."""
    filters, channels = kernel.shape[:2]
    flat = kernel.reshape(filters * channels, 9)
    return _multiply(torch.kron(_G, _G), flat).view(36, filters, channels)


def memory(kernel: Tensor) -> tuple[int, int]:
    """Return the bytes of `transform` of a kernel N×C×3×3, and those that `convolve` needs besides its result."""
    filters, channels = kernel.shape[:2]
    return 36 * filters * channels * 4, 36 * TILES * (channels + 2 * filters) * 4


def convolve(
    x: Tensor, top: bool, bottom: bool, kernel: Tensor, bias: Tensor | None = None, adjoint: bool = False
) -> Tensor:
    """Return a convolution with replicated borders, a bias and a ReLU; or its adjoint, with zero borders and neither.

    Args:
        x: 1×C×H×W, channels-last; 1×N×H×W for the adjoint.
        top, bottom: whether to add a border there, as on the left and right.
        kernel: 36×N×C, from `transform`.
        adjoint: convolve with the flipped and transposed kernel. Reversing a tile and its result is equivalent to
            flipping the kernel, so that it needs no transform of its own.
    """
    height, width = x.shape[2] + top + bottom - 2, x.shape[3]
    across, down = -(-width // 4), -(-height // 4)
    to_products, from_products = (_B.flip(1), _A.flip(0)) if adjoint else (_B, _A)
    to_products, from_products = torch.kron(to_products, to_products), torch.kron(from_products, from_products)
    channels, filters = x.shape[1], kernel.shape[2 if adjoint else 1]
    result = x.new_empty(4 * down, 4 * across, filters)
    step = max(1, TILES // across)
    for first in range(0, down, step):
        rows = min(step, down - first)
        begin = 4 * first - top
        end = begin + 4 * rows + 2
        borders = 1, 1 + 4 * across - width, max(0, -begin), max(0, end - x.shape[2])
        part = F.pad(x[:, :, max(0, begin) : end], borders, mode="constant" if adjoint else "replicate")
        values = _multiply(to_products, _extract_tiles(part).reshape(36, -1).T).view(36, rows * across, channels)
        products = torch.stack(
            [
                _multiply(v, k.T if adjoint else k, bias if number == _CONSTANT else None)
                for number, (v, k) in enumerate(zip(values, kernel, strict=True))
            ]
        )
        del values  # large
        values = _multiply(from_products, products.view(36, -1).T, activation="none" if adjoint else "relu")
        tiles = values.view(4, 4, rows, across, filters).permute(2, 0, 3, 1, 4)
        result[4 * first : 4 * (first + rows)].view(tiles.shape).copy_(tiles)
    result = result.permute(2, 0, 1)[None, :, :height, :width]
    return result.contiguous(memory_format=torch.channels_last)


def _extract_tiles(x: Tensor) -> Tensor:
    """Return the tiles of a map 1×C×(4h + 2)×(4w + 2), which overlap by two: 6×6×h×w×C."""
    x = x.contiguous(memory_format=torch.channels_last)
    _, channels, height, width = x.shape
    down, right = width * channels, channels
    size = 6, 6, height // 4, width // 4, channels
    return x.as_strided(size, (down, right, 4 * down, 4 * right, 1))


def _multiply(a: Tensor, b: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """Return a bᵀ + bias."""
    assert _product is not None
    result: Tensor = _product(a, b, bias, activation, [], "")
    return result

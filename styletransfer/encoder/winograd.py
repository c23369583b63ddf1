"""3×3 convolutions with a quarter of the multiplications: F(4×4, 3×3) of Lavin and Gray, *Fast Algorithms for
Convolutional Neural Networks*, CVPR 2016, for float32 on a CPU.

A direct convolution of many filters runs at the processor's peak; fewer operations are the only way to be faster. Each
4×4 positions of the result are Aᵀ[(G g Gᵀ) ⊙ (Bᵀ d B)]A, of a kernel g and a tile d of 6×6 positions: 36 products
instead of 144. Over all channels and tiles they are 36 matrix products.

Its relative error is 2 to 4e-6, twice that of a direct convolution. In bfloat16 it would be 3 %: not used there.
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
#: A constant added to this one of the 36 products is added to every position: the second column of Aᵀ is all ones.
_CONSTANT = 7
#: What a kernel is worth it for (docs/performance.md): with fewer channels the transforms take longer than the products
#: save, with fewer positions reading 36 numbers a kernel does.
LEAST_CHANNELS, LEAST_POSITIONS = 256, 400
#: So many tiles are worked on at once: the products are as fast as with all, and what they take doesn't grow.
TILES = 384

#: The product of a matrix with a transposed one, as oneDNN has it: on AMD's processors twice as fast as torch's BLAS.
_product = getattr(torch.ops.mkldnn, "_linear_pointwise", None)


def pays(kernel: Tensor, positions: int) -> bool:
    """Whether this is the faster way to convolve maps of so many positions with a kernel N×C×3×3."""
    usable = _product is not None and kernel.device.type == "cpu" and kernel.dtype == torch.float32
    return usable and min(kernel.shape[:2]) >= LEAST_CHANNELS and positions >= LEAST_POSITIONS


def transform(kernel: Tensor) -> Tensor:
    """G g Gᵀ of every kernel, 36×N×C, from N×C×3×3."""
    filters, channels = kernel.shape[:2]
    flat = kernel.reshape(filters * channels, 9)
    return _multiply(torch.kron(_G, _G), flat).view(36, filters, channels)


def memory(kernel: Tensor) -> tuple[int, int]:
    """Bytes that `transform` gives for a kernel N×C×3×3, and that `convolve` takes besides its result."""
    filters, channels = kernel.shape[:2]
    return 36 * filters * channels * 4, 36 * TILES * (channels + 2 * filters) * 4


def convolve(
    x: Tensor, top: bool, bottom: bool, kernel: Tensor, bias: Tensor | None = None, adjoint: bool = False
) -> Tensor:
    """A convolution with replicated borders, a bias and a ReLU; or, the other way, with borders of zeros and without.

    Args:
        x: 1×C×H×W, channels-last; 1×N×H×W the other way.
        top, bottom: whether a border is to be added there, as it is at the left and the right.
        kernel: 36×N×C, of `transform`.
        adjoint: convolve with the flipped and transposed kernel. A tile and its result read backwards do the same as a
            flipped kernel, so that it needs no transform of its own.
    """
    height, width = x.shape[2] + top + bottom - 2, x.shape[3]
    across, down = -(-width // 4), -(-height // 4)
    there, back = (_B.flip(1), _A.flip(0)) if adjoint else (_B, _A)
    there, back = torch.kron(there, there), torch.kron(back, back)
    channels, filters = x.shape[1], kernel.shape[2 if adjoint else 1]
    result = x.new_empty(4 * down, 4 * across, filters)
    step = max(1, TILES // across)
    for first in range(0, down, step):
        rows = min(step, down - first)
        begin = 4 * first - top
        end = begin + 4 * rows + 2
        borders = 1, 1 + 4 * across - width, max(0, -begin), max(0, end - x.shape[2])
        part = F.pad(x[:, :, max(0, begin) : end], borders, mode="constant" if adjoint else "replicate")
        values = _multiply(there, _tiles(part).reshape(36, -1).T).view(36, rows * across, channels)
        products = torch.stack(
            [
                _multiply(v, k.T if adjoint else k, bias if number == _CONSTANT else None)
                for number, (v, k) in enumerate(zip(values, kernel, strict=True))
            ]
        )
        del values  # large
        values = _multiply(back, products.view(36, -1).T, activation="none" if adjoint else "relu")
        tiles = values.view(4, 4, rows, across, filters).permute(2, 0, 3, 1, 4)
        result[4 * first : 4 * (first + rows)].view(tiles.shape).copy_(tiles)
    result = result.permute(2, 0, 1)[None, :, :height, :width]
    return result.contiguous(memory_format=torch.channels_last)


def _tiles(x: Tensor) -> Tensor:
    """The tiles of a map 1×C×(4h + 2)×(4w + 2), which overlap by two: 6×6×h×w×C."""
    x = x.contiguous(memory_format=torch.channels_last)
    _, channels, height, width = x.shape
    down, right = width * channels, channels
    size = 6, 6, height // 4, width // 4, channels
    return x.as_strided(size, (down, right, 4 * down, 4 * right, 1))


def _multiply(a: Tensor, b: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """a bᵀ + bias."""
    assert _product is not None
    result: Tensor = _product(a, b, bias, activation, [], "")
    return result

"""Arithmetic of VGG-19's layers: sizes, receptive fields, parameters, operations. Needs neither torch nor weights.

Simonyan and Zisserman, *Very Deep Convolutional Networks for Large-Scale Image Recognition*, ICLR 2015, table 1.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ..options import LAYERS

#: Filters of each convolution of VGG-19: 64, 128, 256, 512 and 512 in its five blocks.
VGG19_WIDTHS = {layer: min(512, 32 << int(layer[4])) for layer in LAYERS}


@dataclass(frozen=True)
class Layer:
    """Figures of one layer.

    Attributes:
        name: conv1_1, …, or pool1, … for the pooling layers between the blocks.
        kernel, stride, padding: in positions of the layer's input.
        size: side of its output for a square image.
        receptive_field: side in pixels of the part of the image that a position of the output depends on.
        channels: of its output.
        parameters: number of weights and biases.
        operations: multiply-adds for the square image; 0 for pooling.
    """

    name: str
    kernel: int
    stride: int
    padding: int
    size: int
    receptive_field: int
    channels: int
    parameters: int
    operations: int


def output_size(size: int, kernel: int, stride: int = 1, padding: int = 0) -> int:
    """Return the positions of a kernel along a side: 1 + (size + 2·padding − kernel) / stride, rounded down."""
    return 1 + (size + 2 * padding - kernel) // stride


def table(size: int, widths: Mapping[str, int] = VGG19_WIDTHS, ranks: Mapping[str, int] | None = None) -> list[Layer]:
    """Return the layers of a VGG-19-like network for an RGB image of size × size pixels, at least 16.

    Args:
        widths: filters of each convolution, from conv1_1 on without gaps; the table ends with the last.
        ranks: rank of the projection of convolutions that have one (`Convolution.projection`). Its 1×1 convolution is
            counted with them.
    """
    rows: list[Layer] = []
    channels, field, spacing = 3, 1, 1  # spacing: pixels between neighboring positions
    for name, width in widths.items():
        if name.endswith("_1") and rows:
            size, field, spacing = output_size(size, 2, 2), field + spacing, 2 * spacing
            rows.append(Layer(f"pool{int(name[4]) - 1}", 2, 2, 0, size, field, channels, 0, 0))
        size, field = output_size(size, 3, padding=1), field + 2 * spacing
        rank = (ranks or {}).get(name)
        weights = 9 * channels * width if rank is None else channels * rank + 9 * rank * width
        rows.append(Layer(name, 3, 1, 1, size, field, width, weights + width, weights * size**2))
        channels = width
    return rows

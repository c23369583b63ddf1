"""The bleed: a margin around the image that is optimized with it and trimmed at the end."""

from torch import Tensor
from torch.nn.functional import pad

from ..options import Options

#: Width of the bleed in pixels; it starts as the mirrored content. Without it pixels at the border, which fewer filters
#: see, come out with nearly twice the contrast of others.
BLEED = 4
#: The same for seamless images, where it repeats the opposite side and is left out of the losses. A multiple of 16, so
#: that every position of every layer lies on one side of the border; those of conv5_1 see 70 pixels to each side.
SEAMLESS_BLEED = 48


def bleed_width(options: Options) -> int:
    """Return the width of the bleed in pixels."""
    return SEAMLESS_BLEED if options.seamless else BLEED


def add_bleed(image: Tensor, options: Options) -> Tensor:
    """Return the canvas: an image 1×C×H×W with its bleed, mirrored, or from the opposite side if seamless."""
    mode = "circular" if options.seamless else "reflect"
    return pad(image, (bleed_width(options),) * 4, mode=mode)


def trim_bleed(canvas: Tensor, options: Options) -> Tensor:
    """Return a canvas without its bleed."""
    inner = slice(bleed_width(options), -bleed_width(options))
    return canvas[..., inner, inner]

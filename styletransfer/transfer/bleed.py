"""The bleed: the canvas that is optimized is a little larger than the picture on every side."""

from torch import Tensor
from torch.nn.functional import pad

from ..options import Options

#: Pixels by which the canvas is larger than the picture on every side: mirrored from the content, trimmed at the end.
#: A pixel at the border is seen by fewer filters than others and comes out with nearly twice their contrast.
BLEED = 4
#: The same for seamless pictures, where it is what follows beyond the border, is seen and doesn't count. A multiple of
#: 16, so that every position of every layer lies on one side of the border; those of conv5_1 see 70 pixels.
SEAMLESS_BLEED = 48


def bleed_width(options: Options) -> int:
    """Pixels by which the canvas is larger than the picture on every side."""
    return SEAMLESS_BLEED if options.seamless else BLEED


def add_bleed(image: Tensor, options: Options) -> Tensor:
    """The canvas: an image 1×3×H×W with pixels more on every side, mirrored, or those of the opposite side."""
    mode = "circular" if options.seamless else "reflect"
    return pad(image, (bleed_width(options),) * 4, mode=mode)


def trim_bleed(canvas: Tensor, options: Options) -> Tensor:
    """The image on a canvas."""
    inner = slice(bleed_width(options), -bleed_width(options))
    return canvas[..., inner, inner]

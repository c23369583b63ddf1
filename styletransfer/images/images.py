"""A picture in memory: Pillow images and tensors, sizes, transparency.

An image tensor is float32, 1×3×H×W, RGB, sRGB-encoded, in [0, 1]. Resizing is Pillow's Lanczos filter, antialiased.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms, ImageStat
from torch import Tensor

#: What stands for the name of a picture that is no file.
UNNAMED = "image"
#: The key of the settings in a PNG's text.
SETTINGS_KEY = "styletransfer"
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


class UnsupportedImageError(Exception):
    """A file holds an image of a kind that is not read. The message says which, without the file's name."""


@dataclass(frozen=True)
class Picture:
    """A picture as the program uses it.

    Attributes:
        rgb: Pillow image in mode RGB, sRGB. Where the file is wholly transparent: white.
        alpha: Pillow image in mode L, or None when the picture is opaque.
        name: file name without folders, or `UNNAMED` when it wasn't read from a file.
    """

    rgb: Image.Image
    alpha: Image.Image | None = None
    name: str = UNNAMED

    def mean_color_image(self, size: tuple[int, int]) -> Image.Image:
        """A picture (width, height) of nothing but the mean color."""
        red, green, blue = (round(mean) for mean in ImageStat.Stat(self.rgb).mean)
        return Image.new("RGB", size, (red, green, blue))

    def resize(self, size: tuple[int, int]) -> "Picture":
        """The same at another (width, height)."""
        if size == self.rgb.size:
            return self
        rgb, alpha = self.rgb, self.alpha
        if alpha is None:
            return Picture(rgb.resize(size, Image.Resampling.LANCZOS), None, self.name)
        # Pillow weights the colors of RGBA by opacity: what shows nowhere doesn't bleed into what does.
        merged = Image.merge("RGBA", (*rgb.split(), alpha))
        return split_alpha(merged.resize(size, Image.Resampling.LANCZOS), self.name)

    def tensor(self) -> Tensor:
        """The colors as an image tensor."""
        return to_tensor(self.rgb)


def fit_size(size: tuple[int, int], longer: int, shorter: int = 1, *, enlarge: bool = False) -> tuple[int, int]:
    """(width, height) in the same proportions with the longer side as told, unless that would enlarge it; neither
    side falls below `shorter`."""
    scale = longer / max(size)
    if scale > 1 and not enlarge:
        scale = 1
    return max(shorter, round(size[0] * scale)), max(shorter, round(size[1] * scale))


def to_tensor(image: Image.Image) -> Tensor:
    """Pillow image in mode RGB -> image tensor 1×3×H×W in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].contiguous() / 255


def to_pil(image: Tensor) -> Image.Image:
    """Image tensor 1×3×H×W -> Pillow image in mode RGB, clamped and rounded to 8 bits."""
    return Image.fromarray(to_integers(image, 8))


def to_integers(image: Tensor, bits: int) -> np.ndarray[Any, Any]:
    """H×W×3 unsigned integers of 8 or 16 bits."""
    limit = 2**bits - 1
    pixels: np.ndarray[Any, Any] = (image[0].detach().cpu().clamp(0, 1) * limit).round().permute(1, 2, 0).numpy()
    return pixels.astype(np.uint8 if bits == 8 else np.uint16)


def split_alpha(image: Image.Image, name: str) -> Picture:
    """Colors and opacity apart. What is wholly transparent has no color of its own: white, like paper."""
    alpha = image.getchannel("A")
    rgb = image.convert("RGB")
    rgb.paste((255, 255, 255), mask=alpha.point(lambda a: 255 * (a == 0)))
    return Picture(rgb, alpha, name)


def flatten_on_white(image: Image.Image) -> Image.Image:
    """The picture in mode RGB, on white where it is transparent."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    return Image.composite(image.convert("RGB"), Image.new("RGB", image.size, "white"), image.getchannel("A"))

"""Images in memory: Pillow images and tensors, sizes, transparency.

An image tensor is float32, 1×3×H×W, RGB, sRGB-encoded, in [0, 1]. Resizing uses Pillow's antialiased Lanczos filter.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageCms, ImageStat
from torch import Tensor

#: The name of an image that was not read from a file.
UNNAMED = "image"
#: The keyword of the settings in a PNG's text.
SETTINGS_KEY = "styletransfer"
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


class UnsupportedImageError(Exception):
    """An image of an unsupported kind. The message says which, without the file's name."""


@dataclass(frozen=True)
class Picture:
    """An image with 8 bits a channel, in sRGB.

    Attributes:
        rgb: Pillow image in mode RGB; fully transparent pixels are white.
        alpha: Pillow image in mode L, or None if the image is opaque.
        name: file name without folders, or `UNNAMED` if it was not read from a file.
    """

    rgb: Image.Image
    alpha: Image.Image | None = None
    name: str = UNNAMED

    def mean_color_image(self, size: tuple[int, int]) -> Image.Image:
        """Return an image of this (width, height), filled with the mean color."""
        red, green, blue = (round(mean) for mean in ImageStat.Stat(self.rgb).mean)
        return Image.new("RGB", size, (red, green, blue))

    def resize(self, size: tuple[int, int]) -> "Picture":
        """Return the image resized to another (width, height)."""
        if size == self.rgb.size:
            return self
        rgb, alpha = self.rgb, self.alpha
        if alpha is None:
            return Picture(rgb.resize(size, Image.Resampling.LANCZOS), None, self.name)
        # Pillow weights the colors of RGBA by opacity, so transparent pixels do not bleed into visible ones.
        merged = Image.merge("RGBA", (*rgb.split(), alpha))
        return split_alpha(merged.resize(size, Image.Resampling.LANCZOS), self.name)

    def tensor(self) -> Tensor:
        """Return the colors as an image tensor."""
        return to_tensor(self.rgb)


def fit_size(size: tuple[int, int], longer: int, shorter: int = 1, *, enlarge: bool = False) -> tuple[int, int]:
    """Return (width, height) of the same aspect ratio with the longer side `longer`, which enlarges only if `enlarge`.

    Neither side falls below `shorter`.
    """
    scale = longer / max(size)
    if scale > 1 and not enlarge:
        scale = 1
    return max(shorter, round(size[0] * scale)), max(shorter, round(size[1] * scale))


def to_tensor(image: Image.Image) -> Tensor:
    """Return a Pillow image in mode RGB as an image tensor, 1×3×H×W in [0, 1]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].contiguous() / 255


def to_pil(image: Tensor) -> Image.Image:
    """Return an image tensor as a Pillow image in mode RGB, clamped and rounded to 8 bits."""
    return Image.fromarray(to_integers(image, 8))


def to_integers(image: Tensor, bits: int) -> np.ndarray[Any, Any]:
    """Return an image tensor as H×W×3 unsigned integers of 8 or 16 bits, clamped and rounded."""
    limit = 2**bits - 1
    pixels: np.ndarray[Any, Any] = (image[0].detach().cpu().clamp(0, 1) * limit).round().permute(1, 2, 0).numpy()
    return pixels.astype(np.uint8 if bits == 8 else np.uint16)


def split_alpha(image: Image.Image, name: str) -> Picture:
    """Return an RGBA image as a `Picture`. Fully transparent pixels, which have no color, become white like paper."""
    alpha = image.getchannel("A")
    rgb = image.convert("RGB")
    rgb.paste((255, 255, 255), mask=alpha.point(lambda a: 255 * (a == 0)))
    return Picture(rgb, alpha, name)


def flatten_on_white(image: Image.Image) -> Image.Image:
    """Return the image in mode RGB, composited on white."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    return Image.composite(image.convert("RGB"), Image.new("RGB", image.size, "white"), image.getchannel("A"))

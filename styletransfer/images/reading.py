"""Reading images: files, Pillow images and tensors.

Whatever a file holds (EXIF orientation, ICC profile, gray, palette, CMYK, 16 bits, transparency) becomes a `Picture`.
"""

import contextlib
import io
import json
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from ..errors import UsageError
from ..options import Options
from .images import SETTINGS_KEY, SRGB, Picture, UnsupportedImageError, split_alpha, to_pil
from .jpeg import complete_jpeg
from .opening import open_image, pillow_errors
from .png import load_png
from .profiles import find_profile, read_exif
from .tiff import TiffFile, load_tiff

log = logging.getLogger(__name__)

#: The transposition that makes an image upright, by its EXIF orientation.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow logs some damage as an error, which Python would print if there were no handler.
logging.getLogger("PIL").addHandler(logging.NullHandler())


def read_picture(
    source: "str | os.PathLike[str] | Image.Image | Tensor | Picture", max_pixels: int = Options.max_pixels
) -> Picture:
    """Return the image of a path, a Pillow image or an image tensor, with 8 bits a channel.

    Raises:
        UsageError: the path is not a file, or the image has no pixels or values outside [0, 1].
        StyleTransferError: it is no image, damaged, or of more than `max_pixels`: a small file can claim any number
            and fill the memory.
    """
    if isinstance(source, Picture):
        return source
    if isinstance(source, Tensor):
        return Picture(to_pil(_check_tensor(source)))
    if isinstance(source, Image.Image):
        if 0 in source.size:
            raise UsageError("the image is empty: {}×{} pixels".format(*source.size))
        with pillow_errors("image", max_pixels):  # it may not have been loaded yet
            return _to_picture(source, "image")
    path = Path(source)
    with open_image(path, max_pixels) as image:
        return _to_picture(image, path.name)


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Discard what libtiff writes to stderr, past Python, about files that it calls tempfile.tif."""
    if sys.__stderr__ is None:  # closed from the start: descriptor 2 may be the image file
        yield
        return
    before = os.dup(2)
    try:
        with open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def _check_tensor(image: Tensor) -> Tensor:
    if image.ndim != 4 or image.shape[:2] != (1, 3) or not image.numel() or not image.is_floating_point():
        raise UsageError(f"an image tensor must be float 1×3×H×W in [0, 1]; this is {image.dtype} {tuple(image.shape)}")
    if not image.isfinite().all() or image.min() < 0 or image.max() > 1:
        raise UsageError("an image tensor must be float 1×3×H×W in [0, 1]; this one has values outside")
    return image


def _to_picture(image: Image.Image, name: str) -> Picture:
    is_png = isinstance(image, PngImageFile)
    profile = None if is_png else find_profile(image, name)  # before loading, which loses a TIFF's EXIF
    pixels, alpha = _load(image, name)
    profile = find_profile(image, name) if is_png else profile  # EXIF may follow the pixels
    transposition = _UPRIGHT.get(_read_orientation(image) or 1)
    if transposition is not None:
        pixels, alpha = pixels.transpose(transposition), alpha and alpha.transpose(transposition)
    if pixels.mode in ("RGBA", "LA", "PA"):
        alpha = pixels.getchannel("A")
    rgb = _to_srgb(_to_8_bits(pixels), profile, profile == image.info.get("icc_profile"), name)
    if alpha is None or alpha.getextrema()[0] == 255:
        picture = Picture(rgb, None, name)
    else:
        picture = split_alpha(Image.merge("RGBA", (*rgb.split(), alpha)), name)
    for part in (picture.rgb, picture.alpha):
        if part is not None:  # orientation and profile are applied, and must not be again
            part.info.clear()
    return picture


def _load(image: Image.Image, name: str) -> tuple[Image.Image, Image.Image | None]:
    """Return the pixels as stored in the file, and their opacity if it is not one of their channels."""
    alpha = None
    with _silent_stderr():
        if isinstance(image, PngImageFile) and image.tile and not image.tell():
            image, alpha = load_png(image)
        elif isinstance(image, TiffFile) or (isinstance(image, TiffImageFile) and image.tile):
            image, alpha = load_tiff(image)
        elif isinstance(image, JpegImageFile) and image.tile:
            image = _load_jpeg(image, name)
        else:
            image.load()
    is_deep = image.info.get("jpeg2000_bits", 8) > 8 and image.mode in ("RGB", "RGBA", "LA")
    if is_deep and 0 in (band.getextrema()[0] for band in image.split()):  # Pillow rounds the brightest to 256, so 0
        raise UnsupportedImageError("JPEG 2000 with more than 8 bits a channel is not supported; convert it to TIFF")
    has_color = image.mode in ("1", "L", "RGB") and "transparency" in image.info and alpha is None
    if image.mode == "P" or has_color:
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    return image, alpha


def _load_jpeg(image: JpegImageFile, name: str) -> Image.Image:
    file = image.fp
    try:
        image.load()
    except OSError:
        assert file is not None
        file.seek(0)
        complete = complete_jpeg(file.read())
        if complete is None:
            raise
        log.warning("%s: its end marker is missing, but no pixel is: reading it", name)
        return complete
    return image


def _read_orientation(image: Image.Image) -> int | None:
    """Return the EXIF orientation; None if it cannot be read."""
    with contextlib.suppress(Exception):
        orientation: int | None = read_exif(image).get(ExifTags.Base.Orientation)
        return orientation
    return None


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Return gray images of 16 bits or floats in mode L, others unchanged."""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float32)
        limit = 65535.0 if image.mode.startswith("I") else values[np.isfinite(values)].max(initial=1)
        return Image.fromarray(np.nan_to_num((values / limit * 255).clip(0, 255)).round().astype(np.uint8))
    return image


def _to_srgb(image: Image.Image, profile: bytes | None, is_embedded: bool, name: str) -> Image.Image:
    """Return the image in sRGB, by a usable profile if any. Ours are for RGB; an embedded one may be for gray."""
    if image.mode in ("RGBA", "LA", "1"):
        image = image.convert({"RGBA": "RGB", "LA": "L", "1": "L"}[image.mode])
    if image.mode == "LAB":
        return _convert(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
    if profile and image.mode in ("L", "RGB", "CMYK"):
        try:
            source = image if is_embedded or image.mode == "CMYK" else image.convert("RGB")
            return _convert(source, ImageCms.ImageCmsProfile(io.BytesIO(profile)))
        except (ImageCms.PyCMSError, OSError, ValueError) as error:
            log.warning("%s: cannot use its color profile (%s); reading it as sRGB", name, error)
    return image.convert("RGB")


def _convert(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    converted = ImageCms.profileToProfile(image, profile, SRGB, outputMode="RGB")
    if converted is None:
        raise ValueError("no conversion")
    return converted


def read_size(path: Path) -> tuple[int, int]:
    """Return width and height of the upright image, without its pixels. Raises as `read_picture`."""
    with open_image(path, sys.maxsize, with_pixels=False) as image:
        size = image.size
        if isinstance(image, TiffImageFile):  # some versions of Pillow swap the sides of its size
            size = image.tag_v2[256], image.tag_v2[257]
        return size[::-1] if (_read_orientation(image) or 1) in (5, 6, 7, 8) else size


def read_settings(path: Path) -> dict[str, Any]:
    """Return the settings that `write_picture` embedded; empty if there are none. Raises as `read_picture`."""
    with open_image(path, sys.maxsize, with_pixels=False) as image:
        text = image.info.get(SETTINGS_KEY) or read_exif(image).get(ExifTags.Base.ImageDescription, "")
    try:
        settings = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return {}
    return settings if isinstance(settings, dict) else {}


def read_own_settings(path: Path) -> dict[str, Any]:
    """Return the settings of an image that `stylize` made, to make it again; empty for other images.

    Raises as `read_picture`.
    """
    settings = read_settings(path)
    return settings if {"content", "style", "version"} <= settings.keys() else {}

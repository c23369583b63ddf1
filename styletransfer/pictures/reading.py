"""Reading pictures: files, Pillow images and tensors.

Whatever a file holds (EXIF orientation, ICC profile, grey, palette, CMYK, 16 bits, transparency) becomes a `Picture`.
"""

import contextlib
import io
import json
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, ImageCms, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor

from ..errors import StyleTransferError, UsageError
from ..files import describe_missing
from ..options import Options
from .images import SETTINGS_KEY, SRGB, Picture, split_alpha, to_pil

log = logging.getLogger(__name__)

#: Formats that are read, where Pillow has them. Not what starts a program (EPS), opens a picture of any format within
#: (IPTC) or unpacks without a limit (FITS), nor what nobody keeps pictures in.
_READABLE = (
    *("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "JPEG2000", "PPM", "PSD", "QOI", "DIB", "DDS", "ICNS"),
    *("ICO", "PCX", "SGI", "TGA"),  # last what is told by the least
)
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # tags of TIFF
#: What turns a picture upright, by its EXIF orientation.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow logs some damage as an error, and Python prints that when nobody listens.
logging.getLogger("PIL").addHandler(logging.NullHandler())


def list_pictures(folder: Path) -> list[Path]:
    """The pictures in a folder, told by their endings, by name; none that are hidden.

    Raises `UsageError` if there is none, or the folder can't be read.
    """
    kinds = Image.registered_extensions()
    try:
        listed = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError as error:
        raise UsageError(f"{folder}: can't be read: {error.strerror or error}") from error
    found = [path for path in listed if kinds.get(path.suffix.lower()) in _READABLE and path.is_file()]
    if not found:
        raise UsageError(f"{folder}: there is no picture in this folder")
    return found


def read_picture(
    source: "str | os.PathLike[str] | Image.Image | Tensor | Picture", max_pixels: int = Options.max_pixels
) -> Picture:
    """Reads a picture from a path, a Pillow image or an image tensor, with 8 bits a channel.

    Raises:
        UsageError: the path names no file, or the image has no pixels or values outside.
        StyleTransferError: not a picture, damaged, or of more than `max_pixels`: a small file can claim any number and
            fill the memory.
    """
    if isinstance(source, Picture):
        return source
    if isinstance(source, Tensor):
        return Picture(to_pil(_check_tensor(source)))
    if isinstance(source, Image.Image):
        if 0 in source.size:
            raise UsageError("an image of {}×{} pixels has none".format(*source.size))
        with _pillow_errors("image", max_pixels):  # it may not have been loaded yet
            return _to_picture(source, "image")
    path = Path(source)
    with _open(path, max_pixels) as image:
        if isinstance(image, TiffImagePlugin.TiffImageFile):  # libtiff takes memory for a whole tile
            pixels = image.tag_v2.get(_TILE_WIDTH, 1) * image.tag_v2.get(_TILE_LENGTH, 1)
            if pixels > max_pixels:
                raise Image.DecompressionBombError(f"a tile of {pixels} pixels")
        return _to_picture(image, path.name)


@contextlib.contextmanager
def _open(path: Path, max_pixels: int) -> Iterator[Image.Image]:
    if not os.path.isfile(path):  # os.path and not Path, whose methods raise for names too long
        other = "a folder" if os.path.isdir(path) else "a pipe or a device" if os.path.exists(path) else None
        raise UsageError(f"{path} is {other}, not a picture" if other else describe_missing(path))
    Image.init()
    formats = [kind for kind in _READABLE if kind in Image.OPEN]
    # Opened here, because Pillow maps a file that it knows by name into memory, and dies if it is then cut off.
    with _pillow_errors(path, max_pixels), open(path, "rb") as file, Image.open(file, formats=formats) as image:
        yield image


@contextlib.contextmanager
def _pillow_errors(name: object, max_pixels: int) -> Iterator[None]:
    """Pillow within: kept to so many pixels and silent, and whatever it raises is an error of ours that begins so.

    Its own limit, and not a look at the size, because a file can hold another picture or tiles that are larger.
    """
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        pixels = re.findall(r"\d+", str(error))[0]
        raise StyleTransferError(
            f"{name}: {pixels} pixels are more than --max-pixels; if that is right: --max-pixels {pixels}"
        ) from error
    except UnidentifiedImageError as error:
        raise StyleTransferError(f"{name}: not a picture in a supported format, or an empty file") from error
    except MemoryError as error:
        raise StyleTransferError(f"{name}: there is not enough memory to read it") from error
    except Exception as error:  # a damaged file makes Pillow raise errors of almost any kind
        reason = getattr(error, "strerror", None) or f"it seems to be damaged: {error or type(error).__name__}"
        raise StyleTransferError(f"{name}: can't be read: {reason}") from error
    finally:
        Image.MAX_IMAGE_PIXELS = before


@contextlib.contextmanager
def _silent_stderr() -> Iterator[None]:
    """Keeps from stderr what libtiff writes there past Python about files that it calls tempfile.tif."""
    if sys.__stderr__ is None:  # it was closed from the beginning, and the picture may have its number
        yield
        return
    before = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def _check_tensor(image: Tensor) -> Tensor:
    if image.ndim != 4 or image.shape[:2] != (1, 3) or not image.numel() or not image.is_floating_point():
        raise UsageError(f"an image tensor is float 1×3×H×W in [0, 1]; this is {image.dtype} {tuple(image.shape)}")
    if not image.isfinite().all() or image.min() < 0 or image.max() > 1:
        raise UsageError("an image tensor is float 1×3×H×W in [0, 1]; this one has values outside")
    return image


def _to_picture(image: Image.Image, name: str) -> Picture:
    with _silent_stderr():
        image.load()
    profile, orientation = image.info.get("icc_profile"), None
    with contextlib.suppress(Exception):  # an unreadable orientation is no orientation
        orientation = image.getexif().get(ExifTags.Base.Orientation)
    if orientation in _UPRIGHT:
        image = image.transpose(_UPRIGHT[orientation])
    if image.mode == "P" or (image.mode in ("1", "L", "RGB") and "transparency" in image.info):
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    alpha = image.getchannel("A") if image.mode in ("RGBA", "LA", "PA") else None
    rgb = _to_srgb(_to_8_bits(image), profile, name)
    if alpha is None or alpha.getextrema()[0] == 255:
        return Picture(rgb, None, name)
    return split_alpha(Image.merge("RGBA", (*rgb.split(), alpha)), name)


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Grey pictures of 16 bits or of floats to mode L; others as they are. (Pillow reads RGB with 8 bits a channel.)"""
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image, dtype=np.float32)
        limit = 65535.0 if image.mode.startswith("I") else values[np.isfinite(values)].max(initial=1)
        return Image.fromarray(np.nan_to_num((values / limit * 255).clip(0, 255)).round().astype(np.uint8))
    return image


def _to_srgb(image: Image.Image, profile: bytes | None, name: str) -> Image.Image:
    """Mode RGB in sRGB, by the embedded profile if there is one that can be used."""
    if image.mode in ("RGBA", "LA", "1"):
        image = image.convert({"RGBA": "RGB", "LA": "L", "1": "L"}[image.mode])
    if image.mode == "LAB":
        return _convert(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
    if profile and image.mode in ("L", "RGB", "CMYK"):
        try:
            return _convert(image, ImageCms.ImageCmsProfile(io.BytesIO(profile)))
        except (ImageCms.PyCMSError, OSError, ValueError) as error:
            log.warning("%s: its colour profile can't be used (%s); taken as sRGB", name, error)
    return image.convert("RGB")


def _convert(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    converted = ImageCms.profileToProfile(image, profile, SRGB, outputMode="RGB")
    if converted is None:
        raise ValueError("no conversion")
    return converted


def read_size(path: Path) -> tuple[int, int]:
    """Width and height, as the file tells them. Raises as `read_picture`."""
    with _open(path, sys.maxsize) as image:
        return image.size


def read_settings(path: Path) -> dict[str, Any]:
    """The settings that `write_picture` embedded in a picture; empty when there are none. Raises as `read_picture`."""
    with _open(path, sys.maxsize) as image:
        text = image.info.get(SETTINGS_KEY) or image.getexif().get(ExifTags.Base.ImageDescription, "")
    try:
        settings = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return {}
    return settings if isinstance(settings, dict) else {}


def read_own_settings(path: Path) -> dict[str, Any]:
    """The settings of a picture that `stylize` made, by which it can be made again; empty for others.

    Raises as `read_picture`.
    """
    told = read_settings(path)
    return told if {"content", "style", "version"} <= told.keys() else {}

"""Opening image files with Pillow, safely: allowed formats, a limit of pixels, and clear errors."""

import contextlib
import os
import re
import struct
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image, UnidentifiedImageError, features

from ..errors import StyleTransferError, UsageError, install_hint
from ..files import describe_missing
from .images import UnsupportedImageError
from .png import SIGNATURE, open_png
from .tiff import SIGNATURES, TiffFile

#: Formats that are read, where Pillow has them. Excluded are those that start a program (EPS), contain an image of any
#: format (IPTC) or unpack without a limit (FITS), and those that nobody keeps images in.
READABLE = (
    *("PNG", "JPEG", "MPO", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "HEIF", "JPEG2000", "PPM", "PSD", "QOI", "DIB"),
    *("DDS", "ICNS", "ICO", "PCX", "SGI", "TGA"),  # the shortest signatures last
)
NEEDS_HEIF = f"HEIC needs pillow-heif: {install_hint('heif')}"
NEEDS_AVIF = "AVIF needs Pillow 11.3 or newer: pip install --upgrade pillow"
_HEIF_BRANDS = {b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs"}
_TILE_WIDTH, _TILE_LENGTH = 322, 323  # tags of TIFF


@contextlib.contextmanager
def open_image(path: Path, max_pixels: int, *, with_pixels: bool = True) -> Iterator[Image.Image]:
    """Open a file of any readable format.

    Args:
        with_pixels: whether the image can be loaded; otherwise only its metadata is read.

    Raises:
        UsageError: the path is not a file.
        StyleTransferError: it is no image, damaged, or of more than `max_pixels`; also for errors within the block.
    """
    if not os.path.isfile(path):  # os.path, because methods of Path raise for names too long
        other = "a folder" if os.path.isdir(path) else "a pipe or a device" if os.path.exists(path) else None
        raise UsageError(f"{path} is {other}, not an image" if other else describe_missing(path))
    # Opened here, because Pillow memory-maps a file that it opens by name, and crashes if it is then truncated.
    with pillow_errors(path, max_pixels), open(path, "rb") as file, _identify(file, max_pixels, with_pixels) as image:
        yield image


def _identify(file: BinaryIO, max_pixels: int, with_pixels: bool) -> Image.Image:
    """Return the unloaded image, with "cicp", "nclx_profile" and "icc_profile" in its info where Pillow lacks them."""
    start = file.read(64)
    file.seek(0)
    if start.startswith(b"MM\0+"):
        raise UnsupportedImageError("BigTIFF in big-endian order is not supported")  # Pillow finds no tags
    if start.startswith(SIGNATURES):
        image = TiffFile(file)
        tile = image.tag_v2.get(_TILE_WIDTH, 1) * image.tag_v2.get(_TILE_LENGTH, 1)
        if tile > max_pixels:  # libtiff allocates all of it
            raise Image.DecompressionBombError(f"a tile of {tile} pixels")
        if image.width * image.height > max_pixels:
            raise Image.DecompressionBombError(f"{image.width * image.height} pixels")
        return image
    if start.startswith(SIGNATURE):
        stream, info = open_png(file, with_pixels=with_pixels)
        png = Image.open(stream, formats=["PNG"])
        png.info.update(info)
        return png
    Image.init()
    if start[4:8] == b"ftyp":
        brands = {start[at : at + 4] for at in range(8, min(len(start), int.from_bytes(start[:4], "big")), 4)}
        if brands & _HEIF_BRANDS and not register_heif():
            raise UnsupportedImageError(NEEDS_HEIF)
        if brands & {b"avif", b"avis"} and not features.check("avif"):
            raise UnsupportedImageError(NEEDS_AVIF)
    opened = Image.open(file, formats=[kind for kind in READABLE if kind in Image.OPEN])
    if opened.format in ("AVIF", "JPEG2000"):
        before = file.tell()
        opened.info.update(_read_boxes(file))
        file.seek(before)
    return opened


def register_heif() -> bool:
    """Register HEIC and HEIF with Pillow; return whether pillow-heif is installed."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def _read_boxes(file: BinaryIO) -> dict[str, Any]:
    """Return what Pillow skips in an AVIF's or JPEG 2000's boxes: color space, and the bits of a JPEG 2000's samples.

    ISO 14496-12, 12.1.5; ISO 15444-1, I.5.3.3 and A.5.1.
    """
    file.seek(0)
    head, info = file.read(2**20), dict[str, Any]()
    at = head.find(b"colrnclx") + 8
    if at > 7 and len(head) >= at + 4:
        primaries, transfer = struct.unpack(">HH", head[at : at + 4])
        info["nclx_profile"] = {"color_primaries": primaries, "transfer_characteristics": transfer}
    at = head.find(b"colr\2")
    if at > 3:
        info["icc_profile"] = head[at + 7 : at - 4 + int.from_bytes(head[at - 4 : at], "big")]
    at = head.find(b"\xff\x4f\xff\x51")
    if at >= 0:
        end = at + 42 + 3 * int.from_bytes(head[at + 40 : at + 42], "big")
        info["jpeg2000_bits"] = max(((size & 127) + 1 for size in head[at + 42 : end : 3]), default=8)
    return info


@contextlib.contextmanager
def pillow_errors(name: object, max_pixels: int) -> Iterator[None]:
    """Limit Pillow's pixels, silence its warnings, and turn its errors into ours, which begin with the name.

    Pillow's own limit also covers further images and tiles in a file, which can be larger than the image's size.
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
            f"{name}: {pixels} pixels are more than max_pixels; if that is right, set max_pixels to {pixels}"
        ) from error
    except StyleTransferError:
        raise
    except UnsupportedImageError as error:
        raise StyleTransferError(f"{name}: {error}") from error
    except UnidentifiedImageError as error:
        raise StyleTransferError(f"{name}: not an image in a supported format, or an empty file") from error
    except MemoryError as error:
        raise StyleTransferError(f"{name}: not enough memory to read it") from error
    except Exception as error:  # a damaged file can make Pillow raise almost any error
        reason = getattr(error, "strerror", None) or f"it seems to be damaged: {error or type(error).__name__}"
        raise StyleTransferError(f"{name}: cannot read image: {reason}") from error
    finally:
        Image.MAX_IMAGE_PIXELS = before

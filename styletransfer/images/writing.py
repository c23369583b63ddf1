"""Writing images: PNG, JPEG, WebP and TIFF, with an sRGB profile and the settings of the run."""

import contextlib
import io
import json
import logging
import os
import stat
import struct
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin
from torch import Tensor

from ..errors import StyleTransferError, UsageError
from ..files import follow_links, is_writable, write_atomically
from .images import SETTINGS_KEY, SRGB, flatten_on_white, to_integers, to_pil

log = logging.getLogger(__name__)

#: Limits in bytes: of text in a JPEG's EXIF, which can hold 64 KiB, and of a PNG's chunk, which can hold 2 GiB.
_MAX_JPEG_TEXT, _CHUNK = 60_000, 2**30
#: Pillow's names of the output formats, by file ending.
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
#: Formats that keep transparency, and those written with 16 bits a channel on request.
_WITH_ALPHA, _WITH_16_BITS = {"PNG", "WEBP", "TIFF"}, {"PNG", "TIFF"}
#: The most pixels of an image's longer side: libjpeg's JPEG_MAX_DIMENSION, and 14 bits.
LONGEST_SIDES = {"JPEG": 65_500, "WEBP": 16_383}
_QUALITY: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95},
    "TIFF": {"compression": "tiff_lzw"},
}
#: The profile to embed. Pillow creates it at every start, with a date (ICC.1, 7.2.8), here replaced by that of the sRGB
#: standard so that the same image is the same file.
_PROFILE = SRGB.tobytes()[:24] + struct.pack(">6H", 1999, 10, 18, 0, 0, 0) + SRGB.tobytes()[36:]


def check_output(path: Path, bit_depth: int, inputs: tuple[Path, ...] = (), *, writable: bool = False) -> None:
    """Raise `UsageError` if an image cannot be written there: format, folder, permissions, or one of the inputs.

    Args:
        writable: whether the folder is known to be.
    """
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise UsageError(f"{path}: unknown image format; the name must end in {', '.join(FORMATS)}")
    if bit_depth == 16 and kind not in _WITH_16_BITS:
        raise UsageError(f"{path}: {kind} has 8 bits a channel; for 16 use .png or .tif")
    check_folder(path, writable=writable)
    for source in inputs:
        if path.exists() and os.path.exists(source) and path.samefile(source):
            raise UsageError(f"{path} is an input of this run and would be lost; name another output with -o")


def check_distinct(path: Path, taken: Iterable[Path], option: str) -> None:
    """Raise `UsageError` if a second file of a run would replace an input or the output image."""
    if os.path.realpath(path) in map(os.path.realpath, taken):
        raise UsageError(f"{path} is an input or the output image of this run; name another file with {option}")


def check_folder(path: Path, *, writable: bool = False) -> None:
    """Raise `UsageError` if no file can be written there: folder, permissions, or name. Follows symbolic links.

    Args:
        writable: whether the folder is known to be; finding out takes longer than all the rest.
    """
    try:
        target = follow_links(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: {getattr(error, 'strerror', None) or f'not a valid file name: {error}'}") from error
    if os.path.isdir(target):
        raise UsageError(f"{path} is a folder; name a file in it")
    folder = target.parent if os.path.islink(path) else path.parent
    if not os.path.isdir(folder):
        raise UsageError(f"{path}: the folder {folder} does not exist")
    if not writable and not is_writable(folder):
        raise UsageError(f"{path}: the folder {folder.absolute()} is not writable")
    try:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(target.stat().st_mode):
                raise UsageError(f"{path} is a pipe or a device; name a file")
    except OSError as error:
        raise UsageError(f"{path}: not a valid file name: {error}") from error


def write_picture(
    image: Tensor, path: Path, *, alpha: Image.Image | None = None, bit_depth: int = 8, settings: Mapping[str, Any]
) -> None:
    """Write an image atomically, with an sRGB profile, its opacity where the format keeps one, and the run's settings.

    The settings are JSON in a PNG's text under "styletransfer", elsewhere in EXIF's ImageDescription.

    Raises:
        StyleTransferError: the file cannot be written.
    """
    kind = FORMATS[path.suffix.lower()]
    encode = _encode_16 if bit_depth == 16 else _encode_8
    try:
        data = encode(image, kind, alpha, settings)
    except (OSError, ValueError) as error:  # more pixels than the format can hold
        size = f"{image.shape[3]}×{image.shape[2]}"
        raise StyleTransferError(f"{path}: {kind} cannot hold {size} pixels: {error}") from error
    write_atomically(path, data)


def _encode_8(image: Tensor, kind: str, alpha: Image.Image | None, settings: Mapping[str, Any]) -> bytes:
    picture, text = to_pil(image), json.dumps(settings)
    if alpha is not None:
        picture.putalpha(alpha)
    if kind not in _WITH_ALPHA:
        picture = flatten_on_white(picture)
    if kind == "JPEG" and len(text) > _MAX_JPEG_TEXT:
        log.warning("the settings are too long for a JPEG and are left out; a PNG can hold them")
        text = ""
    extra = {**_QUALITY.get(kind, {}), "icc_profile": _PROFILE}
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_text(SETTINGS_KEY, text)
        extra["pnginfo"] = info
    else:
        exif = Image.Exif()
        exif[ExifTags.Base.ImageDescription], exif[ExifTags.Base.Software] = text, _describe_software(settings)
        extra["exif"] = exif
    file = io.BytesIO()  # not on disk, where Pillow does not notice that a full disk truncates a JPEG
    picture.save(file, format=kind, **extra)
    return file.getvalue()


def _encode_16(image: Tensor, kind: str, alpha: Image.Image | None, settings: Mapping[str, Any]) -> bytes:
    channels = to_integers(image, 16)
    if alpha is not None:
        channels = np.dstack([channels, np.asarray(alpha, dtype=np.uint16) * 257])
    return _encode_png16(channels, settings) if kind == "PNG" else _encode_tiff16(channels, settings)


def _describe_software(settings: Mapping[str, Any]) -> str:
    return f"styletransfer {settings.get('version', '')}".strip()


def _encode_png16(channels: np.ndarray[Any, Any], settings: Mapping[str, Any]) -> bytes:
    """Return a PNG with 16 bits a channel, which Pillow cannot write (PNG specification, sections 5 and 9)."""
    height, width, depth = channels.shape
    rows = np.ascontiguousarray(channels, ">u2").view(np.uint8).reshape(height, -1)
    # Filter 2, "up", subtracts from each byte the one above it: smooth images compress much better.
    filtered = np.full((height, rows.shape[1] + 1), 2, np.uint8)
    filtered[:, 1:] = np.diff(rows, axis=0, prepend=np.zeros((1, rows.shape[1]), np.uint8))
    packed = zlib.compress(filtered.tobytes(), 6)
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[depth], 0, 0, 0)
    chunks = (
        (b"IHDR", header),
        (b"iCCP", b"sRGB\0\0" + zlib.compress(_PROFILE)),
        (b"tEXt", SETTINGS_KEY.encode() + b"\0" + json.dumps(settings).encode("ascii")),
        *((b"IDAT", packed[start : start + _CHUNK]) for start in range(0, len(packed), _CHUNK)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _encode_tiff16(channels: np.ndarray[Any, Any], settings: Mapping[str, Any]) -> bytes:
    """Return a TIFF with 16 bits a channel, which Pillow cannot write."""
    import tifffile

    file = io.BytesIO()
    tifffile.imwrite(
        file,
        channels,
        photometric="rgb",
        extrasamples=["unassalpha"] if channels.shape[2] == 4 else None,
        compression="zlib",
        description=json.dumps(settings),
        software=_describe_software(settings),
        iccprofile=_PROFILE,
        metadata=None,
    )
    return file.getvalue()

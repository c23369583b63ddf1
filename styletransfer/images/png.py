"""PNG: what Pillow rejects (large profiles, long texts) or reads inexactly (16 bits, a transparent color)."""

import io
import struct
import zlib
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from .images import SETTINGS_KEY

Samples = np.ndarray[Any, Any]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
#: Larger unpacked profiles and texts, in bytes, are left out. A printer's profile has a few MiB.
_LARGEST_PROFILE, _LONGEST_TEXT = 10 * 2**20, 2**20
#: Texts that are read: our settings, XMP, and EXIF as ImageMagick once wrote it.
_TEXTS = (SETTINGS_KEY.encode(), b"XML:com.adobe.xmp", b"Raw profile type exif")
#: Ancillary chunks that say what pixels mean. Those of animations are left out: only the first image is read.
_PIXEL_CHUNKS = (b"tRNS", b"gAMA", b"cHRM", b"sRGB")


def open_png(file: BinaryIO, *, with_pixels: bool = True) -> tuple[BinaryIO, dict[str, bytes]]:
    """Return the PNG without chunks that Pillow does not need, and its "icc_profile", "cicp" and "exif" if present.

    Args:
        with_pixels: whether the image will be decoded; if not, its data is skipped, which saves most of the time.
    """
    out, info, texts = io.BytesIO(), dict[str, bytes](), set[bytes]()
    out.write(file.read(8))
    while len(header := file.read(8)) == 8:
        length, kind = struct.unpack(">I4s", header)
        if kind == b"IDAT" and not with_pixels:
            out.write(header)  # Pillow stops searching here
            file.seek(length + 4, io.SEEK_CUR)
            continue
        if kind[:1].isupper() or kind in _PIXEL_CHUNKS or not kind.isalpha():  # Pillow reports invalid kinds
            out.write(header + file.read(length + 4))
            continue
        if kind == b"iCCP":
            profile = _unpack(file.read(length).partition(b"\0")[2][1:], _LARGEST_PROFILE)
            info.setdefault("icc_profile", profile or b"invalid")
        elif kind == b"cICP" and length == 4:
            info["cicp"] = file.read(4)
        elif kind == b"eXIf":
            info.setdefault("exif", b"Exif\0\0" + file.read(length))
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            key, data = _read_text(file, kind, length)
            if data and key not in texts:
                texts.add(key)
                out.write(struct.pack(">I4s", len(data), kind) + data + struct.pack(">I", zlib.crc32(kind + data)))
        else:
            file.seek(length, io.SEEK_CUR)
        file.seek(4, io.SEEK_CUR)  # the checksum
    out.seek(0)
    return out, info


def _read_text(file: BinaryIO, kind: bytes, length: int) -> tuple[bytes, bytes]:
    """Return a text's keyword and its chunk's data: empty if it is not needed or too long."""
    start = file.read(min(length, 80))
    key = start.partition(b"\0")[0]
    is_ours = key == _TEXTS[0] and kind == b"tEXt"
    if key not in _TEXTS or length > _LONGEST_TEXT * (16 if is_ours else 1):
        file.seek(length - len(start), io.SEEK_CUR)
        return key, b""
    data = start + file.read(length - len(start))
    packed = data[len(key) + 2 :] if kind == b"zTXt" else b""
    if kind == b"iTXt" and data[len(key) + 1 : len(key) + 2] == b"\1":
        packed = data[len(key) + 3 :].split(b"\0", 2)[-1]
    return key, b"" if packed and _unpack(packed, _LONGEST_TEXT) is None else data


def _unpack(data: bytes, max_bytes: int) -> bytes | None:
    """Return unpacked data; None if it is damaged or longer than `max_bytes`."""
    unpacker = zlib.decompressobj()
    try:
        plain = unpacker.decompress(data, max_bytes)
    except zlib.error:
        return None
    return plain if unpacker.eof else None


def load_png(image: PngImageFile) -> tuple[Image.Image, Image.Image | None]:
    """Return the pixels rounded to 8 bits, and the opacity if there is a transparent color (PNG, 11.3.1.1).

    The color is compared with the samples as they are in the file: of 16 bits, all count. Gray of 16 bits stays in
    mode I;16, a palette with its transparency in mode P.
    """
    rawmode, file, key = str(image.tile[0].args), image.fp, image.info.get("transparency")
    image.load()
    if image.mode not in ("1", "L", "I;16", "RGB", "RGBA"):
        return image, None
    samples = np.asarray(image.convert("L") if image.mode == "1" else image)
    low = None
    if rawmode == "LA;16B":  # as four bytes a pixel: Pillow's own mode drops the low ones
        both = _load_as(file, "RGBA")
        samples, low = both[..., 0::2], both[..., 1::2]
    elif rawmode in ("RGB;16B", "RGBA;16B"):
        low = _load_as(file, rawmode[:-1] + "L")  # in the other byte order the low bytes are the high ones
    alpha = None
    if key is not None and image.mode != "RGBA":
        depth = {"1": 1, "L;2": 2, "L;4": 4, "I;16B": 16, "RGB;16B": 16}.get(rawmode, 8)
        hidden = _find_color(samples, low, np.array(key), depth)
        alpha = Image.fromarray(np.where(hidden, np.uint8(0), np.uint8(255)))
    if low is None:
        return image, alpha
    bands = [Image.fromarray(_round_to_8_bits(samples[..., i], low[..., i])) for i in range(samples.shape[2])]
    return Image.merge({2: "LA", 3: "RGB", 4: "RGBA"}[len(bands)], bands), alpha


def _load_as(file: Any, rawmode: str) -> Samples:
    """Return the samples of the file, decoded with another raw mode of Pillow's."""
    file.seek(0)
    image = PngImageFile(file)
    image.tile = [image.tile[0]._replace(args=rawmode)]
    image.load()
    return np.asarray(image)


def _find_color(samples: Samples, low: Samples | None, key: Samples, depth: int) -> Samples:
    """Return where H×W or H×W×3 samples of 8 bits, or 16 with their low bytes, equal a color of the file's depth."""
    most = 2**depth - 1
    key = key & most
    if depth < 8:
        key = key * (255 // most)  # Pillow stretches them to 8 bits
    same = samples == key if low is None else (samples == key >> 8) & (low == key & 255)
    hidden: Samples = same.all(2) if same.ndim == 3 else same
    return hidden


def _round_to_8_bits(high: Samples, low: Samples) -> Samples:
    """Return v / 257 rounded, of the high and low bytes of v = 256 high + low = 257 high + (low - high)."""
    rounded: Samples = high + ((low > high) & (low - high > 128)) - ((high > low) & (high - low > 128))
    return rounded

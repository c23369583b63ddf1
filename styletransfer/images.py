"""Pictures in and out: files, Pillow images and tensors.

An image tensor is float32, 1×3×H×W, RGB, sRGB-encoded, in [0, 1]. Reading turns whatever a file holds (EXIF
orientation, ICC profile, grey, palette, CMYK, 16 bits, transparency) into that; resizing is Pillow's Lanczos filter,
antialiased.
"""

import contextlib
import io
import json
import logging
import os
import re
import struct
import sys
import warnings
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageCms, ImageStat, PngImagePlugin, TiffImagePlugin, UnidentifiedImageError
from torch import Tensor

from .errors import StyleTransferError, UsageError
from .files import writable, write_whole
from .options import Options

log = logging.getLogger(__name__)

#: Bytes: of text in a JPEG's EXIF, of which there can be 64 KiB; in a chunk of a PNG, which can hold 2 GiB.
_MOST_IN_JPEG, _CHUNK = 60_000, 2**30
#: What stands for the name of a picture that is no file.
UNNAMED = "image"
#: Output endings and Pillow's names of their formats.
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP", ".tif": "TIFF", ".tiff": "TIFF"}
#: Formats that are read, where Pillow has them. Not what starts a program (EPS), opens a picture of any format within
#: (IPTC) or unpacks without a limit (FITS), nor what nobody keeps pictures in.
_READABLE = (
    *("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "JPEG2000", "PPM", "PSD", "QOI", "DIB", "DDS", "ICNS"),
    *("ICO", "PCX", "SGI", "TGA"),  # last what is told by the least
)
#: Formats that keep transparency, and those written with 16 bits a channel on request.
_WITH_ALPHA, _WITH_16_BITS = {"PNG", "WEBP", "TIFF"}, {"PNG", "TIFF"}
_QUALITY: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"quality": 95},
    "TIFF": {"compression": "tiff_lzw"},
}
_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
#: The profile to embed. It is made anew at every start, and dated (ICC.1, 7.2.8): with the day of the sRGB standard in
#: place of the date, the same picture is the same file.
_SRGB_BYTES = _SRGB.tobytes()[:24] + struct.pack(">6H", 1999, 10, 18, 0, 0, 0) + _SRGB.tobytes()[36:]
_KEY = "styletransfer"  # of the settings in a PNG
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

    def flat(self, size: tuple[int, int]) -> Image.Image:
        """A picture (width, height) of nothing but the mean colour."""
        red, green, blue = (round(mean) for mean in ImageStat.Stat(self.rgb).mean)
        return Image.new("RGB", size, (red, green, blue))

    def resized(self, size: tuple[int, int]) -> "Picture":
        """The same at another (width, height)."""
        if size == self.rgb.size:
            return self
        rgb, alpha = self.rgb, self.alpha
        if alpha is None:
            return Picture(rgb.resize(size, Image.Resampling.LANCZOS), None, self.name)
        # Pillow weights the colours of RGBA by opacity: what shows nowhere doesn't bleed into what does.
        merged = Image.merge("RGBA", (*rgb.split(), alpha))
        return _split_alpha(merged.resize(size, Image.Resampling.LANCZOS), self.name)

    def tensor(self) -> Tensor:
        """The colours as an image tensor."""
        return to_tensor(self.rgb)


def in_folder(folder: Path) -> list[Path]:
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


def fitted(size: tuple[int, int], longer: int, shorter: int = 1, *, enlarge: bool = False) -> tuple[int, int]:
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
    return Image.fromarray(_integers(image, 8))


def _integers(image: Tensor, bits: int) -> np.ndarray[Any, Any]:
    """H×W×3 unsigned integers of 8 or 16 bits."""
    limit = 2**bits - 1
    pixels: np.ndarray[Any, Any] = (image[0].detach().cpu().clamp(0, 1) * limit).round().permute(1, 2, 0).numpy()
    return pixels.astype(np.uint8 if bits == 8 else np.uint16)


# --- reading -------------------------------------------------------------------------------------------------------


def read(
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
        return Picture(to_pil(_checked(source)))
    if isinstance(source, Image.Image):
        if 0 in source.size:
            raise UsageError("an image of {}×{} pixels has none".format(*source.size))
        with _guarded("image", max_pixels):  # it may not have been loaded yet
            return _upright(source, "image")
    path = Path(source)
    with _opened(path, max_pixels) as image:
        if isinstance(image, TiffImagePlugin.TiffImageFile):  # libtiff takes memory for a whole tile
            pixels = image.tag_v2.get(_TILE_WIDTH, 1) * image.tag_v2.get(_TILE_LENGTH, 1)
            if pixels > max_pixels:
                raise Image.DecompressionBombError(f"a tile of {pixels} pixels")
        return _upright(image, path.name)


@contextlib.contextmanager
def _opened(path: Path, max_pixels: int) -> Iterator[Image.Image]:
    if not os.path.isfile(path):  # os.path and not Path, whose methods raise for names too long
        other = "a folder" if os.path.isdir(path) else "a pipe or a device" if os.path.exists(path) else None
        raise UsageError(f"{path} is {other}, not a picture" if other else f"{path}: no such file")
    Image.init()
    formats = [kind for kind in _READABLE if kind in Image.OPEN]
    # Opened here, because Pillow maps a file that it knows by name into memory, and dies if it is then cut off.
    with _guarded(path, max_pixels), open(path, "rb") as file, Image.open(file, formats=formats) as image:
        yield image


@contextlib.contextmanager
def _guarded(name: object, max_pixels: int) -> Iterator[None]:
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
            f"{name}: too large a picture: {pixels} pixels; if that is right: --max-pixels {pixels}"
        ) from error
    except UnidentifiedImageError as error:
        raise StyleTransferError(f"{name}: not a picture of a kind that can be read, or an empty file") from error
    except MemoryError as error:
        raise StyleTransferError(f"{name}: there is not enough memory to read it") from error
    except Exception as error:  # a damaged file makes Pillow raise errors of almost any kind
        reason = getattr(error, "strerror", None) or f"it seems to be damaged: {error or type(error).__name__}"
        raise StyleTransferError(f"{name}: can't be read: {reason}") from error
    finally:
        Image.MAX_IMAGE_PIXELS = before


@contextlib.contextmanager
def _stderr_off() -> Iterator[None]:
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


def _checked(image: Tensor) -> Tensor:
    if image.ndim != 4 or image.shape[:2] != (1, 3) or not image.numel() or not image.is_floating_point():
        raise UsageError(f"an image tensor is float 1×3×H×W in [0, 1]; this is {image.dtype} {tuple(image.shape)}")
    if not image.isfinite().all() or image.min() < 0 or image.max() > 1:
        raise UsageError("an image tensor is float 1×3×H×W in [0, 1]; this one has values outside")
    return image


def _upright(image: Image.Image, name: str) -> Picture:
    with _stderr_off():
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
    return _split_alpha(Image.merge("RGBA", (*rgb.split(), alpha)), name)


def _split_alpha(image: Image.Image, name: str) -> Picture:
    """Colours and opacity apart. What is wholly transparent has no colour of its own: white, like paper."""
    alpha = image.getchannel("A")
    rgb = image.convert("RGB")
    rgb.paste((255, 255, 255), mask=alpha.point(lambda a: 255 * (a == 0)))
    return Picture(rgb, alpha, name)


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
        return _converted(image, ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")))
    if profile and image.mode in ("L", "RGB", "CMYK"):
        try:
            return _converted(image, ImageCms.ImageCmsProfile(io.BytesIO(profile)))
        except (ImageCms.PyCMSError, OSError, ValueError) as error:
            log.warning("%s: its colour profile can't be used (%s); taken as sRGB", name, error)
    return image.convert("RGB")


def _converted(image: Image.Image, profile: ImageCms.ImageCmsProfile) -> Image.Image:
    converted = ImageCms.profileToProfile(image, profile, _SRGB, outputMode="RGB")
    if converted is None:
        raise ValueError("no conversion")
    return converted


def on_white(image: Image.Image) -> Image.Image:
    """The picture in mode RGB, on white where it is transparent."""
    if image.mode != "RGBA":
        return image.convert("RGB")
    return Image.composite(image.convert("RGB"), Image.new("RGB", image.size, "white"), image.getchannel("A"))


# --- writing -------------------------------------------------------------------------------------------------------


def check_output(path: Path, bit_depth: int, inputs: tuple[Path, ...] = ()) -> None:
    """Raises `UsageError` when a picture can't be written there: format, folder, rights, or one of the inputs."""
    kind = FORMATS.get(path.suffix.lower())
    if kind is None:
        raise UsageError(f"{path}: unknown kind of picture; the name must end in {', '.join(FORMATS)}")
    if bit_depth == 16 and kind not in _WITH_16_BITS:
        raise UsageError(f"{path}: {kind} has 8 bits a channel; for 16 use .png or .tif")
    check_folder(path)
    for given in inputs:
        if path.exists() and os.path.exists(given) and path.samefile(given):
            raise UsageError(f"{path} is an input of this run and would be lost; name another output with -o")


def check_other(path: Path, taken: Iterable[Path], option: str) -> None:
    """Raises `UsageError` when a second file of a run would replace an input or its picture."""
    if os.path.realpath(path) in map(os.path.realpath, taken):
        raise UsageError(f"{path} is an input or the picture of this run; name another file with {option}")


def check_folder(path: Path) -> None:
    """Raises `UsageError` when no file can be written there: folder, rights, or name."""
    if os.path.isdir(path):
        raise UsageError(f"{path} is a folder; name a picture in it")
    if not os.path.isdir(path.parent):
        raise UsageError(f"{path}: the folder {path.parent} does not exist")
    if not writable(path.parent):
        raise UsageError(f"{path}: the folder {path.parent.absolute()} can't be written to")
    try:
        with contextlib.suppress(FileNotFoundError):
            path.stat()
    except (OSError, ValueError) as error:
        raise UsageError(f"{path}: not a name that a file can have: {error}") from error


def write(image: Tensor, path: Path, *, alpha: Image.Image | None, bit_depth: int, settings: Mapping[str, Any]) -> None:
    """Writes an image tensor with an sRGB profile, its opacity where the format keeps one, and the run's settings.

    The settings stand as JSON in a PNG's text under "styletransfer", elsewhere in EXIF's ImageDescription. The file
    appears under its name only when it is whole.

    Raises:
        StyleTransferError: it can't be written.
    """
    kind = FORMATS[path.suffix.lower()]
    encode = _encoded_16 if bit_depth == 16 else _encoded_8
    try:
        data = encode(image, kind, alpha, settings)
    except (OSError, ValueError) as error:  # what Pillow says to more pixels than the format can hold
        size = f"{image.shape[3]}×{image.shape[2]}"
        raise StyleTransferError(f"{path}: {kind} can't hold these {size} pixels: {error}") from error
    write_whole(path, data)


def _encoded_8(image: Tensor, kind: str, alpha: Image.Image | None, settings: Mapping[str, Any]) -> bytes:
    picture, text = to_pil(image), json.dumps(settings)
    if alpha is not None:
        picture.putalpha(alpha)
    if kind not in _WITH_ALPHA:
        picture = on_white(picture)
    if kind == "JPEG" and len(text) > _MOST_IN_JPEG:
        log.warning("the settings are too long for a JPEG, and are left out; a PNG can hold them")
        text = ""
    extra = {**_QUALITY.get(kind, {}), "icc_profile": _SRGB_BYTES}
    if kind == "PNG":
        info = PngImagePlugin.PngInfo()
        info.add_text(_KEY, text)
        extra["pnginfo"] = info
    else:
        exif = Image.Exif()
        exif[ExifTags.Base.ImageDescription], exif[ExifTags.Base.Software] = text, _software(settings)
        extra["exif"] = exif
    file = io.BytesIO()  # and not on disk, where Pillow doesn't notice that a JPEG is cut off because the disk is full
    picture.save(file, format=kind, **extra)
    return file.getvalue()


def _encoded_16(image: Tensor, kind: str, alpha: Image.Image | None, settings: Mapping[str, Any]) -> bytes:
    channels = _integers(image, 16)
    if alpha is not None:
        channels = np.dstack([channels, np.asarray(alpha, dtype=np.uint16) * 257])
    return _png16(channels, settings) if kind == "PNG" else _tiff16(channels, settings)


def size(path: Path) -> tuple[int, int]:
    """Width and height, as the file tells them. Raises as `read`."""
    with _opened(path, sys.maxsize) as image:
        return image.size


def read_settings(path: Path) -> dict[str, Any]:
    """The settings that `write` embedded in a picture; empty when there are none. Raises as `read`."""
    with _opened(path, sys.maxsize) as image:
        text = image.info.get(_KEY) or image.getexif().get(ExifTags.Base.ImageDescription, "")
    try:
        settings = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _software(settings: Mapping[str, Any]) -> str:
    return f"styletransfer {settings.get('version', '')}".strip()


def _png16(channels: np.ndarray[Any, Any], settings: Mapping[str, Any]) -> bytes:
    """PNG with 16 bits a channel, which Pillow can't write (PNG specification, sections 5 and 9)."""
    height, width, depth = channels.shape
    rows = np.ascontiguousarray(channels, ">u2").view(np.uint8).reshape(height, -1)
    # Filter 2, "up": each byte less the one above it; smooth pictures pack much better.
    filtered = np.full((height, rows.shape[1] + 1), 2, np.uint8)
    filtered[:, 1:] = np.diff(rows, axis=0, prepend=np.zeros((1, rows.shape[1]), np.uint8))
    packed = zlib.compress(filtered.tobytes(), 6)
    header = struct.pack(">IIBBBBB", width, height, 16, {3: 2, 4: 6}[depth], 0, 0, 0)
    chunks = (
        (b"IHDR", header),
        (b"iCCP", b"sRGB\0\0" + zlib.compress(_SRGB_BYTES)),
        (b"tEXt", _KEY.encode() + b"\0" + json.dumps(settings).encode("ascii")),
        *((b"IDAT", packed[start : start + _CHUNK]) for start in range(0, len(packed), _CHUNK)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def _tiff16(channels: np.ndarray[Any, Any], settings: Mapping[str, Any]) -> bytes:
    """TIFF with 16 bits a channel, which Pillow can't write."""
    import tifffile

    file = io.BytesIO()
    tifffile.imwrite(
        file,
        channels,
        photometric="rgb",
        extrasamples=["unassalpha"] if channels.shape[2] == 4 else None,
        compression="zlib",
        description=json.dumps(settings),
        software=_software(settings),
        iccprofile=_SRGB_BYTES,
        metadata=None,
    )
    return file.getvalue()

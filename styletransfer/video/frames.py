"""Frames of a clip as players show them: upright, with square pixels, 8-bit RGB.

A clip is a file that FFmpeg reads, or a folder of images.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from ..errors import StyleTransferError
from ..images import Picture, flatten_on_white, list_pictures, read_picture, to_mask
from ..images.images import split_alpha
from ..images.profiles import HDR
from ..options import Options
from .containers import open_clip, readable_errors

#: Players assume BT.601 for an unspecified color matrix in frames with fewer rows than this, else BT.709.
_HIGH = 720
_UNSPECIFIED = 2  # FFmpeg's number for that matrix
#: Decoders that read the alpha channel of WebM; FFmpeg's own decoders skip it.
_ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
#: Pillow's transpositions, by whether x and y are exchanged, x is reversed and y is reversed.
_ORIENTATIONS = {
    (False, True, False): Image.Transpose.FLIP_LEFT_RIGHT,
    (False, False, True): Image.Transpose.FLIP_TOP_BOTTOM,
    (False, True, True): Image.Transpose.ROTATE_180,
    (True, False, False): Image.Transpose.TRANSPOSE,
    (True, True, False): Image.Transpose.ROTATE_270,
    (True, False, True): Image.Transpose.ROTATE_90,
    (True, True, True): Image.Transpose.TRANSVERSE,
}


@dataclass(frozen=True)
class Frame:
    """A decoded frame that has not been converted yet.

    Attributes:
        path: the file it is in.
        load: returns the image, with its alpha channel. Raises `StyleTransferError`.
        time: in units of `base` seconds, or None if the file has no times.
        is_hdr: whether its transfer function is PQ or HLG.
    """

    path: Path
    load: Callable[[], Picture]
    time: int | None = None
    base: Fraction | None = None
    is_hdr: bool = False


def read_frames(
    path: Path, first: int, last: int, max_pixels: int = Options.max_pixels
) -> Iterator[tuple[int, Picture]]:
    """Yield the frames first … last − 1 with their numbers, composited on white.

    Raises:
        UsageError: there is no such file, or no image in the folder.
        StyleTransferError: a frame cannot be read, or has more than `max_pixels`.
    """
    for number, frame in itertools.islice(enumerate(decode_frames(path, max_pixels)), first, last):
        yield number, flatten(frame.load())


def read_masks(path: Path, first: int, last: int, max_pixels: int = Options.max_pixels) -> Iterator[Picture]:
    """Yield the frames first … last − 1 as masks; errors as `read_frames`."""
    for frame in itertools.islice(decode_frames(path, max_pixels), first, last):
        yield to_mask(frame.load())


def decode_frames(path: Path, max_pixels: int = Options.max_pixels) -> Iterator[Frame]:
    """Yield the frames of a file or a folder; errors as `read_frames`."""
    if path.is_dir():
        for image in list_pictures(path):
            yield Frame(image, partial(read_picture, image, max_pixels))
        return
    # Refuse huge frames before memory is allocated; not exactly, since decoders pad the sides to whole blocks.
    limit = {"max_pixels": str(2 * max_pixels + 2**16)}
    with readable_errors(path, "read"), open_clip(path, limit) as container:
        stream = next((stream for stream in container.streams.video if not _is_cover(stream)), None)
        if stream is None or stream.codec_context is None:
            raise StyleTransferError(f"{path}: contains no video that can be decoded")
        _check_size(path, (stream.codec_context.width, stream.codec_context.height), max_pixels)
        for frame in _decode(container, stream, limit):
            aspect = stream.sample_aspect_ratio or stream.codec_context.sample_aspect_ratio
            load = partial(_to_picture, frame, aspect or Fraction(1), path, max_pixels)
            base = Fraction(frame.time_base) if frame.time_base else None
            yield Frame(path, load, frame.pts, base, getattr(frame, "color_trc", None) in HDR)


def flatten(picture: Picture) -> Picture:
    """Return an image composited on white; an opaque one is returned unchanged."""
    if picture.alpha is None:
        return picture
    return Picture(flatten_on_white(Image.merge("RGBA", (*picture.rgb.split(), picture.alpha))), None, picture.name)


def _is_cover(stream: Any) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _decode(container: Any, stream: Any, options: dict[str, str]) -> Iterator[Any]:
    """Yield PyAV's frames of a stream, with the alpha channel of WebM."""
    decoder = stream.codec_context
    if any(key.lower() == "alpha_mode" and value == "1" for key, value in stream.metadata.items()):
        with contextlib.suppress(ValueError):  # an FFmpeg without libvpx
            decoder = av.CodecContext.create(_ALPHA_DECODERS.get(decoder.name, decoder.name), "r")
            decoder.extradata = stream.codec_context.extradata
    decoder.thread_type = "AUTO"
    decoder.options = options
    for packet in container.demux(stream):
        yield from decoder.decode(packet)


def _to_picture(frame: Any, aspect: Fraction, path: Path, max_pixels: int) -> Picture:
    """Return a frame as an image: colors as in players, then square pixels, then upright.

    Args:
        aspect: width of a pixel by its height.
    """
    width = max(1, round(frame.width * aspect)) if aspect > 0 else frame.width
    _check_size(path, (width, frame.height), max_pixels)
    unspecified = frame.colorspace == _UNSPECIFIED and frame.format.is_rgb is False
    matrix = "ITU709" if unspecified and frame.height >= _HIGH else None
    has_alpha = frame.format.has_palette or any(component.is_alpha for component in frame.format.components)
    with readable_errors(path, "read"):
        pixels = frame.to_ndarray(
            format="rgba" if has_alpha else "rgb24", src_colorspace=matrix, interpolation="BICUBIC"
        )
    image = Image.fromarray(pixels)
    opaque = not has_alpha or image.getchannel("A").getextrema()[0] == 255
    picture = Picture(image.convert("RGB"), None, path.name) if opaque else split_alpha(image, path.name)
    picture = picture.resize((width, frame.height))
    method = _find_orientation(frame)
    if method is None:
        return picture
    alpha = picture.alpha and picture.alpha.transpose(method)
    return Picture(picture.rgb.transpose(method), alpha, path.name)


def _find_orientation(frame: Any) -> Image.Transpose | None:
    """Return the transposition that turns a frame upright, by its display matrix.

    The matrix a b u / c d v / x y w maps the point (p, q) to (a p + c q + x, b p + d q + y) (ISO/IEC 14496-12, 6.2.2).
    Angles are rounded to right angles.
    """
    # As in players, the first matrix counts: the container's comes before the codec's.
    matrices = (bytes(data) for data in frame.side_data if data.type.name == "DISPLAYMATRIX")
    if (matrix := next(matrices, None)) is None:
        return None
    a, b, _, c, d, *_ = (int(value) for value in np.frombuffer(matrix, np.int32))
    exchanged = abs(b) + abs(c) > abs(a) + abs(d)
    return _ORIENTATIONS.get((exchanged, (c if exchanged else a) < 0, (b if exchanged else d) < 0))


def _check_size(path: Path, size: tuple[int, int], max_pixels: int) -> None:
    pixels = size[0] * size[1]
    if pixels > max_pixels:
        raise StyleTransferError(
            f"{path}: {pixels} pixels per frame ({size[0]}×{size[1]}) are more than max_pixels; "
            f"if that is right, set max_pixels to {pixels}"
        )

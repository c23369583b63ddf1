"""TIFF of all sample layouts; those that Pillow reads incorrectly or not at all are unpacked here.

libtiff decompresses strips and tiles as bytes, as if they were a gray image as wide as a row has bytes; here the bytes
become samples, and samples 8 bits. Sections are those of TIFF 6.0.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL
from PIL import Image, ImageFile
from PIL.TiffImagePlugin import COMPRESSION_INFO, TiffImageFile

from .images import UnsupportedImageError

SIGNATURES = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
Samples = np.ndarray[Any, Any]
#: Compressions of the bytes of samples: none, LZW, Deflate, PackBits, LZMA, Zstandard.
_BYTEWISE = {1, 5, 8, 32773, 32946, 34925, 50000}
_WHITE_IS_ZERO, _RGB, _CMYK, _YCBCR, _CIE_LAB, _ICC_LAB = 0, 2, 5, 6, 8, 9
_MODES = {_WHITE_IS_ZERO: "L", 1: "L", _RGB: "RGB", _CMYK: "CMYK", _CIE_LAB: "LAB", _ICC_LAB: "LAB"}
#: Kinds of samples by SampleFormat, in numpy's letters, and the bits that are read.
_KINDS = {1: "u", 2: "i", 3: "f", 4: "u"}
_BITS = {"u": {*range(1, 17), 32, 64}, "i": {8, 16, 32, 64}, "f": {16, 32, 64}}
_ASSOCIATED = 1
#: Limits of the bytes of a pixel and of the values unpacked at once, which bound memory as
#: docs/explanation/reliability.md says.
_MAX_PIXEL_BYTES, _VALUES_AT_ONCE = 32, 1 << 18


class TiffFile(TiffImageFile):
    """A TIFF whose tags and size are read whatever its samples are; `load_tiff` reads the pixels."""

    #: Whether Pillow knows the layout.
    is_known = True

    def _setup(self) -> None:
        if self.tag_v2.get(259, 1) not in COMPRESSION_INFO:
            raise UnsupportedImageError(f"TIFF of compression {self.tag_v2[259]} is not supported")
        try:
            super()._setup()
        except (SyntaxError, IndexError):
            if 0 in self._size:
                raise
            self.is_known, self._mode, self.tile = False, "L", []
            if 34675 in self.tag_v2:
                self.info["icc_profile"] = self.tag_v2[34675]


@dataclass(frozen=True)
class _Layout:
    """The layout of samples in the file: the tags of sections 8, 14 and 15."""

    width: int
    height: int
    bits: int
    samples: int
    kind: str
    photometric: int
    is_planar: bool
    predictor: int
    extra: tuple[int, ...]
    byte_order: str
    is_tiled: bool
    segment_width: int
    segment_height: int

    @property
    def channels(self) -> int:
        """The number of samples of a pixel that are stored together."""
        return 1 if self.is_planar else self.samples

    @property
    def across(self) -> int:
        """The number of strips or tiles beside each other."""
        return -(-self.width // self.segment_width)

    @property
    def row_bytes(self) -> int:
        """The number of bytes in a row of a strip or tile."""
        return -(-self.segment_width * self.channels * self.bits // 8)

    @property
    def colors(self) -> int:
        """The number of samples of a pixel's color."""
        return len(Image.new(_MODES[self.photometric], (1, 1)).getbands())

    @property
    def alpha(self) -> int | None:
        """The index of the opacity sample; without ExtraSamples, a fourth one beside RGB, as in Pillow."""
        extra = self.extra or ((2,) if self.photometric == _RGB and self.samples == 4 else ())
        indices = [index for index, kind in enumerate(extra, self.colors) if kind in (1, 2, 999)]
        return indices[0] if indices and indices[0] < self.samples else None


def load_tiff(image: TiffImageFile) -> tuple[Image.Image, Image.Image | None]:
    """Return the pixels with 8 bits a sample, and the opacity if it is not one of their channels.

    An image that Pillow reads is upright then; for others, the orientation is still in EXIF. Integers range from 0 to
    the largest value of their type, with negative ones as 0; floats from 0 to 1, or to the largest in the image.

    Raises `UnsupportedImageError` for other layouts.
    """
    tags = image.tag_v2
    bits, planar = np.ravel(tags.get(258, 1)), tags.get(284, 1)
    is_plain = set(bits.tolist()) <= {1, 2, 4, 8} and set(np.ravel(tags.get(339, 1)).tolist()) == {1}
    is_together = planar != 2 or tags.get(277, 1) == 1 or tags.get(259, 1) not in _BYTEWISE
    if getattr(image, "is_known", True) and is_plain and is_together:
        # Pillow before 13 would read it as RGB, later ones as it is; libtiff converts it.
        if tags.get(262) == _YCBCR and tags.get(259, 1) == 1:
            image.use_load_libtiff, image._mode = True, "RGB"
            box = (0, 0, tags[256], tags[257])
            compression = () if int(PIL.__version__.split(".")[0]) >= 13 else ("raw",)
            image.tile = [ImageFile._Tile("libtiff", box, 0, ("RGBX", *compression, False, tags.offset))]
        image.load()
        # Since Pillow 13 gray is still multiplied by its opacity then.
        return (image.convert("LA") if image.mode == "La" else image), None
    layout = _read_layout(image)
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # checked in pixels; here they are bytes
    try:
        planes = [_decompress(image, layout, plane) for plane in range(layout.samples // layout.channels)]
        return _convert(layout, planes)
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _read_layout(image: TiffImageFile) -> _Layout:
    tags, samples = image.tag_v2, int(image.tag_v2.get(277, 1))
    bits, kinds = set(np.ravel(tags.get(258, 1)).tolist()), set(np.ravel(tags.get(339, 1)).tolist())
    depth, kind = bits.pop(), _KINDS.get(kinds.pop(), "other")
    photometric, predictor, compression = (tags.get(tag, default) for tag, default in ((262, 0), (317, 1), (259, 1)))
    summary = f"TIFF of {samples} × {depth} bits, photometric {photometric}, compression {compression}"
    if bits or kinds or depth not in _BITS.get(kind, ()):
        raise UnsupportedImageError(f"{summary}: samples of this kind are not supported")
    if photometric not in _MODES or (photometric == _CMYK and tags.get(332, 1) != 1):
        raise UnsupportedImageError(f"{summary}: this color model is not supported")
    if photometric in (_CIE_LAB, _ICC_LAB) and (kind, depth) not in (("u", 8), ("u", 16), ("i", 8), ("i", 16)):
        raise UnsupportedImageError(f"{summary}: CIELAB of this depth is not supported")
    if compression not in _BYTEWISE or predictor not in {1, 2 if depth % 8 == 0 else 1, 3 if kind == "f" else 1}:
        raise UnsupportedImageError(f"{summary}: samples of this depth are not supported with this compression")
    is_tiled, (width, height) = 322 in tags, (tags[256], tags[257])
    segment = (tags[322], tags[323]) if is_tiled else (width, min(tags.get(278, height), height))
    layout = _Layout(
        *(width, height, depth, samples, kind, photometric),
        is_planar=samples > 1 and tags.get(284, 1) == 2,
        predictor=predictor,
        extra=tuple(np.ravel(tags.get(338, ())).tolist()),
        byte_order="<" if tags.prefix[:2] == b"II" else ">",
        is_tiled=is_tiled,
        segment_width=segment[0],
        segment_height=segment[1],
    )
    if samples < layout.colors or samples * depth > 8 * _MAX_PIXEL_BYTES or min(width, height, *segment) < 1:
        raise UnsupportedImageError(f"{summary}: this number of samples is not supported")
    return layout


def _decompress(image: TiffImageFile, layout: _Layout, plane: int) -> Image.Image:
    """Return a plane's bytes, rows of all strips or tiles beside each other, as a gray image."""
    tags, file = image.tag_v2, image.fp
    number = layout.across * -(-layout.height // layout.segment_height)
    part = slice(plane * number, plane * number + number)
    offsets = np.ravel(tags[324 if layout.is_tiled else 273]).tolist()[part]
    counts = np.ravel(tags.get(325 if layout.is_tiled else 279, ())).tolist()[part]
    if not counts and tags.get(259, 1) == 1:  # required by section 7, but missing in old files
        rows = [min(layout.segment_height, layout.height - i * layout.segment_height) for i in range(number)]
        counts = [layout.row_bytes * (layout.segment_height if layout.is_tiled else count) for count in rows]
    assert file is not None
    if len(offsets) != number or len(counts) != number or sum(counts) > file.seek(0, io.SEEK_END):
        raise OSError("its strips or tiles are incomplete")
    view, starts = io.BytesIO(), []
    view.write(bytes(8))
    for offset, count in zip(offsets, counts, strict=True):
        file.seek(offset)
        starts.append(view.tell())
        view.write(file.read(count))
    entries = {256: layout.across * layout.row_bytes, 257: layout.height, 258: 8, 259: tags.get(259, 1), 262: 1}
    entries |= {266: tags.get(266, 1), 277: 1}
    if layout.is_tiled:
        entries |= {322: layout.row_bytes, 323: layout.segment_height, 324: starts, 325: counts}
    else:
        entries |= {273: starts, 278: layout.segment_height, 279: counts}
    _write_directory(view, entries)
    plain = TiffImageFile(view)
    plain.load()
    return plain


def _write_directory(file: io.BytesIO, entries: dict[int, int | list[int]]) -> None:
    """Append a directory of LONGs to a little-endian TIFF, and write its offset into the header (section 2)."""
    file.seek(0, io.SEEK_END)
    start, directory, values = file.tell(), struct.pack("<H", len(entries)), b""
    for tag, value in sorted(entries.items()):
        numbers = value if isinstance(value, list) else [value]
        directory += struct.pack("<HHI", tag, 4, len(numbers))
        offset = [start + 6 + 12 * len(entries) + len(values)]
        directory += struct.pack("<I", *(numbers if len(numbers) == 1 else offset))
        values += struct.pack(f"<{len(numbers)}I", *numbers) if len(numbers) > 1 else b""
    file.write(directory + bytes(4) + values)
    file.seek(0)
    file.write(b"II*\0" + struct.pack("<I", start))
    file.seek(0)


def _convert(layout: _Layout, planes: list[Image.Image]) -> tuple[Image.Image, Image.Image | None]:
    """Return colors and opacity with 8 bits a sample."""
    limit, colors, alpha = 1.0, layout.colors, layout.alpha
    if layout.kind == "f":
        for _, samples in _iterate_rows(layout, planes):
            finite = samples[..., :colors][np.isfinite(samples[..., :colors])]
            limit = max(limit, float(finite.max(initial=1)))
    else:
        limit = float(2 ** (layout.bits - (layout.kind == "i")) - 1)
    result = np.empty((layout.height, layout.width, colors), np.uint8)
    opacity = np.empty((layout.height, layout.width), np.uint8)
    for rows, samples in _iterate_rows(layout, planes):
        levels = _scale(samples[..., :colors], limit)
        if alpha is not None:
            opacities = _scale(samples[..., alpha], 1.0 if layout.kind == "f" else limit)
            opacity[rows] = opacities.round()
            if layout.extra and layout.extra[alpha - colors] == _ASSOCIATED:  # colors are multiplied by it (section 18)
                opacities = opacities[..., None]
                levels = np.divide(levels * 255, opacities, out=np.zeros_like(levels), where=opacities > 0).clip(0, 255)
        if layout.photometric == _WHITE_IS_ZERO:
            levels = 255 - levels
        if _MODES[layout.photometric] == "LAB":
            levels = _scale_lab(samples[..., :3], layout)
        result[rows] = levels.round()
    bands = [Image.fromarray(np.ascontiguousarray(result[..., band])) for band in range(colors)]
    return Image.merge(_MODES[layout.photometric], bands), None if alpha is None else Image.fromarray(opacity)


def _scale(samples: Samples, limit: float) -> Samples:
    """Return levels from 0 to 255; NaN becomes 0."""
    with np.errstate(all="ignore"):
        levels: Samples = np.nan_to_num((samples.astype(np.float64) / limit * 255).clip(0, 255))
    return levels


def _scale_lab(samples: Samples, layout: _Layout) -> Samples:
    """Return Pillow's mode LAB: L* from 0 to 255, a* and b* beginning at -128. In 16 bits a* is in 256ths.

    a* and b* of CIELAB are signed (section 23); those of ICCLAB, and its L*, are coded as in ICC's profiles.
    """
    samples = samples.astype(f"u{layout.bits // 8}", copy=False)
    levels = samples / 2.0 ** (layout.bits - 8)
    if layout.photometric == _CIE_LAB:
        levels[..., 0] = _scale(samples[..., 0], 2.0**layout.bits - 1)
        levels[..., 1:] = (levels[..., 1:] + 128) % 256
    clipped: Samples = levels.clip(0, 255)
    return clipped


def _iterate_rows(layout: _Layout, planes: list[Image.Image]) -> Iterator[tuple[slice, Samples]]:
    """Yield slices of rows with their samples, n×W×S in native byte order."""
    count = max(1, _VALUES_AT_ONCE // (layout.across * layout.segment_width * layout.samples))
    for start in range(0, layout.height, count):
        rows = slice(start, min(start + count, layout.height))
        parts = [_unpack(np.asarray(plane.crop((0, rows.start, plane.width, rows.stop))), layout) for plane in planes]
        yield rows, np.concatenate(parts, 2)


def _unpack(rows: Samples, layout: _Layout) -> Samples:
    """Return samples n×W×C of n rows of bytes, with the predictor undone (section 14; technical note 3 for floats)."""
    size, shape = layout.bits // 8, (len(rows), layout.across, layout.segment_width, layout.channels)
    parts: Samples = rows.reshape(len(rows), layout.across, layout.row_bytes)
    dtype = np.dtype(f"{layout.byte_order}{layout.kind}{size}") if layout.bits % 8 == 0 else np.dtype(np.uint32)
    if layout.predictor == 3:
        parts = parts.reshape(*parts.shape[:2], -1, layout.channels).cumsum(2, dtype=np.uint8)
        parts = parts.reshape(*parts.shape[:2], size, -1).swapaxes(2, 3)  # the highest bytes of all samples come first
        samples = np.ascontiguousarray(parts).view(dtype.newbyteorder(">"))
    elif layout.predictor == 2:
        numbers = np.ascontiguousarray(parts).view(f"{layout.byte_order}u{size}").reshape(shape)
        samples = numbers.cumsum(2, dtype=f"=u{size}").view(dtype.newbyteorder("="))
    elif layout.bits % 8:
        bits = np.unpackbits(parts, axis=2)[..., : layout.segment_width * layout.channels * layout.bits]
        samples = bits.reshape(-1, layout.bits) @ (1 << np.arange(layout.bits, dtype=dtype)[::-1])
    else:
        samples = np.ascontiguousarray(parts).view(dtype)
    return samples.reshape(len(rows), -1, layout.channels)[:, : layout.width]

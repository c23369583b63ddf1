"""TIFFs of all sample layouts, written by tifffile, OpenCV and by hand, compared with formulas."""

import itertools
import struct
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from styletransfer import StyleTransferError
from styletransfer.images import Picture, read_picture, read_size

HEIGHT, WIDTH = 21, 37
Y, X = np.mgrid[0:HEIGHT, 0:WIDTH]
#: R, G, B and alpha from 0 to 1, without a symmetry that could hide a mistake.
SCENE = np.stack([X / 36, Y / 20, np.where((X < 9) & (Y < 6), 1, 0.2), (X * Y % 97) / 96], 2)
SIZES = {"minisblack": 1, "miniswhite": 1, "rgb": 3, "separated": 4}


def scale_values(values: np.ndarray, dtype: str) -> np.ndarray:
    """Return values from 0 to 1 as integers from 0 to the largest, or as floats."""
    if dtype[0] == "f":
        return values.astype(dtype)
    most = np.iinfo(dtype).max
    return (np.rint(values * min(most, 2**32 - 1)).astype(dtype) * (most // min(most, 2**32 - 1))).astype(dtype)


def assert_image_matches(image: Picture, samples: np.ndarray, photometric: str, extra: str | None = None) -> None:
    """Assert that colors and alpha are those of samples H×W×S from 0 to 1, within rounding."""
    colors, alpha = samples[..., : SIZES[photometric]], None
    if extra in ("assocalpha", "unassalpha"):
        alpha = samples[..., SIZES[photometric], None]
        colors = np.divide(colors, alpha, out=np.zeros_like(colors), where=alpha > 0) if extra[0] == "a" else colors
    if photometric == "miniswhite":
        colors = 1 - colors
    if photometric == "separated":
        colors = (1 - colors[..., :3]) * (1 - colors[..., 3:])
    colors = (colors * np.ones(3)).clip(0, 1)
    if alpha is None:
        assert image.alpha is None
    else:
        assert image.alpha is not None
        assert np.abs(np.asarray(image.alpha) - 255 * alpha[..., 0]).max() <= 0.51
        colors = np.where(np.asarray(image.alpha)[..., None] == 0, 1, colors)
    most = 2 if photometric == "separated" else 1 if extra == "assocalpha" and samples.itemsize == 1 else 0.51
    assert np.abs(np.asarray(image.rgb) - 255 * colors).max() <= most


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "u8", "i1", "i2", "i4", "f2", "f4", "f8"])
@pytest.mark.parametrize("packing", ["raw", "zlib", "zlib with predictor"])
@pytest.mark.parametrize(
    ("photometric", "planar"),
    [("minisblack", "contig"), ("miniswhite", "contig"), ("rgb", "contig"), ("rgb", "separate")],
)
def test_samples_of_any_depth_are_read(tmp_path: Path, photometric: str, planar: str, packing: str, dtype: str) -> None:
    values = scale_values(SCENE[..., : SIZES[photometric]], dtype)
    how: dict[str, Any] = {"photometric": photometric, "compression": None if packing == "raw" else "zlib"}
    how |= {"predictor": 2} if packing == "zlib with predictor" and dtype[0] != "f" else {}
    how |= {"planarconfig": planar} if values.shape[2] > 1 else {}
    stored = np.moveaxis(values, 2, 0) if planar == "separate" else values.squeeze()
    limit = 1 if dtype[0] == "f" else np.iinfo(dtype).max
    for byteorder, place in itertools.product("<>", ({"rowsperstrip": 8}, {"tile": (16, 16)})):
        tifffile.imwrite(tmp_path / "a.tif", stored, byteorder=byteorder, **how, **place)
        assert_image_matches(read_picture(tmp_path / "a.tif"), values.astype("f8") / limit, photometric)


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "f4"])
@pytest.mark.parametrize("extra", ["unspecified", "assocalpha", "unassalpha"])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite", "rgb"])
def test_extra_samples_are_alpha_or_ignored(
    tmp_path: Path, photometric: str, extra: str, dtype: str, planar: str
) -> None:
    size = SIZES[photometric]
    values = np.dstack([SCENE[..., :size], SCENE[..., 3]])
    if extra == "assocalpha":
        values[..., :size] *= values[..., size:]
        if dtype == "u1":  # too coarse to keep the colors at other alphas
            values[..., size] = np.where(X < 20, 1, 0)
            values[..., :size] = SCENE[..., :size] * values[..., size:]
    values = scale_values(values, dtype)
    stored = np.moveaxis(values, 2, 0) if planar == "separate" else values
    how = {"photometric": photometric, "planarconfig": planar, "extrasamples": [extra], "rowsperstrip": 8}
    tifffile.imwrite(tmp_path / "a.tif", stored, **how)
    samples = values.astype("f8") / (1 if dtype[0] == "f" else np.iinfo(dtype).max)
    assert_image_matches(read_picture(tmp_path / "a.tif"), samples, photometric, extra)


@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "f4"])
@pytest.mark.parametrize("planar", ["contig", "separate"])
def test_cmyk_is_read(tmp_path: Path, dtype: str, planar: str) -> None:
    values = scale_values(SCENE, dtype)
    stored = np.moveaxis(values, 2, 0) if planar == "separate" else values
    tifffile.imwrite(tmp_path / "a.tif", stored, photometric="separated", planarconfig=planar, compression="zlib")
    samples = values.astype("f8") / (1 if dtype[0] == "f" else np.iinfo(dtype).max)
    assert_image_matches(read_picture(tmp_path / "a.tif"), samples, "separated")


@pytest.mark.parametrize("dtype", ["u2", "f4"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("compression", [1, 5, 8, 32773], ids=["none", "LZW", "deflate", "PackBits"])
def test_files_of_opencv_are_read(tmp_path: Path, compression: int, channels: int, dtype: str) -> None:
    """LZW and Deflate use predictors."""
    values = scale_values(SCENE[..., :channels], dtype)
    how = [cv2.IMWRITE_TIFF_COMPRESSION, compression]
    how += [cv2.IMWRITE_TIFF_PREDICTOR, 3 if dtype[0] == "f" else 2] if compression in (5, 8) else []
    order = {1: [0], 3: [2, 1, 0], 4: [2, 1, 0, 3]}[channels]
    assert cv2.imwrite(str(tmp_path / "a.tif"), values[..., order], how)
    with tifffile.TiffFile(tmp_path / "a.tif") as file:
        assert (file.pages[0].compression, file.pages[0].predictor > 1) == (compression, compression in (5, 8))
    samples = values.astype("f8") / (1 if dtype[0] == "f" else np.iinfo(dtype).max)
    extra = "unassalpha" if channels == 4 else None
    assert_image_matches(read_picture(tmp_path / "a.tif"), samples, "rgb" if channels > 1 else "minisblack", extra)


# --- by hand -------------------------------------------------------------------------------------------------------


def encode_lzw(data: bytes) -> bytes:
    """Return TIFF's LZW without dictionary matches: 9 bits per byte, reset before codes would need 10."""
    codes = []
    for start in range(0, len(data), 200):
        codes += [256, *data[start : start + 200]]
    bits = "".join(f"{code:09b}" for code in [*codes, 257])
    bits += "0" * (-len(bits) % 8)
    return int(bits, 2).to_bytes(len(bits) // 8, "big")


def make_tiff(order: str, strips: list[bytes], /, **tags: Any) -> bytes:
    """Return a TIFF of strips of 8 rows, with tags by number, as t258=(8,), all of type LONG."""
    numbers = {256: (WIDTH,), 257: (HEIGHT,), 258: (8,), 259: (1,), 262: (1,), 277: (1,), 278: (8,)}
    numbers |= {int(name[1:]): value for name, value in tags.items()}
    data, offsets = b"", []
    for strip in strips:
        offsets.append(8 + len(data))
        data += strip
    numbers |= {273: tuple(offsets)} | ({279: tuple(map(len, strips))} if 279 not in numbers else {})
    numbers = {tag: value for tag, value in numbers.items() if value}
    start = 8 + len(data)
    after, entries = start + 6 + 12 * len(numbers), b""
    extra = b""
    for tag, value in sorted(numbers.items()):
        data_of_tag = struct.pack(f"{order}{len(value)}I", *value)
        if len(value) > 1:
            data_of_tag, extra = struct.pack(f"{order}I", after + len(extra)), extra + data_of_tag
        entries += struct.pack(f"{order}HHI", tag, 4, len(value)) + data_of_tag
    mark = b"II" if order == "<" else b"MM"
    head = mark + struct.pack(f"{order}HI", 42, start)
    return head + data + struct.pack(f"{order}H", len(numbers)) + entries + bytes(4) + extra


def split_into_strips(rows: np.ndarray) -> list[bytes]:
    return [rows[start : start + 8].tobytes() for start in range(0, len(rows), 8)]


def pack_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """Pack integers H×W×S into `bits` bits each, the highest first; rows begin at a byte (TIFF 6.0, section 3)."""
    every = (values.reshape(len(values), -1, 1) >> np.arange(bits)[::-1]) & 1
    return np.packbits(every.astype("u1").reshape(len(values), -1), axis=1)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("compress", [None, encode_lzw], ids=["raw", "LZW"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 6, 10, 12, 14])
def test_samples_of_partial_bytes_are_read(tmp_path: Path, bits: int, channels: int, compress: Any, order: str) -> None:
    values = np.rint(SCENE[..., :channels] * (2**bits - 1)).astype(int)
    strips = [compress(strip) if compress else strip for strip in split_into_strips(pack_bits(values, bits))]
    tags = {"t258": (bits,) * channels, "t277": (channels,), "t262": (2 if channels == 3 else 1,)}
    (tmp_path / "a.tif").write_bytes(make_tiff(order, strips, **tags, t259=(5,) if compress else (1,)))
    photometric = "rgb" if channels == 3 else "minisblack"
    assert_image_matches(read_picture(tmp_path / "a.tif"), values / (2**bits - 1), photometric)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [8, 16])
def test_planes_in_lzw_with_a_predictor_are_read(tmp_path: Path, bits: int, order: str) -> None:
    values = scale_values(SCENE[..., :3], f"u{bits // 8}")
    differences = np.diff(values, axis=1, prepend=values[:, :1] * 0).astype(f"{order}u{bits // 8}")
    strips = [encode_lzw(strip) for plane in range(3) for strip in split_into_strips(differences[..., plane])]
    tags = {"t258": (bits,) * 3, "t262": (2,), "t277": (3,), "t284": (2,), "t259": (5,), "t317": (2,)}
    (tmp_path / "a.tif").write_bytes(make_tiff(order, strips, **tags))
    assert_image_matches(read_picture(tmp_path / "a.tif"), values / (2**bits - 1), "rgb")


@pytest.mark.parametrize("bits", [8, 16])
def test_files_without_strip_byte_counts_are_read(tmp_path: Path, bits: int) -> None:
    values = scale_values(SCENE[..., :1], f"u{bits // 8}")
    (tmp_path / "a.tif").write_bytes(make_tiff("<", split_into_strips(values), t258=(bits,), t279=()))
    assert_image_matches(read_picture(tmp_path / "a.tif"), values / (2**bits - 1), "minisblack")


def test_undeclared_fourth_channel_is_alpha_in_8_and_16_bits(tmp_path: Path) -> None:
    for bits in (8, 16):
        values = scale_values(SCENE, f"u{bits // 8}")
        tags = {"t258": (bits,) * 4, "t262": (2,), "t277": (4,)}
        (tmp_path / "a.tif").write_bytes(make_tiff("<", split_into_strips(values), **tags))
        assert_image_matches(read_picture(tmp_path / "a.tif"), values / (2**bits - 1), "rgb", "unassalpha")


@pytest.mark.parametrize("compress", [None, encode_lzw], ids=["raw", "LZW"])
def test_ycbcr_is_converted(tmp_path: Path, compress: Any) -> None:
    """Compared with BT.601's formulas (TIFF 6.0, section 21)."""
    matrix = np.array([[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]])
    ycc = np.rint(255 * SCENE[..., :3] @ matrix.T + (0, 128, 128)).clip(0, 255).astype("u1")
    strips = [compress(strip) if compress else strip for strip in split_into_strips(ycc)]
    tags = {"t258": (8, 8, 8), "t262": (6,), "t277": (3,), "t530": (1, 1), "t259": (5,) if compress else (1,)}
    (tmp_path / "a.tif").write_bytes(make_tiff("<", strips, **tags))
    expected = (ycc - np.array([0.0, 128, 128])) @ np.linalg.inv(matrix).T
    assert np.abs(np.asarray(read_picture(tmp_path / "a.tif").rgb) - expected.clip(0, 255)).max() <= 1.5


@pytest.mark.parametrize("photometric", [8, 9], ids=["CIELAB", "ICCLAB"])
@pytest.mark.parametrize("bits", [8, 16])
def test_lab_of_8_and_16_bits_is_read(tmp_path: Path, bits: int, photometric: int) -> None:
    """Grays by the formula for L* above 8, Y = ((L* + 16) / 116)³."""
    lightness = np.linspace(10, 100, WIDTH) * np.ones((HEIGHT, 1))
    scale, neutral = (2**bits - 1) / 100, 0
    if photometric == 9:
        scale, neutral = (255 if bits == 8 else 65280) / 100, 2 ** (bits - 1)
    lab = np.dstack([np.rint(lightness * scale), *np.full((2, HEIGHT, WIDTH), neutral)]).astype(f"<u{bits // 8}")
    (tmp_path / "a.tif").write_bytes(
        make_tiff("<", split_into_strips(lab), t258=(bits,) * 3, t262=(photometric,), t277=(3,))
    )
    linear = ((lightness + 16) / 116) ** 3
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    rgb = np.asarray(read_picture(tmp_path / "a.tif").rgb)
    assert np.abs(rgb - 255 * encoded[..., None]).max() <= 2


def test_negative_samples_are_black(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.array([[-32768, -1, 0, 32767]], "i2"))
    np.testing.assert_array_equal(np.asarray(read_picture(tmp_path / "a.tif").rgb)[0, :, 0], [0, 0, 0, 255])


def test_float_channels_are_scaled_by_their_common_maximum(tmp_path: Path) -> None:
    values = np.array([[[0, 1, 5], [np.nan, 2.5, -1], [np.inf, 0.5, 4]]], "f4")
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb")
    expected = [[[0, 51, 255], [0, 128, 0], [255, 26, 204]]]
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif").rgb, expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("dtype", ["u1", "u2", "f4"])
def test_orientation_is_applied_once_at_every_depth(tmp_path: Path, dtype: str, orientation: int) -> None:
    values = scale_values(SCENE[..., :3], dtype)
    tags = [(274, 3, 1, orientation, True)]
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="rgb", extratags=tags)
    tifffile.imwrite(tmp_path / "plain.tif", values, photometric="rgb")
    plain = np.asarray(read_picture(tmp_path / "plain.tif").rgb)
    turns = [lambda a: a, np.fliplr, lambda a: np.rot90(a, 2), np.flipud]
    turns += [lambda a: a.swapaxes(0, 1), lambda a: np.rot90(a, -1), lambda a: np.rot90(a, 2).swapaxes(0, 1), np.rot90]
    upright = turns[orientation - 1](plain)
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif").rgb, upright)
    assert read_size(tmp_path / "a.tif") == upright.shape[1::-1]


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"t258": (24,)}, "samples of this kind"),
        ({"t258": (8, 8, 16), "t277": (3,), "t262": (2,)}, "samples of this kind"),
        ({"t258": (16,), "t339": (5,)}, "samples of this kind"),
        ({"t258": (16,), "t262": (3,)}, "color model"),
        ({"t258": (16,), "t262": (32803,)}, "color model"),
        ({"t258": (16,) * 4, "t277": (4,), "t262": (5,), "t332": (2,)}, "color model"),
        ({"t258": (16,), "t259": (7,)}, "this compression"),
        ({"t258": (12,), "t317": (2,)}, "this compression"),
        ({"t258": (64,) * 5, "t277": (5,), "t262": (2,)}, "number of samples"),
        ({"t259": (34933,)}, "compression 34933 is not supported"),
    ],
)
def test_unsupported_tiff_is_rejected_with_the_reason(tmp_path: Path, tags: Any, reason: str) -> None:
    (tmp_path / "a.tif").write_bytes(make_tiff("<", split_into_strips(np.zeros((HEIGHT, WIDTH, 40), "u1")), **tags))
    with pytest.raises(StyleTransferError, match=rf"a\.tif: TIFF of .*{reason}"):
        read_picture(tmp_path / "a.tif")


@pytest.mark.parametrize("lost", ["a strip", "bytes"])
def test_truncated_16_bit_tiff_is_rejected(tmp_path: Path, lost: str) -> None:
    strips = split_into_strips(scale_values(SCENE[..., :1], "u2"))
    data = make_tiff("<", strips, t258=(16,), t279=tuple(map(len, strips)))
    if lost == "a strip":
        data = make_tiff("<", strips[:2], t258=(16,))
    else:
        data = make_tiff("<", strips, t258=(16,), t279=(len(strips[0]), len(strips[1]), 10**6))
    (tmp_path / "a.tif").write_bytes(data)
    with pytest.raises(StyleTransferError, match=r"a\.tif: cannot read image"):
        read_picture(tmp_path / "a.tif")


def test_pixels_of_float_tiffs_are_limited(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.zeros((30, 20), "f8"))
    assert read_picture(tmp_path / "a.tif", 600).rgb.size == (20, 30)
    with pytest.raises(StyleTransferError, match=r"600 pixels are more than max_pixels"):
        read_picture(tmp_path / "a.tif", 599)
    before = Image.MAX_IMAGE_PIXELS
    read_picture(tmp_path / "a.tif", 600)
    assert before == Image.MAX_IMAGE_PIXELS

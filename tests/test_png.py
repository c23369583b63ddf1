"""PNG files written chunk by chunk: transparent colors, 16 bits, large profiles and long texts."""

import struct
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hostile import reader
from PIL import Image, ImageCms

from styletransfer.images import read_picture, read_settings, read_size

GRAY, RGB, PALETTE, GRAY_ALPHA, RGBA = 0, 2, 3, 4, 6
CHANNELS = {GRAY: 1, RGB: 3, PALETTE: 1, GRAY_ALPHA: 2, RGBA: 4}
#: First column and row, and steps, of the seven passes of Adam7 (PNG specification, 8.2).
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def pack_rows(samples: np.ndarray, depth: int) -> bytes:
    """Return rows H×W×C as bytes, each after filter type 0."""
    bits = (samples.reshape(len(samples), -1, 1) >> np.arange(depth)[::-1]) & 1
    return b"".join(b"\0" + row.tobytes() for row in np.packbits(bits.astype("u1").reshape(len(samples), -1), axis=1))


def png(samples: np.ndarray, depth: int, color: int, *chunks: tuple[bytes, bytes], interlaced: bool = False) -> bytes:
    """Return a PNG of integers H×W×C, with chunks before its pixels."""
    height, width = samples.shape[:2]
    parts = [samples]
    if interlaced:
        parts = [samples[y::down, x::across] for x, y, across, down in ADAM7]
    data = b"".join(pack_rows(part, depth) for part in parts if part.size)
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    body = b"".join(chunk(*one) for one in chunks)
    end = chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + body + end


def make_samples(depth: int, channels: int, key: list[int]) -> np.ndarray:
    """Return random samples: a third are the key, some differ from it in the lowest or highest bit of a channel."""
    rng = np.random.default_rng(depth)
    samples = rng.integers(0, 2**depth, (13, 21, channels))
    samples[rng.random((13, 21)) < 1 / 3] = key
    for channel in range(channels):
        samples[channel, :9] = key
        samples[channel, :9, channel] ^= 1
        samples[channel + 3, :9] = key
        samples[channel + 3, :9, channel] ^= 1 << (depth - 1)
    return samples


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("color", "depth"), [*((GRAY, depth) for depth in (1, 2, 4, 8, 16)), (RGB, 8), (RGB, 16)])
def test_transparent_color_is_compared_in_all_bits(tmp_path: Path, color: int, depth: int, interlaced: bool) -> None:
    most = 2**depth - 1
    for key in ([most] * 3, [0] * 3, [most // 3, most // 2, most // 5]):
        key = key[: CHANNELS[color]]
        samples = make_samples(depth, CHANNELS[color], key)
        chunks = (b"tRNS", struct.pack(f">{len(key)}H", *key))
        (tmp_path / "a.png").write_bytes(png(samples, depth, color, chunks, interlaced=interlaced))
        image = read_picture(tmp_path / "a.png")
        hidden = (samples == key).all(2)
        np.testing.assert_array_equal(image.alpha, np.where(hidden, 0, 255))
        levels = np.rint(samples / most * 255) * np.ones(3)
        np.testing.assert_array_equal(image.rgb, np.where(hidden[..., None], 255, levels))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_bits_of_the_transparent_color_beyond_the_depth_are_masked(tmp_path: Path, depth: int) -> None:
    most = 2**depth - 1
    samples = most - np.arange(12).reshape(3, 4, 1) % 2**depth
    (tmp_path / "a.png").write_bytes(png(samples, depth, GRAY, (b"tRNS", struct.pack(">H", 0xFF00 | most))))
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png").alpha, np.where(samples[..., 0] == most, 0, 255))


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_transparency_of_a_palette_is_read(tmp_path: Path, depth: int, interlaced: bool) -> None:
    rng = np.random.default_rng(0)
    samples, palette = rng.integers(0, 2**depth, (13, 21, 1)), rng.integers(0, 256, (2**depth, 3), np.uint8)
    for alphas in ([0], [255, 0], [7, 200, 0][: 2**depth], [0] * 2**depth):
        chunks = ((b"PLTE", palette.tobytes()), (b"tRNS", bytes(alphas)))
        (tmp_path / "a.png").write_bytes(png(samples, depth, PALETTE, *chunks, interlaced=interlaced))
        image = read_picture(tmp_path / "a.png")
        alpha = np.array(alphas + [255] * (2**depth - len(alphas)))[samples[..., 0]]
        np.testing.assert_array_equal(image.alpha, alpha)
        expected = np.where(alpha[..., None] == 0, 255, palette[samples[..., 0]])
        np.testing.assert_array_equal(image.rgb, expected)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("color", [GRAY, RGB, GRAY_ALPHA, RGBA])
def test_16_bit_samples_are_rounded(tmp_path: Path, color: int, interlaced: bool) -> None:
    channels = CHANNELS[color]
    values = np.r_[np.arange(0, 65536, 31), np.arange(256) * 257, np.arange(255) * 257 + 128]
    samples = np.stack([np.roll(values, 97 * channel) for channel in range(channels)], 1)[: 40 * 60].reshape(40, 60, -1)
    (tmp_path / "a.png").write_bytes(png(samples, 16, color, interlaced=interlaced))
    image, levels = read_picture(tmp_path / "a.png"), np.rint(samples / 257)
    if color in (GRAY_ALPHA, RGBA):
        np.testing.assert_array_equal(image.alpha, levels[..., -1])
        levels = np.where(levels[..., -1:] == 0, 255, levels[..., :-1])
    np.testing.assert_array_equal(image.rgb, levels * np.ones(3))


SAMPLES = np.random.default_rng(0).integers(0, 256, (9, 14, 3))
LONG = b"long text " * 400_000
BOMB = zlib.compress(bytes(200 * 2**20), 9)
TEXTS = {
    "tEXt": (b"tEXt", b"Comment\0" + LONG),
    "zTXt": (b"zTXt", b"Comment\0\0" + zlib.compress(LONG)),
    "iTXt": (b"iTXt", b"Comment\0\0\0\0\0" + LONG),
    "packed iTXt": (b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(LONG)),
    "XMP": (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + LONG),
    "packed XMP": (b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(LONG)),
    "bomb in zTXt": (b"zTXt", b"Comment\0\0" + BOMB),
    "bomb in EXIF": (b"zTXt", b"Raw profile type exif\0\0" + BOMB),
    "bomb in iTXt": (b"iTXt", b"Comment\0\1\0\0\0" + BOMB),
    "not deflated": (b"zTXt", b"Comment\0\0" + LONG),
    "unknown": (b"prVt", LONG),
}
SETTINGS = {"content": "a.jpg", "style": "b.jpg", "version": "1"}


@pytest.mark.parametrize("name", TEXTS)
def test_long_text_is_skipped(tmp_path: Path, name: str) -> None:
    settings = b'styletransfer\0{"content": "a.jpg", "style": "b.jpg", "version": "1"}'
    before = png(SAMPLES, 8, RGB, TEXTS[name], (b"tEXt", settings))
    plain = png(SAMPLES, 8, RGB, (b"tEXt", settings))
    after = plain[:-12] + chunk(*TEXTS[name]) + plain[-12:]
    for data in (before, after):
        (tmp_path / "a.png").write_bytes(data)
        np.testing.assert_array_equal(read_picture(tmp_path / "a.png").rgb, SAMPLES)
        assert read_settings(tmp_path / "a.png") == SETTINGS
        assert read_size(tmp_path / "a.png") == (14, 9)


def test_many_texts_are_skipped(tmp_path: Path) -> None:
    text = (b"zTXt", b"Comment\0\0" + zlib.compress(bytes(2**19)))
    (tmp_path / "a.png").write_bytes(png(SAMPLES, 8, RGB, *[text] * 200))
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png").rgb, SAMPLES)


def test_long_settings_are_read(tmp_path: Path) -> None:
    value = "x" * 3_000_000
    text = b'styletransfer\0{"figure": "%s"}' % value.encode()
    (tmp_path / "a.png").write_bytes(png(SAMPLES, 8, RGB, (b"tEXt", text)))
    assert read_settings(tmp_path / "a.png") == {"figure": value}


def with_red_and_blue_exchanged(size: int) -> bytes:
    """Return sRGB's profile with the names of two tags exchanged, padded to a size in bytes."""
    data = bytearray(SRGB)
    for entry in range(132, 132 + 12 * int.from_bytes(data[128:132], "big"), 12):
        name = bytes(data[entry : entry + 4])
        data[entry : entry + 4] = {b"rXYZ": b"bXYZ", b"bXYZ": b"rXYZ"}.get(name, name)
    return struct.pack(">I", max(size, len(data))) + bytes(data[4:]).ljust(size, b"\0")


@pytest.mark.parametrize("size", [0, 1_200_000, 3_000_000, 8_000_000])
def test_large_profile_is_used(tmp_path: Path, size: int) -> None:
    profile = (b"iCCP", b"name\0\0" + zlib.compress(with_red_and_blue_exchanged(size)))
    (tmp_path / "a.png").write_bytes(png(SAMPLES, 8, RGB, profile))
    rgb = np.asarray(read_picture(tmp_path / "a.png").rgb).astype(int)
    assert np.abs(rgb - SAMPLES[..., ::-1]).max() <= 3


@pytest.mark.parametrize("data", [BOMB, b"not deflated", zlib.compress(SRGB)[:200]], ids=["bomb", "garbage", "cut"])
def test_invalid_profile_is_ignored_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, data: bytes
) -> None:
    (tmp_path / "a.png").write_bytes(png(SAMPLES, 8, RGB, (b"iCCP", b"name\0\0" + data)))
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png").rgb, SAMPLES)
    assert "a.png: cannot use its color profile" in caplog.text


@pytest.mark.skipif(sys.platform != "linux", reason="measures memory by /proc")
def test_decompression_bombs_take_little_memory(tmp_path: Path) -> None:
    bombs = [TEXTS["bomb in zTXt"], TEXTS["bomb in EXIF"], TEXTS["bomb in iTXt"], (b"iCCP", b"name\0\0" + BOMB)]
    (tmp_path / "a.png").write_bytes(png(SAMPLES, 8, RGB, *bombs))
    with reader() as process:
        process.read(tmp_path / "a.png")  # imports what it needs
        assert process.read(tmp_path / "a.png") == {"picture": [14, 9]}
        assert process.memory < 64 * 2**20


def test_exif_orientation_after_the_pixels_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    plain = png(SAMPLES, 8, RGB)
    (tmp_path / "a.png").write_bytes(plain[:-12] + chunk(b"eXIf", exif.tobytes()[6:]) + plain[-12:])
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png").rgb, np.rot90(SAMPLES, -1))
    assert read_size(tmp_path / "a.png") == (9, 14)

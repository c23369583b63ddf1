"""Reading and writing images, compared with Pillow, tifffile, NumPy and formulas by hand."""

import io
import logging
import os
import resource
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image, ImageCms, ImageFilter

from styletransfer import StyleTransferError, UsageError
from styletransfer.images import Picture, check_output, read_picture, read_settings, to_pil, to_tensor, write_picture

LANCZOS = Image.Resampling.LANCZOS
ORIENTATION = 0x0112  # EXIF tag
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SETTINGS = {"content": "Tübingen.jpg", "style": "夜.png", "size": 512, "alpha": 1.0, "weights": None, "version": "1.2"}


def make_smooth_image(width: int = 48, height: int = 32) -> np.ndarray:
    """Return a smooth image, H×W×3, without symmetries that could hide an error."""
    y, x = np.mgrid[0:height, 0:width]
    return (
        np.stack([255 * x / (width - 1), 255 * y / (height - 1), 128 + 100 * np.sin(x / 9 + y / 5)], 2)
        .round()
        .astype("u1")
    )


def read_rgb(path: Path) -> np.ndarray:
    """Return the image as signed integers, H×W×3."""
    return np.asarray(read_picture(path).rgb).astype(int)


# --- orientation and color profiles -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.swapaxes(0, 1)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a.swapaxes(0, 1)[::-1, ::-1]),
        (8, lambda a: np.rot90(a)),
    ],
)
def test_exif_orientation_is_applied(tmp_path: Path, orientation: int, upright: Any) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(make_smooth_image()).save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(make_smooth_image()).save(tmp_path / "plain.jpg")
    stored = np.asarray(Image.open(tmp_path / "plain.jpg"))
    np.testing.assert_array_equal(read_rgb(tmp_path / "turned.jpg"), upright(stored))


def make_profile_with_swapped_red_and_blue() -> bytes:
    """Return sRGB's profile with two tag names swapped; the tag table starts at byte 128, 12 bytes each, name first."""
    data = bytearray(SRGB)
    swapped = {b"rXYZ": b"bXYZ", b"bXYZ": b"rXYZ"}
    for entry in range(132, 132 + 12 * int.from_bytes(data[128:132], "big"), 12):
        name = bytes(data[entry : entry + 4])
        data[entry : entry + 4] = swapped.get(name, name)
    assert data != SRGB
    return bytes(data)


def test_exif_orientation_is_applied_despite_a_broken_tag(tmp_path: Path) -> None:
    """The EXIF has two tags: orientation 6, and a pointer beyond the end of the data."""
    tags = struct.pack("<HHHIIHHIII", 2, ORIENTATION, 3, 1, 6, 0x8769, 4, 1, 0x7FFFFFFF, 0)
    Image.fromarray(make_smooth_image()).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0" + tags)
    assert read_picture(tmp_path / "a.jpg").rgb.size == (32, 48)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_embedded_profile_is_applied(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(make_smooth_image()).convert(mode)
    image.save(tmp_path / "a.png", icc_profile=make_profile_with_swapped_red_and_blue())
    expected = np.asarray(image.convert("RGB")).astype(int)[..., ::-1]
    assert np.abs(read_rgb(tmp_path / "a.png") - expected).max() <= 3


def test_srgb_profile_changes_nothing(tmp_path: Path) -> None:
    Image.fromarray(make_smooth_image()).save(tmp_path / "a.png", icc_profile=SRGB)
    assert np.abs(read_rgb(tmp_path / "a.png") - make_smooth_image()).max() <= 1


@pytest.mark.parametrize("profile", [b"not a profile", SRGB[:200], b"\0" * 400], ids=["text", "cut", "zeros"])
def test_broken_profile_is_ignored_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, profile: bytes
) -> None:
    Image.fromarray(make_smooth_image()).save(tmp_path / "odd.png", icc_profile=profile)
    with caplog.at_level(logging.WARNING, logger="styletransfer"):
        np.testing.assert_array_equal(read_rgb(tmp_path / "odd.png"), make_smooth_image())
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "odd.png" in caplog.text


def test_profile_for_other_channels_is_ignored_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    cmyk.save(tmp_path / "cmyk.tif", icc_profile=SRGB)
    with caplog.at_level(logging.WARNING, logger="styletransfer"):
        assert (read_rgb(tmp_path / "cmyk.tif") == np.asarray(cmyk.convert("RGB"))).all()
    assert "cmyk.tif" in caplog.text


def test_lab_is_read_as_rgb(tmp_path: Path) -> None:
    """CIE L*a*b* of white, of sRGB's red, and of a gray, by hand: L* = 50.2, Y = ((L* + 16) / 116)³."""
    lab = np.array([[[255, 0, 0], [136, 80, 67], [128, 0, 0]]], np.uint8)
    tifffile.imwrite(tmp_path / "lab.tif", lab, photometric="cielab")
    assert Image.open(tmp_path / "lab.tif").mode == "LAB"
    y = ((100 * 128 / 255 + 16) / 116) ** 3
    gray = 255 * (1.055 * y ** (1 / 2.4) - 0.055)
    expected = np.array([[[255, 255, 255], [255, 0, 0], [gray, gray, gray]]])
    assert np.abs(read_rgb(tmp_path / "lab.tif") - expected).max() < 15
    assert np.abs(read_rgb(tmp_path / "lab.tif") - expected)[:, [0, 2]].max() < 2


def test_cmyk_without_profile_is_read_as_pillow_converts_it(tmp_path: Path) -> None:
    Image.fromarray(make_smooth_image()).convert("CMYK").save(tmp_path / "a.jpg")
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.jpg"), Image.open(tmp_path / "a.jpg").convert("RGB"))
    assert np.abs(read_rgb(tmp_path / "a.jpg") - make_smooth_image()).mean() < 5
    Image.new("CMYK", (16, 16)).save(tmp_path / "white.jpg")
    assert (read_rgb(tmp_path / "white.jpg") == 255).all()


# --- modes and depths ----------------------------------------------------------------------------------------------


def test_gray_is_read_as_three_equal_channels(tmp_path: Path) -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(gray).save(tmp_path / "a.png")
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), np.dstack([gray] * 3))


def test_1_bit_image_is_read_as_black_and_white(tmp_path: Path) -> None:
    bits = np.random.default_rng(0).random((9, 13)) < 0.5
    Image.fromarray(bits).save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == "1"
    np.testing.assert_array_equal(read_rgb(tmp_path / "a.png"), np.dstack([bits * 255] * 3))


@pytest.mark.parametrize("ending", [".png", ".gif", ".bmp", ".tif"])
def test_palette_is_resolved(tmp_path: Path, ending: str) -> None:
    palette = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)
    indices = np.random.default_rng(1).integers(0, 256, (12, 20), np.uint8)
    image = Image.fromarray(indices).convert("P")
    image.putpalette(palette.tobytes())
    image.save(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(read_rgb(tmp_path / f"a{ending}"), palette[indices])
    assert read_picture(tmp_path / f"a{ending}").alpha is None


@pytest.mark.parametrize(
    ("mode", "visible", "transparent", "rgb"),
    [
        ("P", 0, 1, (255, 128, 0)),
        ("L", 90, 7, (90, 90, 90)),
        ("1", 255, 0, (255, 255, 255)),
        ("RGB", (1, 2, 3), (1, 2, 4), (1, 2, 3)),
    ],
)
def test_transparent_color_becomes_alpha_0_and_white(
    tmp_path: Path, mode: str, visible: Any, transparent: Any, rgb: tuple[int, int, int]
) -> None:
    image = Image.new(mode, (3, 1), visible)
    if mode == "P":
        image.putpalette([255, 128, 0, 0, 255, 0])
    image.putpixel((1, 0), transparent)
    image.save(tmp_path / "a.png", transparency=transparent)
    picture = read_picture(tmp_path / "a.png")
    np.testing.assert_array_equal(picture.alpha, [[255, 0, 255]])
    np.testing.assert_array_equal(picture.rgb, [[rgb, (255, 255, 255), rgb]])


@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_16_bit_gray_is_scaled_to_8_bits(tmp_path: Path, byteorder: Any) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(values).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", values, byteorder=byteorder)
    for name in ("a.png", "a.tif"):
        np.testing.assert_array_equal(read_rgb(tmp_path / name), np.dstack([np.rint(values / 257)] * 3), err_msg=name)


def test_floats_are_read_as_0_to_1_or_scaled_by_the_maximum(tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    for values, expected in (
        ([0, 0.2, 1, nan, -1], [0, 51, 255, 0, 0]),
        ([0, 1, 5, nan, -1], [0, 51, 255, 0, 0]),
        ([0, 0.2, inf, nan, -inf], [0, 51, 255, 0, 0]),
        ([nan, nan, nan, nan, nan], [0, 0, 0, 0, 0]),
    ):
        tifffile.imwrite(tmp_path / "a.tif", np.array([values], np.float32))
        np.testing.assert_array_equal(read_rgb(tmp_path / "a.tif")[0, :, 0], expected)


@pytest.mark.parametrize("ending", [".gif", ".png", ".webp", ".tif"])
def test_first_image_of_several_is_read(tmp_path: Path, ending: str) -> None:
    first, *others = (Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue"))
    first.save(tmp_path / f"a{ending}", save_all=True, append_images=others)
    assert Image.open(tmp_path / f"a{ending}").n_frames == 3
    assert np.abs(read_rgb(tmp_path / f"a{ending}") - (255, 0, 0)).max() <= 2


# --- transparency --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_alpha_is_kept_and_transparent_pixels_are_white(tmp_path: Path, mode: str, ending: str) -> None:
    alpha = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.new("RGB", (16, 16), (200, 100, 50)).convert(mode)
    image.putalpha(Image.fromarray(alpha))
    image.save(tmp_path / f"a{ending}")
    picture = read_picture(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(picture.alpha, alpha)
    expected = np.where(alpha[..., None] == 0, 255, np.asarray(image.convert("RGB")))
    np.testing.assert_array_equal(picture.rgb, expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_alpha_of_an_opaque_image_is_none(tmp_path: Path, mode: str) -> None:
    Image.fromarray(make_smooth_image()).convert(mode).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").alpha is None


def test_colors_of_transparent_pixels_do_not_bleed_when_resized() -> None:
    image = Image.new("RGBA", (64, 64), (255, 0, 0, 255))
    image.paste((0, 255, 0, 0), (0, 0, 31, 64))
    for size in ((23, 23), (150, 70)):
        picture = read_picture(image).resize(size)
        assert picture.alpha is not None
        rgb, alpha = np.asarray(picture.rgb), np.asarray(picture.alpha)
        assert (rgb[alpha > 0] == (255, 0, 0)).all()
        assert (rgb[alpha == 0] == 255).all()
        assert 0 < (alpha == 0).mean() < 0.6


# --- sizes and tensors ---------------------------------------------------------------------------------------------


def test_resizing_is_antialiased() -> None:
    board = np.indices((256, 256)).sum(0) % 2 * 255
    small = read_picture(Image.fromarray(board.astype(np.uint8))).resize((32, 32))
    assert np.abs(np.asarray(small.rgb).astype(int) - 127.5).max() <= 4


def test_resizing_matches_pillows_lanczos() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8))
    for size in ((31, 22), (123, 88)):
        np.testing.assert_array_equal(read_picture(noise).resize(size).rgb, noise.resize(size, LANCZOS))


def test_reading_and_resizing_keep_the_name(tmp_path: Path) -> None:
    for mode in ("RGB", "RGBA"):
        Image.new(mode, (8, 8)).save(tmp_path / "sky.png")
        picture = read_picture(str(tmp_path / "sky.png"))
        assert read_picture(picture) is picture
        assert (picture.name, picture.resize((4, 4)).name) == ("sky.png", "sky.png")
    assert read_picture(Image.new("RGB", (8, 8))).name == "image"


def test_conversion_to_a_tensor_and_back_is_lossless() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels = np.dstack([values, values.T, 255 - values])
    tensor = to_tensor(Image.fromarray(pixels))
    assert tensor.dtype == torch.float32
    np.testing.assert_array_equal(tensor.numpy(), pixels.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(to_pil(tensor), pixels)
    np.testing.assert_array_equal(read_picture(tensor).rgb, pixels)
    np.testing.assert_array_equal(Picture(Image.fromarray(pixels)).tensor(), tensor)


def test_to_pil_clamps_and_rounds_values() -> None:
    values = torch.tensor([-3.0, -0.001, 1.4 / 255, 1.6 / 255, 1.001, 7.0]).expand(1, 3, 1, 6)
    np.testing.assert_array_equal(np.asarray(to_pil(values))[0, :, 0], [0, 0, 1, 2, 255, 255])


@pytest.mark.parametrize(
    "tensor",
    [
        torch.zeros(3, 8, 8),
        torch.zeros(1, 1, 8, 8),
        torch.zeros(2, 3, 8, 8),
        torch.zeros(1, 8, 8, 3),
        torch.zeros(1, 3, 0, 8),
        torch.zeros(1, 3, 8, 8, dtype=torch.uint8),
        torch.full((1, 3, 8, 8), 1.01),
        torch.full((1, 3, 8, 8), -0.01),
        torch.full((1, 3, 8, 8), 128.0),
        torch.tensor([0.5, float("nan")]).repeat(1, 3, 8, 4),
    ],
)
def test_invalid_image_tensor_is_refused(tensor: torch.Tensor) -> None:
    with pytest.raises(UsageError, match="1×3×H×W in \\[0, 1\\]"):
        read_picture(tensor)


def test_image_without_pixels_is_refused() -> None:
    with pytest.raises(UsageError, match="0×5 pixels"):
        read_picture(Image.new("RGB", (0, 5)))


# --- writing -------------------------------------------------------------------------------------------------------

WRITABLE = [(".png", 8), (".jpg", 8), (".webp", 8), (".tif", 8), (".png", 16), (".tif", 16)]
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP", ".tif": "TIFF"}


def make_image_and_alpha() -> tuple[torch.Tensor, Image.Image]:
    """Return an image whose values need more than 8 bits, and an alpha channel of the same size."""
    y, x = np.mgrid[0:32, 0:48]
    tensor = torch.tensor(np.stack([x / 47, y / 31, (x * y % 97) / 96 * 0.2 + 0.4])[None]).float()
    return tensor, Image.fromarray((x * 5 % 256).astype(np.uint8))


@pytest.mark.parametrize(("ending", "bits"), WRITABLE)
def test_written_image_is_readable_and_stores_its_settings(tmp_path: Path, ending: str, bits: int) -> None:
    (tensor, _), path = make_image_and_alpha(), tmp_path / f"a{ending}"
    write_picture(tensor, path, alpha=None, bit_depth=bits, settings=SETTINGS)
    with Image.open(path) as image:
        assert (image.format, image.mode) == (FORMATS[ending], "RGB")
        error = np.abs(np.asarray(image) / 255 - tensor[0].permute(1, 2, 0).numpy())
        # Pillow truncates 16 bits to 8 instead of rounding.
        assert error.mean() < 0.02 if image.format in ("JPEG", "WEBP") else error.max() < {8: 0.51, 16: 1}[bits] / 255
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        assert "sRGB" in ImageCms.getProfileDescription(profile)
    assert read_settings(path) == SETTINGS
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("ending", [".png", ".webp", ".tif"])
def test_alpha_is_written(tmp_path: Path, ending: str) -> None:
    tensor, alpha = make_image_and_alpha()
    write_picture(tensor, tmp_path / f"a{ending}", alpha=alpha, bit_depth=8, settings=SETTINGS)
    with Image.open(tmp_path / f"a{ending}") as image:
        np.testing.assert_array_equal(image.getchannel("A"), alpha)
    assert read_settings(tmp_path / f"a{ending}") == SETTINGS


def test_transparent_image_as_jpeg_is_composited_on_white(tmp_path: Path) -> None:
    alpha = Image.fromarray(np.repeat(np.uint8([[0, 128, 255]]), 16, axis=1).repeat(16, axis=0))
    write_picture(torch.zeros(1, 3, 16, 48), tmp_path / "a.jpg", alpha=alpha, bit_depth=8, settings={})
    written = np.asarray(Image.open(tmp_path / "a.jpg")).astype(int)
    for i, level in enumerate((255, 127, 0)):
        assert np.abs(written[:, 16 * i + 2 : 16 * i + 14] - level).max() <= 3


def decode_png(data: bytes) -> tuple[dict[bytes, bytes], np.ndarray]:
    """Return a PNG's chunks and 16-bit channels, by the specification; every row has filter 2, "up"."""
    chunks, at = {}, 8
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    while at < len(data):
        (length,), kind = struct.unpack(">I", data[at : at + 4]), data[at + 4 : at + 8]
        chunks[kind] = data[at + 8 : at + 8 + length]
        (crc,) = struct.unpack(">I", data[at + 8 + length : at + 12 + length])
        assert crc == zlib.crc32(kind + chunks[kind])
        at += 12 + length
    width, height, depth, color, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, rest) == (16, [0, 0, 0])
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, -1)
    assert (rows[:, 0] == 2).all()
    unfiltered = np.cumsum(rows[:, 1:], axis=0, dtype=np.uint8)
    return chunks, unfiltered.view(">u2").reshape(height, width, {2: 3, 6: 4}[color])


@pytest.mark.parametrize(
    ("name", "kind"), [("a.JPG", "JPEG"), ("a.jpeg", "JPEG"), ("a.tiff", "TIFF"), ("a.b.Png", "PNG")]
)
def test_ending_selects_the_format(tmp_path: Path, name: str, kind: str) -> None:
    check_output(tmp_path / name, 8)
    write_picture(torch.zeros(1, 3, 4, 4), tmp_path / name, alpha=None, bit_depth=8, settings={})
    assert Image.open(tmp_path / name).format == kind


@pytest.mark.parametrize("opaque", [True, False])
@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_16_bit_output_is_exact(tmp_path: Path, ending: str, opaque: bool) -> None:
    (tensor, alpha), path = make_image_and_alpha(), tmp_path / f"a{ending}"
    write_picture(tensor, path, alpha=None if opaque else alpha, bit_depth=16, settings=SETTINGS)
    channels = decode_png(path.read_bytes())[1] if ending == ".png" else tifffile.imread(path)
    assert channels.dtype.newbyteorder("=") == np.uint16
    exact = tensor[0].permute(1, 2, 0).double().numpy() * 65535
    assert np.abs(channels[..., :3] - exact).max() <= 0.51
    assert channels.shape[2] == (3 if opaque else 4)
    if not opaque:
        np.testing.assert_array_equal(channels[..., 3], np.asarray(alpha).astype(int) * 257)
        np.testing.assert_array_equal(read_picture(path).alpha, alpha)
    assert read_settings(path) == SETTINGS


def test_chunks_of_a_16_bit_png_follow_the_specification(tmp_path: Path) -> None:
    write_picture(torch.rand(1, 3, 5, 7), tmp_path / "a.png", alpha=None, bit_depth=16, settings=SETTINGS)
    chunks, _ = decode_png((tmp_path / "a.png").read_bytes())
    assert list(chunks) == [b"IHDR", b"iCCP", b"tEXt", b"IDAT", b"IEND"]
    name, method, profile = chunks[b"iCCP"].partition(b"\0")[0], chunks[b"iCCP"][5:6], chunks[b"iCCP"][6:]
    assert (name, method) == (b"sRGB", b"\0")
    plain = zlib.decompress(profile)
    assert (plain[:24], plain[36:]) == (SRGB[:24], SRGB[36:])  # the bytes between are the date of creation
    assert chunks[b"tEXt"].isascii()
    with Image.open(tmp_path / "a.png") as image:
        image.verify()


@pytest.mark.parametrize("content", [b"", b"[1, 2]", b'"text"', b"{broken"])
def test_foreign_metadata_gives_no_settings(tmp_path: Path, content: bytes) -> None:
    exif = Image.Exif()
    exif[0x010E] = content.decode()
    Image.new("RGB", (4, 4)).save(tmp_path / "a.jpg", exif=exif)
    assert read_settings(tmp_path / "a.jpg") == {}


@pytest.mark.parametrize(("mask", "permissions"), [(0o027, 0o640), (0o000, 0o666), (0o077, 0o600)])
def test_permissions_follow_the_umask(tmp_path: Path, mask: int, permissions: int) -> None:
    before = os.umask(mask)
    try:
        write_picture(torch.zeros(1, 3, 4, 4), tmp_path / "a.png", alpha=None, bit_depth=8, settings={})
        assert os.umask(mask) == mask
    finally:
        os.umask(before)
    assert (tmp_path / "a.png").stat().st_mode & 0o777 == permissions


@contextmanager
def limit_file_size(size: int) -> Iterator[None]:
    """Limit files written within the block to `size` bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(("ending", "bits"), WRITABLE)
def test_full_disk_leaves_only_the_old_file(tmp_path: Path, ending: str, bits: int) -> None:
    path = tmp_path / f"old{ending}"
    path.write_bytes(b"the old picture")
    with limit_file_size(2000), pytest.raises(StyleTransferError, match=f"old{ending}"):
        write_picture(torch.rand(1, 3, 64, 64), path, alpha=None, bit_depth=bits, settings={})
    assert path.read_bytes() == b"the old picture"
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(("name", "width"), [("old.webp", 16384), ("old.jpg", 65536)])
def test_image_too_large_for_its_format_leaves_the_old_file(tmp_path: Path, name: str, width: int) -> None:
    (tmp_path / name).write_bytes(b"the old picture")
    with pytest.raises(StyleTransferError, match=f"{name}.*{width}"):
        write_picture(torch.zeros(1, 3, 1, width), tmp_path / name, alpha=None, bit_depth=8, settings={})
    assert (tmp_path / name).read_bytes() == b"the old picture"
    assert os.listdir(tmp_path) == [name]


def test_settings_too_long_for_jpeg_are_omitted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.jpg"
    write_picture(torch.rand(1, 3, 8, 8), path, settings={"version": "1", "told": "x" * 70_000})
    assert read_picture(path).rgb.size == (8, 8) and read_settings(path) == {}
    assert "too long" in caplog.text


def test_longest_allowed_file_name_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * (os.pathconf(tmp_path, "PC_NAME_MAX") - 4) + ".png")
    check_output(path, 8)
    write_picture(torch.zeros(1, 3, 4, 4), path, alpha=None, bit_depth=8, settings={})
    assert read_picture(path).rgb.size == (4, 4)
    with pytest.raises(UsageError, match="name"):
        check_output(path.with_name("x" + path.name), 8)


# --- output paths --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.bmp", "a", "png", "a.png.txt"])
def test_unknown_ending_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"\.png, \.jpg, \.jpeg, \.webp, \.tif"):
        check_output(tmp_path / name, 8)


def test_output_that_is_a_folder_or_in_a_missing_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UsageError, match=r"folder\.png is a folder"):
        check_output(tmp_path / "folder.png", 8)
    with pytest.raises(UsageError, match="nowhere does not exist"):
        check_output(tmp_path / "nowhere" / "a.png", 8)


@pytest.mark.parametrize("ending", [".jpg", ".webp"])
def test_16_bits_are_refused_for_8_bit_formats(tmp_path: Path, ending: str) -> None:
    with pytest.raises(UsageError, match=r"16 use \.png or \.tif"):
        check_output(tmp_path / f"a{ending}", 16)
    check_output(tmp_path / f"a{ending}", 8)


def test_output_that_is_an_input_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    source = tmp_path / "cat.png"
    source.write_bytes(b"")
    (tmp_path / "link.png").symlink_to(source)
    (tmp_path / "other.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    others = (Path("content"), Path("x" * 300), tmp_path)
    for output in (source, Path("cat.png"), Path("sub/../cat.png"), Path("link.png")):
        for inputs in ((source,), (*others, Path("sub/../cat.png"))):
            with pytest.raises(UsageError, match="is an input of this run"):
                check_output(output, 8, inputs)
    for output in (Path("other.png"), Path("new.png")):
        check_output(output, 8, (*others, source))


# --- unreadable files ----------------------------------------------------------------------------------------------


def test_missing_input_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone\.png: no such file"):
        read_picture(tmp_path / "gone.png")
    with pytest.raises(UsageError, match="is a folder"):
        read_picture(tmp_path)
    with pytest.raises(UsageError, match="xxx: no such file"):
        read_picture("x" * 5000)


def test_pipe_is_refused_without_blocking(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    errors: list[BaseException] = []

    def read() -> None:
        try:
            read_picture(tmp_path / "pipe.png")
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=read, daemon=True)
    thread.start()
    thread.join(10)
    assert [type(error) for error in errors] == [UsageError]
    assert "pipe.png" in str(errors[0])


@pytest.mark.parametrize(
    "content", [b"", b"Not a picture.\n" * 100, b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"\0" * 500]
)
@pytest.mark.parametrize("name", ["bad.jpg", "bad.png"])
def test_file_that_is_no_image_is_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StyleTransferError, match=name) as caught:
        read_picture(tmp_path / name)
    assert not isinstance(caught.value, UsageError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp", ".gif", ".tif", ".bmp"])
def test_truncated_image_is_refused_by_name(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"half{ending}"
    Image.effect_noise((64, 64), 80).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(StyleTransferError, match=f"half{ending}"):
        read_picture(path)


def test_header_that_claims_too_many_pixels_is_refused(tmp_path: Path) -> None:
    data = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")):
        data += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    (tmp_path / "giant.png").write_bytes(data)
    with pytest.raises(StyleTransferError, match=r"giant\.png: 900000000 pixels are more than max_pixels"):
        read_picture(tmp_path / "giant.png")


def test_warnings_reach_stderr_and_libtiffs_messages_do_not(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    logging.getLogger("styletransfer").addHandler(logging.StreamHandler())
    original = Image.fromarray(make_smooth_image())
    original.save(tmp_path / "a.tif", compression="tiff_lzw", icc_profile=b"not a profile")
    read_picture(tmp_path / "a.tif")
    assert "a.tif: cannot use its color profile" in capfd.readouterr().err

    data = bytearray((tmp_path / "a.tif").read_bytes())
    data[100:200] = b"\xff" * 100
    (tmp_path / "a.tif").write_bytes(data)
    with Image.open(tmp_path / "a.tif") as image, pytest.raises(OSError):  # noqa: PT011
        image.load()
    assert "code" in capfd.readouterr().err
    with pytest.raises(StyleTransferError, match=r"a\.tif: cannot read image"):
        read_picture(tmp_path / "a.tif")
    assert capfd.readouterr().err == ""


def test_image_is_read_with_stderr_closed(tmp_path: Path) -> None:
    Image.fromarray(make_smooth_image()).save(tmp_path / "a.tif", compression="tiff_lzw")
    code = "import sys; from styletransfer import images; print(images.read_picture(sys.argv[1]).rgb.size)"
    command = ["sh", "-c", '"$0" "$@" 2>&-', sys.executable, "-c", code, str(tmp_path / "a.tif")]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "(48, 32)\n"


@pytest.mark.filterwarnings("ignore")  # Pillow warns about damage that it tolerates
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_damaged_file_gives_an_image_or_our_error(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    extra = {"exif": exif, "icc_profile": SRGB} if kind in ("PNG", "JPEG", "WEBP", "TIFF") else {}
    noise = Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).filter(ImageFilter.SMOOTH)
    noise.save(tmp_path / "whole", format=kind, **extra)
    original, pictures, errors = (tmp_path / "whole").read_bytes(), [], []
    for attempt in range(30):
        data = bytearray(original[: rng.integers(len(original))] if attempt % 4 == 0 else original)
        for _ in range(rng.integers(1, 6)):
            if data:  # in the header or anywhere
                data[rng.integers(min(len(data), 200 if attempt % 2 else len(original)))] = rng.integers(256)
        (tmp_path / "damaged").write_bytes(data)
        try:
            pictures.append(read_picture(tmp_path / "damaged"))
        except StyleTransferError as error:
            errors.append(str(error))
    assert all(picture.rgb.mode == "RGB" for picture in pictures)
    assert errors
    assert all("damaged" in error for error in errors)


def test_max_pixels_is_applied_and_pillows_limit_is_unchanged(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "small.png")
    before = Image.MAX_IMAGE_PIXELS
    assert read_picture(tmp_path / "small.png", max_pixels=600).rgb.size == (30, 20)
    with pytest.raises(
        StyleTransferError, match=r"600 pixels are more than max_pixels; if that is right, set max_pixels to 600$"
    ):
        read_picture(tmp_path / "small.png", max_pixels=599)
    assert before == Image.MAX_IMAGE_PIXELS

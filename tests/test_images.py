"""Pictures in and out, against Pillow, tifffile, numpy and formulas by hand."""

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
ORIENTATION = 0x0112  # its EXIF tag
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
SETTINGS = {"content": "Tübingen.jpg", "style": "夜.png", "size": 512, "alpha": 1.0, "weights": None, "version": "1.2"}


def smooth(width: int = 48, height: int = 32) -> np.ndarray:
    """A smooth picture H×W×3, in which no symmetry hides a mistake."""
    y, x = np.mgrid[0:height, 0:width]
    return (
        np.stack([255 * x / (width - 1), 255 * y / (height - 1), 128 + 100 * np.sin(x / 9 + y / 5)], 2)
        .round()
        .astype("u1")
    )


def rgb_of(path: Path) -> np.ndarray:
    """What is read, as H×W×3 integers that can be subtracted."""
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
    Image.fromarray(smooth()).save(tmp_path / "turned.jpg", exif=exif)
    Image.fromarray(smooth()).save(tmp_path / "plain.jpg")
    stored = np.asarray(Image.open(tmp_path / "plain.jpg"))
    np.testing.assert_array_equal(rgb_of(tmp_path / "turned.jpg"), upright(stored))


def profile_with_red_and_blue_exchanged() -> bytes:
    """sRGB's profile with the names of two tags exchanged: its table starts at byte 128, 12 bytes each, name first."""
    data = bytearray(SRGB)
    exchanged = {b"rXYZ": b"bXYZ", b"bXYZ": b"rXYZ"}
    for entry in range(132, 132 + 12 * int.from_bytes(data[128:132], "big"), 12):
        name = bytes(data[entry : entry + 4])
        data[entry : entry + 4] = exchanged.get(name, name)
    assert data != SRGB
    return bytes(data)


def test_orientation_is_applied_beside_garbage(tmp_path: Path) -> None:
    """EXIF of two tags: orientation 6, and one of an unknown type with its value beyond the end."""
    tags = struct.pack("<HHHIIHHIII", 2, ORIENTATION, 3, 1, 6, 0x8769, 4, 1, 0x7FFFFFFF, 0)
    Image.fromarray(smooth()).save(tmp_path / "a.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0" + tags)
    assert read_picture(tmp_path / "a.jpg").rgb.size == (32, 48)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_an_embedded_profile_is_used(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(smooth()).convert(mode)
    image.save(tmp_path / "a.png", icc_profile=profile_with_red_and_blue_exchanged())
    expected = np.asarray(image.convert("RGB")).astype(int)[..., ::-1]
    assert np.abs(rgb_of(tmp_path / "a.png") - expected).max() <= 3


def test_a_profile_of_srgb_changes_nothing(tmp_path: Path) -> None:
    Image.fromarray(smooth()).save(tmp_path / "a.png", icc_profile=SRGB)
    assert np.abs(rgb_of(tmp_path / "a.png") - smooth()).max() <= 1


@pytest.mark.parametrize("profile", [b"not a profile", SRGB[:200], b"\0" * 400], ids=["text", "cut", "zeros"])
def test_a_broken_profile_is_ignored_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, profile: bytes
) -> None:
    Image.fromarray(smooth()).save(tmp_path / "odd.png", icc_profile=profile)
    with caplog.at_level(logging.WARNING, logger="styletransfer"):
        np.testing.assert_array_equal(rgb_of(tmp_path / "odd.png"), smooth())
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "odd.png" in caplog.text


def test_a_profile_for_other_channels_is_ignored_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cmyk = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
    cmyk.save(tmp_path / "cmyk.tif", icc_profile=SRGB)
    with caplog.at_level(logging.WARNING, logger="styletransfer"):
        assert (rgb_of(tmp_path / "cmyk.tif") == np.asarray(cmyk.convert("RGB"))).all()
    assert "cmyk.tif" in caplog.text


def test_lab_is_read_as_rgb(tmp_path: Path) -> None:
    """CIE L*a*b* of white, of sRGB's red, and a gray by hand: L* = 50.2, Y = ((L* + 16) / 116)³."""
    lab = np.array([[[255, 0, 0], [136, 80, 67], [128, 0, 0]]], np.uint8)
    tifffile.imwrite(tmp_path / "lab.tif", lab, photometric="cielab")
    assert Image.open(tmp_path / "lab.tif").mode == "LAB"
    y = ((100 * 128 / 255 + 16) / 116) ** 3
    gray = 255 * (1.055 * y ** (1 / 2.4) - 0.055)
    expected = np.array([[[255, 255, 255], [255, 0, 0], [gray, gray, gray]]])
    assert np.abs(rgb_of(tmp_path / "lab.tif") - expected).max() < 15
    assert np.abs(rgb_of(tmp_path / "lab.tif") - expected)[:, [0, 2]].max() < 2


def test_cmyk_without_profile_is_read_as_pillow_converts_it(tmp_path: Path) -> None:
    Image.fromarray(smooth()).convert("CMYK").save(tmp_path / "a.jpg")
    np.testing.assert_array_equal(rgb_of(tmp_path / "a.jpg"), Image.open(tmp_path / "a.jpg").convert("RGB"))
    assert np.abs(rgb_of(tmp_path / "a.jpg") - smooth()).mean() < 5
    Image.new("CMYK", (16, 16)).save(tmp_path / "white.jpg")
    assert (rgb_of(tmp_path / "white.jpg") == 255).all()


# --- modes and depths ----------------------------------------------------------------------------------------------


def test_gray_is_the_same_in_three_channels(tmp_path: Path) -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(gray).save(tmp_path / "a.png")
    np.testing.assert_array_equal(rgb_of(tmp_path / "a.png"), np.dstack([gray] * 3))


def test_one_bit_is_black_and_white(tmp_path: Path) -> None:
    bits = np.random.default_rng(0).random((9, 13)) < 0.5
    Image.fromarray(bits).save(tmp_path / "a.png")
    assert Image.open(tmp_path / "a.png").mode == "1"
    np.testing.assert_array_equal(rgb_of(tmp_path / "a.png"), np.dstack([bits * 255] * 3))


@pytest.mark.parametrize("ending", [".png", ".gif", ".bmp", ".tif"])
def test_a_palette_is_resolved(tmp_path: Path, ending: str) -> None:
    palette = np.random.default_rng(0).integers(0, 256, (256, 3), np.uint8)
    indices = np.random.default_rng(1).integers(0, 256, (12, 20), np.uint8)
    image = Image.fromarray(indices).convert("P")
    image.putpalette(palette.tobytes())
    image.save(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(rgb_of(tmp_path / f"a{ending}"), palette[indices])
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
def test_a_transparent_color_is_transparent_and_white(
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
def test_gray_of_16_bits_is_scaled_to_8(tmp_path: Path, byteorder: Any) -> None:
    values = np.arange(65536, dtype=np.uint16).reshape(256, 256)
    Image.fromarray(values).save(tmp_path / "a.png")
    tifffile.imwrite(tmp_path / "a.tif", values, byteorder=byteorder)
    for name in ("a.png", "a.tif"):
        np.testing.assert_array_equal(rgb_of(tmp_path / name), np.dstack([np.rint(values / 257)] * 3), err_msg=name)


def test_floats_are_read_from_0_to_1_or_to_the_largest(tmp_path: Path) -> None:
    nan, inf = float("nan"), float("inf")
    for values, expected in (
        ([0, 0.2, 1, nan, -1], [0, 51, 255, 0, 0]),
        ([0, 1, 5, nan, -1], [0, 51, 255, 0, 0]),
        ([0, 0.2, inf, nan, -inf], [0, 51, 255, 0, 0]),
        ([nan, nan, nan, nan, nan], [0, 0, 0, 0, 0]),
    ):
        tifffile.imwrite(tmp_path / "a.tif", np.array([values], np.float32))
        np.testing.assert_array_equal(rgb_of(tmp_path / "a.tif")[0, :, 0], expected)


@pytest.mark.parametrize("ending", [".gif", ".png", ".webp", ".tif"])
def test_of_several_pictures_the_first_is_read(tmp_path: Path, ending: str) -> None:
    first, *others = (Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue"))
    first.save(tmp_path / f"a{ending}", save_all=True, append_images=others)
    assert Image.open(tmp_path / f"a{ending}").n_frames == 3
    assert np.abs(rgb_of(tmp_path / f"a{ending}") - (255, 0, 0)).max() <= 2


# --- transparency --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_opacity_is_kept_and_the_transparent_is_white(tmp_path: Path, mode: str, ending: str) -> None:
    alpha = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.new("RGB", (16, 16), (200, 100, 50)).convert(mode)
    image.putalpha(Image.fromarray(alpha))
    image.save(tmp_path / f"a{ending}")
    picture = read_picture(tmp_path / f"a{ending}")
    np.testing.assert_array_equal(picture.alpha, alpha)
    expected = np.where(alpha[..., None] == 0, 255, np.asarray(image.convert("RGB")))
    np.testing.assert_array_equal(picture.rgb, expected)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_full_opacity_is_none(tmp_path: Path, mode: str) -> None:
    Image.fromarray(smooth()).convert(mode).save(tmp_path / "a.png")
    assert read_picture(tmp_path / "a.png").alpha is None


def test_hidden_colors_dont_bleed_when_resized() -> None:
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


def test_resizing_is_pillows_lanczos() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 70, 3), np.uint8))
    for size in ((31, 22), (123, 88)):
        np.testing.assert_array_equal(read_picture(noise).resize(size).rgb, noise.resize(size, LANCZOS))


def test_reading_keeps_the_name_and_resizing_too(tmp_path: Path) -> None:
    for mode in ("RGB", "RGBA"):
        Image.new(mode, (8, 8)).save(tmp_path / "sky.png")
        picture = read_picture(str(tmp_path / "sky.png"))
        assert read_picture(picture) is picture
        assert (picture.name, picture.resize((4, 4)).name) == ("sky.png", "sky.png")
    assert read_picture(Image.new("RGB", (8, 8))).name == "image"


def test_all_values_survive_the_way_to_a_tensor_and_back() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    pixels = np.dstack([values, values.T, 255 - values])
    tensor = to_tensor(Image.fromarray(pixels))
    assert tensor.dtype == torch.float32
    np.testing.assert_array_equal(tensor.numpy(), pixels.transpose(2, 0, 1)[None].astype(np.float32) / np.float32(255))
    np.testing.assert_array_equal(to_pil(tensor), pixels)
    np.testing.assert_array_equal(read_picture(tensor).rgb, pixels)
    np.testing.assert_array_equal(Picture(Image.fromarray(pixels)).tensor(), tensor)


def test_values_outside_are_clamped_and_others_rounded() -> None:
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
def test_a_tensor_that_is_no_image_is_refused(tensor: torch.Tensor) -> None:
    with pytest.raises(UsageError, match="1×3×H×W in \\[0, 1\\]"):
        read_picture(tensor)


def test_an_image_without_pixels_is_refused() -> None:
    with pytest.raises(UsageError, match="0×5 pixels"):
        read_picture(Image.new("RGB", (0, 5)))


# --- writing -------------------------------------------------------------------------------------------------------

WRITABLE = [(".png", 8), (".jpg", 8), (".webp", 8), (".tif", 8), (".png", 16), (".tif", 16)]
FORMATS = {".png": "PNG", ".jpg": "JPEG", ".webp": "WEBP", ".tif": "TIFF"}


def image_and_alpha() -> tuple[torch.Tensor, Image.Image]:
    """A tensor whose values need more than 8 bits, and an opacity of the same size."""
    y, x = np.mgrid[0:32, 0:48]
    tensor = torch.tensor(np.stack([x / 47, y / 31, (x * y % 97) / 96 * 0.2 + 0.4])[None]).float()
    return tensor, Image.fromarray((x * 5 % 256).astype(np.uint8))


@pytest.mark.parametrize(("ending", "bits"), WRITABLE)
def test_what_is_written_can_be_read_and_says_how_it_was_made(tmp_path: Path, ending: str, bits: int) -> None:
    (tensor, _), path = image_and_alpha(), tmp_path / f"a{ending}"
    write_picture(tensor, path, alpha=None, bit_depth=bits, settings=SETTINGS)
    with Image.open(path) as image:
        assert (image.format, image.mode) == (FORMATS[ending], "RGB")
        error = np.abs(np.asarray(image) / 255 - tensor[0].permute(1, 2, 0).numpy())
        # Pillow cuts 16 bits to 8 where it should round them.
        assert error.mean() < 0.02 if image.format in ("JPEG", "WEBP") else error.max() < {8: 0.51, 16: 1}[bits] / 255
        profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
        assert "sRGB" in ImageCms.getProfileDescription(profile)
    assert read_settings(path) == SETTINGS
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize("ending", [".png", ".webp", ".tif"])
def test_opacity_is_written(tmp_path: Path, ending: str) -> None:
    tensor, alpha = image_and_alpha()
    write_picture(tensor, tmp_path / f"a{ending}", alpha=alpha, bit_depth=8, settings=SETTINGS)
    with Image.open(tmp_path / f"a{ending}") as image:
        np.testing.assert_array_equal(image.getchannel("A"), alpha)
    assert read_settings(tmp_path / f"a{ending}") == SETTINGS


def test_a_jpeg_shows_the_transparent_on_white(tmp_path: Path) -> None:
    alpha = Image.fromarray(np.repeat(np.uint8([[0, 128, 255]]), 16, axis=1).repeat(16, axis=0))
    write_picture(torch.zeros(1, 3, 16, 48), tmp_path / "a.jpg", alpha=alpha, bit_depth=8, settings={})
    written = np.asarray(Image.open(tmp_path / "a.jpg")).astype(int)
    for i, level in enumerate((255, 127, 0)):
        assert np.abs(written[:, 16 * i + 2 : 16 * i + 14] - level).max() <= 3


def decoded_png(data: bytes) -> tuple[dict[bytes, bytes], np.ndarray]:
    """A PNG's chunks and its 16-bit channels, from the specification; every row has filter 2, "up"."""
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
def test_any_usual_ending_tells_the_format(tmp_path: Path, name: str, kind: str) -> None:
    check_output(tmp_path / name, 8)
    write_picture(torch.zeros(1, 3, 4, 4), tmp_path / name, alpha=None, bit_depth=8, settings={})
    assert Image.open(tmp_path / name).format == kind


@pytest.mark.parametrize("opaque", [True, False])
@pytest.mark.parametrize("ending", [".png", ".tif"])
def test_16_bits_are_exact(tmp_path: Path, ending: str, opaque: bool) -> None:
    (tensor, alpha), path = image_and_alpha(), tmp_path / f"a{ending}"
    write_picture(tensor, path, alpha=None if opaque else alpha, bit_depth=16, settings=SETTINGS)
    channels = decoded_png(path.read_bytes())[1] if ending == ".png" else tifffile.imread(path)
    assert channels.dtype.newbyteorder("=") == np.uint16
    exact = tensor[0].permute(1, 2, 0).double().numpy() * 65535
    assert np.abs(channels[..., :3] - exact).max() <= 0.51
    assert channels.shape[2] == (3 if opaque else 4)
    if not opaque:
        np.testing.assert_array_equal(channels[..., 3], np.asarray(alpha).astype(int) * 257)
        np.testing.assert_array_equal(read_picture(path).alpha, alpha)
    assert read_settings(path) == SETTINGS


def test_the_chunks_of_a_16_bit_png_are_those_of_the_specification(tmp_path: Path) -> None:
    write_picture(torch.rand(1, 3, 5, 7), tmp_path / "a.png", alpha=None, bit_depth=16, settings=SETTINGS)
    chunks, _ = decoded_png((tmp_path / "a.png").read_bytes())
    assert list(chunks) == [b"IHDR", b"iCCP", b"tEXt", b"IDAT", b"IEND"]
    name, method, profile = chunks[b"iCCP"].partition(b"\0")[0], chunks[b"iCCP"][5:6], chunks[b"iCCP"][6:]
    assert (name, method) == (b"sRGB", b"\0")
    plain = zlib.decompress(profile)
    assert (plain[:24], plain[36:]) == (SRGB[:24], SRGB[36:])  # between them stands when the profile was made
    assert chunks[b"tEXt"].isascii()
    with Image.open(tmp_path / "a.png") as image:
        image.verify()


@pytest.mark.parametrize("content", [b"", b"[1, 2]", b'"text"', b"{broken"])
def test_pictures_of_others_have_no_settings(tmp_path: Path, content: bytes) -> None:
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
def disk_that_holds(size: int) -> Iterator[None]:
    """Within, this process can write no file beyond that many bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(("ending", "bits"), WRITABLE)
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path: Path, ending: str, bits: int) -> None:
    path = tmp_path / f"old{ending}"
    path.write_bytes(b"the old picture")
    with disk_that_holds(2000), pytest.raises(StyleTransferError, match=f"old{ending}"):
        write_picture(torch.rand(1, 3, 64, 64), path, alpha=None, bit_depth=bits, settings={})
    assert path.read_bytes() == b"the old picture"
    assert os.listdir(tmp_path) == [path.name]


@pytest.mark.parametrize(("name", "width"), [("old.webp", 16384), ("old.jpg", 65536)])
def test_a_picture_too_large_for_its_format_leaves_the_old_file(tmp_path: Path, name: str, width: int) -> None:
    (tmp_path / name).write_bytes(b"the old picture")
    with pytest.raises(StyleTransferError, match=f"{name}.*{width}"):
        write_picture(torch.zeros(1, 3, 1, width), tmp_path / name, alpha=None, bit_depth=8, settings={})
    assert (tmp_path / name).read_bytes() == b"the old picture"
    assert os.listdir(tmp_path) == [name]


def test_settings_that_no_jpeg_can_hold_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.jpg"
    write_picture(torch.rand(1, 3, 8, 8), path, settings={"version": "1", "told": "x" * 70_000})
    assert read_picture(path).rgb.size == (8, 8) and read_settings(path) == {}
    assert "too long" in caplog.text


def test_the_longest_name_that_the_folder_allows_can_be_written(tmp_path: Path) -> None:
    path = tmp_path / ("x" * (os.pathconf(tmp_path, "PC_NAME_MAX") - 4) + ".png")
    check_output(path, 8)
    write_picture(torch.zeros(1, 3, 4, 4), path, alpha=None, bit_depth=8, settings={})
    assert read_picture(path).rgb.size == (4, 4)
    with pytest.raises(UsageError, match="name"):
        check_output(path.with_name("x" + path.name), 8)


# --- where to write ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.bmp", "a", "png", "a.png.txt"])
def test_an_unknown_ending_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"\.png, \.jpg, \.jpeg, \.webp, \.tif"):
        check_output(tmp_path / name, 8)


def test_an_output_that_is_a_folder_or_in_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UsageError, match=r"folder\.png is a folder"):
        check_output(tmp_path / "folder.png", 8)
    with pytest.raises(UsageError, match="nowhere does not exist"):
        check_output(tmp_path / "nowhere" / "a.png", 8)


@pytest.mark.parametrize("ending", [".jpg", ".webp"])
def test_16_bits_are_refused_where_there_are_8(tmp_path: Path, ending: str) -> None:
    with pytest.raises(UsageError, match=r"16 use \.png or \.tif"):
        check_output(tmp_path / f"a{ending}", 16)
    check_output(tmp_path / f"a{ending}", 8)


def test_an_input_is_never_the_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    given = tmp_path / "cat.png"
    given.write_bytes(b"")
    (tmp_path / "link.png").symlink_to(given)
    (tmp_path / "other.png").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    others = (Path("content"), Path("x" * 300), tmp_path)
    for output in (given, Path("cat.png"), Path("sub/../cat.png"), Path("link.png")):
        for inputs in ((given,), (*others, Path("sub/../cat.png"))):
            with pytest.raises(UsageError, match="is an input of this run"):
                check_output(output, 8, inputs)
    for output in (Path("other.png"), Path("new.png")):
        check_output(output, 8, (*others, given))


# --- what can't be read --------------------------------------------------------------------------------------------


def test_a_path_without_a_file_is_a_mistake_of_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"gone\.png: no such file"):
        read_picture(tmp_path / "gone.png")
    with pytest.raises(UsageError, match="is a folder"):
        read_picture(tmp_path)
    with pytest.raises(UsageError, match="xxx: no such file"):
        read_picture("x" * 5000)


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    errors: list[BaseException] = []

    def reading() -> None:
        try:
            read_picture(tmp_path / "pipe.png")
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=reading, daemon=True)
    thread.start()
    thread.join(10)
    assert [type(error) for error in errors] == [UsageError]
    assert "pipe.png" in str(errors[0])


@pytest.mark.parametrize(
    "content", [b"", b"Not a picture.\n" * 100, b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"\0" * 500]
)
@pytest.mark.parametrize("name", ["bad.jpg", "bad.png"])
def test_a_file_that_is_no_picture_is_refused_by_name(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(StyleTransferError, match=name) as caught:
        read_picture(tmp_path / name)
    assert not isinstance(caught.value, UsageError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", [".jpg", ".png", ".webp", ".gif", ".tif", ".bmp"])
def test_a_truncated_picture_is_refused_by_name(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"half{ending}"
    Image.effect_noise((64, 64), 80).convert("RGB").save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(StyleTransferError, match=f"half{ending}"):
        read_picture(path)


def test_a_header_that_claims_a_giant_is_refused(tmp_path: Path) -> None:
    data = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 2, 0, 0, 0)
    for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")):
        data += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    (tmp_path / "giant.png").write_bytes(data)
    with pytest.raises(StyleTransferError, match=r"giant\.png: 900000000 pixels are more than --max-pixels"):
        read_picture(tmp_path / "giant.png")


def test_warnings_reach_stderr_and_what_libtiff_writes_there_does_not(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    logging.getLogger("styletransfer").addHandler(logging.StreamHandler())
    picture = Image.fromarray(smooth())
    picture.save(tmp_path / "a.tif", compression="tiff_lzw", icc_profile=b"not a profile")
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


def test_a_picture_is_read_where_stderr_is_closed(tmp_path: Path) -> None:
    Image.fromarray(smooth()).save(tmp_path / "a.tif", compression="tiff_lzw")
    code = "import sys; from styletransfer import images; print(images.read_picture(sys.argv[1]).rgb.size)"
    command = ["sh", "-c", '"$0" "$@" 2>&-', sys.executable, "-c", code, str(tmp_path / "a.tif")]
    assert subprocess.run(command, capture_output=True, text=True).stdout == "(48, 32)\n"


@pytest.mark.filterwarnings("ignore")  # Pillow's remarks on damage that it reads around
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP"])
def test_damage_of_any_kind_gives_a_picture_or_our_error(tmp_path: Path, kind: str) -> None:
    rng = np.random.default_rng(0)
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    extra = {"exif": exif, "icc_profile": SRGB} if kind in ("PNG", "JPEG", "WEBP", "TIFF") else {}
    noise = Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).filter(ImageFilter.SMOOTH)
    noise.save(tmp_path / "whole", format=kind, **extra)
    whole, pictures, errors = (tmp_path / "whole").read_bytes(), [], []
    for turn in range(30):
        data = bytearray(whole[: rng.integers(len(whole))] if turn % 4 == 0 else whole)
        for _ in range(rng.integers(1, 6)):
            if data:  # in the header or anywhere
                data[rng.integers(min(len(data), 200 if turn % 2 else len(whole)))] = rng.integers(256)
        (tmp_path / "damaged").write_bytes(data)
        try:
            pictures.append(read_picture(tmp_path / "damaged"))
        except StyleTransferError as error:
            errors.append(str(error))
    assert all(picture.rgb.mode == "RGB" for picture in pictures)
    assert errors
    assert all("damaged" in error for error in errors)


def test_the_limit_of_pixels_is_the_callers_and_pillows_is_as_before(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20)).save(tmp_path / "small.png")
    before = Image.MAX_IMAGE_PIXELS
    assert read_picture(tmp_path / "small.png", max_pixels=600).rgb.size == (30, 20)
    with pytest.raises(
        StyleTransferError, match=r"600 pixels are more than --max-pixels; if that is right: --max-pixels 600$"
    ):
        read_picture(tmp_path / "small.png", max_pixels=599)
    assert before == Image.MAX_IMAGE_PIXELS

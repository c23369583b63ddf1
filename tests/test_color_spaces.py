"""Color spaces declared by other means than ICC profiles, compared with the formulas of their standards."""

import io
import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms
from test_png import GRAY, RGB, png, with_red_and_blue_exchanged

from styletransfer.images import read_picture

PRIMARIES = {
    "sRGB": ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06)),
    "Adobe": ((0.64, 0.33), (0.21, 0.71), (0.15, 0.06)),
    "P3": ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060)),
    "2020": ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046)),
    "PAL": ((0.64, 0.33), (0.29, 0.60), (0.15, 0.06)),
}
D65 = (0.3127, 0.3290)
SRGB_PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
#: Colors that are mostly in the gamut of sRGB, whatever the primaries.
COLORS = np.random.default_rng(0).integers(90, 200, (9, 14, 3))


def srgb(v: np.ndarray) -> np.ndarray:
    return np.where(v <= 0.04045, v / 12.92, ((v + 0.055) / 1.055) ** 2.4)


def rec709(v: np.ndarray) -> np.ndarray:
    return np.where(v < 0.081, v / 4.5, ((v + 0.099) / 1.099) ** (1 / 0.45))


def power(exponent: float) -> Callable[[np.ndarray], np.ndarray]:
    return lambda v: v**exponent


def xyz_matrix(primaries: str) -> np.ndarray:
    """Return the matrix to XYZ with white D65 (SMPTE RP 177)."""
    corners = np.array([(x / y, 1, (1 - x - y) / y) for x, y in PRIMARIES[primaries]]).T
    x, y = D65
    return corners * np.linalg.solve(corners, [x / y, 1, (1 - x - y) / y])


def to_srgb(colors: np.ndarray, primaries: str, curve: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    linear = curve(colors / 255) @ (np.linalg.inv(xyz_matrix("sRGB")) @ xyz_matrix(primaries)).T
    linear = linear.clip(0, 1)
    return 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def assert_reads(path: Path, expected: np.ndarray) -> None:
    assert np.abs(np.asarray(read_picture(path).rgb) - expected).max() <= 2


def chromaticities(primaries: str) -> tuple[bytes, bytes]:
    numbers = [round(100000 * number) for place in (D65, *PRIMARIES[primaries]) for number in place]
    return b"cHRM", struct.pack(">8I", *numbers)


def gama(number: int) -> tuple[bytes, bytes]:
    return b"gAMA", struct.pack(">I", number)


def cicp(primaries: int, transfer: int, matrix: int = 0, is_full: int = 1) -> tuple[bytes, bytes]:
    return b"cICP", bytes([primaries, transfer, matrix, is_full])


@pytest.mark.parametrize(
    ("code", "primaries", "curve"),
    [
        ((12, 13), "P3", srgb),
        ((9, 13), "2020", srgb),
        ((9, 14), "2020", rec709),
        ((1, 1), "sRGB", rec709),
        ((5, 5), "PAL", power(2.8)),
        ((1, 8), "sRGB", power(1.0)),
        ((12, 4), "P3", power(2.2)),
    ],
)
def test_code_points_of_png_are_applied(
    tmp_path: Path, code: tuple[int, int], primaries: str, curve: Callable[[np.ndarray], np.ndarray]
) -> None:
    (tmp_path / "a.png").write_bytes(png(COLORS, 8, RGB, cicp(*code)))
    assert_reads(tmp_path / "a.png", to_srgb(COLORS, primaries, curve))


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("color", [GRAY, RGB])
def test_gamma_and_primaries_of_png_are_applied(tmp_path: Path, color: int, depth: int) -> None:
    colors = COLORS if color == RGB else COLORS[..., :1]
    samples, colors = colors * (257 if depth == 16 else 1), colors * np.ones(3)
    for chunks, primaries, curve in (
        ((gama(100000),), "sRGB", power(1.0)),
        ((gama(55556),), "sRGB", power(1.8)),
        ((gama(45455), chromaticities("Adobe")), "Adobe", power(2.2)),
        ((gama(55556), chromaticities("2020")), "2020", power(1.8)),
        ((chromaticities("P3"),), "P3", srgb),
    ):
        (tmp_path / "a.png").write_bytes(png(samples, depth, color, *chunks))
        assert_reads(tmp_path / "a.png", to_srgb(colors, primaries, curve))


@pytest.mark.parametrize(
    "chunks",
    [
        (gama(45455),),
        (gama(45455), chromaticities("sRGB")),
        (gama(45000),),
        (chromaticities("sRGB"),),
        (cicp(1, 13),),
        (cicp(1, 13), gama(100000)),
        ((b"sRGB", b"\0"), gama(100000), chromaticities("2020")),
    ],
    ids=lambda chunks: " ".join(kind.decode() for kind, _ in chunks),
)
def test_equivalents_of_srgb_change_no_value(tmp_path: Path, chunks: tuple[tuple[bytes, bytes], ...]) -> None:
    (tmp_path / "a.png").write_bytes(png(COLORS, 8, RGB, *chunks))
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png").rgb, COLORS)


def test_code_points_override_profile_and_profile_overrides_gamma(tmp_path: Path) -> None:
    profile = (b"iCCP", b"name\0\0" + zlib.compress(with_red_and_blue_exchanged(0)))
    (tmp_path / "a.png").write_bytes(png(COLORS, 8, RGB, cicp(12, 13), profile, gama(100000)))
    assert_reads(tmp_path / "a.png", to_srgb(COLORS, "P3", srgb))
    (tmp_path / "a.png").write_bytes(png(COLORS, 8, RGB, profile, (b"sRGB", b"\0"), gama(100000)))
    assert_reads(tmp_path / "a.png", COLORS[..., ::-1])


@pytest.mark.parametrize(
    ("chunks", "warning"),
    [
        ((cicp(9, 16),), r"a\.png is HDR \(PQ\)"),
        ((cicp(9, 18),), r"a\.png is HDR \(HLG\)"),
        ((cicp(12, 13, is_full=0),), r"a\.png: its color space .* not supported"),
        ((cicp(77, 13),), r"a\.png: its color space .* not supported"),
        ((gama(0),), r"a\.png: its gamma of 0 is invalid"),
        (((b"cHRM", bytes(32)),), r"a\.png: its primaries are invalid"),
        (((b"cHRM", struct.pack(">8I", *[30000] * 8)),), r"a\.png: its primaries are invalid"),
    ],
)
def test_unsupported_color_space_is_warned_about(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, chunks: tuple[tuple[bytes, bytes], ...], warning: str
) -> None:
    (tmp_path / "a.png").write_bytes(png(COLORS, 8, RGB, *chunks))
    np.testing.assert_array_equal(read_picture(tmp_path / "a.png").rgb, COLORS)
    assert len(caplog.records) == 1 and re.search(warning, caplog.text)


def exif_of(space: int, index: str | None) -> bytes:
    exif = Image.Exif()
    exif.get_ifd(0x8769)[0xA001] = space
    if index is not None:
        exif.get_ifd(0x8769)[0xA005] = {1: index}
    return exif.tobytes()


def tiff_with_exif(image: Image.Image, space: int, index: str | None) -> bytes:
    """Return a TIFF with EXIF and interoperability directories, which Pillow does not write."""
    file = io.BytesIO()
    image.save(file, "TIFF", tiffinfo={34665: 8})
    data = bytearray(file.getvalue())
    at = data.index(struct.pack("<HHI", 34665, 4, 1)) + 8
    data[at : at + 4] = struct.pack("<I", len(data))
    entries = struct.pack("<HHIHH", 0xA001, 3, 1, space, 0)
    if index:
        entries += struct.pack("<HHII", 0xA005, 4, 1, len(data) + 2 + 24 + 4)
    data += struct.pack("<H", len(entries) // 12) + entries + bytes(4)
    if index:
        data += struct.pack("<HHHI4sI", 1, 1, 2, 4, index.encode(), 0)
    return bytes(data)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize(
    ("space", "index", "is_adobe"),
    [(0xFFFF, "R03", True), (2, None, True), (0xFFFF, "R98", False), (0xFFFF, None, False), (1, "R03", False)],
)
def test_adobe_rgb_declared_in_exif_is_applied(
    tmp_path: Path, kind: str, space: int, index: str | None, is_adobe: bool
) -> None:
    image = Image.fromarray(np.kron(COLORS, np.ones((8, 8, 1))).astype("u1"))
    extra = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    image.save(tmp_path / "plain", kind, **extra)
    image.save(tmp_path / "a", kind, exif=exif_of(space, index), **extra)
    if kind == "TIFF":
        (tmp_path / "a").write_bytes(tiff_with_exif(image, space, index))
    stored = np.asarray(Image.open(tmp_path / "plain").convert("RGB")).astype(float)
    if is_adobe:
        assert_reads(tmp_path / "a", to_srgb(stored, "Adobe", power(563 / 256)))
    else:
        np.testing.assert_array_equal(read_picture(tmp_path / "a").rgb, stored)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_profile_overrides_exif(tmp_path: Path, kind: str) -> None:
    image = Image.new("RGB", (8, 8), (90, 150, 200))
    image.save(tmp_path / "a", kind, exif=exif_of(0xFFFF, "R03"), icc_profile=SRGB_PROFILE)
    assert np.abs(np.asarray(read_picture(tmp_path / "a").rgb)[0, 0] - (90.0, 150, 200)).max() <= 3


def replace_code_points(data: bytes, primaries: int, transfer: int) -> bytes:
    """Return an AVIF or HEIC with other code points in its first "colr" box."""
    at = data.index(b"colrnclx") + 8
    return data[:at] + struct.pack(">HH", primaries, transfer) + data[at + 4 :]


def test_code_points_of_avif_are_applied(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pytest.importorskip("PIL._avif")
    file, color = io.BytesIO(), np.full((16, 16, 3), (120, 160, 140))
    Image.fromarray(color.astype("u1")).save(file, "AVIF", quality=100, subsampling="4:4:4")
    (tmp_path / "plain.avif").write_bytes(file.getvalue())
    stored = np.asarray(read_picture(tmp_path / "plain.avif").rgb).astype(float)
    (tmp_path / "a.avif").write_bytes(replace_code_points(file.getvalue(), 12, 13))
    assert_reads(tmp_path / "a.avif", to_srgb(stored, "P3", srgb))
    assert not caplog.records
    (tmp_path / "a.avif").write_bytes(replace_code_points(file.getvalue(), 9, 16))
    np.testing.assert_array_equal(read_picture(tmp_path / "a.avif").rgb, stored)
    assert "a.avif is HDR (PQ)" in caplog.text


def test_profile_in_jpeg_2000_is_applied(tmp_path: Path) -> None:
    """The profile is in a "colr" box of method 2 (ISO 15444-1, I.5.3.3)."""
    file, colors = io.BytesIO(), np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(colors).save(file, "JPEG2000", irreversible=False)
    data, profile = file.getvalue(), with_red_and_blue_exchanged(0)
    header, box = data.index(b"jp2h") - 4, data.index(b"colr") - 4
    old = int.from_bytes(data[box : box + 4], "big")
    new = struct.pack(">I", 11 + len(profile)) + b"colr\2\0\0" + profile
    size = struct.pack(">I", int.from_bytes(data[header : header + 4], "big") + len(new) - old)
    (tmp_path / "a.jp2").write_bytes(data[:header] + size + data[header + 4 : box] + new + data[box + old :])
    actual = np.asarray(read_picture(tmp_path / "a.jp2").rgb).astype(int)
    assert np.abs(actual - colors[..., ::-1]).max() <= 3

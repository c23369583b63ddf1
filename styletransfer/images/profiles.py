"""Color spaces that a file names without an ICC profile: by code points (H.273), by numbers (PNG), or by EXIF."""

import contextlib
import logging
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

log = logging.getLogger(__name__)

#: Exponent and constants of Y = (a X + b)^g for X >= d, c X below: ICC.1:2022, table 68, function type 3.
Curve = tuple[float, float, float, float, float]


@dataclass(frozen=True)
class ColorSpace:
    """An RGB color space: x, y of red, green, blue and white, and the curve from encoded to linear values."""

    red: tuple[float, float]
    green: tuple[float, float]
    blue: tuple[float, float]
    white: tuple[float, float]
    curve: Curve


def gamma(exponent: float) -> Curve:
    """Return the curve of a pure power."""
    return exponent, 1.0, 0.0, 0.0, 0.0


_D65, _DCI = (0.3127, 0.3290), (0.314, 0.351)
_SRGB_CURVE = (2.4, 1 / 1.055, 0.055 / 1.055, 1 / 12.92, 0.04045)
_REC709_CURVE = (1 / 0.45, 1 / 1.099, 0.099 / 1.099, 1 / 4.5, 0.081)
#: H.273, table 2: primaries and white by ColourPrimaries. Unspecified (2) is read as BT.709, which sRGB shares.
_PRIMARIES = {
    1: ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), _D65),
    2: ((0.64, 0.33), (0.30, 0.60), (0.15, 0.06), _D65),
    4: ((0.67, 0.33), (0.21, 0.71), (0.14, 0.08), (0.310, 0.316)),
    5: ((0.64, 0.33), (0.29, 0.60), (0.15, 0.06), _D65),
    6: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),
    7: ((0.630, 0.340), (0.310, 0.595), (0.155, 0.070), _D65),
    8: ((0.681, 0.319), (0.243, 0.692), (0.145, 0.049), (0.310, 0.316)),
    9: ((0.708, 0.292), (0.170, 0.797), (0.131, 0.046), _D65),
    11: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _DCI),
    12: ((0.680, 0.320), (0.265, 0.690), (0.150, 0.060), _D65),
    22: ((0.630, 0.340), (0.295, 0.605), (0.155, 0.077), _D65),
}
#: H.273, table 3: curves by TransferCharacteristics. Unspecified (2) is read as sRGB.
_CURVES = {
    **dict.fromkeys((1, 6, 14, 15), _REC709_CURVE),
    4: gamma(2.2),
    5: gamma(2.8),
    7: (1 / 0.45, 1 / 1.1115, 0.1115 / 1.1115, 1 / 4.0, 0.0912),
    8: gamma(1.0),
    **dict.fromkeys((2, 13), _SRGB_CURVE),
}
#: Curves of high dynamic range, by TransferCharacteristics.
HDR = {16: "PQ", 18: "HLG"}
_SRGB = ColorSpace(*_PRIMARIES[1], _SRGB_CURVE)
#: Adobe RGB (1998) Color Image Encoding, sections 4.3.1 and 4.3.4.
_ADOBE_RGB = ColorSpace((0.64, 0.33), (0.21, 0.71), (0.15, 0.06), _D65, gamma(563 / 256))
_EXIF, _INTEROPERABILITY, _COLOR_SPACE = 0x8769, 0xA005, 0xA001  # tags of EXIF


def find_profile(image: Image.Image, name: str) -> bytes | None:
    """Return the ICC profile by which to read an image's colors; None for sRGB.

    A PNG's cICP comes before its profile, then sRGB, then gAMA and cHRM (PNG, third edition, section 4.3); elsewhere a
    profile comes before H.273's code points, and EXIF last. What cannot be used causes a warning.
    """
    info, is_png = image.info, isinstance(image, PngImageFile)
    embedded, code_points = info.get("icc_profile"), _read_code_points(info)
    if code_points and (is_png or not embedded):
        space = _from_code_points(code_points, name)
        if space is not None:
            return make_profile(space)
    if embedded:
        return bytes(embedded)
    if is_png and "srgb" in info:
        return None
    if is_png and ("gamma" in info or "chromaticity" in info):
        return make_profile(_from_png(info, name))
    return make_profile(_ADOBE_RGB) if _is_adobe_rgb(image) else None


def make_profile(space: ColorSpace) -> bytes | None:
    """Return a color space as an ICC profile of matrix and curves (ICC.1:2022, 8.3); None for sRGB.

    Chromatic adaptation to the profile's white, D50, is Bradford's (annex E).
    """
    if space == _SRGB:
        return None
    d50 = np.array([0.9642, 1.0, 0.8249])
    bradford = np.array([[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]])
    white = _to_xyz(space.white)
    colors = np.column_stack([_to_xyz(xy) for xy in (space.red, space.green, space.blue)])
    colors = colors * np.linalg.solve(colors, white)  # so that they add up to white
    adaptation = np.linalg.solve(bradford, np.diag(bradford @ d50 / (bradford @ white)) @ bradford)
    name = "image".encode("utf-16-be")
    text = b"mluc" + struct.pack(">4xII2s2sII", 1, 12, b"en", b"US", len(name), 28) + name
    tags = {b"desc": text, b"cprt": text, b"wtpt": b"XYZ \0\0\0\0" + _encode_fixed(d50)}
    tags[b"chad"] = b"sf32\0\0\0\0" + _encode_fixed(adaptation.ravel())
    for letter, column in zip((b"r", b"g", b"b"), (adaptation @ colors).T, strict=True):
        tags[letter + b"XYZ"] = b"XYZ \0\0\0\0" + _encode_fixed(column)
        tags[letter + b"TRC"] = b"para\0\0\0\0\0\3\0\0" + _encode_fixed(np.array(space.curve))
    table, body = struct.pack(">I", len(tags)), b""
    for tag, data in tags.items():
        table += struct.pack(">4sII", tag, 132 + 12 * len(tags) + len(body), len(data))
        body += data.ljust(-(-len(data) // 4) * 4, b"\0")
    header = struct.pack(">4xI4s4s4s6H4s", 0x04400000, b"mntr", b"RGB ", b"XYZ ", 2022, 1, 1, 0, 0, 0, b"acsp")
    header = header.ljust(64, b"\0") + b"\0\0\0\1" + _encode_fixed(d50)
    profile = header.ljust(124, b"\0") + table + body
    return struct.pack(">I", len(profile) + 4) + profile


def _to_xyz(xy: tuple[float, float]) -> np.ndarray[Any, Any]:
    x, y = xy
    return np.array([x / y, 1.0, (1 - x - y) / y])


def _encode_fixed(numbers: np.ndarray[Any, Any]) -> bytes:
    """Return numbers as s15Fixed16Number."""
    return (numbers * 65536).round().astype(">i4").tobytes()


def _read_code_points(info: dict[Any, Any]) -> tuple[int, int, int] | None:
    """Return ColourPrimaries, TransferCharacteristics and whether the range is full: of PNG, HEIF or AVIF."""
    if "cicp" in info:
        primaries, transfer, _, is_full = info["cicp"]
        return primaries, transfer, is_full
    if profile := info.get("nclx_profile"):
        return int(profile["color_primaries"]), int(profile["transfer_characteristics"]), 1
    return None


def _from_code_points(code_points: tuple[int, int, int], name: str) -> ColorSpace | None:
    primaries, transfer, is_full = code_points
    if transfer in HDR:
        log.warning("%s is HDR (%s) and is read as SDR: colors come out dull; convert it first", name, HDR[transfer])
        return None
    if primaries not in _PRIMARIES or transfer not in _CURVES or not is_full:
        log.warning("%s: its color space (H.273: %d, %d) is not supported and is ignored", name, primaries, transfer)
        return None
    return ColorSpace(*_PRIMARIES[primaries], _CURVES[transfer])


def _from_png(info: dict[Any, Any], name: str) -> ColorSpace:
    """Return the color space of gAMA and cHRM; what is missing, or hardly differs from sRGB, is sRGB's."""
    primaries, exponent, chromaticity = _PRIMARIES[1], info.get("gamma"), info.get("chromaticity")
    if chromaticity is not None:
        white, *colors = zip(chromaticity[0::2], chromaticity[1::2], strict=False)
        if len(colors) != 3 or not _can_be_primaries([*colors, white]):
            log.warning("%s: its primaries are invalid and are ignored", name)
        elif not np.allclose([*colors, white], primaries, atol=0.002):
            primaries = (colors[0], colors[1], colors[2], white)
    if exponent is not None and not 0.01 <= exponent <= 10:
        log.warning("%s: its gamma of %g is invalid and is ignored", name, exponent)
        exponent = None
    # A difference of 5 % is not significant: libpng's PNG_GAMMA_THRESHOLD. 45455 with sRGB's primaries means sRGB.
    if exponent is None or (primaries == _PRIMARIES[1] and abs(exponent * 2.2 - 1) <= 0.05):
        return ColorSpace(*primaries, _SRGB_CURVE)
    return ColorSpace(*primaries, gamma(1 / exponent))


def _can_be_primaries(primaries: list[tuple[float, float]]) -> bool:
    """Return whether red, green and blue span a triangle with white within."""
    if not all(0 < y <= 1 for _, y in primaries):
        return False
    *colors, white = (np.array([x, y, 1]) for x, y in primaries)
    matrix = np.column_stack(colors)
    return abs(np.linalg.det(matrix)) > 1e-3 and bool((np.linalg.solve(matrix, white) > 0).all())


def _is_adobe_rgb(image: Image.Image) -> bool:
    """Return whether EXIF says Adobe RGB: by DCF 2.0, "R03" and an uncalibrated space; some cameras write 2."""
    with contextlib.suppress(Exception):  # EXIF may be unreadable
        exif = read_exif(image)
        space = exif.get_ifd(_EXIF).get(_COLOR_SPACE)
        return space == 2 or (space == 0xFFFF and str(exif.get_ifd(_INTEROPERABILITY).get(1)).startswith("R03"))
    return False


def read_exif(image: Image.Image) -> Image.Exif:
    """Return an image's EXIF without decoding the image; a PNG's own method would decode it to find it."""
    return Image.Image.getexif(image)

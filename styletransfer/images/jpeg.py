"""JPEG without its end marker, as after an interrupted copy: read if no pixel is missing."""

import io
import itertools
import re

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

_END = b"\xff\xd9"
#: A marker with a segment; not a stuffed byte, a fill byte, a restart or the start of the image.
_SEGMENT = re.compile(rb"\xff([\xc0-\xcf\xda-\xfe])", re.DOTALL)
_FRAMES, _SCAN = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}, 0xDA
_JUNK = (b"\xaa" * 64, b"\x55" * 64, bytes(range(0, 250, 3)))


def complete_jpeg(data: bytes) -> JpegImageFile | None:
    """Return the loaded image of a JPEG without end marker; None if more is missing.

    Nothing more is missing if every scan has begun, and different bytes in place of the missing ones give the same
    pixels: the decoder had all it needs before them.
    """
    if not _has_all_scans(data):
        return None
    data = data.rstrip(b"\xff")
    image = JpegImageFile(io.BytesIO(data + _END))
    try:
        image.load()
        pixels = image.tobytes()
        same = all(_decode(data + tail + _END) == pixels for tail in map(_repeat_with_restarts, _JUNK))
    except OSError:
        return None
    return image if same else None


def _decode(data: bytes) -> bytes:
    with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
        return image.tobytes()


def _repeat_with_restarts(junk: bytes) -> bytes:
    """Return junk for every restart interval: without the marker that it expects, the decoder reads none."""
    return junk + b"".join(bytes([0xFF, 0xD0 + number % 8]) + junk for number in range(16))


def _has_all_scans(data: bytes) -> bool:
    """Return whether scans of all components and coefficients have begun, to the last bit (T.81, B.2.3, G.1.1.1)."""
    missing: set[tuple[int, int]] = set()
    position, has_frame = 2, False
    while segment := _SEGMENT.search(data, position):
        marker, start = segment[1][0], segment.end()
        length = int.from_bytes(data[start : start + 2], "big")
        body = data[start + 2 : start + length]
        if len(body) < length - 2 or length < 2:
            return False
        if marker in _FRAMES:
            has_frame, missing = True, set(itertools.product(body[6::3], range(64)))
        elif marker == _SCAN:
            components = body[1 : 1 + 2 * body[0] : 2]
            first, last, bits = body[-3:]
            if bits & 15 == 0:
                missing -= set(itertools.product(components, range(first, last + 1)))
        position = start + length
    return has_frame and not missing

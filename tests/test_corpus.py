"""Broken, deceptive and odd files: each gives an image or a one-line error, soon and in little memory."""

import io
import os
import socket
import struct
import sys
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hostile import PIXELS, PROMISED, READ, make_valid_images, reader
from PIL import Image

from styletransfer.errors import escape_unprintable

pytestmark = [
    pytest.mark.skipif(sys.platform != "linux", reason="measures memory by /proc"),
    pytest.mark.filterwarnings("ignore"),  # Pillow's, about the files written here
]


def png(*chunks: tuple[bytes, bytes]) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


def header(width: int, height: int, bits: int = 8, color: int = 2) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)


def tiff(*entries: tuple[int, int, int, int], after: bytes = b"", following: int = 0) -> bytes:
    """Return a TIFF with one directory of tags (number, type, count, value), in order, and `after` at byte 8192."""
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return (b"II*\0" + struct.pack("<I", 8) + directory + struct.pack("<I", following)).ljust(8192, b"\0") + after


def gray_tiff(width: int, height: int, *others: tuple[int, int, int, int], **more: object) -> bytes:
    tags = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1), 277: (3, 1, 1)}
    tags |= {tag: rest for tag, *rest in others}
    return tiff(*((tag, *rest) for tag, rest in sorted(tags.items())), **more)


def make_largest_images() -> dict[str, bytes]:
    """Return images of the maximum size, in the modes whose conversion to RGB takes the most memory."""
    side, files = int(PIXELS**0.5), {}
    noise = Image.effect_noise((side, side), 60)
    floats = Image.fromarray(np.asarray(noise).astype("f4"))
    colors = Image.merge("RGBA", [noise, noise.rotate(90), noise.rotate(180), noise.rotate(270)])
    for kind, image in {"PNG": colors, "TIFF": floats, "AVIF": colors, "WEBP": colors, "JPEG": colors}.items():
        if kind in Image.SAVE:
            file = io.BytesIO()
            (image.convert("CMYK") if kind == "JPEG" else image).save(file, kind)
            files[f"largest.{kind.lower()}"] = file.getvalue()
    return files


def flat(kind: str, side: int, **extra: object) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), "red").save(file, kind, **extra)
    return file.getvalue()


def make_deceptive_files() -> dict[str, bytes]:
    """Return files whose headers claim the impossible, or far more than the files hold."""
    idat, iend = (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")
    mebibytes = zlib.compress(bytes(200 * 2**20), 9)  # 200 KB that unpack to 200 MiB
    files = {
        f"{w}x{h}.png": png(header(w, h), idat, iend)
        for w, h in (
            (60_000, 60_000),
            (2**31 - 1, 2**31 - 1),
            (2**32 - 1, 1),
            (2**31, 1),
            (1, 2**31 - 1),
            (0, 5),
            (5, 0),
        )
    }
    files |= {f"bits {b} color {c}.png": png(header(8, 8, b, c), idat, iend) for b in (0, 3, 255) for c in (0, 3, 7)}
    files["bomb in zTXt.png"] = png(header(4, 4), (b"zTXt", b"key\0\0" + mebibytes), idat, iend)
    files["bomb in iCCP.png"] = png(header(4, 4), (b"iCCP", b"key\0\0" + mebibytes), idat, iend)
    files["bomb in iTXt.png"] = png(header(4, 4), (b"iTXt", b"key\0\1\0\0\0" + mebibytes), idat, iend)
    files["bomb in IDAT.png"] = png(header(4, 4), (b"IDAT", mebibytes), iend)
    files["a thousand zTXt.png"] = png(
        header(4, 4), *[(b"zTXt", b"key\0\0" + zlib.compress(bytes(2**19)))] * 1000, idat, iend
    )
    files["frames.png"] = png(header(4, 4), (b"acTL", struct.pack(">II", 2**31 - 1, 0)), idat, iend)
    files["long chunk.png"] = png(header(4, 4))[:-4] + struct.pack(">I", 2**31 - 1) + b"IDAT" + bytes(50)
    for w, h in ((-5, 5), (5, -5), (2**31 - 1, 2**31 - 1), (-(2**31), -(2**31)), (0, 0), (1000, 1000), (1000, -1000)):
        for bits in (1, 24, 32, 77):
            size = struct.pack("<IiiHHIIiiII", 40, w, h, 1, bits, 0, 0, 1, 1, 2**31 if bits == 77 else 0, 0)
            files[f"{w}x{h} of {bits} bits.bmp"] = b"BM" + struct.pack("<IHHI", 60, 0, 0, 54) + size + bytes(60)
    for w, h in ((0, 0), (0, 9), (65535, 65535), (1000, 1000), (1, 1)):
        screen = struct.pack("<HHBBB", w, h, 0x80, 0, 0) + bytes(6)
        frame = b"," + struct.pack("<HHHHB", 0, 0, w, h, 0) + b"\x02\x02\x44\x01\x00;"
        files[f"{w}x{h}.gif"] = b"GIF89a" + screen + frame
        files[f"frame of {w}x{h}.gif"] = b"GIF89a" + struct.pack("<HHBBB", 4, 4, 0x80, 0, 0) + bytes(6) + frame
    jpeg = bytearray(flat("JPEG", 16))
    at = jpeg.index(b"\xff\xc0") + 5
    for w, h in ((65535, 65535), (0, 0), (65535, 1), (1000, 1000)):
        jpeg[at : at + 4] = struct.pack(">HH", h, w)
        files[f"{w}x{h}.jpg"] = bytes(jpeg)
    for text in (
        b"P6 99999999999 99999999999 255\n",
        b"P6 " + b"9" * 5000,
        b"P6 1 1 99999\n",
        b"P6 0 0 255\n",
        b"P6 -5 5 255\n",
    ):
        files[f"{text[:20].decode().strip()} {len(text)}.ppm"] = text + bytes(20)
    files["digits.ppm"] = b"P3 2 2 255\n" + b"7" * 2_000_000
    files["comment.ppm"] = b"P6\n#" + b" " * 2_000_000
    files["comments.ppm"] = b"P3 2 2 255\n" + b"#\n" * 50_000
    files["few.ppm"] = b"P2 1000 1000 255\n1 2 3"
    files["scale.ppm"] = b"Pf 2 2 nan\n" + bytes(16)
    for w, h in ((16383, 16383), (1000, 1000), (0, 0)):
        bits = struct.pack("<I", (max(w, 1) - 1) | (max(h, 1) - 1) << 14)
        body = b"VP8L" + struct.pack("<I", 40) + b"\x2f" + bits + bytes(35)
        files[f"{w}x{h}.webp"] = b"RIFF" + struct.pack("<I", len(body) + 4) + b"WEBP" + body
        extended = b"VP8X" + struct.pack("<II", 10, 2) + struct.pack("<I", max(w, 1) - 1)[:3] * 2 + body
        files[f"canvas of {w}x{h}.webp"] = b"RIFF" + struct.pack("<I", len(extended) + 4) + b"WEBP" + extended
    for name, frame in (
        ("giant", png(header(60_000, 60_000), idat, iend)),
        ("text", b"hello" * 50),
        ("giant BMP", struct.pack("<IiiHHIIiiII", 40, 30_000, 60_000, 1, 32, 0, 0, 1, 1, 0, 0)),
        ("large", flat("PNG", 1500)),
    ):
        entry = struct.pack("<BBBBHHII", 16, 16, 0, 0, 1, 32, len(frame), 22)
        files[f"{name} in an icon.ico"] = struct.pack("<HHH", 0, 1, 1) + entry + frame
        files[f"{name} in an icon.icns"] = (
            b"icns" + struct.pack(">I4sI", len(frame) + 16, b"ic07", len(frame) + 8) + frame
        )
    for w, h, kind in ((65535, 65535, 2), (1000, 1000, 10), (0, 0, 2), (16, 16, 9), (16, 16, 1), (16, 16, 255)):
        files[f"{w}x{h} {kind}.tga"] = struct.pack(
            "<BBBHHBHHHHBB", 0, kind % 2, kind, 0, 0, 24, 0, 0, w, h, 24, 0
        ) + bytes(99)
    strip = ((273, 4, 1, 8192), (278, 4, 1, 16), (279, 4, 1, 256))
    files["loop.tif"] = gray_tiff(16, 16, *strip, after=bytes(256), following=8)
    files["huge counts.tif"] = gray_tiff(16, 16, (273, 4, 2**30, 8192), (279, 4, 2**30, 8192), after=bytes(256))
    files["huge text.tif"] = gray_tiff(16, 16, *strip, (270, 2, 2**32 - 1, 8192), after=bytes(256))
    files["huge EXIF.tif"] = gray_tiff(16, 16, *strip, (34665, 4, 1, 8), (274, 3, 2**31, 8192), after=bytes(256))
    files["giant.tif"] = gray_tiff(2**31, 2**31, *strip, after=bytes(256))
    files["orientation 99.tif"] = gray_tiff(16, 16, *strip, (274, 3, 1, 99), after=bytes(256))
    files["giant strips.tif"] = gray_tiff(
        16, 16, (273, 4, 1, 8192), (278, 4, 1, 2**32 - 1), (279, 4, 1, 256), after=bytes(256)
    )
    packed = zlib.compress(bytes(16000**2), 9)
    for side in (16000, 2**20, 2**31):
        tiles = ((259, 3, 1, 8), (322, 4, 1, side), (323, 4, 1, side), (324, 4, 1, 8192), (325, 4, 1, len(packed)))
        files[f"tile of {side}.tif"] = gray_tiff(16, 16, *tiles, after=packed)
    files["many samples.tif"] = gray_tiff(16, 16, *strip, (277, 3, 1, 60_000), after=bytes(256))
    files["unknown compression.tif"] = gray_tiff(16, 16, *strip, (259, 3, 1, 50001), after=bytes(256))
    for value in (0, 9, 255, 65535):
        exif = Image.Exif()
        exif[0x0112] = value
        files[f"orientation {value}.jpg"] = flat("JPEG", 16, exif=exif)
    for kind, box in (("AVIF", b"ispe\0\0\0\0"), ("JPEG2000", b"ihdr")):
        if kind in Image.SAVE:
            data, small = flat(kind, 4000), struct.pack(">II", 16, 16)
            at = data.index(box) + len(box)
            files[f"small without, large within.{kind.lower()}"] = data[:at] + small + data[at + 8 :]
            data, large = flat(kind, 16), struct.pack(">II", 30_000, 30_000)
            at = data.index(box) + len(box)
            files[f"large without, small within.{kind.lower()}"] = data[:at] + large + data[at + 8 :]
    return files


NO_PICTURES = {
    "drawing.svg": b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"><rect/></svg>',
    "drawing.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n%%EOF\n",
    "drawing.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 16\n%%EndComments\nshowpage\n%%EOF\n",
    "page.ps": b"%!PS\nshowpage\n",
    "page.pdf": b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF\n",
    "not found.jpg": b"<!DOCTYPE html><html><head><title>404 Not Found</title></head><body>404</body></html>",
    "text.png": "Kein Bild, nur Text äöü.\n".encode() * 50,
    "empty.jpg": b"",
    "one byte.png": b"\x89",
    "zeros.tga": bytes(5000),
    "program.jpg": b"\x7fELF" + bytes(range(256)) * 20,
}


def damage_files(valid: dict[str, bytes], seed: int) -> dict[str, bytes]:
    """Return each file truncated at ten places, and ten times with some bytes changed, half of them in its header."""
    rng, files = np.random.default_rng(seed), {}
    for name, data in valid.items():
        for at in {*range(1, min(len(data), 40), 13), *rng.integers(len(data), size=7).tolist()}:
            files[f"cut at {at} {name}"] = data[:at]
        for turn in range(10):
            changed = bytearray(data)
            for at in rng.integers(min(len(data), 100 if turn % 2 else len(data)), size=rng.integers(1, 5)):
                changed[at] = rng.choice([0, 0x7F, 0x80, 0xFF, rng.integers(256)])
            files[f"changed {turn} {name}"] = bytes(changed)
    return files


def make_odd_files(folder: Path) -> list[Path]:
    """Return paths with odd names, each of a good and of a bad image, and paths that are no regular files."""
    good = flat("PNG", 16)
    names = [
        b"two  words",
        b"two\nlines",
        b"tab\tand \x1b[31mred",
        b"not \xff\xfe UTF-8",
        b"-o",
        b"--help",
        "夜 💥".encode(),
    ]
    names += [b"x" * 251, b"a:b*c?", b"%s {0}", b"'\"`$(x)"]
    paths = []
    for name in names:
        for number, data in enumerate((good, good[:40])):
            place = folder / str(number)
            place.mkdir(exist_ok=True)
            paths.append(place / os.fsdecode(name + b".png"))
            paths[-1].write_bytes(data)
    special = folder / "special"
    special.mkdir()
    (special / "loop.png").symlink_to("loop.png")
    (special / "nowhere.png").symlink_to("gone.png")
    (special / "link.png").symlink_to(paths[0])
    (special / "folder.png").mkdir()
    os.mkfifo(special / "pipe.png")
    with socket.socket(socket.AF_UNIX) as server:
        before = Path.cwd()
        os.chdir(special)  # a socket's path has at most 107 bytes
        server.bind("socket.png")
        os.chdir(before)
    (special / "locked.png").write_bytes(good)
    (special / "locked.png").chmod(0)
    paths += special.iterdir()
    paths += [special / "gone.png", special / "gone" / "a.png", special / ("y" * 300 + ".png"), Path("z" * 5000)]
    return paths + [
        path for path in map(Path, ("/dev/zero", "/dev/null", "/dev/random", "/proc/self/mem")) if path.exists()
    ]


def test_any_file_gives_an_image_or_a_one_line_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ghostscript = tmp_path / "bin" / "gs"
    ghostscript.parent.mkdir()
    ghostscript.write_text(f"#!/bin/sh\ntouch '{tmp_path}/started'\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{ghostscript.parent}{os.pathsep}{os.environ['PATH']}")
    valid, largest = make_valid_images(), make_largest_images()
    files = {**valid, **largest, **make_deceptive_files(), **NO_PICTURES, **damage_files(valid, 0)}
    contents = {tmp_path / name: data for name, data in files.items()}
    for path, data in contents.items():
        path.write_bytes(data)
        os.utime(path, ns=(10**18, 10**18))
    answers = {}
    with reader() as process:
        for path in [*contents, *make_odd_files(tmp_path)]:
            answers[path] = process.read(path)
    counts = Counter(kind for answer in answers.values() for kind in answer)
    print(f"\n{len(answers)} files: {dict(counts)}, {process.memory / 2**20:.0f} MiB")

    assert {path.name: answer["other"] for path, answer in answers.items() if "other" in answer} == {}
    assert process.noise == ""
    assert process.memory < PROMISED
    for path, answer in answers.items():
        if "error" in answer:
            assert escape_unprintable(path.name) in answer["error"] and answer["error"].isprintable(), answer
            assert len(answer["error"]) < len(escape_unprintable(str(path))) + 200, answer
    assert counts["picture"] > 1000 and counts["error"] > 1000

    for name in {*valid, *largest} - {"doubles.tiff", "YCbCr.tiff", "animated.mpo"}:  # not every Pillow reads these
        readable = name.rpartition(".")[2].upper() in READ
        assert ("picture" in answers[tmp_path / name]) == readable, (name, answers[tmp_path / name])
    assert all("error" in answers[tmp_path / name] for name in NO_PICTURES)
    for path in answers:
        if path.parent.parent == tmp_path and path.parent.name in "01":
            assert ("picture" in answers[path]) == (path.parent.name == "0")
    for kind in ("png", "jpeg", "webp", "tiff"):  # rotated by EXIF
        assert answers[tmp_path / f"described.{kind}"]["picture"] == [16, 24]
    locked = tmp_path / "special" / "locked.png"
    assert ("picture" in answers[locked]) == os.access(locked, os.R_OK)  # root may read everything

    assert not (tmp_path / "started").exists()
    for path, data in contents.items():
        assert path.read_bytes() == data and path.stat().st_mtime_ns == 10**18

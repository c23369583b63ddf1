"""Small valid images of every kind, and a subprocess that reads broken ones, where a hang or crash does no harm."""

import io
import json
import os
import signal
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import tifffile
from PIL import Image, ImageCms

from styletransfer.images.opening import register_heif

#: Limits of the reader process: pixels per image, seconds per file, and bytes beyond those it starts with.
PIXELS, SECONDS, MEMORY = 2**20, 120, 2**30
#: The most bytes that reading one image may take, tensor included (docs/explanation/reliability.md).
PROMISED = 64 * PIXELS + 32 * 2**20
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
#: The supported formats, by Pillow's names.
READ = ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "AVIF", "JPEG2000", "PPM", "PSD", "QOI", "DIB", "DDS", "ICNS"]
READ += ["ICO", "PCX", "SGI", "TGA", "MPO", "HEIF"]
MODES = ("1", "L", "P", "RGB", "RGBA", "LA", "PA", "CMYK", "YCbCr", "LAB", "I", "I;16", "F")
MANY = {"save_all": True, "append_images": [Image.new("RGB", (24, 16), "red"), Image.new("RGB", (24, 16), "blue")]}


def make_valid_images() -> dict[str, bytes]:
    """Return small valid files by name: every format that Pillow writes, in every mode possible, and variants."""
    Image.init()
    register_heif()  # whatever ran before in this process, HEIF is included where pillow-heif is installed
    noise = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    rgb, files = Image.fromarray(noise), {}
    images = {
        mode: Image.fromarray(noise[..., 0].astype("f4")) if mode == "F" else convert_mode(rgb, mode) for mode in MODES
    }

    def add(name: str, kind: str, image: Image.Image, **extra: Any) -> None:
        file = io.BytesIO()
        with suppress(Exception):  # this Pillow cannot write the format or the mode
            image.save(file, kind, **extra)
            files[f"{name}.{kind.lower()}"] = file.getvalue()

    for kind in Image.SAVE:
        for mode, image in images.items():
            add(mode.replace(";", "-"), kind, image)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "described"
    for kind in ("PNG", "JPEG", "WEBP", "TIFF", "AVIF", "JPEG2000", "MPO", "GIF"):
        add("described", kind, rgb, exif=exif, icc_profile=SRGB)
        add("animated", kind, rgb, **MANY)
        add("wrong profile", kind, images["CMYK"], icc_profile=SRGB)
        add("broken profile", kind, images["CMYK"], icc_profile=SRGB[:300])
        add("garbage in EXIF", kind, rgb, exif=b"Exif\0\0II*\0\xff\xff\xff\x7f" + b"\xff" * 40)
        add("transparent color", kind, images["P"], transparency=3)
    add("progressive", "JPEG", rgb, progressive=True)
    add("lossless", "WEBP", images["RGBA"], lossless=True)
    add("tiled", "JPEG2000", rgb, tile_size=(8, 8), irreversible=True)
    add("packed", "TGA", rgb, compression="tga_rle")
    add("plain", "PCX", images["P"])
    for method in ("tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits", "group4"):
        add(method, "TIFF", images["1"] if method == "group4" else rgb, compression=method)
    for name, values, options in (
        ("16 bits", noise.astype("u2") * 257, {"photometric": "rgb"}),
        ("in tiles", np.tile(noise, (3, 2, 1)), {"photometric": "rgb", "tile": (16, 16), "compression": "zlib"}),
        ("in planes", noise.transpose(2, 0, 1), {"photometric": "rgb", "planarconfig": "separate"}),
        ("big", noise, {"photometric": "rgb", "bigtiff": True}),
        ("not numbers", np.array([[np.nan, np.inf, -np.inf, 0.5, 3e38, -1]], "f4"), {}),
        ("doubles", np.array([[np.nan, np.inf, 1e308, 0.5]]), {}),
    ):
        file = io.BytesIO()
        tifffile.imwrite(file, values, **options)
        files[f"{name}.tiff"] = file.getvalue()
    files["planes.psd"] = (  # Adobe's specification: header, three empty sections, uncompressed channels
        struct.pack(">4sH6xHIIHH", b"8BPS", 1, 3, 16, 24, 8, 3) + bytes(14) + noise.transpose(2, 0, 1).tobytes()
    )
    files["ascii.ppm"] = b"P3\n# comment\n2 2\n255\n" + b"1 2 3 " * 4
    files["bits.ppm"] = b"P1\n4 2\n0 1 0 1\n1 0 1 0\n"
    files["floats.ppm"] = b"Pf\n2 2\n-1.0\n" + np.array([0, np.nan, np.inf, 1], "<f4").tobytes()
    return files


def convert_mode(rgb: Image.Image, mode: str) -> Image.Image:
    """Return an RGB image in another mode, by way of gray where Pillow has no direct conversion."""
    if mode == "LAB":
        return Image.merge("LAB", rgb.split())
    if mode.startswith("I"):
        return Image.fromarray(np.asarray(rgb.convert("L")).astype("i4" if mode == "I" else "u2") * 257)
    return rgb.convert("L").convert(mode) if mode in ("PA", "LA") else rgb.convert(mode)


# --- reader process ------------------------------------------------------------------------------------------------


class Reader:
    """A process that reads images one after the other, and is restarted when it dies.

    Attributes:
        memory: the most bytes that a file took, beyond those in use before.
        noise: the process's stderr.
    """

    def __init__(self) -> None:
        self.memory, self._process, self._errors = 0, None, tempfile.TemporaryFile()  # noqa: SIM115

    def read(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Read a file; return {"picture": [width, height]}, {"error": message} or {"other": what happened}."""
        if self._process is None:
            command, pipe = [sys.executable, __file__], subprocess.PIPE
            self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=self._errors, text=True)
        print(json.dumps(os.fspath(path)), file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self.close()
            return {"other": f"killed after {SECONDS} s" if code == -signal.SIGALRM else f"the process died: {code}"}
        answer: dict[str, Any] = json.loads(line)
        self.memory = max(self.memory, answer.pop("memory"))
        return answer

    @property
    def noise(self) -> str:
        self._errors.seek(0)
        return self._errors.read().decode(errors="replace")

    def close(self) -> None:
        if self._process is not None:
            self._process.stdin.close()
            self._process.stdout.close()
            self._process.wait()
            self._process = None


@contextmanager
def reader() -> Iterator[Reader]:
    """Yield a `Reader` whose process ends with the block."""
    result = Reader()
    try:
        yield result
    finally:
        result.close()


def _read_status(name: str) -> int:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith(name))


def _serve() -> None:
    import logging
    import resource
    import traceback

    from styletransfer import StyleTransferError, images

    logging.getLogger("styletransfer").addHandler(logging.NullHandler())  # stderr must stay empty
    resource.setrlimit(resource.RLIMIT_AS, (_read_status("VmSize") + MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for line in sys.stdin:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # resets the peak, VmHWM: proc(5)
        before = _read_status("VmRSS")
        signal.alarm(SECONDS)  # unhandled, SIGALRM ends the process even within C code
        try:
            image = images.read_picture(json.loads(line), PIXELS)
            tensor, size = image.tensor(), image.rgb.size
            assert (str(tensor.dtype), tuple(tensor.shape)) == ("torch.float32", (1, 3, size[1], size[0]))
            assert (
                0 < tensor.numel() <= 3 * PIXELS and tensor.isfinite().all() and 0 <= tensor.min() <= tensor.max() <= 1
            )
            assert image.alpha is None or (image.alpha.mode, image.alpha.size) == ("L", size)
            answer: dict[str, Any] = {"picture": size}
        except StyleTransferError as error:
            answer = {"error": str(error)}
        except BaseException:
            answer = {"other": traceback.format_exc()}
        signal.alarm(0)
        print(json.dumps({**answer, "memory": _read_status("VmHWM") - before}), flush=True)


if __name__ == "__main__":
    _serve()

"""Image files: orientation, truncated JPEG, folders, and formats that need a plug-in."""

import io
import itertools
import logging
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from test_png import with_red_and_blue_exchanged

from styletransfer import StyleTransferError, UsageError
from styletransfer.images import list_pictures, read_picture, read_size

Y, X = np.mgrid[0:48, 0:64]
#: Smooth, without symmetries that could hide an error.
SCENE = np.dstack([4 * X, 5 * Y, 128 + 100 * np.sin(X / 9 + Y / 5)]).astype("u1")
UPRIGHT = [
    lambda a: a,
    lambda a: a[:, ::-1],
    lambda a: a[::-1, ::-1],
    lambda a: a[::-1],
    lambda a: a.swapaxes(0, 1),
    lambda a: np.rot90(a, -1),
    lambda a: a.swapaxes(0, 1)[::-1, ::-1],
    lambda a: np.rot90(a),
]
SAVED = {
    "a.jpg": ("JPEG", {"quality": 100, "subsampling": 0}),
    "a.png": ("PNG", {}),
    "a.webp": ("WEBP", {"lossless": True}),
    "a.tif": ("TIFF", {}),
    "lzw.tif": ("TIFF", {"compression": "tiff_lzw"}),
    "a.mpo": ("MPO", {"quality": 100, "subsampling": 0, "save_all": True, "append_images": [Image.new("RGB", (9, 9))]}),
    "a.avif": ("AVIF", {"quality": 100, "subsampling": "4:4:4"}),
    "a.heic": ("HEIF", {"quality": 100, "chroma": 444}),
}
XMP = '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="{}"/></rdf:RDF></x:xmpmeta>'  # noqa: E501


def save(path: Path, image: np.ndarray, name: str, **extra: object) -> None:
    kind, parameters = SAVED[name]
    if kind == "HEIF":
        pytest.importorskip("pillow_heif").register_heif_opener()
    if kind == "AVIF":
        pytest.importorskip("PIL._avif")
    Image.fromarray(image).save(path, kind, **parameters, **extra)


# --- orientation and profiles --------------------------------------------------------------------------------------


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", SAVED)
def test_orientation_and_profile_are_applied_once(tmp_path: Path, name: str, orientation: int) -> None:
    for channels, profile in itertools.product((3, 4), (None, with_red_and_blue_exchanged(0))):
        exif = Image.Exif()
        exif[0x0112] = orientation
        scene = np.dstack([SCENE, 255 - 2 * X])[..., :channels].astype("u1")
        if channels == 4 and name in ("a.jpg", "a.mpo"):
            continue
        extra = {"icc_profile": profile} if profile else {}
        save(tmp_path / name, scene, name, exif=exif.tobytes(), **extra)
        picture = read_picture(tmp_path / name)
        rgb = SCENE[..., ::-1] if profile else SCENE
        expected = UPRIGHT[orientation - 1](rgb).astype(int)
        tolerance = {"a.avif": 8, "a.heic": 8, "a.jpg": 8, "a.mpo": 8}.get(name, 0) + (3 if profile else 0)
        assert picture.rgb.size == expected.shape[1::-1]
        assert np.abs(np.asarray(picture.rgb) - expected).max() <= tolerance
        assert read_size(tmp_path / name) == picture.rgb.size
        again = read_picture(picture.rgb)
        np.testing.assert_array_equal(again.rgb, picture.rgb)
        assert picture.rgb.info == {} and not picture.rgb.getexif()
        if channels == 4:
            assert picture.alpha is not None and picture.alpha.info == {}
            alpha = UPRIGHT[orientation - 1](scene[..., 3]).astype(int)
            assert np.abs(np.asarray(picture.alpha) - alpha).max() <= tolerance


@pytest.mark.parametrize("name", ["a.jpg", "a.png", "a.webp", "a.tif"])
def test_xmp_orientation_is_applied_once(tmp_path: Path, name: str) -> None:
    kind, parameters = SAVED[name]
    xmp = XMP.format(6).encode()
    if kind == "PNG":
        from PIL.PngImagePlugin import PngInfo

        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp.decode())
        parameters = {"pnginfo": info}
    elif kind == "TIFF":
        parameters = {"tiffinfo": {700: xmp}}
    else:
        parameters = {**parameters, "xmp": xmp}
    Image.fromarray(SCENE).save(tmp_path / name, kind, **parameters)
    picture = read_picture(tmp_path / name)
    expected = np.rot90(SCENE, -1).astype(int)
    assert np.abs(np.asarray(picture.rgb) - expected).max() <= (8 if kind == "JPEG" else 0)
    np.testing.assert_array_equal(read_picture(picture.rgb).rgb, picture.rgb)
    assert read_size(tmp_path / name) == (48, 64)


# --- truncated JPEG ------------------------------------------------------------------------------------------------

JPEGS = [{}, {"progressive": True}, {"restart_marker_blocks": 5}, {"restart_marker_rows": 1, "progressive": True}]


@pytest.mark.parametrize("parameters", JPEGS, ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_jpeg_without_end_marker_is_read_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, mode: str, parameters: dict[str, object]
) -> None:
    file = io.BytesIO()
    Image.fromarray(SCENE).convert(mode).save(file, "JPEG", quality=90, **parameters)
    (tmp_path / "whole.jpg").write_bytes(file.getvalue())
    expected = read_picture(tmp_path / "whole.jpg").rgb
    assert file.getvalue()[-2:] == b"\xff\xd9"
    for missing in (1, 2):
        caplog.clear()
        (tmp_path / "a.jpg").write_bytes(file.getvalue()[:-missing])
        np.testing.assert_array_equal(read_picture(tmp_path / "a.jpg").rgb, expected)
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "a.jpg: its end marker is missing" in caplog.text


@pytest.mark.parametrize("parameters", JPEGS, ids=str)
@pytest.mark.parametrize("quality", [50, 100])
def test_truncated_jpeg_is_refused_unless_every_pixel_is_intact(
    tmp_path: Path, quality: int, parameters: dict[str, object]
) -> None:
    """Truncated anywhere, a file is read only if no pixel needs what is missing, such as fill bits of the last byte."""
    noise = np.random.default_rng(0).integers(0, 256, SCENE.shape)
    file = io.BytesIO()
    Image.fromarray((SCENE // 2 + noise // 2).astype("u1")).save(file, "JPEG", quality=quality, **parameters)
    data, errors = file.getvalue(), []
    expected = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR_RGB)
    ends = [*range(len(data) - 40, len(data) - 2), *range(len(data) // 4, len(data), 97)]
    ends += [at for at in range(len(data) - 2) if data[at] == 0xFF and data[at + 1] in (0xC4, 0xDA, *range(0xD0, 0xD8))]
    for end in ends:
        (tmp_path / "a.jpg").write_bytes(data[:end])
        try:
            np.testing.assert_array_equal(read_picture(tmp_path / "a.jpg").rgb, expected)
        except StyleTransferError as error:
            errors.append(str(error))
    assert len(errors) >= len(ends) - 3 and all("a.jpg: " in error for error in errors)


# --- folders -------------------------------------------------------------------------------------------------------


def test_folder_is_listed_in_natural_order(tmp_path: Path) -> None:
    names = ["1.png", "01.png", "2.png", "10.png", "a2b1.png", "a2b10.png", "a10.png", "a².png", "٣.png", "x.png"]
    names += ["9" * 200 + ".png", "B1.png", "b1.png"]
    for name in reversed(names):
        (tmp_path / name).write_bytes(b"")
    listing = [path.name for path in list_pictures(tmp_path)]
    assert sorted(listing) == sorted(names)
    assert [name for name in listing if name in ("1.png", "2.png", "01.png", "10.png", "9" * 200 + ".png")] == [
        *("01.png", "1.png", "2.png", "10.png", "9" * 200 + ".png")
    ]
    assert [name for name in listing if name.startswith("a")] == ["a2b1.png", "a2b10.png", "a10.png", "a².png"]


def test_first_image_of_an_mpo_in_a_folder_is_read(tmp_path: Path) -> None:
    save(tmp_path / "a.mpo", SCENE, "a.mpo")
    assert list_pictures(tmp_path) == [tmp_path / "a.mpo"]
    assert np.abs(np.asarray(read_picture(tmp_path / "a.mpo").rgb).astype(int) - SCENE).max() <= 8


def test_skipped_image_files_are_listed_in_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a.png", "b.svg", "c.JXL", "d.cr2", "e.eps", "notes.txt", "film.mp4", ".hidden.svg"):
        (tmp_path / name).write_bytes(b"")
    for number in range(9):
        (tmp_path / f"raw{number}.nef").write_bytes(b"")
    (tmp_path / "folder.svg").mkdir()
    with caplog.at_level(logging.WARNING):
        assert [list_pictures(tmp_path) for _ in range(3)] == [[tmp_path / "a.png"]] * 3
    (message,) = caplog.messages
    assert message.startswith(f"{tmp_path}: skipped 13 of 14 images: ")
    for part in ("b.svg (SVG is not supported)", "c.JXL (JXL is", "e.eps (EPS is", "and 5 more (raw files are"):
        assert part in message
    assert not any(name in message for name in ("notes", "film", "hidden", "folder.svg"))


def test_folder_of_unsupported_images_is_refused_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a.svg").write_bytes(b"")
    with pytest.raises(UsageError, match=r"no image in this folder; skipped: a\.svg \(SVG is not supported\)$"):
        list_pictures(tmp_path)


# --- HEIC ----------------------------------------------------------------------------------------------------------


def test_heic_is_read_with_its_plug_in(tmp_path: Path) -> None:
    """Runs in a separate process, where nothing else has registered the plug-in."""
    save(tmp_path / "a.heic", SCENE, "a.heic")
    code = """if True:
        import pathlib, sys
        from styletransfer.images import list_pictures, read_picture
        (path,) = list_pictures(pathlib.Path(sys.argv[1]))
        print(path.name, read_picture(path).rgb.size)
    """
    process = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    assert (process.stdout, process.stderr) == ("a.heic (64, 48)\n", "")


def test_heic_without_its_plug_in_names_the_extra_to_install(tmp_path: Path) -> None:
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf" + bytes(50))
    Image.fromarray(SCENE).save(tmp_path / "b.png")
    code = """if True:
        import logging, pathlib, sys
        sys.modules["pillow_heif"] = None  # makes importing it fail
        logging.basicConfig(format="%(message)s", stream=sys.stdout)
        from styletransfer.images import list_pictures, read_picture
        folder = pathlib.Path(sys.argv[1])
        print([path.name for path in list_pictures(folder)])
        try:
            read_picture(folder / "a.heic")
        except Exception as error:
            print(error)
    """
    process = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    needs = "HEIC needs pillow-heif: pip install 'styletransfer-torch[heif]'"
    assert process.stdout.splitlines() == [
        f"{tmp_path}: skipped 1 of 2 images: a.heic ({needs})",
        "['b.png']",
        f"{tmp_path}/a.heic: {needs}",
    ]


# --- JPEG 2000 -----------------------------------------------------------------------------------------------------


def test_deep_jpeg_2000_with_white_is_refused(tmp_path: Path) -> None:
    """Pillow turns the brightest samples into 0, so an image with any 0 is refused."""
    for low, high in ((1000, 60000), (1000, 65535)):
        values = np.linspace(low, high, 64 * 64).reshape(64, 64, 1) * np.ones(3)
        parameters = [cv2.IMWRITE_JPEG2000_COMPRESSION_X1000, 1000]
        cv2.imwrite(str(tmp_path / "a.jp2"), values.astype("u2"), parameters)
        if high < 65000:
            assert np.abs(np.asarray(read_picture(tmp_path / "a.jp2").rgb) - values / 257).max() <= 1.5
        else:
            with pytest.raises(StyleTransferError, match=r"a\.jp2: JPEG 2000 with more than 8 bits"):
                read_picture(tmp_path / "a.jp2")

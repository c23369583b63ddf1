"""Frames of video clips: orientation, pixel aspect ratio, transparency, size limits and file names."""

import io
import os
import socket
import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

av = pytest.importorskip("av")
pytest.importorskip("cv2")
from styletransfer.errors import StyleTransferError, UsageError  # noqa: E402
from styletransfer.video import clips  # noqa: E402
from styletransfer.video.frames import read_frames, read_masks  # noqa: E402

HEIGHT, WIDTH = 16, 24
Y, X = np.mgrid[0:HEIGHT, 0:WIDTH]
#: Every rotation and reflection of it looks different.
SCENE = np.dstack([10 * X, 15 * Y, np.where((X < 8) & (Y < 5), 255, 40)]).astype(np.uint8)


def encode(path: Path, images: Sequence[np.ndarray], codec: str = "ffv1", pixels: str = "bgr0", **options: Any) -> Path:
    """Write a clip with PyAV; `aspect` is the sample aspect ratio."""
    aspect, metadata = options.pop("aspect", None), options.pop("metadata", {})
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=10, options=options)
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pixels
        stream.metadata.update(metadata)
        if aspect:
            stream.codec_context.sample_aspect_ratio = aspect
        for image in images:
            frame = av.VideoFrame.from_ndarray(image, format="rgb24" if image.shape[2] == 3 else "rgba")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def set_matrix(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Write the matrix a b / c d into the first track header (ISO/IEC 14496-12, 8.3.2)."""
    data = bytearray(path.read_bytes())
    start = data.find(b"tkhd") + 4
    offset = start + (24 if data[start] == 0 else 36) + 16
    a, b, c, d = (value * 0x10000 for value in matrix)
    data[offset : offset + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 0x40000000)
    path.write_bytes(data)


def read_first_frame(path: Path) -> np.ndarray:
    ((_, picture),) = read_frames(path, 0, 1)
    assert picture.alpha is None
    return np.asarray(picture.rgb)


ORIENTATIONS = [(a, 0, 0, d) for a in (1, -1) for d in (1, -1)] + [(0, b, c, 0) for b in (1, -1) for c in (1, -1)]


@pytest.mark.parametrize("matrix", ORIENTATIONS)
def test_display_matrix_is_applied(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    """The matrix maps (p, q) to (a p + c q, b p + d q); negative coordinates count from the opposite edge."""
    path = encode(tmp_path / "clip.mov", [SCENE], "png", "rgb24")
    set_matrix(path, matrix)
    a, b, c, d = matrix
    upright = np.zeros_like(SCENE if a else SCENE.transpose(1, 0, 2))
    for q, p in np.ndindex(HEIGHT, WIDTH):
        x, y = a * p + c * q, b * p + d * q
        upright[y if b + d > 0 else y - 1, x if a + c > 0 else x - 1] = SCENE[q, p]
    np.testing.assert_array_equal(read_first_frame(path), upright)
    assert clips.survey(path).size == upright.shape[1::-1]


@pytest.mark.parametrize(
    ("aspect", "width"), [("16/15", 26), ("64/45", 34), ("8/9", 21), ("2", 48), ("1/2", 12), ("1", 24)]
)
@pytest.mark.parametrize(
    ("ending", "codec", "pixels"),
    [
        (".mkv", "mpeg4", "yuv420p"),
        (".mp4", "libx264", "yuv420p"),
        (".mov", "png", "rgb24"),
        (".avi", "mpeg4", "yuv420p"),
        (".ts", "libx264", "yuv420p"),
    ],
)
def test_frames_have_square_pixels(
    tmp_path: Path, aspect: str, width: int, ending: str, codec: str, pixels: str
) -> None:
    """The width is round(24 · aspect), whether the container or the codec stores the aspect ratio."""
    path = encode(tmp_path / f"clip{ending}", [SCENE] * 3, codec, pixels, aspect=Fraction(aspect))
    frame = read_first_frame(path)
    assert frame.shape == (HEIGHT, width, 3) and clips.survey(path).size == (width, HEIGHT)
    assert np.abs(frame[:, [0, -1]].astype(int) - SCENE[:, [0, -1]]).mean() < 40  # nothing is cropped
    output = tmp_path / "made.mkv"
    clips.write_clip(output, [(0, Image.fromarray(frame))], Fraction(1, 10), Fraction(10))
    with av.open(str(output)) as container:
        assert container.streams.video[0].sample_aspect_ratio in (None, 1)


def test_pixels_become_square_before_rotation(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mov", [SCENE], "png", "rgb24", aspect=Fraction(2))
    set_matrix(path, (0, 1, -1, 0))
    assert read_first_frame(path).shape == (2 * WIDTH, HEIGHT, 3)


COLOR, ALPHA = np.array([200, 60, 30]), np.where(X < 8, 0, np.where(X < 16, 128, 255))
ON_WHITE = COLOR * (ALPHA[..., None] / 255) + 255 * (1 - ALPHA[..., None] / 255)
TRANSPARENT = np.dstack([np.broadcast_to(COLOR, SCENE.shape), ALPHA]).astype(np.uint8)
WEBM = {"metadata": {"alpha_mode": "1"}, "auto-alt-ref": "0", "crf": "4", "b": "1M"}


@pytest.mark.parametrize(
    ("ending", "codec", "pixels", "options"),
    [
        (".apng", "apng", "rgba", {}),
        (".mov", "png", "rgba", {}),
        (".mov", "png", "rgba64be", {}),
        (".mov", "qtrle", "argb", {}),
        (".mov", "prores_ks", "yuva444p10le", {"profile": "4444"}),
        (".mov", "targa", "bgra", {}),
        (".avi", "huffyuv", "bgra", {}),
        (".avi", "utvideo", "gbrap", {}),
        (".avi", "magicyuv", "yuva444p", {}),
        (".nut", "rawvideo", "rgba", {}),
        (".nut", "rawvideo", "ya8", {}),
        (".mkv", "ffv1", "bgra", {}),
        *((".mkv", "ffv1", f"gbrap{bits}le", {}) for bits in (10, 12, 14, 16)),
        *((".mkv", "ffv1", f"yuva444p{bits}", {}) for bits in ("", "9le", "10le", "16le")),
        *((".mkv", "ffv1", f"yuva{sampling}p{bits}", {}) for sampling in (420, 422) for bits in ("", "10le")),
        (".webm", "libvpx", "yuva420p", WEBM),
        (".webm", "libvpx-vp9", "yuva420p", WEBM),
    ],
)
def test_transparent_clip_is_composited_on_white(
    tmp_path: Path, ending: str, codec: str, pixels: str, options: dict[str, Any]
) -> None:
    path = encode(tmp_path / f"clip{ending}", [TRANSPARENT] * 3, codec, pixels, **options)
    expected = ON_WHITE
    if pixels == "ya8":  # luma by BT.601
        luma = COLOR @ [0.299, 0.587, 0.114]
        expected = 255 + (ALPHA[..., None] / 255) * (np.full(3, luma) - 255)
    frames = [np.asarray(picture.rgb) for _, picture in read_frames(path, 0, 9)]
    assert len(frames) == 3
    inner = np.isin(X % 8, (3, 4))  # away from edges, where codecs mix neighboring pixels
    for frame in frames:
        assert np.abs(frame - expected)[inner].max() <= 4


def test_transparent_palette_is_composited_on_white(tmp_path: Path) -> None:
    gif = [Image.new("RGBA", (WIDTH, HEIGHT), (0, 0, 0, 0)) for _ in range(2)]
    for number, image in enumerate(gif):
        image.paste((200, 60, 30, 255), (8 + number, 0, WIDTH, HEIGHT))
    gif[0].save(tmp_path / "clip.gif", save_all=True, append_images=gif[1:], disposal=2)
    for number, picture in read_frames(tmp_path / "clip.gif", 0, 2):
        np.testing.assert_array_equal(np.asarray(picture.rgb), np.where(X[..., None] < 8 + number, 255, COLOR))
    palette = np.zeros((256, 4), np.uint8)
    palette[:3] = [(0, 200, 60, 30), (128, 200, 60, 30), (255, 200, 60, 30)]  # ARGB
    with av.open(str(tmp_path / "clip.mov"), "w") as container:
        stream = container.add_stream("png", rate=10)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "pal8"
        frame = av.VideoFrame.from_ndarray(((X // 8).astype(np.uint8), palette), format="pal8")
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    assert np.abs(read_first_frame(tmp_path / "clip.mov") - ON_WHITE).max() <= 1


def test_transparent_images_in_a_folder_are_composited_on_white(tmp_path: Path) -> None:
    Image.fromarray(TRANSPARENT).save(tmp_path / "0.png")
    assert np.abs(read_first_frame(tmp_path) - ON_WHITE).max() <= 1


def test_transparent_parts_of_a_mask_clip_are_not_selected(tmp_path: Path) -> None:
    white = np.dstack([np.full_like(SCENE, 255), ALPHA]).astype(np.uint8)
    encode(tmp_path / "clip.mkv", [white] * 2, "ffv1", "bgra")
    masks = list(read_masks(tmp_path / "clip.mkv", 0, 9))
    assert len(masks) == 2
    assert np.abs(np.asarray(masks[1].rgb)[..., 0] - ALPHA).max() <= 1


def test_is_clip_distinguishes_clips_from_still_images(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.roll(SCENE, number, 1)) for number in range(2)]
    for ending in (".gif", ".png"):
        frames[0].save(tmp_path / f"still{ending}")
        frames[0].save(tmp_path / f"moving{ending}", save_all=True, append_images=frames[1:], duration=100)
        assert not clips.is_clip(tmp_path / f"still{ending}") and clips.is_clip(tmp_path / f"moving{ending}")
        assert len(clips.survey(tmp_path / f"moving{ending}").times) == 2
    for ending, codec in {
        ".wmv": "wmv2",
        ".flv": "flv",
        ".3gp": "mpeg4",
        ".vob": "mpeg2video",
    }.items():
        assert clips.is_clip(Path(f"x{ending.upper()}"))
        encode(tmp_path / f"clip{ending}", [SCENE] * 3, codec, "yuv420p")
        assert len(clips.survey(tmp_path / f"clip{ending}").times) == 3
    assert clips.is_clip(tmp_path) and not clips.is_clip(Path("mask.jpg"))


NAMES = ["12:30.mkv", "http:x.mkv", "-x.mkv", "%03d.mkv", "pipe:1.mkv", "concat:a|b.mkv", "file:x.mkv", "a b.mkv"]
NAMES += ["夜α.mkv", os.fsdecode(b"caf\xe9.mkv"), "no-ending", "*?[a].mkv", "data:,x", "x.m3u8", "%d.jpg", "clip.h264"]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_clip_with_an_unusual_file_name_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    data = encode(tmp_path / "clip.mkv", [SCENE] * 2).read_bytes()
    monkeypatch.chdir(tmp_path)
    Path(name).write_bytes(data)
    assert len(clips.survey(Path(name)).times) == 2
    np.testing.assert_array_equal(read_first_frame(Path(name)), SCENE)


def test_clip_with_metadata_that_is_not_utf8_is_read(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    encode(path, [SCENE], "ffv1", "bgr0", metadata={"title": "cafe?"})
    data = path.read_bytes()
    assert b"cafe?" in data
    path.write_bytes(data.replace(b"cafe?", b"caf\xe9?"))
    assert len(clips.survey(path).times) == 1


HLS = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{}\n#EXT-X-ENDLIST\n"
DASH = (
    '<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S"><Period>'
    '<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"><BaseURL>{}</BaseURL>'
    "</Representation></AdaptationSet></Period></MPD>"
)
SDP = "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video 5004 RTP/AVP 96\na=rtpmap:96 H264/90000\n"


@pytest.mark.parametrize("target", ["clip.mp4", "file:clip.mp4", "http://127.0.0.1:{port}/clip.mp4"])
@pytest.mark.parametrize(
    ("ending", "text"),
    [
        (".m3u8", HLS),
        (".m3u8", "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{}\n"),
        (".ffconcat", "ffconcat version 1.0\nfile {}\n"),
        (".mkv", "ffconcat version 1.0\nfile {}\n"),
        (".mpd", DASH),
        (".sdp", SDP),
    ],
)
def test_clip_opens_no_other_file_or_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, text: str, target: str
) -> None:
    monkeypatch.chdir(tmp_path)
    encode(Path("clip.mp4"), [SCENE] * 2, "libx264", "yuv420p")
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)
        Path(f"list{ending}").write_text(text.format(target.format(port=server.getsockname()[1])))
        with pytest.raises(StyleTransferError, match="list"):
            clips.survey(Path(f"list{ending}"))
        with pytest.raises(BlockingIOError):  # no connection is pending
            server.accept()


@pytest.mark.parametrize("ending", [".mkv", ".mp4", "folder"])
def test_max_pixels_limits_frames(tmp_path: Path, ending: str) -> None:
    path = tmp_path
    if ending == "folder":
        Image.fromarray(SCENE).save(tmp_path / "0.png")
    else:
        codec, pixels = ("ffv1", "bgr0") if ending == ".mkv" else ("libx264", "yuv420p")
        path = encode(tmp_path / f"clip{ending}", [SCENE], codec, pixels)
    pixels = WIDTH * HEIGHT
    assert clips.survey(path, max_pixels=pixels).size == (WIDTH, HEIGHT)
    with pytest.raises(StyleTransferError, match=rf"set max_pixels to {pixels}$"):
        clips.survey(path, max_pixels=pixels - 1)
    with pytest.raises(StyleTransferError, match=rf"set max_pixels to {pixels}$"):
        list(read_frames(path, 0, 1, pixels - 1))


def test_max_pixels_limits_frames_after_resampling_to_square_pixels(tmp_path: Path) -> None:
    path = encode(tmp_path / "clip.mov", [SCENE], "png", "rgb24", aspect=Fraction(10))
    with pytest.raises(StyleTransferError, match=rf"set max_pixels to {10 * WIDTH * HEIGHT}$"):
        clips.survey(path, max_pixels=9 * WIDTH * HEIGHT)


def test_huge_frame_is_refused_before_decoding(tmp_path: Path) -> None:
    """A GIF of a few bytes whose header claims 15000×15000 pixels: 900 MB as RGBA."""
    data = io.BytesIO()
    Image.new("P", (1, 1)).save(data, "GIF")
    gif = bytearray(data.getvalue())
    gif[6:10] = struct.pack("<HH", 15_000, 15_000)
    (tmp_path / "clip.gif").write_bytes(gif)
    with pytest.raises(StyleTransferError, match=r"15000×15000.*set max_pixels to 225000000$"):
        clips.survey(tmp_path / "clip.gif")


def test_images_in_a_folder_must_have_the_same_size(tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    Image.new("RGB", (80, 64)).save(tmp_path / "b.png")
    with pytest.raises(UsageError) as error:
        clips.survey(tmp_path)
    assert str(error.value) == f"{tmp_path / 'b.png'}: frame 2 is 80×64, the ones before are 64×48 pixels"


def test_images_in_a_folder_are_sorted_by_number(tmp_path: Path) -> None:
    for number in range(1, 13):
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"frame_{number}.png")
    reds = [picture.rgb.getpixel((0, 0))[0] for _, picture in read_frames(tmp_path, 0, 99)]
    assert reds == list(range(1, 13))

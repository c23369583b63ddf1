"""Clips: reading and writing known values, temporal consistency, and resuming after interruptions."""

import dataclasses
import itertools
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TINY, wait_until
from PIL import Image
from test_batch import start_dask
from test_cli import here, run

av = pytest.importorskip("av")
cv2 = pytest.importorskip("cv2")
from styletransfer import Options  # noqa: E402
from styletransfer.cli.main import main  # noqa: E402
from styletransfer.errors import StyleTransferError, UsageError  # noqa: E402
from styletransfer.images import read_settings  # noqa: E402
from styletransfer.options import TemporalOptions  # noqa: E402
from styletransfer.video import clips, render  # noqa: E402
from styletransfer.video.flow import find_motion, is_cut  # noqa: E402
from styletransfer.video.frames import read_frames  # noqa: E402
from styletransfer.video.sound import Sound, choose_tracks  # noqa: E402

__all__ = ["here", "start_dask"]
COMMAND = [sys.executable, "-m", "styletransfer", "video"]
QUICK = ["--size", "64", "--iterations", "4", "--weights", str(TINY), "-q"]
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"


def load_photo(name: str = "coffee") -> np.ndarray:
    return np.asarray(Image.open(EXAMPLES / f"{name}.jpg").convert("RGB").resize((300, 200)))


def crop(image: np.ndarray, x: int, y: int, width: int = 200, height: int = 120) -> np.ndarray:
    return np.ascontiguousarray(image[y : y + height, x : x + width])


def write_frames(path: Path, frames: Sequence[np.ndarray], times: Sequence[int] = (), **more: Any) -> Path:
    numbered = zip(times or range(len(frames)), map(Image.fromarray, frames), strict=True)
    clips.write_clip(path, numbered, Fraction(1, 10), Fraction(10), **more)
    return path


@pytest.fixture(scope="session")
def clip_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a lossless 64×48 clip: three frames of a photo, each shifted by two pixels, and two of another."""
    frames = [crop(load_photo(), 60 + 2 * i, 40, 64, 48) for i in range(3)]
    frames += [crop(load_photo("astronaut"), 90, 10 + 2 * i, 64, 48) for i in range(2)]
    return write_frames(tmp_path_factory.mktemp("clips") / "clip.mkv", frames)


# --- motion --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [(0, 0), (5, 3), (-12, 7)])
def test_motion_of_a_shift_is_found(shift: tuple[int, int]) -> None:
    image = load_photo()
    before, now = crop(image, 40, 30), crop(image, 40 + shift[0], 30 + shift[1])
    motion = find_motion(before, now)
    places = np.stack(np.meshgrid(np.arange(200), np.arange(120)), 2)
    errors = np.linalg.norm(motion.source - places - shift, axis=2)
    inside = ((places + shift >= 0) & (places + shift < (200, 120))).all(2)
    trusted = motion.trust == 1
    assert trusted[inside].mean() > 0.9 and not trusted[~inside].any()
    assert np.median(errors[trusted]) < 0.05 and (errors[trusted] > 1).mean() < 0.02
    warped = motion.move(before)
    assert np.abs(warped[trusted].astype(int) - now[trusted]).mean() < 1.5
    if shift == (0, 0):
        np.testing.assert_array_equal(warped, before)


def test_disoccluded_regions_are_not_trusted() -> None:
    """A square moves over a photo and uncovers a region that was hidden before."""
    background, square = crop(load_photo(), 20, 20), crop(load_photo("chelsea"), 100, 60, 40, 40)

    def frame(x: int) -> np.ndarray:
        image = background.copy()
        image[40:80, x : x + 40] = square
        return image

    motion = find_motion(frame(60), frame(72))
    assert motion.trust[40:80, 60:72].mean() < 0.15
    elsewhere = np.ones((120, 200), bool)
    elsewhere[32:88, 48:124] = False
    assert motion.trust[elsewhere].mean() > 0.97
    assert np.median(
        motion.source[50:70, 82:102] - np.stack(np.meshgrid(np.arange(82, 102), np.arange(50, 70)), 2), axis=(0, 1)
    ) == pytest.approx((-12, 0), abs=0.1)


def test_trust_matches_the_papers_formula() -> None:
    """Eq. 5 and 6 of Ruder et al., pixel by pixel; the flows are integers, so that nothing is interpolated."""
    from styletransfer.video import flow

    rng = np.random.default_rng(0)
    backward = rng.integers(-2, 3, (12, 16, 2)).astype(np.float32)
    forward = rng.integers(-2, 3, (12, 16, 2)).astype(np.float32)
    backward[:, :8], forward[:, :8] = (1, 0), (-1, 0)  # here they agree
    trusted = flow.trust(forward, backward)
    du, dv = (np.gradient(backward[..., i]) for i in (0, 1))
    for y, x in itertools.product(range(12), range(16)):
        tx, ty = int(x + backward[y, x, 0]), int(y + backward[y, x, 1])
        expected = 0 <= tx < 16 and 0 <= ty < 12
        if expected:
            forth, back = forward[ty, tx], backward[y, x]
            expected = ((forth + back) ** 2).sum() <= 0.01 * ((forth**2).sum() + (back**2).sum()) + 0.5
            slope = sum(float(g[y, x]) ** 2 for g in (*du, *dv))
            expected = expected and slope <= 0.01 * (back**2).sum() + 0.002
        assert trusted[y, x] == expected, (y, x)
    assert 0 < trusted.mean() < 1


def test_cuts_are_found_between_different_images_only() -> None:
    names = ("coffee", "astronaut", "chelsea", "rocket", "hubble", "ink")
    small = {name: np.asarray(Image.open(EXAMPLES / f"{name}.jpg").convert("RGB").resize((160, 90))) for name in names}
    for one, other in itertools.permutations(names, 2):
        assert is_cut(small[one], small[other]), (one, other)
    for name in names:
        image = load_photo(name)
        for shift in ((3, 2), (-10, 4), (20, 0)):
            assert not is_cut(crop(image, 40, 30), crop(image, 40 + shift[0], 30 + shift[1])), (name, shift)
        darker = (crop(image, 40, 30) * 0.9).astype(np.uint8)
        assert not is_cut(crop(image, 40, 30), darker), name


# --- reading and writing -------------------------------------------------------------------------------------------


def compute_rgb(y: int, u: int, v: int, red: float, blue: float, full: bool) -> list[float]:
    """Return R'G'B' in 0…255 of 8-bit Y'CbCr by BT.601 and BT.709, sections 3.4 and 3.5."""
    luma, cb, cr = (
        (y / 255, (u - 128) / 255, (v - 128) / 255) if full else ((y - 16) / 219, (u - 128) / 224, (v - 128) / 224)
    )
    r, b = luma + 2 * (1 - red) * cr, luma + 2 * (1 - blue) * cb
    return [255 * value for value in (r, (luma - red * r - blue * b) / (1 - red - blue), b)]


@pytest.mark.parametrize(
    ("matrix", "range_", "height", "red", "blue", "full"),
    [
        (1, 1, 48, 0.2126, 0.0722, False),
        (6, 1, 48, 0.299, 0.114, False),
        (1, 2, 48, 0.2126, 0.0722, True),
        (5, 2, 48, 0.299, 0.114, True),
        (2, 1, 48, 0.299, 0.114, False),  # unspecified
        (2, 1, 720, 0.2126, 0.0722, False),
    ],
)
def test_color_matrix_and_range_are_respected(
    tmp_path: Path, matrix: int, range_: int, height: int, red: float, blue: float, full: bool
) -> None:
    path, width, values = tmp_path / "clip.mkv", 64, (120, 90, 180)
    planes = [np.full((height * width) // (1 if i == 0 else 4), value, np.uint8) for i, value in enumerate(values)]
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.colorspace, stream.codec_context.color_range = matrix, range_
        frame = av.VideoFrame.from_ndarray(np.concatenate(planes).reshape(-1, width), format="yuv420p")
        frame.colorspace, frame.color_range, frame.pts = matrix, range_, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    ((_, image),) = read_frames(path, 0, 1)
    rgb = np.asarray(image.rgb)
    np.testing.assert_allclose(rgb, np.broadcast_to(compute_rgb(*values, red, blue, full), rgb.shape), atol=2.5)


def test_ffv1_is_lossless_and_h264_close(tmp_path: Path) -> None:
    frames = [crop(load_photo(), x, 20, 65, 49) for x in (10, 12, 14)]
    for ending, most in ((".mkv", 0), (".mp4", 4), (".mov", 3)):
        path = write_frames(tmp_path / f"clip{ending}", frames)
        decoded = [np.asarray(image.rgb).astype(int) for _, image in read_frames(path, 0, 9)]
        assert len(decoded) == 3
        for frame, actual in zip(frames, decoded, strict=True):
            height, width = actual.shape[:2]
            assert (width, height) == ((65, 49) if ending == ".mkv" else (64, 48))
            assert np.abs(actual - frame[:height, :width]).mean() <= most, ending
    with av.open(str(tmp_path / "clip.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_range, context.color_primaries, context.color_trc) == (1, 1, 1, 1)


def test_times_cuts_and_rotation_are_read(tmp_path: Path, clip_path: Path) -> None:
    clip = clips.survey(clip_path)
    assert (clip.size, list(clip.shots), clip.sound, clip.rate) == ((64, 48), [(0, 3), (3, 5)], False, 10)
    times = [0, 1, 5, 6, 11]
    frames = [crop(load_photo(), 60 + i, 40, 64, 48) for i in range(5)]
    uneven = clips.survey(write_frames(tmp_path / "uneven.mp4", frames, times))
    seconds = [float((time - uneven.times[0]) * uneven.base) for time in uneven.times]
    assert seconds == pytest.approx([time / 10 for time in times])
    rotated = tmp_path / "turned.mp4"
    with av.open(str(clip_path)) as source, av.open(str(rotated), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV can't write turned clips")
        stream.set_display_rotation(90)
        for frame in source.decode(video=0):
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(str(rotated)) as container:
        stored, angle = next((frame.to_ndarray(format="rgb24"), frame.rotation) for frame in container.decode(video=0))
    assert abs(angle) == 90 and stored.shape == (48, 64, 3)
    ((_, upright),) = read_frames(rotated, 0, 1)
    np.testing.assert_array_equal(np.asarray(upright.rgb), np.rot90(stored, angle // 90))  # counter-clockwise


def make_clip_with_sound(path: Path, with_video: bool, seconds: float = 1.0) -> Path:
    rate = 44_100
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=rate)
        stream = container.add_stream("libx264", rate=10) if with_video else None
        if stream:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for i in range(round(10 * seconds)):
                frame = av.VideoFrame.from_ndarray(crop(load_photo(), 60 + i, 40, 64, 48), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        wave = (8000 * np.sin(np.arange(round(rate * seconds)) / 20)).astype(np.int16)
        for start in range(0, len(wave), 1024):
            part = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="s16", layout="mono")
            part.rate, part.pts = rate, start
            container.mux(sound.encode(part))
        container.mux(sound.encode())
    return path


def read_packets(path: Path) -> list[tuple[float, bytes]]:
    with av.open(str(path)) as container:
        demuxed = container.demux(container.streams.audio[0])
        return [(round(float(p.pts * p.time_base), 3), bytes(p)) for p in demuxed if p.pts is not None]


def test_sound_is_copied_unchanged(tmp_path: Path) -> None:
    source = make_clip_with_sound(tmp_path / "sound.mp4", with_video=True)
    clip = clips.survey(source)
    assert clip.sound and len(clip.times) == 10
    frames = [crop(load_photo(), 60, 40, 64, 48)] * 10
    for ending in (".mp4", ".mov", ".mkv"):
        target = tmp_path / f"made{ending}"
        numbered = zip(clip.times, map(Image.fromarray, frames), strict=True)
        clips.write_clip(
            target, numbered, clip.base, clip.rate, Sound(source, choose_tracks(source, clips.WRITERS[ending][0]))
        )
        expected, copied = read_packets(source), read_packets(target)
        assert len(copied) >= len(expected) - 5 and [data for _, data in copied] == [
            data for _, data in expected[: len(copied)]
        ]
        assert [time for time, _ in copied] == pytest.approx([time for time, _ in expected[: len(copied)]], abs=0.03)


def test_invalid_clip_gives_a_one_line_error(tmp_path: Path, style_path: Path, clip_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no clip")
    (tmp_path / "half.mp4").write_bytes(clip_path.read_bytes()[:300])
    (tmp_path / "folder").mkdir()
    make_clip_with_sound(tmp_path / "sound.m4a", with_video=False)
    for name in ("empty.mp4", "text.mp4", "half.mp4", "sound.m4a", "folder", "none.mp4"):
        with pytest.raises(StyleTransferError) as caught:
            clips.survey(tmp_path / name)
        assert name in str(caught.value) and "\n" not in str(caught.value)
    process = subprocess.run([*COMMAND, tmp_path / "text.mp4", style_path], capture_output=True, text=True)
    assert process.returncode == 1 and len(process.stderr.splitlines()) == 1 and "text.mp4" in process.stderr
    with pytest.raises(UsageError, match=r"must end in \.mp4, \.mov, \.mkv"):
        clips.check_ending(tmp_path / "clip.avi")


def test_truncated_clip_is_read_as_far_as_possible(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    complete = write_frames(tmp_path / "whole.mkv", [rng.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(8)])
    truncated = tmp_path / "part.mkv"
    truncated.write_bytes(complete.read_bytes()[: complete.stat().st_size * 5 // 8])
    assert 2 <= len(clips.survey(truncated).times) < 8


def test_clip_of_one_frame_or_without_timestamps_is_read(tmp_path: Path) -> None:
    """Raw H.264 has no timestamps: the rate is 25, or the one passed."""
    frame = crop(load_photo(), 60, 40, 64, 48)
    one = clips.survey(write_frames(tmp_path / "one.mp4", [frame]))
    assert (len(one.times), list(one.shots), one.rate) == (1, [(0, 1)], 25)
    with av.open(str(tmp_path / "raw.h264"), "w", format="h264") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for _ in range(4):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    raw = clips.survey(tmp_path / "raw.h264", Fraction(12))
    assert (len(raw.times), raw.rate) == (4, 12)
    assert len(clips.survey(tmp_path / "raw.h264").times) == 4


@pytest.mark.parametrize(("curve", "is_reported"), [(1, False), (16, True), (18, True)])
def test_hdr_is_reported(tmp_path: Path, caplog: pytest.LogCaptureFixture, curve: int, is_reported: bool) -> None:
    with av.open(str(tmp_path / "clip.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        stream.codec_context.color_trc = curve
        frame = av.VideoFrame.from_ndarray(crop(load_photo(), 60, 40, 64, 48), format="rgb24")
        reformatted = frame.reformat(format="yuv420p10le")
        reformatted.color_trc = curve
        container.mux(stream.encode(reformatted))
        container.mux(stream.encode())
    clips.survey(tmp_path / "clip.mkv")
    assert ("is HDR" in caplog.text) == is_reported


def test_failed_clip_leaves_no_file(tmp_path: Path) -> None:
    def frames() -> Any:
        yield 0, Image.new("RGB", (64, 48))
        raise StyleTransferError("gone")

    with pytest.raises(StyleTransferError, match="gone"):
        clips.write_clip(tmp_path / "clip.mp4", frames(), Fraction(1, 10), Fraction(10))
    assert list(tmp_path.iterdir()) == []


# --- temporal consistency ------------------------------------------------------------------------------------------


def make_shot(clip_path: Path, style_path: Path, folder: Path, **changes: Any) -> render.Shot:
    clip, temporal = clips.survey(clip_path), TemporalOptions(**changes.pop("temporal", {}))
    options = Options(**{"size": 64, "iterations": 4, "weights": str(TINY), **changes})
    folder.mkdir(exist_ok=True)
    return render.Shot(str(clip_path), clip.digest, (str(style_path),), options, temporal, str(folder), 0, 3)


def load_images(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path).convert("RGB")).astype(float) for path in sorted(folder.glob("*.png"))]


def test_temporal_weight_keeps_frames_close_to_the_warped_previous_ones(
    clip_path: Path, style_path: Path, tmp_path: Path
) -> None:
    """Measured by the distance of each frame from the previous one, shifted by the clip's two pixels."""
    errors = {}
    for weight in (0.0, 5000.0):
        shot = make_shot(clip_path, style_path, tmp_path / str(weight), temporal={"weight": weight}, iterations=40)
        assert list(render.render(shot)) == [shot.path(number) for number in range(3)]
        frames = load_images(tmp_path / str(weight))
        pairs = itertools.pairwise(frames)
        # Without the borders, where regions are disoccluded.
        errors[weight] = np.mean([np.square(now[:, :-2] - before[:, 2:])[8:-8, 8:-8].mean() for before, now in pairs])
    assert errors[5000.0] < 0.2 * errors[0.0]


def test_ages_of_disoccluded_regions_increase(clip_path: Path, style_path: Path, tmp_path: Path) -> None:
    """Each frame uncovers two columns at the right; what was visible from the start has settled."""
    paths = list(render.render(make_shot(clip_path, style_path, tmp_path)))
    ages = [render._unpack(read_settings(path)["age"], (48, 64)) for path in paths]
    assert (ages[0] == render.SETTLED).all()
    assert (ages[1][:, -2:] == 1).all() and (ages[2][:, -2:] == 1).all()
    assert np.median(ages[2][:, -4:-2]) == 2
    assert all((age[:, :40] == render.SETTLED).mean() > 0.9 for age in ages)


@pytest.mark.slow
def test_disoccluded_regions_are_stylized(style_path: Path, tmp_path: Path) -> None:
    """They get as many strokes as the rest; a strip that only continues its neighbor has half of them."""
    drawing = [sys.executable, EXAMPLES / "draw_clips.py", tmp_path, "--clips", "pan", "--size", "160x90"]
    subprocess.run([*drawing, "--frames", "16", "--ending", ".mkv"], check=True)
    command = [*COMMAND, tmp_path / "pan.mkv", EXAMPLES / "swirls.jpg", "-q", "-o", tmp_path / "out.mkv"]
    subprocess.run(command, check=True)
    ((_, image),) = read_frames(tmp_path / "out.mkv", 15, 16)
    strokes = np.abs(np.diff(np.asarray(image.rgb).astype(float), axis=1)).mean(2)
    assert strokes[:, 125:].mean() > 0.65 * strokes[:, :60].mean()


@pytest.mark.slow
def test_colors_of_a_still_clip_do_not_drift(style_path: Path, tmp_path: Path) -> None:
    """No mean color drifts by a level, although every frame is optimized again."""
    path = write_frames(tmp_path / "still.mkv", [crop(load_photo(), 40, 30, 240, 160)] * 12)
    shot = make_shot(path, EXAMPLES / "swirls.jpg", tmp_path / "out", iterations=100, size=240)
    list(render.render(dataclasses.replace(shot, last=12)))
    means = np.array([frame.mean((0, 1)) for frame in load_images(tmp_path / "out")])
    assert len(means) == 12 and np.abs(means - means[0]).max() < 1


@pytest.mark.parametrize("changes", [{}, {"color": "luminance"}, {"color": "content"}, {"optimizer": "adam"}])
def test_existing_frames_are_resumed_from(
    clip_path: Path, style_path: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    uninterrupted, resumed = (
        make_shot(clip_path, style_path, tmp_path / name, **changes) for name in ("whole", "parts")
    )
    list(render.render(uninterrupted))
    for _ in range(3):
        assert next(itertools.islice(render.render(resumed), len(resumed.finished()), None), None)
    assert resumed.finished() == [0, 1, 2]
    for number in range(3):
        assert resumed.path(number).read_bytes() == uninterrupted.path(number).read_bytes()
    other = make_shot(clip_path, style_path, tmp_path / "parts", beta=20.0)
    assert other.finished() == []  # the settings differ
    Image.new("RGB", (64, 48)).save(other.path(0))
    with pytest.raises(UsageError, match="would be lost"):
        next(render.render(other))


def test_luminance_keeps_the_colors_of_every_frame(clip_path: Path, style_path: Path, tmp_path: Path) -> None:
    list(render.render(make_shot(clip_path, style_path, tmp_path / "out", color="luminance")))
    for output, (_, content) in zip(load_images(tmp_path / "out"), read_frames(clip_path, 0, 3), strict=True):
        output_chroma, content_chroma = (
            np.asarray(Image.fromarray(x.astype(np.uint8)).convert("YCbCr"), float)[..., 1:]
            for x in (output, np.asarray(content.rgb))
        )
        assert np.abs(output_chroma - content_chroma).mean() < 3


def test_masks_can_be_clips(clip_path: Path, style_path: Path, tmp_path: Path) -> None:
    """The kept region moves from left to right, and is empty in the last frame."""
    mask_frames = [np.zeros((48, 64, 3), np.uint8) for _ in range(3)]
    mask_frames[0][:, :20], mask_frames[1][:, 40:] = 255, 255
    masks = write_frames(tmp_path / "masks.mkv", mask_frames)
    lite = {"model": "vgg19-lite", "weights": None}
    shot = make_shot(clip_path, style_path, tmp_path / "out", keep=str(masks), **lite)
    list(render.render(shot))
    for output, (_, content), mask in zip(
        load_images(tmp_path / "out"), read_frames(clip_path, 0, 3), mask_frames, strict=True
    ):
        same = (output == np.asarray(content.rgb)).all(2)
        assert same[mask[..., 0] > 0].all() and same[mask[..., 0] == 0].mean() < 0.1
    short = write_frames(tmp_path / "short.mkv", mask_frames[:2])
    with pytest.raises(UsageError, match="fewer frames"):
        list(render.render(make_shot(clip_path, style_path, tmp_path / "other", keep=str(short))))


# --- the command ---------------------------------------------------------------------------------------------------


def test_command_writes_a_clip(
    clip_path: Path, style_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.mkv"
    process = subprocess.run([*COMMAND, clip_path, style_path, *QUICK, "-o", out], capture_output=True, text=True)
    assert (process.returncode, process.stdout, process.stderr) == (0, f"{out}\n", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mkv"]
    output, source = clips.survey(out), clips.survey(clip_path)
    assert (output.size, output.rate, len(output.times)) == (source.size, source.rate, 5)
    # Every second frame of each shot, kept in a folder.
    draft = ("video", clip_path, style_path, *QUICK, "--every", "2", "--frames", tmp_path / "kept")
    assert run(*draft, "-o", tmp_path / "draft.mp4", capsys=capsys)[0] == 0
    assert [path.name for path in sorted((tmp_path / "kept").iterdir())] == ["000001.png", "000003.png", "000004.png"]
    assert len(clips.survey(tmp_path / "draft.mp4").times) == 3
    # A folder of images is a clip too.
    folder = ("video", tmp_path / "kept", style_path, *QUICK, "--rate", "5", "-o", tmp_path / "folder.mp4")
    assert run(*folder, capsys=capsys)[0] == 0
    assert clips.survey(tmp_path / "folder.mp4").rate == 5


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGKILL, -9, marks=pytest.mark.slow), (signal.SIGINT, 130)]
)
def test_resumed_clip_equals_an_uninterrupted_one(
    clip_path: Path, style_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int, code: int
) -> None:
    arguments = (clip_path, style_path, *QUICK, "--iterations", "40", "-o")
    assert run("video", *arguments, tmp_path / "whole.mkv", capsys=capsys)[0] == 0
    out, frames = tmp_path / "out.mkv", tmp_path / "out_frames"
    process = subprocess.Popen(
        [*COMMAND, *arguments, out], stderr=subprocess.PIPE, text=True, stdout=subprocess.DEVNULL
    )
    wait_until((frames / "000001.png").exists, process)
    process.send_signal(number)
    _, stderr = process.communicate()
    finished = len(list(frames.iterdir()))
    assert process.returncode == code and 1 <= finished < 5
    if number == signal.SIGINT:  # the output has the finished frames
        assert len(clips.survey(out).times) == finished and f"after {finished} of 5 frames" in stderr
    assert run("video", *arguments, out, capsys=capsys)[0] == 0
    assert out.read_bytes() == (tmp_path / "whole.mkv").read_bytes()
    assert not frames.exists()


@pytest.mark.slow
def test_clip_does_not_depend_on_the_number_of_jobs(clip_path: Path, style_path: Path, tmp_path: Path) -> None:
    command = [*COMMAND, clip_path, style_path, *QUICK]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for jobs in ("1", "2"):
        out = tmp_path / f"{jobs}.mkv"
        subprocess.run([*command, "--jobs", jobs, "-o", out], check=True, env=environment)
    assert (tmp_path / "1.mkv").read_bytes() == (tmp_path / "2.mkv").read_bytes()


@pytest.mark.slow
def test_cluster_writes_the_same_clip_as_one_process(
    dask: tuple[str, object], here: Path, clip_path: Path, style_path: Path
) -> None:
    command = [*COMMAND, clip_path, style_path, *QUICK, "-o"]
    for out, where in (("alone.mkv", []), ("there.mkv", ["--scheduler", dask[0]])):
        subprocess.run([*command, here / out, *where], check=True)
    assert (here / "there.mkv").read_bytes() == (here / "alone.mkv").read_bytes()
    assert not (here / "there_frames").exists()


def test_input_clip_is_not_overwritten(clip_path: Path, style_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = clip_path.read_bytes()
    with pytest.raises(SystemExit) as exit_:
        main(["video", str(clip_path), str(style_path), "-o", str(clip_path)])
    assert exit_.value.code == 2 and "name another file with -o" in capsys.readouterr().err
    assert clip_path.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seamless"], "--seamless is for single images"),
        (["--faces", "3"], "--faces is for single images"),
        (["--time", "5m"], "--time is for single images"),
        (["--bit-depth", "16"], "--bit-depth is for single images"),
        (["--look-back", "2,1"], "look_back"),
        (["--look-back", "x"], "--look-back is 'x'"),
        (["-o", "out.avi"], "must end in"),
        (["-o", "nowhere/out.mp4"], "nowhere"),
    ],
)
def test_invalid_arguments_for_a_clip_are_rejected(
    clip_path: Path,
    style_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit_:
        main(["video", str(clip_path), str(style_path), *arguments])
    stderr = capsys.readouterr().err
    assert exit_.value.code == 2 and message in stderr and len(stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []

"""Clips: what is read and written, by numbers that are known; frames that follow one another; killed and gone on."""

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


def photograph(name: str = "coffee") -> np.ndarray:
    return np.asarray(Image.open(EXAMPLES / f"{name}.jpg").convert("RGB").resize((300, 200)))


def crop(image: np.ndarray, x: int, y: int, width: int = 200, height: int = 120) -> np.ndarray:
    return np.ascontiguousarray(image[y : y + height, x : x + width])


def write(path: Path, frames: Sequence[np.ndarray], times: Sequence[int] = (), **more: Any) -> Path:
    numbered = zip(times or range(len(frames)), map(Image.fromarray, frames), strict=True)
    clips.write_clip(path, numbered, Fraction(1, 10), Fraction(10), **more)
    return path


@pytest.fixture(scope="session")
def clip_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three frames of one photograph, moved by two pixels, and two of another; 64×48, lossless."""
    frames = [crop(photograph(), 60 + 2 * i, 40, 64, 48) for i in range(3)]
    frames += [crop(photograph("astronaut"), 90, 10 + 2 * i, 64, 48) for i in range(2)]
    return write(tmp_path_factory.mktemp("clips") / "clip.mkv", frames)


# --- motion --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [(0, 0), (5, 3), (-12, 7)])
def test_a_shift_is_found(shift: tuple[int, int]) -> None:
    image = photograph()
    before, now = crop(image, 40, 30), crop(image, 40 + shift[0], 30 + shift[1])
    motion = find_motion(before, now)
    places = np.stack(np.meshgrid(np.arange(200), np.arange(120)), 2)
    errors = np.linalg.norm(motion.source - places - shift, axis=2)
    inside = ((places + shift >= 0) & (places + shift < (200, 120))).all(2)
    trusted = motion.trust == 1
    assert trusted[inside].mean() > 0.9 and not trusted[~inside].any()
    assert np.median(errors[trusted]) < 0.05 and (errors[trusted] > 1).mean() < 0.02
    moved = motion.move(before)
    assert np.abs(moved[trusted].astype(int) - now[trusted]).mean() < 1.5
    if shift == (0, 0):
        np.testing.assert_array_equal(moved, before)


def test_what_was_hidden_is_not_trusted() -> None:
    """A square moves over a photograph: what it uncovers wasn't to be seen before."""
    ground, thing = crop(photograph(), 20, 20), crop(photograph("chelsea"), 100, 60, 40, 40)

    def frame(x: int) -> np.ndarray:
        image = ground.copy()
        image[40:80, x : x + 40] = thing
        return image

    motion = find_motion(frame(60), frame(72))
    assert motion.trust[40:80, 60:72].mean() < 0.15
    away = np.ones((120, 200), bool)
    away[32:88, 48:124] = False
    assert motion.trust[away].mean() > 0.97
    assert np.median(
        motion.source[50:70, 82:102] - np.stack(np.meshgrid(np.arange(82, 102), np.arange(50, 70)), 2), axis=(0, 1)
    ) == pytest.approx((-12, 0), abs=0.1)


def test_trust_is_the_papers_formula() -> None:
    """Eq. 5 and 6 of Ruder et al., pixel by pixel, where the flows are such that nothing is sampled between pixels."""
    from styletransfer.video import flow

    rng = np.random.default_rng(0)
    backward = rng.integers(-2, 3, (12, 16, 2)).astype(np.float32)
    forward = rng.integers(-2, 3, (12, 16, 2)).astype(np.float32)
    backward[:, :8], forward[:, :8] = (1, 0), (-1, 0)  # here they agree
    found = flow.trust(forward, backward)
    du, dv = (np.gradient(backward[..., i]) for i in (0, 1))
    for y, x in itertools.product(range(12), range(16)):
        tx, ty = int(x + backward[y, x, 0]), int(y + backward[y, x, 1])
        expected = 0 <= tx < 16 and 0 <= ty < 12
        if expected:
            there, here = forward[ty, tx], backward[y, x]
            expected = ((there + here) ** 2).sum() <= 0.01 * ((there**2).sum() + (here**2).sum()) + 0.5
            slope = sum(float(g[y, x]) ** 2 for g in (*du, *dv))
            expected = expected and slope <= 0.01 * (here**2).sum() + 0.002
        assert found[y, x] == expected, (y, x)
    assert 0 < found.mean() < 1


def test_cuts_are_where_something_else_is_shown() -> None:
    names = ("coffee", "astronaut", "chelsea", "rocket", "hubble", "ink")
    small = {name: np.asarray(Image.open(EXAMPLES / f"{name}.jpg").convert("RGB").resize((160, 90))) for name in names}
    for one, other in itertools.permutations(names, 2):
        assert is_cut(small[one], small[other]), (one, other)
    for name in names:
        image = photograph(name)
        for shift in ((3, 2), (-10, 4), (20, 0)):
            assert not is_cut(crop(image, 40, 30), crop(image, 40 + shift[0], 30 + shift[1])), (name, shift)
        darker = (crop(image, 40, 30) * 0.9).astype(np.uint8)
        assert not is_cut(crop(image, 40, 30), darker), name


# --- reading and writing -------------------------------------------------------------------------------------------


def by_hand(y: int, u: int, v: int, red: float, blue: float, full: bool) -> list[float]:
    """R'G'B' of 8-bit Y'CbCr by the formulas of BT.601 and BT.709, sections 3.4 and 3.5, in 0…255."""
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
        (2, 1, 48, 0.299, 0.114, False),  # nobody tells
        (2, 1, 720, 0.2126, 0.0722, False),
    ],
)
def test_colors_are_read_as_they_are_meant(
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
    ((_, picture),) = read_frames(path, 0, 1)
    found = np.asarray(picture.rgb)
    np.testing.assert_allclose(found, np.broadcast_to(by_hand(*values, red, blue, full), found.shape), atol=2.5)


def test_ffv1_is_what_was_written_and_h264_close_to_it(tmp_path: Path) -> None:
    frames = [crop(photograph(), x, 20, 65, 49) for x in (10, 12, 14)]
    for ending, most in ((".mkv", 0), (".mp4", 4), (".mov", 3)):
        path = write(tmp_path / f"clip{ending}", frames)
        read = [np.asarray(picture.rgb).astype(int) for _, picture in read_frames(path, 0, 9)]
        assert len(read) == 3
        for frame, found in zip(frames, read, strict=True):
            height, width = found.shape[:2]
            assert (width, height) == ((65, 49) if ending == ".mkv" else (64, 48))
            assert np.abs(found - frame[:height, :width]).mean() <= most, ending
    with av.open(str(tmp_path / "clip.mp4")) as container:
        context = container.streams.video[0].codec_context
        assert (context.colorspace, context.color_range, context.color_primaries, context.color_trc) == (1, 1, 1, 1)


def test_times_cuts_and_turns_are_told(tmp_path: Path, clip_path: Path) -> None:
    clip = clips.survey(clip_path)
    assert (clip.size, list(clip.shots), clip.sound, clip.rate) == ((64, 48), [(0, 3), (3, 5)], False, 10)
    times = [0, 1, 5, 6, 11]
    frames = [crop(photograph(), 60 + i, 40, 64, 48) for i in range(5)]
    uneven = clips.survey(write(tmp_path / "uneven.mp4", frames, times))
    seconds = [float((time - uneven.times[0]) * uneven.base) for time in uneven.times]
    assert seconds == pytest.approx([time / 10 for time in times])
    turned = tmp_path / "turned.mp4"
    with av.open(str(clip_path)) as source, av.open(str(turned), "w") as container:
        stream = container.add_stream("libx264", rate=10, options={"crf": "1"})
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        if not hasattr(stream, "set_display_rotation"):
            pytest.skip("this PyAV can't write turned clips")
        stream.set_display_rotation(90)
        for frame in source.decode(video=0):
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with av.open(str(turned)) as container:
        stored, angle = next((frame.to_ndarray(format="rgb24"), frame.rotation) for frame in container.decode(video=0))
    assert abs(angle) == 90 and stored.shape == (48, 64, 3)
    ((_, upright),) = read_frames(turned, 0, 1)
    np.testing.assert_array_equal(np.asarray(upright.rgb), np.rot90(stored, angle // 90))  # counter-clockwise


def make_sound(path: Path, picture: bool, seconds: float = 1.0) -> Path:
    rate = 44_100
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=rate)
        stream = container.add_stream("libx264", rate=10) if picture else None
        if stream:
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            for i in range(round(10 * seconds)):
                frame = av.VideoFrame.from_ndarray(crop(photograph(), 60 + i, 40, 64, 48), format="rgb24")
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
        wave = (8000 * np.sin(np.arange(round(rate * seconds)) / 20)).astype(np.int16)
        for start in range(0, len(wave), 1024):
            part = av.AudioFrame.from_ndarray(wave[None, start : start + 1024], format="s16", layout="mono")
            part.rate, part.pts = rate, start
            container.mux(sound.encode(part))
        container.mux(sound.encode())
    return path


def packets(path: Path) -> list[tuple[float, bytes]]:
    with av.open(str(path)) as container:
        found = container.demux(container.streams.audio[0])
        return [(round(float(p.pts * p.time_base), 3), bytes(p)) for p in found if p.pts is not None]


def test_sound_is_copied_as_it_is(tmp_path: Path) -> None:
    source = make_sound(tmp_path / "sound.mp4", picture=True)
    clip = clips.survey(source)
    assert clip.sound and len(clip.times) == 10
    frames = [crop(photograph(), 60, 40, 64, 48)] * 10
    for ending in (".mp4", ".mov", ".mkv"):
        made = tmp_path / f"made{ending}"
        numbered = zip(clip.times, map(Image.fromarray, frames), strict=True)
        clips.write_clip(
            made, numbered, clip.base, clip.rate, Sound(source, choose_tracks(source, clips.WRITERS[ending][0]))
        )
        there, here = packets(source), packets(made)
        assert len(here) >= len(there) - 5 and [data for _, data in here] == [data for _, data in there[: len(here)]]
        assert [time for time, _ in here] == pytest.approx([time for time, _ in there[: len(here)]], abs=0.03)


def test_what_is_no_clip_is_told_in_one_line(tmp_path: Path, style_path: Path, clip_path: Path) -> None:
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "text.mp4").write_text("no clip")
    (tmp_path / "half.mp4").write_bytes(clip_path.read_bytes()[:300])
    (tmp_path / "folder").mkdir()
    make_sound(tmp_path / "sound.m4a", picture=False)
    for name in ("empty.mp4", "text.mp4", "half.mp4", "sound.m4a", "folder", "none.mp4"):
        with pytest.raises(StyleTransferError) as told:
            clips.survey(tmp_path / name)
        assert name in str(told.value) and "\n" not in str(told.value)
    done = subprocess.run([*COMMAND, tmp_path / "text.mp4", style_path], capture_output=True, text=True)
    assert done.returncode == 1 and len(done.stderr.splitlines()) == 1 and "text.mp4" in done.stderr
    with pytest.raises(UsageError, match=r"must end in \.mp4, \.mov, \.mkv"):
        clips.check_ending(tmp_path / "clip.avi")


def test_a_clip_that_is_cut_off_is_read_as_far_as_it_goes(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    whole = write(tmp_path / "whole.mkv", [rng.integers(0, 255, (48, 64, 3), np.uint8) for _ in range(8)])
    part = tmp_path / "part.mkv"
    part.write_bytes(whole.read_bytes()[: whole.stat().st_size * 5 // 8])
    assert 2 <= len(clips.survey(part).times) < 8


def test_one_frame_or_no_times_are_a_clip_too(tmp_path: Path) -> None:
    """Raw H.264 has no times: 25 frames a second, or as told."""
    frame = crop(photograph(), 60, 40, 64, 48)
    one = clips.survey(write(tmp_path / "one.mp4", [frame]))
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


@pytest.mark.parametrize(("curve", "told"), [(1, False), (16, True), (18, True)])
def test_hdr_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture, curve: int, told: bool) -> None:
    with av.open(str(tmp_path / "clip.mkv"), "w") as container:
        stream = container.add_stream("ffv1", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p10le"
        stream.codec_context.color_trc = curve
        frame = av.VideoFrame.from_ndarray(crop(photograph(), 60, 40, 64, 48), format="rgb24")
        made = frame.reformat(format="yuv420p10le")
        made.color_trc = curve
        container.mux(stream.encode(made))
        container.mux(stream.encode())
    clips.survey(tmp_path / "clip.mkv")
    assert ("is HDR" in caplog.text) == told


def test_a_clip_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def frames() -> Any:
        yield 0, Image.new("RGB", (64, 48))
        raise StyleTransferError("gone")

    with pytest.raises(StyleTransferError, match="gone"):
        clips.write_clip(tmp_path / "clip.mp4", frames(), Fraction(1, 10), Fraction(10))
    assert list(tmp_path.iterdir()) == []


# --- frames that follow one another --------------------------------------------------------------------------------


def shot(clip_path: Path, style_path: Path, folder: Path, **changes: Any) -> render.Shot:
    clip, following = clips.survey(clip_path), TemporalOptions(**changes.pop("following", {}))
    options = Options(**{"size": 64, "iterations": 4, "weights": str(TINY), **changes})
    folder.mkdir(exist_ok=True)
    return render.Shot(str(clip_path), clip.digest, (str(style_path),), options, following, str(folder), 0, 3)


def pictures(folder: Path) -> list[np.ndarray]:
    return [np.asarray(Image.open(path).convert("RGB")).astype(float) for path in sorted(folder.glob("*.png"))]


def test_frames_are_like_the_ones_before_where_those_are_to_be_seen(
    clip_path: Path, style_path: Path, tmp_path: Path
) -> None:
    """By how far each is from the last one, moved by the two pixels that the clip was made with."""
    away = {}
    for weight in (0.0, 5000.0):
        made = shot(clip_path, style_path, tmp_path / str(weight), following={"weight": weight}, iterations=40)
        assert list(render.render(made)) == [made.path(number) for number in range(3)]
        frames = pictures(tmp_path / str(weight))
        pairs = itertools.pairwise(frames)
        # Without the borders, where something comes into sight.
        away[weight] = np.mean([np.square(now[:, :-2] - before[:, 2:])[8:-8, 8:-8].mean() for before, now in pairs])
    assert away[5000.0] < 0.2 * away[0.0]


def test_what_comes_into_sight_grows_old(clip_path: Path, style_path: Path, tmp_path: Path) -> None:
    """Two columns with each frame, at the right; what was there from the beginning has settled."""
    made = list(render.render(shot(clip_path, style_path, tmp_path)))
    ages = [render._unpack(read_settings(path)["age"], (48, 64)) for path in made]
    assert (ages[0] == render.SETTLED).all()
    assert (ages[1][:, -2:] == 1).all() and (ages[2][:, -2:] == 1).all()
    assert np.median(ages[2][:, -4:-2]) == 2
    assert all((age[:, :40] == render.SETTLED).mean() > 0.9 for age in ages)


@pytest.mark.slow
def test_what_comes_into_sight_is_painted(style_path: Path, tmp_path: Path) -> None:
    """With as many strokes as what was there at first: a strip that only continues its neighbor has half of them."""
    drawn = [sys.executable, EXAMPLES / "draw_clips.py", tmp_path, "--clips", "pan", "--size", "160x90"]
    subprocess.run([*drawn, "--frames", "16", "--ending", ".mkv"], check=True)
    command = [*COMMAND, tmp_path / "pan.mkv", EXAMPLES / "swirls.jpg", "-q", "-o", tmp_path / "out.mkv"]
    subprocess.run(command, check=True)
    ((_, made),) = read_frames(tmp_path / "out.mkv", 15, 16)
    strokes = np.abs(np.diff(np.asarray(made.rgb).astype(float), axis=1)).mean(2)
    assert strokes[:, 125:].mean() > 0.65 * strokes[:, :60].mean()


@pytest.mark.slow
def test_a_still_clip_stands_still(style_path: Path, tmp_path: Path) -> None:
    """No color drifts by a level, from frame to frame, of what is optimized over and over."""
    path = write(tmp_path / "still.mkv", [crop(photograph(), 40, 30, 240, 160)] * 12)
    made = shot(path, EXAMPLES / "swirls.jpg", tmp_path / "out", iterations=100, size=240)
    list(render.render(dataclasses.replace(made, last=12)))
    means = np.array([frame.mean((0, 1)) for frame in pictures(tmp_path / "out")])
    assert len(means) == 12 and np.abs(means - means[0]).max() < 1


@pytest.mark.parametrize("changes", [{}, {"color": "luminance"}, {"color": "content"}, {"optimizer": "adam"}])
def test_frames_that_are_there_are_gone_on_from(
    clip_path: Path, style_path: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    whole, parts = (shot(clip_path, style_path, tmp_path / name, **changes) for name in ("whole", "parts"))
    list(render.render(whole))
    for _ in range(3):
        assert next(itertools.islice(render.render(parts), len(parts.finished()), None), None)
    assert parts.finished() == [0, 1, 2]
    for number in range(3):
        assert parts.path(number).read_bytes() == whole.path(number).read_bytes()
    other = shot(clip_path, style_path, tmp_path / "parts", beta=20.0)
    assert other.finished() == []  # of other settings
    Image.new("RGB", (64, 48)).save(other.path(0))
    with pytest.raises(UsageError, match="would be lost"):
        next(render.render(other))


def test_luminance_keeps_the_colors_of_every_frame(clip_path: Path, style_path: Path, tmp_path: Path) -> None:
    list(render.render(shot(clip_path, style_path, tmp_path / "out", color="luminance")))
    for made, (_, given) in zip(pictures(tmp_path / "out"), read_frames(clip_path, 0, 3), strict=True):
        ours, theirs = (
            np.asarray(Image.fromarray(x.astype(np.uint8)).convert("YCbCr"), float)[..., 1:]
            for x in (made, np.asarray(given.rgb))
        )
        assert np.abs(ours - theirs).mean() < 3


def test_masks_can_be_clips(clip_path: Path, style_path: Path, tmp_path: Path) -> None:
    """What is kept goes from the left to the right, and is nothing in the last frame."""
    kept = [np.zeros((48, 64, 3), np.uint8) for _ in range(3)]
    kept[0][:, :20], kept[1][:, 40:] = 255, 255
    masks = write(tmp_path / "masks.mkv", kept)
    lite = {"model": "vgg19-lite", "weights": None}
    made = shot(clip_path, style_path, tmp_path / "out", keep=str(masks), **lite)
    list(render.render(made))
    for painted, (_, given), mask in zip(pictures(tmp_path / "out"), read_frames(clip_path, 0, 3), kept, strict=True):
        same = (painted == np.asarray(given.rgb)).all(2)
        assert same[mask[..., 0] > 0].all() and same[mask[..., 0] == 0].mean() < 0.1
    short = write(tmp_path / "short.mkv", kept[:2])
    with pytest.raises(UsageError, match="fewer frames"):
        list(render.render(shot(clip_path, style_path, tmp_path / "other", keep=str(short))))


# --- the command ---------------------------------------------------------------------------------------------------


def test_the_command_makes_a_clip(
    clip_path: Path, style_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.mkv"
    done = subprocess.run([*COMMAND, clip_path, style_path, *QUICK, "-o", out], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{out}\n", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mkv"]
    made, given = clips.survey(out), clips.survey(clip_path)
    assert (made.size, made.rate, len(made.times)) == (given.size, given.rate, 5)
    # Every second frame of each shot, kept.
    draft = ("video", clip_path, style_path, *QUICK, "--every", "2", "--frames", tmp_path / "kept")
    assert run(*draft, "-o", tmp_path / "draft.mp4", capsys=capsys)[0] == 0
    assert [path.name for path in sorted((tmp_path / "kept").iterdir())] == ["000001.png", "000003.png", "000004.png"]
    assert len(clips.survey(tmp_path / "draft.mp4").times) == 3
    # A folder of pictures is a clip too.
    folder = ("video", tmp_path / "kept", style_path, *QUICK, "--rate", "5", "-o", tmp_path / "folder.mp4")
    assert run(*folder, capsys=capsys)[0] == 0
    assert clips.survey(tmp_path / "folder.mp4").rate == 5


@pytest.mark.parametrize(
    ("number", "code"), [pytest.param(signal.SIGKILL, -9, marks=pytest.mark.slow), (signal.SIGINT, 130)]
)
def test_a_clip_that_was_interrupted_comes_out_the_same(
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
    _, said = process.communicate()
    there = len(list(frames.iterdir()))
    assert process.returncode == code and 1 <= there < 5
    if number == signal.SIGINT:  # what is done can be seen
        assert len(clips.survey(out).times) == there and f"after {there} of 5 frames" in said
    assert run("video", *arguments, out, capsys=capsys)[0] == 0
    assert out.read_bytes() == (tmp_path / "whole.mkv").read_bytes()
    assert not frames.exists()


@pytest.mark.slow
def test_shots_are_the_same_wherever_they_are_painted(clip_path: Path, style_path: Path, tmp_path: Path) -> None:
    command = [*COMMAND, clip_path, style_path, *QUICK]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for jobs in ("1", "2"):
        out = tmp_path / f"{jobs}.mkv"
        subprocess.run([*command, "--jobs", jobs, "-o", out], check=True, env=environment)
    assert (tmp_path / "1.mkv").read_bytes() == (tmp_path / "2.mkv").read_bytes()


@pytest.mark.slow
def test_a_cluster_paints_shots_as_one_process_does(
    dask: tuple[str, object], here: Path, clip_path: Path, style_path: Path
) -> None:
    command = [*COMMAND, clip_path, style_path, *QUICK, "-o"]
    for out, where in (("alone.mkv", []), ("there.mkv", ["--scheduler", dask[0]])):
        subprocess.run([*command, here / out, *where], check=True)
    assert (here / "there.mkv").read_bytes() == (here / "alone.mkv").read_bytes()
    assert not (here / "there_frames").exists()


def test_a_clip_is_not_replaced_by_its_painting(
    clip_path: Path, style_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = clip_path.read_bytes()
    with pytest.raises(SystemExit) as ended:
        main(["video", str(clip_path), str(style_path), "-o", str(clip_path)])
    assert ended.value.code == 2 and "name another file with -o" in capsys.readouterr().err
    assert clip_path.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--seamless"], "--seamless is for single images"),
        (["--time", "5m"], "--time is for single images"),
        (["--bit-depth", "16"], "--bit-depth is for single images"),
        (["--look-back", "2,1"], "look_back"),
        (["--look-back", "x"], "--look-back is 'x'"),
        (["-o", "out.avi"], "must end in"),
        (["-o", "nowhere/out.mp4"], "nowhere"),
    ],
)
def test_what_makes_no_sense_for_a_clip_is_refused(
    clip_path: Path,
    style_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["video", str(clip_path), str(style_path), *arguments])
    told = capsys.readouterr().err
    assert ended.value.code == 2 and said in told and len(told.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []

"""Inputs and outputs of the video command: separate folders, limits, sound, orientation of frames."""

import itertools
import os
from pathlib import Path

import numpy as np
import pytest
from conftest import TINY
from PIL import Image

av = pytest.importorskip("av")
pytest.importorskip("cv2")
from styletransfer import Options  # noqa: E402
from styletransfer.cli.main import main  # noqa: E402
from styletransfer.options import TemporalOptions  # noqa: E402
from styletransfer.video import clips, render  # noqa: E402

QUICK = ["--size", "64", "--iterations", "2", "--weights", str(TINY), "-q"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, with folders of frames, masks and a style image, and links to them."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for folder, count in (("walk_frames", 2), ("masks", 2), ("styles", 1)):
        Path(folder).mkdir()
        for number in range(count):
            Image.fromarray(rng.integers(0, 255, (48, 64, 3), np.uint8)).save(f"{folder}/{number}.png")
    Path("link").symlink_to("walk_frames")
    Path("link.png").symlink_to("styles/0.png")
    return tmp_path


def run(*arguments: str | Path) -> int:
    with pytest.raises(SystemExit) as exit_:
        main(["video", *map(str, arguments)])
    return int(exit_.value.code or 0)


def read_files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    "arguments",
    [
        ["-o", "walk.mp4"],  # its frames would go to walk_frames
        ["-o", "out.mp4", "--frames", "walk_frames"],
        ["-o", "out.mp4", "--frames", "styles/../walk_frames/"],
        ["-o", "out.mp4", "--frames", "link"],
        ["-o", "out.mp4", "--frames", "{here}/walk_frames"],
        ["-o", "out.mp4", "--frames", "walk_frames/new"],
        ["-o", "out.mp4", "--frames", "styles"],
        ["-o", "out.mp4", "--frames", "masks", "--keep", "masks"],
        ["-o", "out.mp4", "--frames", "masks", "--keep", "masks/0.png"],
        ["-o", "out.mp4", "--frames", "masks", "--mask", "masks", "all"],
        ["-o", "walk_frames/out.mp4"],
        ["-o", "link/out.mp4"],
        ["-o", "masks/out.mp4", "--keep", "masks"],
    ],
)
def test_input_folders_stay_unchanged(here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    before = read_files(here)
    assert run("walk_frames", "link.png", *(a.format(here=here) for a in arguments), *QUICK) == 2
    message = capsys.readouterr().err
    assert "an input of this run" in message and len(message.splitlines()) == 1
    assert read_files(here) == before and not Path("walk_frames/new").exists()


def test_frames_folder_beside_the_inputs_is_allowed(here: Path) -> None:
    before = read_files(here / "walk_frames")
    assert run("walk_frames", "link.png", "-o", "out.mkv", "--frames", "kept", *QUICK) == 0
    assert read_files(here / "walk_frames") == before
    assert sorted(os.listdir("kept")) == ["000001.png", "000002.png"] and len(clips.survey(Path("out.mkv")).times) == 2


def test_foreign_file_in_the_frames_folder_is_refused_before_the_run(
    here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("kept").mkdir()
    Image.new("RGB", (4, 4)).save("kept/000002.png")
    before = read_files(here)
    assert run("walk_frames", "link.png", "-o", "out.mkv", "--frames", "kept", *QUICK) == 2
    assert "000002.png was not written by styletransfer" in capsys.readouterr().err
    assert read_files(here) == before


def test_max_pixels_applies_to_clips(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("walk_frames", "link.png", "-o", "out.mkv", "--max-pixels", "3071", *QUICK) == 1
    assert "set max_pixels to 3072\n" in capsys.readouterr().err
    assert not Path("out.mkv").exists() and not Path("out_frames").exists()


def test_sound_that_the_format_does_not_support_is_converted(here: Path) -> None:
    with av.open("camera.avi", "w") as container:
        video, audio = container.add_stream("mjpeg", rate=10), container.add_stream("pcm_u8", rate=8000)
        video.width, video.height, video.pix_fmt, audio.layout = 64, 48, "yuvj420p", "mono"
        for number in range(2):
            image = np.full((48, 64, 3), 100 + 9 * number, np.uint8)
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode())
        wave = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.uint8), format="u8", layout="mono")
        wave.rate, wave.pts = 8000, 0
        container.mux([*audio.encode(wave), *audio.encode()])
    assert run("camera.avi", "link.png", "-o", "out.mp4", *QUICK) == 0
    with av.open("out.mp4") as container:
        stream = container.streams.audio[0]
        assert (stream.codec_context.name, stream.codec_context.sample_rate) == ("aac", 8000)
        assert float(stream.duration * stream.time_base) == pytest.approx(1, abs=0.15)  # the video ends at 0.2 s


@pytest.mark.parametrize("orientation", range(1, 9))
def test_frames_of_a_folder_are_stylized_upright(tmp_path: Path, style_path: Path, orientation: int) -> None:
    """Row 0 and column 0 are where EXIF says (CIPA DC-008, 4.6.4); without a style loss the output is the content."""
    y, x = np.mgrid[0:48, 0:64]
    scene = np.dstack([4 * x, 5 * y, np.where((x < 20) & (y < 12), 255, 40)]).astype(np.uint8)
    transposed = scene.transpose(1, 0, 2)
    stored = [scene, scene[:, ::-1], scene[::-1, ::-1], scene[::-1]]
    stored += [transposed, transposed[::-1], transposed[::-1, ::-1], transposed[:, ::-1]]
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "in").mkdir()
    Image.fromarray(np.ascontiguousarray(stored[orientation - 1])).save(tmp_path / "in/0.png", exif=exif)
    Image.fromarray(scene).save(tmp_path / "in/1.png")
    (tmp_path / "out").mkdir()
    clip = clips.survey(tmp_path / "in")
    options = Options(size=64, iterations=1, beta=0.0, weights=str(TINY), model="vgg19-lite")
    shot = render.Shot(
        str(clip.path), clip.digest, (str(style_path),), options, TemporalOptions(), str(tmp_path / "out"), 0, 2
    )
    for path in itertools.islice(render.render(shot), 2):
        assert np.abs(np.asarray(Image.open(path)).astype(int) - scene).max() <= 1

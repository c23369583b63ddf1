"""Sound of clips: copied, converted or left out; compared with what FFmpeg decodes from the source."""

import logging
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

av = pytest.importorskip("av")
pytest.importorskip("cv2")
from styletransfer.video import clips  # noqa: E402
from styletransfer.video.sound import MAX_GAP, Sound, Track, choose_tracks  # noqa: E402

RATE, FRAMES = 48_000, 8
VIDEO = {".webm": "libvpx", ".flv": "flv", ".ts": "mpeg2video", ".mpg": "mpeg2video", ".vob": "mpeg2video"}
#: Options without which an encoder does not start.
ENCODERS = {"vorbis": {"strict": "-2"}}


def make_clip(
    path: Path,
    *codecs: str,
    seconds: float = 1.0,
    start: float = 0.0,
    layout: str = "mono",
    gap: tuple[float, float] = (np.inf, 0.0),
    damage: Callable[[int], bool] = lambda number: False,
    rate: int = RATE,
) -> Path:
    """Write gray frames at 25 per second and a tone per codec; its timestamps jump by gap[1] at gap[0] seconds."""
    with av.open(str(path), "w", format={".ogv": "ogg"}.get(path.suffix)) as container:
        video = container.add_stream(VIDEO.get(path.suffix, "libvpx" if path.suffix == ".ogv" else "mpeg4"), rate=25)
        video.width, video.height, video.pix_fmt = 32, 32, "yuv420p"
        streams = [container.add_stream(codec, rate=rate, options=ENCODERS.get(codec, {})) for codec in codecs]
        for stream, language in zip(streams, ("eng", "fra", "deu"), strict=False):
            stream.layout, stream.bit_rate = layout, 96_000
            stream.metadata["language"] = language
        for number in range(FRAMES):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), 9 * number, np.uint8), format="rgb24")
            container.mux(video.encode(frame))
        container.mux(video.encode())
        tone = (8000 * np.sin(np.arange(round(rate * seconds)) / 20)).astype(np.int16)
        for stream in streams:
            frames: list[Any] = []
            for begin in range(0, len(tone), 1024):
                part = np.repeat(tone[begin : begin + 1024], stream.layout.nb_channels)[None]
                frame = av.AudioFrame.from_ndarray(part, format="s16", layout=layout)
                late = gap[1] if begin >= gap[0] * rate else 0
                frame.rate, frame.pts, frame.time_base = rate, begin + round((start + late) * rate), Fraction(1, rate)
                frames.append(frame)
            encoded = [packet for frame in [*frames, None] for packet in stream.encode(frame)]
            for number, packet in enumerate(encoded):
                container.mux(_damage_packet(packet) if damage(number) else packet)
    return path


def _damage_packet(packet: Any) -> Any:
    noise = av.Packet(np.random.default_rng(0).integers(0, 256, packet.size, np.uint8).tobytes())
    noise.pts, noise.dts, noise.time_base, noise.stream = packet.pts, packet.dts, packet.time_base, packet.stream
    noise.is_keyframe = True
    return noise


def copy_clip(source: Path, target: Path, tracks: Sequence[Track], end: Fraction | None = None) -> None:
    clip = clips.survey(source)
    images = ((time, Image.new("RGB", (32, 32))) for time in clip.times)
    clips.write_clip(target, images, clip.base, clip.rate, Sound(source, tracks, end) if tracks else None)


def choose_tracks_for(source: Path, target: Path) -> list[Track]:
    return choose_tracks(source, clips.WRITERS[target.suffix][0])


def read_packets(path: Path, track: int = 0) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(container.streams.audio[track]) if packet.size]


def read_samples(path: Path, track: int = 0) -> tuple[float, np.ndarray]:
    """Return the start of the sound after that of the video, in seconds, and channels × samples in −1 … 1."""
    with av.open(str(path)) as container:
        first = next(container.decode(video=0))
        begin = float(first.pts * first.time_base)
    with av.open(str(path)) as container:
        frames = list(container.decode(container.streams.audio[track]))
    start = float(frames[0].pts * frames[0].time_base) - begin
    values = [
        f.to_ndarray() if f.format.is_planar else f.to_ndarray().reshape(-1, f.layout.nb_channels).T for f in frames
    ]
    joined = np.concatenate(values, 1)
    if joined.dtype == np.uint8:
        return start, joined / 128 - 1
    return start, joined / (1 if joined.dtype.kind == "f" else 2.0 ** (8 * joined.itemsize - 1))


COPIED, AAC, PCM = "copied", "aac", "pcm"
#: Source, codec, and what it becomes in .mp4, .mov and .mkv.
SOURCES = [
    (".avi", "pcm_s16le", AAC, COPIED, COPIED),
    (".avi", "pcm_u8", AAC, COPIED, COPIED),
    (".avi", "pcm_mulaw", AAC, COPIED, PCM),
    (".avi", "pcm_alaw", AAC, COPIED, PCM),
    (".avi", "adpcm_ima_wav", AAC, PCM, PCM),
    (".avi", "wmav2", AAC, PCM, PCM),
    (".avi", "libmp3lame", COPIED, COPIED, COPIED),
    (".mkv", "pcm_s16be", AAC, COPIED, COPIED),
    (".mkv", "pcm_s24le", AAC, COPIED, COPIED),
    (".mkv", "pcm_f32le", AAC, COPIED, COPIED),
    (".mkv", "flac", COPIED, PCM, COPIED),
    (".mkv", "alac", COPIED, COPIED, COPIED),
    (".mkv", "vorbis", COPIED, PCM, COPIED),
    (".mov", "pcm_s24be", AAC, COPIED, COPIED),
    (".mov", "pcm_f32be", AAC, COPIED, PCM),
    (".mp4", "aac", COPIED, COPIED, COPIED),
    (".mp4", "ac3", COPIED, COPIED, COPIED),
    (".webm", "libopus", COPIED, PCM, COPIED),
    (".ogv", "vorbis", COPIED, PCM, COPIED),
    (".ogv", "flac", COPIED, PCM, COPIED),
    (".ts", "eac3", COPIED, COPIED, COPIED),
    (".ts", "aac", COPIED, COPIED, COPIED),
    (".mpg", "mp2", COPIED, COPIED, COPIED),
    (".vob", "pcm_dvd", AAC, PCM, PCM),
    (".flv", "nellymoser", AAC, COPIED, PCM),
]


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("source", SOURCES, ids=lambda source: "-".join(source[:2]))
def test_sound_is_copied_or_converted(tmp_path: Path, source: tuple[str, ...], ending: str) -> None:
    """Copied packets are the same bytes, PCM has the same samples, AAC the same length and nearly the same tone."""
    layout, rate = ("mono", RATE) if source[1] not in ("vorbis", "wmav2", "pcm_dvd") else ("stereo", RATE)
    rate = 22_050 if source[1] == "nellymoser" else rate
    path = make_clip(tmp_path / f"clip{source[0]}", source[1], layout=layout, rate=rate)
    target = tmp_path / f"made{ending}"
    tracks = choose_tracks_for(path, target)
    copy_clip(path, target, tracks)
    expected = source[2 + [".mp4", ".mov", ".mkv"].index(ending)]
    assert [(track.encoder or COPIED).partition("_")[0] for track in tracks] == [expected]
    start, values = read_samples(path)
    target_start, target_values = read_samples(target)
    if expected == COPIED and ending == ".mp4" and source[0] == ".ts":  # AAC without ADTS headers
        assert len(read_packets(target)) == len(read_packets(path))
    elif expected == COPIED:
        assert b"".join(read_packets(target)) in (b"".join(read_packets(path)), *_strip_adts(path))
    elif expected == PCM:
        np.testing.assert_array_equal(target_values, values)
    else:
        assert abs(target_values.shape[1] - values.shape[1]) <= 2048 and len(target_values) == len(values)
        assert _find_spectrum_peak(target_values) == _find_spectrum_peak(values)
        assert target_values.std() == pytest.approx(values.std(), rel=0.1)
    assert target_start == pytest.approx(start, abs=0.03)


def _strip_adts(path: Path) -> list[bytes]:
    return [b"".join(packet[7:] for packet in read_packets(path))]


def _find_spectrum_peak(values: np.ndarray) -> int:
    return int(np.abs(np.fft.rfft(values[0, 4096 : 4096 + 8192])).argmax())


@pytest.mark.parametrize("ending", [".mp4", ".mov", ".mkv"])
@pytest.mark.parametrize("codec", ["pcm_s16le", "aac", "pcm_u8"])
@pytest.mark.parametrize(("start", "seconds"), [(0, 3.0), (0, 0.3), (0.5, 1.0), (1.5, 1.0)])
def test_sound_keeps_its_start_and_duration(
    tmp_path: Path, ending: str, codec: str, start: float, seconds: float
) -> None:
    """Also if it is longer than the video, or starts later."""
    path = make_clip(tmp_path / "clip.mkv", codec, start=start, seconds=seconds)
    copy_clip(path, tmp_path / f"made{ending}", choose_tracks_for(path, tmp_path / f"made{ending}"))
    begin, values = read_samples(tmp_path / f"made{ending}")
    frame = 1024 / RATE + 0.01  # AAC's padding before and after
    assert begin == pytest.approx(start, abs=frame)
    assert begin + values.shape[1] / RATE == pytest.approx(start + seconds, abs=2 * frame)


@pytest.mark.parametrize("codec", ["pcm_s16le", "pcm_u8", "aac"])
def test_sound_of_an_interrupted_clip_ends_with_its_video(tmp_path: Path, codec: str) -> None:
    path = make_clip(tmp_path / "clip.mkv", codec, seconds=3)
    copy_clip(path, tmp_path / "made.mp4", choose_tracks_for(path, tmp_path / "made.mp4"), Fraction(2, 5))
    _, values = read_samples(tmp_path / "made.mp4")
    assert values.shape[1] / RATE == pytest.approx(0.4, abs=0.05)


def test_every_track_is_kept_with_its_language(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "clip.mkv", "aac", "pcm_u8", "libopus")
    tracks = choose_tracks_for(path, tmp_path / "made.mp4")
    assert [track.encoder for track in tracks] == [None, "aac", None]
    copy_clip(path, tmp_path / "made.mp4", tracks)
    with av.open(str(tmp_path / "made.mp4")) as container:
        assert [stream.language for stream in container.streams.audio] == ["eng", "fra", "deu"]
    assert read_packets(tmp_path / "made.mp4", 2) == read_packets(path, 2)


@pytest.mark.parametrize(("rate", "expected"), [(8000, 8000), (44_056, 44_100), (96_000, 96_000), (192_000, 96_000)])
@pytest.mark.parametrize("layout", ["mono", "stereo", "5.1"])
def test_conversion_keeps_rate_and_channels(tmp_path: Path, rate: int, expected: int, layout: str) -> None:
    """The rate is the nearest that AAC supports, preferably a higher one."""
    path = make_clip(tmp_path / "clip.avi", "pcm_u8", layout=layout, rate=rate)
    copy_clip(path, tmp_path / "made.mp4", choose_tracks_for(path, tmp_path / "made.mp4"))
    with av.open(str(tmp_path / "made.mp4")) as container:
        codec = container.streams.audio[0].codec_context
        assert (codec.name, codec.sample_rate, codec.layout.name) == ("aac", expected, layout)


@pytest.mark.parametrize("codec", ["aac", "libmp3lame", "flac", "ac3", "vorbis"])
def test_damaged_track_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture, codec: str) -> None:
    layout = "stereo" if codec == "vorbis" else "mono"
    path = make_clip(tmp_path / "clip.mkv", codec, layout=layout, damage=lambda number: True)
    assert choose_tracks_for(path, tmp_path / "made.mp4") == []
    assert "audio track 1" in caplog.text and "is left out: it is damaged" in caplog.text
    caplog.clear()
    path = make_clip(tmp_path / "part.mkv", codec, layout=layout, damage=lambda number: number == 5)
    assert len(choose_tracks_for(path, tmp_path / "made.mp4")) == 1
    assert "1 packet of" in caplog.text and "cannot be decoded" in caplog.text


def test_gap_becomes_silence_and_a_jump_is_rejected(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = make_clip(tmp_path / "clip.mkv", "pcm_u8", seconds=1, gap=(0.5, 0.5))
    copy_clip(path, tmp_path / "made.mp4", choose_tracks_for(path, tmp_path / "made.mp4"))
    _, values = read_samples(tmp_path / "made.mp4")
    assert values.shape[1] / RATE == pytest.approx(1.5, abs=0.05)
    middle = values[0, round(0.55 * RATE) : round(0.95 * RATE)]
    assert np.abs(middle).max() < 0.01 < np.abs(values[0, round(1.1 * RATE) :]).max()
    path = make_clip(tmp_path / "clip.mkv", "pcm_u8", seconds=1, gap=(0.5, 2.0 * MAX_GAP))
    assert choose_tracks_for(path, tmp_path / "made.mp4") == []
    assert "its timestamps jump" in caplog.text


def test_clip_is_written_without_sound_when_the_source_is_missing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The source is deleted before the frames are joined."""
    path = make_clip(tmp_path / "clip.mkv", "aac")
    clip, tracks = clips.survey(path), choose_tracks_for(path, tmp_path / "made.mp4")
    path.unlink()
    frames = {number: tmp_path / f"{number}.png" for number in range(3)}
    for frame in frames.values():
        Image.new("RGB", (32, 32)).save(frame)
    with caplog.at_level(logging.WARNING):
        clips.join_frames(clip, frames, tmp_path / "made.mp4", tracks, complete=False)
    assert "written without sound" in caplog.text
    silent = clips.survey(tmp_path / "made.mp4")
    assert len(silent.times) == 3 and not silent.sound


def test_track_without_a_decoder_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = make_clip(tmp_path / "clip.mkv", "pcm_s16le", "flac")
    data = path.read_bytes()
    assert data.count(b"A_PCM/INT/LIT") == 1
    path.write_bytes(data.replace(b"A_PCM/INT/LIT", b"A_UNKNOWN/SND"))
    assert [track.index for track in choose_tracks_for(path, tmp_path / "made.mkv")] == [2]
    assert "audio track 1 is left out: FFmpeg has no decoder for it" in caplog.text

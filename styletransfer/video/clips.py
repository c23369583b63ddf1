"""Clips: files with moving pictures, and folders of numbered pictures, as frames with their times; and writing them."""

import contextlib
import hashlib
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from ..errors import StyleTransferError, UsageError
from ..files import atomic_write, describe_missing, sha256_of
from ..pictures import Picture, list_pictures, read_picture
from .flow import is_cut

log = logging.getLogger(__name__)

#: Frames a second where nothing tells.
RATE = Fraction(25)
#: Longer side in pixels of the frames between which cuts are looked for.
SMALL = 160
#: By the ending: format, codec, pixels, and the codec's options. FFV1 loses nothing; ProRes is the one for editing.
WRITERS: dict[str, tuple[str, str, str, dict[str, str]]] = {
    ".mp4": ("mp4", "libx264", "yuv420p", {"crf": "16", "preset": "slow"}),
    ".mov": ("mov", "prores_ks", "yuv422p10le", {"profile": "hq"}),
    ".mkv": ("matroska", "ffv1", "bgr0", {}),
}
#: In pictures of fewer rows an untold matrix is BT.601's, in others BT.709's: so players take it.
_HIGH = 720
_BT709, _LIMITED, _UNTOLD = 1, 1, 2  # as ffmpeg numbers matrices and ranges
_HDR = (16, 18)  # and what light a value stands for: PQ and HLG
_TURNS = {90: Image.Transpose.ROTATE_90, 180: Image.Transpose.ROTATE_180, 270: Image.Transpose.ROTATE_270}


@dataclass(frozen=True)
class Clip:
    """A clip, as `survey` finds it.

    Attributes:
        path: a file, or a folder of pictures.
        size: width and height in pixels, upright.
        times: of each frame, in units of `base` seconds, rising.
        shots: (first, last + 1) of the frames between two cuts.
        digest: SHA-256 of the file, or of the folder's files together.
        sound: whether there is any.
    """

    path: Path
    size: tuple[int, int]
    times: Sequence[int]
    base: Fraction
    shots: Sequence[tuple[int, int]]
    digest: str
    sound: bool = False

    @property
    def rate(self) -> Fraction:
        """Frames a second, on average."""
        span = (self.times[-1] - self.times[0]) * self.base
        return (len(self.times) - 1) / span if span else RATE


def read_frames(path: Path, first: int, last: int) -> Iterator[tuple[int, Picture]]:
    """The frames of a clip from one to before another, with their numbers. Raises as `survey`."""
    for number, frame in itertools.islice(enumerate(_decode(path)), first, last):
        yield number, _to_picture(frame, path)


def survey(path: Path, rate: Fraction | None = None) -> Clip:
    """Looks through a clip: its frames' times, and its cuts.

    Args:
        rate: frames a second of a folder of pictures, or of a file instead of its own times.

    Raises:
        UsageError: no such file, or a folder without pictures.
        StyleTransferError: no clip, damaged, or without moving pictures.
    """
    times, cuts, size, before, base = list[int](), [0], (0, 0), None, Fraction(1)
    try:
        for number, frame in enumerate(_decode(path)):
            picture = _to_picture(frame, path)
            if number and picture.rgb.size != size:
                raise StyleTransferError(f"{path}: frame {number} is {picture.rgb.size}, the ones before are {size}")
            size = picture.rgb.size
            small = picture.rgb.copy()
            small.thumbnail((SMALL, SMALL), reducing_gap=2.0)
            now = np.asarray(small)
            if before is not None and is_cut(before, now):
                cuts.append(number)
            before = now
            if number == 0 and getattr(frame, "color_trc", None) in _HDR:
                log.warning("%s is HDR and is taken as it is: colours come out dull unless it is made SDR before", path)
            time = frame.pts if isinstance(frame, av.VideoFrame) and not rate else None
            if time is not None and frame.time_base:
                base = Fraction(frame.time_base)
            times.append(number if time is None else max(time, times[-1] + 1 if times else time))
            untimed = time is None
    except StyleTransferError as error:
        if not times:
            raise
        log.warning("%s; what comes after frame %d is left out", error, len(times))
    if not times:
        raise StyleTransferError(f"{path}: there are no moving pictures in it")
    if untimed:
        times, base = list(range(len(times))), 1 / (rate or RATE)
    shots = list(zip(cuts, [*cuts[1:], len(times)], strict=True))
    return Clip(path, size, times, base, shots, digest(path), sound=_has_sound(path))


def write_clip(
    path: Path,
    frames: Iterable[tuple[int, Image.Image]],
    base: Fraction,
    rate: Fraction,
    sound: Path | None = None,
) -> None:
    """Writes a clip by the ending of its name; its memory does not grow with its length.

    Args:
        frames: with their times in units of `base` seconds. Where colours are coarser than pixels, as in H.264, an odd
            last row or column is left out.
        rate: frames a second, on average.
        sound: a file whose sound is copied as it is, up to the last frame.

    Raises:
        UsageError: unknown ending.
        StyleTransferError: it can't be written.
    """
    kind, codec, pixels, options = WRITERS[check_ending(path)]
    with _errors(path), atomic_write(path) as file, contextlib.ExitStack() as stack:
        container = stack.enter_context(av.open(file, "w", format=kind, options={"fflags": "+bitexact"}))
        stream: Any = None
        packets: Iterator[Any] = iter(())
        for time, image in frames:
            if stream is None:
                even = 2 if pixels != "bgr0" else 1
                stream = container.add_stream(codec, rate=rate, options=options)
                stream.width, stream.height = (side // even * even for side in image.size)
                stream.pix_fmt, stream.codec_context.time_base, stream.time_base = pixels, base, base
                if pixels != "bgr0":
                    _tag(stream.codec_context)
                if sound:
                    packets = _copy_sound(container, sound, stack)
            frame = _to_frame(image.crop((0, 0, stream.width, stream.height)), pixels)
            frame.pts, frame.time_base = time, base
            container.mux(stream.encode(frame))
            for packet in packets:
                container.mux(packet)
                if packet.pts is not None and packet.pts * packet.time_base >= time * base:
                    break
        if stream is not None:
            container.mux(stream.encode())


def is_clip(path: Path) -> bool:
    """Whether a path is that of moving pictures, by its ending, or of a folder of pictures."""
    return path.is_dir() or path.suffix.lower() in (*WRITERS, ".avi", ".m4v", ".webm", ".mpg", ".mpeg", ".ts")


def check_ending(path: Path) -> str:
    """The ending of a clip's name. Raises `UsageError` if no clip can be written by it."""
    if (ending := path.suffix.lower()) not in WRITERS:
        raise UsageError(f"{path}: unknown format of a clip; the name must end in {', '.join(WRITERS)}")
    return ending


# --- frames --------------------------------------------------------------------------------------------------------


def _decode(path: Path) -> Iterator[Any]:
    """PyAV's frames of a file, or the paths of a folder's pictures."""
    if path.is_dir():
        yield from list_pictures(path)
        return
    if not path.is_file():
        raise UsageError(describe_missing(path))
    with _errors(path), av.open(str(path)) as container:
        streams = [stream for stream in container.streams.video if not _is_cover(stream)]
        if not streams:
            raise StyleTransferError(f"{path}: there are no moving pictures in it")
        streams[0].thread_type = "AUTO"
        yield from container.decode(streams[0])


def _is_cover(stream: Any) -> bool:
    return bool(stream.disposition & av.stream.Disposition.attached_pic)


def _to_picture(frame: Any, path: Path) -> Picture:
    if isinstance(frame, Path):
        return read_picture(frame)
    untold = frame.colorspace == _UNTOLD and frame.format.is_rgb is False
    matrix = "ITU709" if untold and frame.height >= _HIGH else None
    with _errors(path):
        image = Image.fromarray(frame.to_ndarray(format="rgb24", src_colorspace=matrix, interpolation="BICUBIC"))
    if turn := _TURNS.get(frame.rotation % 360):
        image = image.transpose(turn)
    return Picture(image, None, path.name)


def _to_frame(image: Image.Image, pixels: str) -> Any:
    frame = av.VideoFrame.from_ndarray(np.asarray(image.convert("RGB")), format="rgb24")
    if pixels == "bgr0":
        return frame.reformat(format=pixels)
    made = frame.reformat(format=pixels, dst_colorspace="ITU709", interpolation="BICUBIC")
    _tag(made)
    return made


def _tag(coded: Any) -> None:
    """Tells of a frame or a codec that its colours are BT.709's, without which players guess."""
    coded.colorspace, coded.color_range, coded.color_primaries, coded.color_trc = _BT709, _LIMITED, _BT709, _BT709


def digest(path: Path) -> str:
    """SHA-256 of a file, or of a folder's pictures together. Raises as `survey`."""
    hashes = "".join(map(sha256_of, list_pictures(path) if path.is_dir() else [path]))
    return hashlib.sha256(hashes.encode()).hexdigest()


# --- sound ---------------------------------------------------------------------------------------------------------


def _has_sound(path: Path) -> bool:
    if path.is_dir():
        return False
    with _errors(path), av.open(str(path)) as container:
        return bool(container.streams.audio)


def _copy_sound(container: Any, path: Path, stack: contextlib.ExitStack) -> Iterator[Any]:
    """The packets of a file's sound for a container; none, with a warning, if it can't hold them."""
    source = stack.enter_context(av.open(str(path)))
    given = source.streams.audio[0]
    try:
        copied = container.add_stream_from_template(given)
    except (ValueError, av.FFmpegError) as error:
        log.warning("%s: its sound can't be copied into this format and is left out: %s", path, error)
        return iter(())

    def packets() -> Iterator[Any]:
        for packet in source.demux(given):
            if packet.dts is not None:
                packet.stream = copied
                yield packet

    return packets()


@contextlib.contextmanager
def _errors(path: Path) -> Iterator[None]:
    """PyAV within: what it raises is an error of ours."""
    try:
        yield
    except (av.FFmpegError, ValueError, MemoryError) as error:
        if isinstance(error, StyleTransferError):
            raise
        reason = getattr(error, "strerror", None) or error
        raise StyleTransferError(f"{path}: can't be read or written as a clip: {reason}") from error

"""Reading the times and cuts of a clip's frames, and writing clips."""

import contextlib
import hashlib
import logging
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

from ..errors import StyleTransferError, UsageError
from ..files import atomic_write, sha256_of
from ..images import list_pictures, read_picture
from ..options import Options
from .containers import open_clip, readable_errors
from .flow import is_cut
from .frames import decode_frames, flatten
from .sound import Sound, Track

log = logging.getLogger(__name__)

#: Default frame rate, in frames per second.
RATE = Fraction(25)
#: Longer side in pixels of the frames that are searched for cuts.
SMALL = 160
#: By file extension: format, codec, pixel format and codec options. FFV1 is lossless; ProRes is made for editing.
WRITERS: dict[str, tuple[str, str, str, dict[str, str]]] = {
    ".mp4": ("mp4", "libx264", "yuv420p", {"crf": "16", "preset": "slow"}),
    ".mov": ("mov", "prores_ks", "yuv422p10le", {"profile": "hq"}),
    ".mkv": ("matroska", "ffv1", "bgr0", {}),
}
_BT709, _LIMITED = 1, 1  # FFmpeg's numbers
#: File extensions of clips that are never images.
_ENDINGS = (
    *(".mp4", ".m4v", ".mov", ".qt", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".m2v", ".vob", ".ts", ".mts", ".m2ts"),
    *(".wmv", ".asf", ".flv", ".f4v", ".ogv", ".3gp", ".3g2", ".mxf", ".nut", ".dv", ".y4m", ".ivf", ".apng"),
)
#: File extensions of images that may have several frames, which FFmpeg reads too.
_ANIMATED = (".gif", ".png")


@dataclass(frozen=True)
class Clip:
    """Properties of a clip, as `survey` finds them.

    Attributes:
        path: a file, or a folder of images.
        size: width and height in pixels, upright.
        times: of each frame, in units of `base` seconds, increasing.
        shots: (first, last + 1) of the frames between two cuts.
        digest: SHA-256 of the file, or of the folder's files together.
        sound: whether there is an audio track.
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
        """Frames per second, on average."""
        span = (self.times[-1] - self.times[0]) * self.base
        return (len(self.times) - 1) / span if span else RATE


def survey(path: Path, rate: Fraction | None = None, max_pixels: int = Options.max_pixels) -> Clip:
    """Return the frame times, cuts and other properties of a clip, which is decoded once.

    A file is read up to where it is damaged or its size changes, with a warning; for a folder that is an error.

    Args:
        rate: frames per second of a folder of images; for a file it replaces the file's own times.
        max_pixels: maximum per frame.

    Raises:
        UsageError: there is no such file, no image in the folder, or its images differ in size.
        StyleTransferError: not a clip, damaged, without video, or too large.
    """
    times, cuts, size, before, base, timed = list[int](), [0], (0, 0), None, Fraction(1), False
    try:
        for number, frame in enumerate(decode_frames(path, max_pixels)):
            image = flatten(frame.load()).rgb
            if number and image.size != size:
                raise UsageError(
                    "{}: frame {} is {}×{}, the ones before are {}×{} pixels".format(
                        frame.path, number + 1, *image.size, *size
                    )
                )
            size, small = image.size, image.copy()
            small.thumbnail((SMALL, SMALL), reducing_gap=2.0)
            now = np.asarray(small)
            if before is not None and is_cut(before, now):
                cuts.append(number)
            before = now
            if number == 0 and frame.is_hdr:
                log.warning("%s is HDR and is read as SDR: colors come out dull; convert it first", path)
            timed = frame.time is not None and not rate
            base = frame.base if timed and frame.base else base
            time = frame.time if timed and frame.time is not None else number
            times.append(max(time, times[-1] + 1) if times else time)
    except StyleTransferError as error:
        if not times or path.is_dir():
            raise
        log.warning("%s; only the first %d frames are used", error, len(times))
    if not times:
        raise StyleTransferError(f"{path}: contains no video")
    if not timed:
        times, base = list(range(len(times))), 1 / (rate or RATE)
    shots = list(zip(cuts, [*cuts[1:], len(times)], strict=True))
    return Clip(path, size, times, base, shots, digest(path), sound=_has_sound(path))


def write_clip(
    path: Path,
    frames: Iterable[tuple[int, Image.Image]],
    base: Fraction,
    rate: Fraction,
    sound: Sound | None = None,
) -> None:
    """Write a clip in the format of its file extension; memory does not grow with its length.

    Args:
        frames: with their times in units of `base` seconds. With chroma subsampling, as in H.264, an odd last row or
            column is left out.
        rate: frames per second, on average.
        sound: the audio tracks, as `choose_tracks` returned them for the format.

    Raises:
        UsageError: unknown file extension.
        StyleTransferError: the clip cannot be written.
    """
    kind, codec, pixels, options = WRITERS[check_ending(path)]
    with readable_errors(path, "write"), atomic_write(path) as file, contextlib.ExitStack() as stack:
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
                    packets = sound.write_to(container, stack)
            frame = _to_frame(image.crop((0, 0, stream.width, stream.height)), pixels)
            frame.pts, frame.time_base = time, base
            container.mux(stream.encode(frame))
            for packet in packets:
                container.mux(packet)
                if packet.pts is not None and packet.pts * packet.time_base >= time * base:
                    break
        if stream is not None:
            container.mux(stream.encode())
            for packet in packets:
                container.mux(packet)


def join_frames(
    clip: Clip, frames: Mapping[int, Path], target: Path, tracks: Sequence[Track], *, complete: bool
) -> None:
    """Write the clip of rendered frames, with sound up to the last one if they are not complete.

    Args:
        frames: files by their number in the clip, in order.
        tracks: of sound, as `choose_tracks` returned them; without them if they cannot be written.

    Raises `StyleTransferError` if a frame cannot be read, or the clip not be written.
    """

    def images() -> Iterator[tuple[int, Image.Image]]:
        return ((clip.times[number], read_picture(path, sys.maxsize).rgb) for number, path in frames.items())

    rate = clip.rate * len(frames) / len(clip.times)
    after = max(frames) + 1
    end = None if complete or after == len(clip.times) else clip.times[after] * clip.base
    try:
        write_clip(target, images(), clip.base, rate, Sound(clip.path, tracks, end) if tracks else None)
    except StyleTransferError as error:
        if not tracks:
            raise
        log.warning("%s; written without sound", error)
        write_clip(target, images(), clip.base, rate)


def is_clip(path: Path) -> bool:
    """Return whether a mask is a clip: by its file extension, a folder of images, or a GIF or PNG of several frames."""
    if path.suffix.lower() in _ANIMATED and path.is_file():
        with contextlib.suppress(Exception), Image.open(path) as image:  # a damaged file is reported where it is read
            return bool(getattr(image, "is_animated", False))
    return path.is_dir() or path.suffix.lower() in _ENDINGS


def check_ending(path: Path) -> str:
    """Return the file extension of a clip. Raises `UsageError` if its format cannot be written."""
    if (ending := path.suffix.lower()) not in WRITERS:
        raise UsageError(f"{path}: unknown clip format; the name must end in {', '.join(WRITERS)}")
    return ending


def _to_frame(image: Image.Image, pixels: str) -> Any:
    frame = av.VideoFrame.from_ndarray(np.asarray(image.convert("RGB")), format="rgb24")
    if pixels == "bgr0":
        return frame.reformat(format=pixels)
    converted = frame.reformat(format=pixels, dst_colorspace="ITU709", interpolation="BICUBIC")
    _tag(converted)
    return converted


def _tag(coded: Any) -> None:
    """Mark a frame or a codec as BT.709; without the mark, players guess."""
    coded.colorspace, coded.color_range, coded.color_primaries, coded.color_trc = _BT709, _LIMITED, _BT709, _BT709


def digest(path: Path) -> str:
    """Return the SHA-256 of a file, or of a folder's images together. Raises as `survey`."""
    hashes = "".join(map(sha256_of, list_pictures(path) if path.is_dir() else [path]))
    return hashlib.sha256(hashes.encode()).hexdigest()


def _has_sound(path: Path) -> bool:
    if path.is_dir():
        return False
    with open_clip(path) as container:
        return bool(container.streams.audio)

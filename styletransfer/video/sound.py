"""Sound of a clip: which audio tracks are copied, which are converted, and writing them.

Whether a track can be copied depends on container, codec and parameters. Only the muxer knows, so it is tried before
any frame is rendered: the whole track is written to a file that discards it, the same way as later to the output.
"""

import contextlib
import io
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av

from ..errors import plural
from .containers import AV_ERRORS, open_clip

log = logging.getLogger(__name__)

#: Bits per second and channel of AAC: no loss is audible.
AAC_RATE = 96_000
#: Longest gap in seconds in a converted track: broken files claim days, whose silence would fill the disk.
MAX_GAP = 60
#: Lossless codecs by sample format, planar or packed; 8 bits are written as 16.
_PCM = {"s32": "pcm_s32le", "flt": "pcm_f32le", "dbl": "pcm_f64le"}

#: Takes a packet of a source, or None at its end, and yields packets to write.
_Writer = Callable[[Any], Iterator[Any]]


@dataclass(frozen=True)
class Track:
    """An audio track of a clip and how it is written.

    Attributes:
        index: of the stream in the file.
        encoder: name of the codec to convert it to, or None to copy its packets.
        layout: channels to convert it to, or "" to keep them.
    """

    index: int
    encoder: str | None = None
    layout: str = ""


@dataclass(frozen=True)
class Sound:
    """The audio tracks of a file that go into a clip.

    Attributes:
        path: the file.
        end: seconds after which the sound of an interrupted clip ends; None for all of it.
    """

    path: Path
    tracks: Sequence[Track]
    end: Fraction | None = None

    def write_to(self, container: Any, stack: contextlib.ExitStack) -> Iterator[Any]:
        """Add the tracks to an output container and return its packets of sound, in the order of the source.

        Raises what PyAV raises, and `StyleTransferError` if the file cannot be read.
        """
        source = stack.enter_context(open_clip(self.path))
        streams = {track.index: source.streams[track.index] for track in self.tracks}
        writers = {track.index: _make_writer(container, streams[track.index], track) for track in self.tracks}
        if len(streams) > 1:  # players let you choose by language
            for stream, target in zip(streams.values(), container.streams.audio, strict=True):
                target.metadata["language"] = stream.metadata.get("language", "und")

        def packets() -> Iterator[Any]:
            for packet in _demux(source, list(streams.values())):
                if self.end is None or packet.pts is None or packet.pts * packet.time_base < self.end:
                    yield from writers[packet.stream.index](packet)
            for write in writers.values():
                yield from write(None)

        return packets()


def choose_tracks(path: Path, container: str) -> list[Track]:
    """Return how each audio track of a clip is written: copied, else converted, else left out with a warning.

    Converted tracks are AAC in MP4 and lossless PCM in other containers. Memory does not grow with the clip's length.

    Args:
        container: FFmpeg's name of the output format.
    """
    with open_clip(path) as source:
        streams = [(stream.index, stream.codec_context) for stream in source.streams.audio]
    tracks = []
    for number, (index, codec) in enumerate(streams, 1):
        name = f"{path}: audio track {number}" + (f" ({codec.name})" if codec else "")
        reason = _check_decoding(path, index, name)
        for track in [] if reason else _list_ways(index, codec, container):
            try:
                _try_writing(Sound(path, [track]), container)
            except AV_ERRORS as error:
                reason = str(getattr(error, "strerror", None) or error)
            else:
                tracks.append(track)
                if track.encoder:
                    log.info("%s is converted to %s", name, track.encoder)
                break
        else:
            log.warning("%s is left out: %s", name, reason)
    return tracks


def _list_ways(index: int, codec: Any, container: str) -> list[Track]:
    """Return the ways to write a track, the best first."""
    if container == "mp4":  # PCM would be copied, but few players and no browser can play it
        copied = [] if codec.name.startswith("pcm_") else [Track(index)]
        return [*copied, Track(index, "aac"), Track(index, "aac", "stereo")]
    return [Track(index), Track(index, _PCM.get(codec.format.packed.name, "pcm_s16le"))]


def _check_decoding(path: Path, index: int, name: str) -> str:
    """Return why a track cannot be decoded, "" if most of it can be; warn of damaged packets."""
    with open_clip(path) as source:
        stream = source.streams[index]
        if stream.codec_context is None:
            return "FFmpeg has no decoder for it"
        packets = damaged = samples = 0
        for packet in _demux(source, [stream]):
            frames = _decode(packet)
            packets, damaged = packets + 1, damaged + (frames is None)
            samples += sum(frame.samples for frame in frames or [])
    if not samples or 2 * damaged > packets:
        return "it is damaged" if packets else "it is empty"
    if damaged:
        log.warning("%s: %s of %d cannot be decoded", name, plural(damaged, "packet"), packets)
    return ""


def _demux(source: Any, streams: list[Any]) -> Iterator[Any]:
    """Yield the packets of streams, up to where the file is damaged or cut off."""
    with contextlib.suppress(*AV_ERRORS):
        for packet in source.demux(streams):
            if packet.size:
                yield packet


def _decode(packet: Any) -> list[Any] | None:
    """Return the frames of a packet, or None if it is damaged."""
    try:
        return list(packet.decode())
    except AV_ERRORS:
        return None


def _make_writer(container: Any, stream: Any, track: Track) -> _Writer:
    if track.encoder is None:
        return _copy(container, stream)
    return _convert(container, stream, track.encoder, track.layout)


def _copy(container: Any, stream: Any) -> _Writer:
    target = container.add_stream_from_template(stream)
    if (layout := _find_layout(stream)) != stream.codec_context.layout.name:
        target.layout = layout

    def write(packet: Any) -> Iterator[Any]:
        if packet is not None and packet.dts is not None:
            if not packet.duration:  # MP4 ends with the last packet's duration, which Matroska does not always have
                seconds = sum(Fraction(frame.samples, frame.sample_rate) for frame in _decode(packet) or [])
                packet.duration = round(seconds / packet.time_base)
            packet.stream = target
            yield packet

    return write


def _convert(container: Any, stream: Any, encoder: str, layout: str) -> _Writer:
    """Return a writer that decodes and encodes; gaps become silence, so that the sound stays in sync."""
    rate = stream.codec_context.sample_rate
    rates = av.Codec(encoder, "w").audio_rates or [rate]
    target = container.add_stream(encoder, rate=min(rates, key=lambda other: (other < rate, abs(other - rate))))
    target.layout = layout or _find_layout(stream)
    if encoder == "aac":
        target.bit_rate = AAC_RATE * target.codec_context.channels
    graph: Any = None
    end = None

    def resample(frame: Any) -> Iterator[Any]:
        nonlocal graph, end
        if frame is not None:
            if end is not None and frame.time is not None and abs(frame.time - end) > MAX_GAP:
                raise ValueError(f"its timestamps jump from {end:.0f} s to {frame.time:.0f} s")
            end = None if frame.time is None else frame.time + frame.samples / frame.sample_rate
            graph = graph or _make_graph(frame, target.codec_context)
        if graph:
            graph.push(frame)
            with contextlib.suppress(av.BlockingIOError, av.EOFError):
                while True:
                    yield graph.pull()

    def write(packet: Any) -> Iterator[Any]:
        frames = (_decode(packet) or []) if packet else [*stream.codec_context.decode(None), None]
        for frame in frames:
            for resampled in resample(frame):
                yield from target.encode(resampled)
        if packet is None:
            yield from target.encode(None)

    return write


def _find_layout(stream: Any) -> str:
    """Return FFmpeg's name of the channel layout; the usual one ("2c" is stereo) if the file only counts channels."""
    layout = stream.codec_context.layout
    return f"{layout.nb_channels}c" if layout.name.endswith(" channels") else str(layout.name)


def _make_graph(frame: Any, codec: Any) -> Any:
    """Return the filter graph between a decoder and an encoder."""
    graph = av.filter.Graph()
    source = {"sample_rate": frame.sample_rate, "sample_fmt": frame.format.name, "time_base": frame.time_base}
    target = {"sample_rates": codec.sample_rate, "sample_fmts": codec.format.name, "channel_layouts": codec.layout.name}
    nodes = [
        graph.add("abuffer", **{name: str(value) for name, value in source.items()}, channel_layout=frame.layout.name),
        graph.add("aresample", **{"async": "1"}),
        graph.add("aformat", **{name: str(value) for name, value in target.items()}),
        graph.add("abuffersink"),
    ]
    graph.link_nodes(*nodes).configure()
    return graph


def _try_writing(sound: Sound, container: str) -> None:
    with contextlib.ExitStack() as stack:
        target = stack.enter_context(av.open(_NullFile(), "w", format=container))
        for packet in sound.write_to(target, stack):
            target.mux(packet)


class _NullFile(io.RawIOBase):
    """A file that discards its data but has a size, so that muxers can seek back to fill in headers."""

    def __init__(self) -> None:
        self.position = self.size = 0

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.position += len(data)
        self.size = max(self.size, self.position)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        return self.position

    def tell(self) -> int:
        return self.position

"""The optimization as an animation: GIF, WebP or MP4."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import UsageError, install_hint
from ..files import write_atomically
from ..images import check_distinct, check_folder, fit_size, flatten_on_white, to_pil
from .run import Step

#: Longer side of a frame in pixels, at most.
LONGER = 640
#: Steps 1, 2, 3, … become frames, and later each whose number has grown by this factor since the last frame: an image
#: changes most at first. 500 iterations make 69 frames.
FEWER = 1.06
#: Duration of a frame, and of the last one, in milliseconds.
EACH, LAST = 80, 2000


class Animation:
    """The frames of a run as a moving image file.

    Raises:
        UsageError: unknown extension, no such folder, the name is taken, or PyAV is not installed, which MP4 needs.
    """

    def __init__(self, path: Path, taken: Sequence[Path] = ()) -> None:
        self.path, self._frames, self._steps, self._next = path, list[Image.Image](), 0, 1.0
        kind = path.suffix.lower()
        if kind not in _WRITERS:
            raise UsageError(f"{path}: the name of an animation must end in {', '.join(_WRITERS)}")
        check_folder(path)
        check_distinct(path, taken, "--animate")
        if kind == ".mp4":
            try:
                import av  # noqa: F401
            except ImportError as error:
                raise UsageError(f"{path}: MP4 needs PyAV: {install_hint('video')}; or use .webp") from error

    def add(self, step: Step) -> None:
        """Add the image of a step, if a frame is due."""
        self._steps += 1
        if self._steps >= self._next:
            self._next = max(self._steps + 1, self._steps * FEWER)
            self._frames.append(_shrink(to_pil(step.image)))

    def save(self, last: Image.Image) -> None:
        """Write the animation, ending with this image, mode RGB or RGBA; transparent parts are white in every frame.

        Raises `StyleTransferError` if the file cannot be written.
        """
        end = _shrink(flatten_on_white(last))
        frames = [frame if frame.size == end.size else frame.resize(end.size) for frame in self._frames]
        if last.mode == "RGBA":
            alpha, white = _shrink(last.getchannel("A")), Image.new("RGB", end.size, "white")
            frames = [Image.composite(frame, white, alpha) for frame in frames]
        write_atomically(self.path, _WRITERS[self.path.suffix.lower()]([*frames, end]))


def _shrink(image: Image.Image) -> Image.Image:
    return image.resize(fit_size(image.size, LONGER), Image.Resampling.LANCZOS)


def _make_pillow_writer(kind: str, **settings: Any) -> Any:
    def write(frames: list[Image.Image]) -> bytes:
        file, durations = io.BytesIO(), [EACH] * (len(frames) - 1) + [LAST]
        frames[0].save(file, kind, save_all=True, append_images=frames[1:], duration=durations, loop=0, **settings)
        return file.getvalue()

    return write


def _encode_mp4(frames: list[Image.Image]) -> bytes:
    import av

    file, (width, height) = io.BytesIO(), frames[0].size
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=1000 // EACH, options={"crf": "18"})
        # yuv420p needs even sides.
        stream.width, stream.height, stream.pix_fmt = width // 2 * 2, height // 2 * 2, "yuv420p"
        for frame in [*frames, *[frames[-1]] * (LAST // EACH)]:
            cropped = frame.crop((0, 0, stream.width, stream.height))
            container.mux(stream.encode(av.VideoFrame.from_image(cropped)))
        container.mux(stream.encode())
    return file.getvalue()


_WRITERS = {".gif": _make_pillow_writer("GIF"), ".webp": _make_pillow_writer("WEBP", quality=85), ".mp4": _encode_mp4}

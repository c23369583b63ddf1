"""Jobs of the page, and the queue in which one after the other is done."""

import importlib.util
import io
import logging
import mimetypes
import secrets
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from ..errors import StyleTransferError, UsageError, describe_error, install_hint
from ..images import read_picture, to_pil
from ..options import Options, TemporalOptions
from ..transfer import Step, keep_model, open_session

log = logging.getLogger(__name__)

#: Seconds between previews, and between those of the first seconds.
PREVIEW_INTERVAL, FIRST_INTERVAL, FIRST_SECONDS = 1.0, 0.3, 3.0
#: Quality of previews as JPEG: grain and seams must be visible.
QUALITY = 92


class Job:
    """An image or a clip to render for a tab. The worker runs it; the server's threads read its attributes.

    Args:
        kind: "preview", "variation", "full" or "clip".
        content, styles: files.
        target: where to write the output.
        is_wanted: when it returns false, the job ends as by `stop`.

    Attributes:
        id: a name that cannot be guessed.
        state: "waiting", "running", "done", "failed" or "canceled".
        version: increased whenever another attribute changes.
        progress: iteration, iterations, seconds, left (seconds, or None) and loss, as far as known.
        fraction: done, 0…1; None while unknown.
        previews: number of images for `preview` so far.
        size: width and height of the newest one; None before.
        input_sizes: width and height of content and styles.
        request: settings and inputs as the page sent and shows them.
        rate: seconds of an iteration, per unit of `Pace.cost`; 0 while unknown.
        is_complete: whether it ended by itself.
        error: what went wrong, for people.
    """

    def __init__(
        self,
        kind: str,
        content: Path,
        styles: Sequence[Path],
        options: Options,
        target: Path,
        is_wanted: Callable[[], bool] = lambda: True,
    ) -> None:
        self.kind, self.content, self.styles, self.options, self.target = kind, content, list(styles), options, target
        self.id, self.version, self.state, self.error = secrets.token_urlsafe(12), 0, "waiting", ""
        self.progress, self.rate = dict[str, Any](), 0.0
        self.input_sizes: list[tuple[int, int]] = []
        self.request = dict[str, Any]()
        self.fraction: float | None = None
        self.is_complete = False
        self.previews = 0
        self.size: tuple[int, int] | None = None
        self._stopping, self._is_wanted, self._started = threading.Event(), is_wanted, 0.0

    def stop(self) -> None:
        """End the job soon, with what is there; without anything if it has not started."""
        self._stopping.set()

    @property
    def is_over(self) -> bool:
        """Whether the job has ended."""
        return self.state not in ("waiting", "running")

    @property
    def is_wanted(self) -> bool:
        """Whether the job was not stopped, and its tab is open."""
        return not self._stopping.is_set() and self._is_wanted()

    @property
    def seconds_left(self) -> float | None:
        """The seconds until the job ends; None while unknown."""
        left = self.progress.get("left")
        return None if left is None else float(left)

    def run(self, stopped: Callable[[], object]) -> None:
        """Do the job, in the caller's thread. An error is kept in `error`.

        For speed, call it in the main thread: glibc keeps no large memory for other threads, where a draft takes a
        third longer.

        Args:
            stopped: called after each iteration; once it returns true, the job ends as by `stop`.
        """
        self._started = time.monotonic()

        def must_stop() -> bool:
            return bool(stopped()) or not self.is_wanted

        if must_stop():
            self._change(state="canceled")
            return
        self._change(state="running")
        try:
            self._change(state="done" if self._make(must_stop) else "canceled")
        except Exception as error:  # any error must be shown to the user
            if not isinstance(error, StyleTransferError):
                log.exception("%s", describe_error(error))
            self._change(state="failed", error=describe_error(error))

    def preview(self, longest: int | None = None) -> bytes | None:
        """Return what is there so far as JPEG, or None.

        Args:
            longest: the maximum of its longer side in pixels; None for its own.
        """
        image = self._image()
        if image is not None and longest is not None:
            image = image.copy()
            image.thumbnail((longest, longest))
        return None if image is None else to_jpeg(image)

    def _image(self) -> Image.Image | None:
        """Return what is there so far."""
        raise NotImplementedError

    def _make(self, must_stop: Callable[[], bool]) -> bool:
        """Make the output; return whether there is one. Raises `StyleTransferError`."""
        raise NotImplementedError

    def _report(self, previews: int | None = None, fraction: float | None = None, **progress: Any) -> None:
        """Update the progress that the page shows."""
        progress = {**self.progress, "seconds": time.monotonic() - self._started, **progress}
        self._change(previews=self.previews if previews is None else previews, fraction=fraction, progress=progress)

    def _change(self, **attributes: Any) -> None:
        for name, value in attributes.items():
            setattr(self, name, value)
        self.version += 1


class ImageJob(Job):
    """The optimization of an image."""

    _previous: "ImageJob | None" = None
    _newest: Image.Image | None = None
    _reached_last_scale = False

    def continue_from(self, previous: "ImageJob") -> None:
        """Start from the image of a job before this one, unless that ends before its last scale."""
        self._previous = previous

    def _image(self) -> Image.Image | None:
        image = self._newest
        if image is None and self.target.exists():
            image = read_picture(self.target).rgb
        return image

    @property
    def has_last_scale(self) -> bool:
        """Whether there is an image, made at the last scale."""
        return self._reached_last_scale and self.target.exists()

    def _make(self, must_stop: Callable[[], bool]) -> bool:
        options, due = self.options, 0.0
        if self._previous and self._previous.has_last_scale:
            # Coarse scales would start over.
            options = replace(options, init=str(self._previous.target), scales="1")
        self._previous = None  # and all that it holds
        with open_session(self.content, self.styles, options, model=keep_model(options)) as session:
            for step in session:
                now = time.monotonic()
                if now >= due and step.iteration:
                    self._reached_last_scale = step.scale == session.run.problem.scales[-1]
                    self.rate = session.pace.rate or self.rate
                    self._show(step, session.pace.seconds_left(step))
                    due = now + (FIRST_INTERVAL if now < self._started + FIRST_SECONDS else PREVIEW_INTERVAL)
                if must_stop():
                    session.run.stop()
            result = session.result()
        if not result.iterations:
            return False
        result.save(self.target)
        self._newest, self.size = None, result.image.size  # the file has it
        self.is_complete = result.stopped != "interrupted"
        self._report(previews=self.previews + 1, fraction=1.0, left=0.0, loss=result.best.total)
        return True

    def _show(self, step: Step, left: float | None) -> None:
        self._newest = to_pil(step.image.clamp(0, 1))
        self.size = self._newest.size
        spent = time.monotonic() - self._started
        self._report(
            previews=self.previews + 1,
            fraction=None if left is None else spent / (spent + left),
            iteration=step.iteration,
            iterations=step.max_iterations,
            loss=step.losses.total,
            left=left,
        )


class ClipJob(Job):
    """The rendering of a clip, frame by frame."""

    _frame: Image.Image | None = None

    def _image(self) -> Image.Image | None:
        return self._frame

    def _make(self, must_stop: Callable[[], bool]) -> bool:
        _need_video()
        from ..video.clips import WRITERS, join_frames, survey
        from ..video.render import Shot, check_options, render
        from ..video.sound import choose_tracks

        check_options(self.options)
        clip = survey(self.content, max_pixels=self.options.max_pixels)
        tracks = choose_tracks(self.content, WRITERS[self.target.suffix][0]) if clip.sound else []
        frames, total = dict[int, Path](), len(clip.times)
        with tempfile.TemporaryDirectory(dir=self.target.parent) as folder:
            inputs = str(self.content), clip.digest, tuple(map(str, self.styles))
            for span in clip.shots:
                shot = Shot(*inputs, self.options, TemporalOptions(), folder, *span)
                for number, path in zip(shot.numbers, render(shot, must_stop), strict=False):
                    frames[number] = path
                    self._show(path, len(frames), total)
                if must_stop():
                    break
            if frames:
                self.is_complete = len(frames) == total
                join_frames(clip, frames, self.target, tracks, complete=self.is_complete)
        self._report(fraction=1.0, left=0.0)
        return bool(frames)

    def _show(self, path: Path, done: int, total: int) -> None:
        self._frame = read_picture(path).rgb
        self.size = self._frame.size
        left = (time.monotonic() - self._started) / done * (total - done)
        self._report(previews=self.previews + 1, fraction=done / total, iteration=done, iterations=total, left=left)


def is_clip(path: Path) -> bool:
    """Return whether a file is a clip, by its name."""
    kind, _ = mimetypes.guess_type(path.name)
    return (kind or "").startswith("video/") or path.suffix.lower() in (".mkv", ".m4v", ".mts", ".m2ts")


def read_first_frame(path: Path) -> Image.Image:
    """Return the first frame of a clip. Raises `StyleTransferError` if it cannot be read."""
    _need_video()
    from ..video.frames import read_frames

    return next((picture.rgb for _, picture in read_frames(path, 0, 1)))


def _need_video() -> None:
    if not (importlib.util.find_spec("av") and importlib.util.find_spec("cv2")):
        raise UsageError(f"clips need PyAV and OpenCV: {install_hint('video')}")


def to_jpeg(image: Image.Image) -> bytes:
    """Return an image as a JPEG file."""
    file = io.BytesIO()
    image.convert("RGB").save(file, "JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()


class Queue:
    """The jobs that wait or run, in order: one after the other is done.

    Attributes:
        rate: `Job.rate` of the newest job that has one.
    """

    def __init__(self) -> None:
        self._jobs, self._changed = list[Job](), threading.Condition()
        self.rate = 0.0

    def __len__(self) -> int:
        return len(self._jobs)

    def add(self, job: Job) -> None:
        """Append a job."""
        with self._changed:
            self._jobs.append(job)
            self._changed.notify()

    def jobs_before(self, job: Job) -> list[Job]:
        """Return the jobs that are done before this one."""
        jobs = list(self._jobs)
        return [other for other in jobs[: jobs.index(job)] if other.is_wanted] if job in jobs else []

    def place(self, job: Job) -> int:
        """Return the number of jobs before a waiting one."""
        return len(self.jobs_before(job)) if job.state == "waiting" else 0

    def work(self, stopped: Callable[[], object]) -> None:
        """Do the jobs in the caller's thread until `stopped` returns true."""
        while not stopped():
            with self._changed:
                if not self._jobs:
                    self._changed.wait(0.1)
                    continue
                job = self._jobs[0]
            job.run(stopped)
            self.rate = job.rate or self.rate
            with self._changed:
                self._jobs.remove(job)
        for job in self._jobs:
            job.stop()

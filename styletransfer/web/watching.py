"""A run that streams previews to a browser, and ends when they are no longer requested."""

import logging
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..errors import StyleTransferError, describe_error
from ..files import atomic_write, sha256_of
from ..images import to_pil
from ..options import Options
from ..transfer import Result, Step, keep_model, open_session
from ..transfer.timing import Pace

log = logging.getLogger(__name__)

#: Seconds between two previews: server and browser took 2.3 processor seconds for 15 of them (docs/page.md).
EVERY = 1.0
#: Seconds without a request for a preview after which the run ends.
PATIENCE = 5.0


@dataclass(frozen=True)
class View:
    """A preview of a run, or its result.

    Attributes:
        image: the iterate; the output image in the last view.
        iteration, iterations: done, and at most, at this scale.
        loss: of `image`.
        seconds: since the start.
        seconds_left: of the whole run, at most; None while unknown.
        path: of the output image, in the last view.
    """

    image: Image.Image
    iteration: int
    iterations: int
    loss: float
    seconds: float
    seconds_left: float | None = None
    path: Path | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.image.size


class Watched:
    """A run that can be watched once: one thread runs it, another one takes the previews.

    Args:
        content, styles: files.
        target: where to write the output image.
    """

    def __init__(self, content: Path, styles: Sequence[Path], options: Options, target: Path) -> None:
        self.content, self.styles, self.options, self.target = content, list(styles), options, target
        self._stopping, self._news, self._started, self._ended = (threading.Event() for _ in range(4))
        self._newest: View | None = None
        self._result: Result | None = None
        self._error: Exception | None = None
        self._last_request = self._start = time.monotonic()

    def stop(self) -> None:
        """End the run soon, with the best image so far; without any if it has not started."""
        self._stopping.set()

    def views(self) -> Iterator[View | None]:
        """Yield new previews, and at last the output image, if there is one.

        Until the run starts, None is yielded now and then. When the iterator is closed, or not advanced for `PATIENCE`
        seconds, the run ends and its image is saved.

        Raises:
            UsageError, StyleTransferError: as `stylize`, or the image cannot be written.
        """
        try:
            while not self._ended.is_set():
                self._news.wait(EVERY)
                self._news.clear()
                self._last_request = time.monotonic()
                view, self._newest = self._newest, None
                if view is not None or not self._started.is_set():
                    yield view
        finally:
            self.stop()
            if self._started.is_set():
                self._ended.wait()
        if self._error:
            raise self._error
        if result := self._result:
            seconds, done, loss = time.monotonic() - self._start, result.iterations, result.best.total
            yield View(result.image, done, done, loss, seconds, path=self.target)

    def paint(self, stopped: Callable[[], object] = lambda: False) -> None:
        """Make the image and write it. Errors are not raised here, but by `views`.

        For speed, call it in the main thread: glibc keeps no large memory for other threads, where a draft takes a
        third longer.

        Args:
            stopped: called after each iteration; once it returns true, the run ends as by `stop`.
        """
        due, self._start = 0.0, time.monotonic()

        try:
            if self._is_over(self._start):
                return
            self._started.set()
            with open_session(self.content, self.styles, self.options, model=keep_model(self.options)) as session:
                for step in session:
                    now = time.monotonic()
                    if now >= due:
                        self._newest, due = self._make_view(step, session.pace), now + EVERY
                        self._news.set()
                    if stopped() or self._is_over(now):
                        session.run.stop()
                self._result = session.result()
            self._result.save(self.target)
        except Exception as error:  # `views` raises it
            self._error = error
            if not isinstance(error, StyleTransferError):
                log.exception("%s", describe_error(error))
        finally:
            self._ended.set()
            self._news.set()

    def _is_over(self, now: float) -> bool:
        """Return whether the run was stopped, or no previews are requested."""
        return self._stopping.is_set() or now - self._last_request > PATIENCE

    def _make_view(self, step: Step, pace: Pace) -> View:
        image, loss = to_pil(step.image.clamp(0, 1)), step.losses.total
        seconds = time.monotonic() - self._start
        return View(image, step.iteration, step.max_iterations, loss, seconds, pace.seconds_left(step))


def keep_input(path: Path, folder: Path) -> Path:
    """Return a copy of an input in the folder of the images, where `again` finds it; an existing copy is reused.

    Raises `StyleTransferError` if it cannot be read or written.
    """
    try:
        if path.resolve().parent == folder.resolve():
            return path
        digest = sha256_of(path)
        for place in _number_names(folder / path.name):
            if place.exists():
                if sha256_of(place) == digest:
                    return place
                continue
            with open(path, "rb") as source, atomic_write(place) as file:
                shutil.copyfileobj(source, file)
            return place
    except OSError as error:
        raise StyleTransferError(f"{path.name}: cannot read file: {error.strerror or error}") from error
    raise AssertionError("there is always another name")


def choose_target(folder: Path, content: Path, styles: Sequence[Path], taken: Sequence[Path] = ()) -> Path:
    """Return an unused path for an image, not one of `taken`: the command's name, with a number if needed."""
    name = f"{content.stem}_{styles[0].stem}.png"
    return next(place for place in _number_names(folder / name) if not place.exists() and place not in taken)


def _number_names(path: Path) -> Iterator[Path]:
    """Yield a path, and then the same with -2, -3, … at the end of its name."""
    yield path
    number = 2
    while True:
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1

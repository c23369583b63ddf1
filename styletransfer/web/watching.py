"""A run that somebody watches: it is looked at every now and then, and ends when nobody looks any more."""

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

#: Seconds between two views: server and browser took 2.3 processor seconds for 15 of them (docs/page.md).
EVERY = 1.0
#: Seconds without anybody asking for a view after which the run ends.
PATIENCE = 5.0


@dataclass(frozen=True)
class View:
    """What there is to see of a run.

    Attributes:
        image: the iterate; the finished picture in the last view.
        iteration, iterations: done, and at most, in this size.
        loss: of `image`.
        seconds: since the start.
        seconds_left: of the whole run, at most; None while that can't be told.
        path: where the finished picture is, in the last view.
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
    """A run that can be watched once: one thread paints, and another one looks.

    Args:
        content, styles: files.
        target: where the picture is to be.
    """

    def __init__(self, content: Path, styles: Sequence[Path], options: Options, target: Path) -> None:
        self.content, self.styles, self.options, self.target = content, list(styles), options, target
        self._stopping, self._news, self._begun, self._ended = (threading.Event() for _ in range(4))
        self._newest: View | None = None
        self._result: Result | None = None
        self._error: Exception | None = None
        self._asked = self._began = time.monotonic()

    def stop(self) -> None:
        """Ends the run soon, with the best picture so far; without any if it hasn't begun."""
        self._stopping.set()

    def views(self) -> Iterator[View | None]:
        """What there is to see, as long as there is something new; at last the finished picture, if there is any.

        None now and then until it begins. When the iterator is closed, or not asked for `PATIENCE` seconds, the run
        ends and its picture is kept all the same.

        Raises:
            UsageError, StyleTransferError: as `stylize`; or the picture can't be written.
        """
        try:
            while not self._ended.is_set():
                self._news.wait(EVERY)
                self._news.clear()
                self._asked = time.monotonic()
                view, self._newest = self._newest, None
                if view is not None or not self._begun.is_set():
                    yield view
        finally:
            self.stop()
            if self._begun.is_set():
                self._ended.wait()
        if self._error:
            raise self._error
        if result := self._result:
            seconds, done, loss = time.monotonic() - self._began, result.iterations, result.best.total
            yield View(result.image, done, done, loss, seconds, path=self.target)

    def paint(self, stopped: Callable[[], object] = lambda: False) -> None:
        """Makes the picture and writes it; what goes wrong is told to who looks.

        To be called in the main thread where it should be fast: glibc keeps no large memory for other ones, and a
        draft takes a third longer there.

        Args:
            stopped: asked after each iteration; when it tells true the run ends as by `stop`.
        """
        due, self._began = 0.0, time.monotonic()

        try:
            if self._is_over(self._began):
                return
            self._begun.set()
            with open_session(self.content, self.styles, self.options, model=keep_model(self.options)) as session:
                for step in session:
                    now = time.monotonic()
                    if now >= due:
                        self._newest, due = self._view(step, session.pace), now + EVERY
                        self._news.set()
                    if stopped() or self._is_over(now):
                        session.run.stop()
                self._result = session.result()
            self._result.save(self.target)
        except Exception as error:  # whoever watches is to be told
            self._error = error
            if not isinstance(error, StyleTransferError):
                log.exception("%s", describe_error(error))
        finally:
            self._ended.set()
            self._news.set()

    def _is_over(self, now: float) -> bool:
        """Whether it was stopped, or nobody looks any more."""
        return self._stopping.is_set() or now - self._asked > PATIENCE

    def _view(self, step: Step, pace: Pace) -> View:
        image, loss = to_pil(step.image.clamp(0, 1)), step.losses.total
        seconds = time.monotonic() - self._began
        return View(image, step.iteration, step.max_iterations, loss, seconds, pace.seconds_left(step))


def keep_input(path: Path, folder: Path) -> Path:
    """A copy of an input in the folder of the pictures, where `again` finds it; the one that is there already if any.

    Raises `StyleTransferError` when it can't be read or written.
    """
    try:
        if path.resolve().parent == folder.resolve():
            return path
        digest = sha256_of(path)
        for place in _names(folder / path.name):
            if place.exists():
                if sha256_of(place) == digest:
                    return place
                continue
            with open(path, "rb") as source, atomic_write(place) as file:
                shutil.copyfileobj(source, file)
            return place
    except OSError as error:
        raise StyleTransferError(f"{path.name}: can't be read: {error.strerror or error}") from error
    raise AssertionError("there is always another name")


def choose_target(folder: Path, content: Path, styles: Sequence[Path], taken: Sequence[Path] = ()) -> Path:
    """A name for a picture that none has yet or is going to have: the command's, with a number if need be."""
    name = f"{content.stem}_{styles[0].stem}.png"
    return next(place for place in _names(folder / name) if not place.exists() and place not in taken)


def _names(path: Path) -> Iterator[Path]:
    """A name, and then the same with 2, 3, … at its end."""
    yield path
    number = 2
    while True:
        yield path.with_name(f"{path.stem}-{number}{path.suffix}")
        number += 1

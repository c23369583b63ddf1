"""From inputs to a `Result`: a run under its options' time limit, with checkpoints, and `stylize`, which does all."""

import contextlib
import dataclasses
import logging
import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..images import Source, Styles, as_list
from ..options import Options
from ..runtime import distributed
from .checkpoint import CheckpointWriter, load_checkpoint
from .problem import prepared_problem
from .result import Result
from .run import Run, Step
from .timing import Deadline, Pace, log_duration

if TYPE_CHECKING:
    from .model import Model

log = logging.getLogger(__name__)


def stylize(
    content: Source,
    style: Styles,
    options: Options | None = None,
    *,
    checkpoint: str | os.PathLike[str] | None = None,
    resume: bool = False,
    **changes: Any,
) -> Result:
    """Render the content image in the style of another.

    Args:
        content: a path, a Pillow image, or an image tensor 1×3×H×W in [0, 1].
        style: likewise, or a folder of images, or several of these (`Options.style_weight`, `Options.mask`).
        options: the settings; the defaults if not given.
        checkpoint: a file that holds the state of the run until the result is saved; none if not given.
        resume: resume from the checkpoint if it exists. On a CPU the image is then the same, byte for byte, unless the
            optimizer's history was too large to be kept (`HISTORY_BYTES`).
        changes: single settings by name, as ``stylize(a, b, size=1024, beta=20)``.

    Raises:
        UsageError: a setting or an input is invalid, or differs from the checkpoint's.
        StyleTransferError: an input, the weights or the checkpoint can't be read, or memory doesn't suffice.
    """
    options = (options or Options()).with_changes(changes)
    with open_session(content, style, options, checkpoint, resume=resume) as session:
        return session.finish()


@contextlib.contextmanager
def open_session(
    content: Source,
    style: Styles,
    options: Options,
    checkpoint: str | os.PathLike[str] | None = None,
    *,
    resume: bool = False,
    model: "Model | None" = None,
) -> Iterator["Session"]:
    """Yield the session of a run that is started or resumed; arguments and errors as `stylize`.

    Args:
        model: a loaded one; that of the options is loaded if not given.
    """
    began = time.monotonic()
    options = model.complete(options) if model else options
    every = options.checkpoint_every
    with prepared_problem(content, style, options, model.weights if model else None) as problem:
        if checkpoint is None or (every == "off" and not resume):
            yield Session(Run(problem, began=began))
            return
        path = Path(checkpoint)
        state = _read_state(path) if resume else None
        if path.exists() and not resume:
            log.info("starting over, although there is a checkpoint; it is kept for now: resume continues from it")
        run = Run(problem, state, began=began)
        if state:
            log.info("resuming after %d iterations", sum(record.iterations for record in run.records))
        files = [_absolute_paths(source) for source in (content, *as_list(style))]
        settings = dataclasses.asdict(options.map_files(os.path.abspath))  # understood in any folder
        sources = {"content": files[0], "styles": files[1:], "options": settings}
        seconds = math.inf if every == "off" or distributed.rank() else float(every)
        writer = CheckpointWriter(path, seconds, sources, resumed=state is not None)
        del state  # large
        yield Session(run, writer)


class Session:
    """A run that ends in time and whose state is on disk. Iterate over it as over the run.

    Args:
        writer: of the checkpoints; None for none.
    """

    def __init__(self, run: Run, writer: CheckpointWriter | None = None) -> None:
        self.run, self.pace, self._writer = run, Pace(run), writer

    def __iter__(self) -> Iterator[Step]:
        """Yield the steps of the run. Raises as `Run`."""
        deadline, is_logged = Deadline(self.run, self.pace), False
        for step in self.run:
            self.pace.update(step)
            deadline.update(step)
            is_logged = is_logged or log_duration(self.run, self.pace, step)
            yield step
            if self.run.is_read and self.run.stopped not in ("interrupted", "diverged"):
                self._save_state()
        if self.run.stopped == "interrupted":
            self._save_state(last=True)

    def finish(self) -> Result:
        """Make all steps, and return the `result`."""
        for _ in self:
            pass
        return self.result()

    def _save_state(self, *, last: bool = False) -> None:
        if self._writer and self._writer.is_due(last=last):
            self._writer.write(self.run.state_dict())

    def result(self) -> Result:
        """Return the best image so far; saving it removes the checkpoint of a run that has ended. Raises as `Run`."""
        result = self.run.result()
        if not self._writer or (self._writer.spares and result.stopped == "interrupted"):  # it is another run's
            return result
        return dataclasses.replace(result, checkpoint=self._writer.path)


def _read_state(path: Path) -> dict[str, Any] | None:
    """Return the state to resume from, if there is one."""
    if not path.exists():
        log.info("there is no checkpoint %s: starting from the beginning", path)
        return None
    state = load_checkpoint(path).state
    if state["run"].pop("warm_start", "off") != "off":
        log.warning("%s: the run began with a warm start, which no longer exists: starting from the beginning", path)
        return None
    return state


def _absolute_paths(source: Source | Sequence[Source]) -> Any:
    """Return a path, or several, that are valid in any folder; None for what is no file."""
    if isinstance(source, str | os.PathLike):
        return os.path.abspath(source)
    return [_absolute_paths(one) for one in source] if isinstance(source, list | tuple) else None

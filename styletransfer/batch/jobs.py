"""One image of a batch: its job, whether it is finished, and how a worker makes it."""

import contextlib
import json
import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import images
from ..errors import StyleTransferError, describe_error, escape_unprintable
from ..images import read_settings
from ..options import Options, TemporalOptions
from ..transfer.checkpoint import DamagedError, DifferentError, checkpoint_path

#: A row of the report: the outcome of a job.
Row = dict[str, Any]
#: Values of `Result.stopped` that count as failures, with the errors to report.
_FAILED = {
    "diverged": "the loss was no longer finite; the image is the best before that",
    "memory": "not enough memory for the finer scales; the image is a smaller one, upsampled",
}


@dataclass(frozen=True)
class Job:
    """An image to make.

    Attributes:
        content, style, output: paths.
        options: the settings.
        where: the job's name in messages, such as the row of a manifest.
        shot: the other fields of `Shot`, if `content` is a clip; `output` is then the path of the first frame.
    """

    content: str
    style: tuple[str, ...]
    options: Options
    output: str
    where: str = ""
    shot: dict[str, Any] | None = None

    def row(self, status: str, **more: Any) -> Row:
        """Return the job's row of the report."""
        return {"output": self.output, "content": self.content, "style": list(self.style), "status": status, **more}

    def as_json(self) -> str:
        """Return the job as one line, which `from_json` reads."""
        # Not by asdict(), which copies deeply, and takes most of the time of a row of a large batch.
        return json.dumps({**vars(self), "options": vars(self.options)})

    @classmethod
    def from_json(cls, line: str) -> "Job":
        """Return the job of a line that `as_json` wrote."""
        data = json.loads(line)
        return cls(**{**data, "style": tuple(data["style"]), "options": Options.from_settings(data["options"])})


def is_finished(job: Job) -> bool:
    """Return whether the output is complete and has these settings and inputs, by name and content."""
    if job.shot or not os.path.isfile(job.output):  # of a clip `render` finds the finished frames
        return False
    try:
        metadata = Options.add_defaults(read_settings(Path(job.output)))
        digest = images.digest(job.content, job.style, job.options)
    except (StyleTransferError, OSError):
        return False
    result = metadata.get("result")
    if not isinstance(result, dict) or result.get("stopped") in ("interrupted", *_FAILED):
        return False
    expected = job.options.map_files(lambda name: Path(name).name).to_settings()
    style = [Path(s).name for s in job.style]
    expected |= {"content": Path(job.content).name, "style": style[0] if len(style) == 1 else style, "inputs": digest}
    del expected["device"]  # each worker has its own
    if job.options.model == "auto" and not job.options.weights:
        del expected["model"]
    return all(metadata.get(name) == value for name, value in json.loads(json.dumps(expected)).items())


def make_picture(job: Job, stop: Callable[[], object] = lambda: False) -> Row:
    """Make an image unless it is finished; return its row of the report.

    A stopped run is resumed. Nothing is raised: any error is in the row.
    """
    with _collected_warnings() as warnings:
        try:
            row = job.row("skipped") if is_finished(job) else _paint(job, stop)
        except Exception as error:  # one job must not end the others
            row = job.row("failed", error=describe_error(error))
    return {**row, "warnings": warnings} if warnings else row


def _paint(job: Job, stop: Callable[[], object]) -> Row:
    if job.shot:
        return _paint_shot(job, stop)
    from ..transfer import keep_model, open_session

    target, state = Path(job.output), checkpoint_path(Path(job.output))
    styles = job.style[0] if len(job.style) == 1 else list(job.style)

    def run(resume: bool) -> Any:
        model = keep_model(job.options)
        with open_session(job.content, styles, job.options, state, resume=resume, model=model) as session:
            for _ in session:
                if stop():
                    session.run.stop()
            return session.result()

    try:
        result = run(resume=state.exists())
    except (DamagedError, DifferentError):
        state.unlink()
        result = run(resume=False)
    if result.stopped == "interrupted":
        return job.row("stopped")
    result.save(target)
    outcome = {"seconds": round(result.seconds, 3), "iterations": result.iterations, "size": list(result.size)}
    outcome |= {"loss": asdict(result.best), "stopped": result.stopped}
    if result.stopped in _FAILED:
        return job.row("failed", error=_FAILED[result.stopped], **outcome)
    return job.row("done", **outcome)


def _paint_shot(job: Job, stop: Callable[[], object]) -> Row:
    from ..video.render import Shot, render

    values = {**(job.shot or {})}
    following = TemporalOptions(**values.pop("following"))
    shot = Shot(job.content, styles=job.style, options=job.options, following=following, **values)
    count = sum(1 for _ in render(shot, stop))
    return job.row("done" if count == len(shot.numbers) else "stopped", frames=count)


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(escape_unprintable(record.getMessage()))


@contextlib.contextmanager
def _collected_warnings() -> Iterator[list[str]]:
    """Yield a list that collects the package's warnings within the block."""
    log, handler = logging.getLogger("styletransfer"), _Collector()
    log.addHandler(handler)
    try:
        yield handler.lines
    finally:
        log.removeHandler(handler)

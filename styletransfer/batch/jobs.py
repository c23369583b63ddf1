"""One picture of a batch: what it is to be, whether it is finished, and how it is made, wherever that is."""

import contextlib
import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import images
from ..errors import StyleTransferError, describe_error, escape_unprintable
from ..images import read_settings
from ..options import Options, TemporalOptions
from ..transfer.checkpoint import DamagedError, DifferentError, checkpoint_path

#: A row of the report: what became of a job.
Row = dict[str, Any]
#: Why a run ended whose picture isn't what was asked for, and what is told of it.
_FAILED = {
    "diverged": "the loss was no longer finite; the picture is the best before that",
    "memory": "not enough memory for the finer scales; the picture is a smaller one enlarged",
}


@dataclass(frozen=True)
class Job:
    """A picture to make.

    Attributes:
        content, style, output: paths.
        options: the settings.
        where: what it is called in messages, as the row of a manifest.
        shot: of a clip, the content: what `Shot` tells besides. The output is then the first frame's.
    """

    content: str
    style: tuple[str, ...]
    options: Options
    output: str
    where: str = ""
    shot: dict[str, Any] | None = None

    def row(self, status: str, **more: Any) -> Row:
        """What the report tells of it."""
        return {"output": self.output, "content": self.content, "style": list(self.style), "status": status, **more}

    def as_json(self) -> str:
        """One line, which `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> "Job":
        """The job of one line."""
        told = json.loads(line)
        return cls(**{**told, "style": tuple(told["style"]), "options": Options.from_settings(told["options"])})


def is_finished(job: Job) -> bool:
    """Whether the output is there, whole and made with these settings of these files, by their names and contents."""
    if job.shot:  # frames that are finished are found in the making
        return False
    try:
        told = read_settings(Path(job.output))
        now = images.digest(job.content, job.style, job.options)
    except (StyleTransferError, OSError):
        return False
    result = told.get("result")
    if not isinstance(result, dict) or result.get("stopped") in ("interrupted", *_FAILED):
        return False
    wanted = job.options.map_files(lambda name: Path(name).name).to_settings()
    style = [Path(s).name for s in job.style]
    wanted |= {"content": Path(job.content).name, "style": style[0] if len(style) == 1 else style, "inputs": now}
    del wanted["device"]  # workers have their own
    if job.options.model == "auto" and not job.options.weights:
        del wanted["model"]
    return all(told.get(name) == value for name, value in json.loads(json.dumps(wanted)).items())


def make_picture(job: Job, stop: Callable[[], object] = lambda: False) -> Row:
    """Makes a picture unless it is finished, and tells what became of it: a row of the report.

    A run that was stopped before is gone on with. Nothing is raised: whatever goes wrong is told in the row.
    """
    with _collected_warnings() as said:
        try:
            row = job.row("skipped") if is_finished(job) else _paint(job, stop)
        except Exception as error:  # one job must not end the others
            row = job.row("failed", error=describe_error(error))
    return {**row, "warnings": said} if said else row


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
    made = {"seconds": round(result.seconds, 3), "iterations": result.iterations, "size": list(result.size)}
    made |= {"loss": asdict(result.best), "stopped": result.stopped}
    if result.stopped in _FAILED:
        return job.row("failed", error=_FAILED[result.stopped], **made)
    return job.row("done", **made)


def _paint_shot(job: Job, stop: Callable[[], object]) -> Row:
    from ..video.render import Shot, render

    told = {**(job.shot or {})}
    following = TemporalOptions(**told.pop("following"))
    shot = Shot(job.content, styles=job.style, options=job.options, following=following, **told)
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
    """Collects the package's warnings of a block."""
    log, handler = logging.getLogger("styletransfer"), _Collector()
    log.addHandler(handler)
    try:
        yield handler.lines
    finally:
        log.removeHandler(handler)

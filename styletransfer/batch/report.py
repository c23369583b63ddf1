"""All pictures of a batch: makes what isn't finished, and keeps a report of it."""

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import StyleTransferError
from ..files import write_atomically
from .jobs import Job, Row, is_finished

#: Makes pictures somewhere, and yields each job with its row as it ends.
Makers = Callable[[Sequence[Job]], Iterator[tuple[Job, Row]]]


def run_jobs(
    jobs: Sequence[Job], makers: Makers, report: Path, listener: Callable[[Job, Row], object], *, again: bool = False
) -> dict[str, Row]:
    """Makes what isn't finished; returns the rows by output, as they also stand in the report, a line each.

    Args:
        report: JSON Lines. A line is added as soon as a job has ended.
        listener: called with every job that has ended, is finished, or failed before.
        again: try also what failed before with the same settings and inputs.
    """
    before, rows = _read_report(report), dict[str, Row]()
    todo = []
    for job in jobs:
        old = before.get(job.output, {})
        if not again and old.get("status") == "failed" and _is_same(job, old):
            rows[job.output] = old
        elif is_finished(job):
            rows[job.output] = (old if _is_same(job, old) else {}) | job.row("skipped", job=_identity(job))
        else:
            todo.append(job)
            continue
        listener(job, rows[job.output])
    _append(report, "")  # can be written
    for job, row in makers(todo):
        rows[job.output] = {**row, "job": _identity(job), "time": round(time.time(), 1)}
        _append(report, json.dumps(rows[job.output]) + "\n")
        listener(job, row)
    lines = [json.dumps(row) for row in {**before, **rows}.values()]
    write_atomically(report, "".join(line + "\n" for line in lines).encode("utf-8", "surrogateescape"))
    return rows


def _append(report: Path, text: str) -> None:
    try:
        with open(report, "a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
    except OSError as error:
        raise StyleTransferError(f"{report}: can't be written: {error.strerror or error}") from error


def _identity(job: Job) -> str:
    """What must be the same for a job to be the same."""
    return hashlib.sha256(replace(job, where="").as_json().encode()).hexdigest()[:16]


def _is_same(job: Job, row: Mapping[str, Any]) -> bool:
    """Whether a row tells of this job, and its inputs haven't changed since."""
    if row.get("job") != _identity(job):
        return False
    try:
        return _newest(job) <= float(row.get("time", 0))
    except (OSError, TypeError, ValueError):
        return False


def _newest(job: Job) -> float:
    return max(os.path.getmtime(path) for path in (job.content, *job.style, *job.options.files))


def _read_report(report: Path) -> dict[str, Row]:
    """The rows of a report by output, the last of each; lines that were cut off are left out."""
    rows = {}
    with contextlib.suppress(OSError, UnicodeError):
        for line in report.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError):
                row = json.loads(line)
                rows[row["output"]] = row
    return rows

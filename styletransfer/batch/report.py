"""Run the jobs of a batch that are not finished, and keep a report."""

import contextlib
import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import StyleTransferError
from ..files import atomic_write
from .jobs import Job, Row, is_finished

#: Runs jobs somewhere, and yields each job with its row as it ends.
Makers = Callable[[Sequence[Job]], Iterator[tuple[Job, Row]]]


def run_jobs(jobs: Sequence[Job], makers: Makers, report: Path, *, again: bool = False) -> Iterator[tuple[Job, Row]]:
    """Run the jobs that are not finished; yield each job with its row when it ends, was finished, or failed before.

    Args:
        report: JSON Lines, one row each. A line is added as soon as a job has ended.
        again: retry jobs that failed before with the same settings and inputs.
    """
    before, rows = _read_report(report), dict[str, Row]()
    todo = []
    for job in jobs:
        old = before.get(job.output, {})
        if not again and old.get("status") == "failed" and _is_same(job, old):
            rows[job.output] = old
        elif is_finished(job):
            rows[job.output] = (old if _is_same(job, old) else {}) | job.row("skipped", job=_hash_job(job))
        else:
            todo.append(job)
            continue
        before.pop(job.output, None)
        yield job, rows[job.output]
    _append(report, "")  # fails now if it cannot be written
    for job, row in makers(todo):
        before.pop(job.output, None)
        rows[job.output] = {**row, "job": _hash_job(job), "time": round(time.time(), 1)}
        _append(report, json.dumps(rows[job.output]) + "\n")
        yield job, rows[job.output]
    with atomic_write(report) as file:  # line by line: a large report would not fit into memory twice
        for row in itertools.chain(before.values(), rows.values()):
            file.write(json.dumps(row).encode() + b"\n")


def _append(report: Path, text: str) -> None:
    try:
        with open(report, "a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(text)
    except OSError as error:
        raise StyleTransferError(f"{report}: cannot write file: {error.strerror or error}") from error


def _hash_job(job: Job) -> str:
    """Return a hash of the job without its name in messages."""
    return hashlib.sha256(replace(job, where="").as_json().encode()).hexdigest()[:16]


def _is_same(job: Job, row: Mapping[str, Any]) -> bool:
    """Return whether a row is of this job, and its inputs have not changed since."""
    if row.get("job") != _hash_job(job):
        return False
    try:
        return _find_newest_mtime(job) <= float(row.get("time", 0))
    except (OSError, TypeError, ValueError):
        return False


def _find_newest_mtime(job: Job) -> float:
    return max(os.path.getmtime(path) for path in (job.content, *job.style, *job.options.files))


def _read_report(report: Path) -> dict[str, Row]:
    """Return the last row of each output in a report; truncated lines are skipped."""
    rows = {}
    with contextlib.suppress(OSError), open(report, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            with contextlib.suppress(ValueError, TypeError, KeyError):
                row = json.loads(line)
                rows[row["output"]] = row
    return rows

"""The command `styletransfer` with workers that write placeholders: what remains is the overhead of a batch.

Args: a file for what was measured, then those of the command. Without any it is a worker.
"""

import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from styletransfer import images
from styletransfer.batch import workers
from styletransfer.batch.jobs import Job, Row, is_finished
from styletransfer.losses import Losses
from styletransfer.transfer.result import Result


def write_placeholder(job: Job, _stop: object = None) -> Row:
    """Write an image of 8×8 pixels that counts as finished; return the job's row, as `make_picture` does."""
    if is_finished(job):
        return job.row("skipped")
    losses = Losses(0.0, 0.0, 0.0)
    Result(
        tensor=torch.zeros(1, 3, 8, 8),
        losses=[losses],
        best=losses,
        best_iteration=0,
        scales=[(8, 8, 0)],
        options=job.options,
        model="vgg19",
        device="cpu",
        stopped="iterations",
        seconds=0.0,
        peak_memory_bytes=0,
        inputs=[Path(name).name for name in (job.content, *job.style)],
        digest=images.digest(job.content, job.style, job.options),
    ).save(job.output)
    return job.row("done", seconds=0.0)


def start_process(_number: int, _count: int) -> "subprocess.Popen[str]":
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, __file__], start_new_session=True, **pipes)  # type: ignore[call-overload,no-any-return]


def main() -> None:
    if len(sys.argv) == 1:
        workers.make_picture = write_placeholder  # type: ignore[assignment]
        workers.serve()
        return
    from styletransfer.cli.main import main as run

    workers._start_process = start_process
    start, before = time.perf_counter(), time.process_time()
    try:
        run(sys.argv[2:])
    finally:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        measured = {"seconds": time.perf_counter() - start, "own": time.process_time() - before, "memory": peak}
        Path(sys.argv[1]).write_text(json.dumps(measured))


if __name__ == "__main__":
    main()

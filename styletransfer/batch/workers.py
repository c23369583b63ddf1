"""Worker processes on this machine: each loads the network once and makes one image after the other.

A worker is `python -m styletransfer.batch`; it reads jobs from stdin and writes rows to stdout, a line each. It
exits when its parent process dies, so that no image is made twice.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from ..errors import describe_error
from ..runtime import hardware
from ..runtime.distributed import WORKERS
from .jobs import Job, Row, make_picture

#: Attempts at a job whose worker process dies each time.
TRIES = 3
_NUMBER = "STYLETRANSFER_WORKER"


def run_locally(jobs: Sequence[Job], count: int, stopped: Callable[[], object]) -> Iterator[tuple[Job, Row]]:
    """Run the jobs in worker processes; yield each job with its row as it ends.

    Args:
        count: of processes. Cores are divided among them, and GPUs in turn.
        stopped: called at least twice a second; once it returns true, the workers are terminated, and unfinished jobs
            are not yielded.
    """
    waiting, ended = queue.SimpleQueue[Job | None](), queue.SimpleQueue[tuple[Job, Row] | None]()
    for job in jobs:
        waiting.put(job)
    count = min(count, len(jobs))
    workers = [_Worker(number, count, waiting, ended) for number in range(count)]
    for worker in workers:
        waiting.put(None)
        worker.start()
    alive = len(workers)
    try:
        while alive:
            if stopped():
                for worker in workers:
                    worker.stop()
            try:
                item = ended.get(timeout=0.5)
            except queue.Empty:
                continue
            if item is None:
                alive -= 1
            elif item[1]["status"] != "stopped":
                yield item
    finally:
        for worker in workers:
            worker.stop()


class _Worker(threading.Thread):
    """A thread that keeps one process busy, and replaces it when it dies."""

    def __init__(
        self,
        number: int,
        count: int,
        waiting: "queue.SimpleQueue[Job | None]",
        ended: "queue.SimpleQueue[tuple[Job, Row] | None]",
    ) -> None:
        super().__init__(daemon=True)
        self.number, self.count, self.waiting, self.ended = number, count, waiting, ended
        self.process: subprocess.Popen[str] | None = None
        self.stopping = False

    def run(self) -> None:
        while not self.stopping and (job := self.waiting.get()) is not None:
            try:
                row = self._run_job(job)
            except Exception as error:  # `run_locally` would wait forever
                row = job.row("failed", error=describe_error(error))
            self.ended.put((job, row))
        if self.process and self.process.stdin:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
            self.process.wait()
        self.ended.put(None)

    def stop(self) -> None:
        """Terminate the process; its job can be resumed."""
        self.stopping = True
        if self.process and self.process.poll() is None:
            self.process.terminate()

    def _run_job(self, job: Job) -> Row:
        code = 0
        for _ in range(TRIES):
            if self.stopping:
                break
            if self.process is None or self.process.poll() is not None:
                self.process = _start_process(self.number, self.count)
            assert self.process.stdin and self.process.stdout
            line = ""
            with contextlib.suppress(OSError, ValueError):
                self.process.stdin.write(job.as_json() + "\n")
                self.process.stdin.flush()
                if line := self.process.stdout.readline():
                    row: Row = json.loads(line)
                    if row["status"] != "stopped" or self.stopping:
                        return row
            if line:  # stopped by somebody else, or not a valid answer
                self.process.kill()
            code = self.process.wait()
        if self.stopping:
            return job.row("stopped")
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return job.row("failed", error=f"the worker process died {TRIES} times ({how}); is there enough memory?")


def _start_process(number: int, count: int) -> "subprocess.Popen[str]":
    threads = max(1, min(int(os.environ.get("OMP_NUM_THREADS") or 1024), hardware.available_cpus() // count))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), _NUMBER: str(number), WORKERS: str(count)}
    command = [sys.executable, "-m", __package__]
    # A session of its own: the terminal's Ctrl-C reaches only the parent process, which ends its workers in order.
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def default_count() -> int:
    """Return how many processes are worthwhile: one per GPU; without GPUs, one per core (docs/explanation/batch.md)."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else hardware.available_cpus()


def place_on_gpu(job: Job, number: int) -> Job:
    """Return the job for one of several GPUs, if it may run on any."""
    import torch

    if job.options.device not in ("auto", "cuda") or not torch.cuda.is_available():
        return job
    return replace(job, options=replace(job.options, device=f"cuda:{number % torch.cuda.device_count()}"))


def serve() -> None:
    """Answer each job on stdin with a row on stdout, until stdin ends or on SIGTERM."""
    lines, stop = queue.SimpleQueue[str](), threading.Event()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # other output must not mix with the rows
    signal.signal(signal.SIGTERM, lambda *_: stop.set())

    def listen() -> None:
        for line in sys.stdin:
            busy.set()
            lines.put(line)
        if busy.is_set():  # the parent process is gone
            os._exit(1)
        lines.put("")

    busy = threading.Event()
    threading.Thread(target=listen, daemon=True).start()
    number = int(os.environ.get(_NUMBER, "0"))
    while not stop.is_set() and (line := lines.get()):
        row = make_picture(place_on_gpu(Job.from_json(line), number), stop.is_set)
        busy.clear()
        print(json.dumps(row), file=answers, flush=True)

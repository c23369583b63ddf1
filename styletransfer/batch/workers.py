"""Worker processes on this machine: each loads the network once and makes one picture after the other.

A worker is `python -m styletransfer.batch`; it reads jobs from stdin and writes rows to stdout, a line each. When the
process that started it dies it dies too, so that nobody else's picture is made twice.
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

#: A job that ends the process which makes it is given up after so many times.
TRIES = 3
_NUMBER = "STYLETRANSFER_WORKER"


def run_locally(jobs: Sequence[Job], count: int, stopped: Callable[[], object]) -> Iterator[tuple[Job, Row]]:
    """Makes the pictures in so many processes, and yields each job with its row as it ends.

    Args:
        count: of processes. Cores are divided among them, and GPUs in turn.
        stopped: asked at least twice a second; when it tells true the workers end where they are, and the jobs that
            were not ended aren't yielded.
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
                one = ended.get(timeout=0.5)
            except queue.Empty:
                continue
            if one is None:
                alive -= 1
            elif one[1]["status"] != "stopped":
                yield one
    finally:
        for worker in workers:
            worker.stop()


class _Worker(threading.Thread):
    """Keeps one process busy, and starts another one when it dies."""

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
                row = self._row(job)
            except Exception as error:  # whoever waits for the row would wait for ever
                row = job.row("failed", error=describe_error(error))
            self.ended.put((job, row))
        if self.process and self.process.stdin:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
            self.process.wait()
        self.ended.put(None)

    def stop(self) -> None:
        """Ends the process where it is; its job can be gone on with."""
        self.stopping = True
        if self.process and self.process.poll() is None:
            self.process.terminate()

    def _row(self, job: Job) -> Row:
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
            if line:  # somebody else stopped it, or this was no answer
                self.process.kill()
            code = self.process.wait()
        if self.stopping:
            return job.row("stopped")
        how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
        return job.row("failed", error=f"its process died {TRIES} times ({how}); is there enough memory?")


def _start_process(number: int, count: int) -> "subprocess.Popen[str]":
    threads = max(1, min(int(os.environ.get("OMP_NUM_THREADS") or 1024), hardware.available_cpus() // count))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), _NUMBER: str(number), WORKERS: str(count)}
    command = [sys.executable, "-m", __package__]
    # A group of its own: the terminal's Ctrl-C goes to the process that started it, which then ends it in order.
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


def default_count() -> int:
    """How many processes are worthwhile: one for each GPU; without any, one for each core (docs/batch.md)."""
    import torch

    return torch.cuda.device_count() if torch.cuda.is_available() else hardware.available_cpus()


def place_on_gpu(job: Job, number: int) -> Job:
    """The job on one of several GPUs, if it is to run on any."""
    import torch

    if job.options.device not in ("auto", "cuda") or not torch.cuda.is_available():
        return job
    return replace(job, options=replace(job.options, device=f"cuda:{number % torch.cuda.device_count()}"))


def serve() -> None:
    """What a worker does: a row for every job, until there is none any more."""
    lines, stop = queue.SimpleQueue[str](), threading.Event()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever else prints must not come between
    signal.signal(signal.SIGTERM, lambda *_: stop.set())

    def listen() -> None:
        for line in sys.stdin:
            busy.set()
            lines.put(line)
        if busy.is_set():  # nobody waits for the picture any more
            os._exit(1)
        lines.put("")

    busy = threading.Event()
    threading.Thread(target=listen, daemon=True).start()
    number = int(os.environ.get(_NUMBER, "0"))
    while not stop.is_set() and (line := lines.get()):
        row = make_picture(place_on_gpu(Job.from_json(line), number), stop.is_set)
        busy.clear()
        print(json.dumps(row), file=answers, flush=True)

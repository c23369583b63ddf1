"""Run jobs on an existing Dask cluster (extra `cluster`)."""

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..errors import StyleTransferError, UsageError, describe_error, install_hint
from ..files import write_atomically
from .jobs import Job, Row, make_picture
from .workers import place_on_gpu

#: Jobs submitted at a time for each worker. More would queue there, and be blamed as well when the worker dies.
AHEAD = 1
#: Seconds after which the workers are counted again; the scheduler sends a description of each.
COUNT_EVERY = 1
#: Seconds to wait for the scheduler.
PATIENCE = 15
_one_at_a_time = threading.Lock()


def run_on_cluster(
    jobs: Sequence[Job], address: str, stopped: Callable[[], object], *, send: bool = False
) -> Iterator[tuple[Job, Row]]:
    """Run the jobs on the workers of a scheduler; yield each job with its row as it ends.

    When a worker is lost, another one restarts its job. A job is given up after more such losses than the scheduler's
    `distributed.scheduler.allowed-failures`.

    Args:
        address: of the scheduler, as tcp://10.0.0.1:8786.
        stopped: called between jobs; once it returns true, no more jobs are submitted.
        send: send the inputs along and get the images back. Otherwise workers read and write the same paths, in a
            file system that they share.

    Raises:
        UsageError: Dask is not installed, or its TLS keys are not set.
        StyleTransferError: the scheduler cannot be reached, or is lost.
    """
    try:
        from distributed import as_completed
    except ImportError as error:
        raise UsageError(f"--scheduler needs Dask: {install_hint('cluster')}") from error
    waiting, submitted, unreadable = list(reversed(jobs)), dict[str, Job](), list[tuple[Job, Row]]()
    with _connected_client(address) as client:
        workers, counted = 1, -math.inf

        def submit_jobs() -> list[Any]:
            nonlocal workers, counted
            if time.monotonic() - counted > COUNT_EVERY:
                workers, counted = len(client.scheduler_info(n_workers=-1).get("workers", ())), time.monotonic()
            most = AHEAD * max(1, workers) - len(submitted)
            futures: list[Any] = []
            while waiting and len(futures) < most and not stopped():
                job = waiting.pop()
                try:
                    files = _read_files(job) if send else None
                except OSError as error:
                    message = f"{error.filename}: cannot read file: {error.strerror}"
                    unreadable.append((job, job.row("failed", error=message)))
                    continue
                future = client.submit(_make_remotely, job.as_json(), files, pure=False)
                submitted[str(future.key)] = job
                futures.append(future)
            return futures

        completed = as_completed(submit_jobs(), loop=client.loop)
        for future in completed:
            job = submitted.pop(str(future.key))
            row = _read_row(job, future)
            failed = row["status"] == "failed"
            # Checked last: the scheduler may die while the row is read, and the job fails before the client notices.
            gone = future.cancelled() or client.status != "running" or (failed and not _is_reachable(client))
            if not (gone and failed):
                yield job, row
            if gone:
                raise StyleTransferError(f"the Dask scheduler at {address} is gone; run the same command to continue")
            future.release()
            for more in submit_jobs():
                completed.add(more)
        yield from unreadable


@contextlib.contextmanager
def _connected_client(address: str) -> Iterator[Any]:
    """Yield a client of the scheduler, with the workers set up."""
    import dask
    from distributed import Client, Security

    if address.startswith("tls:") and not Security().get_connection_args("client").get("ssl_context"):
        names = ", ".join(f"DASK_DISTRIBUTED__COMM__TLS__{name}" for name in ("CA_FILE", "CLIENT__CERT", "CLIENT__KEY"))
        raise UsageError(f"{address} uses TLS: set {names} to the certificate and key files")
    dask.config.set({"distributed.admin.large-graph-warning-threshold": "1GB"})  # images are large
    try:
        client = Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise StyleTransferError(f"cannot connect to the Dask scheduler at {address}: {error}") from error
    for part in ("client", "batched"):  # `run_on_cluster` reports lost connections
        logging.getLogger(f"distributed.{part}").setLevel(logging.CRITICAL)
    with client:
        try:
            client.register_plugin(_make_plugin())
        except Exception as error:  # anything that fails on a worker
            raise StyleTransferError(f"cannot set up the workers of {address}: {describe_error(error)}") from error
        yield client


def _is_reachable(client: Any) -> bool:
    """Return whether the scheduler answers."""
    try:
        client.sync(client.scheduler.identity, callback_timeout=PATIENCE)
    except (OSError, TimeoutError):
        return False
    return True


def _read_row(job: Job, future: Any) -> Row:
    try:
        row, data = future.result()
        if data is not None:
            write_atomically(Path(job.output), data)
    except Exception as error:  # its workers died, or the image cannot be written
        return job.row("failed", error=describe_error(error))
    # A skipped image was made by a worker that was lost before it could report it.
    result: Row = row | job.row("done" if row["status"] == "skipped" else row["status"])
    return result


def _read_files(job: Job) -> dict[str, bytes]:
    return {path: Path(path).read_bytes() for path in (job.content, *job.style, *job.options.files)}


def _make_remotely(line: str, files: dict[str, bytes] | None) -> tuple[Row, bytes | None]:
    """Run a job on a worker; return its row, and the image file's bytes if inputs were sent."""
    job = Job.from_json(line)
    with _one_at_a_time:
        if files is None:
            return make_picture(place_on_gpu(job, _get_worker_number())), None
        with TemporaryDirectory() as folder:
            copies = {}
            for number, (path, data) in enumerate(files.items()):
                copy = Path(folder) / str(number) / Path(path).name
                copy.parent.mkdir()
                copy.write_bytes(data)
                copies[path] = str(copy)
            output = Path(folder) / Path(job.output).name
            options = job.options.map_files(lambda path: copies[path])
            local = Job(copies[job.content], tuple(copies[s] for s in job.style), options, str(output))
            row = make_picture(place_on_gpu(local, _get_worker_number()))
            return row, output.read_bytes() if output.exists() else None


def _get_worker_number() -> int:
    """Return this worker's number on its machine, from the name that `dask worker --nworkers` gives it."""
    from distributed import get_worker

    last = str(get_worker().name).rpartition("-")[2]
    return int(last) if last.isdecimal() else 0


def _make_plugin() -> Any:
    from distributed import WorkerPlugin

    class Ready(WorkerPlugin):  # type: ignore[misc,unused-ignore]
        """Plugin that imports the package before the first job, which takes seconds."""

        name = "styletransfer"

        def setup(self, worker: Any) -> None:
            from .. import transfer  # noqa: F401

    return Ready()

"""The same jobs on a Dask cluster, which somebody else has started (extra `cluster`)."""

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..errors import StyleTransferError, UsageError, describe_error
from ..files import write_atomically
from .jobs import Job, Row, make_picture
from .workers import place_on_gpu

#: Jobs that are handed out at once, for each worker. With more, those that wait at a worker that dies are blamed too.
AHEAD = 1
#: Seconds to wait for the scheduler.
PATIENCE = 15
_one_at_a_time = threading.Lock()


def run_on_cluster(
    jobs: Sequence[Job], address: str, stopped: Callable[[], object], *, send: bool = False
) -> Iterator[tuple[Job, Row]]:
    """Makes the pictures on the workers of a scheduler, and yields each job with its row as it ends.

    A job whose worker is lost is done anew by another one; it is given up after more such losses than the scheduler's
    `distributed.scheduler.allowed-failures`.

    Args:
        address: of the scheduler, as tcp://10.0.0.1:8786.
        stopped: asked now and then; when it tells true nothing more is handed out.
        send: send the inputs along and get the pictures back. Otherwise workers read and write the same paths, in a
            file system that they share.

    Raises:
        UsageError: Dask isn't installed, or it wasn't told its keys.
        StyleTransferError: there is no scheduler, or it is gone.
    """
    try:
        from distributed import as_completed
    except ImportError as error:
        raise UsageError("--scheduler needs Dask: pip install 'styletransfer[cluster]'") from error
    waiting, handed, unread = list(reversed(jobs)), dict[str, Job](), list[tuple[Job, Row]]()
    with _connection(address) as client:

        def hand_out() -> list[Any]:
            most = AHEAD * max(1, len(client.scheduler_info(n_workers=-1).get("workers", ()))) - len(handed)
            futures: list[Any] = []
            while waiting and len(futures) < most and not stopped():
                job = waiting.pop()
                try:
                    files = _read_files(job) if send else None
                except OSError as error:
                    unread.append((job, job.row("failed", error=f"{error.filename}: can't be read: {error.strerror}")))
                    continue
                future = client.submit(_make_remotely, job.as_json(), files, pure=False)
                handed[str(future.key)] = job
                futures.append(future)
            return futures

        ending = as_completed(hand_out(), loop=client.loop)
        for future in ending:
            job = handed.pop(str(future.key))
            row = _read_row(job, future)
            failed = row["status"] == "failed"
            # Asked last: it may go while the row is read, and a job may fail of that before the client knows.
            gone = future.cancelled() or client.status != "running" or (failed and not _answers(client))
            if not (gone and failed):
                yield job, row
            if gone:
                raise StyleTransferError(f"the Dask scheduler at {address} is gone; run the same command to continue")
            future.release()
            for more in hand_out():
                ending.add(more)
        yield from unread


@contextlib.contextmanager
def _connection(address: str) -> Iterator[Any]:
    """A client of the scheduler, whose workers are ready."""
    import dask
    from distributed import Client, Security

    if address.startswith("tls:") and not Security().get_connection_args("client").get("ssl_context"):
        names = ", ".join(f"DASK_DISTRIBUTED__COMM__TLS__{name}" for name in ("CA_FILE", "CLIENT__CERT", "CLIENT__KEY"))
        raise UsageError(f"{address} needs the names of its keys' files in {names}")
    dask.config.set({"distributed.admin.large-graph-warning-threshold": "1GB"})  # pictures are large
    try:
        client = Client(address, timeout=PATIENCE, set_as_default=False)
    except (OSError, ValueError, TimeoutError) as error:
        raise StyleTransferError(f"there is no Dask scheduler at {address}: {error}") from error
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # what matters we tell ourselves
    with client:
        try:
            client.register_plugin(_make_plugin())
        except Exception as error:  # whatever happens on a worker
            raise StyleTransferError(f"the workers of {address} can't be set up: {describe_error(error)}") from error
        yield client


def _answers(client: Any) -> bool:
    """Whether the scheduler is there."""
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
    except Exception as error:  # its workers died, or it can't be written
        return job.row("failed", error=describe_error(error))
    # One that is skipped was made by a worker that was lost before it could tell.
    made: Row = row | job.row("done" if row["status"] == "skipped" else row["status"])
    return made


def _read_files(job: Job) -> dict[str, bytes]:
    return {path: Path(path).read_bytes() for path in (job.content, *job.style, *job.options.files)}


def _make_remotely(line: str, files: dict[str, bytes] | None) -> tuple[Row, bytes | None]:
    """What a worker does: the row, and the picture's file if inputs were sent."""
    job = Job.from_json(line)
    with _one_at_a_time:
        if files is None:
            return make_picture(place_on_gpu(job, _worker_number())), None
        with TemporaryDirectory() as folder:
            here = {}
            for number, (path, data) in enumerate(files.items()):
                place = Path(folder) / str(number) / Path(path).name
                place.parent.mkdir()
                place.write_bytes(data)
                here[path] = str(place)
            output = Path(folder) / Path(job.output).name
            options = job.options.map_files(lambda path: here[path])
            sent = Job(here[job.content], tuple(here[s] for s in job.style), options, str(output))
            return make_picture(place_on_gpu(sent, _worker_number())), output.read_bytes() if output.exists() else None


def _worker_number() -> int:
    """Of this worker among those of the machine, by the name that `dask worker --nworkers` gives it."""
    from distributed import get_worker

    last = str(get_worker().name).rpartition("-")[2]
    return int(last) if last.isdecimal() else 0


def _make_plugin() -> Any:
    from distributed import WorkerPlugin

    class Ready(WorkerPlugin):  # type: ignore[misc,unused-ignore]
        """Imports before the first job what takes seconds."""

        name = "styletransfer"

        def setup(self, worker: Any) -> None:
            from .. import transfer  # noqa: F401

    return Ready()

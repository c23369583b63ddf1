"""The command that makes many pictures."""

import logging
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import UsageError, plural
from ..files import make_folder
from ..options import PICTURE_NAMES, Options
from .arguments import BETWEEN, Quiet, app, from_options
from .console import interruptible, print_error, show_notices

if TYPE_CHECKING:
    from ..batch.jobs import Job
    from ..batch.report import Makers


@app.command("batch")
@from_options
def batch_command(
    given: dict[str, Any],
    contents: Annotated[
        list[Path] | None, typer.Argument(metavar="CONTENT...", help="Photographs; files, folders and patterns.")
    ] = None,
    styles: Annotated[
        str, typer.Option("--styles", metavar="STYLE...", help="Paintings; files, folders and patterns.")
    ] = "",
    folder: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Where the pictures go.")] = Path(),
    pairs: Annotated[
        bool, typer.Option("--pairs", help="The first content with the first style, and so on; not all with all.")
    ] = False,
    manifest: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A .csv or .jsonl with content, style and options in each row.")
    ] = None,
    name: Annotated[str, typer.Option(help="Names of the pictures; may contain {number} and options.")] = PICTURE_NAMES,
    jobs: Annotated[
        int, typer.Option(min=0, help="Pictures made at once; 0: the fastest number for this machine.")
    ] = 0,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Dask scheduler to run on, such as tcp://10.0.0.1:8786.")
    ] = None,
    send_files: Annotated[
        bool, typer.Option("--send-files", help="For a cluster without a shared file system: send the files.")
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Retry pictures that failed before.")] = False,
    gallery: Annotated[
        bool, typer.Option("--gallery", help="Write FOLDER/gallery.html, a page with all pictures.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Paint many pictures: every CONTENT in every STYLE.

    styletransfer batch photos/ --styles paintings/ -o out

    What is finished is left alone, so that the same command goes on with a batch that was stopped. FOLDER/report.jsonl
    tells of every picture; stdout gets the path of each one that was made.
    """
    with interruptible() as interrupted:
        show_notices(quiet)
        planned = _plan_jobs(contents or [], styles, given, folder, pairs, manifest, name)
        interrupted()  # from now on a signal ends it in order
        makers = choose_makers(scheduler, send_files, jobs, interrupted)
        rows = _run(planned, makers, folder, retry_failed, quiet)
        if gallery:
            from ..batch.gallery import write_gallery

            write_gallery(planned, rows, folder / "gallery.html")
            logging.getLogger(__name__).info("the gallery is %s", folder / "gallery.html")
        failed, left = [row for row in rows.values() if row["status"] == "failed"], len(planned) - len(rows)
        if number := interrupted():
            raise typer.Exit(
                print_error(
                    f"interrupted; {plural(left, 'image')} left; run the same command to continue", 128 + number
                )
            )
    if failed:
        count = f"{len(failed)} of {plural(len(planned), 'image')}"
        raise typer.Exit(print_error(f"{count} failed: {folder / 'report.jsonl'}", 1))


def choose_makers(scheduler: str | None, send_files: bool, jobs: int, interrupted: "Callable[[], int]") -> "Makers":
    if scheduler:
        from ..batch.cluster import run_on_cluster

        return partial(run_on_cluster, address=scheduler, stopped=interrupted, send=send_files)
    from ..batch import workers

    return partial(workers.run_locally, count=jobs or workers.default_count(), stopped=interrupted)


def _plan_jobs(
    contents: list[Path],
    styles: str,
    given: dict[str, Any],
    folder: Path,
    pairs: bool,
    manifest: Path | None,
    name: str,
) -> "list[Job]":
    """Return the jobs. If some are invalid, each error is a line on stderr before `ManifestError` is raised."""
    from ..batch.manifest import ManifestError, combine, read_manifest

    options = Options(**given)
    if manifest and (contents or styles):
        raise UsageError("a manifest names contents and styles itself: give either --manifest or pictures")
    if not manifest and not (contents and styles):
        raise UsageError("name photographs and --styles, or a --manifest")
    make_folder(folder)
    try:
        if manifest:
            return read_manifest(manifest, given, folder, name)
        paintings = [Path(style) for style in styles.split(BETWEEN)]
        return combine(contents, paintings, options, folder, name, pairs=pairs)
    except ManifestError as error:
        for line in error.lines:
            print_error(line, 2)
        raise


def _run(planned: "Sequence[Job]", makers: "Makers", folder: Path, again: bool, quiet: bool) -> dict[str, Any]:
    from tqdm import tqdm

    from ..batch.report import run_jobs

    counts = {"done": 0, "skipped": 0, "failed": 0}
    with tqdm(total=len(planned), unit="picture", disable=quiet or None, dynamic_ncols=True) as bar:

        def listen(job: "Job", row: dict[str, Any]) -> None:
            counts[row["status"]] += 1
            if row["status"] == "failed":
                with bar.external_write_mode(sys.stderr):
                    print_error(f"{job.output}: {row['error']}", 1)
            elif row["status"] == "done":
                with bar.external_write_mode(sys.stdout):
                    print(job.output, flush=True)
            bar.set_postfix({name: count for name, count in counts.items() if count}, refresh=False)
            bar.update()

        rows = run_jobs(planned, makers, folder / "report.jsonl", listen, again=again)
    # A worker that is lost can't tell the seconds of what it made.
    seconds = [row["seconds"] for row in rows.values() if row["status"] == "done" and "seconds" in row]
    log = logging.getLogger(__name__)
    for name, count in counts.items():
        each = f", {sum(seconds) / len(seconds):.1f} s each" if name == "done" and seconds else ""
        log.info("%-7s %6d%s", name, count, each)
    return rows

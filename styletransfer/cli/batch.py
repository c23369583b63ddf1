"""The command `batch`, which renders many images."""

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
from .arguments import BETWEEN, MANY, Quiet, app, from_options
from .console import interruptible, print_error, show_notices

if TYPE_CHECKING:
    from ..batch.jobs import Job
    from ..batch.report import Makers


@app.command("batch", rich_help_panel=MANY)
@from_options
def batch_command(
    given: dict[str, Any],
    contents: Annotated[
        list[Path] | None, typer.Argument(metavar="CONTENT...", help="Content images: files, folders and patterns.")
    ] = None,
    styles: Annotated[
        str, typer.Option("--styles", metavar="STYLE...", help="Style images: files, folders and patterns.")
    ] = "",
    folder: Annotated[Path, typer.Option("--output", "-o", metavar="FOLDER", help="Output folder.")] = Path(),
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Pair the first content with the first style, and so on, not all with all.")
    ] = False,
    manifest: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Manifest, .csv or .jsonl: content, style, options per row.")
    ] = None,
    name: Annotated[str, typer.Option(help="Template of output names; may use {number} and options.")] = PICTURE_NAMES,
    jobs: Annotated[
        int, typer.Option(min=0, help="Images rendered in parallel; 0: the fastest number for this machine.")
    ] = 0,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="Dask scheduler to run on, such as tcp://10.0.0.1:8786.")
    ] = None,
    send_files: Annotated[
        bool, typer.Option("--send-files", help="Send files to the workers: there is no shared file system.")
    ] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Retry images that failed before.")] = False,
    gallery: Annotated[
        bool, typer.Option("--gallery", help="Write FOLDER/gallery.html, a page with all images.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Render every CONTENT in every STYLE.

    styletransfer batch photos/ --styles paintings/ -o out

    Finished images are skipped, so the same command resumes an interrupted batch. Prints the path of each new image;
    FOLDER/report.jsonl has a line for every image.
    """
    with interruptible() as interrupted:
        show_notices(quiet)
        job_list = _plan_jobs(contents or [], styles, given, folder, pairs, manifest, name)
        interrupted()  # from here on a signal stops the batch cleanly
        makers = choose_makers(scheduler, send_files, jobs, interrupted)
        rows = _run(job_list, makers, folder, retry_failed, quiet)
        if gallery:
            from ..batch.gallery import write_gallery

            write_gallery(job_list, rows, folder / "gallery.html")
            logging.getLogger(__name__).info("gallery: %s", folder / "gallery.html")
        failed_rows, remaining = [row for row in rows.values() if row["status"] == "failed"], len(job_list) - len(rows)
        if number := interrupted():
            raise typer.Exit(
                print_error(
                    f"interrupted; {plural(remaining, 'image')} left; run the same command to continue", 128 + number
                )
            )
    if failed_rows:
        count = f"{len(failed_rows)} of {plural(len(job_list), 'image')}"
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
        raise UsageError("--manifest already names contents and styles: omit CONTENT and --styles")
    if not manifest and not (contents and styles):
        raise UsageError("no inputs: name content images and --styles, or a --manifest")
    make_folder(folder)
    try:
        if manifest:
            return read_manifest(manifest, given, folder, name)
        style_paths = [Path(style) for style in styles.split(BETWEEN)]
        return combine(contents, style_paths, options, folder, name, pairs=pairs)
    except ManifestError as error:
        for line in error.lines:
            print_error(line, 2)
        raise


def _run(jobs: "Sequence[Job]", makers: "Makers", folder: Path, again: bool, quiet: bool) -> dict[str, Any]:
    from tqdm import tqdm

    from ..batch.report import run_jobs

    counts, rows = {"done": 0, "skipped": 0, "failed": 0}, dict[str, Any]()
    with tqdm(total=len(jobs), unit="image", disable=quiet or None, dynamic_ncols=True) as bar:
        for job, row in run_jobs(jobs, makers, folder / "report.jsonl", again=again):
            rows[job.output] = row
            counts[row["status"]] += 1
            if row["status"] == "failed":
                with bar.external_write_mode(sys.stderr):
                    print_error(f"{job.output}: {row['error']}", 1)
            elif row["status"] == "done":
                with bar.external_write_mode(sys.stdout):
                    print(job.output, flush=True)
            bar.set_postfix({name: count for name, count in counts.items() if count}, refresh=False)
            bar.update()
    # A lost worker reports no time for the images it finished.
    seconds = [row["seconds"] for row in rows.values() if row["status"] == "done" and "seconds" in row]
    log = logging.getLogger(__name__)
    for name, count in counts.items():
        each = f", {sum(seconds) / len(seconds):.1f} s each" if name == "done" and seconds else ""
        log.info("%-7s %6d%s", name, count, each)
    return rows

"""The command `video`, which renders clips."""

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import StyleTransferError, UsageError, install_hint
from ..files import make_folder
from ..options import PRESETS, Options, TemporalOptions
from .arguments import MANY, RUN, Quiet, StylePaths, app, files_among, from_options
from .batch import choose_makers
from .console import interruptible, print_error, show_notices

if TYPE_CHECKING:
    from ..video.render import Shot

MOTION = "Motion"


@app.command("video", rich_help_panel=MANY)
@from_options
def video_command(
    given: dict[str, Any],
    source: Annotated[Path, typer.Argument(metavar="CLIP", help="Video file, or a folder of numbered images.")],
    style: StylePaths,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Output video: .mp4, .mov (ProRes) or .mkv (FFV1).", show_default="CLIP_STYLE.mp4"
        ),
    ] = None,
    temporal_weight: Annotated[
        float, typer.Option(min=0, help="Temporal loss weight; reduces flicker.", rich_help_panel=MOTION)
    ] = TemporalOptions.weight,
    look_back: Annotated[
        str, typer.Option(metavar="N,...", help="Earlier frames to match; 1: previous.", rich_help_panel=MOTION)
    ] = ",".join(map(str, TemporalOptions.look_back)),
    every: Annotated[
        int, typer.Option(min=1, help="Render only every Nth frame, for a draft.", rich_help_panel=MOTION)
    ] = TemporalOptions.every,
    rate: Annotated[
        float | None,
        typer.Option("--rate", min=0.01, help="Frames per second of a folder of images.", rich_help_panel=MOTION),
    ] = None,
    frames: Annotated[
        Path | None,
        typer.Option(
            "--frames",
            metavar="FOLDER",
            help="Keep the frames in this folder, as PNG; by default they are beside the output until it is complete.",
            rich_help_panel=RUN,
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Shots (cut to cut) rendered at once.", rich_help_panel=RUN)] = 1,
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Dask scheduler to render the shots on.", rich_help_panel=RUN),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Render CLIP in the style of STYLE, without flicker.

    Each frame starts from the previous result, warped along the optical flow.
    After an interruption, run the same command to resume. The default network is vgg19-lite.
    """
    with interruptible() as interrupted:
        try:
            from ..video.clips import WRITERS, check_ending, join_frames, survey
            from ..video.render import Shot, check_options
            from ..video.sound import choose_tracks
        except ImportError as error:
            raise UsageError(f"video needs PyAV and OpenCV: {install_hint('video')}") from error
        from ..images import check_distinct, check_folder

        show_notices(quiet)
        logging.getLogger("styletransfer.transfer").setLevel(logging.WARNING)  # no notices for each frame
        options = Options(**{**PRESETS["fast"], **given})
        temporal = TemporalOptions(temporal_weight, _parse_numbers(look_back), every)
        check_options(options)
        target = output or Path(f"{source.stem}_{style[0].stem}.mp4")
        container = WRITERS[check_ending(target)][0]
        check_folder(target)
        check_distinct(target, files_among(source, list(style), options.files), "-o")
        folder = frames or target.with_name(f"{target.stem}_frames")
        _check_apart(target, folder, [source, *style, *map(Path, options.files)])
        clip = survey(source, Fraction(rate).limit_denominator(100_000) if rate else None, options.max_pixels)
        tracks = choose_tracks(source, container) if clip.sound else []
        inputs = str(source), clip.digest, tuple(map(str, style))
        shots = [Shot(*inputs, options, temporal, str(folder), *span) for span in clip.shots]
        for shot in shots:
            shot.check_folder()
        make_folder(folder)
        interrupted()  # from here on a signal stops the run cleanly
        if jobs > 1 or scheduler:
            progress = _render_on_workers(shots, choose_makers(scheduler, False, jobs, interrupted))
        else:
            progress = _render_here(shots, interrupted)
        total = _show_progress(progress, sum(len(shot.numbers) for shot in shots), quiet)
        paths = {number: shot.path(number) for shot in shots for number in shot.finished()}
        if paths:
            join_frames(clip, paths, target, tracks, complete=len(paths) == total)
            print(target)
        if number := interrupted():
            message = f"interrupted after {len(paths)} of {total} frames"
            message += f"; {target} has these" if paths else ""
            raise typer.Exit(print_error(f"{message}; run the same command to resume", 128 + number))
    if not frames:
        for path in paths.values():
            path.unlink()
        with contextlib.suppress(OSError):  # it may hold other files
            folder.rmdir()


def _check_apart(target: Path, folder: Path, inputs: Sequence[Path]) -> None:
    """Raise `UsageError` if the clip or its frames would be written among the inputs of the run."""

    def are_same(first: Path, second: Path) -> bool:
        return os.path.exists(first) and os.path.exists(second) and os.path.samefile(first, second)

    folders = [path for path in inputs if path.is_dir()]
    for place, option in ((target.parent, "-o"), (folder, "--frames"), (folder.parent, "--frames")):
        for path in folders:
            if are_same(place, path):
                raise UsageError(f"{place} is an input of this run; choose a place outside of it with {option}")
    for path in inputs:
        if are_same(folder, path.parent) or are_same(folder, Path(os.path.realpath(path)).parent):
            raise UsageError(f"{folder} contains an input of this run, {path}; choose another folder with --frames")


def _render_here(shots: "Sequence[Shot]", interrupted: Callable[[], int]) -> Iterator[int]:
    """Render the shots in turn; yield 1 for each finished frame."""
    from ..video.render import render

    for shot in shots:
        for _ in render(shot, interrupted):
            yield 1
        if interrupted():
            return


def _render_on_workers(shots: "Sequence[Shot]", makers: Any) -> Iterator[int]:
    """Render the shots in the workers of a batch; yield the number of frames of each finished shot."""
    from ..batch.jobs import Job

    def to_job(shot: "Shot") -> Job:
        rest = {"digest": shot.digest, "folder": shot.folder, "first": shot.first, "last": shot.last}
        first = str(shot.path(shot.first))
        return Job(shot.clip, shot.styles, shot.options, first, shot={**rest, "following": asdict(shot.following)})

    for job, row in makers([to_job(shot) for shot in shots]):
        if row["status"] == "failed":
            raise StyleTransferError(f"{job.output} and later frames: {row['error']}")
        yield row["frames"]


def _show_progress(progress: Iterator[int], total: int, quiet: bool) -> int:
    from tqdm import tqdm

    with tqdm(total=total, unit="frame", disable=quiet or None, dynamic_ncols=True) as bar:
        for count in progress:
            bar.update(count)
    return total


def _parse_numbers(text: str) -> tuple[int, ...]:
    parts = text.replace(",", " ").split()
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"--look-back is {text!r}; it must be numbers, as in 1,5")
    return tuple(map(int, parts))

"""The command that paints clips."""

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import StyleTransferError, UsageError
from ..files import make_folder
from ..options import PRESETS, Following, Options
from .arguments import RUN, Quiet, StylePaths, app, files_among, from_options
from .batch import choose_makers
from .console import complain, interruptible, show_notices

if TYPE_CHECKING:
    from ..video.clips import Clip
    from ..video.render import Shot

MOTION = "Motion"


@app.command("video")
@from_options
def video_command(
    given: dict[str, Any],
    source: Annotated[Path, typer.Argument(metavar="CLIP", help="A clip, or a folder of numbered pictures.")],
    style: StylePaths,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="The clip: .mp4, .mov (ProRes) or .mkv (FFV1).", show_default="CLIP_STYLE.mp4"
        ),
    ] = None,
    temporal_weight: Annotated[
        float, typer.Option(min=0, help="How near a frame stays to the ones before.", rich_help_panel=MOTION)
    ] = Following.weight,
    look_back: Annotated[
        str, typer.Option(metavar="N,...", help="Which earlier frames it stays near to.", rich_help_panel=MOTION)
    ] = ",".join(map(str, Following.look_back)),
    every: Annotated[
        int, typer.Option(min=1, help="Paint only every Nth frame, for a draft.", rich_help_panel=MOTION)
    ] = Following.every,
    rate: Annotated[
        float | None,
        typer.Option("--rate", min=0.01, help="Frames a second of a folder of pictures.", rich_help_panel=MOTION),
    ] = None,
    frames: Annotated[
        Path | None,
        typer.Option(
            "--frames",
            metavar="FOLDER",
            help="Keep the frames there, as numbered PNG; otherwise they are beside the output until it is done.",
            rich_help_panel=RUN,
        ),
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Shots, from cut to cut, painted at once.", rich_help_panel=RUN)] = 1,
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="ADDRESS", help="Dask scheduler to paint the shots on.", rich_help_panel=RUN),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Paint a clip: each frame begins from the last one's picture, moved along, so that nothing flickers.

    The same command goes on with one that was interrupted. The network is vgg19-lite unless told otherwise.
    """
    with interruptible() as interrupted:
        try:
            from ..video.clips import check_ending, survey
            from ..video.render import Shot, check_options
        except ImportError as error:
            raise UsageError("clips need PyAV and OpenCV: pip install 'styletransfer[video]'") from error
        from ..pictures import check_distinct, check_folder

        show_notices(quiet)
        logging.getLogger("styletransfer.painting").setLevel(logging.WARNING)  # not for each frame
        options = Options(**{**PRESETS["fast"], **given})
        following = Following(temporal_weight, _numbers(look_back), every)
        check_options(options)
        target = output or Path(f"{source.stem}_{style[0].stem}.mp4")
        check_ending(target)
        check_folder(target)
        check_distinct(target, files_among(source, list(style), options.files), "-o")
        folder = frames or target.with_name(f"{target.stem}_frames")
        clip = survey(source, Fraction(rate).limit_denominator(100_000) if rate else None)
        make_folder(folder)
        inputs = str(source), clip.digest, tuple(map(str, style))
        shots = [Shot(*inputs, options, following, str(folder), *span) for span in clip.shots]
        interrupted()  # from now on a signal ends it in order
        if jobs > 1 or scheduler:
            painted = _paint_elsewhere(shots, choose_makers(scheduler, False, jobs, interrupted))
        else:
            painted = _paint_here(shots, interrupted)
        total = _follow(painted, sum(len(shot.numbers) for shot in shots), quiet)
        done = {number: shot.path(number) for shot in shots for number in shot.finished()}
        if done:
            _join(clip, done, target)
            print(target)
        if number := interrupted():
            told = f"interrupted after {len(done)} of {total} frames"
            told += f"; {target} is what there is" if done else ""
            raise typer.Exit(complain(f"{told}; the same command goes on", 128 + number))
    if not frames:
        for path in done.values():
            path.unlink()
        with contextlib.suppress(OSError):  # somebody has put something else there
            folder.rmdir()


def _paint_here(shots: "Sequence[Shot]", interrupted: Callable[[], int]) -> Iterator[int]:
    """Paints the shots in turn; yields how many frames have come."""
    from ..video.render import render

    for shot in shots:
        for _ in render(shot, interrupted):
            yield 1
        if interrupted():
            return


def _paint_elsewhere(shots: "Sequence[Shot]", makers: Any) -> Iterator[int]:
    """Likewise, shot by shot, in the processes of a batch."""
    from ..batches.jobs import Job

    def to_job(shot: "Shot") -> Job:
        rest = {"digest": shot.digest, "folder": shot.folder, "first": shot.first, "last": shot.last}
        first = str(shot.path(shot.first))
        return Job(shot.clip, shot.styles, shot.options, first, shot={**rest, "following": asdict(shot.following)})

    for job, row in makers([to_job(shot) for shot in shots]):
        if row["status"] == "failed":
            raise StyleTransferError(f"{job.output} and what follows: {row['error']}")
        yield row["frames"]


def _follow(painted: Iterator[int], total: int, quiet: bool) -> int:
    from tqdm import tqdm

    with tqdm(total=total, unit="frame", disable=quiet or None, dynamic_ncols=True) as bar:
        for count in painted:
            bar.update(count)
    return total


def _join(clip: "Clip", frames: dict[int, Path], target: Path) -> None:
    from ..pictures import read_picture
    from ..video.clips import write_clip

    pictures = ((clip.times[number], read_picture(path).rgb) for number, path in frames.items())
    rate = clip.rate * len(frames) / len(clip.times)
    write_clip(target, pictures, clip.base, rate, clip.path if clip.sound else None)


def _numbers(text: str) -> tuple[int, ...]:
    parts = text.replace(",", " ").split()
    if not all(part.isdecimal() for part in parts):
        raise UsageError(f"--look-back is {text!r}; it can be as 1,5")
    return tuple(map(int, parts))

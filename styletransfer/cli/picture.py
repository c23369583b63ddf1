"""The commands for one image: stylize, resume, again and texture; and plan, which estimates its time and memory."""

import contextlib
import dataclasses
import json
import logging
import os
import re
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import StyleTransferError, UsageError
from ..options import Options
from .arguments import (
    DEFAULT_COMMAND,
    EXIT_CODES,
    ONE_IMAGE,
    Animate,
    AsJson,
    ContentPath,
    FileFormat,
    Output,
    Quiet,
    Resume,
    SaveEvery,
    StylePaths,
    app,
    files_among,
    from_options,
)
from .console import interruptible, print_error, save_somewhere, show_notices, with_progress_bar
from .pipes import STREAM, Format, check_stdout, read_stdin, write_stdout

if TYPE_CHECKING:  # torch takes seconds to import: `--help` must not
    from ..images import Source, Styles
    from ..transfer import Result, Step


@app.command(DEFAULT_COMMAND, epilog=EXIT_CODES, rich_help_panel=ONE_IMAGE)
@from_options
def stylize_command(
    given: dict[str, Any],
    content: Annotated[
        Path, typer.Argument(metavar="CONTENT", help="Content image, such as a photo; - for standard input.")
    ],
    style: StylePaths,
    output: Output = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    resume: Resume = False,
    save_every: SaveEvery = 0,
    animate: Animate = None,
    file_format: FileFormat = None,
) -> None:
    """Render CONTENT in the style of STYLE (the default command).

    Prints the path of the output image; progress and notices go to stderr. CONTENT may be - for standard input, and the
    output - for standard output.
    """
    options = Options(**given)
    name = "stdin" if content == STREAM else content.stem
    source = read_stdin(options.max_pixels) if content == STREAM else content
    target = output or Path(f"{name}_{style[0].stem}.png")
    run: dict[str, Any] = {"quiet": quiet, "as_json": as_json, "resume": resume, "save_every": save_every}
    _make(source, style, options, target, animate=animate, file_format=file_format, **run)


@app.command("resume", rich_help_panel=ONE_IMAGE)
def resume_command(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="Output image of the interrupted run.")],
    quiet: Quiet = False,
    as_json: AsJson = False,
    save_every: SaveEvery = 0,
    animate: Animate = None,
) -> None:
    """Resume an interrupted run from the checkpoint beside OUT.

    Saved iterates continue the numbering; an animation shows only the resumed part.
    """
    from ..transfer.checkpoint import checkpoint_path, load_checkpoint

    sources = load_checkpoint(checkpoint_path(output), header_only=True).sources
    if not all([sources["content"], *sources["styles"]]):
        raise UsageError(f"{output}: content or style is not a file; repeat the original command with --resume")
    options = Options.from_settings(sources["options"])
    run: dict[str, Any] = {"quiet": quiet, "as_json": as_json, "resume": True, "save_every": save_every}
    _make(sources["content"], sources["styles"], options, output, animate=animate, **run)


@app.command("again", rich_help_panel=ONE_IMAGE)
@from_options
def again_command(
    given: dict[str, Any],
    picture: Annotated[Path, typer.Argument(metavar="IMAGE", help="Image made by styletransfer.")],
    content: Annotated[Path | None, typer.Option("--content", help="Content image, if it has moved.")] = None,
    style: Annotated[
        list[Path] | None, typer.Option("--style", help="Style image, if it has moved; repeatable.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Output image.", show_default="IMAGE_again, with the same extension"),
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    resume: Resume = False,
    save_every: SaveEvery = 0,
    animate: Animate = None,
) -> None:
    """Repeat the run that made IMAGE, with changes.

    The settings are embedded in it. Looks for the content and style images beside it and in the current folder.
    Without changes the result is the same file on the same machine.
    """
    from ..images import again

    target = output or Path(f"{picture.stem}_again{picture.suffix}")
    run: dict[str, Any] = {"quiet": quiet, "as_json": as_json, "resume": resume, "save_every": save_every}
    _make(*again(picture, content=content, style=style, **given), target, animate=animate, **run)


def _make(
    content: "Source",
    style: "Styles",
    options: Options,
    target: Path,
    *,
    quiet: bool,
    as_json: bool,
    resume: bool,
    save_every: int = 0,
    animate: Path | None = None,
    file_format: Format | None = None,
) -> None:
    to_stdout, checked = target == STREAM, target
    if to_stdout:
        check_stdout(as_json=as_json, resume=resume, save_every=save_every)
        checked = Path(tempfile.gettempdir()) / f"stdout.{file_format or 'png'}"
        target = Path("stdout")  # in messages, and where the image is saved if it cannot be written there
    elif file_format:
        raise UsageError("--format goes with -o -; another output has the format of its extension")
    with contextlib.ExitStack() as stack:
        interrupted = stack.enter_context(interruptible())  # the imports take seconds
        from ..images import check_fits, check_output
        from ..runtime import distributed
        from ..transfer import checkpoint_path, open_session
        from ..transfer.animation import Animation

        stack.enter_context(distributed.process_group())
        first = distributed.rank() == 0
        show_notices(quiet or not first)
        inputs = files_among(content, style, options.files)
        check_output(checked, options.bit_depth, inputs)
        check_fits(checked, content, options)
        animation = Animation(animate, (target, *inputs)) if animate and first else None
        saver = _IterateSaver(target, content, options, save_every, inputs, resume) if save_every and first else None
        checkpoint = None if to_stdout else checkpoint_path(target)
        with open_session(content, style, options, checkpoint, resume=resume) as session:
            for step in with_progress_bar(session, quiet=quiet or not first):
                if saver:
                    saver.add(step)
                if animation:
                    animation.add(step)
                if interrupted():
                    session.run.stop()
            result = session.result()
        if not first:
            return
        write = partial(write_stdout, result, checked.suffix, target) if to_stdout else result.save
        saved = save_somewhere(write, target)
        if animation:
            animation.save(result.image)
        if not to_stdout:
            print(json.dumps(_summarize(result, saved)) if as_json else saved)
        from_file = isinstance(content, str | Path)  # not for a texture
        how_to_resume = f"styletransfer resume {target}" if from_file else "the same command with --resume"
        code = _explain_end(result, saved, interrupted(), how_to_resume) or int(saved != target)
    if code:
        raise typer.Exit(code)


class _IterateSaver:
    """Saves every Nth iterate beside the output, numbered from 1 across all scales.

    With `resume` the numbering continues after existing files. Raises `UsageError` if an input has such a name.
    """

    def __init__(
        self, target: Path, content: "Source", options: Options, every: int, inputs: Sequence[Path], resume: bool
    ) -> None:
        from ..images import read_picture

        numbered = re.compile(rf"{re.escape(target.stem)}_(\d{{5,}}){re.escape(target.suffix)}")
        for path in inputs:
            if numbered.fullmatch(path.name) and path.absolute().parent == target.absolute().parent:
                raise UsageError(f"{path} is an input that --save-every could overwrite; choose another output with -o")
        matches = [numbered.fullmatch(name) for name in os.listdir(target.parent)] if resume else []
        self._count, self._due = max((int(match[1]) for match in matches if match), default=0), 0
        self._target, self._options, self._every = target, options, every
        self._content = read_picture(content, options.max_pixels)

    def add(self, step: "Step") -> None:
        """Save the iterate of a step if it is due; after a failure, none any more."""
        from ..images import write_picture

        self._due = 0 if step.iteration == 0 else self._due
        if not self._every or step.iteration < self._due:
            return
        self._count, self._due = self._count + 1, step.iteration + self._every
        path = self._target.with_name(f"{self._target.stem}_{self._count:05}{self._target.suffix}")
        alpha = self._content.resize(step.scale.content).alpha if self._content.alpha else None
        try:
            write_picture(step.image, path, alpha=alpha, bit_depth=self._options.bit_depth, settings={})
        except StyleTransferError as error:
            logging.getLogger(__name__).warning("%s; no more iterates are saved", error)
            self._every = 0


@app.command("plan", rich_help_panel=ONE_IMAGE)
@from_options
def plan_command(given: dict[str, Any], content: ContentPath, style: StylePaths) -> None:
    """Estimate time, memory and tiling of a run without running it.

    Takes the same options as the run. Times a few iterations on a part of the image.
    """
    from ..transfer import estimate

    show_notices(quiet=False)
    total = 0.0
    for index, scale in enumerate(estimate(content, style, Options(**given))):
        if not index:
            print(f"{'pixels':>13}{'memory':>10}{'iteration':>12}{'iterations':>13}{'time':>10}  plan")
        size, seconds = "{}×{}".format(*scale.size), scale.seconds * scale.iterations
        total += seconds
        print(
            f"{size:>13}{scale.plan.memory / 2**30:>6.1f} GiB{scale.seconds:>10.2f} s{'≤ ' + str(scale.iterations):>13}"
            f"{seconds / 60:>6.1f} min  {scale.plan}",
            flush=True,
        )
    print(f"at most {total / 60:.1f} min in total")


def _explain_end(result: "Result", target: Path, interrupted: int, resume: str) -> int:
    """Return the exit code; report a run that did not end normally on stderr."""
    from ..transfer.stage import SETTLED

    log = logging.getLogger(__name__)
    done = f"after {result.iterations} iterations"
    if interrupted and result.stopped != "interrupted":
        return print_error(f"interrupted after the last iteration; the image is {target}", 128 + interrupted)
    if interrupted:
        hint = f"; to resume: {resume}" if result.checkpoint and result.checkpoint.exists() else ""
        return print_error(f"interrupted {done}; the image so far is {target}{hint}", 128 + interrupted)
    if result.stopped == "diverged":
        return print_error(f"the loss was no longer finite {done}; {target} is the best image before that", 1)
    if result.stopped == "memory":
        width, height, _ = result.scales[-1]
        return print_error(f"out of memory on the finer scales; {target} is enlarged from {width}×{height}", 1)
    if result.stopped == "time" and result.scales[-1][:2] != result.size:
        width, height, _ = result.scales[-1]
        log.info("not enough time for %d×%d pixels; %s is enlarged from %d×%d", *result.size, target, width, height)
    if result.losses[-1].total > (1 + SETTLED) * result.best.total:
        log.info("the loss rose again at the end; the image is from iteration %d", result.best_iteration)
    return 0


def _summarize(result: "Result", target: Path) -> dict[str, Any]:
    return {
        "output": str(target),
        "size": list(result.size),
        "model": result.model,
        "device": result.device,
        "iterations": result.iterations,
        "scales": [{"size": [width, height], "iterations": n} for width, height, n in result.scales],
        "seconds": round(result.seconds, 3),
        "loss": dataclasses.asdict(result.best),
        "stopped": result.stopped,
        "peak_memory_bytes": result.peak_memory_bytes,
    }


@app.command("texture", rich_help_panel=ONE_IMAGE)
@partial(
    from_options,
    names=(
        *("style_loss", "nearest_share", "style_layers", "pooling", "style_scale", "style_weight", "seamless"),
        *("optimizer", "iterations", "time", "scales", "seed", "model", "weights", "preprocessing", "device"),
        *("bit_depth", "tile", "checkpoint_every", "max_pixels"),
    ),
)
def texture_command(
    given: dict[str, Any],
    style: StylePaths,
    shape: Annotated[
        str, typer.Option("--size", metavar="WxH", help="Width and height in pixels, or one number for both.")
    ] = str(Options.size),
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Output image.", show_default="STYLE_texture.png")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
    resume: Resume = False,
    save_every: SaveEvery = 0,
    animate: Animate = None,
) -> None:
    """Synthesize a texture of any size from STYLE alone.

    --seamless makes it tileable. Gatys, Ecker, Bethge, Texture Synthesis Using Convolutional Neural Networks, 2015.
    """
    from ..figures.sheets import texture

    sides = re.fullmatch(r"(\d{1,12})(?:[xX×](\d{1,12}))?", shape.replace(" ", ""))
    if not sides:
        raise UsageError(f"--size is {shape!r}; it must be like 1024x768, or one number for both sides")
    content, options = texture(style, (int(sides[1]), int(sides[2] or sides[1])), Options(**given))
    target = output or Path(f"{style[0].stem}_texture.png")
    run: dict[str, Any] = {"quiet": quiet, "as_json": as_json, "resume": resume, "save_every": save_every}
    _make(content, list(style), options, target, animate=animate, **run)

"""The command line: parses, prints, exits.

Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted, 143 terminated.
"""

import contextlib
import dataclasses
import inspect
import io
import json
import logging
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NoReturn, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperGroup
from typer.exceptions import TyperException

from . import __version__
from .errors import StyleTransferError, UsageError, printable
from .options import Options

if TYPE_CHECKING:  # torch takes seconds to import: `--help` must not
    from .optimize import Step
    from .pipeline import Result

DEFAULT_COMMAND = "stylize"
_BETWEEN = "\0"  # what no argument can hold


class _DefaultCommandGroup(TyperGroup):
    """A group whose first argument may be left out: it is then `stylize`, and so is its help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        first = args[0] if args else "--help"
        own_options = {name for parameter in self.params for name in parameter.opts}
        completing = ctx.resilient_parsing
        args = _with_masks_joined(args)
        if first in self.commands or first.partition("=")[0] in own_options or (completing and not args):
            return super().parse_args(ctx, args)
        if not first.startswith("-") and not os.path.exists(first) and not completing:
            near = get_close_matches(first, self.commands, n=1, cutoff=0.5) or sorted(self.commands)
            raise UsageError(
                f"{first!r} is neither a file nor a command (nearest command: {' or '.join(map(repr, near))})"
            )
        return super().parse_args(ctx, [DEFAULT_COMMAND, *(args or [first])])


def _with_masks_joined(args: list[str]) -> list[str]:
    """Each --mask with its two values as one: Typer knows no option that is repeatable and has two."""
    joined: list[str] = []
    for arg in args:
        if joined[-2:-1] == ["--mask"] and _BETWEEN not in joined[-1]:
            joined[-1] += _BETWEEN + arg
        else:
            joined.append(arg)
    return joined


app = typer.Typer(
    cls=_DefaultCommandGroup, no_args_is_help=False, pretty_exceptions_enable=False, rich_markup_mode="rich"
)
weights_app = typer.Typer(help="The networks' weights: list, fetch, verify, path.", no_args_is_help=True)
app.add_typer(weights_app, name="weights")


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Runs the command and exits. A user's mistake is one line on stderr, never a traceback."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # names that aren't Unicode come out as they came in
        sys.stdout.reconfigure(errors="surrogateescape")
    try:
        code = typer.main.get_command(app).main(arguments, prog_name="styletransfer", standalone_mode=False)
    except TyperException as error:
        code = _complain(" ".join(error.format_message().split()), error.exit_code)
    except StyleTransferError as error:
        code = _complain(str(error), error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = 128 + signal.SIGINT
    except BrokenPipeError:  # whoever read stdout has gone
        sys.stderr.close()
        code = 1
    sys.exit(code)


def _complain(message: str, code: int) -> int:
    print(f"styletransfer: {printable(message)}", file=sys.stderr)
    return code


def _show_version(value: bool) -> None:
    if value:
        print(f"styletransfer {__version__}")
        raise typer.Exit


# --- stylize -------------------------------------------------------------------------------------------------------


_Content = Annotated[Path, typer.Argument(metavar="CONTENT", help="The photograph.")]
_Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no notices.")]
_AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
_Styles = Annotated[
    list[Path], typer.Argument(metavar="STYLE...", help="The painting; several, or a folder of them, are blended.")
]


def _from_options(function: Callable[..., None], names: Sequence[str] = ()) -> Callable[..., None]:
    """Replaces the function's ``**settings`` by a parameter for every field of `Options`, or for those named."""
    hints = get_type_hints(Options)
    own = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    generated = []
    for field in dataclasses.fields(Options):
        if names and field.name not in names:
            continue
        many = get_origin(hints[field.name]) is tuple
        each = get_args(hints[field.name])[0] if many else None
        flag = field.metadata["flag"] or "--" + field.name.replace("_", "-")
        option = typer.Option(flag, help=field.metadata["help"], rich_help_panel=field.metadata["panel"])
        hint = list[float] if each is float else list[str] if many else hints[field.name]
        default: Any = field.default
        generated.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=list(default) if many else default,
                annotation=Annotated[hint, option],
            )
        )
    keyword_only = [p.replace(kind=p.KEYWORD_ONLY) for p in own]
    function.__signature__ = inspect.Signature(keyword_only + generated)  # type: ignore[attr-defined]
    return function


@app.command(
    DEFAULT_COMMAND,
    epilog="Exit codes: 0 done, 1 failed, 2 wrong use, 130 interrupted, 143 terminated. "
    "Other commands: resume, plan, layers, features, dream, weights",
)
@_from_options
def stylize_command(
    content: _Content,
    style: _Styles,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="PNG, JPEG, WebP or TIFF by its ending.", show_default="CONTENT_STYLE.png"),
    ] = None,
    quiet: _Quiet = False,
    as_json: _AsJson = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what was interrupted, if anything was.")] = False,
    save_every: Annotated[
        int,
        typer.Option("--save-every", metavar="N", min=0, help="Save every Nth iterate, as OUT_00001.png …."),
    ] = 0,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
    **settings: Any,
) -> None:
    """Paint CONTENT in the style of STYLE, or of several at once.

    Prints the path of the picture; progress and notices go to stderr.
    """
    _make(
        content,
        style,
        _options(settings),
        output or Path(f"{content.stem}_{style[0].stem}.png"),
        quiet=quiet,
        as_json=as_json,
        resume=resume,
        save_every=save_every,
    )


@app.command("resume")
def resume_command(
    output: Annotated[Path, typer.Argument(metavar="OUT", help="The picture that was to be made.")],
    quiet: _Quiet = False,
    as_json: _AsJson = False,
) -> None:
    """Go on with the picture OUT, whose run was interrupted or killed, as if nothing had happened."""
    from . import checkpoint

    saved = checkpoint.read(checkpoint.beside(output), told_only=True).sources
    if not all([saved["content"], *saved["styles"]]):
        raise UsageError(f"{output}: its content and style were no files; go on from Python")
    content, *styles = map(Path, (saved["content"], *saved["styles"]))
    _make(content, styles, _options(saved["options"]), output, quiet=quiet, as_json=as_json, resume=True)


def _make(
    content: Path,
    styles: list[Path],
    options: Options,
    target: Path,
    *,
    quiet: bool,
    as_json: bool,
    resume: bool,
    save_every: int = 0,
) -> None:
    with contextlib.ExitStack() as stack:
        interrupted = stack.enter_context(_interruptible())  # the imports take seconds
        from . import images, ranks
        from .checkpoint import beside
        from .pipeline import stylize

        stack.enter_context(ranks.joined())
        first = ranks.rank() == 0
        _notices(quiet or not first)
        images.check_output(
            target,
            options.bit_depth,
            (content, *styles, *map(Path, options.files)),
        )
        save = _frames(target, options, save_every if first else 0)
        with _bar(options, quiet or not first) as show:
            result = stylize(
                content,
                styles,
                options,
                callback=lambda step: show(step) or save(step) or interrupted(),
                checkpoint=beside(target),
                resume=resume,
            )
        if not first:
            return
        saved = _save(result, target)
        print(json.dumps(_summary(result, saved)) if as_json else saved)
        code = _verdict(result, saved, interrupted(), f"styletransfer resume {target}") or int(saved != target)
    if code:
        raise typer.Exit(code)


def _frames(target: Path, options: Options, every: int) -> "Callable[[Step], None]":
    """What saves every so many iterates beside the picture, numbered from 1 in the order of all scales."""
    from . import images

    count, due = 0, 0

    def save(step: "Step") -> None:
        nonlocal count, due, every
        due = 0 if step.iteration == 0 else due
        if every and step.iteration >= due:
            count, due = count + 1, step.iteration + every
            path = target.with_name(f"{target.stem}_{count:05}{target.suffix}")
            try:
                images.write(step.image, path, alpha=None, bit_depth=options.bit_depth, settings={})
            except StyleTransferError as error:
                logging.getLogger(__name__).warning("%s; no more iterates are saved", error)
                every = 0

    return save


def _save(result: "Result", target: Path) -> Path:
    """Writes the picture, elsewhere if it can't be written where it was to be; returns where it is."""
    try:
        return result.save(target)
    except StyleTransferError as error:
        for folder in (Path.cwd(), Path.home(), Path(tempfile.gettempdir())):
            names = (f"{target.stem}{number}{target.suffix}" for number in ("", *(f"-{i}" for i in range(1, 100))))
            free = next((folder / name for name in names if not (folder / name).exists()), None)
            with contextlib.suppress(StyleTransferError):
                if free:
                    _complain(f"{error}; the picture is {result.save(free)}", error.exit_code)
                    return free
        raise


@app.command("plan")
@_from_options
def plan_command(
    content: _Content,
    style: _Styles,
    **settings: Any,
) -> None:
    """Tell how long a picture would take, in what memory and in which parts, without making it.

    Takes the options of the picture itself, and tries some iterations on a part of it.
    """
    from .pipeline import estimate

    _notices(quiet=False)
    scales = estimate(content, style, _options(settings))
    print(f"{'pixels':>13}{'memory':>10}{'iteration':>12}{'iterations':>13}{'time':>10}  plan")
    for scale in scales:
        size, time = "{}×{}".format(*scale.size), scale.seconds * scale.iterations
        print(
            f"{size:>13}{scale.plan.memory / 2**30:>6.1f} GiB{scale.seconds:>10.2f} s{'≤ ' + str(scale.iterations):>13}"
            f"{time / 60:>6.1f} min  {scale.plan}"
        )
    print(f"at most {sum(scale.seconds * scale.iterations for scale in scales) / 60:.1f} min in all")


def _options(settings: dict[str, Any]) -> Options:
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()
    }
    if "mask" in given:
        given["mask"] = tuple(_pair(mask) for mask in given["mask"])
    return Options(**given)


def _pair(mask: str | Sequence[str]) -> tuple[str, str]:
    pair = mask.split(_BETWEEN) if isinstance(mask, str) else mask
    if len(pair) != 2:
        raise UsageError("--mask takes two pictures: CONTENT_MASK STYLE_MASK (- for all of the style)")
    return pair[0], pair[1]


def _verdict(result: "Result", target: Path, interrupted: int, resume: str) -> int:
    """The exit code, and a line for what didn't go as meant."""
    done = f"after {result.iterations} iterations"
    if interrupted and result.stopped != "callback":
        return _complain(f"interrupted when it was done; the picture is {target}", 128 + interrupted)
    if interrupted:
        go_on = f"; to go on: {resume}" if result.checkpoint and result.checkpoint.exists() else ""
        return _complain(f"interrupted {done}; the picture so far is {target}{go_on}", 128 + interrupted)
    if result.stopped == "diverged":
        return _complain(f"the loss was no longer finite {done}; {target} is the best picture before that", 1)
    if result.stopped == "memory":
        width, height, _ = result.scales[-1]
        return _complain(f"not enough memory any more for the finer scales; {target} is {width}×{height} enlarged", 1)
    if result.best_iteration < len(result.losses) - 1:
        log = logging.getLogger(__name__)
        log.info("the loss rose again at the end; the picture is that of iteration %d", result.best_iteration)
    return 0


def _summary(result: "Result", target: Path) -> dict[str, Any]:
    loss = {"total": result.best.total, "content": result.best.content, "style": result.best.style}
    return {
        "output": str(target),
        "size": list(result.size),
        "model": result.model,
        "device": result.device,
        "iterations": result.iterations,
        "warm_start_iterations": result.warm_start_iterations,
        "scales": [{"size": [width, height], "iterations": n} for width, height, n in result.scales],
        "seconds": round(result.seconds, 3),
        "loss": loss,
        "stopped": result.stopped,
        "peak_memory_bytes": result.peak_memory_bytes,
    }


class _OneLine(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def _notices(quiet: bool) -> None:
    """The package's log as lines on stderr: notices, or with quiet only warnings."""
    handler = logging.StreamHandler()
    handler.setFormatter(_OneLine("styletransfer: %(message)s"))
    log = logging.getLogger(__package__)
    log.addHandler(handler)
    log.setLevel(logging.WARNING if quiet else logging.INFO)


@contextlib.contextmanager
def _bar(options: Options, quiet: bool) -> "Iterator[Callable[[Step], None]]":
    """A progress bar with iteration, loss and time left; none when quiet or when stderr is no terminal."""
    from tqdm import tqdm

    with tqdm(total=options.iterations, unit="it", disable=quiet or None, dynamic_ncols=True) as bar:

        def show(step: "Step") -> None:
            if step.iteration == 0:
                bar.reset(total=step.most)
                height, width = step.image.shape[2:]
                bar.set_description_str(f"{step.network} {width}×{height}", refresh=False)
            bar.set_postfix_str(f"loss {step.losses.total:.4g}", refresh=False)
            bar.update(step.iteration - bar.n)

        yield show


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], int]]:
    """The first Ctrl-C or SIGTERM lets the iteration finish and keeps its picture; a second one ends at once.

    Gives what tells the number of the signal that has come, or 0. Before the first iteration there is no picture to
    keep, and the first one ends at once too.
    """
    asked, running = 0, False

    def interrupted() -> int:
        nonlocal running
        running = True
        return asked

    def ask(number: int, _frame: object) -> None:
        nonlocal asked
        if asked or not running:
            raise SystemExit(128 + number)
        asked = number

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --- figures -------------------------------------------------------------------------------------------------------

_Image = Annotated[Path, typer.Argument(metavar="IMAGE", help="The picture.")]
_Layer = Annotated[str, typer.Option("--layer", help="Of the network: conv1_1 … conv5_4, or conv5_1 of vgg19-lite.")]
_figure = partial(_from_options, names=("size", "model", "device"))


@app.command("layers")
def layers_command(
    size: Annotated[int, typer.Option(help="Side of a square picture, in pixels.")] = Options.size,
    model: Annotated[Literal["vgg19", "vgg19-lite"], typer.Option(help="VGG-19, or the bundled one.")] = "vgg19",
) -> None:
    """Print the network's layers: sizes, receptive fields, parameters and operations.

    An output has 1 + (input + 2·padding − kernel) / stride positions a side. The receptive field is the part of the
    picture that one position depends on. Operations are multiply-adds.
    """
    from . import layers

    widths = layers.VGG19_WIDTHS
    if model != "vgg19":
        from . import weights

        widths = {name: len(bias) for name, (_, bias) in weights.resolve(model)[1].items()}
    rows = layers.table(Options(size=size).size, widths)
    print("layer    kernel  stride  padding       output  field  channels  parameters          operations")
    for row in rows:
        kernel, output = f"{row.kernel}×{row.kernel}", f"{row.size}×{row.size}"
        print(
            f"{row.name:9}{kernel:>6}{row.stride:>8}{row.padding:>9}{output:>13}{row.receptive_field:>7}"
            f"{row.channels:>10}{row.parameters:>12,}{row.operations:>20,}"
        )
    print(f"{'sum':63}{sum(row.parameters for row in rows):>12,}{sum(row.operations for row in rows):>20,}")


@app.command("features")
@_figure
def features_command(
    image: _Image,
    layer: _Layer = "conv3_1",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The figure.", show_default="IMAGE_LAYER.png")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No notices.")] = False,
    **settings: Any,
) -> None:
    """Draw a layer's feature maps of IMAGE, and right of them their Gram matrix.

    The matrix has a row and a column for each map, in the order of reading. Black is 0 and white the largest value, of
    each map and of the matrix; grey levels are square roots.
    """
    target = output or Path(f"{image.stem}_{layer}.png")
    _notices(quiet)
    from .figures import draw_features

    draw_features(image, target, layer, _options(settings))
    print(target)


@app.command("dream")
@_figure
def dream_command(
    image: _Image,
    layer: _Layer = "conv4_3",
    octaves: Annotated[
        int, typer.Option(min=1, max=16, help="Number of sizes, from small to that of the picture.")
    ] = 4,
    iterations: Annotated[int, typer.Option(min=1, help="Steps in each size.")] = 20,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The picture.", show_default="IMAGE_dream.png")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no notices.")] = False,
    **settings: Any,
) -> None:
    """Change IMAGE so that a layer sees more of what it sees in it: gradient ascent on its activations.

    After Mordvintsev, Olah and Tyka, Inceptionism, 2015.
    """
    target = output or Path(f"{image.stem}_dream.png")
    _notices(quiet)
    from .figures import draw_dream

    draw_dream(image, target, layer, _options(settings), octaves, iterations, quiet=quiet)
    print(target)


# --- weights -------------------------------------------------------------------------------------------------------

_Name = Annotated[str, typer.Argument(help="vgg19 or vgg19-lite.")]


def _known(name: str) -> str:
    from .weights import NETWORKS

    if name not in NETWORKS:
        raise UsageError(f"there is no network {name!r}; there are {', '.join(NETWORKS)}")
    return name


@weights_app.command("list")
def list_command() -> None:
    """Which networks there are, and where their files lie."""
    from . import weights

    for network in weights.NETWORKS.values():
        path = weights.find(network.name)
        print(f"{network.name:12}{network.size:8}{network.about:42}{path or 'not here: styletransfer weights fetch'}")


@weights_app.command("fetch")
def fetch_command(
    name: _Name = "vgg19",
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar.")] = False,
) -> None:
    """Download a network unless it is here; print its path."""
    from . import weights

    _notices(quiet)
    print(weights.fetch(_known(name)))


@weights_app.command("path")
def path_command(name: _Name = "vgg19") -> None:
    """Print the path of a network that is here."""
    from . import weights

    path = weights.find(_known(name))
    if path is None:
        raise StyleTransferError(f"{name} is not here; to download it: styletransfer weights fetch {name}")
    print(path)


@weights_app.command("verify")
def verify_command(
    file: Annotated[str, typer.Argument(help="vgg19, vgg19-lite, or a file.")] = "vgg19-lite",
) -> None:
    """Check a file's hash and contents; print its SHA-256."""
    from . import weights

    known = weights.find(file) if file in weights.NETWORKS else Path(file)
    if known is None or not known.is_file():
        raise UsageError(f"{file}: no such weights file here")
    print(f"{weights.verify(known)}  {known}")

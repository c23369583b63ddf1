"""The command-line parser; most of its options are generated from the fields of `Options`."""

import dataclasses
import inspect
import os
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer
from typer.core import TyperCommand, TyperGroup

from ..errors import UsageError
from ..files import describe_missing
from ..options import PRESETS, Options, PresetName, flag
from .pipes import Format

DEFAULT_COMMAND = "stylize"
EXIT_CODES = "Exit codes: 0 done, 1 failed, 2 usage error, 130 interrupted, 143 terminated."
BETWEEN = "\0"  # joins values; no argument can contain it


class _DefaultCommandGroup(TyperGroup):
    """A command group with the default command `stylize`."""

    def get_usage(self, ctx: Any) -> str:
        """Return two lines: the default command's usage, and that of the others."""
        return "Usage: styletransfer CONTENT STYLE... [OPTIONS]\n       styletransfer COMMAND [ARGUMENTS] [OPTIONS]"

    def list_commands(self, ctx: Any) -> list[str]:
        """Return the names of the commands, in the order of their groups."""
        return sorted(self.commands, key=lambda name: GROUPS.index(getattr(self.commands[name], "rich_help_panel", "")))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the commands; the epilog names the few options."""
        for parameter in self.get_params(ctx):
            parameter.hidden = True  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        args = args or ["--help"]
        first = args[0]
        own_options = {name for parameter in self.params for name in parameter.opts}
        completing = ctx.resilient_parsing
        args = _join_values(args)
        if first in self.commands or first.partition("=")[0] in own_options or first == "--help":
            return super().parse_args(ctx, args)
        if not first.startswith("-") and not os.path.exists(first) and not completing:
            near = get_close_matches(first, self.commands, n=1, cutoff=0.6)
            if near and not os.path.splitext(first)[1] and os.path.basename(first) == first:
                raise UsageError(f"{first!r} is neither a file nor a command; did you mean {near[0]!r}?")
            raise UsageError(describe_missing(first))
        return super().parse_args(ctx, [DEFAULT_COMMAND, *args])


def _join_values(args: list[str]) -> list[str]:
    """Return the arguments with both values of --mask and all of --layers and --styles joined, for Typer."""
    joined: list[str] = []
    for arg in args:
        option = joined[-2:-1]
        if option == ["--mask"] and BETWEEN not in joined[-1]:
            joined[-1] += BETWEEN + arg
        elif option == ["--layers"] and not arg.startswith("-"):
            joined[-1] += "," + arg
        elif option == ["--styles"] and not arg.startswith("-"):
            joined[-1] += BETWEEN + arg
        else:
            joined.append(arg)
    return joined


class SweepCommand(TyperCommand):
    """A command whose options take several values, NAME V1 V2 …; it parses every combination of them.

    The values of the first such option are the columns, those of a second one the rows. Context.obj becomes a list of
    (row label, column label, context of the parsed options).
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        start = next((i for i, arg in enumerate(args) if arg.startswith("-") and arg != "-"), len(args))
        groups: list[list[str]] = []
        for arg in args[start:]:
            if arg.startswith("-") and arg != "-":
                groups.append(arg.split("=", 1) if arg.startswith("--") else [arg])
            else:
                groups[-1].append(arg)
        sweeps = [group for group in groups if len(group) > 2]
        if not (1 <= len(sweeps) <= 2 or {"--help"} & set(args) or ctx.resilient_parsing):
            raise UsageError("give one or two options several values each, as in --beta 1 10 100")
        ctx.obj = []
        rows = [[sweeps[1][0], value] for value in sweeps[1][1:]] if len(sweeps) == 2 else [[]]
        for row in rows:
            for value in sweeps[0][1:] if sweeps else [None]:
                column = [sweeps[0][0], value] if value is not None else []
                fixed_args = [arg for group in groups if group not in sweeps for arg in group]
                sub = ctx if not ctx.obj else typer.Context(self, info_name=ctx.info_name, parent=ctx.parent)
                rest = super().parse_args(sub, [*args[:start], *fixed_args, *column, *row])
                labels = (" ".join(pair).lstrip("-") for pair in (row, column))
                ctx.obj.append((*labels, sub))
        return rest


app = typer.Typer(
    cls=_DefaultCommandGroup,
    no_args_is_help=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    epilog="styletransfer stylize --help shows the options of a single image; COMMAND --help those of a command.\n\n"
    "styletransfer --version prints the version, --install-completion completes words in bash, zsh or fish.\n\n"
    + EXIT_CODES,
)

#: Groups of the commands in the help.
ONE_IMAGE, MANY, FIGURES, SETUP = "One image", "Many images, clips, and the page", "Figures of the method", "Setup"
GROUPS = (ONE_IMAGE, MANY, FIGURES, SETUP)


# --- arguments and options of several commands ----------------------------------------------------------------------

ContentPath = Annotated[Path, typer.Argument(metavar="CONTENT", help="Content image, such as a photo.")]

RUN = "Run"  # help panel of options that do not affect the image
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no notices.", rich_help_panel=RUN)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.", rich_help_panel=RUN)]
Resume = Annotated[
    bool, typer.Option("--resume", help="Resume an interrupted run, if there is one.", rich_help_panel=RUN)
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        help="Output image: PNG, JPEG, WebP or TIFF, by extension; - for standard output.",
        show_default="CONTENT_STYLE.png",
    ),
]
FileFormat = Annotated[
    Format | None,
    typer.Option("--format", metavar="NAME", help="Format of -o -: png, jpeg, webp or tiff.", rich_help_panel=RUN),
]
SaveEvery = Annotated[
    int,
    typer.Option(
        "--save-every", metavar="N", min=0, help="Save every Nth iterate as OUT_00001.png, ….", rich_help_panel=RUN
    ),
]
Animate = Annotated[
    Path | None,
    typer.Option("--animate", metavar="FILE", help="Save an animation, .gif, .webp or .mp4.", rich_help_panel=RUN),
]
_Preset = Annotated[
    PresetName | None,
    typer.Option(
        metavar="NAME",
        help="Preset, which explicit options override. "
        + "; ".join(
            f"{name}: "
            + " ".join(flag(key) if value is True else f"{flag(key)} {value}" for key, value in preset.items())
            for name, preset in PRESETS.items()
        ),
    ),
]
StylePaths = Annotated[
    list[Path], typer.Argument(metavar="STYLE...", help="Style image; several, or a folder of them, are blended.")
]


def from_options(function: Callable[..., None], names: Sequence[str] = ()) -> Callable[..., None]:
    """Return a command with an option for every field of `Options`, or for those in `names`.

    The function receives as ``given`` the settings of the preset and of the command line, which takes precedence.
    """
    hints = get_type_hints(Options)
    params = [p for p in inspect.signature(function).parameters.values() if p.name != "given"]
    generated = [_make_parameter("ctx", typer.Context, inspect.Parameter.empty)]
    for field in dataclasses.fields(Options):
        if names and field.name not in names:
            continue
        is_list = get_origin(hints[field.name]) is tuple
        item_type = get_args(hints[field.name])[0] if is_list else None
        texts = {name: field.metadata[name] for name in ("help", "metavar")}
        texts["help"] = texts["help"].replace("[", r"\[")  # else Rich takes [faces] for markup
        name = flag(field.name)
        if hints[field.name] is bool:  # --no-… overrides a preset or the settings of an image
            name += "/" + flag(field.name, on=False)
        option = typer.Option(name, rich_help_panel=field.metadata["panel"], **texts)
        hint = list[float] if item_type is float else list[str] if is_list else hints[field.name]
        default: Any = field.default
        default = list(default) if is_list else default
        generated.append(_make_parameter(field.name, Annotated[hint, option], default))
    if not names:
        generated.append(_make_parameter("preset", _Preset, None))

    def command(ctx: typer.Context, **arguments: Any) -> None:
        function(
            given=given_options(ctx), **{p.name: ctx if p.name == "context" else arguments[p.name] for p in params}
        )

    def panel(p: inspect.Parameter) -> Any:
        return p.annotation.__metadata__[0].rich_help_panel

    keyword_only = [p.replace(kind=p.KEYWORD_ONLY) for p in params if p.name != "context"]
    # The help lists panels in the order of their first options.
    ordered = [*(p for p in keyword_only if panel(p) != RUN), *generated, *(p for p in keyword_only if panel(p) == RUN)]
    command.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
    command.__doc__ = function.__doc__
    return command


def _make_parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def given_options(ctx: Any) -> dict[str, Any]:
    """Return the settings of the preset and of the command line, which takes precedence."""
    settings = dict(PRESETS[ctx.params["preset"]] if ctx.params.get("preset") else {})
    for name in (field.name for field in dataclasses.fields(Options)):
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            value = ctx.params[name]
            settings[name] = tuple(value) if isinstance(value, list | tuple) else value
    if "mask" in settings:
        settings["mask"] = tuple(_split_mask(mask) for mask in settings["mask"])
    if ratio := ctx.params.get("ratio"):
        settings |= {"alpha": 1.0, "beta": 1 / ratio}
    return settings


def _split_mask(mask: str) -> tuple[str, str]:
    pair = mask.split(BETWEEN)
    if len(pair) != 2:
        raise UsageError("--mask takes two images: CONTENT_MASK STYLE_MASK (- for the whole style image)")
    return pair[0], pair[1]


def files_among(*sources: Any) -> tuple[Path, ...]:
    """Return every path in the sources; a folder stands for the images in it."""
    from ..images import list_pictures

    paths: list[Path] = []
    for source in sources:
        if isinstance(source, str | Path):
            paths += list_pictures(Path(source)) if Path(source).is_dir() else [Path(source)]
        elif isinstance(source, list):
            paths += files_among(*source)
    return tuple(paths)

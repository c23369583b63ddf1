"""How a command line becomes `Options`: the parser, what its options are called, and what they mean together."""

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

DEFAULT_COMMAND = "stylize"
BETWEEN = "\0"  # what no argument can hold


class _DefaultCommandGroup(TyperGroup):
    """A group whose first argument may be left out: it is then `stylize`, and so is its help."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        first = args[0] if args else "--help"
        own_options = {name for parameter in self.params for name in parameter.opts}
        completing = ctx.resilient_parsing
        args = _joined(args)
        if first in self.commands or first.partition("=")[0] in own_options or (completing and not args):
            return super().parse_args(ctx, args)
        if not first.startswith("-") and not os.path.exists(first) and not completing:
            near = get_close_matches(first, self.commands, n=1, cutoff=0.6)
            if near and not os.path.splitext(first)[1] and os.path.basename(first) == first:
                raise UsageError(f"{first!r} is neither a file nor a command; did you mean {near[0]!r}?")
            raise UsageError(describe_missing(first))
        return super().parse_args(ctx, [DEFAULT_COMMAND, *(args or [first])])


def _joined(args: list[str]) -> list[str]:
    """Each --mask with its two values as one, --layers and --styles with all of theirs: Typer has no such options."""
    joined: list[str] = []
    for arg in args:
        several = joined[-2:-1]
        if several == ["--mask"] and BETWEEN not in joined[-1]:
            joined[-1] += BETWEEN + arg
        elif several == ["--layers"] and not arg.startswith("-"):
            joined[-1] += "," + arg
        elif several == ["--styles"] and not arg.startswith("-"):
            joined[-1] += BETWEEN + arg
        else:
            joined.append(arg)
    return joined


class SweepCommand(TyperCommand):
    """Takes several values after an option, NAME V1 V2 …, and parses every combination of them.

    The values of the first such option are in columns, those of a second one in rows. Context.obj gets a list of
    (label of the row, label of the column, what options are given).
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        start = next((i for i, arg in enumerate(args) if arg.startswith("-") and arg != "-"), len(args))
        groups: list[list[str]] = []
        for arg in args[start:]:
            if arg.startswith("-") and arg != "-":
                groups.append(arg.split("=", 1) if arg.startswith("--") else [arg])
            else:
                groups[-1].append(arg)
        swept = [group for group in groups if len(group) > 2]
        if not (1 <= len(swept) <= 2 or {"--help"} & set(args) or ctx.resilient_parsing):
            raise UsageError("give one or two options several values each, as in --beta 1 10 100")
        ctx.obj = []
        rows = [[swept[1][0], value] for value in swept[1][1:]] if len(swept) == 2 else [[]]
        for row in rows:
            for value in swept[0][1:] if swept else [None]:
                column = [swept[0][0], value] if value is not None else []
                fixed = [arg for group in groups if group not in swept for arg in group]
                sub = ctx if not ctx.obj else typer.Context(self, info_name=ctx.info_name, parent=ctx.parent)
                rest = super().parse_args(sub, [*args[:start], *fixed, *column, *row])
                labels = (" ".join(pair).lstrip("-") for pair in (row, column))
                ctx.obj.append((*labels, sub))
        return rest


app = typer.Typer(
    cls=_DefaultCommandGroup, no_args_is_help=False, pretty_exceptions_enable=False, rich_markup_mode="rich"
)


# --- what commands take ---------------------------------------------------------------------------------------------

ContentPath = Annotated[Path, typer.Argument(metavar="CONTENT", help="The photograph.")]


RUN = "Run"  # the panel of what makes no difference to the picture
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bar, no notices.", rich_help_panel=RUN)]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.", rich_help_panel=RUN)]
Resume = Annotated[
    bool, typer.Option("--resume", help="Resume an interrupted run, if there is one.", rich_help_panel=RUN)
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", help="Output file: PNG, JPEG, WebP or TIFF by its ending.", show_default="CONTENT_STYLE.png"
    ),
]
SaveEvery = Annotated[
    int,
    typer.Option(
        "--save-every", metavar="N", min=0, help="Save every Nth iterate, as OUT_00001.png ….", rich_help_panel=RUN
    ),
]
Animate = Annotated[
    Path | None,
    typer.Option("--animate", metavar="FILE", help="The optimization as .gif, .webp or .mp4.", rich_help_panel=RUN),
]
_Preset = Annotated[
    PresetName | None,
    typer.Option(
        metavar="NAME",
        help="Settings that go together; others may be added. "
        + "; ".join(
            f"{name}: "
            + " ".join(flag(key) if value is True else f"{flag(key)} {value}" for key, value in preset.items())
            for name, preset in PRESETS.items()
        ),
    ),
]
StylePaths = Annotated[
    list[Path], typer.Argument(metavar="STYLE...", help="The painting; several, or a folder of them, are blended.")
]


def from_options(function: Callable[..., None], names: Sequence[str] = ()) -> Callable[..., None]:
    """Gives a command an option for every field of `Options`, or for those named; as ``given``, the function gets those
    that were given, after those of the preset."""
    hints = get_type_hints(Options)
    own = [p for p in inspect.signature(function).parameters.values() if p.name != "given"]
    generated = [_parameter("ctx", typer.Context, inspect.Parameter.empty)]
    for field in dataclasses.fields(Options):
        if names and field.name not in names:
            continue
        many = get_origin(hints[field.name]) is tuple
        each = get_args(hints[field.name])[0] if many else None
        shown = {name: field.metadata[name] for name in ("help", "metavar")}
        name = flag(field.name)
        if hints[field.name] is bool:  # a preset's or a picture's own can be taken back
            name += "/" + flag(field.name, on=False)
        option = typer.Option(name, rich_help_panel=field.metadata["panel"], **shown)
        hint = list[float] if each is float else list[str] if many else hints[field.name]
        default: Any = field.default
        default = list(default) if many else default
        generated.append(_parameter(field.name, Annotated[hint, option], default))
    if not names:
        generated.append(_parameter("preset", _Preset, None))

    def command(ctx: typer.Context, **arguments: Any) -> None:
        function(given=given_options(ctx), **{p.name: ctx if p.name == "context" else arguments[p.name] for p in own})

    def panel(p: inspect.Parameter) -> Any:
        return p.annotation.__metadata__[0].rich_help_panel

    mine = [p.replace(kind=p.KEYWORD_ONLY) for p in own if p.name != "context"]
    # The help shows panels in the order of what is in them.
    ordered = [*(p for p in mine if panel(p) != RUN), *generated, *(p for p in mine if panel(p) == RUN)]
    command.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
    command.__doc__ = function.__doc__
    return command


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def given_options(ctx: Any) -> dict[str, Any]:
    """The fields of `Options` that the command line gives a value, and those of its preset."""
    given = dict(PRESETS[ctx.params["preset"]] if ctx.params.get("preset") else {})
    for name in (field.name for field in dataclasses.fields(Options)):
        source = ctx.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            value = ctx.params[name]
            given[name] = tuple(value) if isinstance(value, list | tuple) else value
    if "mask" in given:
        given["mask"] = tuple(_pair(mask) for mask in given["mask"])
    if ratio := ctx.params.get("ratio"):
        given |= {"alpha": 1.0, "beta": 1 / ratio}
    return given


def _pair(mask: str) -> tuple[str, str]:
    pair = mask.split(BETWEEN)
    if len(pair) != 2:
        raise UsageError("--mask takes two pictures: CONTENT_MASK STYLE_MASK (- for all of the style)")
    return pair[0], pair[1]


def files_among(*sources: Any) -> tuple[Path, ...]:
    """Every path among them; of a folder those of its pictures."""

    from ..images import list_pictures

    found: list[Path] = []
    for source in sources:
        if isinstance(source, str | Path):
            found += list_pictures(Path(source)) if Path(source).is_dir() else [Path(source)]
        elif isinstance(source, list):
            found += files_among(*source)
    return tuple(found)

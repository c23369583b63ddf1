"""The page's controls, made from the fields of `Options`: no default or help text is repeated here."""

import math
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

import gradio as gr

from ..options import STARTS, Options, convert

_HINTS = get_type_hints(Options)
#: Fields without a control here: the balance, drawn masks, files on the server, and settings of the server.
_ELSEWHERE = (
    *("alpha", "beta", "mask", "keep", "content_mask", "weights", "preprocessing"),
    *("max_pixels", "checkpoint_every", "tile"),
)
#: The most useful fields, always visible; the first of them is above the balance, next to the paintings.
FIRST = ("style_weight", "style_scale", "size", "color", "model")
#: log₁₀(α/β) of the lecture's sweep, from all style to nearly all content, and the range of the slider.
MARKS, LEAST, MOST = (-4, -3, -2, -1), -4.0, 0.5


class Form:
    """The controls of a page: those of `FIRST`, then the others, folded. Create it within a `Blocks`."""

    def __init__(self) -> None:
        ratio, (above, *below) = math.log10(Options.alpha / Options.beta), FIRST
        self.controls = {above: _make_control(above)}
        self.balance = gr.Slider(
            LEAST,
            MOST,
            ratio,
            step=0.1,
            label="Balance of photograph and painting",
            info="log₁₀(α/β), content weight to style weight: −4 is all painting, 0 nearly all photograph.",
            elem_id="balance",
        )
        with gr.Row(equal_height=True):
            for mark in MARKS:
                button = gr.Button(f"1e{mark}", size="sm", min_width=40, elem_id=f"mark{-mark}")
                button.click(None, None, self.balance, js=f"() => {mark}", queue=False, api_visibility="private")
        own = [f for f in fields(Options) if f.name not in _ELSEWHERE]
        self.controls |= {name: _make_control(name) for name in below}
        for panel in dict.fromkeys(f.metadata["panel"] for f in own if f.name not in FIRST):
            with gr.Accordion(panel or "More", open=False):
                self.controls |= {
                    f.name: _make_control(f.name) for f in own if f.metadata["panel"] == panel and f.name not in FIRST
                }

    @property
    def inputs(self) -> list[Any]:
        """The controls whose values `read` takes, in this order."""
        return [self.balance, *self.controls.values()]

    def read(self, values: Sequence[Any]) -> dict[str, Any]:
        """Return the settings that differ from the defaults, by name. Raises `UsageError` if a value is invalid."""
        balance, *rest = values
        settings = {name: _read(name, value) for name, value in zip(self.controls, rest, strict=True)}
        if abs(balance - math.log10(Options.alpha / Options.beta)) > 1e-6:
            settings |= {"alpha": 1.0, "beta": float(f"{10**-balance:.3g}")}
        defaults = Options()
        return {name: value for name, value in settings.items() if value != getattr(defaults, name)}

    def fill(self, options: Options) -> list[Any]:
        """Return the controls' values for these settings, in the order of `inputs`."""
        ratio = options.alpha / options.beta if options.beta else math.inf
        balance = MOST if ratio == math.inf else math.log10(ratio) if ratio else LEAST
        values = [_show(name, getattr(options, name)) for name in self.controls]
        return [min(max(balance, LEAST), MOST), *values]


def _make_control(name: str) -> Any:
    """Return a control for a field, by its type."""
    metadata, hint, value = Options.__dataclass_fields__[name].metadata, _HINTS[name], getattr(Options(), name)
    arguments: dict[str, Any] = {"value": _show(name, value), "label": name.replace("_", " ").capitalize()}
    arguments |= {"info": metadata["help"], "elem_id": name}
    kinds = get_args(hint)
    if hint is bool:
        return gr.Checkbox(**arguments)
    if name == "init" or get_origin(hint) is Literal:
        return gr.Dropdown(list(STARTS if name == "init" else kinds), **arguments)
    if hint in (int, float):
        return gr.Number(precision=0 if hint is int else None, **arguments)
    # Optional numbers too: an empty `gr.Number` becomes 0 when its section is opened.
    return gr.Textbox(max_lines=1, **arguments)


def _show(name: str, value: Any) -> Any:
    if isinstance(value, tuple):
        return ", ".join(map(str, value))
    return STARTS[0] if name == "init" and value not in STARTS else value


def _read(name: str, value: Any) -> Any:
    """Return the setting of a control; the default of an empty one."""
    empty = value is None or (isinstance(value, str) and not value.strip())
    return getattr(Options(), name) if empty else convert(name, value)

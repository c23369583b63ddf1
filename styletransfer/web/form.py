"""The page's controls, described by the fields of `Options`: no default or help text is repeated here."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ..errors import UsageError
from ..options import STARTS, Options

_HINTS = get_type_hints(Options)
#: Fields without a control of their own: the balance, drawn masks, files on the server, and settings of the server.
_ELSEWHERE = (
    *("alpha", "beta", "mask", "keep", "content_mask", "weights", "preprocessing"),
    *("max_pixels", "checkpoint_every", "tile", "device"),
)

#: Names of the options that the page sets.
SETTINGS = frozenset(f.name for f in fields(Options) if f.name not in _ELSEWHERE) | {"alpha", "beta"}


def describe_controls() -> list[dict[str, Any]]:
    """Return the controls of all options that the page shows, in order.

    Each has name, label, help, panel, default, minimum, maximum and kind: "choice" (with choices), "switch", "whole",
    "number" or "text".
    """
    controls = []
    for f in fields(Options):
        if f.name not in _ELSEWHERE:
            metadata, (kind, choices) = f.metadata, _find_kind(f.name)
            controls.append(
                {
                    "name": f.name,
                    "label": f.name.replace("_", " ").capitalize(),
                    "help": metadata["help"],
                    "panel": metadata["panel"] or "Image",
                    "default": format_setting(f.default),
                    "minimum": metadata["minimum"],
                    "maximum": metadata["maximum"],
                    "kind": kind,
                    "choices": choices,
                }
            )
    return controls


def _find_kind(name: str) -> tuple[str, list[str]]:
    hint = _HINTS[name]
    kinds = get_args(hint)
    if name == "init":
        return "choice", list(STARTS)
    if hint is bool:
        return "switch", []
    if get_origin(hint) is Literal:
        return "choice", list(kinds)
    if hint is int:
        return "whole", []
    if hint is float or (float in kinds and get_origin(hint) is not tuple):
        return "number", []
    return "text", []


def format_setting(value: Any) -> Any:
    """Return a setting as the page shows it; `read_settings` reads it back."""
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else value


def read_settings(values: Mapping[str, Any]) -> Options:
    """Return the options of the values in the page's fields; empty fields have their defaults.

    Raises `UsageError` if a value is invalid; its message begins with the field's name.
    """
    settings = {name: value for name, value in values.items() if value is not None and value != ""}
    for name in settings.keys() - SETTINGS:
        raise UsageError(f"{name} cannot be set on the page")
    if settings.get("init", STARTS[0]) not in STARTS:  # else it would be a file of the server
        raise UsageError(f"init is {settings['init']!r}; it must be one of {', '.join(STARTS)}")
    return Options(**settings)

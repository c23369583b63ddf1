"""The conversion of values to the types of settings, wherever they come from."""

import os
import re
import sys
from collections.abc import Callable
from typing import Any, Literal, get_args, get_origin

from .errors import UsageError


def _parse_bool(text: str) -> bool:
    if text.lower() not in _WORDS:
        raise ValueError
    return _WORDS[text.lower()]


_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_PARSERS: dict[type, Callable[[str], Any]] = {str: str, int: int, float: float, bool: _parse_bool}
#: Types other than str that are accepted for a type.
_ACCEPTED: dict[type, type | tuple[type, ...]] = {str: int, int: int, float: (int, float), bool: bool}


def convert_value(name: str, value: Any, hint: Any, minimum: float | None = None, maximum: float | None = None) -> Any:
    """Return a value in a type.

    Strings, as from a table or a web page, are parsed: numbers, true and false, values separated by commas or
    semicolons. Paths become strings, lists tuples.

    Args:
        name: of the setting, for messages.
        hint: int, float, str, bool, a Literal, a tuple of these, or one of these or None.
        minimum, maximum: of numbers.

    Raises `UsageError` if the value is invalid.
    """
    try:
        converted = _read(value, hint)
    except (ValueError, OverflowError):
        raise UsageError(f"{name} is {value!r}; it must be {_describe(hint)}") from None
    for number in converted if isinstance(converted, tuple) else [converted]:
        if minimum is None or number is None or minimum <= number <= (maximum or sys.float_info.max):
            continue
        range_ = f"a number of at least {minimum:g}" if maximum is None else f"from {minimum:g} to {maximum:g}"
        raise UsageError(f"{name} is {number}; it must be {range_}")
    return converted


def _read(value: Any, hint: Any) -> Any:
    """Return a value in a type. Raises `ValueError` or `OverflowError` if it does not fit."""
    origin, kinds = get_origin(hint), get_args(hint)
    if origin is Literal:
        return kinds[kinds.index(value)]
    if origin is tuple:
        items = list(filter(None, map(str.strip, re.split("[,;]", value)))) if isinstance(value, str) else value
        if not isinstance(items, tuple | list):
            raise ValueError
        kinds = kinds[:1] * len(items) if kinds[-1] is Ellipsis else kinds
        return tuple(_read(item, kind) for item, kind in zip(items, kinds, strict=True))
    if kinds:  # X | None
        return None if value is None else _read(value, kinds[0])
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if isinstance(value, str):
        return _PARSERS[hint](value)
    if not isinstance(value, _ACCEPTED[hint]):
        raise ValueError
    return hint(value)


def _describe(hint: Any) -> str:
    """Return a description of a type's values, for error messages."""
    origin, kinds = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(kinds)}"
    if origin is tuple:
        pairs = "pairs of files, as [[CONTENT_MASK, STYLE_MASK], …] in a .jsonl"
        return pairs if get_origin(kinds[0]) is tuple else f"{_describe(kinds[0])}, or several separated by commas"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return names[kinds[0] if kinds else hint]

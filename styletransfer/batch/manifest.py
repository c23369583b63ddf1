"""Which pictures a batch is to make: every content with every style, pairs, or the rows of a manifest."""

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from ..errors import StyleTransferError, UsageError, plural
from ..files import describe_missing
from ..images import check_fits, check_output, list_pictures
from ..images.folders import natural_order
from ..options import PICTURE_NAMES, WHOLE, Options, convert
from .jobs import Job

_OWN = ("content", "style", "output")


class ManifestError(UsageError):
    """All errors of a batch, one line each."""

    def __init__(self, lines: Sequence[str]) -> None:
        super().__init__(f"{plural(len(lines), 'error')}; nothing was started")
        self.lines = list(lines)


def combine(
    contents: Sequence[Path],
    styles: Sequence[Path],
    options: Options,
    folder: Path,
    name: str = PICTURE_NAMES,
    *,
    pairs: bool,
) -> list[Job]:
    """Every content with every style, or the first with the first, and so on.

    Args:
        contents, styles: pictures, and folders of which all pictures are taken.
        folder: for the outputs.
        name: of an output, with {content}, {style}, {number} and any option in braces.

    Raises:
        UsageError: a folder without pictures, or that of the outputs; or pairs that don't match.
        ManifestError: of `check_jobs`.
    """
    here, there = ([picture for path in paths for picture in _expand(path)] for paths in (contents, styles))
    for path in (path for path in (*contents, *styles) if not os.path.isfile(path)):
        if os.path.realpath(path if os.path.isdir(path) else path.parent) == os.path.realpath(folder):
            raise UsageError(
                f"{folder} holds inputs; the next run would take the new pictures as inputs too: choose another -o"
            )
    if pairs and len(here) != len(there):
        raise UsageError(f"--pairs needs as many styles as contents; there are {len(there)} and {len(here)}")
    chosen = zip(here, there, strict=True) if pairs else ((content, style) for content in here for style in there)
    jobs = []
    for number, (content, style) in enumerate(chosen, 1):
        output = folder / _fill_in_name(name, number, content, [style], options)
        jobs.append(Job(str(content), (str(style),), options, str(output), f"{content} with {style}"))
    return check_jobs(jobs)


def read_manifest(path: Path, given: Mapping[str, Any], folder: Path, name: str = PICTURE_NAMES) -> list[Job]:
    """The jobs that a table tells: CSV with a line of names, or JSON Lines.

    Columns are ``content``, ``style``, ``output``, and any option by its name. Paths are relative to the table's
    folder, outputs to the output folder. In CSV an empty cell is the default, and several values of one cell are
    separated by semicolons.

    Args:
        given: options of all rows; a row's own count more.

    Raises:
        ManifestError: all that is wrong, each with its row and column.
        StyleTransferError: the table can't be read.
    """
    rows = _read_rows(path)
    lines: list[str] = []
    jobs = []
    for number, row in rows:
        where = f"{path.name}, row {number}"
        if isinstance(row, str):
            lines.append(f"{where}: {row}")
            continue
        found: list[str] = []
        content, style = _read_paths(path.parent, row, "content", found), _read_paths(path.parent, row, "style", found)
        if len(content) > 1:
            found.append("content: there can be only one")
        settings = {**given, **_read_settings(path.parent, row, found)}
        own = _make_options(settings, found) if not found else None
        output = str(row.get("output") or "")
        if not found and own:
            try:
                output = output or _fill_in_name(name, number, Path(content[0]), [Path(s) for s in style], own)
            except UsageError as error:
                found.append(str(error))
            jobs.append(Job(content[0], tuple(style), own, str(folder / output), where))
        lines += [f"{where}, {problem}" for problem in found]
    if not rows:
        lines.append(f"{path.name}: there is no job in it")
    return check_jobs(jobs, lines)


def check_jobs(jobs: Sequence[Job], lines: Sequence[str] = ()) -> list[Job]:
    """The jobs. Raises `ManifestError` with these lines and those of outputs that can't be."""
    found, taken, given = list(lines), dict[str, Job](), dict[str, Job]()
    for job in jobs:
        for source in (job.content, *job.style, *job.options.files):
            if source not in given and not os.path.isfile(source):
                found.append(f"{job.where}: {describe_missing(source)}")
            given.setdefault(source, job)
    given = {os.path.realpath(source): job for source, job in given.items() if os.path.isfile(source)}
    for job in jobs:
        try:
            check_output(Path(job.output), job.options.bit_depth)
            if os.path.isfile(job.content):
                check_fits(Path(job.output), job.content, job.options)
        except StyleTransferError as error:
            found.append(f"{job.where}, output: {error}")
            continue
        real = os.path.realpath(job.output)
        if real in given:
            found.append(f"{job.where}, output: {job.output} is an input of {given[real].where} and would be lost")
        if real in taken:
            found.append(f"{job.where}, output: {job.output} is also that of {taken[real].where}; tell --name")
        taken.setdefault(real, job)
    if found:
        raise ManifestError(found)
    return list(jobs)


def _expand(path: Path) -> list[Path]:
    """A picture, those in a folder, or those that a pattern matches, as photos/*.jpg, which no shell has filled in."""
    if os.path.isdir(path):
        return list_pictures(path)
    found = [path] if os.path.isfile(path) else list(_match(Path(path.anchor), path.relative_to(path.anchor).parts))
    if not found:
        raise UsageError(f"{path}: no file matches" if has_magic(str(path)) else describe_missing(path))
    return found


def _match(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    """Yield the paths that match a pattern, in natural order.

    A part that exists is taken literally: the brackets of an existing folder "ph[1]" are no pattern.
    """
    if not parts:
        yield folder
    elif os.path.exists(folder / parts[0]):
        yield from _match(folder / parts[0], parts[1:])
    else:
        for name in sorted(glob(parts[0], root_dir=folder), key=natural_order):
            yield from _match(folder / name, parts[1:])


def _fill_in_name(name: str, number: int, content: Path, style: Sequence[Path], options: Options) -> str:
    known = {**asdict(options), "content": content.stem, "style": "_".join(s.stem for s in style), "number": number}
    try:
        return name.format_map(known)
    except (KeyError, ValueError, IndexError, AttributeError, TypeError) as error:
        told = f"--name {name!r} can't be filled in ({error}); there are {{content}}, {{style}}, {{number}} and options"
        raise UsageError(told) from error


def _read_rows(path: Path) -> list[tuple[int, dict[str, Any] | str]]:
    """Number and cells of every row, or what is wrong with it."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is no UTF-8 text"
        raise UsageError(f"{path}: can't be read: {reason}") from error
    if path.suffix.lower() == ".csv":
        try:
            table = list(csv.reader(io.StringIO(text, newline="")))
        except csv.Error as error:
            raise UsageError(f"{path}: can't be read: {error}") from error
        names = [name.strip() for name in table[0]] if table else []
        if doubled := {name for name in names if name and names.count(name) > 1}:
            raise UsageError(f"{path}: two columns are called {', '.join(sorted(doubled))}")
        return [(n, _read_cells(names, row)) for n, row in enumerate(table[1:], 2) if any(cell.strip() for cell in row)]
    if path.suffix.lower() != ".jsonl":
        raise UsageError(f"{path}: a manifest's name must end in .csv or .jsonl")
    return [(n, _read_object(line)) for n, line in enumerate(text.split("\n"), 1) if line.strip()]


def _read_cells(names: Sequence[str], row: Sequence[str]) -> dict[str, Any] | str:
    if len(row) > len(names):
        return f"there are {len(row)} cells, but {len(names)} columns"
    return {name: cell.strip() for name, cell in zip(names, row, strict=False) if cell.strip()}


def _read_object(line: str) -> dict[str, Any] | str:
    try:
        row = json.loads(line)
    except ValueError as error:
        return f"it is no JSON: {error}"
    return row if isinstance(row, dict) else "it is no JSON object"


def _read_paths(folder: Path, row: Mapping[str, Any], name: str, found: list[str]) -> list[str]:
    """The files of a cell; what is wrong with it goes into `found`."""
    value = row.get(name)
    values = value.split(";") if isinstance(value, str) else value if isinstance(value, list) else [value]
    told = [v.strip() for v in values if isinstance(v, str) and v.strip()]
    if len(told) < max(1, len(values)):
        found.append(f"{name}: there is none" if value in (None, "") else f"{name}: {value!r} is no file name")
        return []
    paths = [str(folder / path) for path in told]
    found += [f"{name}: {describe_missing(path)}" for path in paths if not os.path.isfile(path)]
    return paths


def _read_settings(folder: Path, row: Mapping[str, Any], found: list[str]) -> dict[str, Any]:
    """The options of a row; what is wrong with a cell goes into `found`."""
    settings = {}
    for name in (n for n in row if n not in _OWN):
        field = name.removeprefix("--").replace("-", "_")
        field = {"content_layer": "content_layers", "style_layer": "style_layers"}.get(field, field)
        if field not in Options.__dataclass_fields__:
            found.append(f"{name}: there is no such option")
            continue
        try:
            settings[field] = convert(field, row[name])
        except UsageError as error:
            found.append(f"{name}: {error}")
    for field in ("init", "weights", "keep"):
        value = settings.get(field)
        if isinstance(value, str) and os.path.isfile(folder / value):
            settings[field] = str(folder / value)
        elif value and field != "init":
            found.append(f"{field}: {describe_missing(folder / str(value))}")
    if "mask" in settings:
        settings["mask"] = [
            [name if name == WHOLE else str(folder / name) for name in pair] for pair in settings["mask"]
        ]
    return settings


def _make_options(settings: Mapping[str, Any], found: list[str]) -> Options | None:
    """The options; if they can't be, the column without which they could goes into `found`."""
    try:
        return Options(**settings)
    except UsageError as error:
        guilty = ""
        for field in settings:
            try:
                Options(**{name: value for name, value in settings.items() if name != field})
                guilty = f"{field}: "
            except UsageError:
                continue
        found.append(f"{guilty}{error}")
        return None

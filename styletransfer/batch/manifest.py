"""The jobs of a batch: every content with every style, pairs, or the rows of a manifest."""

import csv
import io
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from glob import glob, has_magic
from pathlib import Path
from typing import Any

from ..errors import StyleTransferError, UsageError, plural
from ..files import describe_missing
from ..images import check_fits, check_output, list_pictures
from ..images.folders import natural_order
from ..options import FILE_OPTIONS, PICTURE_NAMES, WHOLE, Options, convert
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
    """Return jobs for every content with every style, or for the first with the first, and so on.

    Args:
        contents, styles: images, and folders of which all images are taken.
        folder: for the outputs.
        name: of an output, with {content}, {style}, {number} and any option in braces.

    Raises:
        UsageError: a folder has no images or is that of the outputs, or pairs do not match.
        ManifestError: as `check_jobs`.
    """
    images, paintings = ([image for path in paths for image in _expand(path)] for paths in (contents, styles))
    for path in (path for path in (*contents, *styles) if not os.path.isfile(path)):
        if os.path.realpath(path if os.path.isdir(path) else path.parent) == os.path.realpath(folder):
            raise UsageError(
                f"{folder} contains inputs; the next run would take the output images as inputs too: choose another -o"
            )
    if pairs and len(images) != len(paintings):
        raise UsageError(f"--pairs needs as many styles as contents; there are {len(paintings)} and {len(images)}")
    chosen = zip(images, paintings, strict=True) if pairs else ((c, s) for c in images for s in paintings)
    jobs = []
    for number, (content, style) in enumerate(chosen, 1):
        output = folder / _fill_in_name(name, number, content, [style], options)
        jobs.append(Job(str(content), (str(style),), options, str(output), f"{content} with {style}"))
    return check_jobs(jobs)


def read_manifest(path: Path, given: Mapping[str, Any], folder: Path, name: str = PICTURE_NAMES) -> list[Job]:
    """Return the jobs of a table: CSV with a line of names, or JSON Lines.

    Columns are ``content``, ``style``, ``output``, and any option by its name. Paths are relative to the table's
    folder, outputs to the output folder. In CSV an empty cell is the default, and several values of one cell are
    separated by semicolons.

    Args:
        given: options of all rows; a row's own take precedence.

    Raises:
        ManifestError: all errors, each with its row and column.
        StyleTransferError: the table cannot be read.
    """
    number, lines, jobs = 0, list[str](), list[Job]()
    known: dict[str, Options] = {}  # many rows have the same
    for number, row in _read_rows(path):
        where = f"{path.name}, row {number}"
        if isinstance(row, str):
            lines.append(f"{where}: {row}")
            continue
        errors: list[str] = []
        content = _read_paths(path.parent, row, "content", errors)
        style = _read_paths(path.parent, row, "style", errors)
        if len(content) > 1:
            errors.append("content: only one image is allowed")
        settings = {**given, **_read_settings(path.parent, row, errors)}
        own = None if errors else known.get(repr(settings)) or _make_options(settings, errors)
        if own:
            known[repr(settings)] = own
        output = str(row.get("output") or "")
        if not errors and own:
            try:
                output = output or _fill_in_name(name, number, Path(content[0]), [Path(s) for s in style], own)
            except UsageError as error:
                errors.append(str(error))
            jobs.append(Job(content[0], tuple(style), own, str(folder / output), where))
        lines += [f"{where}, {error}" for error in errors]
    if not number:
        lines.append(f"{path.name}: the manifest has no jobs")
    return check_jobs(jobs, lines)


def check_jobs(jobs: Sequence[Job], lines: Sequence[str] = ()) -> list[Job]:
    """Return the jobs. Raises `ManifestError` with these lines and those of missing inputs and invalid outputs."""
    errors, outputs, inputs, writable = list(lines), dict[str, Job](), dict[str, Job](), set[str]()
    for job in jobs:
        for source in (job.content, *job.style, *job.options.files):
            if source not in inputs and not os.path.isfile(source):
                errors.append(f"{job.where}: {describe_missing(source)}")
            inputs.setdefault(source, job)
    inputs = {os.path.realpath(source): job for source, job in inputs.items() if os.path.isfile(source)}
    for job in jobs:
        folder = os.path.dirname(job.output)
        try:
            is_known = folder in writable and not os.path.islink(job.output)
            check_output(Path(job.output), job.options.bit_depth, writable=is_known)
            writable.add(folder)
            if os.path.isfile(job.content):
                check_fits(Path(job.output), job.content, job.options)
        except StyleTransferError as error:
            errors.append(f"{job.where}, output: {error}")
            continue
        real = os.path.realpath(job.output)
        if real in inputs:
            errors.append(f"{job.where}, output: {job.output} is an input of {inputs[real].where} and would be lost")
        if real in outputs:
            message = f"{job.output} is also the output of {outputs[real].where}; change output or --name"
            errors.append(f"{job.where}, output: {message}")
        outputs.setdefault(real, job)
    if errors:
        raise ManifestError(errors)
    return list(jobs)


def _expand(path: Path) -> list[Path]:
    """Return the images of a file, a folder, or a pattern that no shell has expanded, such as photos/*.jpg."""
    if os.path.isdir(path):
        return list_pictures(path)
    paths = [path] if os.path.isfile(path) else list(_match(Path(path.anchor), path.relative_to(path.anchor).parts))
    if not paths:
        raise UsageError(f"{path}: no file matches" if has_magic(str(path)) else describe_missing(path))
    return paths


def _match(folder: Path, parts: Sequence[str]) -> Iterator[Path]:
    """Yield the paths that match a pattern, in natural order.

    A part that exists is taken literally: the brackets of an existing folder "ph[1]" are not a pattern.
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
        message = f"--name {name!r} is invalid ({error}); use {{content}}, {{style}}, {{number}} and options"
        raise UsageError(message) from error


def _read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any] | str]]:
    """Yield the number and cells of every row, or what is wrong with it."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise UsageError(f"{path}: cannot read file: {reason}") from error
    if path.suffix.lower() == ".jsonl":
        yield from ((n, _read_object(line)) for n, line in enumerate(text.split("\n"), 1) if line.strip())
        return
    if path.suffix.lower() != ".csv":
        raise UsageError(f"{path}: a manifest's name must end in .csv or .jsonl")
    table = csv.reader(io.StringIO(text, newline=""))
    try:
        names = [name.strip() for name in next(table, [])]
        if duplicates := {name for name in names if name and names.count(name) > 1}:
            raise UsageError(f"{path}: duplicate columns: {', '.join(sorted(duplicates))}")
        yield from ((n, _read_cells(names, row)) for n, row in enumerate(table, 2) if any(map(str.strip, row)))
    except csv.Error as error:
        raise UsageError(f"{path}: cannot read file: {error}") from error


def _read_cells(names: Sequence[str], row: Sequence[str]) -> dict[str, Any] | str:
    if len(row) > len(names):
        return f"there are {len(row)} cells, but {len(names)} columns"
    return {name: cell.strip() for name, cell in zip(names, row, strict=False) if cell.strip()}


def _read_object(line: str) -> dict[str, Any] | str:
    try:
        row = json.loads(line)
    except ValueError as error:
        return f"not JSON: {error}"
    return row if isinstance(row, dict) else "not a JSON object"


def _read_paths(folder: Path, row: Mapping[str, Any], name: str, errors: list[str]) -> list[str]:
    """Return the files of a cell; add what is wrong with it to `errors`."""
    value = row.get(name)
    values = value.split(";") if isinstance(value, str) else value if isinstance(value, list) else [value]
    names = [v.strip() for v in values if isinstance(v, str) and v.strip()]
    if len(names) < max(1, len(values)):
        errors.append(f"{name}: missing" if value in (None, "") else f"{name}: {value!r} is not a file name")
        return []
    paths = [sys.intern(str(folder / path)) for path in names]  # most are in many rows
    errors += [f"{name}: {describe_missing(path)}" for path in paths if not os.path.isfile(path)]
    return paths


def _read_settings(folder: Path, row: Mapping[str, Any], errors: list[str]) -> dict[str, Any]:
    """Return the options of a row; add what is wrong with a cell to `errors`."""
    settings = {}
    for name in (n for n in row if n not in _OWN):
        field = name.removeprefix("--").replace("-", "_")
        field = {"content_layer": "content_layers", "style_layer": "style_layers"}.get(field, field)
        if field not in Options.__dataclass_fields__:
            errors.append(f"{name}: no such option")
            continue
        try:
            settings[field] = convert(field, row[name])
        except UsageError as error:
            errors.append(f"{name}: {error}")
    for field in ("init", *FILE_OPTIONS):
        value = settings.get(field)
        if isinstance(value, str) and os.path.isfile(folder / value):
            settings[field] = str(folder / value)
        elif value and field != "init":
            errors.append(f"{field}: {describe_missing(folder / str(value))}")
    if "mask" in settings:
        settings["mask"] = [
            [name if name == WHOLE else str(folder / name) for name in pair] for pair in settings["mask"]
        ]
    return settings


def _make_options(settings: Mapping[str, Any], errors: list[str]) -> Options | None:
    """Return the options, or None if they are invalid: then add the error to `errors`, with the column to blame."""
    try:
        return Options(**settings)
    except UsageError as error:
        prefix = ""
        for field in settings:
            try:
                Options(**{name: value for name, value in settings.items() if name != field})
                prefix = f"{field}: "
            except UsageError:
                continue
        errors.append(f"{prefix}{error}")
        return None

"""Figures of several pictures: sweeps over options, reconstructions from layers, and the curves of their losses."""

import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor
from tqdm import tqdm

from ..errors import UsageError
from ..files import describe_missing
from ..images import (
    Source,
    Styles,
    check_output,
    flatten_on_white,
    read_inputs,
    read_picture,
    to_tensor,
    write_picture,
)
from ..options import Options
from ..transfer import Result, keep_model, open_session
from ..version import __version__
from .curves import Curve

#: Pixels between the pictures of a sheet, and the size of the letters.
GAP, LETTERS = 8, 18
_LINE = LETTERS + 8


@dataclass(frozen=True)
class Cell:
    """A picture of a figure: where it stands, by labels, and how it is made."""

    row: str
    column: str
    content: Source
    style: Styles
    options: Options

    @property
    def label(self) -> str:
        """Of row and column."""
        return " ".join(filter(None, (self.row, self.column)))


# --- which pictures ------------------------------------------------------------------------------------------------


def reconstruction(source: Source, layers: Sequence[str], kind: str, options: Options) -> list[Cell]:
    """What each layer knows of a picture, from noise (Gatys et al. 2016, fig. 1).

    Args:
        kind: "content": from the features of each layer alone; "style": from the Gram matrices of each layer and of
            those before it.

    Raises:
        UsageError: no layer is named.
    """
    if not layers:
        raise UsageError("there is no layer to reconstruct from; name some with --layers")
    cells = []
    for number, layer in enumerate(layers):
        changed: dict[str, Any]
        if kind == "content":
            label, changed = layer, {"beta": 0.0, "content_layers": (layer,), "style_layers": (layer,)}
        else:
            label = layer if number == 0 else f"{layers[0]} … {layer}"
            changed = {"alpha": 0.0, "content_layers": (layer,), "style_layers": tuple(layers[: number + 1])}
        cells.append(Cell("", label, source, source, replace(options, init="noise", **changed)))
    return cells


def texture(style: Styles, size: tuple[int, int], options: Options) -> tuple[Image.Image, Options]:
    """Content and options of a picture (width, height) of the style alone, from noise (Gatys, Ecker, Bethge, *Texture
    Synthesis Using Convolutional Neural Networks*, 2015): ``stylize(content, style, options)``.

    The content counts nothing; it is of the style's mean color. The style is seen in its own size times
    `Options.style_scale`, however large the texture is.

    Raises:
        UsageError: a side is 0, or there are more than `Options.max_pixels`.
        UsageError, StyleTransferError: as `read_inputs`.
    """
    pixels = size[0] * size[1]
    if not pixels:
        raise UsageError(f"a texture cannot be {size[0]}×{size[1]} pixels: each side must be at least 1")
    if pixels > options.max_pixels:
        raise UsageError(
            f"a texture of {size[0]}×{size[1]} pixels is more than --max-pixels; if you want it: --max-pixels {pixels}"
        )
    first = read_inputs(Image.new("RGB", (1, 1)), style, options).styles[0]
    own = max(first.rgb.size) / max(size) * options.style_scale
    return first.mean_color_image(size), replace(options, alpha=0.0, init="noise", size=max(size), style_scale=own)


# --- pictures and sheets -------------------------------------------------------------------------------------------


def paint_cells(
    cells: Sequence[Cell], interrupted: Callable[[], object], *, quiet: bool
) -> Iterator[tuple[Cell, Result, Curve]]:
    """Makes the pictures one after the other, with a progress bar on stderr, until `interrupted` tells true.

    Raises:
        UsageError, StyleTransferError: as `stylize`.
    """
    with tqdm(total=len(cells), unit="picture", disable=quiet or None, dynamic_ncols=True) as bar:
        for cell in cells:
            seen, start = list[tuple[Tensor, float]](), time.monotonic()
            model = keep_model(cell.options)
            with open_session(cell.content, cell.style, cell.options, model=model) as session:
                for step in session:
                    if step.iteration == 0:  # the losses of a coarser scale can't be compared with
                        seen.clear()
                    bar.set_postfix_str(f"{cell.label}: iteration {step.iteration}")
                    seen.append((step.terms, time.monotonic() - start))
                    if interrupted():
                        return
                result = session.result()
            bar.update()
            losses = torch.stack([terms[0] for terms, _ in seen]).tolist()  # at once: reading makes a GPU wait
            yield cell, result, Curve(cell.label, list(range(len(seen))), losses, [seconds for _, seconds in seen])


def arrange(rows: Sequence[Sequence[tuple[str, Image.Image | None]]], height: int | None = None) -> Image.Image:
    """Rows of labeled pictures on white, each label below its picture; None leaves a place empty.

    Args:
        height: to which all are scaled; that of the highest if not given.
    """
    font = ImageFont.load_default(LETTERS)
    present = [picture for row in rows for _, picture in row if picture]
    height = height or max(picture.height for picture in present)
    usual = max(round(picture.width * height / picture.height) for picture in present)
    labels: dict[int, int] = {}  # how wide the widest in each column is: it would run into the next one
    for row in rows:
        for column, (label, _) in enumerate(row):
            labels[column] = max(labels.get(column, 0), round(font.getlength(label)) + 2)
    placed: list[tuple[int, int, str, Image.Image | None]] = []
    y = width = 0
    for row in rows:
        x = 0
        for column, (label, picture) in enumerate(row):
            if picture and picture.height != height:
                across = round(picture.width * height / picture.height)
                picture = picture.resize((across, height), Image.Resampling.LANCZOS)
            placed.append((x, y, label, picture))
            x += max(picture.width if picture else usual, labels[column]) + GAP
        width = max(width, x - GAP)
        y += height + GAP + (_LINE if any(label for label, _ in row) else 0)
    drawn = Image.new("RGB", (width, y - GAP), "white")
    pen = ImageDraw.Draw(drawn)
    for x, y, label, picture in placed:
        if picture:
            drawn.paste(flatten_on_white(picture), (x, y))
        pen.text((x + 2, y + height + 3), label, "black", font)
    return drawn


@dataclass(frozen=True)
class Sheet:
    """What was made of a figure's pictures.

    Attributes:
        image: the sheet, mode RGB.
        curves: the losses of each of its pictures.
        made: how each was made, for the file.
    """

    image: Image.Image
    curves: list[Curve]
    made: list[dict[str, Any]]

    def save(self, path: Path) -> None:
        """Writes the sheet, by the ending.

        Raises:
            UsageError: unknown ending, or no such folder.
            StyleTransferError: it can't be written.
        """
        check_output(path, 8)
        told = {"version": __version__, "figure": self.made}
        write_picture(to_tensor(self.image), path, alpha=None, bit_depth=8, settings=told)


def draw_sheet(
    cells: Sequence[Cell],
    interrupted: Callable[[], object],
    *,
    first: Sequence[tuple[str, Source]] = (),
    quiet: bool = False,
) -> Sheet | None:
    """Makes the pictures and puts them on a sheet, a row for every label of rows.

    Args:
        first: pictures to stand before the others, in the first row, with their labels.
        interrupted: tells whether to end early. The sheet then has gaps; without any picture there is none.

    Raises:
        UsageError, StyleTransferError: as `stylize`.
    """
    for name in {name for cell in cells for name in cell.options.files if not os.path.isfile(name)}:
        raise UsageError(describe_missing(name))
    before = [(label, read_picture(source, cells[0].options.max_pixels).rgb) for label, source in first]
    results = list(paint_cells(cells, interrupted, quiet=quiet))
    pictures = {id(cell): result.image for cell, result, _ in results}
    rows = []
    for _, group in itertools.groupby(cells, lambda cell: cell.row):
        rows.append([(cell.label, pictures.get(id(cell))) for cell in group])
    if not pictures:
        return None
    height = max(picture.height for picture in pictures.values())
    rows[0][:0] = before
    told = [{"row": cell.row, "column": cell.column, **result.settings()} for cell, result, _ in results]
    return Sheet(arrange(rows, height), [curve for *_, curve in results], told)

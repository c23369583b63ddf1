"""Figures of several images: sweeps over options, reconstructions from layers, textures, and loss curves."""

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

#: Gap between the images of a sheet and font size, in pixels.
GAP, LETTERS = 8, 18
_LINE = LETTERS + 8


@dataclass(frozen=True)
class Cell:
    """An image of a figure: the labels of its row and column, its inputs and options."""

    row: str
    column: str
    content: Source
    style: Styles
    options: Options

    @property
    def label(self) -> str:
        """The labels of row and column together."""
        return " ".join(filter(None, (self.row, self.column)))


# --- cells ---------------------------------------------------------------------------------------------------------


def reconstruction(source: Source, layers: Sequence[str], kind: str, options: Options) -> list[Cell]:
    """Return cells that reconstruct an image from each layer, starting from noise (Gatys et al. 2016, fig. 1).

    The style loss is that of Gram matrices, whatever the options say.

    Args:
        kind: "content": from the features of each layer alone; "style": from the Gram matrices of each layer and
            the layers before it.

    Raises:
        UsageError: no layer is named.
    """
    if not layers:
        raise UsageError("layers is empty: name at least one layer")
    cells = []
    for number, layer in enumerate(layers):
        changed: dict[str, Any]
        if kind == "content":
            label, changed = layer, {"beta": 0.0, "content_layers": (layer,), "style_layers": (layer,)}
        else:
            label = layer if number == 0 else f"{layers[0]} … {layer}"
            changed = {"alpha": 0.0, "content_layers": (layer,), "style_layers": tuple(layers[: number + 1])}
        cells.append(Cell("", label, source, source, replace(options, init="noise", style_loss="gram", **changed)))
    return cells


def texture(style: Styles, size: tuple[int, int], options: Options) -> tuple[Image.Image, Options]:
    """Return content and options for a texture of (width, height): ``stylize(content, style, options)``.

    It is synthesized from noise and the style alone: Gatys, Ecker, Bethge, *Texture Synthesis Using Convolutional
    Neural Networks*, 2015. Deviation: the default style loss matches places too, which makes it more coherent. The
    content has the style's mean color and no weight. The style has its own size times `Options.style_scale`, however
    large the texture is.

    Raises:
        UsageError: a side is 0, or there are more than `Options.max_pixels`.
        UsageError, StyleTransferError: as `read_inputs`.
    """
    pixels = size[0] * size[1]
    if not pixels:
        raise UsageError(f"a texture cannot be {size[0]}×{size[1]} pixels: each side must be at least 1")
    if pixels > options.max_pixels:
        raise UsageError(
            f"a texture of {size[0]}×{size[1]} pixels is more than max_pixels; "
            f"if that is right, set max_pixels to {pixels}"
        )
    first = read_inputs(Image.new("RGB", (1, 1)), style, options).styles[0]
    scale = max(first.rgb.size) / max(size) * options.style_scale
    return first.mean_color_image(size), replace(options, alpha=0.0, init="noise", size=max(size), style_scale=scale)


# --- images and sheets ---------------------------------------------------------------------------------------------


def paint_cells(
    cells: Sequence[Cell], interrupted: Callable[[], object], *, quiet: bool
) -> Iterator[tuple[Cell, Result, Curve]]:
    """Yield each cell's result and loss curve, with a progress bar on stderr, until `interrupted` returns true.

    Raises:
        UsageError, StyleTransferError: as `stylize`.
    """
    with tqdm(total=len(cells), unit="image", disable=quiet or None, dynamic_ncols=True) as bar:
        for cell in cells:
            steps, start = list[tuple[Tensor, float]](), time.monotonic()
            model = keep_model(cell.options)
            with open_session(cell.content, cell.style, cell.options, model=model) as session:
                for step in session:
                    if step.iteration == 0:  # losses of a coarser scale are not comparable
                        steps.clear()
                    bar.set_postfix_str(f"{cell.label}: iteration {step.iteration}")
                    steps.append((step.terms, time.monotonic() - start))
                    if interrupted():
                        return
                result = session.result()
            bar.update()
            losses = torch.stack([terms[0] for terms, _ in steps]).tolist()  # at once: reading makes a GPU wait
            yield cell, result, Curve(cell.label, list(range(len(steps))), losses, [seconds for _, seconds in steps])


def arrange(rows: Sequence[Sequence[tuple[str, Image.Image | None]]], height: int | None = None) -> Image.Image:
    """Return rows of labeled images on white, each label below its image; None leaves a place empty.

    Args:
        height: to scale all images to; by default that of the tallest.
    """
    font = ImageFont.load_default(LETTERS)
    present = [image for row in rows for _, image in row if image]
    height = height or max(image.height for image in present)
    empty_width = max(round(image.width * height / image.height) for image in present)
    labels: dict[int, int] = {}  # width of the widest in each column, which must not reach into the next one
    for row in rows:
        for column, (label, _) in enumerate(row):
            labels[column] = max(labels.get(column, 0), round(font.getlength(label)) + 2)
    placed: list[tuple[int, int, str, Image.Image | None]] = []
    y = width = 0
    for row in rows:
        x = 0
        for column, (label, image) in enumerate(row):
            if image and image.height != height:
                scaled_width = round(image.width * height / image.height)
                image = image.resize((scaled_width, height), Image.Resampling.LANCZOS)
            placed.append((x, y, label, image))
            x += max(image.width if image else empty_width, labels[column]) + GAP
        width = max(width, x - GAP)
        y += height + GAP + (_LINE if any(label for label, _ in row) else 0)
    sheet = Image.new("RGB", (width, y - GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for x, y, label, image in placed:
        if image:
            sheet.paste(flatten_on_white(image), (x, y))
        pen.text((x + 2, y + height + 3), label, "black", font)
    return sheet


@dataclass(frozen=True)
class Sheet:
    """A finished sheet.

    Attributes:
        image: the sheet, mode RGB.
        curves: the losses of each of its images.
        made: the settings of each, to embed in the file.
    """

    image: Image.Image
    curves: list[Curve]
    made: list[dict[str, Any]]

    def save(self, path: Path) -> None:
        """Write the sheet in the format of its file extension.

        Raises:
            UsageError: unknown file extension, or no such folder.
            StyleTransferError: the file can't be written.
        """
        check_output(path, 8)
        settings = {"version": __version__, "figure": self.made}
        write_picture(to_tensor(self.image), path, alpha=None, bit_depth=8, settings=settings)


def draw_sheet(
    cells: Sequence[Cell],
    interrupted: Callable[[], object],
    *,
    first: Sequence[tuple[str, Source]] = (),
    quiet: bool = False,
) -> Sheet | None:
    """Return a sheet of the rendered cells, with a row for each row label; None if no image is finished.

    Args:
        first: labels and images to show before the others, in the first row.
        interrupted: returns whether to end early. The sheet then has gaps.

    Raises:
        UsageError, StyleTransferError: as `stylize`.
    """
    for name in {name for cell in cells for name in cell.options.files if not os.path.isfile(name)}:
        raise UsageError(describe_missing(name))
    before = [(label, read_picture(source, cells[0].options.max_pixels).rgb) for label, source in first]
    results = list(paint_cells(cells, interrupted, quiet=quiet))
    images = {id(cell): result.image for cell, result, _ in results}
    rows = []
    for _, group in itertools.groupby(cells, lambda cell: cell.row):
        rows.append([(cell.label, images.get(id(cell))) for cell in group])
    if not images:
        return None
    height = max(image.height for image in images.values())
    rows[0][:0] = before
    settings = [{"row": cell.row, "column": cell.column, **result.settings()} for cell, result, _ in results]
    return Sheet(arrange(rows, height), [curve for *_, curve in results], settings)

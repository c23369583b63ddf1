"""Masks that were drawn on the photograph with a brush, as the files that `Options` names."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import UsageError
from ..images import read_picture
from ..options import WHOLE, Options
from .watching import keep_input

#: What the colors of the brush mean: the photograph is kept, or the first, second, … painting is to be there.
COLORS = {"#ffffff": "keep", "#e6194b": "red", "#3cb44b": "green", "#4363d8": "blue", "#ffe119": "yellow"}


def draw_masks(drawn: Mapping[str, Any] | None, styles: int, content: Path, folder: Path) -> dict[str, Any]:
    """The settings `keep` and `mask` for what is drawn, whose files are in the folder then; empty if nothing is.

    Args:
        drawn: what Gradio's image editor gives: Pillow images in ``layers``.
        styles: how many paintings there are.
        content: the photograph, after which the files are called.

    Raises:
        UsageError: a color is drawn for which there is no painting.
    """
    layers = [np.asarray(layer.convert("RGBA")) for layer in (drawn or {}).get("layers") or ()]
    regions = _regions(layers[0]) if layers else None
    if regions is None or not (regions >= 0).any():
        return {}
    with tempfile.TemporaryDirectory() as made:

        def save(region: "np.ndarray[Any, Any]", name: str) -> str:
            path = Path(made) / f"{content.stem}_{name}.png"
            Image.fromarray(np.where(region, 255, 0).astype(np.uint8)).save(path)
            return str(keep_input(path, folder))

        settings: dict[str, Any] = {}
        if (regions == 0).any():
            settings["keep"] = save(regions == 0, "keep")
        if (most := regions.max()) > styles:
            raise UsageError(f"{list(COLORS.values())[most]} is for painting {most}, but there are {styles}")
        if styles > 1 and most > 0:
            first = (regions <= 0) | (regions == 1)
            parts = [first, *(regions == number for number in range(2, styles + 1))]
            for number, part in enumerate(parts, 1):
                if not part.any():
                    raise UsageError(f"no region is left for painting {number}: draw one, or take the painting away")
            settings["mask"] = tuple((save(part, f"mask{number}"), WHOLE) for number, part in enumerate(parts, 1))
    return settings


def read_masks(options: Options, folder: Path) -> Image.Image | None:
    """A layer to be drawn on, RGBA, that gives the masks of these options; None without masks in this folder, or if a
    brush can't draw them.

    A painting's mask that isn't the first's or all of the painting's can't be, and soft borders become hard ones.
    """
    _, *others = options.mask or ((WHOLE, WHOLE),)
    names = [here for here, _ in others] + ([options.keep] if options.keep else [])
    colors = [*list(COLORS)[2 : 2 + len(others)], *(list(COLORS)[:1] if options.keep else [])]
    paths = [folder / Path(name).name for name in names]
    drawable = len(colors) == len(names) and all(there == WHOLE for _, there in options.mask)
    if not (names and drawable and all(path.is_file() for path in paths)):
        return None
    masks = [read_picture(path, options.max_pixels).rgb.convert("L") for path in paths]
    layer = Image.new("RGBA", masks[-1].size)
    for mask, color in zip(masks, colors, strict=True):
        layer.paste(Image.new("RGBA", layer.size, color), mask=mask.resize(layer.size).point(lambda v: 255 * (v > 127)))
    return layer


def _regions(layer: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """The number of the nearest of `COLORS` at every pixel H×W of a layer H×W×4, −1 where hardly anything is drawn."""
    colors = np.array([[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in COLORS])
    distances = np.square(layer[..., None, :3].astype(int) - colors).sum(-1)
    nearest: np.ndarray[Any, Any] = np.where(layer[..., 3] > 127, distances.argmin(-1), -1)
    return nearest

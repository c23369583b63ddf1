"""Masks drawn on the content image with a brush, as the files that `Options` names."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..errors import UsageError
from ..images import read_picture
from ..options import WHOLE, Options
from .paths import keep_input

#: Colors of the brush, as in static/masks.js: the content is kept, or the region gets the first, second, … style.
COLORS = {"#ffffff": "keep", "#e6194b": "red", "#3cb44b": "green", "#4363d8": "blue", "#ffe119": "yellow"}


def write_masks(drawing: Path, styles: int, content: Path, folder: Path) -> dict[str, Any]:
    """Return the settings `keep` and `mask` of a drawing, and write their files; empty if nothing is drawn.

    Args:
        drawing: an image whose pixels of the `COLORS` are opaque, the others transparent.
        styles: the number of style images.
        content: the content image; the names of the files begin with its name.

    Raises:
        UsageError: a color has no style, or a style no region.
        StyleTransferError: a file cannot be read or written.
    """
    picture = read_picture(drawing)
    alpha = picture.alpha or Image.new("L", picture.rgb.size, 255)
    regions = _find_regions(np.dstack([np.asarray(picture.rgb), np.asarray(alpha)]))
    if not (regions >= 0).any():
        return {}
    with tempfile.TemporaryDirectory() as temporary:

        def save(region: "np.ndarray[Any, Any]", name: str) -> str:
            path = Path(temporary) / f"{content.stem}_{name}.png"
            Image.fromarray(np.where(region, 255, 0).astype(np.uint8)).save(path)
            return str(keep_input(path, folder))

        settings: dict[str, Any] = {}
        if (regions == 0).any():
            settings["keep"] = save(regions == 0, "keep")
        if (most := regions.max()) > styles:
            raise UsageError(f"{list(COLORS.values())[most]} is for style {most}, but there are {styles}")
        if styles > 1 and most > 0:
            first = (regions <= 0) | (regions == 1)
            parts = [first, *(regions == number for number in range(2, styles + 1))]
            for number, part in enumerate(parts, 1):
                if not part.any():
                    raise UsageError(f"no region is left for style {number}: draw one, or remove the style")
            settings["mask"] = tuple((save(part, f"mask{number}"), WHOLE) for number, part in enumerate(parts, 1))
    return settings


def read_masks(options: Options, folder: Path) -> Image.Image | None:
    """Return the masks of these options as an RGBA layer to draw on; None if they are missing or not drawable.

    A brush can draw at most four regions, each with the style of a whole style image. Soft borders become hard ones.
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


def _find_regions(layer: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
    """Return the index in `COLORS` of the color of each pixel, H×W, of a layer H×W×4; −1 where alpha is below 128."""
    colors = np.array([[int(color[i : i + 2], 16) for i in (1, 3, 5)] for color in COLORS])
    distances = np.square(layer[..., None, :3].astype(int) - colors).sum(-1)
    nearest: np.ndarray[Any, Any] = np.where(layer[..., 3] > 127, distances.argmin(-1), -1)
    return nearest

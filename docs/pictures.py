"""Draws the pictures of the README and of docs/: `python docs/pictures.py` (about two minutes on four cores)."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter, ImageFont, ImageOps

from styletransfer import Options, images, stylize, weights
from styletransfer.objective import Losses, Objective, Region, Style
from styletransfer.vgg import Encoder

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES, PICTURES = ROOT / "examples", ROOT / "docs" / "pictures"
OPTIONS = Options(model="vgg19-lite")
HEIGHT, GAP = 320, 8


def sheet(rows: list[list[tuple[str, Image.Image]]], path: Path, height: int = HEIGHT, quality: int = 90) -> None:
    """Rows of labelled pictures, all scaled to one height."""
    font = ImageFont.load_default(18)
    scaled = [[(label, p.resize((round(p.width * height / p.height), height))) for label, p in row] for row in rows]
    width = max(sum(p.width + GAP for _, p in row) - GAP for row in scaled)
    total = sum(height + GAP + (26 if any(label for label, _ in row) else 0) for row in rows) - GAP
    result, y = Image.new("RGB", (width, total), "white"), 0
    draw = ImageDraw.Draw(result)
    for row in scaled:
        x = 0
        for label, picture in row:
            result.paste(picture, (x, y))
            draw.text((x + 2, y + height + 3), label, "black", font)
            x += picture.width + GAP
        y += height + GAP + (26 if any(label for label, _ in row) else 0)
    path.parent.mkdir(exist_ok=True)
    result.save(path, quality=quality)
    print(path)


def load(name: str) -> Image.Image:
    return Image.open(EXAMPLES / name).convert("RGB")


def overview() -> None:
    """Content, style and result of three pairs: the README's first picture."""
    pairs = [("astronaut.jpg", "swirls.jpg"), ("chelsea.jpg", "mosaic.jpg"), ("coffee.jpg", "woodblock.jpg")]
    rows = []
    for content, style in pairs:
        result = stylize(EXAMPLES / content, EXAMPLES / style, OPTIONS, size=640).image
        rows.append([("", load(content)), ("", load(style)), ("", result)])
    sheet(rows, PICTURES / "overview.jpg")


def ratios() -> None:
    """The ratio α/β from 1e-4 to 1e-1 (fig. 4 of the paper)."""
    row = [("content", load("astronaut.jpg"))]
    for ratio in (1e-4, 1e-3, 1e-2, 1e-1):
        result = stylize(EXAMPLES / "astronaut.jpg", EXAMPLES / "swirls.jpg", OPTIONS, alpha=ratio, beta=1.0)
        row.append((f"alpha/beta = {ratio:.0e}", result.image))
    sheet([row], PICTURES / "ratio.jpg")


def content_layers() -> None:
    """conv2_2 against conv4_2 as the content layer (fig. 5 of the paper)."""
    row = [("content", load("rocket.jpg")), ("style", load("swirls.jpg"))]
    for layer in ("conv2_2", "conv4_2"):
        result = stylize(EXAMPLES / "rocket.jpg", EXAMPLES / "swirls.jpg", OPTIONS, content_layers=(layer,))
        row.append((layer, result.image))
    sheet([row], PICTURES / "content-layer.jpg")


def colors() -> None:
    """--color style, content and luminance, and how far the colours are from the content's: for docs/controls.md."""
    content = load("astronaut.jpg").resize((256, 256), Image.Resampling.LANCZOS)
    row = [("content", content), ("style", load("swirls.jpg"))]
    for color in ("style", "content", "luminance"):
        made = stylize(
            EXAMPLES / "astronaut.jpg", EXAMPLES / "swirls.jpg", OPTIONS, size=256, iterations=100, color=color
        )
        row.append((f"--color {color}", made.image))
    wanted = np.asarray(content).reshape(-1, 3)
    for label, picture in (row[0], *row[2:]):
        x = np.asarray(picture).reshape(-1, 3)
        mean, covariance, other = x.mean(0), np.cov(x.T), np.cov(wanted.T)
        off = np.linalg.norm(mean - wanted.mean(0)), np.linalg.norm(covariance - other) / np.linalg.norm(other)
        at_border = ((x == 0) | (x == 255)).any(1).mean()
        print(
            f"{label:18} mean {mean.round()} deviation {x.std(0).round()}; mean off by {off[0]:.1f}, "
            f"covariance by {off[1]:.0%}; {at_border:.0%} of the pixels have a channel at 0 or 255"
        )
    sheet([row], PICTURES / "controls-color.jpg", height=256, quality=80)


def regions() -> None:
    """Two styles blended, each in a region of its own, and one with a part kept: for docs/controls.md."""
    content, styles = EXAMPLES / "astronaut.jpg", [EXAMPLES / "swirls.jpg", EXAMPLES / "mosaic.jpg"]
    options = replace(OPTIONS, size=384)
    person = Image.new("L", load(content.name).size)
    draw, (w, h) = ImageDraw.Draw(person), person.size
    draw.ellipse((0.28 * w, -0.02 * h, 0.62 * w, 0.5 * h), 255)
    draw.ellipse((0.02 * w, 0.33 * h, 0.9 * w, 1.6 * h), 255)
    person = person.filter(ImageFilter.GaussianBlur(8))
    with TemporaryDirectory() as folder:
        masks = [str(Path(folder) / name) for name in ("person.png", "rest.png")]
        for mask, path in zip((person, ImageOps.invert(person)), masks, strict=True):
            mask.save(path)
        blend = stylize(content, styles, options)
        parts = stylize(content, styles[::-1], options, mask=tuple((mask, "-") for mask in masks))
        kept = stylize(content, styles[0], options, keep=masks[0])
    row = [("content", load(content.name)), ("mask", person.convert("RGB"))]
    row += [("two styles, blended", blend.image), ("one in each region", parts.image), ("--keep", kept.image)]
    sheet([row], PICTURES / "controls-regions.jpg", height=256, quality=80)

    encoder = Encoder(weights.resolve("vgg19-lite")[1], OPTIONS.style_weights)
    white = torch.from_numpy(np.array(person.resize(parts.size)))[None, None] / 255
    for name, mask in (("person", white), ("rest", 1 - white)):
        for style in styles:
            # As evaluated: the style loss of one region, before anything is optimised.
            region = Region([Style(images.read(style).resized(parts.size).tensor())], mask)
            objective = Objective(encoder, parts.tensor, [region], {}, OPTIONS.style_weights, 0.0, 1.0)
            loss = Losses(*objective.evaluate(parts.tensor)[0].tolist()).style
            print(f"{name}: style loss {loss / objective.shares[0]:.3g} from {style.stem}")
    same = np.asarray(load(content.name).resize(kept.size, Image.Resampling.LANCZOS)) == np.asarray(kept.image)
    inside = white[0, 0].numpy() == 1
    print(f"--keep: {(~same[inside].all(1)).sum()} of {inside.sum()} pixels in the white of the mask differ")


if __name__ == "__main__":
    overview()
    ratios()
    content_layers()
    colors()
    regions()

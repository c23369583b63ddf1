"""Draws the pictures of the README and of docs/: `python docs/pictures.py` (about two minutes on four cores)."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from styletransfer import Options, stylize

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES, PICTURES = ROOT / "examples", ROOT / "docs" / "pictures"
OPTIONS = Options(model="vgg19-lite")
HEIGHT, GAP = 320, 8


def sheet(rows: list[list[tuple[str, Image.Image]]], path: Path) -> None:
    """Rows of labelled pictures, all scaled to one height."""
    font = ImageFont.load_default(18)
    scaled = [[(label, p.resize((round(p.width * HEIGHT / p.height), HEIGHT))) for label, p in row] for row in rows]
    width = max(sum(p.width + GAP for _, p in row) - GAP for row in scaled)
    height = sum(HEIGHT + GAP + (26 if any(label for label, _ in row) else 0) for row in rows) - GAP
    result, y = Image.new("RGB", (width, height), "white"), 0
    draw = ImageDraw.Draw(result)
    for row in scaled:
        x = 0
        for label, picture in row:
            result.paste(picture, (x, y))
            draw.text((x + 2, y + HEIGHT + 3), label, "black", font)
            x += picture.width + GAP
        y += HEIGHT + GAP + (26 if any(label for label, _ in row) else 0)
    path.parent.mkdir(exist_ok=True)
    result.save(path, quality=90)
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


if __name__ == "__main__":
    overview()
    ratios()
    content_layers()

"""Write sample clips: a pan over a drawn landscape, a balloon that flies before it, a zoom into a photo, a still clip,
and one of two kinds with a cut. They are drawn or made from the photos of examples/, so that everybody has them.

    python examples/draw_clips.py FOLDER                         all of them, two seconds each
    python examples/draw_clips.py FOLDER --clips pan zoom --size 160x90 --frames 500 --ending .mkv
"""

import argparse
import math
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from styletransfer.video.clips import write_clip

EXAMPLES = Path(__file__).resolve().parent
RATE = 25
#: The width of the landscape in units of a frame's, and the factor by which everything is drawn larger.
WIDE, FINE = 1.6, 3

Window = tuple[float, float, float, float]
Scene = Callable[[float], Image.Image]


def landscape(width: int, height: int) -> Image.Image:
    """Draw sky, sun, hills, houses and trees."""
    random = np.random.default_rng(7)
    rows = np.linspace(0, 1, height)[:, None, None]
    sky = (1 - rows) * (90, 150, 215) + rows * (250, 215, 170)
    image = Image.fromarray(np.broadcast_to(sky, (height, width, 3)).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    unit = height / 100
    draw.ellipse([width * 0.7, 10 * unit, width * 0.7 + 16 * unit, 26 * unit], fill=(255, 240, 150))
    for layer, color in enumerate(((120, 140, 170), (90, 130, 100), (70, 105, 60))):
        phases = random.uniform(0, 6.3, 4)
        line = [
            (
                x,
                height * (0.5 + 0.13 * layer)
                + unit * sum(9 / k * math.sin(k * 6.3 * x / width + phases[k - 1]) for k in (1, 2, 3, 4)),
            )
            for x in range(0, width + 1, max(1, width // 400))
        ]
        draw.polygon([*line, (width, height), (0, height)], fill=color)
    for x in np.sort(random.uniform(0, width, 14)):
        base, size = height * random.uniform(0.82, 0.95), unit * random.uniform(9, 15)
        wall = tuple(int(v) for v in random.integers((170, 140, 110), (245, 225, 200)))
        draw.rectangle([x, base - size, x + 1.2 * size, base], fill=wall)
        draw.polygon(
            [(x - 0.15 * size, base - size), (x + 0.6 * size, base - 1.7 * size), (x + 1.35 * size, base - size)],
            fill=(150, 60, 45),
        )
        for column in (0.2, 0.7):
            draw.rectangle(
                [x + column * size, base - 0.75 * size, x + (column + 0.28) * size, base - 0.4 * size],
                fill=(60, 70, 90),
            )
        tree = x - random.uniform(0.8, 1.6) * size
        draw.rectangle([tree - 0.07 * size, base - size, tree + 0.07 * size, base], fill=(90, 60, 40))
        draw.ellipse([tree - 0.4 * size, base - 1.9 * size, tree + 0.4 * size, base - 0.7 * size], fill=(50, 95, 50))
    return image


def balloon(size: int) -> Image.Image:
    image = Image.new("RGBA", (size, size))
    draw = ImageDraw.Draw(image)
    for i, color in enumerate(("#c8323c", "#f0d060", "#3c64aa", "#f0d060", "#c8323c")):
        inset = size * (0.2 + 0.06 * i)
        draw.ellipse([inset, 0, size - inset, 0.72 * size], fill=color)
    draw.line([(0.3 * size, 0.6 * size), (0.43 * size, 0.86 * size)], fill="#402818", width=max(1, size // 50))
    draw.line([(0.7 * size, 0.6 * size), (0.57 * size, 0.86 * size)], fill="#402818", width=max(1, size // 50))
    draw.rectangle([0.42 * size, 0.85 * size, 0.58 * size, size - 1], fill="#705030")
    return image


def look(image: Image.Image, window: Window, size: tuple[int, int]) -> Image.Image:
    """Return the part of an image within left, top, right, bottom, in fractional pixels."""
    return image.resize(size, Image.Resampling.LANCZOS, box=window)


def make_scenes(size: tuple[int, int]) -> dict[str, Scene]:
    """Return by name the functions from a share of the clip, 0 to 1, to its frame."""
    width, height = size[0] * FINE, size[1] * FINE
    wide = landscape(round(WIDE * width), height)
    photo = Image.open(EXAMPLES / "coffee.jpg").convert("RGB")
    flying = balloon(height // 3)

    def pan(t: float) -> Image.Image:
        left = (WIDE - 1) * width * t
        return look(wide, (left, 0, left + width, height), size)

    def move(t: float) -> Image.Image:
        image = wide.crop((0, 0, width, height))
        place = round(width * (0.75 * t)), round(height * (0.3 - 0.2 * math.sin(3 * t)))
        image.paste(flying, place, flying)
        return look(image, (0, 0, width, height), size)

    def zoom(t: float) -> Image.Image:
        part = 0.95 - 0.25 * t
        w = part * min(photo.width, photo.height * size[0] / size[1])
        h = w * size[1] / size[0]
        left, top = (photo.width - w) * (0.2 + 0.6 * t), (photo.height - h) * 0.5
        return look(photo, (left, top, left + w, top + h), size)

    def sample(t: float) -> Image.Image:
        return move(t / 0.6) if t < 0.6 else zoom((t - 0.6) / 0.4)

    return {"pan": pan, "move": move, "zoom": zoom, "still": lambda _: pan(0.3), "sample": sample}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    names = "pan", "move", "zoom", "still", "sample"
    parser.add_argument("--clips", nargs="+", choices=names, default=names)
    parser.add_argument("--size", default="480x270")
    parser.add_argument("--frames", type=int, default=2 * RATE)
    parser.add_argument("--ending", default=".mp4", help="as of the command's outputs; .mkv loses nothing")
    args = parser.parse_args()
    width, height = map(int, args.size.split("x"))
    args.folder.mkdir(parents=True, exist_ok=True)
    scenes = make_scenes((width, height))
    for name in args.clips:
        path, last = args.folder / f"{name}{args.ending}", max(1, args.frames - 1)
        frames = ((number, scenes[name](number / last)) for number in range(args.frames))
        write_clip(path, frames, Fraction(1, RATE), Fraction(RATE))
        print(path)


if __name__ == "__main__":
    main()

"""Draw the style images of this folder: ``python examples/draw_styles.py``, or some, by name.

Each image is made of geometry and seeded random numbers only, so that every run of this script draws the same ones.
They are meant as *style* inputs: plenty of texture at every scale from two pixels to a hundred, a few strong colors,
and no large empty areas.

All measures are in pixels of the finished image; it is drawn on a canvas ``SCALE`` times as large and downsampled at
the end, so that edges are smooth.
"""

import argparse
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

SCALE = 2
FOLDER = Path(__file__).resolve().parent

Array = np.ndarray


# ---------------------------------------------------------------------------------------------------------------
# Helpers of all images
# ---------------------------------------------------------------------------------------------------------------


def palette(*hex_colors: str) -> Array:
    """Return colors such as ``"1d3f8a"`` as a float array of shape (n, 3)."""
    return np.array([[int(color[i : i + 2], 16) for i in (0, 2, 4)] for color in hex_colors], dtype=float)


def blend(colors: Array, t: Array | float) -> Array:
    """Look up ``t`` (0 to 1) on the color ramp ``colors``, mixing neighbors."""
    t = np.clip(t, 0, 1) * (len(colors) - 1)
    low = np.minimum(np.asarray(t, dtype=int), len(colors) - 2)
    part = (t - low)[..., None]
    return colors[low] * (1 - part) + colors[low + 1] * part


def resize(values: Array, width: int, height: int) -> Array:
    """Stretch a 2-D array smoothly to ``width`` by ``height``."""
    picture = Image.fromarray(values.astype(np.float32))
    return np.asarray(picture.resize((width, height), Image.Resampling.BICUBIC), dtype=float)


def noise(width: int, height: int, cell: float, rng: np.random.Generator, stretch: float = 1.0) -> Array:
    """Return a smooth random field of mean 0 and deviation 1, of blobs ``cell`` high and ``cell * stretch`` wide."""
    rows, columns = math.ceil(height / cell) + 3, math.ceil(width / (cell * stretch)) + 3
    field = resize(rng.standard_normal((rows, columns)), width, height)
    return (field - field.mean()) / field.std()


def blur(values: Array, radius: float) -> Array:
    """Return a Gaussian blur of values between 0 and 255."""
    picture = Image.fromarray(np.clip(values, 0, 255).astype(np.uint8))
    return np.asarray(picture.filter(ImageFilter.GaussianBlur(radius)), dtype=float)


def relief(height: Array, depth: float) -> Array:
    """Light a height map from the upper left; return brightness around 0, limited to -1..1."""
    down, right = np.gradient(height)
    return np.tanh(-(right + down) * depth)


def light_up(color: Array, light: Array, strength: float) -> Array:
    """Darken ``color`` where ``light`` is negative; move it toward white where it is positive."""
    light = (light * strength)[..., None]
    return np.where(light < 0, color * (1 + light), color + (255 - color) * light)


def save(color: Array, name: str) -> None:
    """Downsample the canvas to its final size and save it as ``name``.jpg in this folder."""
    picture = Image.fromarray(np.clip(color, 0, 255).round().astype(np.uint8))
    picture = picture.filter(ImageFilter.GaussianBlur(0.3 * SCALE))
    picture = picture.resize((picture.width // SCALE, picture.height // SCALE), Image.Resampling.LANCZOS)
    picture.save(FOLDER / f"{name}.jpg", quality=92, optimize=True)


# ---------------------------------------------------------------------------------------------------------------
# swirls: oil paint in thick strokes that follow a whirling night sky
# ---------------------------------------------------------------------------------------------------------------

SWIRLS_SIZE = 1024, 816
NIGHT = palette("080c30", "12206a", "1a3f9e", "2c70c2", "67aed6", "bfe0d8", "f6f1c8")
STAR = palette("fffbe0", "ffe35a", "f9a01c", "ec6c18", "ffd24a", "f3d868", "7cc3a2", "2f86b8", "1d4aa4")
ACCENT = palette("1f8a8c", "3fb5a0", "5a4fa8", "e0b04a")
LAND = palette("060b26", "0d2346", "12504f", "3a7d55", "a9a24a", "e3a83a")


@dataclass
class Vortex:
    """A whirl in the sky: ``x``, ``y``, its radius, its sense of rotation and whether it glows like a star."""

    x: float
    y: float
    radius: float
    turn: float
    glows: bool


VORTICES = [
    Vortex(392, 292, 205, 1.0, False),
    Vortex(640, 390, 135, -1.0, False),
    Vortex(868, 150, 140, 1.0, True),
    Vortex(112, 118, 88, -1.0, True),
    Vortex(628, 100, 66, 1.0, True),
    Vortex(330, 62, 48, -1.0, True),
    Vortex(100, 412, 66, 1.0, True),
    Vortex(905, 415, 62, -1.0, True),
    Vortex(258, 500, 44, 1.0, True),
]


def skyline(x: Array) -> Array:
    """Return the height of the hills' upper edge at ``x``."""
    return 640 - 52 * np.sin(x / 150 + 0.6) - 30 * np.sin(x / 63 + 2.0) - 0.06 * (x - 512)


def swirl_flow(points: Array) -> Array:
    """Return the unit vectors along which the brush moves at ``points`` (n, 2)."""
    x, y = points.T
    flow = np.stack([np.full_like(x, 0.8), 0.45 * np.sin(x / 95 + y / 160)], axis=1)
    for v in VORTICES:
        dx, dy = x - v.x, y - v.y
        distance = np.hypot(dx, dy) + 1e-6
        pull = 4.0 * np.exp(-((distance / v.radius) ** 2)) * v.turn / distance
        inward = 0.0 if v.glows else 0.22
        flow += np.stack([-dy - inward * dx, dx - inward * dy], axis=1) * pull[:, None]
    slope = (skyline(x + 2) - skyline(x - 2)) / 4
    land = y > skyline(x)
    flow[land] = np.stack([np.ones_like(x), slope + 0.25 * np.sin(x / 40 + y / 30)], axis=1)[land]
    return flow / (np.linalg.norm(flow, axis=1, keepdims=True) + 1e-9)


def swirl_colors(points: Array, field: Array, rng: np.random.Generator) -> Array:
    """Choose the colors of strokes that start at ``points``; ``field`` is low-frequency noise over the image."""
    x, y = points.T
    height, width = field.shape
    slow = field[np.clip(y, 0, height - 1).astype(int), np.clip(x, 0, width - 1).astype(int)]
    depth = y - skyline(x)
    tone = 0.30 + 0.10 * slow + 0.12 * rng.standard_normal(len(x)) + 0.34 * np.exp(-(((depth + 62) / 34) ** 2))
    for v in VORTICES:
        if not v.glows:
            distance = np.hypot(x - v.x, y - v.y)
            phase = 2 * np.arctan2(y - v.y, x - v.x) + 2 * 0.22 * v.turn * np.log(distance + 1) + distance / 22
            tone += 0.36 * np.exp(-((distance / v.radius) ** 4)) * (0.3 + np.sin(phase))
    colors = blend(NIGHT, tone)
    rare = rng.uniform(size=len(x)) < 0.06
    colors[rare] = blend(ACCENT, rng.uniform(size=len(x)))[rare]
    for v in VORTICES:
        if v.glows:
            ring = np.hypot(x - v.x, y - v.y) / v.radius + 0.07 * rng.standard_normal(len(x))
            inside = ring < 1
            colors[inside] = blend(STAR, ring)[inside]
    bands = 0.38 + 0.3 * np.sin(depth / 11 + slow) + 0.18 * rng.standard_normal(len(x))
    land = depth > 0
    colors[land] = blend(LAND, bands)[land]
    return colors


def trace(starts: Array, length: float, steps: int) -> Array:
    """Follow the flow from ``starts`` in both directions; return paths of shape (n, 2 * steps + 1, 2)."""
    halves = []
    for sign in (-1, 1):
        points, path = starts.copy(), []
        for _ in range(steps):
            step = sign * length / (2 * steps)
            points = points + step * swirl_flow(points + step / 2 * swirl_flow(points))
            path.append(points)
        halves.append(path)
    return np.stack([*halves[0][::-1], starts, *halves[1]], axis=1)


def brush_stroke(draw: ImageDraw.ImageDraw, path: Array, width: float, colors: Array, rng: np.random.Generator) -> None:
    """Pull a loaded brush along ``path``: one line per bristle, from the first color to the second across.

    The canvas has four channels: the fourth is the thickness of the paint, by which it is lit at the end.
    """
    count = len(path)
    tangent = np.gradient(path, axis=0)
    normal = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
    taper = np.sin(np.linspace(0.25, math.pi - 0.12, count)) ** 0.6
    bristles = max(3, round(width / 1.5))
    load = rng.uniform(110, 190)
    for across in np.linspace(-1, 1, bristles):
        first, last = rng.integers(0, count // 4, 2)
        line = (path + normal * (across * width / 2 * taper)[:, None])[first : count - last] * SCALE
        mix = 0.5 + 0.5 * across + 0.15 * rng.standard_normal()
        color = blend(colors, mix) * (1 + 0.09 * rng.standard_normal())
        thick = load + 30 * abs(across) ** 3 + 22 * rng.standard_normal()
        paint = tuple(int(c) for c in np.clip([*color, thick], 0, 255))
        draw.line([tuple(p) for p in line], fill=paint, width=round(1.9 * SCALE), joint="curve")


def paint_layer(canvas: Image.Image, count: int, width: float, length: float, field: Array, seed: int) -> None:
    """Cover the canvas evenly with about ``count`` strokes of about the given width and length."""
    rng = np.random.default_rng(seed)
    draw = ImageDraw.Draw(canvas)
    pitch = math.sqrt(SWIRLS_SIZE[0] * SWIRLS_SIZE[1] / count)
    grid = np.mgrid[-1 : SWIRLS_SIZE[0] / pitch + 1, -1 : SWIRLS_SIZE[1] / pitch + 1].reshape(2, -1).T
    starts = rng.permutation((grid + rng.uniform(-0.6, 0.6, grid.shape)) * pitch)
    paths = trace(starts, length, 9)
    pairs = np.stack([swirl_colors(starts, field, rng), swirl_colors(starts, field, rng)], axis=1)
    for path, pair in zip(paths, pairs, strict=True):
        middle, reach = len(path) // 2, rng.integers(4, 10)
        brush_stroke(draw, path[middle - reach : middle + reach + 1], width * rng.uniform(0.7, 1.2), pair, rng)


def swirls() -> None:
    """Paint a whirling night sky in layers, from a broad brush to a fine one, and light the relief of the paint."""
    width, height = SWIRLS_SIZE
    field = noise(width, height, 110, np.random.default_rng(1))
    canvas = Image.new("RGBA", (width * SCALE, height * SCALE), (11, 16, 56, 128))
    paint_layer(canvas, 900, 34, 190, field, 2)
    paint_layer(canvas, 2000, 17, 120, field, 3)
    paint_layer(canvas, 3000, 8, 70, field, 4)
    layers = np.asarray(canvas, dtype=float)
    light = relief(blur(layers[..., 3], 1.3), 0.07)
    save(light_up(layers[..., :3], light, 0.45), "swirls")


# ---------------------------------------------------------------------------------------------------------------
# mosaic: rows of small stones that follow the outlines of a landscape under a burning sun
# ---------------------------------------------------------------------------------------------------------------

MOSAIC_SIZE = 1024, 816
SUN_PLACE = 664, 236
GROUT = palette("2b2320")[0]
STONES = {
    "n": palette("0f2d6e", "123a8c", "1b4a9e"),  # night blue
    "b": palette("1f4fa6", "2c66c4", "5a96de"),  # blue
    "t": palette("1b8499", "2aa3b4", "62cccb"),  # turquoise
    "d": palette("0a3644", "0f4c5c", "1f7482"),  # deep sea
    "v": palette("46307a", "5b3f94", "8460ba"),  # violet
    "w": palette("cfe3dc", "e9efdc", "f8f4e6"),  # white
    "y": palette("f2a31e", "ffc93a", "ffe48c"),  # gold
    "o": palette("d8501c", "ec6c22", "f8963c"),  # orange
    "r": palette("7c1420", "a82430", "d8402c"),  # red
    "p": palette("5d2148", "84305f", "ac4c7c"),  # plum
    "k": palette("cc6a74", "e58a8a", "f4b8a8"),  # pink
    "g": palette("1f5030", "2f6b3c", "56924a"),  # green
    "l": palette("8fa03a", "b7bf4a", "dcd96e"),  # lime
    "s": palette("d8bc84", "eedcaa", "faf2d4"),  # sand
}
# Letters are the colors of the rows of stones, from the outline inward.
SKY_ROWS = "bbttwywttbbnnnvv"
# Base line, height, length and shift of the waves that form a range of hills, and its rows.
HILLS = [
    (520, 46, 118, 0.3, "ppkkyppkkp"),
    (588, 58, 140, 2.4, "rrooyyoorroys"),
    (664, 44, 105, 4.4, "ggllsllggggl"),
    (742, 22, 58, 1.2, "ddwttwddnw"),
]
# Which range of hills a tree stands on, the middle of its crown, and the crown's radius.
TREES = [(0, 170, 478, 82), (0, 900, 486, 76), (1, 322, 540, 62)]


@dataclass
class Region:
    """A part of the mosaic: where it is, along which level lines its rows run, their colors and the stone size.

    ``rows`` names the color (see ``STONES``) of each row in turn, starting where ``level`` is 0, over and over.
    """

    mask: Array
    level: Array
    rows: str
    stone: float


def hill(x: Array, base: float, height: float, length: float, shift: float) -> Array:
    """Return the upper edge of a range of hills."""
    return base - height * np.sin(x / length + shift) - 0.3 * height * np.sin(x / length * 2.3 + 2 * shift)


def tree(x: Array, y: Array, place: tuple[float, float], size: float) -> list[Region]:
    """Return a trunk and a round crown of rings."""
    away = np.hypot(x - place[0], y - place[1])
    trunk = (np.abs(x - place[0]) < 7) & (y > place[1]) & (y < place[1] + size + 60)
    return [Region(trunk, x - place[0] + 7, "r", 7.0), Region(away < size, size - away, "rroyysyoro", 9.0)]


def mosaic_regions(x: Array, y: Array) -> list[Region]:
    """Return the regions of the image from back to front; later ones cover earlier ones."""
    dx, dy = x - SUN_PLACE[0], y - SUN_PLACE[1]
    radius, angle = np.hypot(dx, dy), np.arctan2(dy, dx)
    arcs = radius + 12 * np.sin(5 * angle + 0.6) + 7 * np.sin(9 * angle)
    flames = 132 + 38 * np.abs(((angle + 0.012 * radius) * 9 / math.pi) % 2 - 1)
    regions = [
        Region(radius > 0, arcs, SKY_ROWS, 11.5),
        Region(radius < flames, radius, "oor", 9.5),
        Region(radius < flames - 36, radius, "yyo", 9.0),
        Region(radius < 80, 80 - radius, "roysyyoyss", 8.0),
    ]
    for number, (base, height, length, shift, rows) in enumerate(HILLS):
        depth = y - hill(x, base, height, length, shift)
        steep = np.gradient(depth, axis=1) * SCALE
        regions.append(Region(depth > 0, depth / np.sqrt(1 + steep**2), rows, 12.5))
        for hill_number, tree_x, tree_y, size in TREES:
            if hill_number == number:
                regions += tree(x, y, (tree_x, tree_y), size)
    return regions


def lay_out(regions: list[Region], shape: tuple[int, int], rng: np.random.Generator) -> dict[str, Array]:
    """Return for every pixel its region, its row of stones, the direction of that row and the stone size."""
    height, width = shape
    wobble = 1.3 * noise(width, height, 60 * SCALE, rng)
    plan = {name: np.zeros(shape) for name in ("region", "row", "angle", "stone")}
    for index, region in enumerate(regions):
        level = np.maximum(region.level + wobble * np.clip(region.level / region.stone, 0, 1), 0)
        down, right = np.gradient(region.level)
        values = {
            "region": index,
            "row": np.floor(level / region.stone),
            "angle": np.arctan2(down, right),
            "stone": region.stone,
        }
        for name, value in values.items():
            plan[name] = np.where(region.mask, value, plan[name])
    return plan


def scatter_stones(stone: Array, rng: np.random.Generator) -> Array:
    """Scatter one stone per ``stone`` squared of area, evenly (a jittered grid for each size)."""
    height, width = stone.shape
    places = []
    for size in np.unique(stone):
        pitch = size * SCALE
        rows, columns = np.mgrid[0 : height / pitch, 0 : width / pitch]
        spots = np.stack([columns, rows], axis=-1).reshape(-1, 2) + rng.uniform(0, 1, (rows.size, 2))
        spots = spots * pitch
        spots = spots[(spots[:, 0] < width) & (spots[:, 1] < height)]
        inside = stone[spots[:, 1].astype(int), spots[:, 0].astype(int)] == size
        places.append(spots[inside])
    return np.concatenate(places)


def claim(stones: Array, plan: dict[str, Array]) -> Array:
    """Give every pixel to its nearest stone; return the stones' numbers.

    Distance is measured in rectangles turned along the row (after Hausner, *Simulating Decorative Mosaics*, 2001), and
    it costs extra to cross into another row or another region, so that stones line up and keep to the outlines.
    """
    height, width = plan["row"].shape
    best = np.full((height, width), np.inf, dtype=np.float32)
    owner = np.zeros((height, width), dtype=np.int32)
    for number, (x, y) in enumerate(stones):
        column, line = min(int(x), width - 1), min(int(y), height - 1)
        size, angle = plan["stone"][line, column] * SCALE, plan["angle"][line, column]
        reach = int(1.7 * size)
        window = np.s_[max(line - reach, 0) : line + reach + 1, max(column - reach, 0) : column + reach + 1]
        dy = np.arange(window[0].start, min(window[0].stop, height))[:, None] - y
        dx = np.arange(window[1].start, min(window[1].stop, width))[None, :] - x
        across, along = dx * math.cos(angle) + dy * math.sin(angle), dy * math.cos(angle) - dx * math.sin(angle)
        distance = np.maximum(np.abs(along), 0.45 * np.abs(across)) + 0.12 * np.hypot(across, along)
        distance += 0.9 * size * (plan["row"][window] != plan["row"][line, column])
        distance += 3.0 * size * (plan["region"][window] != plan["region"][line, column])
        nearer = distance < best[window]
        best[window][nearer] = distance[nearer]
        owner[window][nearer] = number
    return owner


def centers(owner: Array, stones: Array) -> Array:
    """Move every stone to the center of its pixels."""
    height, width = owner.shape
    count = np.bincount(owner.ravel(), minlength=len(stones))
    x = np.bincount(owner.ravel(), np.tile(np.arange(width), height), len(stones))
    y = np.bincount(owner.ravel(), np.repeat(np.arange(height), width), len(stones))
    middle = np.stack([x, y], axis=1) / np.maximum(count, 1)[:, None]
    return np.where(count[:, None] > 0, middle, stones)


def stone_colors(stones: Array, plan: dict[str, Array], regions: list[Region], rng: np.random.Generator) -> Array:
    """Pick each stone's color: its row decides the hue, chance the shade; a few stray into the next row's hue."""
    colors = np.zeros((len(stones), 3))
    for number, (x, y) in enumerate(stones.astype(int)):
        rows = regions[int(plan["region"][y, x])].rows
        row = int(plan["row"][y, x]) + (rng.uniform() < 0.06)
        colors[number] = blend(STONES[rows[row % len(rows)]], np.float64(rng.uniform()))
    return colors * (1 + 0.10 * rng.standard_normal((len(stones), 1))) + 5 * rng.standard_normal(colors.shape)


def find_joints(owner: Array) -> Array:
    """Return 255 along the joints between stones, 0 elsewhere."""
    edge = np.zeros(owner.shape, dtype=np.uint8)
    edge[:, 1:] |= owner[:, 1:] != owner[:, :-1]
    edge[1:] |= owner[1:] != owner[:-1]
    return np.asarray(Image.fromarray(edge * 255).filter(ImageFilter.MaxFilter(3)))


def light_on_stones(owner: Array, stones: Array, joints: Array, rough: Array, rng: np.random.Generator) -> Array:
    """Return the brightness of the stones: rounded edges, a slight tilt of each stone, and a rough surface."""
    height, width = owner.shape
    y, x = np.mgrid[0:height, 0:width]
    offset = np.stack([x, y]) - stones.T[:, owner]
    tilt = rng.standard_normal((2, len(stones)))
    slope = (tilt[:, owner] * offset).sum(axis=0) / (12 * SCALE)
    edges = relief(255 - blur(joints, 2.5), 0.012)
    return np.clip(0.5 * edges + 0.13 * slope + 0.035 * rough, -1, 1)


def mosaic() -> None:
    """Lay a sun over hills in small stones, light their uneven faces, and fill the joints."""
    rng = np.random.default_rng(11)
    width, height = MOSAIC_SIZE[0] * SCALE, MOSAIC_SIZE[1] * SCALE
    y, x = np.mgrid[0:height, 0:width] / SCALE
    regions = mosaic_regions(x, y)
    plan = lay_out(regions, (height, width), rng)
    stones = scatter_stones(plan["stone"], rng)
    for _ in range(9):
        owner = claim(stones, plan)
        stones = centers(owner, stones)

    color = stone_colors(stones, plan, regions, rng)[owner]
    rough = noise(width, height, 5, rng) + 0.7 * noise(width, height, 2, rng)
    joints = find_joints(owner)
    color = light_up(color, light_on_stones(owner, stones, joints, rough, rng), 0.8)
    gap = np.clip(blur(joints, 1.0) / 200, 0, 1)[..., None]
    save(color * (1 - gap) + GROUT * (1 + 0.25 * rough[..., None]) * gap, "mosaic")


# ---------------------------------------------------------------------------------------------------------------
# woodblock: a breaking wave, printed in a few flat blues with carved lines on grained paper
# ---------------------------------------------------------------------------------------------------------------

WOODBLOCK_SIZE = 1024, 736
INK = (16, 33, 66)
BLUES = palette("14305f", "1d4a82", "2f6ea3", "6ea3bf", "a9c9cf", "e6e3cd")
FOAM = (242, 236, 216)
FOAM_SHADE = (166, 196, 200)
SKY_RAMP = palette("4a5f78", "a9a793", "dcc99b", "ead8ac", "efd3a6", "e6b894")
SUN = (206, 72, 48)
CLOUD = palette("f1e4c2", "d9c6a0", "e9c9a6", "b9b8a4", "efdcb4")
CLOUD_LINE = (112, 104, 98)


def smooth_curve(points: Sequence[tuple[float, float]], count: int = 160) -> Array:
    """Return a Catmull-Rom curve through ``points``, as ``count`` points evenly spaced along it."""
    knots = np.array([points[0], *points, points[-1]], dtype=float)
    t = np.linspace(0, 1, 24, endpoint=False)[:, None]
    parts = []
    for a, b, c, d in zip(knots, knots[1:], knots[2:], knots[3:], strict=False):
        parts.append(b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a))))
    line = np.concatenate([*parts, knots[-1:]])
    traveled = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(line, axis=0), axis=1))])
    stops = np.linspace(0, traveled[-1], count)
    return np.stack([np.interp(stops, traveled, line[:, axis]) for axis in (0, 1)], axis=1)


def normals(line: Array) -> Array:
    """Return the unit normals on the left of a line (as seen on the screen, when walking along it)."""
    tangent = np.gradient(line, axis=0)
    normal = np.stack([tangent[:, 1], -tangent[:, 0]], axis=1)
    return normal / (np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9)


def ribbon(line: Array, widths: Array) -> Array:
    """Return the outline of a line that is ``widths`` wide at its points."""
    side = normals(line) * (widths / 2)[:, None]
    return np.concatenate([line + side, (line - side)[::-1]])


def fill(draw: ImageDraw.ImageDraw, outline: Array, color: Sequence[float]) -> None:
    """Fill a polygon in image coordinates."""
    draw.polygon([tuple(p) for p in outline * SCALE], fill=tuple(int(c) for c in color))


def carved_line(draw: ImageDraw.ImageDraw, line: Array, width: float, color: Sequence[float]) -> None:
    """Draw a line that swells from nothing to ``width`` and ends in a point, as a knife leaves it."""
    swell = np.sin(np.linspace(0, math.pi, len(line))) ** 0.5
    fill(draw, ribbon(line, width * swell + 0.3), color)


def striped_body(
    draw: ImageDraw.ImageDraw, back: Array, face: Array, colors: Array, line_color: Sequence[float], seed: int
) -> None:
    """Fill the space between two lines with stripes that run along both, each with its carved edge.

    The first color lies at ``back``, the last at ``face``.  Light stripes come out narrower than dark ones.
    """
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.6, 1.4, len(colors)) * np.where(colors.mean(axis=1) > 140, 0.6, 1.0)
    stops = np.concatenate([[0], np.cumsum(weights) / weights.sum()])
    wobble = 0.012 * np.sin(np.linspace(0, 9, len(back)) + seed)[:, None]
    lines = [back + (face - back) * np.clip(stop + wobble * (0 < stop < 1), 0, 1) for stop in stops]
    finest = 0.22 * np.linalg.norm(face - back, axis=1).max() / len(colors)
    for upper, lower, color in zip(lines, lines[1:], colors, strict=False):
        fill(draw, np.concatenate([upper, lower[::-1]]), color)
        shade = color * 0.72 if color.mean() > 90 else color * 0.6 + 70
        for part in (0.25, 0.5, 0.75):
            first, last = sorted(rng.integers(0, len(back), 2))
            if last - first > 12:
                carved_line(
                    draw, (upper + (lower - upper) * part)[first:last], min(rng.uniform(0.8, 2.0), finest), shade
                )
    for line in lines:
        carved_line(draw, line, min(rng.uniform(1.4, 3.2), finest), line_color)


def claw(start: Array, angle: float, length: float, curl: float, depth: int, rng: np.random.Generator) -> list[Array]:
    """Grow one finger of foam that curls over and carries smaller fingers; return center lines with widths (n, 3)."""
    count = 18
    turns = angle + curl * np.linspace(0, 1, count) ** 1.6
    steps = np.stack([np.cos(turns), np.sin(turns)], axis=1) * length / count
    line = start + np.cumsum(steps, axis=0)
    width = 0.30 * length * (1 - np.linspace(0, 1, count) ** 1.3) + 0.4
    fingers = [np.column_stack([line, width])]
    if depth > 0:
        for stop, side in ((4, -0.9), (8, -0.6), (10, 0.7)):
            turn = turns[stop] + (side + rng.uniform(-0.3, 0.3)) * math.copysign(1, curl)
            fingers += claw(line[stop], turn, length * rng.uniform(0.4, 0.55), curl * 1.15, depth - 1, rng)
    return fingers


def draw_foam(draw: ImageDraw.ImageDraw, fingers: list[Array]) -> None:
    """Draw all fingers as one white mass with one outline: first everything dark and wider, then the white."""
    for extra, color in ((3.2, INK), (0.0, FOAM)):
        for finger in fingers:
            line, width = finger[:, :2], finger[:, 2] + extra
            fill(draw, ribbon(line, width), color)
            for (x, y), size in zip(line[::2] * SCALE, width[::2] * SCALE / 2, strict=True):
                draw.ellipse((x - size, y - size, x + size, y + size), fill=color)
    for finger in fingers:
        if finger[0, 2] > 5:
            carved_line(draw, finger[2:-2, :2], 0.22 * finger[0, 2], FOAM_SHADE)


def crest(line: Array, size: float, spacing: int, curl: float, seed: int) -> list[Array]:
    """Return fingers of foam that rise from a line and grow toward its end."""
    rng = np.random.default_rng(seed)
    outward, tangent = normals(line) * np.sign(line[-1, 0] - line[0, 0]), np.gradient(line, axis=0)
    fingers = []
    for stop in range(0, len(line), spacing):
        grow = 0.45 + 0.55 * stop / len(line)
        heading = math.atan2(tangent[stop, 1], tangent[stop, 0])
        lean = math.atan2(outward[stop, 1], outward[stop, 0])
        angle = heading + 0.55 * ((lean - heading + math.pi) % (2 * math.pi) - math.pi) + rng.uniform(-0.3, 0.3)
        fingers += claw(line[stop], angle, size * grow * rng.uniform(0.8, 1.25), curl, 2, rng)
    return fingers


def spray(draw: ImageDraw.ImageDraw, center: tuple[float, float], reach: float, count: int, seed: int) -> None:
    """Scatter drops of foam, each with a thin outline so that it shows before sky and water alike."""
    rng = np.random.default_rng(seed)
    for x, y in rng.normal(center, reach, (count, 2)) * SCALE:
        size = rng.uniform(0.8, 3.6) * SCALE
        draw.ellipse((x - size, y - size, x + size, y + size), fill=FOAM, outline=INK, width=SCALE)


def cloud(draw: ImageDraw.ImageDraw, x: float, y: float, length: float, height: float, seed: int) -> None:
    """Draw a long bank of mist: two or three tongues with pointed ends, shaded by lines along them."""
    rng = np.random.default_rng(seed)
    for tongue in range(3):
        along = np.linspace(-0.5, 0.5, 120)
        middle = x + rng.uniform(-0.25, 0.25) * length
        line = np.stack([middle + along * length, y + tongue * height * 0.7 + 4 * np.sin(along * 9 + seed)], axis=1)
        half = height / 2 * np.cos(along * math.pi)[:, None] ** 0.7 * [[0, 1]]
        colors = CLOUD[rng.permutation(len(CLOUD))]
        striped_body(draw, line - half, line + half, colors, CLOUD_LINE, seed + tongue)
        length *= 0.72


def print_sky(width: int, height: int) -> Image.Image:
    """Return a graded sky (bokashi: ink wiped thinner and thinner over the block), with a sun and banks of mist."""
    ramp = blend(SKY_RAMP, np.linspace(0, 1.25, height * SCALE))
    canvas = Image.fromarray(np.repeat(ramp[:, None], width * SCALE, axis=1).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    rng = np.random.default_rng(21)
    for level in np.arange(6, 450, 5.5):
        center, length = rng.uniform(0, width), rng.uniform(300, 1200)
        across = np.linspace(center - length / 2, center + length / 2, 90)
        line = np.stack([across, level + 6 * np.sin(across / 90 + level / 70)], axis=1)
        tone = blend(SKY_RAMP, np.float64(1.25 * level / height)) * rng.choice([0.82, 0.88, 1.06])
        carved_line(draw, line, rng.uniform(0.8, 3.0), np.clip(tone, 0, 255))
    x, y, r = (np.array([752, 190, 70]) * SCALE).tolist()
    draw.ellipse((x - r, y - r, x + r, y + r), fill=SUN, outline=INK, width=round(1.5 * SCALE))
    for level in np.arange(-0.85, 0.9, 0.11):
        half = math.sqrt(1 - level**2) * rng.uniform(0.6, 0.95)
        across = np.linspace(-half, half, 30)
        line = np.stack([across, level + 0.03 * np.sin(across * 5 + 9 * level)], axis=1) * r + (x, y)
        carved_line(
            draw, line / SCALE, rng.uniform(1.0, 3.0), rng.choice([(226, 104, 66), (178, 50, 40), (236, 140, 90)])
        )
    places = [(150, 60, 520, 40), (880, 60, 560, 44), (800, 222, 480, 36), (40, 206, 330, 36), (520, 356, 520, 34)]
    for seed, (x, y, length, thick) in enumerate(places):
        cloud(draw, x, y, length, thick, 40 + 5 * seed)
    return canvas


def swell(base: float, rise: float, length: float, shift: float, width: int) -> Array:
    """Return the line of a choppy sea: round troughs and pointed crests."""
    x = np.linspace(-60, width + 60, 300)
    chop = (1 - np.abs(np.sin(x / length + shift))) ** 1.4
    return np.stack([x + 0.25 * length * chop, base - rise * chop * (0.75 + 0.25 * np.sin(x / 170 + shift))], axis=1)


def sea(draw: ImageDraw.ImageDraw, width: int) -> None:
    """Draw rows of distant waves, larger as they come nearer, each with a line of foam on its crests."""
    rows = [(440, 18, 26), (470, 28, 38), (512, 38, 50), (566, 50, 66)]
    for row, (base, rise, length) in enumerate(rows):
        top = swell(base, rise, length, 1.3 * row, width)
        bottom = np.stack([top[:, 0], np.full(len(top), 720.0)], axis=1)
        striped_body(draw, top, bottom, BLUES[[5, 2, 0, 4, 1, 0, 3, 0, 2, 5, 1, 0] * 2], INK, 50 + row)
        crests = [i for i in range(1, len(top) - 1) if top[i, 1] < top[i - 1, 1] and top[i, 1] <= top[i + 1, 1]]
        rng = np.random.default_rng(60 + row)
        fingers = [
            f for i in crests for turn in (-2.2, -1.5, -0.7) for f in claw(top[i], turn, 0.8 * rise, 2.4, 1, rng)
        ]
        draw_foam(draw, fingers)


def press(color: Array, rng: np.random.Generator) -> Array:
    """Add the traces of paper and wood: the grain of the block, ink that did not take everywhere, fibers."""
    height, width = color.shape[:2]
    y = np.arange(height)[:, None] / SCALE
    rings = y / 6 + 2.5 * noise(width, height, 130, rng, 4.0) + 0.4 * noise(width, height, 24, rng, 10.0)
    grain = np.sin(2 * math.pi * rings) ** 3 * (0.7 + 0.3 * noise(width, height, 60, rng, 3.0))
    mottle = noise(width, height, 2.5, rng, 1.5) + 0.8 * noise(width, height, 7, rng, 3.0)
    mottle = np.clip(mottle - 1.7 - 0.6 * grain, 0, 1)
    fibre = noise(width, height, 2.5, rng, 7.0)
    darkness = 1 - color.mean(axis=2, keepdims=True) / 255
    color = color * (1 - 0.05 * grain[..., None] * (1.3 - darkness))
    color = color + (palette("efe3c4") - color) * (0.4 * mottle[..., None] * darkness)
    return color + 4.0 * fibre[..., None]


def great_wave(draw: ImageDraw.ImageDraw) -> None:
    """Draw the breaker on the left: stripes from its broad foot to its tip, foam along the crest and under the lip."""
    back = [(-200, 800), (-90, 560), (20, 350), (128, 205), (250, 112), (390, 78), (510, 108), (582, 190), (590, 262)]
    face = [(620, 830), (440, 700), (326, 600), (286, 500), (296, 400), (346, 316), (430, 264), (520, 246), (590, 262)]
    back, face = smooth_curve(back, 200), smooth_curve(face, 200)
    tones = [5, 2, 0, 1, 4, 0, 2, 5, 1, 0, 3, 0, 5, 1, 2, 0, 4, 1, 0, 5, 2, 0]
    striped_body(draw, back, face, BLUES[tones], INK, 8)
    inside = smooth_curve([(120, 290), (190, 205), (285, 145), (390, 122), (480, 150), (548, 214)], 90)
    draw_foam(draw, crest(inside, 52, 8, 2.3, 15))
    rng = np.random.default_rng(20)
    tip = [finger for turn in (-0.3, 0.5, 1.2, 1.9) for finger in claw(back[-9], turn, 92, 1.5, 1, rng)]
    draw_foam(draw, crest(face[110:], 58, 8, 2.2, 9) + tip + crest(back[84:], 84, 6, 2.4, 10))


def second_wave(draw: ImageDraw.ImageDraw) -> None:
    """Draw the smaller breaker on the right, that leans toward the great one."""
    back = [(1180, 330), (1070, 290), (970, 282), (880, 306), (812, 356), (786, 424)]
    face = [(1180, 760), (1020, 720), (930, 620), (880, 510), (846, 440), (786, 424)]
    back, face = smooth_curve(back), smooth_curve(face)
    striped_body(draw, back, face, BLUES[[5, 1, 0, 2, 4, 0, 1, 3, 5, 0, 2, 0, 4, 1, 5, 0]], INK, 6)
    draw_foam(draw, crest(face[115:], 34, 8, -2.2, 16) + crest(back[40:], 62, 7, -2.4, 7))


def foreground(draw: ImageDraw.ImageDraw) -> None:
    """Draw the trough at the viewer's feet, with foam rising behind its edge."""
    near = smooth_curve(
        [(-60, 590), (120, 620), (300, 678), (480, 694), (640, 650), (800, 596), (930, 580), (1090, 610)]
    )
    edge = np.stack([near[:, 0], np.full(len(near), 800.0)], axis=1)
    draw_foam(
        draw,
        crest(near[84:136] + np.array([0, 8]), 64, 3, -2.3, 12) + crest(near[6:62] + np.array([0, 7]), 54, 3, 2.3, 13),
    )
    striped_body(draw, near, edge, BLUES[[5, 1, 4, 0, 2, 0, 5, 1, 0, 3, 1, 0]], INK, 11)


def woodblock() -> None:
    """Print a great wave before a low sun: sky, sea, two breakers, foreground, then the marks of paper and wood."""
    width, height = WOODBLOCK_SIZE
    canvas = print_sky(width, height)
    draw = ImageDraw.Draw(canvas)
    sea(draw, width)
    second_wave(draw)
    great_wave(draw)
    foreground(draw)
    spray(draw, (640, 300), 80, 130, 14)
    spray(draw, (330, 190), 70, 70, 17)
    spray(draw, (760, 470), 40, 40, 18)
    save(press(np.asarray(canvas, dtype=float), np.random.default_rng(19)), "woodblock")


# ---------------------------------------------------------------------------------------------------------------
# ink: mountains by moonlight, in pen strokes that follow the ground and cross where it is dark
# ---------------------------------------------------------------------------------------------------------------

INK_SIZE = 1024, 768
PAPER = palette("e4d5b0", "f1e6ca")
PENS = palette("1a1210", "3a2416", "6a3a1c")
MOON = 706, 168, 76
LAKE = 640


@dataclass
class Scene:
    """Input of the pen: darkness (0 to 1), direction of strokes and part of the scene at each pixel."""

    dark: Array
    angle: Array
    part: Array
    ridges: list[Array]


def ridge(width: int, base: float, rise: float, seed: int) -> Array:
    """Return the jagged upper edge of a chain of mountains, one height for each column."""
    rng = np.random.default_rng(seed)
    line = sum(noise(width, 3, cell, rng)[1] * cell for cell in (190, 80, 34, 12))
    return base - rise * line / np.abs(line).max()


def moonlit_sky(x: Array, y: Array, rng: np.random.Generator) -> Scene:
    """Return clouds that turn around the moon, and the moon with its seas."""
    height, width = x.shape
    away = np.hypot(x - MOON[0], y - MOON[1])
    billow = noise(width, height, 64, rng, 2.6) + 0.5 * noise(width, height, 30, rng, 2.0)
    dark = 0.62 - 0.44 * np.exp(-((away / 230) ** 2)) + 0.24 * np.tanh(1.3 * billow) + 0.10 * np.sin(away / 13)
    angle = np.arctan2(y - MOON[1], x - MOON[0]) + math.pi / 2 + 0.3 * billow
    moon = away < MOON[2]
    seas = 0.02 + 0.2 * np.clip(noise(width, height, 30, rng), 0, 1) + 0.3 * (x - MOON[0] + y - MOON[1] > 50)
    return Scene(np.where(moon, seas, dark), np.where(moon, 0.8 + 0.2 * billow, angle), moon.astype(int), [])


def add_mountains(scene: Scene, x: Array, y: Array, rng: np.random.Generator) -> None:
    """Add three chains of mountains; strokes fall down their sides, and mist brightens their feet."""
    height, width = x.shape
    for number, (base, rise, lift) in enumerate([(352, 90, 0.0), (450, 100, 0.08), (560, 76, 0.16)]):
        top = ridge(width, base, rise, 41 + number)
        depth = y - top
        folds = noise(width, height, 80, rng, 0.45) + 0.6 * noise(width, height, 34, rng, 0.5)
        lean = np.tanh(1.2 * folds)
        inside = depth > 0
        light = np.clip(1.1 - depth / 190, 0.3, 1)
        scene.dark[inside] = np.maximum((0.52 + 0.46 * lean + lift) * light, 0.2)[inside]
        scene.angle[inside] = (math.pi / 2 - 0.75 * lean + 0.12 * folds)[inside]
        scene.part[inside] = 10 + 2 * number + (lean > 0)[inside]
        scene.ridges.append(np.stack([np.arange(width), top], axis=1))


def add_lake(scene: Scene, x: Array, y: Array, rng: np.random.Generator) -> None:
    """Add water in level strokes, with the moon's glitter."""
    lake = y > LAKE + 7 * np.sin(x / 120)
    spread = 46 + 0.5 * np.maximum(y - LAKE, 0)
    glitter = np.exp(-(((x - MOON[0]) / spread) ** 2))
    waves = noise(x.shape[1], x.shape[0], 8, rng, 9.0)
    scene.dark[lake] = (0.62 - 0.5 * glitter + 0.26 * waves)[lake]
    scene.angle[lake] = (0.12 * np.sin(x / 50 + y / 18))[lake]
    scene.part[lake] = 99


def pen_stroke(scene: Scene, x: float, y: float, turn: float, steps: int) -> tuple[Array, Array]:
    """Follow the strokes' direction from a place until its part of the scene ends; return the line and its tones."""
    height, width = scene.dark.shape
    line, tones, part = [], [], scene.part[int(y), int(x)]
    while len(line) < steps and 0 <= x < width and 0 <= y < height and scene.part[int(y), int(x)] == part:
        line.append((x, y))
        tones.append(scene.dark[int(y), int(x)])
        heading = scene.angle[int(y), int(x)] + turn
        x, y = x + 2.2 * math.cos(heading), y + 2.2 * math.sin(heading)
    return np.array(line), np.array(tones)


def hatch(draw: ImageDraw.ImageDraw, scene: Scene, turn: float, pitch: float, limits: tuple[float, float]) -> None:
    """Hatch regions darker than the lower limit, turned by ``turn``; from the upper limit on, in broad strokes."""
    rng = np.random.default_rng(round(100 * pitch + 10 * limits[0]))
    height, width = scene.dark.shape
    grid = np.mgrid[0 : height / pitch, 0 : width / pitch].reshape(2, -1).T
    spots = (grid + rng.uniform(-0.5, 0.5, grid.shape)) * pitch
    for y, x in rng.permutation(np.clip(spots, 0, (height - 1, width - 1))):
        line, tones = pen_stroke(scene, x, y, turn, rng.integers(10, 24))
        if tones[0] < limits[0] or len(line) < 4:
            continue
        weight = np.clip((tones - limits[0]) / (limits[1] - limits[0]), 0, 1)
        swell = np.sin(np.linspace(0.3, math.pi - 0.1, len(line))) ** 0.7
        fill(draw, ribbon(line, (0.7 + 1.2 * weight) * swell), blend(PENS, rng.uniform() ** 2))


def ink() -> None:
    """Hatch a moonlit mountain lake, layer over layer, on toned paper."""
    width, height = INK_SIZE
    rng = np.random.default_rng(30)
    blotches = noise(width * SCALE, height * SCALE, 160, rng)
    fibres = noise(width * SCALE, height * SCALE, 3, rng, 2.0)
    canvas = Image.fromarray(blend(PAPER, 0.5 + 0.25 * blotches + 0.2 * fibres).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)

    y, x = np.mgrid[0:height, 0:width].astype(float)
    scene = moonlit_sky(x, y, rng)
    add_mountains(scene, x, y, rng)
    add_lake(scene, x, y, rng)
    hatch(draw, scene, 0.0, 6.6, (0.10, 0.9))
    hatch(draw, scene, 0.14, 9.0, (0.45, 1.1))
    hatch(draw, scene, 0.85, 8.4, (0.66, 1.3))
    hatch(draw, scene, -0.7, 9.5, (0.82, 1.4))
    for line in scene.ridges:
        for start in range(0, width - 30, 30):
            carved_line(draw, line[start : start + 34], rng.uniform(1.2, 2.6), PENS[0])
    save(np.asarray(canvas, dtype=float), "ink")


# ---------------------------------------------------------------------------------------------------------------
# points: a riverside in the sun, of dots of pure colors that mix in the eye
# ---------------------------------------------------------------------------------------------------------------

POINTS_SIZE = 1024, 768
CANVAS = (226, 210, 172)
#: Colors of the dots in each part of the image, dark to light, with complements among them, as the pointillists did.
DOTS = {
    "sky": palette("6f8fd0", "f0a58c", "8fb4e6", "b9d3ee", "f7d3a6", "dfe9ea", "fbeec2"),
    "bank": palette("1d2f6e", "2c5a4a", "5a3f86", "3f7f4e", "c0563a", "86a94a", "e2c65a"),
    "water": palette("142a74", "5a3a8c", "1f57a6", "e08a3c", "3f86c8", "8fc3dc", "f4ecc8"),
    "meadow": palette("1f5a3a", "c8502c", "4f9440", "8dbb3e", "f0a23c", "cfd84a", "f8e860"),
    "shade": palette("151f58", "3f2a78", "1c4c5c", "b0402f", "2f7446", "5a9a44", "c8b83e"),
    "leaves": palette("0f2a3c", "1a4f38", "8c2f4a", "2f7c3a", "6fa838", "d8862c", "dcd24c"),
    "trunk": palette("1c1438", "4a2348", "7a3a2c", "a85a2c", "d89a4c"),
    "red": palette("5c1238", "a81f2c", "d83a24", "f0702c", "f8b468"),
    "white": palette("6a7ac0", "b8bce0", "f4d8b8", "fbf4e0", "fffdf2"),
}


def oval(x: Array, y: Array, center: tuple[float, float], radii: tuple[float, float]) -> Array:
    """Return the distance from the center of an ellipse, 1 on its outline."""
    return np.hypot((x - center[0]) / radii[0], (y - center[1]) / radii[1])


def riverside(x: Array, y: Array, rng: np.random.Generator) -> tuple[Array, Array]:
    """Return for every pixel the part of the image, as its number in ``DOTS``, and the lightness, 0 to 1."""
    parts, light = list(DOTS), 0.25 + y / 400
    part = np.zeros(x.shape, dtype=int)
    height, width = x.shape
    ragged = noise(width, height, 22 * SCALE, rng)

    def put(name: str, where: Array, brightness: Array | float) -> None:
        part[where] = parts.index(name)
        light[where] = np.broadcast_to(brightness, x.shape)[where]

    put("bank", y > 235 - 26 * np.sin(x / 95) - 14 * ragged, 0.2 + (y - 200) / 260 + 0.1 * ragged)
    put("water", y > 296 + 2 * ragged, 0.35 + 0.25 * np.sin(y / 5 + 1.5 * ragged) + (y - 296) / 1400)
    shore = x - 700 + 1.15 * (y - 300) + 22 * np.sin(y / 60) + 5 * ragged
    put("meadow", (y > 300) & (shore > 0), 0.62 + 0.13 * ragged)
    for center, radii in (((690, 640), (330, 62)), ((930, 420), (250, 40)), ((330, 745), (210, 34))):
        put("shade", (shore > 0) & (oval(x, y, center, radii) + 0.09 * ragged < 1), 0.4 + 0.12 * ragged)
    for boat_x, boat_y, size in ((190, 380, 1.0), (380, 330, 0.6), (70, 520, 1.5)):
        left, down = (x - boat_x) / size, (y - boat_y) / size
        put("white", (left > 0) & (down < 0) & (left < 42 + 0.45 * down), 0.75 - left / 120)
        put("red", (np.abs(left - 8) < 40 - down) & (down > 2) & (down < 13), 0.5 - down / 40)
    for foot, top, wide in (((845, 650), 150, 19), ((560, 470), 190, 10)):
        stem = wide * (1 + 0.5 * np.clip((y - foot[1] + 60) / 60, 0, 1))
        inside = (np.abs(x - foot[0] - 8 * np.sin(y / 70)) < stem) & (y > top) & (y < foot[1])
        put("trunk", inside, 0.5 - (x - foot[0]) / (2.4 * wide))
    for center, radii in (
        *(((845, 120), (215, 120)), ((700, 190), (110, 62)), ((985, 215), (110, 80))),
        *(((560, 205), (85, 52)), ((520, 160), (60, 50))),
    ):
        inside = oval(x, y, center, radii)
        lit = 0.5 - ((x - center[0]) / radii[0] + (y - center[1]) / radii[1]) / 3.2 + 0.13 * ragged
        put("leaves", inside + 0.1 * ragged < 1, lit)
    for place_x, place_y, size, dress in ((640, 600, 1.0, "red"), (745, 560, 0.85, "white"), (470, 690, 1.15, "white")):
        left, down = (x - place_x) / size, (y - place_y) / size
        put(dress, (np.abs(left) < 9 + 0.22 * (down + 70)) & (down > -70) & (down < 30), 0.55 - left / 60)
        put("trunk", oval(left, down, (0, -80), (9, 12)) < 1, 0.7)
        put("red", (oval(left, down, (6, -92), (44, 30)) < 1) & (down < -92), 0.6 - left / 90)
    return part, np.clip(light, 0, 1)


def dot(draw: ImageDraw.ImageDraw, x: float, y: float, radius: float, color: Sequence[float]) -> None:
    """Draw a round dab."""
    draw.ellipse((x - radius, y - radius, x + radius, y + radius), tuple(int(c) for c in color))


def points() -> None:
    """Set dots of pure colors beside and over each other, the last ones smaller."""
    rng = np.random.default_rng(7)
    width, height = POINTS_SIZE[0] * SCALE, POINTS_SIZE[1] * SCALE
    y, x = np.mgrid[0:height, 0:width] / SCALE
    part, light = riverside(x, y, rng)
    canvas, thickness = Image.new("RGB", (width, height), CANVAS), Image.new("RGB", (width, height))
    draw, raise_ = ImageDraw.Draw(canvas), ImageDraw.Draw(thickness)
    paints = list(DOTS.values())
    for radius, pitch in ((4.2, 5.0), (3.4, 5.2), (2.6, 5.6)):
        pitch *= SCALE
        rows, columns = np.mgrid[0 : height / pitch, 0 : width / pitch]
        spots = (np.stack([columns, rows], axis=-1).reshape(-1, 2) + rng.uniform(0, 1, (rows.size, 2))) * pitch
        for spot_x, spot_y in rng.permutation(spots):
            place = min(int(spot_y), height - 1), min(int(spot_x), width - 1)
            colors = paints[part[place]]
            tone = light[place] + 0.2 * rng.standard_normal()
            color = colors[int(np.clip(tone * len(colors), 0, len(colors) - 1))]
            color = np.clip(color * (1 + 0.06 * rng.standard_normal()) + 5 * rng.standard_normal(3), 0, 255)
            size = radius * SCALE * rng.uniform(0.8, 1.15)
            dot(draw, spot_x, spot_y, size, color)
            dot(raise_, spot_x, spot_y, size, [rng.uniform(60, 255)] * 3)
    light = relief(blur(np.asarray(thickness, dtype=float)[..., 0], 1.5), 0.02)
    save(light_up(np.asarray(canvas, dtype=float), light, 0.22), "points")


# ---------------------------------------------------------------------------------------------------------------
# The command
# ---------------------------------------------------------------------------------------------------------------

STYLES: dict[str, Callable[[], None]] = {
    "swirls": swirls,
    "mosaic": mosaic,
    "woodblock": woodblock,
    "ink": ink,
    "points": points,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw the styles named on the command line, or all of them."""
    parser = argparse.ArgumentParser(description="Draw the style pictures of this folder.")
    parser.add_argument("styles", nargs="*", metavar="STYLE", help=f"one of: {', '.join(STYLES)} (default: all)")
    names = parser.parse_args(arguments).styles or list(STYLES)
    for name in names:
        if name not in STYLES:
            parser.error(f"there is no style {name!r}; choose from {', '.join(STYLES)}")
    for name in names:
        start = time.perf_counter()
        STYLES[name]()
        print(f"{name}.jpg drawn in {time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()

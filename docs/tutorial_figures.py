"""Draw the figures of docs/tutorials/, a few minutes on two cores: `python docs/tutorial_figures.py`; or some of them:
`python docs/tutorial_figures.py portrait`."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from PIL import Image, ImageDraw, ImageFilter

from styletransfer import stylize
from styletransfer.figures.sheets import arrange

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES, FIGURES = ROOT / "examples", ROOT / "docs" / "figures"


def portrait() -> None:
    """Draw a portrait in the style of swirls.jpg: by default, with --faces, and with --keep and a mask of the face."""
    with TemporaryDirectory() as folder:
        mask_path = Path(folder) / "face.png"
        mask = Image.new("L", (512, 512), 0)  # the same mask as in docs/tutorials/portrait.md
        ImageDraw.Draw(mask).ellipse((174, 64, 270, 184), fill=255)
        mask.filter(ImageFilter.GaussianBlur(5)).save(mask_path)
        changes: dict[str, dict[str, Any]] = {
            "default": {},
            "--faces 5": {"faces": 5},
            "--keep face.png": {"keep": mask_path},
        }
        content, style = EXAMPLES / "astronaut.jpg", EXAMPLES / "swirls.jpg"
        images = [(label, stylize(content, style, **change).image) for label, change in changes.items()]
    path = FIGURES / "tutorial-portrait.jpg"
    arrange([images], 320).save(path, quality=85, optimize=True)
    print(path)


DRAWN = {function.__name__: function for function in (portrait,)}

if __name__ == "__main__":
    if unknown := set(sys.argv[1:]) - DRAWN.keys():
        sys.exit(f"{', '.join(sorted(unknown))}: no such figure; there are {', '.join(DRAWN)}")
    for name in sys.argv[1:] or DRAWN:
        DRAWN[name]()

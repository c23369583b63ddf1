"""Draw the figures of the README and of docs/: `make figures` (an hour and a half on two cores), or some of them:
`make figures ARGS='ratios colors'`."""

import io
import itertools
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFilter, ImageOps

from styletransfer import PRESETS, Options, stylize
from styletransfer.encoder import weights
from styletransfer.encoder.tiling import Tiling
from styletransfer.encoder.vgg import Encoder
from styletransfer.figures.curves import plot_curves, write_figure
from styletransfer.figures.sheets import Cell, arrange, paint_cells, reconstruction, texture
from styletransfer.images import read_picture, to_pil
from styletransfer.losses import LOSSES, Losses, Objective, Region, Style
from styletransfer.options import LEARNING_RATES
from styletransfer.transfer import open_session
from styletransfer.transfer.bleed import add_bleed
from styletransfer.transfer.evaluation import make_objective
from styletransfer.transfer.problem import prepared_problem

ROOT = Path(__file__).resolve().parent.parent
EXAMPLES, FIGURES = ROOT / "examples", ROOT / "docs" / "figures"
ASTRONAUT, SWIRLS = EXAMPLES / "astronaut.jpg", EXAMPLES / "swirls.jpg"
OPTIONS = Options()
#: Options of the figures of the paper and of the lecture.
GRAM = replace(OPTIONS, style_loss="gram")
#: Options of most figures of the controls.
SMALL = replace(OPTIONS, size=256, iterations=100)
Labeled = tuple[str, Image.Image]


def save(
    name: str, rows: Sequence[Sequence[tuple[str, Image.Image | None]]], height: int = 256, quality: int = 80
) -> None:
    path = FIGURES / name
    path.parent.mkdir(exist_ok=True)
    arrange(rows, height).save(path, quality=quality)
    print(path)


def load(name: str) -> Image.Image:
    return Image.open(EXAMPLES / name).convert("RGB")


def row(options: Options, *changes: dict[str, Any], content: Path = ASTRONAUT, style: Path = SWIRLS) -> list[Labeled]:
    """Return an image for every set of changes, labeled as on the command line."""
    return [
        (
            " ".join(f"--{name.replace('_', '-')} {value}" for name, value in change.items()) or "as usual",
            stylize(content, style, options, **change).image,
        )
        for change in changes
    ]


# --- README, and the paper's figures 4 and 5 -------------------------------------------------------------------------


def overview() -> None:
    """Draw content, style and output image of three pairs."""
    pairs = [("astronaut.jpg", "swirls.jpg"), ("chelsea.jpg", "mosaic.jpg"), ("coffee.jpg", "woodblock.jpg")]
    rows = []
    for content, style in pairs:
        content_image = ImageOps.fit(load(content), (600, 400), centering=(0.5, 0.1))
        style_image = ImageOps.fit(load(style), (500, 400))
        result = stylize(content_image, EXAMPLES / style, OPTIONS).image
        rows.append([("", content_image), ("", style_image), ("", result)])
    save("overview.jpg", rows, 320, quality=90)


def gallery() -> None:
    """Run the commands of the README's gallery and arrange their images in two rows."""
    text = (ROOT / "README.md").read_text().partition("## Gallery")[2].partition("## ")[0]
    commands = [shlex.split(line, comments=True) for line in text.splitlines() if line.startswith("    styletransfer ")]
    cells = []
    with TemporaryDirectory() as folder:
        for number, (_, *arguments) in enumerate(commands):
            output = Path(folder) / f"{number}.png"
            command = [sys.executable, "-m", "styletransfer", *arguments, "-q", "-o", output]
            subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
            cells.append(ImageOps.fit(Image.open(output).convert("RGB"), (440, 330), centering=(0.5, 0.2)))
    sheet = Image.new("RGB", (3 * 440 + 16, 2 * 330 + 8), "white")
    for number, cell in enumerate(cells):
        sheet.paste(cell, (number % 3 * 448, number // 3 * 338))
    sheet.save(FIGURES / "gallery.jpg", quality=85)


def ratios() -> None:
    """Draw ratios α/β: the lecture's 1e-4 to 1e-1, and 1, where the content dominates."""
    images = []
    for ratio in (1e-4, 1e-3, 1e-2, 1e-1, 1.0):
        result = stylize(ASTRONAUT, SWIRLS, GRAM, size=384, beta=1 / ratio)
        images.append((f"alpha/beta = {ratio:.0e}", result.image))
    save("ratio.jpg", [images], 320, quality=90)


def content_layers() -> None:
    """Draw conv2_2 against conv4_2 as the content layer."""
    images = [("content", load("rocket.jpg")), ("style", load("swirls.jpg"))]
    for layer in ("conv2_2", "conv4_2"):
        result = stylize(EXAMPLES / "rocket.jpg", SWIRLS, GRAM, content_layers=(layer,))
        images.append((layer, result.image))
    save("content-layer.jpg", [images], 320, quality=90)


# --- docs/tutorials --------------------------------------------------------------------------------------------------


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
        images = [(label, stylize(ASTRONAUT, SWIRLS, **change).image) for label, change in changes.items()]
    save("tutorial-portrait.jpg", [images], 320, quality=85)


# --- docs/how-to -----------------------------------------------------------------------------------------------------


def colors() -> None:
    """Draw --color style, content and luminance; print how far the colors are from the content's."""
    content = load("astronaut.jpg").resize((256, 256), Image.Resampling.LANCZOS)
    images = [("content", content), ("style", load("swirls.jpg"))]
    for color in ("style", "content", "luminance"):
        result = stylize(ASTRONAUT, SWIRLS, SMALL, color=color)
        images.append((f"--color {color}", result.image))
    content_pixels = np.asarray(content).reshape(-1, 3)
    for label, image in (images[0], *images[2:]):
        x = np.asarray(image).reshape(-1, 3)
        mean, covariance, other = x.mean(0), np.cov(x.T), np.cov(content_pixels.T)
        off = np.linalg.norm(mean - content_pixels.mean(0)), np.linalg.norm(covariance - other) / np.linalg.norm(other)
        at_border = ((x == 0) | (x == 255)).any(1).mean()
        print(
            f"{label:18} mean {mean.round()} deviation {x.std(0).round()}; mean off by {off[0]:.1f}, "
            f"covariance by {off[1]:.0%}; {at_border:.0%} of the pixels have a channel at 0 or 255"
        )
    save("controls-color.jpg", [images])


def regions() -> None:
    """Draw two styles blended, each in its own region, and one with a part of the content kept."""
    content, styles = ASTRONAUT, [SWIRLS, EXAMPLES / "mosaic.jpg"]
    person = Image.new("L", load(content.name).size)
    draw, (w, h) = ImageDraw.Draw(person), person.size
    draw.ellipse((0.28 * w, -0.02 * h, 0.62 * w, 0.5 * h), 255)
    draw.ellipse((0.02 * w, 0.33 * h, 0.9 * w, 1.6 * h), 255)
    person = person.filter(ImageFilter.GaussianBlur(8))
    with TemporaryDirectory() as folder:
        masks = [str(Path(folder) / name) for name in ("person.png", "rest.png")]
        for mask, path in zip((person, ImageOps.invert(person)), masks, strict=True):
            mask.save(path)
        blend = stylize(content, styles, SMALL)
        parts = stylize(content, styles[::-1], SMALL, mask=tuple((mask, "-") for mask in masks))
        kept = stylize(content, styles[0], SMALL, keep=masks[0])
    images = [("content", load(content.name)), ("mask", person.convert("RGB"))]
    images += [("two styles, blended", blend.image), ("one in each region", parts.image), ("--keep", kept.image)]
    save("controls-regions.jpg", [images])

    layers = {**SMALL.content_weights, **SMALL.style_weights}
    encoder = Encoder(weights.load_weights(parts.model).convolutions, layers, SMALL.pooling)
    white = torch.from_numpy(np.array(person.resize(parts.size)))[None, None] / 255
    for name, mask in (("person", white), ("rest", 1 - white)):
        for style in styles:
            # The style loss of one region of the output image, by its own objective.
            region = Region([Style(read_picture(style).resize(parts.size).tensor())], mask)
            objective = Objective(
                encoder, parts.tensor, [region], {}, OPTIONS.style_weights, 0.0, 1.0, style_loss=LOSSES["gram"]
            )
            loss = Losses(*objective.evaluate(parts.tensor)[0].tolist()).style
            print(f"{name}: style loss {loss / objective.style.shares[0]:.3g} from {style.stem}")
    same = np.asarray(load(content.name).resize(kept.size, Image.Resampling.LANCZOS)) == np.asarray(kept.image)
    inside = white[0, 0].numpy() == 1
    print(f"--keep: {(~same[inside].all(1)).sum()} of {inside.sum()} pixels in the white of the mask differ")


def blends() -> None:
    """Draw two styles by weight."""
    styles, images = [SWIRLS, EXAMPLES / "mosaic.jpg"], []
    for shares in ((1, 0), (7, 3), (1, 1), (3, 7), (0, 1)):
        label = " ".join(f"--style-weight {share}" for share in shares)
        images.append((label, stylize(ASTRONAUT, styles, SMALL, style_weight=shares).image))
    save("controls-blend.jpg", [images], 280)


def strokes() -> None:
    """Draw sizes of strokes, style layers (of Gram matrices alone: matching has its own), and poolings."""
    scales = [{"style_scale": scale} for scale in (0.4, 0.7, 1.0, 1.5)]
    layers = [{"style_layers": tuple(f"conv{n}_1" for n in range(1, last + 1))} for last in (1, 2, 3, 5)]
    rows = [row(SMALL, *scales), row(replace(SMALL, style_loss="gram"), *layers)]
    rows[1] = [(f"--style-layer conv1_1 … conv{n}_1", p) for n, (_, p) in zip((1, 2, 3, 5), rows[1], strict=True)]
    rows[1][0] = ("--style-layer conv1_1", rows[1][0][1])
    rows.append(
        [*row(SMALL, *({"pooling": pooling} for pooling in ("avg", "max", "l2"))), ("style", load("swirls.jpg"))]
    )
    save("controls-strokes.jpg", rows)


def starts() -> None:
    """Draw starting images (the paper's figure 6), and shares of noise in them."""
    first = row(SMALL, {}, {"init": "style"}, {"init": "noise"}, {"init": "noise", "seed": 1})
    second = row(SMALL, *({"init_noise": share} for share in (0.1, 0.3, 0.6, 0.9)))
    save("controls-init.jpg", [first, second])


def regularizers() -> None:
    """Draw total variation, L1 and L2 of the change, and noise in the network's input."""
    rows = [row(SMALL, {}, {"tv": 3}, {"tv": 30}), row(SMALL, {"l1": 3}, {"l1": 30}, {"l2": 100})]
    adam = replace(SMALL, optimizer="adam")
    rows.append(row(adam, {}, {"jitter": 0.05}, {"jitter": 0.1}))
    rows[2][0] = ("--optimizer adam", rows[2][0][1])
    save("controls-regularizers.jpg", rows)


def presets() -> None:
    """Draw the presets, all but the large print, with the bundled network."""
    images = [("", load("chelsea.jpg"))]
    for name in ("paper", "fast", "quality"):
        options = Options(**{**PRESETS[name], "model": "vgg19-lite"})
        result = stylize(EXAMPLES / "chelsea.jpg", EXAMPLES / "woodblock.jpg", options, enlarge=True)
        print(f"--preset {name}: {result.seconds:.0f} s")
        images.append((f"--preset {name}, {result.size[0]}x{result.size[1]}", result.image))
    save("controls-presets.jpg", [images], 400)


def sizes() -> None:
    """Draw an image larger than the network's receptive field, with one to three scales."""
    options = replace(SMALL, size=512)
    save("controls-scales.jpg", [row(options, *({"scales": number} for number in ("1", "2", "3")))], 480)


def progress() -> None:
    """Draw the iterates after some iterations, as --animate shows them."""
    images: list[Labeled] = []
    with open_session(ASTRONAUT, SWIRLS, replace(SMALL, scales="1")) as session:
        for step in session:
            if step.iteration in (0, 3, 10, 30, 100):
                images.append((f"{step.iteration} iterations", to_pil(step.image)))
    save("controls-iterations.jpg", [images])


def textures() -> None:
    """Draw textures larger than their style, and a seamless one repeated."""
    images = [("style, 512x410", load("mosaic.jpg").resize((512, 410)))]
    for style in (EXAMPLES / "mosaic.jpg", SWIRLS):
        content, options = texture(style, (640, 640), replace(OPTIONS, style_scale=0.5))
        images.append((f"texture of {style.stem}, 640x640", stylize(content, style, options).image))
    content, options = texture(SWIRLS, (256, 256), replace(OPTIONS, seamless=True, style_scale=0.5))
    one = stylize(content, SWIRLS, options).image
    tiled = Image.new("RGB", (768, 512))
    for x in range(0, 768, 256):
        for y in range(0, 512, 256):
            tiled.paste(one, (x, y))
    images.append(("--size 256 --seamless, six of the same", tiled))
    save("controls-texture.jpg", [images[:2], images[2:]], 400)


# --- docs/explanation/lecture.md -------------------------------------------------------------------------------------


def reconstructions() -> None:
    """Draw the paper's figure 1: reconstructions of content and style from each layer."""
    layers, rows = [f"conv{n}_1" for n in range(1, 6)], []
    for kind, source in (("content", ASTRONAUT), ("style", SWIRLS)):
        cells = reconstruction(source, layers, kind, SMALL)
        rows.append([(cell.column, result.image) for cell, result, _ in paint_cells(cells, lambda: False, quiet=False)])
    save("reconstruction.jpg", rows, 240)


def optimizers() -> None:
    """Draw the losses of the lecture's optimizers, over evaluations and over seconds."""
    options = replace(GRAM, size=256, scales="1")
    cells = [Cell("", name, ASTRONAUT, SWIRLS, replace(options, optimizer=name)) for name in ("lbfgs", *LEARNING_RATES)]
    results = list(paint_cells(cells, lambda: False, quiet=False))
    plot_curves([curve for *_, curve in results], FIGURES / "optimizers.svg")
    for cell, result, curve in results:
        print(
            f"{cell.column}: {result.best.total:.3g} after {len(curve.losses)} evaluations, {curve.seconds[-1]:.1f} s"
        )
    save("optimizers.jpg", [[(cell.column, result.image) for cell, result, _ in results]])


def painters() -> None:
    """Draw five styles of one content image."""
    content_image = ImageOps.fit(load("chelsea.jpg"), (600, 400))
    above: list[Labeled] = [("content", content_image)]
    below: list[tuple[str, Image.Image | None]] = [("", None)]
    for name in ("swirls", "mosaic", "woodblock", "ink", "points"):
        above.append((name, ImageOps.fit(load(f"{name}.jpg"), content_image.size)))
        below.append(("", stylize(content_image, EXAMPLES / f"{name}.jpg", GRAM, size=384).image))
    save("painters.jpg", [above, below], 200)


def photographs() -> None:
    """Draw a photo as the style: another time of day."""
    pairs = [("rocket.jpg", "hubble.jpg"), ("coffee.jpg", "rocket.jpg")]
    rows = []
    for content, style in pairs:
        result = stylize(
            EXAMPLES / content, EXAMPLES / style, SMALL, style_loss="gram", beta=5.0, content_layers=("conv3_2",)
        )
        rows.append([("content", load(content)), ("style", load(style)), ("result", result.image)])
    save("photographs.jpg", rows)


# --- weights/README.md -----------------------------------------------------------------------------------------------


def networks() -> None:
    """Draw the losses by VGG-19 and vgg19-lite of the same iterates, of a run of each."""
    names, options = ("vgg19", "vgg19-lite"), replace(GRAM, size=256, scales="1")
    objectives = []
    for name in names:
        with prepared_problem(ASTRONAUT, SWIRLS, replace(options, model=name)) as problem:
            objectives.append(make_objective(problem, problem.encoder(problem.precision), problem.scales[0], Tiling()))
    figure = Figure(figsize=(11, 4), layout="constrained")
    for name, axes in zip(names, figure.subplots(1, 2, sharey=True), strict=True):
        history: list[tuple[int, list[float]]] = []
        with open_session(ASTRONAUT, SWIRLS, replace(options, model=name)) as session:
            for step in session:
                if step.iteration % 5 == 0:
                    canvas = add_bleed(step.image, OPTIONS)
                    history.append((step.iteration, [o.evaluate(canvas)[0][0].item() for o in objectives]))
        for judge, losses in zip(names, zip(*(losses for _, losses in history), strict=True), strict=True):
            axes.plot([iteration for iteration, _ in history], losses, label=f"measured by {judge}")
        axes.set(title=f"a run of {name}", xlabel="iteration", ylabel="total loss", yscale="log")
        axes.grid(alpha=0.3, which="both")
        axes.legend()
        print(name, [(iteration, *(round(loss, 3) for loss in losses)) for iteration, losses in history[::5]])
    write_figure(figure, FIGURES / "networks.svg")


# --- page.md ---------------------------------------------------------------------------------------------------------


def page() -> None:
    """Take screenshots of the page in every state, for docs/figures/ and, with other sizes, for out/page/."""
    places = FIGURES, FIGURES.parents[1] / "out" / "page"
    places[1].mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "styletransfer", "ui", "--no-browser", "--port", "7861"]
        server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=folder)
        try:
            assert server.stdout
            address = server.stdout.readline().strip()
            for width, theme in itertools.product((1440, 1024, 390), ("light", "dark")):
                for state, screen in take_screenshots(address, width, theme):
                    screen.save(places[1] / f"{state}-{width}-{theme}.png")
                    if (width, theme) == (1440, "light"):
                        screen.save(places[0] / f"page-{state}.jpg", quality=80, optimize=True)
        finally:
            server.send_signal(signal.SIGINT)
            server.wait()


def take_screenshots(address: str, width: int, theme: str) -> Iterator[tuple[str, Image.Image]]:
    """Yield the states of the page by name, from empty to an error."""
    from selenium import webdriver
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.support.wait import WebDriverWait

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with webdriver.Chrome(options=options, service=service) as browser:
        wait = WebDriverWait(browser, 300)
        metrics = {"width": width, "height": 1000 if width > 500 else 844, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"features": [{"name": "prefers-color-scheme", "value": theme}]}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)

        def screenshot(state: str) -> tuple[str, Image.Image]:
            time.sleep(1)  # until it is drawn
            return state, Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")

        def press(name: str) -> None:
            button = wait.until(lambda b: b.find_element("css selector", f"#{name}:not([disabled])"))
            browser.execute_script("arguments[0].scrollIntoView({block: 'nearest'}); arguments[0].click()", button)

        def change(name: str, value: object) -> None:
            browser.execute_script(
                "const e = arguments[0]; e.value = arguments[1];"
                "for (const kind of ['input', 'change']) e.dispatchEvent(new Event(kind, {bubbles: true}))",
                browser.find_element("id", name),
                value,
            )

        def wait_for(status: str, history: int = 0) -> None:
            wait.until(lambda b: b.find_element("id", "status").text.startswith(status))
            wait.until(lambda b: len(b.find_elements("css selector", "#history button")) >= history)

        browser.get(address)
        wait.until(lambda b: b.find_elements("css selector", "#styles-gallery button"))
        yield screenshot("empty")
        for place, path in (("content", ASTRONAUT), ("styles", SWIRLS)):
            browser.find_element("id", f"{place}-file").send_keys(str(path))
            wait.until(lambda b, place=place: b.find_elements("css selector", f"#{place} img"))
        wait.until(lambda b: b.find_elements("css selector", "#after img[src*=jobs]"))
        yield screenshot("preview")
        wait_for("Preview done", 1)
        change("split", 40)
        yield screenshot("done")
        change("balance", 30)
        wait_for("Preview done", 2)
        press("compare")
        yield screenshot("compare")
        press("compare")
        press("masks-toggle")
        stage = browser.find_element("id", "stage")
        line = ActionChains(browser).move_to_element(stage).click_and_hold()
        for x, y in ((0, -60), (40, 40), (-60, 30), (40, 20)):
            line.move_by_offset(x, y)
        line.release().perform()
        yield screenshot("masks")
        press("masks-toggle")
        wait_for("Preview done", 3)
        press("render")
        wait_for("Full quality, ")
        yield screenshot("rendering")
        press("stop")
        wait_for("Full quality stopped")
        browser.execute_script("document.getElementById('advanced').open = true")
        change("option-iterations", -1)
        field = browser.find_element("id", "option-iterations")
        browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", field)
        yield screenshot("error")


# --- video.md --------------------------------------------------------------------------------------------------------


def video() -> None:
    """Draw every second frame of a clip with a cut, beside the stylized one."""
    from styletransfer.video.frames import read_frames

    with TemporaryDirectory() as folder:
        command = [sys.executable, EXAMPLES / "draw_clips.py", folder, "--clips", "sample"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        clip, painted = Path(folder) / "sample.mp4", Path(folder) / "painted.mkv"
        subprocess.run([sys.executable, "-m", "styletransfer", "video", clip, SWIRLS, "-q", "-o", painted], check=True)
        frames = []
        for (number, source), (_, output) in zip(*(read_frames(path, 0, 999) for path in (clip, painted)), strict=True):
            if number % 2 == 0:
                both = Image.new("RGB", (720, 270), "white")
                both.paste(source.rgb.resize((236, 133), Image.Resampling.LANCZOS), (0, 68))
                both.paste(output.rgb, (240, 0))
                frames.append(both)
    path = FIGURES / "video.webp"
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=80, loop=0, quality=60, method=6)
    print(path)


DRAWN = (
    *(overview, gallery, portrait, ratios, content_layers, colors, regions, blends, strokes, starts, regularizers),
    *(sizes, progress, reconstructions, optimizers, painters, photographs, textures, presets, networks, page, video),
)

if __name__ == "__main__":
    if unknown := set(sys.argv[1:]) - {draw.__name__ for draw in DRAWN}:
        sys.exit(f"{', '.join(sorted(unknown))}: no such figure; there are {', '.join(d.__name__ for d in DRAWN)}")
    for draw in DRAWN:
        if draw.__name__ in sys.argv[1:] or not sys.argv[1:]:
            draw()

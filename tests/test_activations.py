"""Contact sheets compared with numpy, dreams compared with autograd, and the commands that write them."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import SMALL, kernel_of, random_convolutions
from PIL import Image
from test_checkpoint import run_on_tmpfs
from test_cli import COMMAND, run

from styletransfer import images
from styletransfer.encoder import weights
from styletransfer.encoder.vgg import Encoder
from styletransfer.figures import activations
from styletransfer.images import Picture

LITE = ("--model", "vgg19-lite", "--device", "cpu")


def test_sheet_shows_every_feature_map_and_the_gram_matrix() -> None:
    features = np.random.default_rng(0).random((5, 32, 64))
    features[3] = 0
    sheet = activations.arrange_maps(torch.tensor(features)[None])[0].numpy()
    gap, width, height = activations.GAP, activations.MAP, activations.MAP // 2
    assert sheet.shape == (3, 2 * (height + gap) + gap, 3 * (width + gap) + gap + 5 * (sheet.shape[1] // 5) + 2 * gap)
    assert (sheet == sheet[0]).all()
    for n, feature_map in enumerate(features):
        top, left = gap + n // 3 * (height + gap), gap + n % 3 * (width + gap)
        expected = np.sqrt(feature_map / max(feature_map.max(), 1e-9)).repeat(2, 0).repeat(2, 1)
        np.testing.assert_allclose(sheet[0, top : top + height, left : left + width], expected)
    flat = features.reshape(5, -1)
    gram = flat @ flat.T
    cells = sheet[0, gap:, 3 * (width + gap) + 2 * gap :]
    side = sheet.shape[1] // 5
    np.testing.assert_allclose(cells[side // 2 :: side, side // 2 :: side][:5, :5], np.sqrt(gram / gram.max()))


def test_large_feature_map_is_downsampled_by_averaging() -> None:
    features = np.random.default_rng(0).random((1, 2 * activations.MAP, 2 * activations.MAP))
    sheet = activations.arrange_maps(torch.tensor(features)[None])[0, 0].numpy()
    levels = np.sqrt(features[0] / features.max()).reshape(activations.MAP, 2, activations.MAP, 2).mean((1, 3))
    np.testing.assert_allclose(sheet[: activations.MAP, : activations.MAP], levels)


@pytest.mark.parametrize("pooling", ["avg", "max"])
def test_dream_step_ascends_the_gradient_that_autograd_computes(pooling: str, content_path: Path) -> None:
    encoder = Encoder(weights.load_weights("vgg19-lite").convolutions, ["conv3_2"], pooling)
    encoder.double()  # in float32 the sign of a hardly active filter depends on rounding
    content = images.read_picture(content_path)
    (dreamed,) = activations.dream(content, encoder, octaves=1, iterations=1)

    shift = torch.randint(-16, 17, (2,), generator=torch.Generator().manual_seed(0)).tolist()
    image = torch.tensor(np.asarray(content.rgb) / 255).permute(2, 0, 1)[None].requires_grad_()
    x = image.roll(shift, (2, 3))
    for name in encoder.names:
        if name in ("conv2_1", "conv3_1"):
            x = F.avg_pool2d(x, 2) if pooling == "avg" else F.max_pool2d(x, 2)
        layer = encoder.convolution(name)
        x = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel_of(layer), layer.bias.double()).relu()
    (gradient,) = torch.autograd.grad(x.square().sum() / 2, image)
    expected = (image + activations.STEP * gradient / gradient.abs().mean()).clamp(0, 1)
    np.testing.assert_allclose(dreamed.numpy(), expected.detach().numpy(), atol=1e-5)


def test_dream_grows_in_octaves_and_raises_the_activations(content_path: Path) -> None:
    encoder = Encoder(weights.load_weights("vgg19-lite").convolutions, ["conv4_3"])
    content = images.read_picture(content_path)
    norms: dict[tuple[int, int], list[float]] = {}
    for image in activations.dream(content, encoder, octaves=3, iterations=5):
        assert image.min() >= 0 and image.max() <= 1
        squared_norm = encoder(image)["conv4_3"].square().sum().item()
        norms.setdefault((image.shape[3], image.shape[2]), []).append(squared_norm)
    assert list(norms) == [(41, 33), (57, 46), (80, 64)]
    for octave in norms.values():
        assert len(octave) == 5 and octave == sorted(octave)


def test_dream_without_activations_leaves_the_image_unchanged() -> None:
    convolutions = {
        name: layer._replace(bias=torch.zeros_like(layer.bias)) for name, layer in random_convolutions(SMALL).items()
    }
    *_, image = activations.dream(Picture(Image.new("RGB", (20, 1))), Encoder(convolutions, ["conv3_1"]), 2, 2)
    assert image.shape == (1, 3, 4, 20) and not image.any()


def test_figures_are_deterministic_and_embed_their_settings(
    content_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    dream = ("dream", content_path, "--octaves", "2", "--iterations", "2", "--size", "64", *LITE)
    for command, name, size, expected in (
        (("features", content_path, "--layer", "relu2_2", *LITE), "cat_relu2_2.png", None, {"layer": "conv2_2"}),
        (dream, "cat_dream.png", (64, 51), {"octaves": 2, "iterations": 2, "size": 64}),
    ):
        assert run(*command, capsys=capsys) == (0, name + "\n", "")
        assert run(*command, "-o", "again.png", capsys=capsys) == (0, "again.png\n", "")
        assert Path(name).read_bytes() == Path("again.png").read_bytes()
        assert size in (None, Image.open(name).size)
        settings = images.read_settings(Path(name))
        assert settings.items() >= {"image": "cat.png", "model": "vgg19-lite", **expected}.items()


@pytest.mark.parametrize("command", ["features", pytest.param("dream", marks=pytest.mark.slow)])
def test_figure_is_saved_elsewhere_if_the_disk_is_full(content_path: Path, tmp_path: Path, command: str) -> None:
    folder, here = tmp_path / "full", tmp_path / "here"
    here.mkdir()
    options = ("--size", "64", "--model", "vgg19-lite", "--layer", "conv2_1", "-q", "-o", str(folder / "out.png"))
    if command == "dream":
        options += ("--iterations", "1", "--octaves", "1")
    code, err, files = run_on_tmpfs(folder, "size=4k", [*COMMAND, command, str(content_path), *options], here)
    assert (code, files, err.count("\n")) == (1, [], 1)
    assert "No space left" in err and err.endswith(f"saved as {here / 'out.png'}\n")
    assert Image.open(here / "out.png").width >= 64


@pytest.mark.parametrize("command", ["features", "dream"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--layer", "conv9_9"], "conv9_9"),
        (["--layer", "conv5_4"], "conv5_1"),
        (["-o", "out.bmp"], ".png, .jpg"),
        (["-o", "cat.png"], "would be lost"),
        (["--size", "3"], "size"),
        (["--device", "cuda:99"], "cuda:99"),
    ],
)
def test_invalid_usage_prints_one_line_and_writes_nothing(
    content_path: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    command: str,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("cat.png").write_bytes(content_path.read_bytes())
    code, out, err = run(command, "cat.png", "--model", "vgg19-lite", *arguments, capsys=capsys)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("styletransfer: ") and message in err
    assert [path.name for path in tmp_path.iterdir()] == ["cat.png"]

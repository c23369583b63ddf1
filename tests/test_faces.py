"""Faces: found where they are, and kept closer to the content."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import EXAMPLES
from PIL import Image, ImageOps

from styletransfer import Options, UsageError, images, stylize
from styletransfer.encoder import weights
from styletransfer.encoder.vgg import Encoder
from styletransfer.images.faces import find_faces

cv2 = pytest.importorskip("cv2")
#: Eyes, nose and mouth of examples/astronaut.jpg (512×512), as x and y.
FACE = [(200, 100), (240, 100), (220, 125), (222, 145)]
OPTIONS = Options(size=128, iterations=30, model="vgg19-lite", device="cpu", beta=100.0)


def mask_of(picture: images.Picture) -> np.ndarray:
    mask = find_faces(picture)
    assert mask is not None and mask.rgb.getbbox() is not None
    return np.asarray(mask.resize(picture.rgb.size).rgb)[..., 0]


@pytest.mark.parametrize("size", [512, 200, 2000])
def test_the_face_is_inside_its_mask_and_most_of_the_picture_is_not(size: int) -> None:
    picture = images.read_picture(EXAMPLES / "astronaut.jpg").resize((size, size))
    mask = mask_of(picture)
    for x, y in FACE:
        assert mask[y * size // 512, x * size // 512] > 250
    assert (mask > 0).mean() < 0.25
    assert np.abs(np.diff(mask.astype(int), axis=0)).max() < 255 * 512 / size / 8  # a soft border


def test_faces_are_found_on_both_sides_of_a_picture() -> None:
    photo = Image.open(EXAMPLES / "astronaut.jpg").convert("RGB").resize((300, 300))
    both = Image.new("RGB", (600, 300))
    both.paste(photo, (0, 0))
    both.paste(ImageOps.mirror(photo), (300, 0))
    mask = mask_of(images.Picture(both))
    for x, y in FACE:
        assert mask[y * 300 // 512, x * 300 // 512] > 250
        assert mask[y * 300 // 512, 599 - x * 300 // 512] > 250


def test_picture_without_faces_is_weighed_equally_with_a_warning(
    style_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain, faces = (stylize(EXAMPLES / "coffee.jpg", style_path, OPTIONS, iterations=2, faces=f) for f in (1.0, 5.0))
    assert torch.equal(plain.tensor, faces.tensor)
    assert "coffee.jpg: no face found" in caplog.text


def test_a_face_stays_closer_to_the_photograph(style_path: Path) -> None:
    photo = images.read_picture(EXAMPLES / "astronaut.jpg").resize((128, 128)).tensor()
    runs = (stylize(EXAMPLES / "astronaut.jpg", style_path, OPTIONS, faces=f) for f in (1.0, 20.0))
    encoder = Encoder(weights.load_weights("vgg19-lite").convolutions, ["conv4_2"])
    before, after = ((encoder(run.tensor)["conv4_2"] - encoder(photo)["conv4_2"]).square().sum((0, 1)) for run in runs)
    assert after[3:5, 6:8].mean() < 0.7 * before[3:5, 6:8].mean()
    assert after[8:].mean() > 0.8 * before[8:].mean()


def test_without_opencv_the_option_says_what_to_install(style_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(UsageError, match=r"styletransfer-torch\[faces\]"):
        stylize(EXAMPLES / "astronaut.jpg", style_path, OPTIONS, faces=3.0)

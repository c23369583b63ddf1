"""--color compared with numpy, scipy and the YIQ matrix, and complete runs on small images."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import EXAMPLES, TINY, stylize_and_listen
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from scipy.linalg import sqrtm

from styletransfer import Options, UsageError, images, stylize
from styletransfer.images import Picture, color
from styletransfer.transfer import Step

SMALL = Options(iterations=8, weights=str(TINY))
#: Rec. ITU-R BT.470 (NTSC 1953): RGB -> YIQ.
YIQ = np.array([[0.299, 0.587, 0.114], [0.595716, -0.274453, -0.321263], [0.211456, -0.522591, 0.311135]])


def pixels(image: Picture | Image.Image) -> np.ndarray:
    """Return an image's values, N×3 in [0, 1]."""
    rgb = image.rgb if isinstance(image, Picture) else image
    return np.asarray(rgb, dtype=np.float64).reshape(-1, 3) / 255


def covariance(x: np.ndarray) -> np.ndarray:
    return np.cov(x.T, ddof=0)


def as_picture(x: np.ndarray, height: int = 16) -> Picture:
    return Picture(Image.fromarray((x.reshape(height, -1, 3) * 255).round().astype(np.uint8)))


def to_yiq(image: torch.Tensor) -> np.ndarray:
    """Return Y, I and Q, 3×H×W."""
    return np.einsum("ij,jhw->ihw", YIQ, image[0].double().numpy())


@st.composite
def muted_images(draw: st.DrawFn) -> Picture:
    """Draw an image whose colors are near gray and vary by 0.02 to 0.07 on three axes: recoloring clips none."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    deviations = [draw(st.floats(0.02, 0.07)) for _ in range(3)]
    axes = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    x = rng.uniform(-(3**0.5), 3**0.5, (16 * 40, 3)) * deviations @ axes
    return as_picture(draw(st.floats(0.45, 0.55)) + x)


@settings(max_examples=50)
@given(style=muted_images(), content=muted_images())
def test_style_gets_the_mean_and_covariance_of_the_content(style: Picture, content: Picture) -> None:
    s, c = pixels(style), pixels(content)
    a = sqrtm(covariance(c)) @ np.linalg.inv(sqrtm(covariance(s)))
    expected = (s - s.mean(0)) @ a.T + c.mean(0)
    np.testing.assert_allclose(np.cov(expected.T, ddof=0), covariance(c), atol=1e-12)
    assert np.abs(pixels(color.transfer_colors(style, content)) - expected).max() < 0.501 / 255


@pytest.mark.parametrize(
    ("content", "style", "mean", "variance"),
    [("rocket", "mosaic", 0.1, 0.005), ("astronaut", "swirls", 7, 0.25)],  # the second pair has the most to clip
)
def test_rounding_and_clipping_barely_change_statistics(content: str, style: str, mean: float, variance: float) -> None:
    """The bounds are an error of the mean in levels of 255, and a relative error of the covariance."""
    c, s = (Picture(Image.open(EXAMPLES / f"{name}.jpg")).resize((256, 256)) for name in (content, style))
    actual, expected = pixels(color.transfer_colors(s, c)), pixels(c)
    assert np.abs(actual.mean(0) - expected.mean(0)).max() * 255 < mean
    assert np.linalg.norm(covariance(actual) - covariance(expected)) < variance * np.linalg.norm(covariance(expected))


@settings(max_examples=50)
@given(
    style=arrays(np.uint8, (16, 20, 3)) | arrays(np.uint8, (1, 1, 3)),
    content=arrays(np.uint8, (16, 20, 3)) | arrays(np.uint8, (1, 1, 3)),
)
def test_recolored_style_varies_no_more_than_the_content(style: np.ndarray, content: np.ndarray) -> None:
    """Degenerate images too: without color there is nothing to stretch, and clipping brings colors closer."""
    s, c = Picture(Image.fromarray(style)), Picture(Image.fromarray(content))
    recolored, rounding = pixels(color.transfer_colors(s, c)), 3**0.5 / 2 / 255
    assert recolored.shape == pixels(s).shape
    assert np.linalg.norm(recolored.std(0)) <= np.linalg.norm(pixels(c).std(0)) + rounding


def test_images_of_one_color_give_one_color() -> None:
    photo = Picture(Image.open(EXAMPLES / "chelsea.jpg").resize((60, 40)))
    plain = Picture(Image.new("RGB", (32, 32), (10, 200, 90)))
    assert color.transfer_colors(photo, plain).rgb.getcolors() == [(60 * 40, (10, 200, 90))]
    mean = tuple(int(m) for m in (pixels(photo).mean(0) * 255).round())
    assert color.transfer_colors(plain, photo).rgb.getcolors() == [(32 * 32, mean)]


def test_gray_style_gets_shades_of_one_color() -> None:
    """Its colors lie on a line before and after; noise is not amplified to other colors."""
    gray = np.asarray(Image.open(EXAMPLES / "swirls.jpg").convert("L").resize((80, 64)), dtype=float)
    photo = Picture(Image.open(EXAMPLES / "chelsea.jpg").resize((80, 64)))
    for noise, least, most in (0, 0, 1), (1, 3, 5):  # the content's second deviation is 16 levels
        noisy = gray[..., None] + noise * np.random.default_rng(0).normal(size=(64, 80, 3))
        recolored = color.transfer_colors(Picture(Image.fromarray(noisy.round().clip(0, 255).astype(np.uint8))), photo)
        _, second, first = np.sqrt(np.linalg.eigvalsh(covariance(pixels(recolored)))) * 255
        assert least <= second < most < 50 < first


def test_gray_content_gives_a_gray_style() -> None:
    photo = Picture(Image.open(EXAMPLES / "coffee.jpg").resize((80, 64)))
    gray = color.to_luminance(Picture(Image.open(EXAMPLES / "chelsea.jpg").resize((80, 64))))
    recolored = np.asarray(color.transfer_colors(photo, gray).rgb, dtype=int)
    assert np.ptp(recolored, axis=2).max() <= 1


def test_transparent_pixels_are_ignored() -> None:
    photo, style = (Image.open(EXAMPLES / f"{name}.jpg").resize((80, 64)) for name in ("coffee", "swirls"))
    half = photo.crop((0, 0, 40, 64))
    alpha = Image.new("L", photo.size, 0)
    alpha.paste(255, (0, 0, 40, 64))
    visible = color.transfer_colors(Picture(style), Picture(photo, alpha))
    assert np.array_equal(pixels(visible), pixels(color.transfer_colors(Picture(style), Picture(half))))
    nothing = color.transfer_colors(Picture(style), Picture(photo, Image.new("L", photo.size, 0)))
    assert np.array_equal(pixels(nothing), pixels(color.transfer_colors(Picture(style), Picture(photo))))


def test_statistics_of_large_images_are_summed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    photo, style = (Picture(Image.open(EXAMPLES / f"{name}.jpg").resize((80, 64))) for name in ("coffee", "swirls"))
    expected = pixels(color.transfer_colors(style, photo))
    monkeypatch.setattr(color, "_PIXELS_AT_ONCE", 1000)
    assert np.array_equal(pixels(color.transfer_colors(style, photo)), expected)


def test_luminance_is_matched_in_mean_and_standard_deviation() -> None:
    content, style = (Picture(Image.open(EXAMPLES / f"{name}.jpg")) for name in ("chelsea", "mosaic"))
    sizes = (100, 67), (90, 72)
    gray = color.to_luminance(content)
    matched = color.transfer_colors(color.to_luminance(style).resize(sizes[1]), gray.resize(sizes[0]))
    assert gray.rgb.size == content.rgb.size and matched.rgb.size == sizes[1]
    np.testing.assert_allclose(pixels(gray), np.repeat(pixels(content) @ YIQ[0][:, None], 3, 1), atol=0.51 / 255)
    s = pixels(color.to_luminance(style).resize(sizes[1]))[:, 0]
    c = pixels(gray.resize(sizes[0]))[:, 0]
    expected = c.std() / s.std() * (s - s.mean()) + c.mean()
    np.testing.assert_allclose(pixels(matched), np.repeat(expected[:, None], 3, 1).clip(0, 1), atol=0.51 / 255)


images_of_noise = arrays(np.float32, (1, 3, 6, 7), elements=st.floats(0, 1, width=32))


@settings(max_examples=100)
@given(stylized=images_of_noise, content=images_of_noise)
def test_luma_is_kept_and_chroma_within_the_gamut(stylized: np.ndarray, content: np.ndarray) -> None:
    actual = color.add_chroma(torch.from_numpy(stylized), torch.from_numpy(content))
    assert actual.min() >= 0 and actual.max() <= 1
    y, (_, i, q) = to_yiq(torch.from_numpy(stylized))[0], to_yiq(torch.from_numpy(content))
    unclipped = np.einsum("ij,jhw->ihw", np.linalg.inv(YIQ), np.stack([y, i, q]))
    fits = ((unclipped > 1e-5) & (unclipped < 1 - 1e-5)).all(0)
    np.testing.assert_allclose(actual[0].numpy()[:, fits], unclipped[:, fits], atol=1e-5)
    # Elsewhere: the same luma and hue, and as much chroma as the gamut allows, so that it touches the border.
    actual_y, actual_i, actual_q = to_yiq(actual)
    np.testing.assert_allclose(actual_y, y, atol=1e-5)
    np.testing.assert_allclose(actual_i * q, actual_q * i, atol=1e-5)
    assert (np.hypot(actual_i, actual_q) <= np.hypot(i, q) + 1e-5).all()
    distance = np.minimum(actual[0].numpy(), 1 - actual[0].numpy()).min(0)
    assert (distance[~fits] < 1e-4).all()


# --- complete runs ------------------------------------------------------------------------------------------------


def color_distances(image: Image.Image, other: Image.Image) -> tuple[float, float]:
    """Return the distances between the means and between the covariances of two images' colors."""
    x, y = pixels(image), pixels(other)
    return float(np.linalg.norm(x.mean(0) - y.mean(0))), float(np.linalg.norm(covariance(x) - covariance(y)))


def test_output_has_the_colors_of_the_content(content_path: Path, style_path: Path) -> None:
    """Mean and covariance are three times as close to the content's as with the style's colors."""
    content = Image.open(content_path)
    options = Options(model="vgg19-lite", size=48, iterations=80, beta=1e4)
    style, matched = (
        color_distances(stylize(content_path, style_path, options, color=c).image, content)
        for c in ("style", "content")
    )
    assert matched[0] < style[0] / 3 and matched[1] < style[1] / 3


def test_style_colors_are_the_default(content_path: Path, style_path: Path) -> None:
    explicit = stylize(content_path, style_path, SMALL, color="style")
    assert torch.equal(stylize(content_path, style_path, SMALL).tensor, explicit.tensor)
    recolored = color.transfer_colors(*(images.read_picture(path) for path in (style_path, content_path)))
    by_hand = stylize(content_path, recolored.rgb, SMALL)
    assert torch.equal(stylize(content_path, style_path, SMALL, color="content").tensor, by_hand.tensor)
    assert not torch.equal(by_hand.tensor, explicit.tensor)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"init": "style"},
        {"init": "noise"},
        {"init": "file"},
        {"optimizer": "adam", "learning_rate": 0.003},
        {"scales": "2"},
    ],
)
def test_color_luminance_changes_only_luma(
    content_path: Path, style_path: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    if changes.get("init") == "file":
        changes = {"init": str(tmp_path / "start.png")}
        Image.new("RGB", (30, 50), (255, 0, 51)).save(changes["init"])
    steps: list[Step] = []
    result = stylize_and_listen(content_path, style_path, SMALL, steps.append, color="luminance", **changes)
    assert any(torch.equal(step.image, result.tensor) for step in steps)  # callbacks get the image with its colors
    assert result.best.total < steps[0].losses.total or "scales" in changes
    assert_same_chroma(result.tensor, images.read_picture(content_path).tensor())
    best = min(steps[-9:], key=lambda step: step.losses.total).image.clamp(0, 1)
    np.testing.assert_allclose(to_yiq(result.tensor)[0], to_yiq(best)[0], atol=1e-5)


def assert_same_chroma(output: torch.Tensor, content: torch.Tensor) -> None:
    """Assert equal chroma wherever the output is within the gamut, which must be most pixels."""
    inside = ((output > 1e-4) & (output < 1 - 1e-4)).all(1)[0].numpy()
    assert inside.mean() > 0.5
    np.testing.assert_allclose(to_yiq(output)[1:, inside], to_yiq(content)[1:, inside], atol=1e-5)


def test_luminance_of_stopped_and_resumed_runs(content_path: Path, style_path: Path, tmp_path: Path) -> None:
    options = dataclasses.replace(SMALL, color="luminance", scales="2", checkpoint_every="0")
    alone, path = stylize(content_path, style_path, options), tmp_path / "state"
    stopped = stylize_and_listen(content_path, style_path, options, lambda step: step.iteration == 5, checkpoint=path)
    assert stopped.scales == [(40, 32, 5)] and stopped.size == (80, 64)
    assert_same_chroma(stopped.tensor, images.read_picture(content_path).tensor())
    resumed = {"checkpoint": path, "resume": True}
    with pytest.raises(UsageError, match="color was luminance and is now content"):
        stylize(content_path, style_path, options, color="content", **resumed)
    photo = images.read_picture(content_path)
    for other in color.to_luminance(photo).rgb, photo.rgb.point(lambda value: value // 2):  # same luma, other luma
        with pytest.raises(UsageError, match=r"checkpoint: content was [0-9a-f]+… and is now [^;]*$"):
            stylize(other, style_path, options, **resumed)
    assert torch.equal(stylize(content_path, style_path, options, **resumed).tensor, alone.tensor)


def test_luminance_keeps_transparency_and_sixteen_bits(style_path: Path, tmp_path: Path) -> None:
    import tifffile

    content = Image.open(EXAMPLES / "coffee.jpg").resize((64, 48)).convert("RGBA")
    content.paste((0, 0, 0, 0), (0, 0, 32, 48))
    result = stylize(content, style_path, SMALL, color="luminance", bit_depth=16)
    saved = tifffile.imread(result.save(tmp_path / "a.tif"))
    np.testing.assert_array_equal(saved[..., 3], np.asarray(content, dtype=np.uint16)[..., 3] * 257)
    np.testing.assert_allclose(saved[..., :3] / 65535, result.tensor[0].permute(1, 2, 0), atol=1e-5)
    inner = saved[..., :3][(saved[..., :3] > 0) & (saved[..., :3] < 65535)]
    assert np.mean(inner % 257 == 0) < 0.1  # with 8 bits all would be

"""Figures of what the network sees: a layer's feature maps and Gram matrix, and its dream."""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid
from tqdm import tqdm

from ..encoder import BackwardPass, Encoder, weights
from ..images import Picture, check_output, fit_size, read_picture, write_picture
from ..losses.gram import gram_matrix
from ..options import Options, layer_weights
from ..runtime import hardware
from ..transfer.canvas import upsample_residual
from ..version import __version__

#: Longer side of a feature map on the sheet, in pixels, and what is between two.
MAP, GAP = 128, 2
#: Each size of a dream is so many times the last, and each step of it changes the values 0…1 by so much on average.
OCTAVE, STEP = 1.4, 0.006
#: In each step of a dream the image is shifted by up to so many pixels: a frame and a chequered pattern show without.
SHIFT = 16


@dataclass(frozen=True)
class Drawing:
    """A figure of what a layer sees.

    Attributes:
        image: 1×3×H×W in [0, 1], on the CPU.
        settings: how it was made, for the file.
        alpha: the picture's opacity, Pillow mode L, or None.
    """

    image: Tensor
    settings: dict[str, Any]
    alpha: Image.Image | None = None

    def save(self, path: Path) -> None:
        """Writes the figure, by the ending.

        Raises:
            UsageError: unknown ending, or no such folder.
            StyleTransferError: it can't be written.
        """
        check_output(path, 8)
        write_picture(self.image, path, alpha=self.alpha, bit_depth=8, settings=self.settings)


# --- feature maps --------------------------------------------------------------------------------------------------


def draw_features(source: Path, layer: str, options: Options) -> Drawing:
    """The feature maps of a picture at a layer, as `arrange_maps` has them.

    Raises:
        UsageError, StyleTransferError: as `draw_dream`.
    """
    with _loaded_network(source, layer, options) as (picture, encoder, settings):
        image = picture.tensor().to(_device_of(encoder))
        return Drawing(arrange_maps(encoder(image)[encoder.layers[-1]]).cpu(), settings)


def arrange_maps(features: Tensor) -> Tensor:
    """Feature maps 1×N×H×W side by side, row by row, and right of them their Gram matrix: an image 1×3×H'×W'.

    The matrix is that of eq. 3 of Gatys et al. 2016. Black is 0 and white the largest value, of each map and of the
    matrix; between, gray levels are square roots.
    """
    count, height, width = features.shape[1:]
    columns, rows = fit_size((width, height), MAP, enlarge=True)
    maps = F.interpolate(_scale_to_white(features), size=(rows, columns), mode="area").transpose(0, 1)
    gram = _scale_to_white(gram_matrix(features)[None, None])
    left = make_grid(maps, nrow=math.ceil(math.sqrt(count)), padding=GAP, pad_value=1)
    right = F.pad(F.interpolate(gram, scale_factor=max(1, left.shape[1] // count))[0], (GAP,) * 4, value=1)
    tallest = max(left.shape[1], right.shape[1])
    parts = [F.pad(part, (0, 0, 0, tallest - part.shape[1]), value=1) for part in (left, right.expand(3, -1, -1))]
    return torch.cat(parts, 2)[None]


def _scale_to_white(maps: Tensor) -> Tensor:
    """Gray levels of each map, with 1 for its largest value; one that is 0 everywhere stays so."""
    # Roots, because most values are small beside the largest.
    return (maps / maps.amax((2, 3), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)).sqrt()


# --- dreams --------------------------------------------------------------------------------------------------------


def draw_dream(
    source: Path, layer: str, options: Options, octaves: int, iterations: int, *, quiet: bool = False
) -> Drawing:
    """The `dream` of a picture at a layer; a progress bar on stderr, if that is a terminal.

    Raises:
        UsageError: the layer, an option or the picture's name can't be meant.
        StyleTransferError: the picture or the weights can't be read, or memory runs out.
    """
    with _loaded_network(source, layer, options) as (picture, encoder, settings):
        steps = tqdm(
            dream(picture, encoder, octaves, iterations),
            total=octaves * iterations,
            unit="it",
            disable=quiet or None,
            dynamic_ncols=True,
        )
        for image in steps:
            steps.set_description_str("{3}×{2}".format(*image.shape), refresh=False)
    return Drawing(image.cpu(), settings | {"octaves": octaves, "iterations": iterations}, picture.alpha)


def dream(picture: Picture, encoder: Encoder, octaves: int, iterations: int) -> Iterator[Tensor]:
    """Yields the image 1×3×H×W in [0, 1] after each of octaves × iterations steps; the last is of the picture's size.

    Gradient ascent on ½ Σ F² at the encoder's deepest layer: what it sees there, it is to see more of. It begins small,
    and each octave adds patterns of the filters' size, which are smaller beside the picture. Mordvintsev, Olah and
    Tyka, *Inceptionism*, 2015, and *DeepDream*, 2015.
    """
    image, device, generator = None, _device_of(encoder), torch.Generator().manual_seed(0)
    for octave in reversed(range(octaves)):
        size = fit_size(picture.rgb.size, round(max(picture.rgb.size) / OCTAVE**octave), encoder.minimum_size)
        start = picture.resize(size).tensor() if image is None else upsample_residual(image, picture, size)
        image = start.to(device)
        for _ in range(iterations):
            down, right = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=generator).tolist()
            gradient = _energy_gradient(encoder, image.roll((down, right), (2, 3))).roll((-down, -right), (2, 3))
            step = STEP / gradient.abs().mean().clamp(min=torch.finfo(gradient.dtype).tiny)
            image = torch.addcmul(image, gradient, step).clamp_(0, 1)
            yield image


def _energy_gradient(encoder: Encoder, image: Tensor) -> Tensor:
    """Of ½ Σ F² over the features of the encoder's layer, with respect to the image."""
    trace, gradient = BackwardPass(encoder, image), torch.zeros_like(image)
    trace.forward(lambda name, top, features: features)  # the gradient with respect to the features is the features
    trace.backward(lambda name, top, features: None, lambda name, top, features: None, gradient)
    return gradient


# --- both ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _loaded_network(source: Path, layer: str, options: Options) -> Iterator[tuple[Picture, Encoder, dict[str, Any]]]:
    """The image in its size, the network up to the layer, and the settings to embed; the machine set up for it."""
    device = hardware.select_device(options.device)
    with hardware.runtime_settings(device, deterministic=True), hardware.readable_memory_errors(device):
        layers = layer_weights([layer])
        picture = read_picture(source, options.max_pixels)
        loaded = weights.load_weights(options.model, options.weights, options.preprocessing)
        encoder = Encoder(loaded.convolutions, layers, options.pooling).to(device)
        size = fit_size(picture.rgb.size, options.size, encoder.minimum_size)
        settings = {"version": __version__, "image": picture.name, "model": loaded.name, "layer": encoder.layers[-1]}
        yield picture.resize(size), encoder, {**settings, "size": options.size}


def _device_of(encoder: Encoder) -> torch.device:
    return encoder.convolution(encoder.names[0])[0].device

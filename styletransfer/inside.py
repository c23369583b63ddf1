"""Figures of what the network sees: a layer's feature maps and Gram matrix, and its dream."""

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.utils import make_grid
from tqdm import tqdm

from . import __version__, hardware, images, weights
from .images import Picture, fitted
from .losses import gram_matrix
from .options import Options, layer_weights
from .painting import stepped_up
from .pipeline import memory_told
from .vgg import Encoder, Trace

#: Longer side of a feature map on the sheet, in pixels, and what is between two.
MAP, GAP = 128, 2
#: Each size of a dream is so many times the last, and each step of it changes the values 0…1 by so much on average.
OCTAVE, STEP = 1.4, 0.006


# --- feature maps --------------------------------------------------------------------------------------------------


def draw_features(source: Path, target: Path, layer: str, options: Options) -> None:
    """Writes the `sheet` of a picture's features at a layer, normalised as for a style transfer.

    Raises:
        UsageError, StyleTransferError: as `dream`.
    """
    images.check_output(target, 8, (source,))
    with _prepared(source, layer, options) as (picture, encoder, settings):
        image = picture.tensor().to(_device(encoder))
        encoder.normalize([image])
        drawn = sheet(encoder(image)[encoder.layers[-1]]).cpu()
    images.write(drawn, target, alpha=None, bit_depth=8, settings=settings)


def sheet(features: Tensor) -> Tensor:
    """Feature maps 1×N×H×W side by side, row by row, and right of them their Gram matrix: an image 1×3×H'×W'.

    The matrix is that of eq. 3 of Gatys et al. 2016. Black is 0 and white the largest value, of each map and of the
    matrix; between, grey levels are square roots.
    """
    count, height, width = features.shape[1:]
    columns, rows = fitted((width, height), MAP, enlarge=True)
    maps = F.interpolate(_to_white(features), size=(rows, columns), mode="area").transpose(0, 1)
    gram = _to_white(gram_matrix(features)[None, None])
    left = make_grid(maps, nrow=math.ceil(math.sqrt(count)), padding=GAP, pad_value=1)
    right = F.pad(F.interpolate(gram, scale_factor=max(1, left.shape[1] // count))[0], (GAP,) * 4, value=1)
    tallest = max(left.shape[1], right.shape[1])
    parts = [F.pad(part, (0, 0, 0, tallest - part.shape[1]), value=1) for part in (left, right.expand(3, -1, -1))]
    return torch.cat(parts, 2)[None]


def _to_white(maps: Tensor) -> Tensor:
    """Grey levels of each map, with 1 for its largest value; one that is 0 everywhere stays so."""
    # Roots, because most values are small beside the largest.
    return (maps / maps.amax((2, 3), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)).sqrt()


# --- dreams --------------------------------------------------------------------------------------------------------


def draw_dream(
    source: Path, target: Path, layer: str, options: Options, octaves: int, iterations: int, *, quiet: bool = False
) -> None:
    """Writes the `dream` of a picture at a layer, with a progress bar on stderr if that is a terminal.

    Raises:
        UsageError: the layer, an option, the input's or the output's name can't be meant.
        StyleTransferError: the picture or the weights can't be read, the output can't be written, or memory runs out.
    """
    images.check_output(target, 8, (source,))
    with _prepared(source, layer, options) as (picture, encoder, settings):
        steps = tqdm(
            dream(picture, encoder, octaves, iterations),
            total=octaves * iterations,
            unit="it",
            disable=quiet or None,
            dynamic_ncols=True,
        )
        for image in steps:
            steps.set_description_str("{3}×{2}".format(*image.shape), refresh=False)
    settings |= {"octaves": octaves, "iterations": iterations}
    images.write(image.cpu(), target, alpha=picture.alpha, bit_depth=8, settings=settings)


def dream(picture: Picture, encoder: Encoder, octaves: int, iterations: int) -> Iterator[Tensor]:
    """Yields the image 1×3×H×W in [0, 1] after each of octaves × iterations steps; the last is of the picture's size.

    Gradient ascent on ½ Σ F² at the encoder's deepest layer: what it sees there, it is to see more of. It begins small,
    and each octave adds patterns of the filters' size, which are smaller beside the picture. Mordvintsev, Olah and
    Tyka, *Inceptionism*, 2015, and *DeepDream*, 2015, without its random shifts, which change little here.
    """
    image, device = None, _device(encoder)
    for octave in reversed(range(octaves)):
        size = fitted(picture.rgb.size, round(max(picture.rgb.size) / OCTAVE**octave), encoder.minimum_size)
        start = picture.resized(size).tensor() if image is None else stepped_up(image, picture, size)
        image = start.to(device)
        for _ in range(iterations):
            gradient = _energy_gradient(encoder, image)
            step = STEP / gradient.abs().mean().clamp(min=torch.finfo(gradient.dtype).tiny)
            image = torch.addcmul(image, gradient, step).clamp_(0, 1)
            yield image


def _energy_gradient(encoder: Encoder, image: Tensor) -> Tensor:
    """Of ½ Σ F² over the features of the encoder's layer, with respect to the image."""
    trace, gradient = Trace(encoder, image), torch.zeros_like(image)
    trace.forward(lambda name, top, features: features)  # the gradient with respect to the features is the features
    trace.backward(lambda name, top, features: None, lambda name, top, features: None, gradient)
    return gradient


# --- both ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _prepared(source: Path, layer: str, options: Options) -> Iterator[tuple[Picture, Encoder, dict[str, Any]]]:
    """The picture in its size, the network up to the layer, and the settings to embed; the machine set up for it."""
    device = hardware.device(options.device)
    with hardware.tuned(device, deterministic=True), memory_told(device):
        layers = layer_weights([layer])
        picture = images.read(source, options.max_pixels)
        model, convolutions = weights.resolve(options.model, options.weights, options.preprocessing)
        encoder = Encoder(convolutions, layers, options.pooling).to(device)
        size = fitted(picture.rgb.size, options.size, encoder.minimum_size)
        settings = {"version": __version__, "image": picture.name, "model": model, "layer": encoder.layers[-1]}
        yield picture.resized(size), encoder, {**settings, "size": options.size}


def _device(encoder: Encoder) -> torch.device:
    return encoder.convolution(encoder.names[0])[0].device

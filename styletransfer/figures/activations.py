"""Figures of a layer's activations: feature maps with their Gram matrix, and dreams."""

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

from ..encoder import weights
from ..encoder.backward import BackwardPass
from ..encoder.vgg import Encoder
from ..images import Picture, check_output, fit_size, read_picture, write_picture
from ..losses.gram import gram_matrix
from ..options import Options, layer_weights
from ..runtime import hardware
from ..transfer.canvas import upsample_residual
from ..version import __version__

#: Longer side of a feature map on the sheet, and the gap between two, in pixels.
MAP, GAP = 128, 2
#: Ratio of successive sizes of a dream, and the mean change of its values 0…1 in each step.
OCTAVE, STEP = 1.4, 0.006
#: Largest random shift, in pixels, in each step of a dream: without it a border and a checkerboard pattern show.
SHIFT = 16


@dataclass(frozen=True)
class Drawing:
    """A figure of a layer's activations.

    Attributes:
        image: 1×3×H×W in [0, 1], on the CPU.
        settings: to embed in the file.
        alpha: the image's opacity, Pillow mode L, or None.
    """

    image: Tensor
    settings: dict[str, Any]
    alpha: Image.Image | None = None

    def save(self, path: Path) -> None:
        """Write the figure in the format of its file extension.

        Raises:
            UsageError: unknown file extension, or no such folder.
            StyleTransferError: the file can't be written.
        """
        check_output(path, 8)
        write_picture(self.image, path, alpha=self.alpha, bit_depth=8, settings=self.settings)


# --- feature maps --------------------------------------------------------------------------------------------------


def draw_features(source: Path, layer: str, options: Options) -> Drawing:
    """Return a figure of an image's feature maps at a layer, by `arrange_maps`.

    Raises:
        UsageError, StyleTransferError: as `draw_dream`.
    """
    with _loaded_network(source, layer, options) as (picture, encoder, settings):
        image = picture.tensor().to(_get_device(encoder))
        return Drawing(arrange_maps(encoder(image)[encoder.layers[-1]]).cpu(), settings)


def arrange_maps(features: Tensor) -> Tensor:
    """Return an image 1×3×H'×W' of feature maps 1×N×H×W in a grid and, to the right, their Gram matrix.

    The matrix is that of eq. 3 of Gatys et al. 2016. Black is 0 and white the largest value, of each map and of the
    matrix; gray levels are square roots.
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
    """Return the gray levels of each map, 1 for its largest value; a map of zeros stays zero."""
    # Square roots, because most values are small compared with the largest.
    return (maps / maps.amax((2, 3), keepdim=True).clamp(min=torch.finfo(maps.dtype).tiny)).sqrt()


# --- dreams --------------------------------------------------------------------------------------------------------


def draw_dream(
    source: Path, layer: str, options: Options, octaves: int, iterations: int, *, quiet: bool = False
) -> Drawing:
    """Return the `dream` of an image at a layer, with a progress bar on stderr if that is a terminal.

    Raises:
        UsageError: the layer, an option or the file name is invalid.
        StyleTransferError: the image or the weights can't be read, or memory runs out.
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
    """Yield the image 1×3×H×W in [0, 1] after each of octaves × iterations steps, the last in the original size.

    Gradient ascent on ½ Σ F² at the encoder's deepest layer amplifies what the layer responds to. It starts small, and
    each octave adds patterns of the filters' size, which are smaller relative to the image. Mordvintsev, Olah and
    Tyka, *Inceptionism*, 2015, and *DeepDream*, 2015.
    """
    image, device, generator = None, _get_device(encoder), torch.Generator().manual_seed(0)
    for octave in reversed(range(octaves)):
        size = fit_size(picture.rgb.size, round(max(picture.rgb.size) / OCTAVE**octave), encoder.minimum_size)
        start = picture.resize(size).tensor() if image is None else upsample_residual(image, picture, size)
        image = start.to(device)
        for _ in range(iterations):
            down, right = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=generator).tolist()
            gradient = _compute_gradient(encoder, image.roll((down, right), (2, 3))).roll((-down, -right), (2, 3))
            step = STEP / gradient.abs().mean().clamp(min=torch.finfo(gradient.dtype).tiny)
            image = torch.addcmul(image, gradient, step).clamp_(0, 1)
            yield image


def _compute_gradient(encoder: Encoder, image: Tensor) -> Tensor:
    """Return the gradient of ½ Σ F² at the encoder's layer with respect to the image."""
    backward_pass, gradient = BackwardPass(encoder, image), torch.zeros_like(image)
    backward_pass.forward(lambda name, top, features: features)  # the gradient of ½ Σ F² is F
    backward_pass.backward(lambda name, top, features: None, lambda name, top, features: None, gradient)
    return gradient


# --- shared --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _loaded_network(source: Path, layer: str, options: Options) -> Iterator[tuple[Picture, Encoder, dict[str, Any]]]:
    """Yield the resized image, the network up to the layer and the settings to embed; torch is set up within."""
    device = hardware.select_device(options.device)
    with hardware.runtime_settings(device, deterministic=True), hardware.readable_memory_errors(device):
        layers = layer_weights([layer])
        picture = read_picture(source, options.max_pixels)
        loaded = weights.load_weights(options.model, options.weights, options.preprocessing)
        encoder = Encoder(loaded.convolutions, layers, options.pooling).to(device)
        size = fit_size(picture.rgb.size, options.size, encoder.minimum_size)
        settings = {"version": __version__, "image": picture.name, "model": loaded.name, "layer": encoder.layers[-1]}
        yield picture.resize(size), encoder, {**settings, "size": options.size}


def _get_device(encoder: Encoder) -> torch.device:
    return encoder.convolution(encoder.names[0])[0].device

"""The problem that a run solves: images, scales and network, read and checked before the first step."""

import contextlib
import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..encoder.tuning import Costs, parse_costs
from ..encoder.vgg import Encoder
from ..encoder.weights import Weights, load_weights
from ..errors import UsageError
from ..images import Inputs, Picture, Source, StyleInput, Styles, color, fit_size, read_inputs
from ..losses import LOSSES, GramAndNearest, StyleLoss
from ..options import STARTS, Options
from ..runtime import hardware
from ..version import __version__
from .bleed import bleed_width

log = logging.getLogger(__name__)

#: The longer side of the coarsest scale is between this and twice this: there the deepest filters see large forms as a
#: whole, and an iteration costs little. From 64 px a run ends sooner, but less of the content is left
#: (docs/explanation/method.md).
COARSEST = 128
#: Smallest side in pixels of any scale but the last.
SMALLEST = 32
#: A scale has converged when the loss hardly fell within so many iterations.
WINDOW = 50
#: Finer scales only add detail, and an iteration costs four times as much as on the scale before: they have this share
#: of the coarsest scale's iterations, and at least so many (docs/explanation/method.md).
FINER_SHARE, FINER_ITERATIONS = 0.3, 25


@dataclass(frozen=True)
class Scale:
    """A scale of the optimization: (width, height) of the content image, the longer side of the style images."""

    content: tuple[int, int]
    style: int

    def fit_style(self, style: Picture) -> tuple[int, int]:
        """Return (width, height) of a style image at this scale; it is never upsampled."""
        return fit_size(style.rgb.size, self.style)


@dataclass(frozen=True)
class Prior:
    """What is known of the output before the run, such as from the previous frame of a clip.

    Attributes:
        image: that the run starts from and stays near.
        weight: of the temporal loss, 1×1×H×W in the size of the last scale.
        window: iterations within which the loss must fall for a scale to continue.
        spectrum: that L-BFGS starts with (`spectrum_of`).
    """

    image: Picture
    weight: Tensor
    window: int = WINDOW
    spectrum: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Problem:
    """What a run optimizes, on all its scales.

    Attributes:
        originals, inputs: the images as passed, and as the network sees them (`Options.color`).
        prior: if any. Finer scales then add the residual to its image, not to the content, and every scale has fewer
            iterations (`max_iterations`).
        costs: what convolutions cost on this processor (`Encoder.costs`), as far as it was asked for: they decide how
            features are computed, and so how they are rounded.
    """

    originals: Inputs
    inputs: Inputs
    scales: list[Scale]
    weights: Weights
    options: Options
    precision: hardware.Precision
    device: torch.device
    prior: Prior | None = None
    costs: dict[str, Costs] = field(default_factory=dict)

    @property
    def base(self) -> Picture:
        """The image that a finer scale adds the residual to."""
        return self.prior.image if self.prior else self.inputs.content

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Settings and hashes, by name, that must be the same when a run is resumed."""
        hashes = self.originals.hashes()
        if self.options.init in STARTS:
            hashes["init"] = self.options.init
        # A run may resume on another device of the same type.
        rest = {"weights": self.weights.digest, "device": self.device.type, "version": __version__}
        return {**self.options.to_settings(), **hashes, **rest}

    @property
    def style_loss(self) -> StyleLoss:
        """The style loss of the options."""
        share = self.options.nearest_share
        return LOSSES[self.options.style_loss] if share is None else GramAndNearest(share)

    def encoder(self, precision: hardware.Precision) -> Encoder:
        """Return the network, cut to the layers of the losses."""
        layers = {*self.options.content_weights, *self.options.style_weights, *self.style_loss.matched_layers}
        pooling, dtypes = self.options.pooling, (precision.forward, precision.backward)
        encoder = self.weights.encoder(layers, pooling, *dtypes, self.device)
        encoder.costs = self.costs
        return encoder

    def max_iterations(self, scale: Scale) -> int:
        """Return the maximum number of iterations of a scale."""
        is_finer = self.scales.index(scale) > 0
        return limit_iterations(self.options, is_finer + (self.prior is not None))


def serialize_tuning(precision: hardware.Precision, costs: dict[str, Costs]) -> dict[str, Any]:
    """Return the results of autotuning, to be written as JSON: another process may measure differently."""
    return {"backward": str(precision.backward).removeprefix("torch."), "costs": costs}


def parse_tuning(
    stored: Mapping[str, Any], precision: hardware.Precision
) -> tuple[hardware.Precision, dict[str, Costs]]:
    """Return precision and costs as `serialize_tuning` stored them; `precision` is used for what it did not."""
    costs = {shape: parse_costs(each) for shape, each in stored.get("costs", {}).items()}
    return replace(precision, backward=getattr(torch, stored["backward"])), costs


@contextlib.contextmanager
def prepared_problem(
    content: Source, style: Styles, options: Options, weights: Weights | None = None
) -> Iterator[Problem]:
    """Yield the problem of these inputs; within, torch and the C library are set up for it.

    Args:
        weights: loaded as the options say if None.

    Raises:
        UsageError, StyleTransferError: as `stylize`.
    """
    device = hardware.select_device(options.device)
    precision = hardware.select_precision(options.precision, device)
    with (
        hardware.runtime_settings(device, precision.tf32, options.deterministic),
        hardware.readable_memory_errors(device),
    ):
        originals = read_inputs(content, style, options)
        sizes = originals.content.rgb.size, [style.rgb.size for style in originals.styles]
        scales = choose_scales(*sizes, options)
        size = scales[-1].content
        inputs = _recolor(originals, scales[-1], options)
        if max(size) < options.size != Options.size:
            log.info("%s: keeping its size of %d×%d pixels; set enlarge to make it larger", inputs.content.name, *size)
        weights = weights or load_weights(options.model, options.weights, options.preprocessing)
        problem = Problem(originals, inputs, scales, weights, options, precision, device)
        _check_sizes(inputs, scales[-1], problem.encoder(precision), bleed_width(options))
        yield problem


def limit_iterations(options: Options, starts: int) -> int:
    """Return the maximum number of iterations of a scale that starts from so many earlier results."""
    most = options.iterations
    for _ in range(starts):
        most = min(most, max(FINER_ITERATIONS, round(FINER_SHARE * most)))
    return most


def choose_scales(full: tuple[int, int], styles: Collection[tuple[int, int]], options: Options) -> list[Scale]:
    """Return the scales to work through, the coarsest first.

    Args:
        full, styles: width and height of the content image and of the style images.
    """
    longer = max(fit_size(full, options.size, enlarge=options.enlarge))
    smallest = max(SMALLEST, bleed_width(options) + 1)
    count = 1 + max(0, math.floor(math.log2(longer / COARSEST))) if options.scales == "auto" else int(options.scales)
    scales: list[Scale] = []
    for size in (max(1, round(longer / 2**i)) for i in range(count)):
        scale = Scale(fit_size(full, size, enlarge=options.enlarge), max(1, round(size * options.style_scale)))
        sides = [*scale.content, *(side for style in styles for side in fit_size(style, scale.style))]
        if not scales or min(sides) >= smallest:
            scales.insert(0, scale)
    return scales


def _recolor(inputs: Inputs, scale: Scale, options: Options) -> Inputs:
    """Return the inputs as the network sees them (`Options.color`).

    Colors are matched in the size of the last scale: at another one, an image of fine strokes has other variances.
    """
    if options.color == "style":
        return inputs

    def convert(picture: Picture) -> Picture:
        return color.to_luminance(picture) if options.color == "luminance" else picture

    def recolor(style: Picture) -> Picture:
        resized = convert(style).resize(scale.fit_style(style)), convert(inputs.content).resize(scale.content)
        return color.transfer_colors(*resized)

    recolored = {id(style): recolor(style) for style in inputs.styles}

    def recolor_input(style: StyleInput) -> StyleInput:
        return replace(style, picture=recolored[id(style.picture)])

    regions = [replace(region, styles=list(map(recolor_input, region.styles))) for region in inputs.regions]
    start = inputs.start and (recolored.get(id(inputs.start)) or convert(inputs.start))
    return replace(inputs, content=convert(inputs.content), regions=regions, start=start)


def _check_sizes(inputs: Inputs, scale: Scale, encoder: Encoder, bleed: int) -> None:
    needed = max(encoder.minimum_size, bleed + 1)  # mirroring needs one pixel more than the bleed
    sizes: Sequence[tuple[Picture, tuple[int, int]]] = [
        (inputs.content, scale.content),
        *((style, scale.fit_style(style)) for style in inputs.styles),
    ]
    for picture, size in sizes:
        if min(size) < needed:
            raise UsageError(
                f"{picture.name}: would have {size[0]}×{size[1]} pixels, but {encoder.layers[-1]} needs "
                f"{needed} on the shorter side: use a larger image or size"
            )

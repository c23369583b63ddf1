"""What a run optimizes: its images, scales and network, read and checked before the work begins."""

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..encoder import Encoder
from ..encoder.weights import Weights, load_weights
from ..errors import UsageError
from ..images import Inputs, Picture, Source, StyleInput, Styles, color, fit_size, read_inputs
from ..options import STARTS, Options
from ..runtime import hardware
from ..version import __version__
from .bleed import bleed_width

log = logging.getLogger(__name__)

#: Pictures start with a longer side between this and twice this: there the deepest filters see large forms as a whole,
#: and an iteration costs little. From 64 px it is sooner done, but less of the content is left (docs/method.md).
COARSEST = 128
#: No scale but the last has a shorter side.
SMALLEST = 32
#: A run has settled when the loss fell by hardly anything within so many iterations.
WINDOW = 50
#: Finer scales only add detail, and each costs four times as much as the one before: they have this share of the
#: coarsest one's iterations, and at least so many (docs/method.md).
FINER_SHARE, FINER_ITERATIONS = 0.3, 25


@dataclass(frozen=True)
class Scale:
    """One of the sizes that are worked through: (width, height) of the content, the longer side of the styles."""

    content: tuple[int, int]
    style: int

    def fit_style(self, style: Picture) -> tuple[int, int]:
        """(width, height) of a style picture; it isn't enlarged."""
        return fit_size(style.rgb.size, self.style)


@dataclass(frozen=True)
class Prior:
    """What is known of the output before the run, as that of a frame of a clip is from the frame before.

    Attributes:
        image: that it starts from, and that it is to stay near.
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
        originals, inputs: the pictures as they were given, and as the network is to see them (`Options.color`).
        prior: if any. Finer scales then add what was changed to its image, not to the content, and the coarsest one has
            no more iterations than others.
    """

    originals: Inputs
    inputs: Inputs
    scales: list[Scale]
    weights: Weights
    options: Options
    precision: hardware.Precision
    device: torch.device
    prior: Prior | None = None

    @property
    def base(self) -> Picture:
        """The image that a finer scale adds the change to."""
        return self.prior.image if self.prior else self.inputs.content

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What must be the same when a run is resumed, by name."""
        hashes = self.originals.hashes()
        if self.options.init in STARTS:
            hashes["init"] = self.options.init
        # Of several GPUs another one may resume.
        rest = {"weights": self.weights.digest, "device": self.device.type, "version": __version__}
        return {**self.options.to_settings(), **hashes, **rest}

    def encoder(self, precision: hardware.Precision) -> Encoder:
        """Return the network, cut to the layers of the losses."""
        layers = {**self.options.content_weights, **self.options.style_weights}
        return self.weights.encoder(layers, self.options.pooling, precision.forward, precision.backward, self.device)

    def max_iterations(self, scale: Scale) -> int:
        """Return the most iterations that one of the scales can have."""
        most, shorter = self.options.iterations, self.scales.index(scale) > 0
        for _ in range(shorter + (self.prior is not None)):
            most = min(most, max(FINER_ITERATIONS, round(FINER_SHARE * most)))
        return most


@contextlib.contextmanager
def prepared_problem(
    content: Source, style: Styles, options: Options, weights: Weights | None = None
) -> Iterator[Problem]:
    """Yield the problem of these inputs; within, torch and the C library are set up for it.

    Args:
        weights: those of the options are loaded if not given.

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
        scales = choose_scales(originals, options)
        size = scales[-1].content
        pictures = _recolor(originals, scales[-1], options)
        if max(size) < options.size != Options.size:
            log.info("%s has %d×%d pixels and keeps them (--enlarge makes it larger)", pictures.content.name, *size)
        weights = weights or load_weights(options.model, options.weights, options.preprocessing)
        problem = Problem(originals, pictures, scales, weights, options, precision, device)
        _check_sizes(pictures, scales[-1], problem.encoder(precision), bleed_width(options))
        yield problem


def choose_scales(inputs: Inputs, options: Options) -> list[Scale]:
    """The sizes to work through, the coarsest first."""
    whole = inputs.content.rgb.size
    longer = max(fit_size(whole, options.size, enlarge=options.enlarge))
    smallest = max(SMALLEST, bleed_width(options) + 1)
    count = 1 + max(0, math.floor(math.log2(longer / COARSEST))) if options.scales == "auto" else int(options.scales)
    scales: list[Scale] = []
    for size in (max(1, round(longer / 2**i)) for i in range(count)):
        scale = Scale(fit_size(whole, size, enlarge=options.enlarge), max(1, round(size * options.style_scale)))
        sides = [*scale.content, *(side for style in inputs.styles for side in scale.fit_style(style))]
        if not scales or min(sides) >= smallest:
            scales.insert(0, scale)
    return scales


def _recolor(given: Inputs, scale: Scale, options: Options) -> Inputs:
    """The inputs as the network is to see them; colors are matched in the size of the last scale."""
    if options.color == "style":
        return given

    def recolor(style: Picture) -> Picture:
        sizes = scale.content, scale.fit_style(style)
        return color.match_colors(given.content, style, options.color, sizes)[1]

    def in_gray(picture: Picture) -> Picture:
        return color.to_luminance(picture) if options.color == "luminance" else picture

    recolored = {id(style): recolor(style) for style in given.styles}

    def exchange(style: StyleInput) -> StyleInput:
        return replace(style, picture=recolored[id(style.picture)])

    regions = [replace(region, styles=list(map(exchange, region.styles))) for region in given.regions]
    start = given.start and (recolored.get(id(given.start)) or in_gray(given.start))
    return replace(given, content=in_gray(given.content), regions=regions, start=start)


def _check_sizes(inputs: Inputs, scale: Scale, encoder: Encoder, bleed: int) -> None:
    needed = max(encoder.minimum_size, bleed + 1)  # the bleed mirrors that much
    sizes: Sequence[tuple[Picture, tuple[int, int]]] = [
        (inputs.content, scale.content),
        *((style, scale.fit_style(style)) for style in inputs.styles),
    ]
    for picture, size in sizes:
        if min(size) < needed:
            raise UsageError(
                f"{picture.name} would be {size[0]}×{size[1]} pixels; {encoder.layers[-1]} needs "
                f"{needed} at the shorter side: use a larger picture or --size"
            )

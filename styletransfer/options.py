"""The options and their defaults, shared by the library, the command line and the web page."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Literal, get_type_hints

from .conversion import convert_value
from .errors import UsageError, install_hint

#: The sixteen convolutions of VGG-19 by the paper's names, in order. A name stands for the output after the ReLU.
LAYERS = tuple(f"conv{block}_{i}" for block, n in enumerate((2, 2, 4, 4, 4), 1) for i in range(1, n + 1))


def _define_option(
    panel: str | None,
    default: Any,
    help: str,
    *,
    flag: str | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    metavar: str | None = None,
) -> Any:
    """Return a field with metadata for the command line: help text, panel, flag, range and metavar."""
    metadata = {"help": help, "panel": panel, "flag": flag, "minimum": minimum, "maximum": maximum, "metavar": metavar}
    return field(default=default, metadata=metadata)


_common = partial(_define_option, None)
_image = partial(_define_option, "Image")
_style = partial(_define_option, "Style")
_optimization = partial(_define_option, "Optimization")
_network = partial(_define_option, "Network")

_STYLE_LAYERS = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")


#: Values of `init` other than a file.
STARTS = ("content", "style", "noise")
#: Default template of output names in a batch.
PICTURE_NAMES = "{content}_{style}.png"
#: Stands for the mask of a style when the whole image counts.
WHOLE = "-"
#: Default learning rates, in pixel values 0…1; L-BFGS finds its own step size.
LEARNING_RATES = {"adam": 0.03, "rmsprop": 0.01, "adagrad": 0.1, "sgd": 0.01}
#: Share of nearest-neighbor matching in the style loss nearest.
NEAREST_SHARE = 0.5
PresetName = Literal["paper", "fast", "quality", "print"]
#: Settings of each preset.
PRESETS: dict[PresetName, dict[str, Any]] = {
    "paper": {
        "style_loss": "gram",
        "model": "vgg19",
        "init": "noise",
        "scales": "1",
        "iterations": 500,
        "precision": "fp32",
    },
    "fast": {"model": "vgg19-lite", "iterations": 50},
    "quality": {"size": 1024, "iterations": 200, "beta": 15.0},
    "print": {"size": 3600, "enlarge": True},
}


@dataclass(frozen=True)
class Options:
    """Settings of one run. Raises `UsageError` if a value is invalid.

    Only the ratio alpha / beta affects the image (Gatys et al. 2016, eq. 7 and fig. 4).
    """

    size: int = _common(512, "Longer side in pixels; a smaller content image keeps its size.", minimum=16)
    enlarge: bool = _image(False, "Enlarge a content image smaller than --size.")
    bit_depth: int = _image(8, "Bits per channel of the output: 8, or 16 for PNG and TIFF.")
    max_pixels: int = _image(179_000_000, "Reject larger input images, such as decompression bombs.", minimum=1)

    alpha: float = _style(1.0, "Content weight.", minimum=0)
    beta: float = _common(
        10.0, "Style weight: 100 is all style, 1 nearly all content. Only alpha/beta matters.", minimum=0
    )
    style_loss: Literal["nearest", "gram", "moments", "wasserstein"] = _style(
        "nearest",
        "nearest: Gram matrices and each place's most similar one in the style; gram: Gram matrices alone, as in the "
        "paper; moments: mean and deviation of each filter; wasserstein: mean and covariance.",
        metavar="NAME",
    )
    nearest_share: float | None = _style(
        None,
        f"Share of matching in --style-loss nearest, 0…1; the rest is Gram matrices. Default: {NEAREST_SHARE:g}.",
        minimum=0,
        maximum=1,
    )
    content_layers: tuple[str, ...] = _style(
        ("conv4_2",), "Content layers, comma-separated: NAME or NAME=WEIGHT.", flag="--content-layer"
    )
    style_layers: tuple[str, ...] = _style(
        _STYLE_LAYERS,
        "Style layers, comma-separated: NAME or NAME=WEIGHT.",
        flag="--style-layer",
    )
    pooling: Literal["avg", "max", "l2"] = _style("avg", "Pooling of the network; the paper uses avg.")
    style_scale: float = _common(
        1.0, "Scale of the style image relative to the content; sets the size of strokes.", minimum=0.001
    )
    style_weight: tuple[float, ...] = _style((), "Weight of each style image, in order; repeatable.", minimum=0)
    mask: tuple[tuple[str, str], ...] = _style(
        (), "CONTENT_MASK STYLE_MASK: white in the first gets the style of white in the second (- for all); repeatable."
    )
    keep: str | None = _style(None, "Mask image: where it is white, the content stays unchanged.")
    content_mask: str | None = _style(
        None, "Mask image: how much the content counts at each place, from black, not at all, to white."
    )
    faces: float = _style(
        1.0,
        f"Content weight of faces relative to the rest; try 3 to 10. Needs: {install_hint('faces')}.",
        minimum=0,
    )
    color: Literal["style", "content", "luminance"] = _common(
        "style",
        "Output colors: style; content (like the content's); luminance (the content's, only lightness is styled).",
        metavar="NAME",
    )
    tv: float = _style(0.0, "Weight of the total variation loss, which smooths; try 3 to 30.", minimum=0)
    l1: float = _style(0.0, "Weight of the mean absolute change from the content; try 3 to 30.", minimum=0)
    l2: float = _style(0.0, "Weight of the mean squared change from the content; try 30 to 300.", minimum=0)
    seamless: bool = _image(False, "Make the image tileable: opposite borders match.")

    optimizer: Literal["lbfgs", "adam", "rmsprop", "adagrad", "sgd"] = _optimization(
        "lbfgs", "L-BFGS, or others for comparison; sgd uses momentum."
    )
    iterations: int = _optimization(
        100,
        "Maximum on the coarsest scale, 30 % of it on finer ones; fewer when the loss has converged.",
        minimum=0,
    )
    time: str = _optimization("off", "Time limit, such as 90s, 5m or 2h, for the best image by then; or off.")
    checkpoint_every: str = _optimization("30", "Seconds between checkpoints, for resuming an interrupted run; or off.")
    scales: str = _optimization("auto", "Number of scales, each twice the last; auto: from 128…256 px up.")
    learning_rate: float | None = _optimization(
        None,
        "Step size, in pixel values 0…1; not with lbfgs. Default: "
        + ", ".join(f"{name} {rate:g}" for name, rate in LEARNING_RATES.items()),
        minimum=0,
    )
    jitter: float = _optimization(
        0.0, "Noise added to the network's input in each iteration, 0…1; not with lbfgs.", minimum=0
    )
    init: str = _optimization("content", "Starting image: content, style, noise, or an image file.")
    init_noise: float = _optimization(
        0.0, "Share of noise in the starting image, 0…1; each seed then gives another image.", minimum=0, maximum=1
    )
    seed: int = _optimization(0, "Random seed of the noise.", minimum=0)

    model: Literal["auto", "vgg19", "vgg19-8bit", "vgg19-lite"] = _network(
        "auto", "vgg19 (8-bit unless full-precision weights are found), the small vgg19-lite, or auto: vgg19 if found."
    )
    weights: str | None = _network(None, "VGG-19 weights file, instead of --model.")
    preprocessing: Literal["auto", "torchvision", "caffe", "rgb"] = _network(
        "auto", "Input format of --weights: torchvision, caffe (BGR 0…255), rgb (0…1), or auto: by keys and file name."
    )
    device: str = _network("auto", "auto, cpu, cuda, cuda:N or mps.")
    precision: Literal["auto", "fp32", "bf16", "tf32"] = _network(
        "auto", "Precision of the network; auto is the fastest without a visible difference."
    )

    deterministic: bool = _network(
        False, "Bitwise reproducible, but slower: on CUDA, and on a CPU beside other busy programs."
    )
    tile: str = _network(
        "auto", "auto: whole image, or tiles if memory is short; off: whole image; PIXELS: tiles of this width."
    )

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, convert(f.name, getattr(self, f.name)))
        if self.alpha == 0 and self.beta == 0:
            raise UsageError("alpha and beta are both 0: nothing to optimize")
        if self.nearest_share is not None and self.style_loss != "nearest":
            raise UsageError(f"nearest_share does not apply to {self.style_loss}: set style_loss to nearest")
        if self.seed >= 2**63:
            raise UsageError(f"seed is {self.seed}; it must be less than 2^63")
        if self.bit_depth not in (8, 16):
            raise UsageError(f"bit_depth is {self.bit_depth}; it must be 8 or 16")
        if self.optimizer == "lbfgs" and self.learning_rate is not None:
            raise UsageError(
                "learning_rate does not apply to L-BFGS, which finds its own step size: set optimizer to adam"
            )
        if self.optimizer == "lbfgs" and self.jitter:
            raise UsageError("jitter changes the loss in every iteration, unsuitable for L-BFGS: set optimizer to adam")
        _ = self.seconds  # raises if invalid
        _check_number("checkpoint_every", self.checkpoint_every, "off", least=0)
        _check_number("scales", self.scales, "auto", least=1)
        _check_number("tile", self.tile, "auto", "off", least=16)
        layer_weights(self.content_layers)
        layer_weights(self.style_layers)

    @property
    def content_weights(self) -> dict[str, float]:
        """Content layers with their shares of the content loss (sum 1)."""
        return layer_weights(self.content_layers)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "Options":
        """Return the options stored in an image or a checkpoint; unknown names are ignored.

        Raises `UsageError` if a value is invalid.
        """
        stored = {**_EARLIER_DEFAULTS, **settings}
        return cls(**{f.name: stored[f.name] for f in fields(cls) if f.name in stored})

    def with_changes(self, changes: Mapping[str, Any]) -> "Options":
        """Return a copy with some settings changed. Raises `UsageError` for an unknown name or an invalid value."""
        try:
            return replace(self, **changes)
        except TypeError as error:
            raise UsageError(str(error).replace("Options.__init__() got an ", "")) from error

    def map_files(self, rename: Callable[[str], str]) -> "Options":
        """Return a copy with every file name in the settings mapped by a function."""
        if not self.files:
            return self
        changes: dict[str, Any] = {name: rename(value) for name in FILE_OPTIONS if (value := getattr(self, name))}
        if self.init not in STARTS:
            changes["init"] = rename(self.init)
        pairs = ((rename(content), style if style == WHOLE else rename(style)) for content, style in self.mask)
        return replace(self, **changes, mask=tuple(pairs))

    @property
    def files(self) -> list[str]:
        """Every file name in the settings."""
        start = [] if self.init in STARTS else [self.init]
        single = [value for name in FILE_OPTIONS if (value := getattr(self, name))]
        masks = [[content] if style == WHOLE else [content, style] for content, style in self.mask]
        return [*start, *single, *itertools.chain(*masks)]

    def to_arguments(self) -> list[str]:
        """Return the command-line options of these settings, in the order of the fields."""
        arguments: list[str] = []
        for f in fields(self):
            value = getattr(self, f.name)
            if value == f.default:
                continue
            if isinstance(value, bool):
                arguments.append(flag(f.name, on=value))
                continue
            for item in value if isinstance(value, tuple) else [value]:
                arguments += [flag(f.name), *(item if isinstance(item, tuple) else [str(item)])]
        return arguments

    @property
    def seconds(self) -> float:
        """The time limit in seconds, ∞ if there is none. Raises `UsageError` if it is invalid."""
        if self.time == "off":
            return math.inf
        number, unit = (self.time[:-1], self.time[-1]) if self.time[-1:] in _UNITS else (self.time, "s")
        try:
            seconds = float(number) * _UNITS[unit]
        except ValueError:
            seconds = math.nan
        if not 0 < seconds < math.inf:
            raise UsageError(f"time is {self.time!r}; it must be off or like 90s, 5m, 2h")
        return seconds

    def to_settings(self) -> dict[str, Any]:
        """Return the settings that affect the image, by name; `from_settings` is the inverse."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _WITHOUT_EFFECT}

    @classmethod
    def add_defaults(cls, settings: Mapping[str, Any]) -> dict[str, Any]:
        """Return stored settings, completed by the values of options that did not exist when they were stored."""
        return {**_DEFAULTS.to_settings(), **_EARLIER_DEFAULTS, **settings}

    @property
    def style_weights(self) -> dict[str, float]:
        """Style layers with their shares w_l of the style loss (sum 1)."""
        return layer_weights(self.style_layers)


@dataclass(frozen=True)
class TemporalOptions:
    """Settings of a video's temporal loss. Raises `UsageError` if a value is invalid.

    Attributes:
        weight: of the temporal loss, beside α and β.
        look_back: distances to the earlier frames of the loss, the nearest first, counted in rendered frames.
        every: N to render only every Nth frame of a shot, for a draft.
    """

    weight: float = 20.0
    look_back: tuple[int, ...] = (1, 5)
    every: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "look_back", tuple(self.look_back))
        if not 0 <= self.weight < math.inf:
            raise UsageError(f"the temporal weight is {self.weight}; it must be a number of at least 0")
        if min(self.look_back, default=0) < 1 or list(self.look_back) != sorted(set(self.look_back)):
            raise UsageError(f"look_back is {self.look_back}; it must be increasing numbers from 1, as in 1,5")
        if self.every < 1:
            raise UsageError(f"every is {self.every}; it must be at least 1")


def flag(name: str, *, on: bool = True) -> str:
    """Return the command-line flag of a field of `Options`; with `on` false, the one that turns it off."""
    option: str = Options.__dataclass_fields__[name].metadata["flag"] or "--" + name.replace("_", "-")
    return option if on else "--no-" + option.removeprefix("--")


_HINTS = get_type_hints(Options)
_UNITS = {"s": 1, "m": 60, "h": 3600}
#: What versions without an option did, where that is not its default.
_EARLIER_DEFAULTS = {"style_loss": "gram"}
#: Fields that are the name of a file, or None; `init` and `mask` can be, too.
FILE_OPTIONS = ("weights", "keep", "content_mask")
#: Values of `Options.style_loss` besides ours, in this process (`losses.register`).
OWN_STYLE_LOSSES: set[str] = set()
#: Fields that do not affect the image.
_WITHOUT_EFFECT = ("max_pixels", "checkpoint_every")


def convert(name: str, value: Any) -> Any:
    """Return a value as one of a field of `Options` (`convert_value`). Raises `UsageError` if it is invalid."""
    if name == "style_loss" and value in OWN_STYLE_LOSSES:
        return value
    metadata = Options.__dataclass_fields__[name].metadata
    return convert_value(name, value, _HINTS[name], metadata["minimum"], metadata["maximum"])


def _check_number(name: str, value: str, *words: str, least: int) -> None:
    if value not in words and not (str(value).isdecimal() and int(value) >= least):
        raise UsageError(f"{name} is {value!r}; it must be {', '.join(words)} or a number of at least {least}")


def layer_weights(specs: Sequence[str]) -> dict[str, float]:
    """Return the weight of each layer, normalized to sum 1.

    ``["conv1_1", "relu2_1=2"]`` gives ``{"conv1_1": 1/3, "conv2_1": 2/3}``. So does ``"conv1_1,relu2_1=2"``: several
    values of an option can be several sets of layers.

    Raises `UsageError` if a layer is unknown or repeated, or a weight is not a positive number.
    """
    weights: dict[str, float] = {}
    for spec in filter(None, ",".join([specs] if isinstance(specs, str) else specs).replace(" ", "").split(",")):
        name, _, number = spec.partition("=")
        layer = name.replace("relu", "conv", 1)
        if layer not in LAYERS:
            raise UsageError(f"there is no layer {name!r}; the layers are {', '.join(LAYERS)}")
        try:
            weight = float(number or 1)
        except ValueError:
            weight = math.nan
        if not (0 < weight < math.inf):
            raise UsageError(f"the weight in {spec!r} must be a positive number")
        if layer in weights:
            raise UsageError(f"layer {layer} is given twice")
        weights[layer] = weight
    if not weights:
        raise UsageError("no layer is given")
    total = sum(weights.values())
    return {layer: weight / total for layer, weight in weights.items()}


_DEFAULTS = Options()

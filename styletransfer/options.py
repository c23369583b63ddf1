"""Every option and its default, said once: library and command line both take them from here."""

import math
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Literal, get_args, get_origin, get_type_hints

from .errors import UsageError

#: The sixteen convolutions of VGG-19 under the paper's names, in order. A name means the output after its ReLU.
LAYERS = tuple(f"conv{block}_{i}" for block, n in enumerate((2, 2, 4, 4, 4), 1) for i in range(1, n + 1))


def _option(
    panel: str | None,
    default: Any,
    help: str,
    *,
    flag: str | None = None,
    minimum: float | None = None,
    metavar: str | None = None,
) -> Any:
    """A field whose metadata holds what the command line shows: help text, panel, another flag, a least value, what
    stands for the value."""
    shown = {"help": help, "panel": panel, "flag": flag, "minimum": minimum, "metavar": metavar}
    return field(default=default, metadata=shown)


_common = partial(_option, None)
_picture = partial(_option, "Picture")
_style = partial(_option, "Style")
_optimization = partial(_option, "Optimization")
_network = partial(_option, "Network")

_PAPERS_STYLE_LAYERS = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")


#: Values of `init` that are no file.
STARTS = ("content", "style", "noise")
#: How a batch calls its pictures.
PICTURE_NAMES = "{content}_{style}.png"
#: What stands for a style's mask when all of the picture counts.
WHOLE = "-"
#: Steps of the optimizers that don't find their own, in values 0…1, if none is given.
LEARNING_RATES = {"adam": 0.03, "rmsprop": 0.005, "adagrad": 0.1, "sgd": 0.02}
PresetName = Literal["paper", "fast", "quality", "print"]
#: Settings that go together.
PRESETS: dict[PresetName, dict[str, Any]] = {
    "paper": {"model": "vgg19", "init": "noise", "scales": "1", "iterations": 500, "precision": "fp32"},
    "fast": {"model": "vgg19-lite", "iterations": 50},
    "quality": {"size": 1024, "iterations": 200},
    "print": {"size": 3600, "enlarge": True},
}


@dataclass(frozen=True)
class Options:
    """Settings of one run. Raises `UsageError` when a value can't be meant.

    Only the ratio alpha / beta matters for the picture (Gatys et al. 2016, eq. 7 and fig. 4).
    """

    size: int = _common(512, "Longer side in pixels; a smaller content picture keeps its size.", minimum=16)
    enlarge: bool = _picture(False, "Enlarge a content picture smaller than --size.")
    bit_depth: int = _picture(8, "Bits per channel of the output: 8, or 16 for PNG and TIFF.")
    max_pixels: int = _picture(179_000_000, "Refuse larger input pictures: a small file can claim any size.", minimum=1)

    alpha: float = _style(1.0, "Content weight.", minimum=0)
    beta: float = _common(
        10.0, "Style weight: 100 is all style, 1 nearly all photo. Only alpha/beta matters.", minimum=0
    )
    style_loss: Literal["gram", "moments", "wasserstein"] = _style(
        "gram",
        "What is compared: Gram matrices, mean and deviation of each filter, or both by Wasserstein distance.",
        metavar="NAME",
    )
    content_layers: tuple[str, ...] = _style(
        ("conv4_2",), "Content layers, comma-separated: NAME or NAME=WEIGHT.", flag="--content-layer"
    )
    style_layers: tuple[str, ...] = _style(
        _PAPERS_STYLE_LAYERS,
        "Style layers, comma-separated: NAME or NAME=WEIGHT.",
        flag="--style-layer",
    )
    pooling: Literal["avg", "max", "l2"] = _style("avg", "Pooling of the network; the paper's choice is avg.")
    style_scale: float = _common(
        1.0, "Size of the style picture relative to the content: sets the size of strokes.", minimum=0.001
    )
    style_weight: tuple[float, ...] = _style((), "Weight of each of several styles, in order; repeatable.", minimum=0)
    mask: tuple[tuple[str, str], ...] = _style(
        (), "CONTENT_MASK STYLE_MASK: the white region gets the style of the white region (- for all); repeatable."
    )
    keep: str | None = _style(None, "A mask: the photograph stays unchanged where it is white.")
    color: Literal["style", "content", "luminance"] = _common(
        "style",
        "Colors: style, content (like the photo's), or luminance (the photo's; only lightness is painted).",
        metavar="WHOSE",
    )
    tv: float = _style(0.0, "Weight of the total variation, which smooths; try 3 to 30.", minimum=0)
    l1: float = _style(0.0, "Weight of the mean absolute change from the photo; try 3 to 30.", minimum=0)
    l2: float = _style(0.0, "Weight of the mean squared change from the photo; try 30 to 300.", minimum=0)
    seamless: bool = _picture(False, "Make opposite borders fit together, as for tiles and wallpaper.")

    optimizer: Literal["lbfgs", "adam", "rmsprop", "adagrad", "sgd"] = _optimization(
        "lbfgs", "L-BFGS, or others for comparison; sgd has momentum."
    )
    iterations: int = _optimization(
        100,
        "Maximum number on the coarsest scale, 30 % of it on finer ones; fewer when the loss has settled.",
        minimum=0,
    )
    time: str = _optimization("off", "Time limit, such as 90s, 5m or 2h, for the best picture by then; or off.")
    checkpoint_every: str = _optimization(
        "30", "Seconds between checkpoints, for styletransfer resume after an interruption; or off."
    )
    scales: str = _optimization("auto", "Number of sizes, each twice the last; auto: from 128…256 px up.")
    learning_rate: float | None = _optimization(
        None,
        "Step size, in pixel values 0…1; by default: "
        + ", ".join(f"{name} {rate:g}" for name, rate in LEARNING_RATES.items()),
        minimum=0,
    )
    jitter: float = _optimization(
        0.0, "Noise added to the network's input in each iteration, 0…1; not with lbfgs.", minimum=0
    )
    init: str = _optimization("content", "Starting image: content, style, noise, or the path of a picture.")
    init_noise: float = _optimization(
        0.0, "Share of noise in the starting image, 0…1: with it, each seed gives another picture."
    )
    seed: int = _optimization(0, "Seed of the noise.", minimum=0)

    model: Literal["auto", "vgg19", "vgg19-8bit", "vgg19-lite"] = _network(
        "auto", "vgg19 (in 8 bits unless the full file is here), the small vgg19-lite, or auto: vgg19 if it is here."
    )
    weights: str | None = _network(None, "A file with VGG-19's weights, instead of --model.")
    preprocessing: Literal["auto", "torchvision", "caffe", "rgb"] = _network(
        "auto", "What --weights expect: torchvision, caffe (BGR 0…255), rgb (0…1), or auto: by keys and name."
    )
    device: str = _network("auto", "auto, cpu, cuda, cuda:N or mps.")
    precision: Literal["auto", "fp32", "bf16", "tf32"] = _network(
        "auto", "Precision of the network; auto is the fastest without a visible difference."
    )

    deterministic: bool = _network(False, "On CUDA: the same bytes every time, but slower. A CPU always gives them.")
    tile: str = _network("auto", "auto: whole or in parts, as memory allows; off: whole; PIXELS: parts of this width.")

    def __post_init__(self) -> None:
        for f in fields(self):
            object.__setattr__(self, f.name, convert(f.name, getattr(self, f.name)))
        if self.alpha == 0 and self.beta == 0:
            raise UsageError("alpha and beta are both 0: nothing to optimize")
        if not 0 <= self.init_noise <= 1:
            raise UsageError(f"init_noise is {self.init_noise}; it must be from 0 to 1")
        if self.seed >= 2**63:
            raise UsageError(f"seed is {self.seed}; it must be less than 2^63")
        if self.bit_depth not in (8, 16):
            raise UsageError(f"bit_depth is {self.bit_depth}; it can be 8 or 16")
        if self.optimizer == "lbfgs" and self.learning_rate is not None:
            raise UsageError("learning_rate doesn't apply to L-BFGS, which finds its own steps (use --optimizer adam)")
        if self.optimizer == "lbfgs" and self.jitter:
            raise UsageError(
                "jitter changes the loss in every iteration, which L-BFGS can't use (use --optimizer adam)"
            )
        _ = self.seconds  # can be read
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
        """The options that a picture or a checkpoint holds; what is no option is left out.

        Raises `UsageError` when a value can't be meant.
        """
        return cls(**{f.name: settings[f.name] for f in fields(cls) if f.name in settings})

    def with_changes(self, changes: Mapping[str, Any]) -> "Options":
        """The same with other values of some settings, by name. Raises `UsageError` for what is no setting."""
        try:
            return replace(self, **changes)
        except TypeError as error:
            raise UsageError(str(error).replace("Options.__init__() got an ", "")) from error

    def map_files(self, rename: Callable[[str], str]) -> "Options":
        """The same with every file that a setting names under another name."""
        return replace(
            self,
            init=self.init if self.init in STARTS else rename(self.init),
            weights=self.weights and rename(self.weights),
            keep=self.keep and rename(self.keep),
            mask=tuple((rename(here), there if there == WHOLE else rename(there)) for here, there in self.mask),
        )

    @property
    def files(self) -> list[str]:
        """Every file that a setting names."""
        found: list[str] = []

        def note(name: str) -> str:
            found.append(name)
            return name

        self.map_files(note)
        return found

    def to_arguments(self) -> list[str]:
        """The command line's options that give these settings, in the order of the fields."""
        arguments: list[str] = []
        for f in fields(self):
            value = getattr(self, f.name)
            if value == f.default:
                continue
            if isinstance(value, bool):
                arguments.append(flag(f.name, on=value))
                continue
            for one in value if isinstance(value, tuple) else [value]:
                arguments += [flag(f.name), *(one if isinstance(one, tuple) else [str(one)])]
        return arguments

    @property
    def seconds(self) -> float:
        """The time that the run may take, ∞ if there is no limit. Raises `UsageError` if it can't be read."""
        if self.time == "off":
            return math.inf
        number, unit = (self.time[:-1], self.time[-1]) if self.time[-1:] in _UNITS else (self.time, "s")
        try:
            seconds = float(number) * _UNITS[unit]
        except ValueError:
            seconds = math.nan
        if not 0 < seconds < math.inf:
            raise UsageError(f"time is {self.time!r}; it can be off or as 90s, 5m, 2h")
        return seconds

    def to_settings(self) -> dict[str, Any]:
        """What makes a difference to the picture, by name; `from_settings` reads it."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _WITHOUT_EFFECT}

    @property
    def style_weights(self) -> dict[str, float]:
        """Style layers with their shares w_l of the style loss (sum 1)."""
        return layer_weights(self.style_layers)


@dataclass(frozen=True)
class TemporalOptions:
    """How a frame follows earlier ones. Raises `UsageError` when a value can't be meant.

    Attributes:
        weight: of the temporal loss, beside α and β.
        look_back: which earlier frames are looked at, the nearest first, counted in frames that are painted.
        every: only each so many-th frame of a shot is painted, for a draft.
    """

    weight: float = 20.0
    look_back: tuple[int, ...] = (1, 5)
    every: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "look_back", tuple(self.look_back))
        if not 0 <= self.weight < math.inf:
            raise UsageError(f"the temporal weight is {self.weight}; it must be a number of at least 0")
        if min(self.look_back, default=0) < 1 or list(self.look_back) != sorted(set(self.look_back)):
            raise UsageError(f"look-back is {self.look_back}; it takes rising numbers from 1, as in 1,5")
        if self.every < 1:
            raise UsageError(f"every is {self.every}; it must be at least 1")


def flag(name: str, *, on: bool = True) -> str:
    """The command line's name of a field of `Options`; with `on` false, what takes a truth value back."""
    told: str = Options.__dataclass_fields__[name].metadata["flag"] or "--" + name.replace("_", "-")
    return told if on else "--no-" + told.removeprefix("--")


def _read_word(text: str) -> bool:
    if text.lower() not in _WORDS:
        raise ValueError
    return _WORDS[text.lower()]


_HINTS = get_type_hints(Options)
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_PARSERS: dict[type, Callable[[str], Any]] = {str: str, int: int, float: float, bool: _read_word}
#: What is no text and may stand for a type.
_ACCEPTED: dict[type, type | tuple[type, ...]] = {str: int, int: int, float: (int, float), bool: bool}
_UNITS = {"s": 1, "m": 60, "h": 3600}
#: Fields that make no difference to the picture.
_WITHOUT_EFFECT = ("max_pixels", "checkpoint_every")


def convert(name: str, value: Any) -> Any:
    """Return a value in the type of a field of `Options`.

    Texts, as of a table or a web page, are read: numbers, true and false, several values with commas or semicolons
    between them. Paths become texts, lists tuples.

    Raises `UsageError` if the value is invalid.
    """
    hint, minimum = _HINTS[name], Options.__dataclass_fields__[name].metadata["minimum"]
    try:
        converted = _read(value, hint)
    except (ValueError, OverflowError):
        raise UsageError(f"{name} is {value!r}; it must be {_describe(hint)}") from None
    for number in converted if isinstance(converted, tuple) else [converted]:
        if minimum is not None and number is not None and not minimum <= number <= sys.float_info.max:
            raise UsageError(f"{name} is {number}; it must be a number of at least {minimum:g}")
    return converted


def _read(value: Any, hint: Any) -> Any:
    """Return a value in a type. Raises `ValueError` or `OverflowError` if it does not fit."""
    origin, kinds = get_origin(hint), get_args(hint)
    if origin is Literal:
        return kinds[kinds.index(value)]
    if origin is tuple:
        several = list(filter(None, map(str.strip, re.split("[,;]", value)))) if isinstance(value, str) else value
        if not isinstance(several, tuple | list):
            raise ValueError
        kinds = kinds[:1] * len(several) if kinds[-1] is Ellipsis else kinds
        return tuple(_read(one, kind) for one, kind in zip(several, kinds, strict=True))
    if kinds:  # X | None
        return None if value is None else _read(value, kinds[0])
    value = os.fspath(value) if isinstance(value, os.PathLike) else value
    if isinstance(value, str):
        return _PARSERS[hint](value)
    if not isinstance(value, _ACCEPTED[hint]):
        raise ValueError
    return str(value) if hint is str else value


def _describe(hint: Any) -> str:
    """Return what values of a type are, for people."""
    origin, kinds = get_origin(hint), get_args(hint)
    if origin is Literal:
        return f"one of {', '.join(kinds)}"
    if origin is tuple:
        pairs = "pairs of files, as [[CONTENT_MASK, STYLE_MASK], …] in a .jsonl"
        return pairs if get_origin(kinds[0]) is tuple else f"{_describe(kinds[0])}, or several with commas between them"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return names[kinds[0] if kinds else hint]


def _check_number(name: str, value: str, *words: str, least: int) -> None:
    if value not in words and not (str(value).isdecimal() and int(value) >= least):
        raise UsageError(f"{name} is {value!r}; it can be {', '.join(words)} or a number of at least {least}")


def layer_weights(specs: Sequence[str]) -> dict[str, float]:
    """Reads ``["conv1_1", "relu2_1=2"]`` as ``{"conv1_1": 1/3, "conv2_1": 2/3}``: weights relative, sum 1.

    ``"conv1_1,relu2_1=2"`` is the same, so that several values of an option can be several sets of layers.

    Raises `UsageError` for an unknown layer, a repeated one, or weights that aren't positive numbers.
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

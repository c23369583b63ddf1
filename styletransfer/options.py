"""Every option and its default, said once: library and command line both take them from here."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import partial
from typing import Any, Literal, get_args, get_origin, get_type_hints

from .errors import UsageError

#: The sixteen convolutions of VGG-19 under the paper's names, in order. A name means the output after its ReLU.
LAYERS = tuple(f"conv{block}_{i}" for block, n in enumerate((2, 2, 4, 4, 4), 1) for i in range(1, n + 1))


def _option(panel: str, default: Any, help: str, *, flag: str | None = None, minimum: float | None = None) -> Any:
    """A field whose metadata holds what the command line shows: help text, panel, another flag, a least value."""
    return field(default=default, metadata={"help": help, "panel": panel, "flag": flag, "minimum": minimum})


_picture = partial(_option, "Picture")
_style = partial(_option, "Style")
_optimisation = partial(_option, "Optimisation")
_network = partial(_option, "Network")

_PAPERS_STYLE_LAYERS = ("conv1_1", "conv2_1", "conv3_1", "conv4_1", "conv5_1")


#: Values of `init` that are no file.
STARTS = ("content", "style", "noise")
#: What stands for a style's mask when all of the picture counts.
WHOLE = "-"


@dataclass(frozen=True)
class Options:
    """Settings of one run. Raises `UsageError` when a value can't be meant.

    Only the ratio alpha / beta matters for the picture (Gatys et al. 2016, eq. 7 and fig. 4).
    """

    size: int = _picture(512, "Longer side in pixels; a smaller content picture keeps its own size.", minimum=16)
    enlarge: bool = _picture(False, "Enlarge a content picture smaller than --size.")
    bit_depth: int = _picture(8, "Bits per channel of the output: 8, or 16 for PNG and TIFF.")
    max_pixels: int = _picture(179_000_000, "Refuse pictures with more pixels: files can lie.", minimum=1)

    alpha: float = _style(1.0, "Content weight.", minimum=0)
    beta: float = _style(1e3, "Style weight. Only alpha/beta counts: 1e-4 all style, 1e-1 nearly the photo.", minimum=0)
    content_layers: tuple[str, ...] = _style(
        ("conv4_2",), "Content layer, NAME or NAME=WEIGHT; repeatable.", flag="--content-layer"
    )
    style_layers: tuple[str, ...] = _style(
        _PAPERS_STYLE_LAYERS, "Style layer, NAME or NAME=WEIGHT; repeatable.", flag="--style-layer"
    )
    pooling: Literal["avg", "max", "l2"] = _style("avg", "Pooling of the network; the paper's choice is avg.")
    style_scale: float = _style(
        1.0, "Size of the style picture by that of the content: sets that of the strokes.", minimum=0.01
    )
    style_weight: tuple[float, ...] = _style((), "Weight of each of several styles, in order; repeatable.", minimum=0)
    mask: tuple[tuple[str, str], ...] = _style(
        (), "CONTENT_MASK STYLE_MASK: white parts get the style of white parts (- for all); repeatable."
    )
    keep: str | None = _style(None, "A mask: the photograph stays as it is where this picture is white.")
    color: Literal["style", "content", "luminance"] = _style(
        "style", "Colours: the style's, the content's, or luminance: only that is painted, the content's chroma stays."
    )
    tv: float = _style(0.0, "Weight of the total variation, which smooths; try 100 to 1000.", minimum=0)

    optimizer: Literal["lbfgs", "adam"] = _optimisation("lbfgs", "L-BFGS, or Adam.")
    iterations: int = _optimisation(500, "Iterations at most; it ends when nothing visible changes.", minimum=0)
    checkpoint_every: str = _optimisation(
        "30", "Seconds between checkpoints, by which an interrupted run can go on (styletransfer resume); or off."
    )
    scales: str = _optimisation(
        "auto", "Number of sizes to work through, each twice the last; auto: from 384…768 px up."
    )
    learning_rate: float | None = _optimisation(None, "Step of Adam, in values 0…1; 0.02 if not given.", minimum=0)
    init: str = _optimisation("content", "Where to start: content, style, noise, or the path of a picture.")
    init_noise: float = _optimisation(0.0, "Share of noise in the start, 0…1: with it, every seed another picture.")
    seed: int = _optimisation(0, "Seed of the noise.", minimum=0)

    model: Literal["auto", "vgg19", "vgg19-lite"] = _network(
        "auto", "vgg19, the bundled vgg19-lite, or auto: vgg19 if its weights are here, else vgg19-lite."
    )
    weights: str | None = _network(None, "A file with VGG-19's weights, instead of --model.")
    preprocessing: Literal["auto", "torchvision", "caffe", "rgb"] = _network(
        "auto", "What --weights expect: torchvision, caffe (BGR 0…255), rgb (0…1), or auto: told by keys and name."
    )
    warm_start: Literal["auto", "off"] = _network("auto", "auto: the quick vgg19-lite first, VGG-19 to finish.")
    device: str = _network("auto", "auto, cpu, cuda, cuda:N or mps.")
    precision: Literal["auto", "fp32", "bf16", "tf32"] = _network(
        "auto", "Of the network: auto is the fastest that makes no visible difference."
    )

    deterministic: bool = _network(False, "On CUDA: the same bytes every time, more slowly. A CPU always gives them.")
    tile: str = _network("auto", "auto: whole or in parts, as memory allows; off; or PIXELS: in parts so wide.")

    def __post_init__(self) -> None:
        for f in fields(self):
            self._check(f.name, f.metadata["minimum"])
        if self.alpha == 0 and self.beta == 0:
            raise UsageError("alpha and beta are both 0: nothing to optimise")
        if not 0 <= self.init_noise <= 1:
            raise UsageError(f"init_noise is {self.init_noise}; it must be from 0 to 1")
        if self.bit_depth not in (8, 16):
            raise UsageError(f"bit_depth is {self.bit_depth}; it can be 8 or 16")
        if self.learning_rate is not None and self.optimizer != "adam":
            raise UsageError("learning_rate is Adam's; L-BFGS finds its own steps (use --optimizer adam)")
        _check_number("checkpoint_every", self.checkpoint_every, "off", least=0)
        _check_number("scales", self.scales, "auto", least=1)
        _check_number("tile", self.tile, "auto", "off", least=16)
        layer_weights(self.content_layers)
        layer_weights(self.style_layers)

    def _check(self, name: str, minimum: float | None) -> None:
        value, hint = getattr(self, name), _HINTS[name]
        if isinstance(value, tuple) and minimum is not None:
            value = min(value, default=None)
        if get_origin(hint) is Literal and value not in get_args(hint):
            raise UsageError(f"{name} is {value!r}; it can be {', '.join(get_args(hint))}")
        if minimum is None or value is None:
            return
        if not isinstance(value, int | float) or not math.isfinite(value) or value < minimum:
            raise UsageError(f"{name} is {value}; it must be a number of at least {minimum:g}")

    @property
    def content_weights(self) -> dict[str, float]:
        """Content layers with their shares of the content loss (sum 1)."""
        return layer_weights(self.content_layers)

    def with_files(self, renamed: Callable[[str], str]) -> "Options":
        """The same with every file that a setting names under another name."""
        return replace(
            self,
            init=self.init if self.init in STARTS else renamed(self.init),
            weights=self.weights and renamed(self.weights),
            keep=self.keep and renamed(self.keep),
            mask=tuple((renamed(here), there if there == WHOLE else renamed(there)) for here, there in self.mask),
        )

    @property
    def files(self) -> list[str]:
        """Every file that a setting names."""
        found: list[str] = []

        def note(name: str) -> str:
            found.append(name)
            return name

        self.with_files(note)
        return found

    def that_matter(self) -> dict[str, Any]:
        """The fields that make a difference to the picture, by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in _WITHOUT_EFFECT}

    @property
    def style_weights(self) -> dict[str, float]:
        """Style layers with their shares w_l of the style loss (sum 1)."""
        return layer_weights(self.style_layers)


_HINTS = get_type_hints(Options)
#: Fields that make no difference to the picture.
_WITHOUT_EFFECT = ("max_pixels", "checkpoint_every")


def _check_number(name: str, value: str, *words: str, least: int) -> None:
    if value not in words and not (str(value).isdecimal() and int(value) >= least):
        raise UsageError(f"{name} is {value!r}; it can be {', '.join(words)} or a number of at least {least}")


def layer_weights(specs: Sequence[str]) -> dict[str, float]:
    """Reads ``["conv1_1", "relu2_1=2"]`` as ``{"conv1_1": 1/3, "conv2_1": 2/3}``: weights relative, sum 1.

    Raises `UsageError` for an unknown layer, a repeated one, or weights that aren't positive numbers.
    """
    weights: dict[str, float] = {}
    for spec in (specs,) if isinstance(specs, str) else specs:
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

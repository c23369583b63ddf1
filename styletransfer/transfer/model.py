"""A network that is loaded once, for any number of images."""

import contextlib
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from ..encoder.vgg import Encoder
from ..encoder.weights import Weights, load_weights
from ..errors import UsageError
from ..images import Source, Styles
from ..losses.modules import FeatureExtractor
from ..losses.nearest import NEAREST_LAYERS
from ..options import Options
from ..runtime import hardware
from .problem import prepared_problem
from .result import Result
from .run import Run
from .session import open_session


def load_model(
    model: str = "auto", *, weights: str | None = None, preprocessing: str = "auto", device: str = "auto"
) -> "Model":
    """Load a network.

    Args:
        model, weights, preprocessing, device: as in `Options`.

    Raises:
        UsageError: a value is invalid, or there is no such device or file.
        StyleTransferError: the weights can't be downloaded or read.
    """
    asked = Options(model=model, weights=weights, preprocessing=preprocessing, device=device)  # type: ignore[arg-type]
    hardware.select_device(device)
    return Model(load_weights(model, weights, preprocessing), asked)


class Model:
    """A loaded network. Its weights, converted and transformed for the device, are kept from image to image.

    Attributes:
        weights: of the network.
        name: of the network, or of the file it came from.
    """

    def __init__(self, weights: Weights, asked: Options) -> None:
        self.weights, self.name, self._asked = weights, weights.name, asked

    @contextlib.contextmanager
    def start(
        self,
        content: Source,
        style: Styles,
        options: Options | None = None,
        *,
        state: Mapping[str, Any] | None = None,
        **changes: Any,
    ) -> Iterator[Run]:
        """Yield a `Run`: iterate over it to do the work. Within, torch and the C library are set up for it.

        Args:
            content, style, options, changes: as in `stylize`. `Options.time` and checkpoints are left to you;
                `open_session` has them.
            state: of an earlier run (`Run.state_dict`), to resume from.

        Raises:
            UsageError: a setting or an input is invalid, or differs from those of the state.
            StyleTransferError: an input can't be read.
        """
        began = time.monotonic()
        options = self.complete((options or Options()).with_changes(changes))
        with prepared_problem(content, style, options, self.weights) as problem:
            run = Run(problem, state, began=began)
            del state  # large
            yield run

    def stylize(self, content: Source, style: Styles, options: Options | None = None, **changes: Any) -> Result:
        """Render the content image in the style of another; arguments and errors as `start`."""
        options = (options or Options()).with_changes(changes)
        with open_session(content, style, options, model=self) as session:
            return session.finish()

    def feature_extractor(self, layers: Iterable[str] = (), pooling: str = "avg") -> FeatureExtractor:
        """Return the network as a module that maps images to the features that losses compare, in float32.

        Args:
            layers: such as "conv4_2"; all that the losses use by default if none is given.
            pooling: as in `Options`.

        Raises `UsageError` if the network has no such layer.
        """
        options = Options()
        names = {*layers} or {*options.content_weights, *options.style_weights, *NEAREST_LAYERS}
        encoder = Encoder(self.weights.convolutions, names, pooling)
        return FeatureExtractor(encoder.to(hardware.select_device(self._asked.device)))

    def complete(self, options: Options) -> Options:
        """Return the options with this model and device. Raises `UsageError` if they name others."""
        own = {name: getattr(self._asked, name) for name in ("model", "weights", "preprocessing", "device")}
        for name, value in own.items():
            given = getattr(options, name)
            if given not in (value, getattr(Options, name)):
                raise UsageError(f"{name} is {given!r}, but the model was loaded with {value!r}: load another one")
        return replace(options, **own)


_kept: dict[Any, Model] = {}


def keep_model(options: Options) -> Model:
    """Return the model of these options. The last one is kept, for the next image with the same."""
    file = options.weights and os.path.isfile(options.weights) and os.stat(options.weights).st_mtime_ns
    key = options.model, options.weights, file, options.preprocessing, options.device
    if key not in _kept:
        _kept.clear()
        _kept[key] = load_model(
            options.model, weights=options.weights, preprocessing=options.preprocessing, device=options.device
        )
    return _kept[key]

"""The losses: content, style and pixel terms, and the objective that adds them up over any number of parts.

`LOSSES` has the style losses by name; `GramLoss` and others are modules for training loops of your own. May import
runtime and encoder.
"""

from ..options import OWN_STYLE_LOSSES
from .base import Moments, StyleLoss
from .gram import Gram
from .modules import (
    ContentLoss,
    FeatureExtractor,
    GramLoss,
    MomentsLoss,
    NearestLoss,
    StatisticLoss,
    TotalVariationLoss,
    WassersteinLoss,
)
from .moments import MeanAndDeviation
from .nearest import GramAndNearest
from .objective import GAMUT_WEIGHT, Evaluate, Losses, Objective
from .pixels import TemporalPrior
from .style import Region, Style
from .wasserstein import Wasserstein

#: Style losses by their names in `Options.style_loss`.
LOSSES: dict[str, StyleLoss] = {
    "nearest": GramAndNearest(),
    "gram": Gram(),
    "moments": MeanAndDeviation(),
    "wasserstein": Wasserstein(),
}


def register(name: str, loss: StyleLoss) -> None:
    """Make a style loss available as `Options.style_loss`, in this process.

    It works with tiles, masks, several styles and processes, and with `again` wherever it is registered.
    """
    LOSSES[name] = loss
    OWN_STYLE_LOSSES.add(name)


__all__ = [
    "GAMUT_WEIGHT",
    "LOSSES",
    "ContentLoss",
    "Evaluate",
    "FeatureExtractor",
    "GramAndNearest",
    "GramLoss",
    "Losses",
    "Moments",
    "MomentsLoss",
    "NearestLoss",
    "Objective",
    "Region",
    "StatisticLoss",
    "Style",
    "StyleLoss",
    "TemporalPrior",
    "TotalVariationLoss",
    "WassersteinLoss",
    "register",
]

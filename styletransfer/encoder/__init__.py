"""The encoder: VGG-19's convolutions, their evaluation in tiles, and the weights.

May import options, errors and files. Modules that need torch are imported on first use: `layers` needs none.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backward import BackwardPass
    from .tiling import Band, Tiling, bands
    from .vgg import Encoder, level

__all__ = ["BackwardPass", "Band", "Encoder", "Tiling", "bands", "level"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import backward, tiling, vgg

    return next(getattr(module, name) for module in (backward, tiling, vgg) if hasattr(module, name))

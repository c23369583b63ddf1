"""The network: VGG-19's convolutions, in which parts a picture goes through them, and where their weights come from.

May import options, errors and files. What needs torch is imported when it is asked for: `layers` needs none.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .tiling import Band, Tiling, bands
    from .vgg import BackwardPass, Encoder, level

__all__ = ["BackwardPass", "Band", "Encoder", "Tiling", "bands", "level"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from . import tiling, vgg

    return getattr(tiling if name in ("Band", "Tiling", "bands") else vgg, name)

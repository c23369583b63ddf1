"""One picture painted in the style of another (Gatys, Ecker, Bethge, CVPR 2016).

from styletransfer import stylize
stylize("content.jpg", "style.jpg", size=1024).save("out.png")
"""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from .errors import StyleTransferError, UsageError
from .options import Options

if TYPE_CHECKING:
    from .pipeline import Result, stylize

__all__ = ["Options", "Result", "StyleTransferError", "UsageError", "stylize"]
__version__ = version("styletransfer")


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; `styletransfer --help` and reading Options don't need it.
    if name in ("Result", "stylize"):
        from . import pipeline

        return getattr(pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

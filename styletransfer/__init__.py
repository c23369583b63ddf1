"""One picture painted in the style of another (Gatys, Ecker, Bethge, CVPR 2016).

from styletransfer import stylize
stylize("content.jpg", "style.jpg", size=1024).save("out.png")
stylize(*again("out.png", size=2048)).save("larger.png")
"""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from .errors import StyleTransferError, UsageError
from .options import PRESETS, Options

if TYPE_CHECKING:
    from .inputs import again
    from .pipeline import Result, stylize

__all__ = ["PRESETS", "Options", "Result", "StyleTransferError", "UsageError", "again", "stylize"]
__version__ = version("styletransfer")


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; `styletransfer --help` and reading Options don't need it.
    if name in ("Result", "again", "stylize"):
        from . import inputs, pipeline

        return getattr(inputs if name == "again" else pipeline, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

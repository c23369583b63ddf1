"""One picture painted in the style of another (Gatys, Ecker, Bethge, CVPR 2016).

from styletransfer import stylize
stylize("content.jpg", "style.jpg", size=1024).save("out.png")
stylize(*again("out.png", size=2048)).save("larger.png")
"""

from typing import TYPE_CHECKING, Any

from .errors import StyleTransferError, UsageError
from .options import PRESETS, Options
from .version import __version__

if TYPE_CHECKING:
    from .painting import Result, stylize
    from .pictures import again

__all__ = ["PRESETS", "Options", "Result", "StyleTransferError", "UsageError", "__version__", "again", "stylize"]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; `styletransfer --help` and reading Options don't need it.
    if name in ("Result", "again", "stylize"):
        from . import painting, pictures

        return getattr(pictures if name == "again" else painting, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

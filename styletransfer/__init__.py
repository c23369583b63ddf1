"""Neural style transfer: render one image in the style of another (Gatys, Ecker, Bethge, CVPR 2016).

import styletransfer as st

st.stylize("content.jpg", "style.jpg", size=1024).save("out.png")
st.stylize(*st.again("out.png", size=2048)).save("larger.png")

model = st.load_model("vgg19")  # once, for any number of images
with model.start("content.jpg", "style.jpg") as run:
    for step in run:
        print(step.iteration, step.losses.total)
run.result().save("out.png")
"""

from typing import TYPE_CHECKING, Any

from .errors import StyleTransferError, UsageError
from .options import PRESETS, Options
from .version import __version__

if TYPE_CHECKING:
    from .images import again
    from .transfer import Model, Result, Run, Session, Step, load_model, open_session, stylize

_LAZY = ("Model", "Result", "Run", "Session", "Step", "load_model", "open_session", "stylize")
__all__ = [
    "PRESETS",
    "Model",
    "Options",
    "Result",
    "Run",
    "Session",
    "Step",
    "StyleTransferError",
    "UsageError",
    "__version__",
    "again",
    "load_model",
    "open_session",
    "stylize",
]


def __getattr__(name: str) -> Any:
    # torch takes seconds to import; `styletransfer --help` and `Options` do not need it.
    if name == "again" or name in _LAZY:
        from . import images, transfer

        return getattr(images if name == "again" else transfer, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

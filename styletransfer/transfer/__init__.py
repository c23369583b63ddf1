"""The optimization of one image: `stylize`, runs over several scales, checkpoints, estimates.

May import optim, losses, runtime, encoder and images.
"""

from .checkpoint import checkpoint_path
from .estimate import Estimate, estimate
from .model import Model, keep_model, load_model
from .result import Result
from .run import Run, Step
from .session import Session, open_session, stylize

__all__ = [
    "Estimate",
    "Model",
    "Result",
    "Run",
    "Session",
    "Step",
    "checkpoint_path",
    "estimate",
    "keep_model",
    "load_model",
    "open_session",
    "stylize",
]

"""The optimization of one image: `stylize`, runs over several scales, checkpoints, estimates.

May import optimizer, objective, machine, network and pictures.
"""

from .checkpoint import checkpoint_path
from .estimate import Estimate, estimate
from .pipeline import Session, open_session, stylize
from .result import Result
from .run import Run, Step

__all__ = ["Estimate", "Result", "Run", "Session", "Step", "checkpoint_path", "estimate", "open_session", "stylize"]

"""The painting of one picture: `stylize`, the loop over scales and networks, checkpoints, estimates.

May import optimizer, objective, machine, network and pictures.
"""

from .checkpoint import checkpoint_path
from .estimate import Estimate, estimate
from .pipeline import stylize
from .result import Result

__all__ = ["Estimate", "Result", "checkpoint_path", "estimate", "stylize"]

"""The optimiser: L-BFGS and others, as a stream of steps from an image and evaluate().

May import objective.
"""

from .curvature import HISTORY, InverseHessian, spectrum_of
from .optimize import PATIENCE, Step, minimize

__all__ = ["HISTORY", "PATIENCE", "InverseHessian", "Step", "minimize", "spectrum_of"]

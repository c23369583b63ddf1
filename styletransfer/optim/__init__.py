"""The optimizers: L-BFGS and others, as a stream of iterates from an image and evaluate().

May import objective.
"""

from .curvature import HISTORY, InverseHessian, spectrum_of
from .optimize import PATIENCE, Iterate, minimize

__all__ = ["HISTORY", "PATIENCE", "InverseHessian", "Iterate", "minimize", "spectrum_of"]

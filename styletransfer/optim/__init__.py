"""The optimizers: L-BFGS and others, as iterators over iterates.

May import losses and options.
"""

from .curvature import HISTORY, InverseHessian, spectrum_of
from .optimize import PATIENCE, Iterate, minimize

__all__ = ["HISTORY", "PATIENCE", "InverseHessian", "Iterate", "minimize", "spectrum_of"]

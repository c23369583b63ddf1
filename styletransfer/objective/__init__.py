"""The objective: content loss, style loss and regularisers, evaluated in any number of parts.

May import machine and network.
"""

from .objective import GAMUT_WEIGHT, Anchor, Evaluate, Losses, Objective, Region, Style

__all__ = ["GAMUT_WEIGHT", "Anchor", "Evaluate", "Losses", "Objective", "Region", "Style"]

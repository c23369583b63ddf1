"""The command line: commands, their options, and how they speak to people.

May import every other room; does so when a command runs, since torch takes seconds to import.
"""

from .main import main

__all__ = ["main"]

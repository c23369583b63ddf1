"""The command line: commands, their options, and console output.

May import every other subpackage, but only while a command runs, since torch takes seconds to import.
"""

from .main import main

__all__ = ["main"]

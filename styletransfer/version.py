"""The version of the package, the one place where it is set."""

__version__ = "1.0.0rc1"

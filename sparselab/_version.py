"""The version, where everything below the package itself can read it."""

__version__ = "0.1.0"

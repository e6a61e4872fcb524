"""The version, where everything below the package itself can read it."""

__version__ = "0.2.0"

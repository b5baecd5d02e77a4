"""The version of this package, a word for all: the package itself loads nothing but this."""

from __future__ import annotations

__version__ = "0.1.0"

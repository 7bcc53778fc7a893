"""Low-shot computer vision: a few labelled photos and a pile of others in, answers and reasons out.

The names of this package are loaded when they are used: importing it costs no torch.
"""

from __future__ import annotations

from typing import Any

from fewsight import errors
from fewsight.names import PUBLIC, load

__version__ = "0.1.0"

__all__ = ["__version__", "errors", *PUBLIC]


def __getattr__(name: str) -> Any:
    if name in PUBLIC:
        return load(PUBLIC[name])
    raise AttributeError(f"module 'fewsight' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

"""Every error that fewsight raises for a person's mistake or a broken input.

    FewsightError
    ├── InvalidInput (also a ValueError)   an argument, file or setting is wrong
    ├── UnreadableImage                    a picture cannot be decoded, or must not be
    ├── MissingWeights                     weights are not on this machine
    ├── IncompatibleModel                  a model folder is damaged, tampered with or of an unknown version
    ├── RunExists                          the output folder holds another run, or is in use
    └── CollapsedRun                       training ended without a usable representation

Each message says what was wrong (with its value), what was expected, and what to do. The command line prints
it as one line and leaves with exit code 1.
"""

from __future__ import annotations

__all__ = [
    "CollapsedRun",
    "FewsightError",
    "IncompatibleModel",
    "InvalidInput",
    "MissingWeights",
    "RunExists",
    "UnreadableImage",
]


class FewsightError(Exception):
    """Base of all errors that a person can do something about."""


class InvalidInput(FewsightError, ValueError):
    """An argument, a file or a setting is wrong; the message names it."""


class UnreadableImage(FewsightError):
    """A picture cannot be decoded, or must not be.

    `status` is the word for `predictions.csv`: `unreadable`, or `refused` (too many pixels, format not
    allowed).
    """

    def __init__(self, message: str, *, status: str = "unreadable") -> None:
        super().__init__(message)
        self.status = status


class MissingWeights(FewsightError):
    """Weights are not on this machine and may not, or cannot, be fetched."""


class IncompatibleModel(FewsightError):
    """A model folder or checkpoint is damaged, tampered with, or of an unknown version."""


class RunExists(FewsightError):
    """The output folder holds another run, or another process writes to it."""


class CollapsedRun(FewsightError):
    """Training ended, or was stopped, without a usable representation."""

"""The head that `fewsight metatrain` trained with a backbone, from their model folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fewsight.backbones.reading import read_tensors
from fewsight.errors import IncompatibleModel
from fewsight.heads.head import Head
from fewsight.heads.vectors import VectorHead
from fewsight.names import TABLES, resolve

__all__ = ["make_head", "trained_head"]

PREFIX = "head."


def trained_head(folder: str | Path) -> Head | None:
    """The head of a model folder that `metatrain` wrote, in evaluation mode; None where there is none.

    Raises:
        IncompatibleModel: the folder describes a head that its tensors do not fit.
    """
    for place in (Path(folder), Path(folder) / "model"):
        told = _described(place / "model.json")
        if told is None:
            continue
        try:
            head: Head = resolve("heads", str(told["name"]))(**told["settings"])
            tensors = read_tensors(place / "model.safetensors")
            head.load_state_dict(
                {name[len(PREFIX) :]: value for name, value in tensors.items() if name.startswith(PREFIX)}
            )
        except (KeyError, TypeError, ValueError, RuntimeError) as error:
            raise IncompatibleModel(f"{place} does not hold the head it describes ({error}).") from error
        return head.eval()
    return None


def make_head(name: str, backbone: Any, pooling: Any) -> Head:
    """A head by name; that of the folder, with its parameters and settings, where `backbone` is one that holds such.

    A network that learnt with squared distances is read with squared distances.

    Args:
        backbone: as `load_backbone` takes it.
        pooling: which tokens are the vector of an image, for heads on vectors.
    """
    made = resolve("heads", name)
    if isinstance(backbone, (str, Path)) and Path(backbone).is_dir():
        trained = trained_head(backbone)
        if trained is not None and type(trained) is made:
            return trained.requires_grad_(False)
    head: Head = made(pooling=pooling) if issubclass(made, VectorHead) else made()
    return head


def _described(path: Path) -> Any:
    """What a model folder says of its head, if `metatrain` wrote it."""
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    head = told.get("head") if isinstance(told, dict) else None
    fits = isinstance(head, dict) and head.get("name") in TABLES["heads"]
    return head if fits and told.get("kind", "backbone") == "backbone" else None

"""The portable model folder: `model.json` and `model.safetensors`, written whole, read with suspicion.

`model.json` says in plain words what the model is (classes, head, transform, calibration, licences, provenance) and
carries the SHA-256 of the tensors and of itself, so that a folder that was edited, damaged or half copied is refused.
Nothing in it is ever executed: JSON and safetensors hold only data.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from torch import Tensor

from fewsight.errors import IncompatibleModel, InvalidInput
from fewsight.files import new_file, write_json

__all__ = ["FORMAT", "VERSION", "SavedModel", "read_model", "write_model"]

FORMAT = "fewsight model"
VERSION = 1
DESCRIPTION_FILE = "model.json"
TENSORS_FILE = "model.safetensors"
LONGEST_DESCRIPTION = 64 * 2**20  # bytes: names of a million support photos fit, a bomb does not

Kind = Literal["classifier", "segmenter", "backbone", "head"]


@dataclass(frozen=True)
class SavedModel:
    """What a model folder holds.

    Attributes:
        kind: which face it belongs to; `backbone`: a trained network, perhaps with the head trained with it; `head`: a
            trained head alone.
        description: plain values, without the fields that `write_model` adds.
        tensors: by name.
    """

    kind: Kind
    description: dict[str, Any]
    tensors: dict[str, Tensor]


def write_model(folder: str | Path, model: SavedModel) -> None:
    """Write a model folder; an earlier model there is replaced.

    The tensors are written first and the description last, each under a temporary name and then moved: at no moment
    does a folder that reads well hold parts of two models.

    Raises:
        InvalidInput: the description holds a field of the format, or something that is not JSON.
        FewsightError: the disk is full or read-only.
    """
    from safetensors.torch import save

    folder = Path(folder)
    taken = {"format", "version", "kind", "tensors", "sha256"} & set(model.description)
    if taken:
        raise InvalidInput(f"the description holds {sorted(taken)}, which belong to the format.")
    # cloned, since the format refuses tensors that share memory
    content = save(
        {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.tensors.items()}
    )
    description = {
        "format": FORMAT,
        "version": VERSION,
        "kind": model.kind,
        **model.description,
        "tensors": {
            "file": TENSORS_FILE,
            "bytes": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        },
    }
    try:
        description["sha256"] = _digest(description)
    except (TypeError, ValueError) as error:
        raise InvalidInput(f"the description cannot be written as JSON: {error}.") from error
    with new_file(folder / TENSORS_FILE) as file:
        file.write(content)
    write_json(folder / DESCRIPTION_FILE, description)


def read_model(folder: str | Path, kind: Kind | None = None) -> SavedModel:
    """Read a model folder and check that it is whole and as it was written.

    Args:
        folder: with `model.json` and `model.safetensors`.
        kind: what is expected; None for any.

    Raises:
        InvalidInput: there is no such folder, or no model in it.
        IncompatibleModel: it is damaged, was changed, is of an unknown version or of another kind.
    """
    folder = Path(folder)
    description = _description(folder)
    found = description.pop("kind")
    if found not in get_args(Kind) or kind not in (None, found):
        raise IncompatibleModel(
            f"{folder} holds a {found!r} model; expected {kind or ' or '.join(get_args(Kind))!r}."
        )
    return SavedModel(found, description, _tensors(folder, description.pop("tensors")))


def _description(folder: Path) -> dict[str, Any]:
    path = folder / DESCRIPTION_FILE
    if not path.is_file():
        raise InvalidInput(f"{folder} is not a model folder: it has no {DESCRIPTION_FILE}.")
    if path.stat().st_size > LONGEST_DESCRIPTION:
        raise IncompatibleModel(
            f"{path} has {path.stat().st_size} bytes; no model of fewsight is described so long."
        )
    try:
        description = json.loads(path.read_bytes(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise IncompatibleModel(f"{path} is not valid JSON ({error}); copy the model again.") from error
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise IncompatibleModel(f"{path} does not describe a model of fewsight.")
    if description.get("version") != VERSION or isinstance(description["version"], bool):
        raise IncompatibleModel(
            f"{path} has format version {description.get('version')!r}, this fewsight reads version {VERSION}: "
            "install the fewsight that wrote it, or make the model again from its photos."
        )
    written = description.pop("sha256", None)
    if written != _digest(description):
        raise IncompatibleModel(
            f"{path} was changed after it was written (its SHA-256 differs); copy the model again."
        )
    del description["format"], description["version"]
    return description


def _tensors(folder: Path, entry: Any) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load

    path = folder / TENSORS_FILE
    if not isinstance(entry, dict) or entry.get("file") != TENSORS_FILE:
        raise IncompatibleModel(f"{folder / DESCRIPTION_FILE} does not name {TENSORS_FILE} as its tensors.")
    if not path.is_file() or path.stat().st_size != entry.get("bytes"):
        raise IncompatibleModel(
            f"{path} is missing or has another size than was written; copy the model again."
        )
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != entry.get("sha256"):
        raise IncompatibleModel(
            f"{path} was changed after it was written (its SHA-256 differs); copy the model again."
        )
    try:
        return load(content)
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise IncompatibleModel(f"{path} is not a safetensors file ({error}).") from error


def _digest(description: Mapping[str, Any]) -> str:
    """SHA-256 of the description as JSON with sorted keys and no white space."""
    text = json.dumps(description, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")

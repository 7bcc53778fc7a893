"""LoRA additions alone in a safetensors file: a few hundred kilobytes beside a backbone that stays as it is."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fewsight.backbones.lora import LoraLinear, LoraQkv, lora_layers
from fewsight.backbones.reading import IncompatibleCheckpoint, read_header, read_tensors
from fewsight.errors import InvalidInput
from fewsight.files import new_file

__all__ = ["load_lora", "save_lora"]

FORMAT = "fewsight-lora-1"


def save_lora(network: nn.Module, path: Path | str) -> None:
    """Write the additions of a network, how they act, and a hash of the frozen layers that they belong to.

    Raises:
        InvalidInput: the network has no additions.
        FewsightError: the file cannot be written.
    """
    from safetensors.torch import save

    layers = lora_layers(network)
    if not layers:
        raise InvalidInput(
            "the network has no LoRA additions: add them first (`add_lora`), or save it whole."
        )
    tensors = {
        f"{name}.{part}": getattr(layer, part).detach().cpu().contiguous()
        for name, layer in layers.items()
        for part in ("down", "up")
    }
    settings = {name: _settings(layer) for name, layer in layers.items()}
    frozen = {name: layer.layer for name, layer in layers.items()}
    metadata = {"format": FORMAT, "layers": json.dumps(settings), "base": _fingerprint(frozen)}
    with new_file(path) as file:
        file.write(save(tensors, metadata))


def load_lora(network: nn.Module, path: Path | str) -> list[str]:
    """Freeze a network and put the additions of a file on it, in place.

    Returns:
        The names of the adapted layers.

    Raises:
        InvalidInput: there is no such file.
        IncompatibleCheckpoint: the file is damaged or holds no additions, or they were made for another network or
            other weights; nothing is changed then.
    """
    path = Path(path)
    tensors = read_tensors(path)
    metadata = read_header(path) if path.suffix == ".safetensors" else {}
    if metadata.get("format") != FORMAT:
        raise IncompatibleCheckpoint(f"{path} holds no LoRA additions of fewsight ({FORMAT}).")
    try:
        settings = json.loads(metadata["layers"])
        made = {name: _made(network, path, name, entry, tensors) for name, entry in settings.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        if isinstance(error, IncompatibleCheckpoint):
            raise
        raise IncompatibleCheckpoint(f"{path} does not describe its additions: {error!r}.") from error
    if _fingerprint({name: layer.layer for name, layer in made.items()}) != metadata.get("base"):
        raise IncompatibleCheckpoint(
            f"{path} was made for other weights than these: load the backbone it was trained on, in float32."
        )
    network.requires_grad_(False)
    for name, layer in made.items():
        network.set_submodule(name, layer)
    return list(made)


def _settings(layer: LoraLinear | LoraQkv) -> dict[str, Any]:
    if isinstance(layer, LoraQkv):
        return {"alpha": layer.alpha, "enabled": list(layer.enabled)}
    return {"alpha": layer.alpha, "dropout": layer.dropout}


def _made(
    network: nn.Module, path: Path, name: str, entry: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> LoraLinear | LoraQkv:
    """One layer with its additions, around the network's own layer of that name."""
    plain = dict(network.named_modules()).get(name)
    if isinstance(plain, (LoraLinear, LoraQkv)):
        plain = plain.layer
    if not isinstance(plain, nn.Linear):
        raise IncompatibleCheckpoint(f"{path} adapts {name!r}, but the network has no such linear layer.")
    rank = tensors[f"{name}.down"].shape[-2]
    kind = LoraQkv if "enabled" in entry else LoraLinear
    layer = kind(plain, rank=rank, **{key: entry[key] for key in entry})
    with torch.no_grad():
        for part in ("down", "up"):
            own, found = getattr(layer, part), tensors[f"{name}.{part}"]
            if own.shape != found.shape:
                raise IncompatibleCheckpoint(
                    f"{path}: {name}.{part} has shape {list(found.shape)}, the network needs {list(own.shape)}."
                )
            own.copy_(found)
    return layer


def _fingerprint(layers: Mapping[str, nn.Linear]) -> str:
    """Of the frozen matrices, by name."""
    digest = hashlib.sha256()
    for name in sorted(layers):
        digest.update(name.encode())
        digest.update(layers[name].weight.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()

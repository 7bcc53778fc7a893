"""What `pretrain` leaves: `model/` with the kept backbone, `pretrained/` with the other, and a timm state dict."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

import fewsight
from fewsight.backbones.backbone import Backbone
from fewsight.backbones.description import describe
from fewsight.files import said_of_disk
from fewsight.model import SavedModel, write_model
from fewsight.workflows.pretrain_recipe import PretrainRecipe

__all__ = ["TIMM_FILE", "write_pretrained", "write_trained"]

TIMM_FILE = "timm.safetensors"


def write_pretrained(
    folder: Path,
    old: Backbone,
    trained: Backbone,
    recipe: PretrainRecipe,
    summary: Mapping[str, Any],
    data: str,
    *,
    keep_old: bool,
) -> None:
    """Write both backbones where they belong.

    A timm network also leaves `timm.safetensors`: the names of timm's own state dict, for `load_state_dict`.
    """
    provenance = {
        "trained": "pretrain",
        "objective": recipe.objective,
        "from": old.name,
        "data_fingerprint": data,
        "verdict": summary["verdict"],
    }
    note = f"{trained.licence.note}; pretrained further with {recipe.objective}".lstrip("; ")
    trained.licence = replace(trained.licence, note=note)
    write_trained(folder / ("pretrained" if keep_old else "model"), trained, provenance)
    if keep_old:
        write_trained(folder / "model", old, {**provenance, "trained": "as it was"})
    network = getattr(trained, "model", None)
    if isinstance(network, nn.Module):
        tensors = {name: value.contiguous() for name, value in network.state_dict().items()}
        with said_of_disk(folder / TIMM_FILE):
            save_file(tensors, folder / TIMM_FILE, metadata={"architecture": trained.name})


def write_trained(folder: Path, backbone: Backbone, provenance: Mapping[str, Any]) -> None:
    """A backbone alone as a model folder."""
    tensors = {f"backbone.{name}": value.contiguous() for name, value in backbone.state_dict().items()}
    description = {
        "backbone": describe(backbone),
        "head": None,
        "licences": {"backbone weights": vars(backbone.licence)},
        "provenance": {"fewsight": fewsight.__version__, **provenance},
    }
    write_model(folder, SavedModel("backbone", description, tensors))

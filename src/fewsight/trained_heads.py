"""Trained CST heads as folders: what `metatrain --head cst` writes and `--head FOLDER` reads.

A folder holds the head alone (at most 2 MB at published sizes); the frozen backbone is named with the SHA-256 of its
weights, and another one is refused: correlations of one network mean nothing to a head trained on another's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import fewsight
from fewsight.backbones.backbone import Backbone
from fewsight.backbones.feature_cache import weights_digest
from fewsight.errors import IncompatibleModel, InvalidInput
from fewsight.heads.correlation_head import CorrelationHead
from fewsight.model import SavedModel, read_model, write_model

__all__ = ["cst_settings", "is_head_folder", "read_cst", "shipped_cst", "write_cst"]

SHIPPED = Path(__file__).resolve().parent / "weights" / "cst"


def cst_settings(head: CorrelationHead) -> dict[str, Any]:
    """What the constructor of a CST head takes, as plain values."""
    blocks = head.request.blocks
    return {
        "num_heads": head.num_heads,
        "num_blocks": head.num_blocks,
        "blocks": blocks if blocks == "all" else list(blocks),
        "widths": list(head.learner.widths),
        "pools": list(head.learner.pools),
        "mask_reduction": head.learner.mask_reduction,
        "pseudo_masks": head.pseudo_masks,
        "shots": head.shots,
        "centred_width": head.centred_width,
        "calibration": list(head.calibration),
    }


def write_cst(
    folder: str | Path, head: CorrelationHead, backbone: Backbone, provenance: dict[str, Any]
) -> None:
    """Write a trained head.

    Args:
        provenance: plain values on how it was trained.
    """
    description = {
        "head": {"name": "cst", "settings": cst_settings(head)},
        "backbone": {
            "name": backbone.name,
            "size": list(backbone.image_size),
            "weights_sha256": weights_digest(backbone),
        },
        "provenance": {"fewsight": fewsight.__version__, "torch": str(torch.__version__), **provenance},
    }
    tensors = {name: value.half() for name, value in head.state_dict().items()}
    write_model(folder, SavedModel("head", description, tensors))


def is_head_folder(path: str | Path) -> bool:
    """Whether a folder may hold a trained head."""
    return (Path(path) / "model.json").is_file()


def read_cst(folder: str | Path, backbone: Backbone) -> CorrelationHead:
    """A trained head for `backbone`, in evaluation mode.

    Raises:
        InvalidInput: there is no head.
        IncompatibleModel: the folder is damaged or of another kind, or the head was trained on another backbone.
    """
    saved = read_model(folder, "head")
    told = saved.description
    try:
        trained_on, settings = told["backbone"], told["head"]["settings"]
        plain: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()
        }
        head = CorrelationHead(**plain)
        head.load_state_dict({name: value.float() for name, value in saved.tensors.items()})
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise IncompatibleModel(f"{folder} does not describe a CST head ({error}).") from error
    if trained_on.get("weights_sha256") != weights_digest(backbone):
        raise IncompatibleModel(
            f"the head in {folder} was trained on {trained_on.get('name')}; here the backbone is {backbone.name} with "
            "other weights. Choose that backbone, or train a head on this one."
        )
    return head.eval()


def shipped_cst(backbone: Backbone) -> CorrelationHead | None:
    """The trained head that comes with fewsight, or None where it does not fit `backbone`."""
    if not is_head_folder(SHIPPED):
        return None
    try:
        return read_cst(SHIPPED, backbone)
    except (IncompatibleModel, InvalidInput):
        return None

"""A backbone as plain data and tensors, and back: what a model folder holds of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import Tensor

from fewsight.backbones.architectures import (
    checked_architecture,
    checked_arguments,
    filled,
    remember,
    wrapped,
)
from fewsight.backbones.backbone import Backbone, Licence
from fewsight.backbones.registry import BUNDLED, KNOWN
from fewsight.data.transform import Transform
from fewsight.errors import IncompatibleModel, InvalidInput
from fewsight.names import load

__all__ = ["describe", "rebuild"]


def describe(backbone: Backbone) -> dict[str, Any]:
    """Everything about a backbone but its weights, as plain values for JSON.

    Raises:
        InvalidInput: it was not made by this module.
    """
    origin: Any = {"kind": "bundled"} if backbone.name == BUNDLED else getattr(backbone, "origin", None)
    if origin is None:
        raise InvalidInput(
            f"{backbone.name} was not made by load_backbone or untrained_backbone, so it cannot be described."
        )
    described: dict[str, Any] = {
        "name": backbone.name,
        "origin": origin,
        "transform": backbone.transform.as_dict(),
        "licence": asdict(backbone.licence),
        "pooling": backbone.pooling,
    }
    if hasattr(backbone, "positions"):
        described["positions"] = asdict(backbone.positions)  # type: ignore[call-overload]
        described["mask_token"] = getattr(backbone, "mask_token", None) is not None
    return described


def rebuild(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Backbone:
    """The inverse of `describe`, with the weights of `backbone.state_dict()`; in evaluation mode.

    Nothing in a description can name code or files, so it may come from anywhere.

    Raises:
        IncompatibleModel: the description is not understood, or the weights do not fit it.
    """
    try:
        return _rebuilt(description, tensors)
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise IncompatibleModel(
            f"the description of a backbone does not fit its weights: {reason}"
        ) from error


def _rebuilt(description: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Backbone:
    def made() -> Backbone:
        backbone = _empty(description)
        if description.get("mask_token") and getattr(backbone, "mask_token", None) is None:
            backbone.add_mask_token()  # type: ignore[operator]
        return backbone

    backbone = filled(made, tensors)
    backbone.name = str(description["name"])
    backbone.licence = Licence(**description["licence"])
    backbone.transform = Transform.from_dict(description["transform"])
    backbone.pooling = description["pooling"]
    return remember(backbone, **description["origin"]).eval()


def _empty(description: Mapping[str, Any]) -> Backbone:
    """The network of a description, with any weights."""
    origin, name = description["origin"], str(description["name"])
    if origin["kind"] == "bundled":
        from fewsight.backbones.bundled import BundledBackbone

        return BundledBackbone()
    arguments = checked_arguments(origin["arguments"])
    if origin["kind"] == "own":
        (known,) = (known for known in KNOWN if known.name == origin["name"] and known.kind == "untrained")
        return load(known.target)(**arguments)
    from fewsight.backbones.vit import PositionRule

    if origin["kind"] == "shapes":
        from fewsight.backbones.checkpoints import network

        model = network(arguments)
    else:
        import timm

        architecture = checked_architecture(origin["architecture"])
        model = timm.create_model(architecture, pretrained=False, num_classes=0, **arguments)
    backbone = wrapped(model, name, Transform(), Licence("", None))
    if "positions" in description:
        backbone.positions = PositionRule(**description["positions"])  # type: ignore[assignment]
    return backbone

"""`FewShotClassifier` to and from a `SavedModel`: the one place that knows what stands in its model folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor

import fewsight
from fewsight.backbones.features import BlockTokens, Features
from fewsight.class_labels import as_plain, from_plain
from fewsight.errors import InvalidInput
from fewsight.evaluation.from_support import ExpectedAccuracy, Trust
from fewsight.heads.head import Support
from fewsight.model import SavedModel
from fewsight.names import HEADS, resolve
from fewsight.photo_input import PhotoEncoder

if TYPE_CHECKING:
    from fewsight.classifier import FewShotClassifier

__all__ = ["pack", "unpack"]

_FIELDS = ("cls", "patches", "keys", "class_query", "attention")


def pack(classifier: FewShotClassifier) -> SavedModel:
    """Everything that `unpack` needs, as plain values and tensors.

    Raises:
        InvalidInput: a label is neither text nor a number, or the head is not one of fewsight's.
    """
    support, head = classifier.support_, classifier.head_
    tensors = {f"support.{name}": tensor for name, tensor in _feature_tensors(support.features).items()}
    tensors["support.membership"] = support.membership
    shared = {}
    for name, tensor in classifier.conditioned_.state().items():
        same = next((other for other, held in tensors.items() if held is tensor), None)
        if same is None:
            tensors[f"conditioned.{name}"] = tensor
        else:
            shared[name] = same
    tensors |= {f"head.{name}": tensor for name, tensor in head.state_dict().items()}
    tensors |= {f"trust.{name}": tensor for name, tensor in classifier.trust_.tensors().items()}
    encoder = classifier._encoder
    if encoder is not None:
        tensors |= {f"backbone.{name}": tensor for name, tensor in encoder.weights().items()}
    description = {
        "classes": as_plain(classifier.classes_),
        "several_labels": classifier.several_,
        "head": {"name": _head_name(head), "settings": dict(cast("Any", head).settings())},
        "backbone": None if encoder is None else encoder.description(),
        "settings": {
            "reject": classifier.reject,
            "image_size": classifier.image_size,
            "seed": classifier.seed,
        },
        "calibration": {
            **classifier.trust_.as_dict(),
            "reject": None if classifier.rejection_ is None else classifier.rejection_.sentence,
            "label_sets": classifier.trust_.promises(classifier.class_names),
            "expected_accuracy": classifier.expected_.as_dict(),
        },
        "support": {"files": classifier.files_, "groups": classifier.groups_},
        "licences": _licences(encoder),
        "provenance": {
            "fewsight": fewsight.__version__,
            "torch": str(torch.__version__),
            "support_photos": support.features.num_images,
            "features_of": getattr(classifier, "features_of_", None),
        },
        "features": getattr(classifier, "n_features_in_", None),
        "shared_tensors": shared,
    }
    return SavedModel("classifier", description, tensors)


def unpack(
    saved: SavedModel, face: type[FewShotClassifier], *, backbone: Any, device: str, precision: str
) -> FewShotClassifier:
    """The classifier that `pack` was given; its backbone is loaded when the first photo comes.

    Raises:
        InvalidInput, KeyError, TypeError, ValueError: the description or the tensors do not fit together.
    """
    told, tensors = saved.description, saved.tensors
    settings, origin = told["settings"], told["backbone"]
    size = settings["image_size"]
    size = tuple(size) if isinstance(size, list) else size
    classifier = face(
        backbone if backbone is not None else "auto" if origin is None else str(origin["name"]),
        str(told["head"]["name"]),
        reject=settings["reject"],
        image_size=size,
        device=device,
        precision=precision,
        seed=int(settings["seed"]),
    )
    classifier._check_settings()
    classifier._encoder = (
        None
        if origin is None
        else PhotoEncoder(classifier.backbone, size, device, precision, origin, _below("backbone.", tensors))
    )
    classifier.features_of_ = told["provenance"].get("features_of")
    classifier.classes_ = from_plain(told["classes"])
    classifier.several_ = bool(told["several_labels"])
    if told["features"] is not None:
        classifier.n_features_in_ = int(told["features"])
    names = tuple(str(label) for label in classifier.classes_.tolist())
    membership = tensors["support.membership"]
    if membership.dtype != torch.bool:
        raise InvalidInput(f"membership has dtype {membership.dtype}")
    classifier.support_ = Support(_features(tensors), membership, names)
    classifier.labels_ = [tuple(classifier.classes_[row.numpy()].tolist()) for row in membership]
    classifier.files_ = [str(name) for name in told["support"]["files"]]
    groups = told["support"]["groups"]
    classifier.groups_ = None if groups is None else [str(group) for group in groups]
    for column in (classifier.files_, classifier.groups_):
        if column is not None and len(column) != len(membership):
            raise InvalidInput(f"{len(column)} names for {len(membership)} support photos")
    _restore_head(classifier, told, tensors)
    classifier.trust_ = Trust.from_parts(told["calibration"], _below("trust.", tensors))
    classifier.expected_ = ExpectedAccuracy.from_dict(told["calibration"]["expected_accuracy"])
    classifier._set_rejection()
    return classifier


def _restore_head(classifier: FewShotClassifier, told: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    head = resolve("heads", classifier.head)(**told["head"]["settings"])
    head.load_state_dict(_below("head.", tensors))
    state = _below("conditioned.", tensors)
    state |= {name: tensors[same] for name, same in told["shared_tensors"].items()}
    classifier.head_ = head.eval()
    classifier.conditioned_ = head.restore(classifier.support_.names, state)
    classifier._condition_novelty()


def _head_name(head: Any) -> str:
    for name, entry in HEADS.items():
        if entry.target == f"{type(head).__module__}:{type(head).__qualname__}" and hasattr(head, "settings"):
            return name
    raise InvalidInput(
        f"a head of type {type(head).__name__} cannot be saved; use one of: {', '.join(HEADS)}."
    )


def _licences(encoder: PhotoEncoder | None) -> dict[str, Any]:
    weights = {} if encoder is None else {"backbone weights": encoder.description()["licence"]}
    return {"fewsight": {"name": "Apache-2.0", "commercial": True, "note": "the code"}, **weights}


def _feature_tensors(features: Features) -> dict[str, Tensor]:
    tensors = {name: getattr(features, name) for name in _FIELDS if getattr(features, name) is not None}
    if features.blocks is not None:
        tensors["blocks.patches"] = features.blocks.patches
        if features.blocks.cls is not None:
            tensors["blocks.cls"] = features.blocks.cls
    return tensors


def _features(tensors: dict[str, Tensor]) -> Features:
    held = _below("support.", tensors)
    blocks = None
    if "blocks.patches" in held:
        blocks = BlockTokens(held.get("blocks.cls"), held["blocks.patches"])
    return Features(blocks=blocks, **{name: held[name] for name in _FIELDS if name in held})


def _below(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}

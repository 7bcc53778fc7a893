"""`load_backbone`: a name or a path becomes a `Backbone`; and the way from a backbone to plain data and back.

    auto                                   dinov2-s if it is on this machine, else the bundled network
    fewsight-bundled                       part of the package
    dinov2-s, dino-s16, resnet50, ...      the table of `registry`
    vit_base_patch16_224.augreg_in21k      any name of timm, with its tag
    hf-hub:OWNER/NAME                      a timm model of the hub
    FOLDER                                 a model folder of fewsight, or a folder that `--get` filled
    FILE.safetensors, FILE.pth             a published checkpoint of a vision transformer

`auto` never uses the network. A backbone named outright is fetched if it is not here, which says what, how large,
from whom and under which licence; with FEWSIGHT_OFFLINE=1 it is an error that says the same.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewsight.backbones.architectures import (
    checked_architecture,
    checked_arguments,
    family_arguments,
    pretrained_network,
    remember,
    transform_of,
    untrained_backbone,
    with_image_size,
    wrapped,
)
from fewsight.backbones.backbone import Backbone, Licence
from fewsight.backbones.description import rebuild
from fewsight.backbones.hub import Remote, describe_remote, download, local_file, offline, place_for
from fewsight.backbones.reading import IncompatibleCheckpoint, read_tensors
from fewsight.backbones.registry import BUNDLED, DEFAULT, Known, find, licence_named, suggestion
from fewsight.data.transform import Transform
from fewsight.devices import resolve_device
from fewsight.errors import IncompatibleModel, InvalidInput, MissingWeights
from fewsight.files import new_file, write_json
from fewsight.progress import say

__all__ = ["fetch", "load_backbone"]

CONFIG = "config.json"
HUB_PREFIX = "hf-hub:"


def load_backbone(
    name_or_path: str | Path = "auto",
    *,
    image_size: int | tuple[int, int] | None = None,
    device: str | torch.device = "auto",
    layout: str | None = None,
    num_heads: int | None = None,
) -> Backbone:
    """A backbone in evaluation mode.

    Args:
        name_or_path: see the top of this module.
        image_size: side, or height and width, of the input in pixels; None for what the weights were made for
            (224 for DINOv2).
        device: `auto`, `cpu`, `cuda`, ...
        layout, num_heads: of a checkpoint file, where it does not say so itself.

    Raises:
        MissingWeights: not on this machine, and the network is off or does not answer.
        InvalidInput: no such name or file, or the image size does not fit.
        IncompatibleModel: the file is damaged, hostile or no vision transformer.
    """
    target = resolve_device(device)
    name = str(name_or_path)
    if name == "auto":
        name = _automatic()
    if name == BUNDLED:
        from fewsight.backbones.bundled import load_bundled

        backbone: Backbone = load_bundled()
    elif isinstance(name_or_path, Path) or _looks_like_path(name):
        backbone = _from_path(Path(name).expanduser(), layout, num_heads)
    else:
        backbone = _from_name(name)
    if image_size is not None:
        with_image_size(backbone, image_size)
    return backbone.to(target).eval()


def _automatic() -> str:
    known = find(DEFAULT)
    assert known is not None
    if local_file(known.target, Remote(known.repository)) is not None:
        return DEFAULT
    say(
        f"using the bundled backbone; `fewsight backbones --get {DEFAULT}` fetches a better one "
        f"({known.megabytes} MB, {known.licence.name}).",
        once=True,
    )
    return BUNDLED


def _looks_like_path(name: str) -> bool:
    if name.startswith(HUB_PREFIX) or find(name) is not None:
        return False
    path = Path(name).expanduser()
    return (
        path.exists() or len(path.parts) > 1 or path.suffix in (".safetensors", ".pth", ".pt", ".bin", ".tar")
    )


# --- by name


def _from_name(name: str) -> Backbone:
    known = find(name)
    if known is not None and known.kind == "untrained":
        say(f"{name} has random weights: it is for training, its features say nothing yet.", once=True)
        return untrained_backbone(name)
    if known is not None and name != known.target:
        say(f"{name} is {known.target}; weights: {_in_words(known.licence)}.", once=True)
    config = (
        _hub_config(name) if name.startswith(HUB_PREFIX) else _timm_config(known.target if known else name)
    )
    tensors = read_tensors(_weights(name, config, known))
    return _from_config(known.target if known else name, config, tensors, known)


def _in_words(licence: Licence) -> str:
    use = {True: "commercial use allowed", False: "no commercial use", None: "commercial use: read its terms"}
    note = f"; {licence.note}" if licence.note else ""
    return f"{licence.name} ({use[licence.commercial]}{note})"


def _timm_config(name: str) -> dict[str, Any]:
    """`architecture`, `pretrained_cfg` and `repository` of a name of timm."""
    import timm
    from timm.models import get_pretrained_cfg

    architecture = name.split(".", 1)[0]
    if not timm.is_model(architecture):
        raise InvalidInput(
            f"backbone {name!r} is unknown. {suggestion(name)} `fewsight backbones` lists them."
        )
    try:
        found = get_pretrained_cfg(name)
    except RuntimeError:
        found = None
    if found is None or not found.has_weights:
        tags = sorted(tag for tag in timm.list_pretrained(architecture + ".*"))
        raise InvalidInput(
            f"{name!r} has no published weights; " + (f"there is {', '.join(tags)}." if tags else ".")
        )
    tag = f".{found.tag}" if found.tag else ""
    return {
        "architecture": architecture,
        "pretrained_cfg": found.to_dict(),
        "repository": found.hf_hub_id or f"timm/{architecture}{tag}",
    }


def _hub_config(name: str) -> dict[str, Any]:
    repository, _, revision = name.removeprefix(HUB_PREFIX).partition("@")
    if not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", repository):
        raise InvalidInput(f"{repository!r} names nothing on the hub; expected {HUB_PREFIX}OWNER/NAME.")
    remote = Remote(repository, CONFIG, revision or None)
    path = local_file(name.removeprefix(HUB_PREFIX), remote)
    if path is None:
        if offline():
            raise MissingWeights(_absent(name, remote, None, None))
        path = download(remote)
    return _read_config(path) | {"repository": repository, "revision": revision or None}


def _read_config(path: Path) -> dict[str, Any]:
    """A configuration of the hub, checked."""
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
        fine = isinstance(config, dict) and isinstance(config["architecture"], str)
    except (OSError, ValueError, KeyError, RecursionError) as error:
        raise IncompatibleModel(f"{path} is not the configuration of a timm model ({error}).") from error
    if not fine:
        raise IncompatibleModel(f"{path} is not the configuration of a timm model.")
    if "pretrained_cfg" not in config:  # an older form has everything in one table
        config = {
            "architecture": config["architecture"],
            "model_args": config.get("model_args"),
            "pretrained_cfg": config,
        }
    return config


def _remote(config: Mapping[str, Any]) -> Remote:
    return Remote(config["repository"], revision=config.get("revision"))


def _weights(name: str, config: Mapping[str, Any], known: Known | None) -> Path:
    """The file of weights: from this machine, else fetched."""
    remote = _remote(config)
    place = known.target if known else name.removeprefix(HUB_PREFIX)
    found = local_file(place, remote)
    if found is not None:
        return found
    licence = known.licence if known else licence_named(config["pretrained_cfg"].get("license"))
    size = known.megabytes if known else None
    if offline():
        raise MissingWeights(_absent(name, remote, licence, size))
    try:
        _announce(name, describe_remote(remote), licence)
        return download(remote)
    except MissingWeights as error:
        raise MissingWeights(f"{error} {_absent(name, remote, licence, size)}") from error


def _announce(name: str, remote: Remote, licence: Licence) -> None:
    size = f", {remote.size / 1e6:.1f} MB" if remote.size else ""
    say(
        f"fetching {name}: {remote.file}{size}, of {remote.repository} on the Hugging Face hub; licence "
        f"{_in_words(licence)}."
    )


def _absent(name: str, remote: Remote, licence: Licence | None, megabytes: int | None) -> str:
    size = f", {megabytes} MB" if megabytes else ""
    terms = f", licence {licence.name}" if licence else ""
    known = find(name)
    place = place_for(known.target if known else name.removeprefix(HUB_PREFIX))
    return (
        f"the weights of {name} are not on this machine: file {remote.file} of {remote.repository}{size}{terms}. On a "
        f"machine with a network run `fewsight backbones --get {name} --folder F`, and put the file at "
        f"{place / remote.file}."
    )


def _from_config(
    name: str, config: Mapping[str, Any], tensors: Mapping[str, Tensor], known: Known | None
) -> Backbone:
    """A timm network with pretrained weights, at the size that they were made for."""
    architecture = checked_architecture(config["architecture"])
    published = config["pretrained_cfg"]
    arguments = checked_arguments(config.get("model_args") or {}) | family_arguments(architecture)
    try:
        model = pretrained_network(architecture, published, tensors, arguments)
    except (RuntimeError, KeyError, ValueError, TypeError) as error:
        raise IncompatibleCheckpoint(
            f"the weights of {name} do not fit the network {architecture}: {str(error).splitlines()[0]}"
        ) from error
    licence = known.licence if known else licence_named(published.get("license"))
    backbone = wrapped(model, name, transform_of(published), licence)
    if known is not None:
        _follow_table(backbone, known)
    return remember(backbone, kind="timm", architecture=architecture, arguments=arguments)


def _follow_table(backbone: Backbone, known: Known) -> None:
    from fewsight.backbones.vit import PositionRule

    if known.offset is not None:
        backbone.positions = PositionRule(known.offset, known.antialias)  # type: ignore[assignment]
    backbone.transform = replace(backbone.transform, size=(known.side, known.side))


# --- by path


def _from_path(path: Path, layout: str | None, num_heads: int | None) -> Backbone:
    if path.is_file():
        return _from_file(path, layout, num_heads)
    for folder in (path, path / "model"):
        if (folder / "model.json").is_file():
            return _from_model_folder(folder)
    if (path / CONFIG).is_file():
        config = _read_config(path / CONFIG)
        name = str(config.get("name") or path.name)
        return _from_config(name, config, read_tensors(path / "model.safetensors"), find(name))
    if path.is_dir():
        held = ", ".join(sorted(entry.name for entry in path.iterdir())[:5]) or "nothing"
        raise InvalidInput(
            f"{path} is no model folder: expected model.json, or config.json with model.safetensors; it holds {held}."
        )
    raise InvalidInput(f"{path} does not exist, and no backbone has that name. {suggestion(str(path))}")


def _from_file(path: Path, layout: str | None, num_heads: int | None) -> Backbone:
    """A published checkpoint; its layout is told by its names, its sizes by its shapes."""
    from fewsight.backbones import checkpoints

    tensors = read_tensors(path)
    layout = layout or checkpoints.detect_layout(tensors)
    state = checkpoints.convert(tensors, layout)
    arguments = checkpoints.network_arguments(state, num_heads or _published_heads(layout, state))
    rule = checkpoints.position_rule(layout, "reg_token" in state)
    backbone = checkpoints.assembled(state, arguments["num_heads"], rule, name=str(path))
    token = checkpoints.mask_token(tensors, layout)
    if token is not None:
        backbone.add_mask_token(token)
    backbone.licence = _LAYOUT_LICENCES.get(layout, Licence("unknown", None, f"of the file {path.name}"))
    side = 224 if layout == "dinov2" else arguments["img_size"]
    backbone.transform = Transform(
        size=(side, side),
        crop_fraction=0.875,
        interpolation="bilinear" if layout == "msn" else "bicubic",
    )
    remember(backbone, kind="shapes", arguments=arguments)
    say(f"{path.name} has the layout {layout}; weights: {_in_words(backbone.licence)}.", once=True)
    return backbone


_AS_PUBLISHED = "as its authors publish this layout"
_LAYOUT_LICENCES = {
    **dict.fromkeys(("dino", "dino_full", "dinov2", "deit"), Licence("Apache-2.0", True, _AS_PUBLISHED)),
    **dict.fromkeys(("msn", "moco_v3", "mae"), Licence("CC-BY-NC-4.0", False, _AS_PUBLISHED)),
    "simmim": Licence("MIT", True, _AS_PUBLISHED),
}


def _published_heads(layout: str, state: Mapping[str, Tensor]) -> int | None:
    """MoCo-v3's small network has heads of 32 channels; all others have 64."""
    return 12 if layout == "moco_v3" and state["cls_token"].shape[-1] == 384 else None


def _from_model_folder(folder: Path) -> Backbone:
    try:
        description = json.loads((folder / "model.json").read_text(encoding="utf-8"))["backbone"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise IncompatibleModel(
            f"{folder / 'model.json'} does not describe a backbone ({error!r})."
        ) from error
    tensors = read_tensors(folder / "model.safetensors")
    prefix = "backbone."
    return rebuild(
        description, {key[len(prefix) :]: value for key, value in tensors.items() if key.startswith(prefix)}
    )


# --- fetching


def fetch(name: str, folder: Path | str | None = None) -> Path:
    """Fetch the weights of a backbone, for `fewsight backbones --get`; says what, how large, whence, which licence.

    Args:
        name: a short name, a name of timm, or `hf-hub:OWNER/NAME`.
        folder: also fill `folder/NAME` with the file and its configuration, to carry to a machine without a
            network; `load_backbone` takes that folder, too.

    Returns:
        Where the weights now lie.

    Raises:
        MissingWeights: the network is off or does not answer.
        InvalidInput: no such name, or nothing to fetch for it.
    """
    name = DEFAULT if name == "auto" else name
    known = find(name)
    if known is not None and known.kind != "timm":
        raise InvalidInput(f"{name} has nothing to fetch: it is part of fewsight.")
    config = (
        _hub_config(name) if name.startswith(HUB_PREFIX) else _timm_config(known.target if known else name)
    )
    place = known.target if known else name.removeprefix(HUB_PREFIX)
    here = local_file(place, _remote(config))
    path = _weights(name, config, known)
    if here is not None:
        say(f"{name} is already on this machine: {here}.")
    read_tensors(path)  # a damaged download is told now
    if folder is None:
        return path
    filled = Path(folder) / place.replace("/", "--")
    with new_file(filled / path.name) as target, path.open("rb") as source:
        while piece := source.read(1 << 24):
            target.write(piece)
    write_json(filled / CONFIG, _plain(config) | {"name": place})
    return filled / path.name


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps({k: v for k, v in config.items() if v is not None}, default=str))

"""Networks made from names and sizes alone: timm architectures with their wrapper, and networks of our own.

An architecture and its arguments may come from a file that somebody else wrote. They are checked: nothing in them
can name code, files or the network.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from fewsight.backbones.backbone import Backbone, Licence
from fewsight.backbones.reading import IncompatibleCheckpoint, check_fit
from fewsight.backbones.registry import find, suggestion
from fewsight.data.transform import Transform
from fewsight.errors import InvalidInput
from fewsight.names import load

__all__ = [
    "checked_architecture",
    "checked_arguments",
    "family_arguments",
    "filled",
    "pretrained_network",
    "remember",
    "transform_of",
    "untrained_backbone",
    "with_image_size",
    "wrapped",
]

# sizes of a network that a description may give
_SHAPE = "img_size patch_size embed_dim depth depths num_heads mlp_ratio width layers channels"
_PARTS = "class_token reg_tokens num_reg_tokens qkv_bias qk_norm init_values pre_norm distilled swiglu family"
_POSITIONS = "no_embed_class dynamic_img_size use_abs_pos_emb use_rel_pos_bias use_shared_rel_pos_bias"
_CONVOLUTIONS = "output_stride use_running_moments padding norm"
_ARGUMENTS = frozenset(f"{_SHAPE} {_PARTS} {_POSITIONS} {_CONVOLUTIONS} global_pool drop_path_rate".split())


def family_arguments(architecture: str) -> dict[str, Any]:
    """Rotary networks keep their positions for one size unless told otherwise."""
    import timm

    module = timm.model_entrypoint(architecture).__module__
    return {"dynamic_img_size": True} if module == "timm.models.eva" else {}


def wrapped(model: nn.Module, name: str, transform: Transform, licence: Licence) -> Backbone:
    """A timm network as a backbone: a vision transformer of one of three families, or a convolutional network."""
    from timm.models.beit import Beit
    from timm.models.eva import Eva
    from timm.models.vision_transformer import VisionTransformer

    from fewsight.backbones.convnet import ConvolutionalBackbone
    from fewsight.backbones.vit import BeitBackbone, RotaryBackbone, VisionTransformerBackbone

    for network, kind in (
        (VisionTransformer, VisionTransformerBackbone),
        (Beit, BeitBackbone),
        (Eva, RotaryBackbone),
    ):
        if isinstance(model, network):
            return kind(model, name=name, transform=transform, licence=licence)
    if not hasattr(model, "forward_features") or not hasattr(model, "feature_info"):
        raise InvalidInput(f"fewsight cannot run {name}, a {type(model).__name__}: it gives no feature map.")
    return ConvolutionalBackbone(model, name=name, transform=transform, licence=licence)


def transform_of(published: Mapping[str, Any]) -> Transform:
    """The evaluation preprocessing that timm states for weights."""
    from timm.data import resolve_data_config

    config = resolve_data_config(pretrained_cfg=dict(published), verbose=False)
    return Transform(
        size=tuple(config["input_size"][1:]),
        mode="squash" if config["crop_mode"] == "squash" else "crop",
        crop_fraction=float(config["crop_pct"]),
        interpolation="bilinear" if config["interpolation"] == "bilinear" else "bicubic",
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def untrained_backbone(
    name: str, *, image_size: int | tuple[int, int] | None = None, seed: int = 0, **arguments: Any
) -> Backbone:
    """A network with random weights, for training from scratch.

    Args:
        name: `conv4`, `resnet12`, `resnet34-s16`, or any architecture of timm.
        image_size: of the input; None for the architecture's own.
        seed: of the weights.
        arguments: sizes of the network that differ from the architecture, as `depth` or `embed_dim`.

    >>> untrained_backbone("vit_tiny_patch16_224", image_size=64, depth=2).depth
    2
    """
    from fewsight.seeding import stream_seed

    arguments = checked_arguments(arguments)
    known = find(name)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream_seed(seed, "backbone") >> 1)
        if known is not None and known.kind == "untrained":
            backbone: Backbone = load(known.target)(**arguments)
            remember(backbone, kind="own", name=name, arguments=arguments)
        else:
            backbone = _untrained_timm(name, image_size, arguments)
    return backbone if image_size is None else with_image_size(backbone, image_size)


def _untrained_timm(
    name: str, image_size: int | tuple[int, int] | None, arguments: dict[str, Any]
) -> Backbone:
    import timm
    from timm.models import get_pretrained_cfg

    architecture = checked_architecture((known.target if (known := find(name)) else name).split(".", 1)[0])
    arguments = arguments | family_arguments(architecture)
    found = get_pretrained_cfg(architecture)
    published = found.to_dict() if found else {}
    if image_size is not None and published.get("fixed_input_size"):
        arguments["img_size"] = image_size if isinstance(image_size, int) else list(image_size)
    try:
        model = timm.create_model(architecture, pretrained=False, num_classes=0, **arguments)
    except TypeError as error:
        raise InvalidInput(f"{architecture} cannot be made with {arguments}: {error}.") from error
    licence = Licence("Apache-2.0", True, "random weights, for training from scratch")
    backbone = wrapped(model, architecture, transform_of(published), licence)
    return remember(backbone, kind="timm", architecture=architecture, arguments=arguments)


def checked_architecture(architecture: Any) -> str:
    """The name of an architecture of timm.

    Raises:
        InvalidInput: timm has none of that name.
    """
    import timm

    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise InvalidInput(f"architecture {architecture!r} is unknown. {suggestion(str(architecture))}")
    return architecture


def checked_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Sizes of a network, plain values under names on the allow-list.

    Raises:
        InvalidInput: a name or a value is not allowed.
    """
    for key, value in arguments.items():
        plain = value if isinstance(value, (list, tuple)) else [value]
        if key not in _ARGUMENTS or not all(
            isinstance(v, (int, float, str, bool, type(None))) for v in plain
        ):
            raise InvalidInput(
                f"argument {key}={value!r} of a network is not among those that fewsight takes."
            )
        if any(isinstance(v, (int, float)) and v > 100_000 for v in plain) or (
            key == "depth" and value > 1000
        ):
            raise InvalidInput(f"argument {key}={value!r} of a network is out of any reason.")
    return dict(arguments)


def with_image_size(backbone: Backbone, image_size: int | tuple[int, int]) -> Backbone:
    """Set the input size of a backbone in place; returns it.

    Raises:
        InvalidInput: the network cannot take that size; the message names the nearest that it can.
    """
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    patch = getattr(backbone, "patch_size", (1, 1))
    for side, step in ((height, patch[0]), (width, patch[1])):
        if side < 1 or side % step:
            near = max(step, step * round(side / step))
            raise InvalidInput(
                f"image size {side} does not fit {backbone.name}, whose patches have {step} pixels: take {near}."
            )
    backbone.transform = replace(backbone.transform, size=(height, width))
    training = backbone.training
    with torch.no_grad():  # a network of one fixed size, or with bounds, says so now and not in the middle
        backbone.eval().features(torch.zeros(1, 3, height, width, device=backbone.device))
    return backbone.train(training)


Network = TypeVar("Network", bound=nn.Module)


def filled(made: Callable[[], Network], tensors: Mapping[str, Tensor]) -> Network:
    """A network whose weights are `tensors`, all of them; no random ones are drawn first where that can be spared.

    Raises:
        IncompatibleCheckpoint: tensors are missing, left over or of another shape; they are named.
    """
    with torch.device("meta"):
        network = made()
    if {name for name, _ in network.named_buffers()} - set(network.state_dict()):
        network = made()  # buffers that no file holds are computed when the network is made
    exact = {
        name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()
    }
    check_fit(exact, network.state_dict())
    network.load_state_dict(exact, assign=True)
    return network.requires_grad_(True)


def pretrained_network(
    architecture: str,
    published: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    arguments: Mapping[str, Any],
) -> nn.Module:
    """A timm network without classification head, with the weights of a file as timm publishes it.

    Args:
        published: timm's `pretrained_cfg` of the weights.

    Raises:
        IncompatibleCheckpoint: the weights do not fit, also after timm's own renaming of older layouts.
    """
    import timm

    def made() -> nn.Module:
        return timm.create_model(architecture, pretrained=False, num_classes=0, **arguments)

    heads = published.get("classifier") or ()
    prefixes = tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads))

    def body(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value for name, value in state.items() if not name.startswith(prefixes or ("\0",))}

    try:
        return filled(made, body(tensors))
    except IncompatibleCheckpoint:
        rename = getattr(
            sys.modules[timm.model_entrypoint(architecture).__module__], "checkpoint_filter_fn", None
        )
        if rename is None:
            raise
    with torch.device("meta"):
        empty = made()
    return filled(made, body(rename(dict(tensors), empty)))


def remember(backbone: Backbone, **origin: Any) -> Backbone:
    """Note how a network was made, for `description.describe`; returns it."""
    backbone.__dict__["origin"] = origin
    return backbone

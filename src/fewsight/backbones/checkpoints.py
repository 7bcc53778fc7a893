"""Published checkpoint layouts of vision transformers, turned into the names of timm.

| layout | files | where the backbone is |
|---|---|---|
| `dino` | DINO `*_pretrain`, iBOT `checkpoint_teacher` | top level, or under `state_dict` |
| `dino_full` | full checkpoints of DINO, iBOT, MC-SSL | `teacher.backbone` |
| `msn` | MSN | `target_encoder.module` |
| `moco_v3` | MoCo-v3 | `state_dict.module.base_encoder` |
| `dinov2` | DINOv2, with and without registers; its training output | top level, or `teacher.backbone` |
| `mae` | MAE, pretrained, full or fine-tuned | top level, or under `model` |
| `simmim` | SimMIM, BEiT | top level, under `model`, `encoder` or both |
| `deit` | DeiT and other supervised files | top level, or under `model` |

A file is of a layout when every tensor of the backbone is there with its shape and nothing is left over but
heads: a wrong file never loads silently.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from torch import Tensor, nn

from fewsight.backbones.backbone import TokenMask
from fewsight.backbones.reading import IncompatibleCheckpoint, check_fit, flatten, listed, need
from fewsight.backbones.vit import BeitBackbone, PositionRule, VisionTransformerBackbone
from fewsight.errors import InvalidInput
from fewsight.names import closest
from fewsight.shapes import check_shapes

__all__ = [
    "LAYOUTS",
    "Tokens",
    "convert",
    "detect_layout",
    "load_strictly",
    "mask_token",
    "network",
    "network_arguments",
    "position_rule",
    "tokens_from",
]

# layout -> where its backbone may stand, the first that fits
LAYOUTS: dict[str, tuple[str, ...]] = {
    "dino": ("", "state_dict.", "module.", "backbone.", "state_dict.module.", "module.backbone.", "model."),
    "dino_full": (
        "teacher.backbone.",
        "teacher.module.backbone.",
        "student.module.backbone.",
        "student.backbone.",
    ),
    "msn": ("target_encoder.module.", "target_encoder."),
    "moco_v3": (
        "state_dict.module.base_encoder.",
        "module.base_encoder.",
        "state_dict.base_encoder.",
        "base_encoder.",
    ),
    "dinov2": ("", "teacher.backbone.", "teacher.module.backbone.", "model.", "state_dict.", "backbone."),
    "mae": ("model.", "", "module.", "model.module."),
    "simmim": ("model.encoder.", "encoder.", "model.", "", "module."),
    "deit": ("model.", "", "state_dict.", "module."),
}

_BACKBONE = re.compile(
    r"(cls_token|dist_token|pos_embed|register_tokens|reg_token|patch_embed\.proj\.(weight|bias)|"
    r"(norm|fc_norm|norm_pre)\.(weight|bias)|rel_pos_bias\.relative_position_bias_table|blocks\.\d.*)"
)
_NOT_BACKBONE = re.compile(
    r"(head|head_dist|fc|pre_logits|predictor|projector|head_recons)\..*|decoder.*|prototypes.*|"
    r"mask_token|masked_embed|.*relative_position_index|.*\.k_bias"
)


class Tokens(NamedTuple):
    """Class token `[B, D]` and patch tokens `[B, h, w, D]` after the final norm."""

    cls: Tensor
    patches: Tensor


def convert(state_dict: Mapping[str, Any], layout: str) -> dict[str, Tensor]:
    """The backbone of a published checkpoint under timm's names, ready to be loaded strictly.

    Args:
        state_dict: as in the file: nested, or flattened with dots.
        layout: one of `LAYOUTS`.

    Raises:
        InvalidInput: the layout is unknown; the checkpoint is not of this layout, or lacks something.
    """
    flat = flatten(state_dict)
    backbone = _without_prefix(flat, layout)
    strange = [key for key in backbone if not _BACKBONE.fullmatch(key) and not _NOT_BACKBONE.fullmatch(key)]
    if strange:
        raise IncompatibleCheckpoint(
            f"state_dict is not of the layout {layout!r}: it also holds {listed(strange)}."
        )
    kept = {
        key: value
        for key, value in backbone.items()
        if _BACKBONE.fullmatch(key) and not _NOT_BACKBONE.fullmatch(key)
    }
    return _pooled_norm(_registers_renamed(_chunks_removed(kept)))


def _without_prefix(flat: dict[str, Tensor], layout: str) -> dict[str, Tensor]:
    if layout not in LAYOUTS:
        raise InvalidInput(f"layout {layout!r} is unknown. {closest(layout, list(LAYOUTS))}")
    for prefix in LAYOUTS[layout]:
        if f"{prefix}patch_embed.proj.weight" in flat:
            return {key[len(prefix) :]: value for key, value in flat.items() if key.startswith(prefix)}
    raise IncompatibleCheckpoint(
        f"state_dict is not of the layout {layout!r}: no patch_embed.proj.weight under "
        f"{' or '.join(repr(p) for p in LAYOUTS[layout][:3])}; it holds {listed(flat)}."
    )


def _chunks_removed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`blocks.CHUNK.INDEX.*` of DINOv2's training output to `blocks.INDEX.*` (the index counts globally)."""
    return {re.sub(r"^blocks\.\d+\.(\d+\.)", r"blocks.\1", key): value for key, value in state.items()}


def _registers_renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """timm adds positions to patches only where there are registers: the class token takes its own along."""
    state = {
        key.replace(".mlp.w12.", ".mlp.fc1.").replace(".mlp.w3.", ".mlp.fc2."): value
        for key, value in state.items()
    }
    if "register_tokens" in state:
        state["reg_token"] = state.pop("register_tokens")
        if {"cls_token", "pos_embed"} <= set(state):
            state["cls_token"] = state["cls_token"] + state["pos_embed"][:, :1]
            state["pos_embed"] = state["pos_embed"][:, 1:]
    return state


def _pooled_norm(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Fine-tuned files norm behind the pooling; here that norm serves every token."""
    if "norm.weight" not in state:
        return {re.sub(r"^fc_norm\.", "norm.", key): value for key, value in state.items()}
    return {key: value for key, value in state.items() if not key.startswith("fc_norm.")}


def mask_token(state_dict: Mapping[str, Any], layout: str) -> Tensor | None:
    """The token `[D]` that stood for hidden patches in pretraining, where the checkpoint has one."""
    backbone = _without_prefix(flatten(state_dict), layout)
    found = backbone.get("mask_token", backbone.get("masked_embed"))
    dim = len(backbone["patch_embed.proj.weight"])
    return found.reshape(-1) if found is not None and found.numel() == dim else None


def detect_layout(state_dict: Mapping[str, Any]) -> str:
    """The layout of a checkpoint.

    Raises:
        InvalidInput: it holds no vision transformer; or it fits several layouts, which are named.
    """
    flat = flatten(state_dict)
    if not any(key.endswith("patch_embed.proj.weight") for key in flat):
        raise IncompatibleCheckpoint(
            f"state_dict holds no vision transformer (no patch_embed.proj.weight); it holds {listed(flat)}."
        )
    for layout, sign in _SIGNS:
        if any(sign.search(key) for key in flat):
            return layout
    if any(key.startswith(("teacher.", "student.")) for key in flat):
        return "dino_full"
    return _plain_layout(flat)


# the first sign that is found decides
_SIGNS = (
    ("msn", re.compile(r"^target_encoder\.")),
    ("moco_v3", re.compile(r"(^|\.)base_encoder\.")),
    ("simmim", re.compile(r"relative_position_bias_table$|\.attn\.q_bias$|^(model\.)?encoder\.")),
    ("dinov2", re.compile(r"register_tokens$|(dino|ibot)_head\.|\.ls1\.gamma$")),
    ("mae", re.compile(r"(^|\.)decoder_(pos_embed|embed)|(^|\.)fc_norm\.")),
    ("deit", re.compile(r"(^|\.)dist_token$|^(model\.)?head\.(weight|bias)$")),
)


def _plain_layout(flat: dict[str, Tensor]) -> str:
    """DINO and MAE files hold the same names; MAE's class token has position zero."""
    table = next((value for key, value in flat.items() if key.endswith("pos_embed")), None)
    if table is None or bool(table[0, 0].any()):
        return "dino"
    if table.shape[-1] == 384:  # MAE published no such width; stripped MoCo-v3 files look the same
        raise InvalidInput(
            "the checkpoint fits the layouts 'mae' and 'moco_v3' (which has 12 heads at this width): name one."
        )
    return "mae"


def position_rule(layout: str, registers: bool = False) -> PositionRule:
    """How the authors resample positions; `size` by bicubic without antialiasing where they have no rule.

    >>> position_rule("dinov2", registers=True)
    PositionRule(offset=0.0, antialias=True)
    """
    if layout in ("dino", "dino_full") or (layout == "dinov2" and not registers):
        return PositionRule(0.1, antialias=False)
    if layout == "dinov2":
        return PositionRule(0.0, antialias=True)
    return PositionRule("msn" if layout == "msn" else 0.0, antialias=False)


def network_arguments(state: Mapping[str, Tensor], num_heads: int | None = None) -> dict[str, Any]:
    """The sizes of a converted checkpoint, as plain values for `network`.

    Args:
        state: from `convert`.
        num_heads: None for one head each 64 channels.

    Raises:
        InvalidInput: a block or a table is missing, or sizes contradict each other.
    """
    need(state, ("patch_embed.proj.weight", "blocks.0.mlp.fc1.weight", "blocks.0.mlp.fc2.weight"))
    D, _, patch, width = state["patch_embed.proj.weight"].shape
    heads = num_heads or D // 64
    if heads < 1 or D % heads or (num_heads is None and D % 64):
        raise InvalidInput(f"num_heads is {num_heads}; expected a divisor of the width {D}.")
    hidden, behind = state["blocks.0.mlp.fc1.weight"].shape[0], state["blocks.0.mlp.fc2.weight"].shape[1]
    relative = [key for key in state if key.endswith("relative_position_bias_table")]
    # told by any block, so that the one that lacks it is named
    in_blocks = {key.split(".", 2)[2] for key in state if key.startswith("blocks.")}
    family = "beit" if relative or "attn.q_bias" in in_blocks else "vit"
    arguments: dict[str, Any] = {
        "family": family,
        "img_size": _grid_side(state, relative) * patch,
        "patch_size": patch if patch == width else [patch, width],
        "embed_dim": D,
        "depth": 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks.")),
        "num_heads": heads,
        "mlp_ratio": hidden / D,
        "init_values": 1e-5 if {"ls1.gamma", "gamma_1"} & in_blocks else None,
    }
    if family == "beit":
        shared = "rel_pos_bias.relative_position_bias_table" in state
        return arguments | {
            "qkv_bias": "attn.q_bias" in in_blocks,
            "use_abs_pos_emb": "pos_embed" in state,
            "use_shared_rel_pos_bias": shared,
            "use_rel_pos_bias": bool(relative) and not shared,
        }
    return arguments | {
        "qkv_bias": "attn.qkv.bias" in in_blocks,
        "reg_tokens": state["reg_token"].shape[1] if "reg_token" in state else 0,
        "no_embed_class": "reg_token" in state,
        "class_token": "cls_token" in state,
        "pre_norm": "norm_pre.weight" in state,
        "distilled": "dist_token" in state,
        "swiglu": behind * 2 == hidden,
    }


def _grid_side(state: Mapping[str, Tensor], relative: list[str]) -> int:
    """Patches a side of the grid that the positions were made for."""
    if "pos_embed" in state:
        prefix = 0 if "reg_token" in state else sum(key in state for key in ("cls_token", "dist_token"))
        count = state["pos_embed"].shape[1] - prefix
        side = math.isqrt(count)
        if side * side != count or count < 1:
            raise IncompatibleCheckpoint(
                f"pos_embed has shape {list(state['pos_embed'].shape)}: {count} patches are no square grid."
            )
        return side
    if not relative:
        raise IncompatibleCheckpoint("pos_embed is missing, so the image size is not known.")
    rows = state[relative[0]].shape[0] - 3  # (2 h - 1)^2, and three for the class token
    side = (math.isqrt(max(rows, 0)) + 1) // 2
    if (2 * side - 1) ** 2 != rows:
        raise IncompatibleCheckpoint(f"{relative[0]} has {rows + 3} rows, which fit no square grid.")
    return side


def network(arguments: Mapping[str, Any]) -> nn.Module:
    """The timm network of `network_arguments`, with random weights."""
    given = dict(arguments)
    family = given.pop("family")
    if family == "beit":
        from timm.models.beit import Beit

        return Beit(num_classes=0, global_pool="token", use_fc_norm=False, **given)
    from timm.layers import Mlp, SwiGLUPacked
    from timm.models.deit import VisionTransformerDistilled
    from timm.models.vision_transformer import VisionTransformer

    given["mlp_layer"] = SwiGLUPacked if given.pop("swiglu") else Mlp
    kind = VisionTransformerDistilled if given.pop("distilled") else VisionTransformer
    pool: Literal["token", "avg"] = "token" if given["class_token"] else "avg"
    return kind(num_classes=0, global_pool=pool, fc_norm=False, **given)


def load_strictly(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put a converted checkpoint into a network, with nothing missing, left over or of another shape.

    Raises:
        InvalidInput: naming the tensors.
    """
    check_fit(state, model.state_dict())
    model.load_state_dict(dict(state))


def tokens_from(
    state_dict: Mapping[str, Any],
    layout: str,
    images: Tensor,
    patch_size: int,
    num_heads: int,
    interpolate_offset: float | None = None,
    interpolate_antialias: bool | None = None,
    mask: Tensor | None = None,
) -> Tokens:
    """Class and patch tokens that the authors' code gives for a checkpoint, after the final norm.

    Args:
        state_dict: a published checkpoint, nested or flattened with dots.
        layout: one of `LAYOUTS`.
        images: `[B, 3, H, W]`, normalised; their dtype is that of the computation.
        patch_size: side of a patch in pixels.
        num_heads: of every block; no file says it.
        interpolate_offset, interpolate_antialias: of the positions; None for the rule of the layout.
        mask: `[B, h, w]`, true or 1 where a patch is replaced by the checkpoint's mask token.

    Raises:
        InvalidInput: the checkpoint is not of the layout, or an argument does not fit it.
    """
    check_shapes(images=(images, "B 3 H W"))
    state = convert(state_dict, layout)
    found = list(state["patch_embed.proj.weight"].shape[2:])
    if found != [patch_size, patch_size]:
        raise InvalidInput(f"patch_size is {patch_size}; the checkpoint has patches of {found}.")
    if num_heads < 1:
        raise InvalidInput(f"num_heads is {num_heads}; expected at least 1.")
    backbone = assembled(
        state, num_heads, _rule(layout, "reg_token" in state, interpolate_offset, interpolate_antialias)
    )
    backbone = backbone.to(images.device, images.dtype).requires_grad_(False).eval()
    hidden = None
    if mask is not None:
        token = mask_token(state_dict, layout)
        if token is None:
            raise InvalidInput("mask was given, but the checkpoint has no mask token.")
        backbone.add_mask_token(token.to(images))
        backbone.requires_grad_(False)
        hidden = TokenMask(mask.bool())
    features = backbone.features(images, mask=hidden)
    assert features.patches is not None
    if features.cls is None:
        raise InvalidInput("the checkpoint has no class token.")
    return Tokens(features.cls, features.patches)


def assembled(
    state: Mapping[str, Tensor], num_heads: int | None, rule: PositionRule, name: str = "checkpoint"
) -> VisionTransformerBackbone:
    """A backbone of a converted checkpoint, its sizes read from the tensors."""
    arguments = network_arguments(state, num_heads)
    model = network(arguments)
    load_strictly(model, state)
    kind = BeitBackbone if arguments["family"] == "beit" else VisionTransformerBackbone
    return kind(model, name=name, positions=rule)


def _rule(layout: str, registers: bool, offset: float | None, antialias: bool | None) -> PositionRule:
    rule = position_rule(layout, registers)
    return PositionRule(
        rule.offset if offset is None else offset,  # type: ignore[arg-type]
        rule.antialias if antialias is None else antialias,
    )

"""Layer-wise learning-rate decay of vision transformers: earlier layers move less.

Hangbo Bao et al., "BEiT: BERT Pre-Training of Image Transformers", ICLR 2022 (arXiv 2106.08254), appendix; the scale
of layer l of a network of depth n is decay^(n + 1 - l), with l = 0 for the embeddings, i + 1 for block i and n + 1 for
the head. timm and BEiT group a few parameters differently.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from fewsight.errors import InvalidInput

__all__ = ["layer_scales"]

_EMBEDDINGS = {
    "timm": ("cls_token", "mask_token", "pos_embed", "patch_embed", "reg_token", "norm_pre"),
    "beit": ("cls_token", "mask_token", "pos_embed", "patch_embed"),
}


def layer_scales(
    names: Sequence[str], *, depth: int, decay: float, convention: Literal["timm", "beit"] = "timm"
) -> list[float]:
    """The learning-rate scale of each parameter, in the order of their names.

    Args:
        names: parameter names as timm's vision transformers have them.
        depth: blocks of the network.
        decay: factor from one layer to the one before it, above 0 and at most 1.
        convention: `timm` puts the final norm with the last block and register tokens and `norm_pre` with the
            embeddings; `beit` leaves them at scale 1.

    Raises:
        InvalidInput: a number is out of range, or a name has a block beyond `depth`.

    >>> layer_scales(["pos_embed", "blocks.0.mlp.fc1.weight", "norm.weight", "head.weight"], depth=1, decay=0.5)
    [0.25, 0.5, 0.5, 1.0]
    """
    if convention not in _EMBEDDINGS:
        raise InvalidInput(f"convention is {convention!r}; expected 'timm' or 'beit'.")
    if depth < 1:
        raise InvalidInput(f"depth is {depth}; expected at least 1 block.")
    if not 0 < decay <= 1:
        raise InvalidInput(f"decay is {decay}; expected a number above 0 and at most 1.")
    return [decay ** (depth + 1 - _layer(name, depth, convention)) for name in names]


def _layer(name: str, depth: int, convention: str) -> int:
    if block := re.match(r"blocks\.(\d+)\.", name):
        if int(block[1]) >= depth:
            raise InvalidInput(f"names has {name!r}, but depth is {depth}: blocks are 0 to {depth - 1}.")
        return int(block[1]) + 1
    first = name.split(".")[0]
    if first in _EMBEDDINGS[convention]:
        return 0
    return depth if convention == "timm" and first == "norm" else depth + 1

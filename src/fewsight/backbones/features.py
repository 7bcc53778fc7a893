"""What a backbone is asked for, and what it gives: `Request` and `Features`.

Letters: B images, D width, h x w patch grid, L requested blocks, n attention heads, d = D / n.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from fewsight.errors import InvalidInput

__all__ = ["BlockTokens", "Features", "Pooling", "Request", "concatenate", "pool"]

Pooling = Literal["cls", "patches", "cls+patches"]


@dataclass(frozen=True)
class Request:
    """What a head or objective needs of a backbone besides class and patch tokens.

    Attributes:
        blocks: block indices whose outputs are wanted, counted from 0, negative from the end; `"all"` for each.
        normed: pass block outputs through the backbone's final norm (class and patch tokens always are).
        attention: softmax attention of the last block from the class token to the patches, per head.
        keys: key vectors of the patches in the last block, per head.
        class_query: query vector of the class token in the last block, per head.
    """

    blocks: tuple[int, ...] | Literal["all"] = ()
    normed: bool = True
    attention: bool = False
    keys: bool = False
    class_query: bool = False

    def block_indices(self, depth: int) -> tuple[int, ...]:
        """The wanted blocks as indices from 0, in the order asked for.

        Raises:
            InvalidInput: a block does not exist.

        >>> Request(blocks=(-1, 0)).block_indices(12)
        (11, 0)
        """
        if self.blocks == "all":
            return tuple(range(depth))
        for index in self.blocks:
            if not -depth <= index < depth:
                raise InvalidInput(
                    f"block {index} was requested, but the backbone has {depth} blocks (0 to {depth - 1})."
                )
        return tuple(index % depth for index in self.blocks)

    def joined(self, other: Request) -> Request:
        """The smallest request that serves both.

        Raises:
            InvalidInput: one wants block outputs normed and the other does not.
        """
        if self.blocks and other.blocks and self.normed != other.normed:
            raise InvalidInput("one request wants normed block outputs and the other raw ones: ask twice.")
        if "all" in (self.blocks, other.blocks):
            blocks: tuple[int, ...] | Literal["all"] = "all"
        else:
            blocks = tuple(dict.fromkeys((*self.blocks, *other.blocks)))
        return Request(
            blocks=blocks,
            normed=self.normed if self.blocks else other.normed,
            attention=self.attention or other.attention,
            keys=self.keys or other.keys,
            class_query=self.class_query or other.class_query,
        )


class BlockTokens(NamedTuple):
    """Outputs of the requested blocks, in the order of the request."""

    cls: Tensor | None  # [B, L, D]; None for a backbone without class token
    patches: Tensor  # [B, L, h, w, D]


class Features(NamedTuple):
    """What a backbone gives for B images. `cls` or `patches` is there; the rest where it was requested."""

    cls: Tensor | None = None  # [B, D]
    patches: Tensor | None = None  # [B, h, w, D]; None where features were given as numbers
    blocks: BlockTokens | None = None
    keys: Tensor | None = None  # [B, n, h, w, d]
    class_query: Tensor | None = None  # [B, n, d]
    attention: Tensor | None = (
        None  # [B, n, h, w]: softmax over class token and patches, class column cut off
    )

    @property
    def num_images(self) -> int:
        """The number of images B."""
        return len(_first(self))

    def rows(self, index: Tensor | slice | Sequence[int]) -> Features:
        """The features of some images, in the order of `index`."""
        if not isinstance(index, (Tensor, slice)):
            index = torch.as_tensor(index, dtype=torch.long)
        return self.map(lambda tensor: tensor[index])

    def to(self, *arguments: torch.device | torch.dtype | str) -> Features:
        """Every tensor moved or cast by `Tensor.to`."""
        return self.map(lambda tensor: tensor.to(*arguments))  # type: ignore[call-overload]

    def map(self, function: Callable[[Tensor], Tensor]) -> Features:
        """`function` applied to every tensor that is there."""

        def mapped(field: Tensor | None) -> Tensor | None:
            return None if field is None else function(field)

        blocks = self.blocks
        if blocks is not None:
            blocks = BlockTokens(mapped(blocks.cls), function(blocks.patches))
        return Features(
            mapped(self.cls),
            mapped(self.patches),
            blocks,
            mapped(self.keys),
            mapped(self.class_query),
            mapped(self.attention),
        )


def _first(features: Features) -> Tensor:
    for field in (features.cls, features.patches):
        if field is not None:
            return field
    raise InvalidInput("features without class token and without patches hold nothing.")


def concatenate(parts: Sequence[Features]) -> Features:
    """Features of several batches as one; all must hold the same fields and grids.

    Raises:
        InvalidInput: there is nothing to join.
    """
    if not parts:
        raise InvalidInput("there are no features to join.")

    def joined(tensors: list[Tensor | None]) -> Tensor | None:
        return None if tensors[0] is None else torch.cat([t for t in tensors if t is not None])

    blocks = None
    if parts[0].blocks is not None:
        tokens = [part.blocks for part in parts if part.blocks is not None]
        patches = joined([token.patches for token in tokens])
        assert patches is not None
        blocks = BlockTokens(joined([token.cls for token in tokens]), patches)
    return Features(
        joined([part.cls for part in parts]),
        joined([part.patches for part in parts]),
        blocks,
        joined([part.keys for part in parts]),
        joined([part.class_query for part in parts]),
        joined([part.attention for part in parts]),
    )


def pool(features: Features, how: Pooling = "cls") -> Tensor:
    """One vector for each image.

    `cls` is the class token (or the numbers that were given), `patches` the mean of the patch tokens,
    `cls+patches` both at unit length side by side, `[B, 2 D]`. Where the asked part is missing the other serves.

    Returns:
        `[B, D]` (or `[B, 2 D]`).
    """
    if features.patches is None or (how == "cls" and features.cls is not None):
        return _first(features)
    mean = features.patches.flatten(1, 2).mean(1)
    if how != "cls+patches" or features.cls is None:
        return mean
    unit = torch.nn.functional.normalize
    return torch.cat([unit(features.cls, dim=-1), unit(mean, dim=-1)], dim=-1)

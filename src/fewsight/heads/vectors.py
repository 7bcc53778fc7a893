"""What heads share that compare one vector an image: pooling, class sums, and the conditioned value.

A `VectorHead` gives two functions, `prepare` (supports -> tensors) and `compare` (queries + tensors -> scores). The
rest follows: `ConditionedVectors` keeps the support vectors, so that a class can be added or removed without the old
photos and the result is that of conditioning anew.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fewsight.backbones.features import Features, Pooling, pool
from fewsight.errors import InvalidInput
from fewsight.heads.head import Head, Support
from fewsight.shapes import check_shapes

__all__ = ["ConditionedVectors", "VectorHead", "check_labels", "class_sums", "real", "unit"]


def real(tensor: Tensor, name: str) -> Tensor:
    """`tensor` in float32 or float64, half types raised to float32.

    Raises:
        InvalidInput: it does not hold floating-point numbers.
    """
    if not tensor.is_floating_point():
        raise InvalidInput(f"{name} has dtype {tensor.dtype}; expected floating-point numbers.")
    return tensor if tensor.dtype == torch.float64 else tensor.float()


def check_labels(labels: Tensor, rows: Tensor) -> None:
    """Labels are integers, and there is at least one row.

    Raises:
        InvalidInput: they are not, or there is none.
    """
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InvalidInput(f"labels has dtype {labels.dtype}; expected integer class ids, one a row.")
    if len(rows) == 0:
        raise InvalidInput("labels is empty; expected at least one labelled row.")


def unit(rows: Tensor) -> Tensor:
    """Rows at unit length; a zero row stays zero.

    The largest entry is divided out first, so that no square overflows or vanishes.
    """
    peak = rows.detach().abs().amax(-1, keepdim=True) if rows.shape[-1] else rows.new_ones(())
    rows = rows / torch.where(peak > 0, peak, 1)
    square = rows.square().sum(-1, keepdim=True)
    return rows / torch.where(square > 0, square, 1).sqrt()


def class_sums(features: Tensor, membership: Tensor) -> Tensor:
    """Sum of the features `[S, D]` of each class, by `membership` [S, K]: `[K, D]`."""
    return membership.to(features.dtype).T @ features


class VectorHead(Head):
    """A head that compares one vector an image.

    Attributes:
        pooling: which tokens serve as the vector of an image.
        temperature_exponent: a fitted temperature falls as n^-exponent with n photos a class; measured on six data
            sets (`benchmarks/calibration.py`).
    """

    temperature_exponent: float = 1 / 3

    def __init__(self, pooling: Pooling = "cls") -> None:
        super().__init__()
        if pooling not in ("cls", "patches", "cls+patches"):
            raise InvalidInput(f"pooling is {pooling!r}; expected 'cls', 'patches' or 'cls+patches'.")
        self.pooling: Pooling = pooling

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """The constructor's arguments as plain values, for a model folder."""

    @abstractmethod
    def prepare(self, vectors: Tensor, membership: Tensor) -> dict[str, Tensor]:
        """What `compare` needs, from the supports `[S, D]` and their membership `[S, K]`."""

    @abstractmethod
    def compare(self, queries: Tensor, prepared: Mapping[str, Tensor]) -> Tensor:
        """Scores `[Q, K]` of queries `[Q, D]`; `prepared` also holds `vectors` and `membership`."""

    def vectors(self, features: Features) -> Tensor:
        """One vector an image, `[B, D]`, in float32 or float64."""
        return real(pool(features, self.pooling), "features")

    def condition(self, support: Support) -> ConditionedVectors:  # type: ignore[override]  # frozen names
        """Read the supports once."""
        return self._conditioned(support.names, self.vectors(support.features), support.membership)

    def restore(  # type: ignore[override]  # frozen names
        self, names: Sequence[str], state: Mapping[str, Tensor]
    ) -> ConditionedVectors:
        """The inverse of `ConditionedVectors.state`.

        Raises:
            InvalidInput: tensors are missing or do not fit together.
        """
        missing = {"vectors", "membership"} - set(state)
        if missing:
            raise InvalidInput(f"the state of the head lacks {sorted(missing)}.")
        vectors, membership = state["vectors"], state["membership"]
        sizes = check_shapes(vectors=(vectors, "S D"), membership=(membership, "S K"))
        if sizes["K"] != len(names) or membership.dtype != torch.bool:
            raise InvalidInput(f"membership has shape {list(membership.shape)} for {len(names)} classes.")
        return ConditionedVectors(self, tuple(names), dict(state))

    def _conditioned(self, names: Sequence[str], vectors: Tensor, membership: Tensor) -> ConditionedVectors:
        prepared = self.prepare(vectors, membership)
        return ConditionedVectors(
            self, tuple(names), {"vectors": vectors, "membership": membership, **prepared}
        )


@dataclass(frozen=True, eq=False)
class ConditionedVectors:
    """A vector head that has read its supports; every change gives a new value.

    Attributes:
        head: whose `compare` is called.
        names: of the K classes.
        tensors: `vectors` [S, D], `membership` bool [S, K], and what the head prepared from them.
    """

    head: VectorHead
    names: tuple[str, ...]
    tensors: dict[str, Tensor]

    def scores(self, queries: Features) -> Tensor:
        """`[Q, K]`, larger = more alike, one column for each of `names`."""
        vectors = self.head.vectors(queries).to(self.tensors["vectors"].dtype)
        check_shapes(supports=(self.tensors["vectors"], "S D"), queries=(vectors, "Q D"))
        return self.head.compare(vectors, self.tensors)

    def with_class(self, name: str, features: Features) -> ConditionedVectors:
        """The same with one more class, from its photos alone.

        Raises:
            InvalidInput: there is such a class, or no photo.
        """
        if name in self.names:
            raise InvalidInput(f"there is a class {name!r} already; remove it first, or choose another name.")
        new = self.head.vectors(features).to(self.tensors["vectors"].dtype)
        if not len(new):
            raise InvalidInput(f"class {name!r} has no photo; give at least one.")
        check_shapes(supports=(self.tensors["vectors"], "S D"), features=(new, "N D"))
        old = self.tensors["membership"]  # [S, K]
        membership = old.new_zeros(len(old) + len(new), old.shape[1] + 1)
        membership[: len(old), :-1], membership[len(old) :, -1] = old, True
        vectors = torch.cat([self.tensors["vectors"], new])
        return self.head._conditioned((*self.names, name), vectors, membership)

    def without_class(self, name: str) -> ConditionedVectors:
        """The same without one class, and without the photos that belonged to it alone.

        Raises:
            InvalidInput: there is no such class, or it is the last one.
        """
        if name not in self.names:
            raise InvalidInput(f"there is no class {name!r}; the classes are {', '.join(self.names[:20])}.")
        if len(self.names) == 1:
            raise InvalidInput(f"{name!r} is the only class; a head without classes cannot answer.")
        columns = torch.tensor([other != name for other in self.names])
        membership = self.tensors["membership"][:, columns]
        rows = membership.any(1)
        names = tuple(other for other in self.names if other != name)
        return self.head._conditioned(names, self.tensors["vectors"][rows], membership[rows])

    def state(self) -> dict[str, Tensor]:
        """Everything `VectorHead.restore` needs."""
        return dict(self.tensors)

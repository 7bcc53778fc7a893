"""CrossTransformers: spatially aware attention between a query and all supports of a class.

Carl Doersch, Ankush Gupta, Andrew Zisserman, "CrossTransformers: spatially-aware few-shot transfer", NeurIPS
2020 (arXiv 2007.11498). Each query position looks, by attention over all positions of all supports of one
class, for what that class has to say about it; the class answers with an aligned prototype, and the logit is
minus the mean squared distance between the prototype and the query, position by position.

    q_p = G x_p    k_jm = G s_jm    (one map G for queries and supports)        keys,   width Dk
    w_p = L x_p    v_jm = L s_jm    (one map L for queries and supports)        values, width Dv
    t^c_p = sum over j in c, m of softmax_{jm}(q_p . k_jm / sqrt(Dk)) v_jm
    logit[q, c] = -(1/P) sum_p ||t^c_p - w_p||^2

Differs from the authors' code: labels need not be 0..K-1 (columns are the sorted distinct labels), the score matrix
is never built (`heads/aligned_attention.py`), and there is a form without training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewsight.backbones.features import Features, pool
from fewsight.errors import IncompatibleModel, InvalidInput
from fewsight.heads.aligned_attention import ClassOrder, aligned_logits, class_order
from fewsight.heads.head import Head, Support
from fewsight.shapes import check_shapes

__all__ = ["ConditionedCrossTransformer", "CrossTransformer", "Matches", "crosstransformer_logits"]


def crosstransformer_logits(
    queries: Tensor,
    supports: Tensor,
    labels: Tensor,
    key_weight: Tensor,
    value_weight: Tensor,
    *,
    memory_mib: float = 128.0,
) -> Tensor:
    """Logits of queries against classes given by ragged supports (Doersch et al. 2020, section 3.2).

    Args:
        queries: feature maps `[Q, C, H, W]`.
        supports: feature maps `[S, C, h, w]`; the grid may differ from that of the queries.
        labels: class ids `[S]`, integers with any gaps; any number of supports a class.
        key_weight: `[Dk, C]`, the map of queries and supports to keys, without bias.
        value_weight: `[Dv, C]`, the map of queries and supports to values, without bias.
        memory_mib: bound of the temporary memory in MiB; it changes no number beyond rounding.

    Returns:
        `[Q, K]`, at most 0, larger is more alike; columns are the sorted distinct labels. No temperature. The
        dtype is that of the features, float32 for half types. Under autocast the products are in its dtype.

    Raises:
        InvalidInput: shapes disagree, labels are not integers, there is no support, or the bound is not positive.

    >>> queries, supports = torch.ones(1, 3, 2, 2), torch.stack([torch.ones(3, 2, 2), torch.zeros(3, 2, 2)])
    >>> crosstransformer_logits(queries, supports, torch.tensor([7, 4]), torch.eye(3), torch.eye(3))
    tensor([[-3., -0.]])
    """
    check_shapes(
        queries=(queries, "Q C H W"),
        supports=(supports, "S C h w"),
        labels=(labels, "S"),
        key_weight=(key_weight, "Dk C"),
        value_weight=(value_weight, "Dv C"),
    )
    order = class_order(labels)
    dtypes = {tensor.dtype for tensor in (queries, supports, key_weight, value_weight)}
    if not queries.is_floating_point() or (
        len(dtypes) > 1 and not torch.is_autocast_enabled(queries.device.type)
    ):
        raise InvalidInput(
            f"queries, supports and weights have dtypes {dtypes}; expected one floating-point dtype."
        )
    query_positions = queries.flatten(2).transpose(1, 2)  # [Q, P, C]
    support_positions = supports.flatten(2).transpose(1, 2)  # [S, M, C]
    return aligned_logits(
        F.linear(query_positions, key_weight),
        F.linear(query_positions, value_weight),
        F.linear(support_positions, key_weight),
        F.linear(support_positions, value_weight),
        order,
        memory_mib=memory_mib,
    )


class CrossTransformer(Head):
    """CrossTransformers as a head; see `crosstransformer_logits` for the mathematics.

    With `dim`, two maps of that input width are trained (truncated normal, sd 0.1, as published). Without, the
    maps are the identity on patch tokens of unit length, and nothing needs training: attention is a softmax of
    cosines over `attention_temperature`, logits lie in [-4, 0] and wait for a calibrated temperature.

    Features without patches (given as numbers) count as a grid of one position.
    """

    def __init__(
        self,
        dim: int | None = None,
        *,
        key_dim: int = 128,
        value_dim: int = 128,
        attention_temperature: float = 0.07,
        memory_mib: float = 128.0,
    ) -> None:
        super().__init__()
        if not attention_temperature > 0:
            raise InvalidInput(
                f"attention_temperature is {attention_temperature}; expected a positive number."
            )
        self.attention_temperature, self.memory_mib = attention_temperature, memory_mib
        self.key_weight, self.value_weight = None, None
        if dim is not None:
            self.key_weight, self.value_weight = (
                nn.Parameter(nn.init.trunc_normal_(torch.empty(width, dim), std=0.1, a=-0.2, b=0.2))
                for width in (key_dim, value_dim)
            )

    def settings(self) -> dict[str, Any]:
        """What the constructor took, for a model folder."""
        trained = {}
        if self.key_weight is not None and self.value_weight is not None:
            (key_dim, dim), value_dim = self.key_weight.shape, self.value_weight.shape[0]
            trained = {"dim": dim, "key_dim": key_dim, "value_dim": value_dim}
        return trained | {"attention_temperature": self.attention_temperature, "memory_mib": self.memory_mib}

    def project(self, features: Features) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Keys `[B, M, Dk]`, values `[B, M, Dv]` and the grid (h, w) with M = h w."""
        patches = features.patches if features.patches is not None else pool(features)[:, None, None]
        grid = (patches.shape[1], patches.shape[2])
        positions = patches.flatten(1, 2)  # [B, M, D]
        if self.key_weight is None or self.value_weight is None:
            unit = F.normalize(positions.to(torch.promote_types(positions.dtype, torch.float32)), dim=2)
            return self._keys_of(unit), unit, grid
        if positions.shape[2] != self.key_weight.shape[1]:
            raise InvalidInput(
                f"features have width {positions.shape[2]}; this CrossTransformer was made for "
                f"{self.key_weight.shape[1]}."
            )
        return F.linear(positions, self.key_weight), F.linear(positions, self.value_weight), grid

    def _keys_of(self, unit: Tensor) -> Tensor:
        """Untrained keys: of such length that q.k / sqrt(D) is the cosine over the temperature."""
        return unit * (unit.shape[2] ** 0.5 / self.attention_temperature) ** 0.5

    def condition(self, support: Support) -> ConditionedCrossTransformer:
        """Compute and keep keys and values of the supports, class after class."""
        keys, values, grid = self.project(support.features)
        rows = support.membership.T.nonzero()[:, 1].to(keys.device)  # supports of class 0, of class 1, ...
        counts = tuple(support.shots.tolist())
        return ConditionedCrossTransformer(self, support.names, keys[rows], values[rows], counts, grid)

    def restore(self, names: Sequence[str], state: Mapping[str, Tensor]) -> ConditionedCrossTransformer:
        """The conditioned head that `ConditionedCrossTransformer.state` was taken from."""
        needed = {"values", "counts", "grid"} | ({"keys"} if self.key_weight is not None else set())
        if missing := needed - set(state):
            raise IncompatibleModel(f"the CrossTransformer state lacks {', '.join(sorted(missing))}.")
        counts, (height, width) = tuple(state["counts"].tolist()), state["grid"].tolist()
        values = state["values"]
        if len(counts) != len(names) or sum(counts) != len(values) or min(counts, default=0) < 1:
            raise IncompatibleModel(f"the CrossTransformer state does not fit {len(names)} classes.")
        keys = self._keys_of(values) if self.key_weight is None else state["keys"]
        return ConditionedCrossTransformer(self, tuple(names), keys, values, counts, (height, width))

    def leave_one_out(self, support: Support) -> Tensor:
        """Scores of every support under the head without it, `[S, K]`; -inf for a class that has no other image.

        A class answers from its own supports alone, so only the columns of an image's own classes change.
        """
        conditioned = self.condition(support)
        scores = conditioned.scores(support.features).clone()
        keys, values, _ = self.project(support.features)
        for image, column in support.membership.nonzero().tolist():
            others = support.membership[:, column].clone()
            others[image] = False
            rows = others.nonzero()[:, 0].to(keys.device)
            one = slice(image, image + 1)
            order = ClassOrder(torch.arange(len(rows), device=rows.device), (len(rows),))
            scores[image, column] = (
                aligned_logits(
                    keys[one], values[one], keys[rows], values[rows], order, memory_mib=self.memory_mib
                )[0, 0]
                if len(rows)
                else -torch.inf
            )
        return scores


class Matches(NamedTuple):
    """For each query position the support positions that answered most, best first.

    Positions are counted row by row over the grid: position p lies in row p // width, column p % width.
    """

    support: Tensor  # int [Q, P, T]: which support of the class, in the order they were given
    position: Tensor  # int [Q, P, T]: where in that support
    weight: Tensor  # float [Q, P, T]: its share of the attention; the shares of all positions sum to 1
    distance: Tensor  # float [Q, P]: squared distance of the query's value to the aligned prototype


@dataclass(frozen=True)
class ConditionedCrossTransformer:
    """Keys and values of the supports, class after class: a value that scores any number of queries.

    Attributes:
        keys: `[S, M, Dk]`, a support that belongs to two classes stands twice.
        values: `[S, M, Dv]`.
        counts: supports of each class.
        grid: (h, w) of the supports, M = h w.
    """

    head: CrossTransformer
    names: tuple[str, ...]
    keys: Tensor
    values: Tensor
    counts: tuple[int, ...]
    grid: tuple[int, int]

    def scores(self, queries: Features) -> Tensor:
        """`[Q, K]`, at most 0, larger is more alike."""
        keys, values, _ = self.head.project(queries)
        order = ClassOrder(torch.arange(len(self.keys), device=self.keys.device), self.counts)
        return aligned_logits(keys, values, self.keys, self.values, order, memory_mib=self.head.memory_mib)

    def matches(self, queries: Features, name: str, *, top: int = 1) -> Matches:
        """Which positions of the supports of class `name` answered for each query position.

        Raises:
            InvalidInput: there is no such class, or `top` is below 1.
        """
        if top < 1:
            raise InvalidInput(f"top is {top}; expected at least 1.")
        rows = self._rows(name)
        keys, values = self.keys[rows].flatten(0, 1), self.values[rows].flatten(0, 1)  # [n M, D]
        query_keys, query_values, _ = self.head.project(queries)
        found = []
        for key, value in zip(query_keys, query_values, strict=True):
            attention = torch.softmax(key @ keys.T * key.shape[1] ** -0.5, 1)  # [P, n M]
            weight, place = attention.topk(min(top, len(keys)), 1)
            cells = self.keys.shape[1]
            distance = (attention @ values - value).square().sum(1)
            found.append((place // cells, place % cells, weight, distance))
        return Matches(*(torch.stack(parts) for parts in zip(*found, strict=True)))

    def attention(self, queries: Features, name: str) -> Tensor:
        """The heat maps: where in the supports of class `name` each query position looked.

        Returns:
            `[Q, P, n, h, w]` for the n supports of the class, float32 at least; sums to 1 over (n, h, w). The whole
            of it: meant for a few photos.

        Raises:
            InvalidInput: there is no such class.
        """
        keys = self.keys[self._rows(name)]
        query_keys, _, _ = self.head.project(queries)
        scores = query_keys @ keys.flatten(0, 1).T * keys.shape[2] ** -0.5  # [Q, P, n M]
        wide = torch.promote_types(scores.dtype, torch.float32)
        return torch.softmax(scores, 2, dtype=wide).unflatten(2, (len(keys), *self.grid))

    def with_class(self, name: str, features: Features) -> ConditionedCrossTransformer:
        """The same with one more class, its column last.

        Raises:
            InvalidInput: the class is there already, or its photos have another grid.
        """
        if name in self.names:
            raise InvalidInput(f"there is a class {name!r} already; remove it first, or choose another name.")
        keys, values, grid = self.head.project(features)
        if grid != self.grid or not len(keys):
            raise InvalidInput(
                f"class {name!r} has {len(keys)} images with a grid of {grid}; expected some, with {self.grid}."
            )
        return replace(
            self,
            names=(*self.names, name),
            keys=torch.cat([self.keys, keys]),
            values=torch.cat([self.values, values]),
            counts=(*self.counts, len(keys)),
        )

    def without_class(self, name: str) -> ConditionedCrossTransformer:
        """The same without one class.

        Raises:
            InvalidInput: there is no such class.
        """
        rows = self._rows(name)
        column = self.names.index(name)
        return replace(
            self,
            names=self.names[:column] + self.names[column + 1 :],
            keys=torch.cat([self.keys[: rows.start], self.keys[rows.stop :]]),
            values=torch.cat([self.values[: rows.start], self.values[rows.stop :]]),
            counts=self.counts[:column] + self.counts[column + 1 :],
        )

    def state(self) -> dict[str, Tensor]:
        """Values, counts and grid for a model folder, and keys where they are not the values at another length."""
        kept = {
            "values": self.values.detach(),
            "counts": torch.tensor(self.counts),
            "grid": torch.tensor(self.grid),
        }
        return kept if self.head.key_weight is None else kept | {"keys": self.keys.detach()}

    def _rows(self, name: str) -> slice:
        """Where the supports of a class stand."""
        if name not in self.names:
            raise InvalidInput(
                f"there is no class {name!r}; the classes are {', '.join(map(repr, self.names))}."
            )
        column = self.names.index(name)
        start = sum(self.counts[:column])
        return slice(start, start + self.counts[column])

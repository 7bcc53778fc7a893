"""Episodes of published benchmarks: Meta-Dataset's sampler, SimCLR episodes, and the FS-CS test episodes.

Eleni Triantafillou et al., "Meta-Dataset", ICLR 2020 (arXiv 1903.03096), section 3.2 and its code: ways, shots and
queries vary, classes may follow a hierarchy. The order of the random draws is that of the code, so that a legacy NumPy
generator gives the same episodes. SimCLR episodes: Doersch et al., "CrossTransformers", NeurIPS 2020, section 3.1.

Our own episodes of fixed way and shot are in `data/fixed_episodes.py`.

Letters: N classes of a set, K classes of an episode, S supports, Q queries.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from fewsight.data.fscs_episodes import FscsEpisode, published_fscs_episode
from fewsight.errors import InvalidInput
from fewsight.shapes import check_shapes

__all__ = [
    "EpisodeDescription",
    "EpisodeShots",
    "FscsEpisode",
    "Hierarchy",
    "SimclrEpisode",
    "class_hierarchy",
    "episode_shots",
    "published_fscs_episode",
    "sample_episode",
    "simclr_episode",
]

Integers = NDArray[numpy.int64]

MIN_WAYS, MAX_WAYS = 5, 50
MAX_NUM_QUERY = 10
MAX_SUPPORT_SIZE_CONTRIB_PER_CLASS = 100
MAX_SUPPORT_SET_SIZE = 500
MIN_LOG_WEIGHT, MAX_LOG_WEIGHT = math.log(0.5), math.log(2)


class EpisodeShots(NamedTuple):
    """Queries of each class, the size that the support set aims at, and the supports of each class `[K]`."""

    num_query: int
    support_set_size: int
    num_support_per_class: Integers


def episode_shots(
    images_per_class: ArrayLike,
    beta: float,
    log_weights: ArrayLike,
    *,
    max_num_query: int = MAX_NUM_QUERY,
    max_support_size_contrib_per_class: int = MAX_SUPPORT_SIZE_CONTRIB_PER_CLASS,
    max_support_set_size: int = MAX_SUPPORT_SET_SIZE,
) -> EpisodeShots:
    """Queries and supports of an episode from given draws (Meta-Dataset, section 3.2).

    Args:
        images_per_class: images of each class of the episode `[K]`, at least 2 each.
        beta: share in [0, 1) of each class's images that the support set may reach.
        log_weights: logarithms of how much each class is over-represented `[K]`.
        max_num_query: queries of each class at most.
        max_support_size_contrib_per_class: images that one class may add to the size of the support set.
        max_support_set_size: supports in all at most.

    Raises:
        InvalidInput: a shape or range is wrong, or a class has fewer than 2 images.

    >>> episode_shots([20, 20], 0.5, [0.0, 0.0])
    EpisodeShots(num_query=10, support_set_size=12, num_support_per_class=array([6, 6]))
    """
    images = _image_counts(images_per_class)
    if images.min() < 2:
        raise InvalidInput(
            f"images_per_class has a class of {images.min()}; expected at least 2 images a class."
        )
    num_query = min(max_num_query, int(images.min() // 2))
    return _shots(
        images, num_query, beta, log_weights, max_support_size_contrib_per_class, max_support_set_size
    )


def _shots(
    images: Integers, num_query: int, beta: float, log_weights: ArrayLike, contribution: int, largest: int
) -> EpisodeShots:
    if not 0 <= beta < 1:
        raise InvalidInput(f"beta is {beta}; expected a number from 0 to below 1.")
    weights = numpy.asarray(log_weights, dtype=numpy.float64)
    if weights.shape != images.shape or not numpy.isfinite(weights).all():
        raise InvalidInput(f"log_weights has shape {weights.shape}; expected {images.shape}, finite numbers.")
    remaining = images - num_query
    # Adding 1 before the floor is the code's order: in doubles it is not always floor(x) + 1.
    size = min(largest, int(numpy.floor(beta * numpy.minimum(contribution, remaining) + 1).sum()))
    shares = images * numpy.exp(weights)
    shares = shares / shares.sum()
    supports = numpy.floor(shares * (size - len(images))).astype(numpy.int64) + 1
    return EpisodeShots(num_query, size, numpy.minimum(supports, remaining))


class EpisodeDescription(NamedTuple):
    """The classes of an episode `[K]`, and the supports and queries of each `[K]`."""

    class_ids: Integers
    num_support: Integers
    num_query: Integers


def sample_episode(
    images_per_class: ArrayLike,
    rng: numpy.random.RandomState,
    *,
    num_ways: int | None = None,
    num_support: int | Sequence[int] | None = None,
    num_query: int | None = None,
    classes_per_superclass: ArrayLike | None = None,
    spanned_classes: Sequence[ArrayLike] | None = None,
    ignore_hierarchy_probability: float = 0.0,
) -> EpisodeDescription:
    """Draw the classes, shots and queries of one episode, in the order of draws of Meta-Dataset's code.

    Args:
        images_per_class: images of each class of the set `[N]`.
        rng: legacy generator; it is advanced.
        num_ways: classes of the episode; None draws 5 to 50.
        num_support: supports of each class: a number, (low, high) for one number drawn for all classes, or None for
            Meta-Dataset's unequal shots.
        num_query: queries of each class; None for 10, or fewer where a class is small.
        classes_per_superclass: classes of each superclass `[G]`, ids consecutive (Omniglot's alphabets).
        spanned_classes: for each eligible node of a hierarchy the classes it spans (`class_hierarchy`).
        ignore_hierarchy_probability: how often classes are drawn from the whole set in spite of a hierarchy.

    Raises:
        InvalidInput: arguments exclude each other, or there are too few classes or images.

    >>> episode = sample_episode([20] * 8, numpy.random.RandomState(0), num_ways=5, num_support=1, num_query=15)
    >>> len(episode.class_ids), episode.num_support.tolist()
    (5, [1, 1, 1, 1, 1])
    """
    images = _image_counts(images_per_class)
    hierarchy = classes_per_superclass is not None or spanned_classes is not None
    if hierarchy and num_ways is not None:
        raise InvalidInput(f"num_ways is {num_ways}, but a hierarchy sets the ways; give one of them.")
    if not 0 <= ignore_hierarchy_probability <= 1:
        raise InvalidInput(
            f"ignore_hierarchy_probability is {ignore_hierarchy_probability}; expected 0 to 1."
        )
    probability = ignore_hierarchy_probability
    if hierarchy and rng.choice([True, False], p=[1 - probability, probability]):
        if spanned_classes is not None:
            class_ids = _classes_of_node(spanned_classes, rng)
        else:
            class_ids = _classes_of_superclass(classes_per_superclass, len(images), rng)
    else:
        ways = _draw_ways(len(images), rng) if num_ways is None else num_ways
        if not 1 <= ways <= len(images):
            raise InvalidInput(f"num_ways is {ways}; expected 1 to {len(images)}, the number of classes.")
        class_ids = rng.choice(len(images), ways, replace=False)
    supports, queries = _draw_shots(images[class_ids], rng, num_support, num_query)
    return EpisodeDescription(class_ids, supports, numpy.full(len(class_ids), queries))


def _image_counts(images_per_class: ArrayLike) -> Integers:
    images = numpy.asarray(images_per_class)
    if images.ndim != 1 or not len(images) or not numpy.issubdtype(images.dtype, numpy.integer):
        raise InvalidInput(
            f"images_per_class has shape {images.shape}, dtype {images.dtype}; expected integers [K]."
        )
    if images.min() < 1:
        raise InvalidInput(f"images_per_class has a class of {images.min()} images; leave empty classes out.")
    return images.astype(numpy.int64)


def _draw_ways(classes: int, rng: numpy.random.RandomState) -> int:
    if classes < MIN_WAYS:
        raise InvalidInput(
            f"there are {classes} classes to draw from; variable episodes need {MIN_WAYS} at least."
        )
    return int(rng.randint(MIN_WAYS, min(MAX_WAYS, classes) + 1))


def _classes_of_superclass(sizes: Any, classes: int, rng: numpy.random.RandomState) -> Integers:
    sizes = _image_counts(sizes)
    if sizes.sum() != classes:
        raise InvalidInput(f"classes_per_superclass adds up to {sizes.sum()}; expected {classes} classes.")
    superclass = rng.choice(len(sizes))
    ways = _draw_ways(int(sizes[superclass]), rng)
    return rng.choice(sizes[superclass], ways, replace=False) + sizes[:superclass].sum()


def _classes_of_node(spanned: Sequence[ArrayLike], rng: numpy.random.RandomState) -> Integers:
    """All classes of a node drawn uniformly, or 50 of them."""
    classes = numpy.asarray(spanned[rng.randint(0, len(spanned))], dtype=numpy.int64)
    return rng.choice(classes, MAX_WAYS, replace=False) if len(classes) > MAX_WAYS else classes


def _draw_shots(
    images: Integers,
    rng: numpy.random.RandomState,
    num_support: int | Sequence[int] | None,
    num_query: int | None,
) -> tuple[Integers, int]:
    """Supports of each class and queries of every class."""
    if num_support is not None and numpy.shape(num_support) not in ((), (2,)):
        raise InvalidInput(f"num_support is {num_support}; expected a number or (low, high).")
    low, high = (0, 0) if num_support is None else numpy.broadcast_to(num_support, 2).tolist()
    smallest = int(images.min())
    if num_query is None:
        num_query = min(MAX_NUM_QUERY, smallest // 2 if num_support is None else smallest - high)
    if (
        num_query < 1
        or smallest - num_query < max(high, 1)
        or (num_support is not None and not 1 <= low <= high)
    ):
        raise InvalidInput(
            f"the smallest class has {smallest} images; num_support {num_support} and num_query {num_query} do not fit."
        )
    if num_support is None:
        beta = rng.uniform()
        weights = rng.uniform(MIN_LOG_WEIGHT, MAX_LOG_WEIGHT, size=len(images))
        shots = _shots(
            images, num_query, beta, weights, MAX_SUPPORT_SIZE_CONTRIB_PER_CLASS, MAX_SUPPORT_SET_SIZE
        )
        return shots.num_support_per_class, num_query
    shot = low if numpy.ndim(num_support) == 0 else int(rng.randint(low, high + 1))
    return numpy.full(len(images), shot), num_query


class Hierarchy(NamedTuple):
    """Internal nodes left, the eligible ones, how many leaves each spans, and these leaves node after node."""

    internal_nodes: Integers
    eligible_nodes: Integers
    eligible_sizes: Integers
    eligible_leaves: Integers

    def spanned_classes(self) -> list[Integers]:
        """The leaves of each eligible node, as `sample_episode` takes them."""
        return numpy.split(self.eligible_leaves, numpy.cumsum(self.eligible_sizes)[:-1])


def class_hierarchy(edges: ArrayLike, leaves: ArrayLike, *, min_ways: int, max_leaves: int) -> Hierarchy:
    """The part of a directed acyclic graph that spans given leaves, and the nodes to draw episodes from.

    The leaves and all their ancestors are kept; then every node with exactly one child is removed and the child goes
    to its parents (or becomes a root) until none is left. A node is eligible if it spans from `min_ways` to
    `max_leaves` leaves. ImageNet in Meta-Dataset: 5 and 392.

    Args:
        edges: (parent, child) `[E, 2]`, integers.
        leaves: `[L]`, integers.

    Raises:
        InvalidInput: a shape is wrong or the graph has a cycle.

    >>> class_hierarchy([[0, 1], [0, 4], [1, 2], [1, 3]], [2, 3, 4], min_ways=2, max_leaves=2).eligible_nodes
    array([1])
    """
    edge_array, leaf_array = numpy.asarray(edges, dtype=numpy.int64), numpy.asarray(leaves, dtype=numpy.int64)
    if edge_array.ndim != 2 or edge_array.shape[1] != 2 or leaf_array.ndim != 1:
        raise InvalidInput(
            f"edges has shape {edge_array.shape} and leaves {leaf_array.shape}; expected [E, 2] and [L]."
        )
    children = _collapsed(edge_array.tolist(), leaf_array.tolist())
    spans = _spanned(children, set(leaf_array.tolist()))
    internal = sorted(children)
    eligible = [node for node in internal if min_ways <= len(spans[node]) <= max_leaves]
    return Hierarchy(
        _integers(internal),
        _integers(eligible),
        _integers(len(spans[node]) for node in eligible),
        _integers(leaf for node in eligible for leaf in sorted(spans[node])),
    )


def _integers(values: Iterable[int]) -> Integers:
    return numpy.array(list(values), dtype=numpy.int64)


def _collapsed(edges: list[list[int]], leaves: list[int]) -> dict[int, set[int]]:
    """Children of each internal node above the leaves, none of them an only child."""
    parents: dict[int, set[int]] = {}
    for parent, child in edges:
        parents.setdefault(child, set()).add(parent)
    kept, frontier = set(leaves), list(leaves)
    while frontier:
        for parent in parents.get(frontier.pop(), ()):
            if parent not in kept:
                kept.add(parent)
                frontier.append(parent)
    children: dict[int, set[int]] = {}
    for parent, child in edges:
        if child in kept:  # then its parents are kept too
            children.setdefault(parent, set()).add(child)
    while lonely := [node for node, below in children.items() if len(below) == 1]:
        for node in lonely:
            below = children.pop(node, set())
            for others in children.values():
                if node in others:
                    others.remove(node)
                    others |= below
    return children


def _spanned(children: dict[int, set[int]], leaves: set[int]) -> dict[int, set[int]]:
    """Leaves below each internal node, each counted once whatever the number of paths."""
    spans: dict[int, set[int]] = {}

    def visit(node: int, above: frozenset[int]) -> set[int]:
        if node in above:
            raise InvalidInput(f"edges have a cycle through node {node}; expected an acyclic graph.")
        if node not in spans:
            below = (visit(child, above | {node}) for child in children.get(node, ()))
            spans[node] = set().union(*below) | ({node} & leaves)
        return spans[node]

    for node in children:
        visit(node, frozenset())
    return spans


class SimclrEpisode(NamedTuple):
    """Which supports become queries, and the new targets of supports and queries.

    Attributes:
        query_indices: long `[Q]`, indices of support images, ascending.
        support_targets: long `[S]`, every support a class of its own.
        query_targets: long `[Q]`, the support that each query is another view of.
    """

    query_indices: Tensor
    support_targets: Tensor
    query_targets: Tensor


def simclr_episode(support_labels: Tensor, query_labels: Tensor) -> SimclrEpisode:
    """Turn an episode into instance recognition: find the other view of the same photo (Doersch et al. 2020).

    The old queries are dropped. Of each class the first supports, as many as it had queries, become queries; every
    support is a class of its own. Both sides are to be augmented anew.

    Differs from the paper as reviewed (a random choice of supports): the authors' code takes the first ones.

    >>> simclr_episode(torch.tensor([3, 3, 5]), torch.tensor([5, 3])).query_indices
    tensor([0, 2])
    """
    check_shapes(support_labels=(support_labels, "S"), query_labels=(query_labels, "Q"))
    same = support_labels[:, None] == support_labels[None, :]
    number = same.tril().sum(1)  # place of each support in its class, counted from 1
    allowed = (support_labels[:, None] == query_labels[None, :]).sum(1)
    chosen = (number <= allowed).nonzero()[:, 0]
    return SimclrEpisode(
        chosen, torch.arange(len(support_labels), device=support_labels.device), chosen.clone()
    )

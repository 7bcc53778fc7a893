"""Which classes of ImageNet make an episode in Meta-Dataset: those under one node of its WordNet graph.

Eleni Triantafillou et al., "Meta-Dataset", ICLR 2020 (arXiv 1903.03096), section 3.2 and its code: a node that spans 5
to 392 classes of the split is drawn evenly, and its classes, at most 50, are the episode's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy
from numpy.typing import NDArray

from fewsight.data.episodes import MIN_WAYS, class_hierarchy
from fewsight.data.splits import MetaDatasetSplit, imagenet_hierarchy
from fewsight.errors import InvalidInput

__all__ = ["spanned_imagenet_classes"]

MOST_LEAVES = 392  # the smallest bound by which every training class can be reached


def spanned_imagenet_classes(
    names: Sequence[str], split: MetaDatasetSplit = "train"
) -> list[NDArray[numpy.int64]]:
    """For each eligible node the positions in `names` of the classes that it spans.

    Classes that are not among `names` are left out, and nodes of which fewer than 5 then remain.

    Args:
        names: WordNet ids of classes, as n01440764.

    Raises:
        InvalidInput: no node is left to draw from.

    >>> from fewsight.data.splits import meta_dataset_images
    >>> len(spanned_imagenet_classes(list(meta_dataset_images("ilsvrc_2012", "train"))))
    113
    """
    graph = imagenet_hierarchy(split)
    hierarchy = class_hierarchy(graph.edges, graph.leaves, min_ways=MIN_WAYS, max_leaves=MOST_LEAVES)
    place = {name: number for number, name in enumerate(names)}
    spans = [
        numpy.array([place[graph.nodes[leaf]] for leaf in span if graph.nodes[leaf] in place], numpy.int64)
        for span in hierarchy.spanned_classes()
    ]
    usable = [span for span in spans if len(span) >= MIN_WAYS]
    if not usable:
        raise InvalidInput(
            f"no node of ImageNet's graph spans {MIN_WAYS} of the {len(names)} classes (the first: "
            f"{', '.join(map(repr, names[:3]))}); expected folders named by WordNet ids, as n01440764."
        )
    return usable

"""k-NN on frozen features: the photos of a training split vote for those of a test split.

Zhirong Wu et al., CVPR 2018, in the form of DINO (Caron et al. 2021, eval_knn.py): features at unit length, votes
exp(cosine / 0.07) of the k nearest, k = 10, 20, 100, 200.

Differs from the published script: any number of classes and test photos; a k above the number of training photos is
left out in place of a crash.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fewsight.errors import InvalidInput
from fewsight.heads.neighbours import knn_probabilities
from fewsight.heads.vectors import unit
from fewsight.shapes import check_shapes

__all__ = ["evaluate_neighbours"]


def evaluate_neighbours(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    ks: Sequence[int] = (10, 20, 100, 200),
    temperature: float = 0.07,
) -> dict[int, Tensor]:
    """Which test photos are answered rightly, for each k.

    Args:
        train, test: features `[N, D]` and `[M, D]` of any length.
        train_labels, test_labels: class ids `[N]`, `[M]`.
        ks: neighbours; those above N are left out, the smallest is cut to N if nothing else remains.
        temperature: of the votes, positive.

    Returns:
        k -> bool `[M]`.

    Raises:
        InvalidInput: shapes disagree, there is no photo, or a number is out of range.

    >>> points = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    >>> evaluate_neighbours(points, torch.tensor([4, 4, 7]), points[:1], torch.tensor([4]), ks=(2,))
    {2: tensor([True])}
    """
    check_shapes(
        train=(train, "N D"), train_labels=(train_labels, "N"),
        test=(test, "M D"), test_labels=(test_labels, "M"),
    )  # fmt: skip
    if not len(test) or not len(train) or not ks:
        raise InvalidInput(
            f"there are {len(train)} photos to learn from, {len(test)} to be judged and {len(ks)} values of k."
        )
    classes, columns = torch.unique(train_labels, return_inverse=True)
    queries, supports = unit(test), unit(train)
    found = {}
    for k in [k for k in ks if k <= len(train)] or [min(min(ks), len(train))]:
        votes = knn_probabilities(queries, supports, columns, k, temperature)
        found[k] = classes[votes.argmax(1)] == test_labels
    return found

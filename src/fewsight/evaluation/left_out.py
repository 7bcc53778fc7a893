"""Support photos judged by one another: each alone left out, or one of each class at a time.

Leaving out one photo alone handicaps its class, which then has one photo less than its rivals; with two or three
photos a class that costs many points. Leaving out one photo of every class at a time leaves a fair task of n - 1 photos
a class, so temperature and expected accuracy rest on that (`balanced_scores`). Letters: S supports, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fewsight.errors import InvalidInput
from fewsight.heads.head import Head, Support

__all__ = ["balanced_scores", "left_out_scores"]

MOST_FOLDS = 10  # larger classes leave out a tenth at a time


def left_out_scores(head: Head, support: Support, groups: Sequence[object] | None = None) -> Tensor:
    """Scores of every support photo under the head without that photo, or without its whole group.

    Args:
        head: any head.
        support: S photos.
        groups: `S` names (folder, burst, ...); photos of one group never stand on both sides.

    Returns:
        `[S, K]`; -inf for a class that has no photo outside.

    Raises:
        InvalidInput: there is not one group name a photo.
    """
    count, ways = support.membership.shape
    if groups is None:
        return head.leave_one_out(support)
    if len(groups) != count:
        raise InvalidInput(f"groups has {len(groups)} names for {count} support photos.")
    if len(set(groups)) == count:
        return head.leave_one_out(support)
    scores = torch.full((count, ways), -torch.inf, dtype=torch.float64)
    place = {name: index for index, name in enumerate(dict.fromkeys(groups))}
    group = torch.tensor([place[name] for name in groups])
    for index in range(len(place)):
        _score(head, support, group == index, scores)
    return scores


def balanced_scores(head: Head, support: Support, groups: Sequence[object] | None = None) -> Tensor:
    """Scores of every support photo under the head without it and without one photo of each other class.

    Classes of more than ten photos leave out a tenth. A photo (or group) that is all its class has is never left
    out as a rival; its own row is scored without it alone.

    Args:
        head: any head.
        support: S photos.
        groups: `S` names (folder, burst, ...); photos of one group are left out together.

    Returns:
        `[S, K]`; -inf for a class that has no photo outside.

    Raises:
        InvalidInput: there is not one group name a photo.
    """
    fold = _folds(support.membership, groups)
    alone = fold < 0
    if alone.any():
        scores = left_out_scores(head, support, groups).double()
        scores[~alone] = -torch.inf
    else:
        scores = torch.full(support.membership.shape, -torch.inf, dtype=torch.float64)
    for index in range(int(fold.max()) + 1):
        _score(head, support, fold == index, scores)
    return scores


def _folds(membership: Tensor, groups: Sequence[object] | None) -> Tensor:
    """In which fold each photo is left out, long `[S]`; -1 for one that is never."""
    count = len(membership)
    names = list(range(count)) if groups is None else list(groups)
    if len(names) != count:
        raise InvalidInput(f"groups has {len(names)} names for {count} support photos.")
    shots = membership.sum(0)
    home = torch.where(membership, shots, count + 1).argmin(1).tolist()  # the rarest class of each photo
    units: dict[int, dict[object, int]] = {}
    home_of_group = {name: home[row] for row, name in reversed(list(enumerate(names)))}
    for name in names:
        members = units.setdefault(home_of_group[name], {})
        members.setdefault(name, len(members))
    most = min(MOST_FOLDS, max((len(members) for members in units.values()), default=0))
    fold = [
        -1 if len(units[home_of_group[name]]) == 1 else units[home_of_group[name]][name] % most
        for name in names
    ]
    return torch.tensor(fold)


def _score(head: Head, support: Support, inside: Tensor, scores: Tensor) -> None:
    """Score the photos `inside` under the head that has read the others, into their rows of `scores`."""
    kept = support.membership[~inside].any(0)
    if not kept.any() or not inside.any():
        return
    rows = inside.nonzero()[:, 0]
    conditioned = head.condition(support.rows((~inside).nonzero()[:, 0]))
    part = conditioned.scores(support.features.rows(rows)).to(scores.dtype)
    scores[rows[:, None], kept.nonzero()[:, 0]] = part

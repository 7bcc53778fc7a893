"""Training-free dense matching: where in a query are the patches that look like a class's supports?

Nearest neighbours of patch tokens, weighted by how likely each support patch is foreground. The margin
"nearest foreground against nearest background" is the reverse matching of Matcher (Liu et al., ICLR 2024) and
INSID3 as a number; weights and the soft maximum make it work with labels alone and with any number of shots.
The method is ours; no paper defines it.

Letters: Q query patches, S support patches of all images, N classes, D width, k neighbours.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fewsight.errors import InvalidInput
from fewsight.shapes import check_shapes

__all__ = [
    "centred_directions",
    "cycle_consistency",
    "foreground_margin",
    "log_weight",
    "nearest_weighted",
    "neighbours_for",
    "neighbours_of_prior",
    "presence_score",
    "smooth_margins",
    "soft_maximum",
    "weighted_means",
]

WEIGHT_FLOOR = 1e-6
"""A patch that is surely not of a kind still counts as this: the logarithm stays finite."""

CHUNK = 2048
"""Support patches, and query patches, that are compared at a time: similarities never take over 16 MiB."""


def foreground_margin(
    query: Tensor,
    support: Tensor,
    prior: Tensor,
    support_class: Tensor,
    *,
    num_classes: int,
    neighbours: int = 10,
    temperature: float = 0.07,
) -> Tensor:
    """How much nearer each query patch is to a class's foreground than to any background, [N, Q].

    With similarity s and weights w a set X answers τ·(logsumexp over T of z/τ - log|T|), z = s + τ·log max(w,
    1e-6), T = its min(k, |X|) largest z. The margin is that of the class's own patches with w = prior, minus
    that of all support patches with w = 1 - prior. The count in the logarithm keeps classes with more shots or
    larger objects from being more likely.

    Args:
        query: raw patch tokens, [Q, D]; centring by the mean of all support patches and unit length are done here.
        support: raw patch tokens, [S, D].
        prior: how likely each support patch is foreground, in [0, 1], [S].
        support_class: 0..N-1, [S]; every class has a patch.
        num_classes: N.
        neighbours: k.
        temperature: τ, positive; in units of cosine.

    Raises:
        InvalidInput: shapes do not fit, a value is out of range, or a class has no patch.
    """
    _check(query, support, prior, support_class, num_classes)
    if neighbours < 1:
        raise InvalidInput(f"neighbours is {neighbours}; expected at least 1.")
    if not 0 < temperature < math.inf:
        raise InvalidInput(f"temperature is {temperature}; expected a positive number.")
    q, s = centred_directions(query, support)
    foreground, background = log_weight(prior, temperature), log_weight(1 - prior, temperature)
    against = soft_maximum(q, s, background, neighbours=neighbours, temperature=temperature)
    margins = []
    for way in range(num_classes):
        own = (support_class == way).nonzero().flatten()
        nearest = soft_maximum(q, s[own], foreground[own], neighbours=neighbours, temperature=temperature)
        margins.append(nearest - against)
    return torch.stack(margins)


def centred_directions(query: Tensor, support: Tensor) -> tuple[Tensor, Tensor]:
    """Both minus the mean of the support patches, at unit length (floor 1e-12).

    The mean is that of the supports alone, so queries do not influence one another. It removes the direction
    common to all patches, which makes all cosines high.
    """
    mean = support.mean(0)
    return F.normalize(query - mean, dim=-1, eps=1e-12), F.normalize(support - mean, dim=-1, eps=1e-12)


def log_weight(weight: Tensor, temperature: float) -> Tensor:
    """τ·log of a weight in [0, 1], bounded below by the floor."""
    return temperature * weight.clamp(min=WEIGHT_FLOOR).log()


def soft_maximum(
    query: Tensor, bank: Tensor, log_weight: Tensor, *, neighbours: int, temperature: float
) -> Tensor:
    """τ·(logsumexp of the k best z/τ - log k) of each query patch against one bank, [Q], in bounded memory."""
    k = min(neighbours, len(bank))
    answers = []
    for some in query.split(CHUNK):
        best: Tensor | None = None
        for vectors, weights in zip(bank.split(CHUNK), log_weight.split(CHUNK), strict=True):
            z = some @ vectors.T + weights.to(some.dtype)
            z = z.topk(min(k, z.shape[1]), dim=1, sorted=False).values
            if best is not None:
                both = torch.cat([best, z], dim=1)
                z = both.topk(min(k, both.shape[1]), dim=1, sorted=False).values
            best = z
        assert best is not None
        answers.append(temperature * ((best / temperature).logsumexp(1) - math.log(k)))
    return torch.cat(answers)


def weighted_means(patches: Tensor, weights: Tensor) -> Tensor:
    """Unit vectors of weighted means: [T, D], [N, T] -> [N, D]; a row without any weight takes the plain mean."""
    check_shapes(patches=(patches, "T D"), weights=(weights, "N T"))
    total = weights.sum(1, keepdim=True)
    weights = torch.where(total > 0, weights, 1)
    return F.normalize((weights @ patches) / weights.sum(1, keepdim=True), dim=1, eps=1e-12)


def neighbours_for(prior: Tensor, support_class: Tensor, *, num_classes: int, most: int = 10) -> int:
    """k that suits the smallest foreground: half of its patches, at least 1, at most `most`.

    On coarse grids ten neighbours reach beyond a small object, and the rest is background at a high price.

    Args:
        prior: [S] in [0, 1].
        support_class: 0..N-1, [S].
    """
    check_shapes(prior=(prior, "S"), support_class=(support_class, "S"))
    sums = torch.zeros(num_classes, dtype=torch.float64).index_add_(
        0, support_class.cpu(), prior.double().cpu()
    )
    return min(most, max(1, int(float(sums.min()) // 2)))


def neighbours_of_prior(prior: Tensor, membership: Tensor) -> int:
    """`neighbours_for` of priors [S, N, P] and bool [S, N]; classes without an image do not count."""
    image, way = membership.nonzero(as_tuple=True)
    totals = torch.zeros(membership.shape[1], dtype=torch.float64).index_add_(
        0, way.cpu(), prior[image, way].sum(1).double().cpu()
    )
    totals = totals[membership.any(0).cpu()]
    return neighbours_for(totals, torch.arange(len(totals)), num_classes=len(totals))


def nearest_weighted(query: Tensor, bank: Tensor, log_weight: Tensor) -> Tensor:
    """Index of the bank vector with the largest cosine + log weight, for each query vector, [Q].

    Args:
        query: unit vectors, [Q, D].
        bank: unit vectors, [S, D].
        log_weight: τ·log of each bank vector's weight, [S].
    """
    check_shapes(query=(query, "Q D"), bank=(bank, "S D"), log_weight=(log_weight, "S"))
    best = query.new_full((len(query),), -torch.inf)
    index = torch.zeros(len(query), dtype=torch.int64, device=query.device)
    for at in range(0, len(bank), CHUNK):
        value, place = (query @ bank[at : at + CHUNK].T + log_weight[at : at + CHUNK]).max(1)
        index = torch.where(value > best, place + at, index)
        best = torch.maximum(value, best)
    return index


def presence_score(margin: Tensor, *, fraction: float = 0.02) -> Tensor:
    """Mean of the ceil(fraction · Q), at least 1, largest margins of each class: [N, Q] -> [N].

    Raises:
        InvalidInput: not two axes, no patch, or a fraction outside (0, 1].

    >>> presence_score(torch.tensor([[0.0, 1.0, 3.0]]), fraction=0.5)
    tensor([2.])
    """
    sizes = check_shapes(margin=(margin, "N Q"))
    if not 0 < fraction <= 1:
        raise InvalidInput(f"fraction is {fraction}; expected a number in (0, 1].")
    if sizes["Q"] == 0:
        raise InvalidInput("margin has no query patches; expected at least one.")
    # The product can exceed a whole number by one rounding: 0.07 · 100 is 7.000000000000001.
    count = min(sizes["Q"], max(1, math.ceil(fraction * sizes["Q"] - 1e-9)))
    return margin.topk(count, dim=1).values.mean(1)


def cycle_consistency(
    query: Tensor, support: Tensor, prior: Tensor, support_class: Tensor, *, num_classes: int
) -> Tensor:
    """Share of each class's foreground that finds its way back from the query, [N] in [0, 1].

    Support patch -> best query patch -> best support patch of all: counted where the last is foreground (prior
    at least 0.5) of the same class; weighted by prior; ties go to the lowest index; 0 for a class without any
    prior. Arguments as in `foreground_margin`.
    """
    _check(query, support, prior, support_class, num_classes)
    q, s = centred_directions(query, support)
    forth = torch.empty(len(s), dtype=torch.int64, device=s.device)
    back = torch.zeros(len(q), dtype=torch.int64, device=s.device)
    nearest = q.new_full((len(q),), -torch.inf)
    for at in range(0, len(s), CHUNK):
        similarity = s[at : at + CHUNK] @ q.T
        forth[at : at + CHUNK] = similarity.argmax(1)
        value, index = similarity.max(0)
        closer = value > nearest
        nearest = torch.where(closer, value, nearest)
        back = torch.where(closer, index + at, back)
    home = back[forth]
    returned = (support_class[home] == support_class) & (prior[home] >= 0.5)
    sums = prior.new_zeros(2, num_classes)
    sums.index_add_(1, support_class.long(), torch.stack([prior * returned, prior]))
    return torch.where(sums[1] > 0, sums[0] / sums[1].clamp(min=torch.finfo(prior.dtype).tiny), 0).to(
        query.dtype
    )


def smooth_margins(margin: Tensor, patches: Tensor, *, threshold: float = 0.2) -> Tensor:
    """Half of each margin from like patches of the same query: (m + A m) / 2, [N, Q].

    A is row-normalised max(0, cosine - threshold). Give patches centred by the mean of the supports: with a
    strong common direction A is nearly uniform otherwise, and the map is lost.

    Args:
        margin: [N, Q].
        patches: of the query, unit vectors, [Q, D].
    """
    check_shapes(margin=(margin, "N Q"), patches=(patches, "Q D"))
    smoothed = []
    for some in patches.split(CHUNK):
        affinity = (some @ patches.T - threshold).clamp(min=0)
        total = affinity.sum(1).clamp(min=torch.finfo(affinity.dtype).tiny)
        smoothed.append((margin @ affinity.T) / total)
    return (margin + torch.cat(smoothed, dim=1)) / 2


def _check(query: Tensor, support: Tensor, prior: Tensor, support_class: Tensor, num_classes: int) -> None:
    check_shapes(
        query=(query, "Q D"), support=(support, "S D"), prior=(prior, "S"), support_class=(support_class, "S")
    )
    if not ((prior >= 0) & (prior <= 1)).all():
        raise InvalidInput("prior holds values outside [0, 1]; expected the foreground share of each patch.")
    if num_classes < 1 or support_class.is_floating_point():
        raise InvalidInput(f"num_classes is {num_classes}, support_class has dtype {support_class.dtype}.")
    if ((support_class < 0) | (support_class >= num_classes)).any():
        raise InvalidInput(f"support_class holds a value outside 0 to {num_classes - 1}.")
    absent = (torch.bincount(support_class.flatten().cpu(), minlength=num_classes) == 0).nonzero().flatten()
    if len(absent):
        raise InvalidInput(
            f"support_class has no patch of class {int(absent[0])}; every class needs a support."
        )

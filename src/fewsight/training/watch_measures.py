"""Measures that tell a collapsed run from a healthy one, as pure functions of what an objective shows.

    loss            against that of a network that tells nothing apart: ln K, or ln(2B - 1) for SimCLR
    targets         mean entropy of the teacher's assignments (ln K: all the same even mix), and entropy of their mean
                    (near 0: one prototype takes all)
    prototypes      how many prototypes win at least one row
    features        sqrt(D) times the deviation of unit-length features (about 1, 0 when collapsed), mean cosine
    rank            RankMe, also of centred features: a large common offset hides the rest

Sources: Caron et al., DINO (ICCV 2021), section 5.3 (entropy and divergence); Chen and He, SimSiam (CVPR 2021),
section 4.1 (deviation); Garrido et al., RankMe (ICML 2023). The bounds are ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from fewsight.evaluation.geometry import average_cosine, feature_std, rankme

__all__ = ["Finding", "feature_measures", "findings", "target_measures"]

# Shares at which a measure is a finding.
LOSS_MARGIN = 0.01  # of ln K
UNIFORM = 0.99  # of ln K, mean entropy of the targets
DOMINANT = 0.3  # of ln K, entropy of the mean target
FEW_PROTOTYPES = 0.1  # of those that could have won
DIVERGENCE = 1e-3  # nats between teacher and student
DEVIATION = 0.1  # of a healthy one
RANK = 0.05  # of min(n, D)
FALLEN = 0.5  # of its value at the start of the run


@dataclass(frozen=True)
class Finding:
    """One bad sign.

    Attributes:
        kind: `loss`, `targets`, `prototypes`, `features` or `rank`; different kinds are independent witnesses.
        sentence: what was found, with its value, and the likeliest cause.
    """

    kind: str
    sentence: str


@torch.no_grad()
def target_measures(
    watched: Mapping[str, Tensor], mean: Tensor | None, winners: Tensor | None
) -> dict[str, float]:
    """Measures of assignments and loss, for those of `Objective.watched` that are there.

    Args:
        watched: of the last batch.
        mean: `[K]`, mean assignment over as many rows as there are prototypes, or more; None without prototypes.
        winners: int `[R]`, the winning prototype of those rows.
    """
    found: dict[str, float] = {}
    if "loss" in watched and "collapsed_loss" in watched:
        found["loss"], found["collapsed_loss"] = float(watched["loss"]), float(watched["collapsed_loss"])
    if mean is not None and winners is not None:
        found["target_entropy"] = float(watched["target_entropy"])
        found["mean_target_entropy"] = float(torch.special.entr(mean.double()).sum())
        found["divergence"] = found["loss"] - found["target_entropy"]
        found["prototypes_used"] = float(len(torch.unique(winners)))
        found["prototypes_possible"] = float(min(len(mean), len(winners)))
    return found


@torch.no_grad()
def feature_measures(features: Tensor) -> dict[str, float]:
    """Deviation, mean cosine and ranks of features `[n, D]`; nothing for fewer than 2 rows or values not finite.

    >>> sorted(feature_measures(torch.eye(4)))
    ['deviation', 'mean_cosine', 'rank_limit', 'rankme', 'rankme_centred']
    """
    rows = features.detach().float().cpu()
    n, D = rows.shape
    if n < 2 or not torch.isfinite(rows).all():
        return {}
    centred = rows - rows.mean(0)
    constant = not bool(centred.abs().max() > 1e-6 * rows.abs().max())
    return {
        "deviation": 0.0 if constant else float(feature_std(rows)) * math.sqrt(D),
        "mean_cosine": float(average_cosine(rows)),
        "rankme": float(rankme(rows)),
        "rankme_centred": 1.0 if constant else float(rankme(centred)),
        "rank_limit": float(min(n - 1, D)),
    }


def findings(
    measures: Mapping[str, float], first: Mapping[str, float], *, warmed_up: bool
) -> tuple[Finding, ...]:
    """The bad signs among measures.

    Args:
        first: the same measures at the start of the run: random networks have nearly constant features too, so
            features must also have fallen since.
        warmed_up: whether temperatures are what they will stay; before that a loss at ln K is no sign.
    """
    found: list[Finding] = []
    if warmed_up:
        found += [*_loss(measures), *_targets(measures), *_prototypes(measures)]
    return (*found, *_features(measures, first))


def _loss(measures: Mapping[str, float]) -> list[Finding]:
    if "collapsed_loss" not in measures:
        return []
    loss, chance = measures["loss"], measures["collapsed_loss"]
    if loss >= chance * (1 - LOSS_MARGIN):
        cause = (
            "the targets say nothing (uniform collapse): lower the teacher temperature or the learning rate"
            if "target_entropy" in measures
            else "photos are not told apart: lower the learning rate or lengthen the warm-up"
        )
        return [
            Finding(
                "loss",
                f"the loss is {loss:.3f}, that of a network that knows nothing is {chance:.3f}; {cause}",
            )
        ]
    if measures.get("divergence", math.inf) < DIVERGENCE:
        gap = measures["divergence"]
        return [
            Finding(
                "loss",
                f"student and teacher agree to {gap:.1e} nats, so nothing is left to learn: a low loss is no good news",
            )
        ]
    return []


def _targets(measures: Mapping[str, float]) -> list[Finding]:
    if "target_entropy" not in measures:
        return []
    limit = measures["collapsed_loss"]
    if measures["target_entropy"] > UNIFORM * limit:
        return [
            Finding(
                "targets",
                f"every photo is assigned the same even mix of prototypes (entropy {measures['target_entropy']:.3f} of "
                f"{limit:.3f}): uniform collapse; lower the teacher temperature",
            )
        ]
    if measures["mean_target_entropy"] < DOMINANT * limit:
        return [
            Finding(
                "targets",
                f"few prototypes take nearly all photos (entropy of the mean {measures['mean_target_entropy']:.3f} of "
                f"{limit:.3f}): dominance; use centring or Sinkhorn (ME-MAX beside either), or a faster centre",
            )
        ]
    return []


def _prototypes(measures: Mapping[str, float]) -> list[Finding]:
    if "prototypes_used" not in measures:
        return []
    used, possible = measures["prototypes_used"], measures["prototypes_possible"]
    if used >= FEW_PROTOTYPES * possible and used > 1:
        return []
    return [
        Finding(
            "prototypes",
            f"{used:.0f} of {possible:.0f} prototypes that could win do; use centring or Sinkhorn (ME-MAX beside "
            "either), or fewer prototypes",
        )
    ]


def _features(measures: Mapping[str, float], first: Mapping[str, float]) -> list[Finding]:
    found = []
    deviation = measures.get("deviation", math.inf)
    if deviation < min(DEVIATION, FALLEN * first.get("deviation", math.inf)):
        found.append(
            Finding(
                "features",
                f"photos have nearly the same features (deviation {deviation:.3f} of 1, mean cosine "
                f"{measures['mean_cosine']:.3f}); lower the learning rate",
            )
        )
    rank, limit = measures.get("rankme_centred", math.inf), measures.get("rank_limit", 1.0)
    if rank < max(RANK * limit, 1.5) and rank < FALLEN * first.get("rankme_centred", math.inf):
        found.append(
            Finding(
                "rank",
                f"features use {rank:.1f} of {limit:.0f} directions (RankMe, centred): dimensional collapse",
            )
        )
    return found

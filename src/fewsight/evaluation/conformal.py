"""Sets of labels with a promised coverage: split conformal prediction, jackknife+, full conformal prediction.

LAC sets of Sadinle, Lei, Wasserman 2019; APS of Romano, Sesia, Candes 2020; jackknife+ of Barber et al. 2021 in the
form for labels; full conformal prediction (Vovk, Gammerman, Shafer 2005) around nearest means, whose leave-one-out
scores are closed.

Exchangeable rows are the only assumption; the promise is an average over the draw of support and query, not one for
each support. Letters: n calibration rows, Q queries, S supports, K classes.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from fewsight.errors import InvalidInput
from fewsight.heads.head import membership_from_labels
from fewsight.heads.prototypes import Metric, leave_one_out_similarities, similarities
from fewsight.heads.vectors import check_labels, class_sums, real
from fewsight.shapes import check_shapes

__all__ = [
    "check_probabilities",
    "check_rows",
    "conformal_rank",
    "conformal_sets",
    "conformal_threshold",
    "full_conformal_p_values",
    "jackknife_plus_sets",
]

ROUNDING = 1e-9  # (n + 1)(1 - alpha) is meant exactly: 10 (1 - 0.7) is 3, not 3.0000000000000004
CHUNK = 2**22  # numbers that full conformal prediction holds at once


def conformal_rank(count: int, alpha: float) -> int | None:
    """Which of `count` calibration scores, in ascending order from 1, bounds a new one with probability 1 - alpha.

    None where there are too few: fewer than ceil(1 / alpha) - 1.

    >>> conformal_rank(9, 0.1), conformal_rank(8, 0.1)
    (9, None)
    """
    rank = max(1, math.ceil((count + 1) * (1 - alpha) - ROUNDING))
    return rank if rank <= count else None


def conformal_threshold(
    calibration: Tensor,
    labels: Tensor,
    *,
    alpha: float,
    score: Literal["lac", "aps"] = "lac",
    per_class: bool = False,
) -> Tensor:
    """The largest non-conformity that a label may have to be in the set (split conformal prediction).

    `lac`: 1 - p_y, smallest sets on average, possibly empty. `aps`: probabilities added up in descending order, down
    to and including y; no randomisation.

    Args:
        calibration: probabilities `[n, K]` of rows that the model has not seen.
        labels: column indices `[n]`.
        alpha: allowed share of sets without the true label, in (0, 1).
        score: which non-conformity.
        per_class: a threshold for each class from its own rows.

    Returns:
        `[]`, or `[K]` where `per_class`; +inf where there are too few rows, so that every set is full.

    Raises:
        InvalidInput: shapes or ranges are wrong.
    """
    check_rows(calibration, labels, "calibration")
    _check_share(alpha)
    scores = _nonconformity(calibration, score, "calibration").gather(1, labels[:, None])[:, 0]
    if not per_class:
        return _bound(scores, alpha)
    return torch.stack([_bound(scores[labels == k], alpha) for k in range(calibration.shape[1])])


def conformal_sets(
    probabilities: Tensor, threshold: Tensor, *, score: Literal["lac", "aps"] = "lac"
) -> Tensor:
    """The labels whose non-conformity is at most `threshold`.

    Args:
        probabilities: `[Q, K]`.
        threshold: `[]` or `[K]`, from `conformal_threshold` with the same `score`.
        score: which non-conformity.

    Returns:
        bool `[Q, K]`.

    Raises:
        InvalidInput: shapes or ranges are wrong.
    """
    threshold = torch.as_tensor(threshold, device=probabilities.device)
    sizes = check_shapes(probabilities=(probabilities, "Q K"))
    if threshold.shape not in ((), (sizes["K"],)):
        raise InvalidInput(f"threshold has shape {list(threshold.shape)}; expected [] or [{sizes['K']}].")
    return _nonconformity(probabilities, score, "probabilities") <= threshold


def _nonconformity(probabilities: Tensor, score: str, name: str) -> Tensor:
    if score not in ("lac", "aps"):
        raise InvalidInput(f"score is {score!r}; expected 'lac' or 'aps'.")
    check_probabilities(probabilities, name)
    if score == "lac":
        return 1 - probabilities.detach()
    ordered, order = probabilities.detach().sort(dim=1, descending=True, stable=True)
    return torch.empty_like(ordered).scatter_(1, order, ordered.cumsum(1))


def _bound(scores: Tensor, alpha: float) -> Tensor:
    rank = conformal_rank(len(scores), alpha)
    return scores.new_full((), math.inf) if rank is None else scores.sort().values[rank - 1]


def jackknife_plus_sets(left_out_scores: Tensor, candidate_scores: Tensor, *, alpha: float) -> Tensor:
    """Sets from leave-one-out models (Barber et al. 2021, section 2; in the form for labels).

    A label stays while fewer than (1 - alpha)(n + 1) of the left-out rows conform better than it does under the same
    model. Coverage is at least 1 - 2 alpha, in practice about 1 - alpha.

    Args:
        left_out_scores: non-conformity `[n]` of row i under the model without row i.
        candidate_scores: non-conformity `[n, Q, K]` of query q with label k under that same model.
        alpha: allowed share of sets without the true label, in (0, 1).

    Returns:
        bool `[Q, K]`.

    Raises:
        InvalidInput: shapes or ranges are wrong, or a score is NaN.
    """
    sizes = check_shapes(left_out_scores=(left_out_scores, "n"), candidate_scores=(candidate_scores, "n Q K"))
    _check_share(alpha)
    for name, scores in (("left_out_scores", left_out_scores), ("candidate_scores", candidate_scores)):
        if scores.isnan().any():
            raise InvalidInput(f"{name} holds NaN; expected numbers.")
    better = (left_out_scores[:, None, None] < candidate_scores).sum(0)  # [Q, K]
    return better < (1 - alpha) * (sizes["n"] + 1) - ROUNDING


def full_conformal_p_values(
    features: Tensor, labels: Tensor, queries: Tensor, *, metric: Metric = "cosine", scale: float = 1.0
) -> Tensor:
    """How well each label fits each query: full conformal prediction around nearest means.

    For each candidate label the query joins the support, every row is scored by the means of all others, and p is the
    share of the S + 1 rows that fit no better than the query. The non-conformity is the best other logit minus the own
    one (minus the own one where there is one class). `p > alpha` holds for the true label with probability at least
    1 - alpha over the draw of support and query.

    Args:
        features: supports `[S, D]`.
        labels: class ids `[S]`, integers with any gaps.
        queries: `[Q, D]`.
        metric: `cosine` or `euclidean`, as in `leave_one_out_logits`.
        scale: factor on the logits, positive; it changes no p-value.

    Returns:
        `[Q, K]` in [1 / (S + 1), 1]; columns are the sorted distinct labels.

    Raises:
        InvalidInput: shapes or ranges are wrong.

    Adding a query to class k changes the mean of k alone, so every logit follows from products with the class sums:
    O(Q (S K + S D)) instead of O(Q K S K D).
    """
    check_shapes(features=(features, "S D"), labels=(labels, "S"), queries=(queries, "Q D"))
    check_labels(labels, features)
    if not 0 < scale < math.inf:
        raise InvalidInput(f"scale is {scale}; expected a positive finite number.")
    if metric not in ("euclidean", "cosine"):
        raise InvalidInput(f"metric is {metric!r}; expected 'euclidean' or 'cosine'.")
    dtype = real(features, "features").dtype
    supports, queries = features.detach().double(), real(queries, "queries").detach().double()
    if metric == "euclidean":
        supports, queries = supports - supports.mean(0), queries - supports.mean(0)
    membership = membership_from_labels(labels)
    rows = max(1, CHUNK // membership.numel())
    chunks = [_p_values(supports, membership, part, metric) for part in torch.split(queries, rows)]
    return torch.cat(chunks).to(dtype) if chunks else queries.new_zeros(0, membership.shape[1], dtype=dtype)


def _p_values(supports: Tensor, membership: Tensor, queries: Tensor, metric: Metric) -> Tensor:
    S, K = membership.shape
    own = membership.long().argmax(1)  # [S]
    sums, shots = class_sums(supports, membership), membership.sum(0)
    square, cross = supports.square().sum(-1), queries @ supports.T  # [S], [Q, S]
    query_square = queries.square().sum(-1, keepdim=True)  # [Q, 1]
    base = leave_one_out_similarities(supports, membership, metric)  # [S, K]

    # support s against (sum of class k + query) / (n_k + 1)
    product = ((supports @ sums.T) + cross[:, :, None]) / (shots + 1)  # [Q, S, K]
    length = (sums.square().sum(-1) + 2 * queries @ sums.T + query_square) / (shots + 1).square()  # [Q, K]
    joined = _from_products(square[:, None], product, length[:, None, :], metric)  # [Q, S, K]

    # support s against the rest of its own class and the query
    rest, count = sums[own] - supports, shots[own]  # [S, D], [S]
    product = ((supports * rest).sum(-1) + cross) / count  # [Q, S]
    length = (rest.square().sum(-1) + 2 * queries @ rest.T + query_square) / count.square()
    own_joined = _from_products(square, product, length, metric)  # [Q, S]

    apart = best_other(base.masked_fill(membership, -math.inf))  # [S, K]
    rival = torch.where(membership, apart, torch.maximum(apart, joined))  # [Q, S, K]
    own_logit = torch.where(membership, own_joined[:, :, None], base.gather(1, own[:, None]))
    plain = similarities(queries, sums / shots[:, None], metric)  # [Q, K]
    scores, score = -own_logit, -plain
    if K > 1:
        scores, score = rival + scores, best_other(plain) + score
    tolerance = 1e-11 * (
        1 + plain.abs().amax(1, keepdim=True)
    )  # equal scores reached by another order of sums
    fits_no_better = (scores >= (score - tolerance)[:, None, :]).sum(1)
    return (fits_no_better + 1).double() / (S + 1)


def best_other(logits: Tensor) -> Tensor:
    """For each column the largest of the other columns, `[N, K]`; -inf where there is no other."""
    if logits.shape[1] == 1:
        return torch.full_like(logits, -math.inf)
    values, places = logits.topk(2, dim=1)
    is_best = places[:, :1] == torch.arange(logits.shape[1], device=logits.device)
    return torch.where(is_best, values[:, 1:], values[:, :1])


def _from_products(square: Tensor, product: Tensor, length: Tensor, metric: Metric) -> Tensor:
    """Similarity of x and m from |x|^2, x.m and |m|^2."""
    if metric == "euclidean":
        return -(square - 2 * product + length).clamp_min(0)
    scale = (square * length.clamp_min(0)).sqrt()
    return torch.where(scale > 0, product / torch.where(scale > 0, scale, 1), 0)


def check_rows(rows: Tensor, labels: Tensor, name: str) -> None:
    """Rows `[N, K]` without NaN and +inf, and column indices `[N]`.

    Raises:
        InvalidInput: they are not.
    """
    sizes = check_shapes(**{name: (rows, "N K"), "labels": (labels, "N")})
    real(rows, name)
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise InvalidInput(f"labels has dtype {labels.dtype}; expected column indices.")
    if sizes["N"] and not (labels.min() >= 0 and labels.max() < sizes["K"]):
        raise InvalidInput(
            f"labels run from {labels.min()} to {labels.max()}; expected columns 0 to {sizes['K'] - 1}."
        )
    if rows.isnan().any() or (rows == math.inf).any():
        raise InvalidInput(f"{name} holds NaN or +inf; expected finite numbers.")


def check_probabilities(probabilities: Tensor, name: str) -> None:
    """Values in [0, 1], to rounding.

    Raises:
        InvalidInput: they are not.
    """
    if probabilities.numel() and not (probabilities.min() >= -1e-6 and probabilities.max() <= 1 + 1e-6):
        raise InvalidInput(
            f"{name} run from {probabilities.min():.4g} to {probabilities.max():.4g}; expected values in [0, 1]."
        )


def _check_share(alpha: float) -> None:
    if not 0 < alpha < 1:
        raise InvalidInput(f"alpha is {alpha}; expected a share in (0, 1).")

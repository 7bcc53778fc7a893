"""Soft assignments to prototypes and the means against collapse, shared by all clustering objectives.

A clustering objective can collapse in two ways: every assignment becomes uniform (prevented by a low teacher
temperature), or one prototype wins everything (prevented by one of the means here).

    none        p = softmax(t / temperature)
    centring    p = softmax((t - c) / temperature), c a moving mean of the teacher's logits   (DINO)
    sinkhorn    rows sum to 1, prototypes share the batch equally                             (SwAV, DINOv2)
    me_max      added to the loss: ln K - H(mean student distribution)                        (MSN)
    koleo       added to the loss: -mean ln(distance to the nearest neighbour)                (DINOv2)

Under `torch.distributed` sums and counts run over the global batch, so that ranks give what one process would.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fewsight.distributed import (
    all_reduce_max,
    all_reduce_sum,
    gather,
    is_distributed,
    rows_before,
    world_size,
)
from fewsight.errors import InvalidInput
from fewsight.objectives.blocks import at_least_float32, full_precision, row_blocks
from fewsight.objectives.ranges import check_choice, check_positive, check_within
from fewsight.shapes import check_shapes

__all__ = [
    "AssignmentMethod",
    "assign",
    "assign_patches",
    "distinct_rows",
    "koleo",
    "me_max",
    "mean_entropy_gap",
    "sinkhorn",
    "update_center",
]

AssignmentMethod = Literal["none", "centring", "sinkhorn"]


@torch.no_grad()
def assign(
    scores: Tensor,
    method: AssignmentMethod,
    temperature: float,
    center: Tensor | None = None,
    iterations: int = 3,
) -> Tensor:
    """Teacher logits -> distributions over prototypes; without gradient.

    Args:
        scores: teacher logits `[..., K]`, any magnitude; all leading axes are rows of one batch.
        method: `none`, `centring` (needs `center`) or `sinkhorn`.
        temperature: above 0; divides after the centre is subtracted.
        center: `[K]`, for `centring` only: centring and Sinkhorn together would be redundant.
        iterations: of Sinkhorn.

    Returns:
        `[..., K]`, rows sum to 1; float32 for 16-bit scores.

    Raises:
        InvalidInput: unknown method, a centre that is missing or not wanted, wrong shapes or ranges.

    >>> assign(torch.zeros(2, 4), "centring", 0.04, center=torch.zeros(4))[0]
    tensor([0.2500, 0.2500, 0.2500, 0.2500])
    """
    check_choice(("none", "centring", "sinkhorn"), method=method)
    check_positive(temperature=temperature)
    if (center is not None) != (method == "centring"):
        raise InvalidInput(
            f"center is {'given' if center is not None else 'missing'} with method {method!r}; "
            "expected a center [K] with 'centring' and with nothing else."
        )
    if method == "sinkhorn":
        check_shapes(scores=(scores, "... K"))
        return sinkhorn(scores.flatten(0, -2), temperature, iterations).view(scores.shape)
    scores = at_least_float32(scores)
    if center is not None:
        check_shapes(scores=(scores, "... K"), center=(center, "K"))
        # One pass: (scores - center) / temperature.
        shift = center.to(scores.dtype) / -temperature
        return torch.softmax(torch.add(shift, scores, alpha=1 / temperature), dim=-1)
    return torch.softmax(scores / temperature, dim=-1)


@torch.no_grad()
def assign_patches(
    scores: Tensor,
    method: AssignmentMethod,
    temperature: float,
    center: Tensor | None = None,
    iterations: int = 3,
) -> Tensor:
    """`assign` for patch tokens: Sinkhorn balances each position over the images of the batch.

    Balanced over all patches at once, prototypes come to stand for positions in place of contents.

    Source: Darcet et al., CAPI (2025), for the balance per position.

    Args:
        scores: teacher logits `[..., N, P]`, N positions; otherwise as in `assign`.

    Returns:
        `[..., N, P]`, rows sum to 1; without gradient.
    """
    if method != "sinkhorn":
        return assign(scores, method, temperature, center, iterations)
    check_shapes(scores=(scores, "... N P"))
    positions = [
        assign(scores[..., position, :], method, temperature, center, iterations)
        for position in range(scores.shape[-2])
    ]
    return torch.stack(positions, dim=-2)


@torch.no_grad()
def sinkhorn(scores: Tensor, temperature: float, iterations: int) -> Tensor:
    """Assignments with equal shares for all prototypes, by alternating normalisation; without gradient.

    `Q = exp(scores / temperature)`; each iteration scales columns to sum 1/K, then rows to sum 1/B; rows are
    last, so they sum to 1 exactly and columns do approximately. A converged assignment has `p <= B/K`: with
    fewer samples than prototypes the targets are flat. B counts the rows of all ranks, each of which must make
    the same number of calls; a rank without rows takes part.

    Source: Caron et al., SwAV (NeurIPS 2020), section 3.1; Cuturi (NeurIPS 2013).
    Differs from the authors' code: that form overflows float32 where `scores / temperature` exceeds 88. Here
    the matrix is kept as `r E c` and only the scaling vectors r, c are iterated: `E = exp(x - reference)`, where
    sums underflow or overflow `exp(x - row maximum)`, and where they still do, the iteration on logarithms. All
    finite scores are legal, and -inf for a share of 0.

    Args:
        scores: `[B, K]`; logits, or log-probabilities with temperature 1 (MSN).
        temperature: above 0.
        iterations: 1 or more.

    Returns:
        `[B, K]`, rows sum to 1; float32 for 16-bit scores. Peak memory: the result and one block.

    Raises:
        InvalidInput: no rows, wrong shapes or ranges.

    >>> sinkhorn(torch.eye(2), 0.1, 3)
    tensor([[9.9995e-01, 4.5398e-05],
            [4.5398e-05, 9.9995e-01]])
    """
    sizes = check_shapes(scores=(scores, "B K"))
    check_positive(temperature=temperature)
    if iterations < 1:
        raise InvalidInput(f"iterations is {iterations}; expected 1 or more.")
    if sizes["K"] < 1 or (sizes["B"] < 1 and not is_distributed()):
        raise InvalidInput(
            f"scores has shape {list(scores.shape)}; expected at least one row and one column."
        )
    scores = at_least_float32(scores)
    # A term that underflows is below tiny times the largest factor, so it is then no more than a rounding error of
    # the sum it is missing from.
    bound = torch.finfo(scores.dtype).tiny / torch.finfo(scores.dtype).eps
    with full_precision(scores):
        for own_scale in (False, True):
            result, smallest = _scaling_sinkhorn(scores, temperature, iterations, own_scale)
            # Every rank goes the same way; NaN is no number that suffices.
            if bool(-all_reduce_max(-smallest) >= bound):
                return result
            del result
    return _log_sinkhorn(scores, temperature, iterations)


def _scaling_sinkhorn(
    scores: Tensor, temperature: float, iterations: int, own_scale: bool
) -> tuple[Tensor, Tensor]:
    """The result and the smallest sum met, as a share of its largest factor; 1/K and 1/B cancel at the last row step.

    Args:
        own_scale: give each row a scale of its own, which takes three passes more but any range of scores.
    """
    B, K = scores.shape
    blocks = list(row_blocks(B, K, scores.device))
    E, columns = (_exponentials if own_scale else _exponentials_of_one_scale)(scores, temperature, blocks)
    smallest = columns.new_tensor(math.inf)
    sums, largest = columns.new_empty(B), columns.new_ones(())
    for iteration in range(iterations):
        columns = all_reduce_sum(columns)
        # Overflow counts as underflow: 0 * inf is NaN, and NaN passes through to the end.
        smallest = torch.minimum(smallest, columns.amin() / largest + 0 * columns.amax())
        c = columns.reciprocal()
        columns = torch.zeros_like(c)
        for rows in blocks:
            r = torch.mv(E[rows], c, out=sums[rows]).reciprocal()
            if iteration < iterations - 1:
                columns.addmv_(E[rows].T, r)
            else:
                E[rows].mul_(c).mul_(r[:, None])
        if B:
            smallest = torch.minimum(smallest, sums.amin() / c.amax() + 0 * sums.amax())
            largest = sums.amin().reciprocal()
    return E, smallest


def _exponentials_of_one_scale(
    scores: Tensor, temperature: float, blocks: list[slice]
) -> tuple[Tensor, Tensor]:
    """`E = exp(x - reference)` for the largest x of the first rows, and its column sums."""
    E = torch.empty_like(scores, memory_format=torch.contiguous_format)
    columns = scores.new_zeros(scores.shape[1])
    few = scores[:8]  # any value near the largest serves; what is too far off is seen from the sums
    reference = all_reduce_max(few.amax() if len(few) else scores.new_tensor(-math.inf)) / -temperature
    ones = scores.new_ones(len(scores))
    for rows in blocks:
        block = torch.add(reference, scores[rows], alpha=1 / temperature, out=E[rows]).exp_()
        columns.addmv_(block.T, ones[rows])
    return E, columns


def _exponentials(scores: Tensor, temperature: float, blocks: list[slice]) -> tuple[Tensor, Tensor]:
    """`E = exp(x - row maximum)`, and the column sums of `exp(x - reference)` for the largest x of all ranks."""
    E = torch.empty_like(scores, memory_format=torch.contiguous_format)
    columns, reference = scores.new_zeros(scores.shape[1]), scores.new_tensor(-math.inf)
    for rows in blocks:
        block = torch.mul(scores[rows], 1 / temperature, out=E[rows])
        highest = block.amax(dim=1)
        block.sub_(highest[:, None]).exp_()
        # What was summed under a lower reference is brought to the new one.
        raised = torch.maximum(reference, highest.amax())
        columns.mul_(torch.exp(reference - raised))
        columns.addmv_(block.T, torch.exp(highest - raised))
        reference = raised
    # Rows keep their own scale in the first column step, so all ranks need one reference.
    return E, columns.mul_(torch.exp(reference - all_reduce_max(reference)))


def _log_sinkhorn(scores: Tensor, temperature: float, iterations: int) -> Tensor:
    """The same on logarithms: slower, one more copy, finite for all scores."""
    log_q = scores / temperature
    for _ in range(iterations):
        shares = _global_logsumexp(log_q)
        # A prototype without any mass stays at 0 in place of 0/0.
        log_q = log_q - torch.where(shares.isinf(), 0, shares)
        log_q = log_q - log_q.logsumexp(dim=1, keepdim=True)
    return log_q.exp_()


def _global_logsumexp(values: Tensor) -> Tensor:
    """Log-sum-exp over the rows of all ranks, `[K]`."""
    top = torch.cat([values, values.new_full((1, values.shape[1]), -math.inf)]).amax(dim=0)
    top = torch.nan_to_num(all_reduce_max(top), nan=math.nan, neginf=0.0)
    return all_reduce_sum((values - top).exp_().sum(dim=0)).log() + top


@torch.no_grad()
def update_center(center: Tensor, teacher: Tensor, momentum: float) -> Tensor:
    """The centre after a step: `momentum * center + (1 - momentum) * mean of teacher logits`.

    The mean runs over all leading axes and all ranks, weighted by their numbers of rows. Call it once per
    optimiser step, after the loss: the loss of a step uses the centre from before it.

    Source: Caron et al., DINO (ICCV 2021), equation 4.

    Args:
        center: `[K]`; not changed.
        teacher: logits `[..., K]`, all teacher views of the step.
        momentum: from 0 to 1.

    Returns:
        `[K]` in the dtype of `center`.

    >>> update_center(torch.zeros(2), torch.tensor([[1.0, 2.0], [3.0, 4.0]]), 0.5)
    tensor([1.0000, 1.5000])
    """
    sizes = check_shapes(center=(center, "K"), teacher=(teacher, "... K"))
    check_within(0, 1, momentum=momentum)
    total = at_least_float32(teacher).reshape(-1, sizes["K"]).sum(dim=0)
    count = all_reduce_sum(total.new_tensor([teacher.numel() / sizes["K"]]))
    if not is_distributed() and not teacher.numel():
        raise InvalidInput(f"teacher has shape {list(teacher.shape)}; expected at least one row.")
    mean = (all_reduce_sum(total) / count).to(center.dtype)
    return center * momentum + mean * (1 - momentum)


def me_max(probabilities: Tensor) -> Tensor:
    """Mean-entropy maximisation: `ln K - H(mean distribution)`, in [0, ln K]; carries gradient.

    0 when the mean of all rows (of all views and ranks) is uniform, ln K when it sits on one prototype. N rows
    that each sit on one prototype cannot go below `ln(K/N)`.

    Source: Assran et al., MSN (ECCV 2022), section 3.
    Differs from the authors' code: an exact zero of the mean counts 0 and has a finite gradient.

    Args:
        probabilities: `[N, K]`, the student's distributions.

    >>> me_max(torch.eye(4)).item()
    0.0
    """
    sizes = check_shapes(probabilities=(probabilities, "N K"))
    if sizes["N"] < 1 and not is_distributed():
        raise InvalidInput("probabilities has no rows; expected [N, K] with N >= 1.")
    total = at_least_float32(probabilities).sum(dim=0)
    return mean_entropy_gap(total, sizes["N"])


def mean_entropy_gap(total: Tensor, count: int) -> Tensor:
    """`ln K - H(total / count)` of a sum of distributions `[K]`, summed over ranks first."""
    if is_distributed():
        mean = all_reduce_sum(total) / all_reduce_sum(total.detach().new_tensor([float(count)]))
    else:
        mean = total / count
    floor = torch.finfo(mean.dtype).tiny
    return math.log(len(mean)) + torch.sum(mean * mean.clamp(min=floor).log())


def koleo(features: Tensor) -> Tensor:
    """Kozachenko-Leonenko regulariser: `-mean ln(distance of each row to its nearest neighbour)`.

    Rows are normalised inside; the index of the neighbour carries no gradient, the neighbour's features do.
    Nothing is capped: exact duplicates give gradients of order 1e8, so callers keep one of each. The neighbour
    is sought among the rows of all ranks. 0 for a single row, which has no neighbour.

    Source: Oquab et al., DINOv2 (TMLR 2024), section 4; Sablayrolles et al. (ICLR 2019).
    Differs from the authors' code: the search never returns the row itself (their diagonal of -1 ties with an
    exactly opposite vector), and ranks are searched together.

    Args:
        features: `[B, D]`, class tokens before the head; one view of each image.

    >>> round(koleo(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])).item(), 4)
    -0.6931
    """
    sizes = check_shapes(features=(features, "B D"))
    with full_precision(features):
        own = F.normalize(at_least_float32(features), dim=-1, eps=1e-8)
        everyone = gather(own)
        if len(everyone) < 2 or not sizes["B"]:
            return own.sum() * 0
        neighbours = everyone[_nearest(own.detach(), everyone.detach(), rows_before(own))]
        distances = torch.linalg.vector_norm(own - neighbours + 1e-8, dim=-1)
        return -torch.log(distances + 1e-8).sum() * world_size() / len(everyone)


@torch.no_grad()
def distinct_rows(features: Tensor, distance: float = 1e-4) -> Tensor:
    """Indices of rows that lie no nearer than `distance` to an earlier row, as unit vectors.

    Repeated images would give `koleo` gradients of order 1e8: give it `features[distinct_rows(features)]`.

    >>> distinct_rows(torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]]))
    tensor([0, 1])
    """
    check_shapes(features=(features, "B D"))
    check_within(0, 2, distance=distance)
    # float32 cannot tell a cosine of 1 - distance^2 / 2 from 1.
    units = F.normalize(features.double(), dim=-1, eps=1e-8)
    kept = []
    for rows in row_blocks(len(units), len(units), units.device):
        near = units[rows] @ units.T > 1 - distance**2 / 2
        kept.append(~near.tril(diagonal=rows.start - 1).any(dim=1))
    return torch.cat(kept).nonzero()[:, 0] if kept else torch.zeros(0, dtype=torch.int64)


def _nearest(queries: Tensor, keys: Tensor, first: int) -> Tensor:
    """Index of the most similar key of each query, itself (key `first` + row) left out."""
    found = []
    for rows in row_blocks(len(queries), len(keys), queries.device):
        similarity = queries[rows] @ keys.T
        local = torch.arange(len(similarity), device=queries.device)
        similarity[local, local + rows.start + first] = -torch.inf
        found.append(similarity.argmax(dim=1))
    return torch.cat(found)

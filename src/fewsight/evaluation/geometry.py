"""The geometry of a feature space: how isotropic it is, of what rank, how its classes lie.

No measure looks at pairs one by one. Those of cosines follow from sums over classes, those of the spectrum from the
scatter matrix, uniformity from blocks of the Gram matrix. Features are `[N, D]`, labels integers `[N]`; each measure
gives a scalar of the dtype of the features and NaN where it is undefined (fewer than two rows, no pair of the kind,
no variance). `u` is a row at unit length, `lambda` the eigenvalues of the covariance, `sigma` singular values.

Average cosine and IsoScore answer different questions: the first looks at directions from the origin and mostly
measures the mean vector, the second at the spectrum around the mean. Report both.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from fewsight.errors import InvalidInput
from fewsight.evaluation import geometry_sums
from fewsight.evaluation.feature_sums import ClassSums, Scatter, check_features, unit_blocks, unit_rows
from fewsight.shapes import check_shapes

__all__ = [
    "AssignmentEntropies",
    "alignment",
    "assignment_entropies",
    "average_cosine",
    "class_separation",
    "effective_rank",
    "feature_std",
    "inter_class_cosine",
    "intra_class_cosine",
    "isoscore",
    "isoscore_star",
    "lidar",
    "nc1",
    "participation_ratio",
    "partition_isotropy",
    "rankme",
    "spectrum_exponent",
    "uniformity",
]


def _scalar(value: Tensor | float, like: Tensor) -> Tensor:
    """A scalar of the features' dtype, float32 for half types."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    return torch.as_tensor(value, dtype=torch.float64, device=like.device).to(dtype)


def average_cosine(features: Tensor) -> Tensor:
    """Mean cosine of two different rows (Ethayarajh 2019); 0 for directions spread evenly, 1 for a narrow cone.

    >>> average_cosine(torch.eye(3))
    tensor(0.)
    """
    check_features(features)
    return _scalar(geometry_sums.average_cosine(ClassSums.of(features, unit=True)), features)


def intra_class_cosine(features: Tensor, labels: Tensor) -> Tensor:
    """Mean cosine of two different rows of one class, over all such pairs."""
    check_features(features, labels)
    return _scalar(geometry_sums.intra_class_cosine(ClassSums.of(features, labels, unit=True)), features)


def inter_class_cosine(features: Tensor, labels: Tensor) -> Tensor:
    """Mean cosine of two rows of different classes, over all such pairs."""
    check_features(features, labels)
    return _scalar(geometry_sums.inter_class_cosine(ClassSums.of(features, labels, unit=True)), features)


def partition_isotropy(features: Tensor, log: bool = False) -> Tensor:
    """Smallest over largest partition function (Mu and Viswanath 2018), in (0, 1].

    F(c) = sum_i exp(c.x_i) over the eigenvectors c of X^T X and their negatives. Not free of scale: in large features
    it underflows, and the logarithm (`log=True`) still says something.

    Differs from the paper: an eigenvector's sign is arbitrary and F(c) is not F(-c), so both are taken.
    """
    N, D = check_features(features)
    if D > N:
        vectors = torch.linalg.svd(features.double(), full_matrices=False).Vh.T  # [D, N]
    else:
        vectors = torch.linalg.eigh(_second_moments(features, torch.float64)).eigenvectors
    totals = torch.full((2, vectors.shape[1]), -torch.inf, dtype=torch.float64, device=features.device)
    for block in torch.split(features, 1024):
        along = block.double() @ vectors
        totals = torch.logaddexp(totals, torch.stack([along.logsumexp(0), (-along).logsumexp(0)]))
    smallest, largest = totals.min(), totals.max()
    if D > N:  # the directions that no row has: F = N
        smallest, largest = smallest.clamp(max=math.log(N)), largest.clamp(min=math.log(N))
    isotropy = smallest - largest
    return _scalar(isotropy if log else isotropy.exp(), features)


def participation_ratio(features: Tensor, *, product_dtype: torch.dtype | None = None) -> Tensor:
    """(sum lambda)^2 / sum lambda^2: how many directions share the variance, from 1 to min(N - 1, D).

    Args:
        features: `[N, D]`.
        product_dtype: dtype of the products in the scatter matrix, for instance bfloat16 for speed.
    """
    return _scalar(_participation_ratio(features, product_dtype), features)


def _participation_ratio(features: Tensor, product_dtype: torch.dtype | None = None) -> Tensor:
    N, D = check_features(features)
    if N >= D:
        return geometry_sums.participation_ratio(Scatter.of(features, product_dtype=product_dtype))
    centred = _centred(features)
    if centred is None:
        return geometry_sums.NAN
    gram = centred @ centred.T  # [N, N]: the same eigenvalues in fewer numbers
    return (gram.trace() / torch.linalg.vector_norm(gram)).square()


def _centred(features: Tensor) -> Tensor | None:
    """Features less their mean in float64; None where there is no variance. For small sets only."""
    features = features.double()
    centred = features - features.mean(0)
    constant = centred.abs().max() <= 1e-12 * features.abs().max().clamp(min=1)
    return None if len(features) < 2 or constant else centred


def isoscore(features: Tensor, *, product_dtype: torch.dtype | None = None) -> Tensor:
    """IsoScore (Rudman et al. 2022): 0 for variance along one line, 1 for white features.

    It equals (participation ratio - 1) / (D - 1), so no eigenvalue is computed. NaN for D = 1. Small samples score low:
    N white rows of width D reach about (N - 2) / (N + D).
    """
    ratio = _participation_ratio(features, product_dtype)
    return _scalar(geometry_sums.isoscore(ratio, features.shape[1]), features)


def isoscore_star(features: Tensor, shrinkage: float, target: Tensor | None = None) -> Tensor:
    """IsoScore* (Rudman and Eickhoff 2024): IsoScore of the covariance shrunk towards a target. Differentiable.

    Args:
        features: `[N, D]`.
        shrinkage: weight of the target in [0, 1].
        target: covariance `[D, D]` of a large sample; None for the identity (then the score depends on scale).
    """
    N, D = check_features(features)
    if not 0 <= shrinkage <= 1:
        raise InvalidInput(f"shrinkage is {shrinkage}; expected a number from 0 to 1.")
    if target is not None:
        check_shapes(features=(features, "N D"), target=(target, "D D"))
    if N < 2 or D < 2:
        return _scalar(math.nan, features)
    centred = features.double() - features.double().mean(0)
    covariance = centred.T @ centred / (N - 1)
    aim = torch.eye(D, dtype=torch.float64, device=features.device) if target is None else target.double()
    mixed = (1 - shrinkage) * covariance + shrinkage * aim
    ratio = mixed.trace().square() / mixed.square().sum()
    return _scalar((ratio - 1) / (D - 1), features)


def effective_rank(features: Tensor) -> Tensor:
    """exp of the entropy of the singular values of the centred features (Roy and Vetterli 2007)."""
    N, D = check_features(features)
    if _small(N, D):
        centred = _centred(features)
        sigma = None if centred is None else torch.linalg.svdvals(centred)
    else:
        scatter = Scatter.of(features)
        sigma = None if scatter.constant else geometry_sums.roots(scatter.matrix)
    return _scalar(math.nan if sigma is None else geometry_sums.entropy_rank(sigma / sigma.sum()), features)


def rankme(features: Tensor, epsilon: float = 1e-7) -> Tensor:
    """RankMe (Garrido et al. 2023): exp of the entropy of the singular values of the raw features.

    p = sigma / sum sigma + epsilon over min(N, D) singular values, not normalised again. NaN for zero features.
    The features are not centred: a large mean vector counts as one direction and hides the rest.
    """
    N, D = check_features(features)
    sigma = (
        torch.linalg.svdvals(features.double())
        if _small(N, D)
        else geometry_sums.roots(_second_moments(features))
    )
    return _scalar(geometry_sums.entropy_rank(sigma / sigma.sum() + epsilon), features)


def _second_moments(features: Tensor, product_dtype: torch.dtype | None = None) -> Tensor:
    """X^T X in float64, made in the place of the scatter matrix."""
    scatter = Scatter.of(features, product_dtype=product_dtype)
    return scatter.matrix.addr_(scatter.mean, scatter.mean, alpha=scatter.num_rows)


def _small(N: int, D: int) -> bool:
    """Whether singular values are taken directly: the root of an eigenvalue is good to 1e-7 only."""
    return N <= D or N * D <= 2**18


def spectrum_exponent(features: Tensor, first: int, last: int) -> Tensor:
    """alpha of the power law lambda_j ~ j^-alpha (Stringer et al. 2019; alpha-ReQ, Agrawal et al. 2022).

    Weighted least squares of log lambda_j on log j with weights 1 / j, j = first..last, counted from 1, both included.

    Raises:
        InvalidInput: the range is empty or reaches beyond min(N - 1, D) eigenvalues.
    """
    N, D = check_features(features)
    if not 1 <= first < last <= min(N - 1, D):
        raise InvalidInput(
            f"first is {first} and last is {last}; expected 1 <= first < last <= {min(N - 1, D)}, the number of "
            f"eigenvalues of {N} rows of width {D}."
        )
    if _small(N, D):
        centred = _centred(features)
        if centred is None:
            return _scalar(math.nan, features)
        variances = torch.linalg.svdvals(centred).square()
    else:
        variances = torch.linalg.eigvalsh(Scatter.of(features).matrix).flip(0)
    if not variances[last - 1] > 0:
        return _scalar(math.nan, features)
    rank = torch.arange(first, last + 1, dtype=torch.float64, device=features.device)
    weights, x, y = 1 / rank, rank.log(), variances[first - 1 : last].log()
    x_mean, y_mean = ((weights * value).sum() / weights.sum() for value in (x, y))
    slope = (weights * (x - x_mean) * (y - y_mean)).sum() / (weights * (x - x_mean).square()).sum()
    return _scalar(-slope, features)


def uniformity(features: Tensor, t: float = 2) -> Tensor:
    """log of the mean over pairs of exp(-t ||u_i - u_j||^2) (Wang and Isola 2020); smaller = more uniform."""
    N, _ = check_features(features)
    total = torch.tensor(-torch.inf, dtype=torch.float64, device=features.device)
    wide = torch.promote_types(features.dtype, torch.float32)
    for rows, block in unit_blocks(features):
        for others, other in unit_blocks(features[: rows.stop]):  # only j <= i
            exponent = (-t * _squared_distances(block.to(wide), other.to(wide))).double()
            if others.start == rows.start:
                below = torch.ones_like(exponent, dtype=torch.bool).tril(-1)
                exponent = exponent.masked_fill(~below, -torch.inf)
            total = torch.logaddexp(total, exponent.flatten().logsumexp(0))
    return _scalar(total - math.log(N * (N - 1) / 2) if N > 1 else math.nan, features)


def _squared_distances(left: Tensor, right: Tensor) -> Tensor:
    """Squared distances `[n, m]` of unit or zero rows."""
    lengths = left.square().sum(1)[:, None] + right.square().sum(1)
    return (lengths - 2 * left @ right.T).clamp_(min=0)


def alignment(features: Tensor, labels: Tensor, a: float = 2) -> Tensor:
    """Mean over pairs of one class of ||u_i - u_j||^a (Wang and Isola 2020); 0 where classes are points."""
    check_features(features, labels)
    sums = ClassSums.of(features, labels, unit=True)
    if a == 2:
        return _scalar(geometry_sums.alignment(sums), features)
    pairs = (sums.counts * (sums.counts - 1)).sum()
    if not pairs:
        return _scalar(math.nan, features)
    total = torch.zeros_like(pairs)
    order = torch.argsort(labels)
    for members in torch.split(order, sums.counts.long().tolist()):
        unit = unit_rows(features[members].double())
        for block in torch.split(unit, 1024):
            total += _squared_distances(block, unit).pow(a / 2).sum()
    # A row's distance to itself is 0 up to rounding, so all ordered pairs may be summed.
    return _scalar(total / pairs, features)


def class_separation(features: Tensor, labels: Tensor) -> Tensor:
    """R^2 = 1 - within / total cosine distance, classes weighing alike, a row's pair with itself included.

    Kornblith et al. 2021, "Why do better loss functions lead to less transferable features?". Few rows a class make
    it too high: with one row a class it is 1.
    """
    check_features(features, labels)
    return _scalar(geometry_sums.class_separation(ClassSums.of(features, labels, unit=True)), features)


def nc1(features: Tensor, labels: Tensor) -> Tensor:
    """tr(Sigma_W Sigma_B^+) / K: spread within classes against that of the class means (Papyan et al. 2020).

    0 where classes are points, and for one row a class by construction. The mean of the class means weighs classes
    alike; eigenvalues of Sigma_B below 1e-10 of the largest are dropped.
    """
    N, _ = check_features(features, labels)
    sums = ClassSums.of(features, labels, unit=False)
    found = geometry_sums.between_basis(sums, features.abs().max())
    if found is None:
        return _scalar(math.nan, features)
    means, basis = found
    columns = torch.searchsorted(sums.classes, labels)
    total = torch.zeros((), dtype=torch.float64, device=features.device)
    for rows in torch.split(torch.arange(N, device=features.device), 1024):
        total += ((features[rows].double() - means[columns[rows]]) @ basis).square().sum()
    return _scalar(total / (N * len(means)), features)


def feature_std(features: Tensor) -> Tensor:
    """Mean over dimensions of the standard deviation of unit-length features; about 1/sqrt(D), 0 when collapsed."""
    N, _ = check_features(features)
    if N < 2:
        return _scalar(math.nan, features)
    mean = ClassSums.of(features, unit=True).sums[0] / N
    squares = torch.zeros_like(mean)
    for _, block in unit_blocks(features):
        squares += (block - mean).square().sum(0)
    return _scalar((squares / (N - 1)).sqrt().mean(), features)


def lidar(features: Tensor, delta: float = 1e-4, epsilon: float = 1e-8) -> Tensor:
    """LiDAR (Thilak et al. 2024): exp of the entropy of the eigenvalues of Sw^-1/2 Sb Sw^-1/2.

    Args:
        features: `[n, q, D]`, q views of n objects.
        delta: added to the diagonal of the covariance within objects.
        epsilon: added to each share of the eigenvalues.
    """
    n, q, D = check_shapes(features=(features, "n q D")).values()
    if n < 2 or q < 2:
        raise InvalidInput(
            f"features have shape {list(features.shape)}; expected 2 objects and 2 views at least."
        )
    views = features.double()
    means = views.mean(1)
    between = means - means.mean(0)
    within = (views - means[:, None]).flatten(0, 1)
    identity = torch.eye(D, dtype=torch.float64, device=features.device)
    values, vectors = torch.linalg.eigh(within.T @ within / (n * (q - 1)) + delta * identity)
    whitened = between @ vectors / values.sqrt()  # [n, D]
    variances = torch.linalg.svdvals(whitened).square()  # those beyond min(n, D) are 0
    shares = variances / variances.sum()
    padding = shares.new_zeros(D - len(shares))
    return _scalar(geometry_sums.entropy_rank(torch.cat([shares, padding]) + epsilon), features)


class AssignmentEntropies(NamedTuple):
    """Entropies of soft assignments in nats: of their mean (high = all clusters used), and their mean (low = sure)."""

    entropy_of_mean: Tensor
    mean_entropy: Tensor


def assignment_entropies(p: Tensor) -> AssignmentEntropies:
    """Entropies of assignments `[B, K]`, rows sum to 1; 0 log 0 = 0.

    >>> assignment_entropies(torch.eye(2))
    AssignmentEntropies(entropy_of_mean=tensor(0.6931), mean_entropy=tensor(0.))
    """
    check_shapes(p=(p, "B K"))
    wide = p.to(torch.promote_types(p.dtype, torch.float32))
    return AssignmentEntropies(torch.special.entr(wide.mean(0)).sum(), torch.special.entr(wide).sum(1).mean())

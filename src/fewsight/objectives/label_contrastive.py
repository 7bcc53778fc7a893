"""Label-aware contrastive loss: every other view of the same class is a positive.

Prannay Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020 (arXiv 2004.11362), equations 2 and 3; used to
adapt vision transformers by Zijun Long et al., "LaCViT: A Label-aware Contrastive Training Framework for Vision
Transformers", ICASSP 2024 (arXiv 2303.18013). With M vectors z (all views), s_ij = z_i.z_j / temperature,
P(i) the other vectors of the class of i and A(i) all vectors but i:

    L_out,i = lse_{A(i)}(s_i) - mean_{p in P(i)} s_ip
    L_in,i  = lse_{A(i)}(s_i) - lse_{P(i)}(s_i) + log |P(i)|
    loss    = temperature / base_temperature * mean over anchors

Hard negatives (Joshua Robinson et al., ICLR 2021, arXiv 2010.04592, tau_plus = 0) replace the sum over A(i) by

    sum_{p in P(i)} e^{s_ip} + |N(i)| sum_{n in N(i)} e^{(1 + beta) s_in} / sum_{n in N(i)} e^{beta s_in}

Value and gradient come from one sweep over blocks of anchors; no M x M matrix exists. The positives of L_out need
sums over classes alone.

On several processes every rank holds its own images; all are gathered into one contrast set, and the mean of the ranks'
losses is the loss of one process. The authors' code contrasts each GPU's images with one another only.

Differs from the authors' code: the vector itself is left out before the maximum is taken (theirs underflows to NaN for
vectors that are not of unit length); anchors without a positive leave the mean unless `singletons="zero"`.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from fewsight.distributed import gather, global_rows, rows_before
from fewsight.errors import InvalidInput
from fewsight.shapes import check_shapes

__all__ = ["AnchorLosses", "anchor_losses", "label_contrastive_loss"]

# A block of similarities of about this size stays in a core's second-level cache.
BLOCK_BYTES = 2 * 2**20


def label_contrastive_loss(
    features: Tensor,
    labels: Tensor | None,
    *,
    temperature: float = 0.1,
    base_temperature: float | None = None,
    variant: Literal["out", "in"] = "out",
    anchors: Literal["all", "first"] = "all",
    singletons: Literal["skip", "zero"] = "skip",
    hard_negative_beta: float = 0.0,
    normalize: bool = False,
    gradient_dtype: torch.dtype | None = None,
) -> Tensor:
    """The loss of V views of N images (Khosla et al. 2020, equations 2 and 3).

    Args:
        features: `[N, V, D]`, usually of unit length; half types are raised to float32.
        labels: class ids `[N]`, or None: every image is its own class (SimCLR with V views).
        temperature: divides the dot products, above 0.
        base_temperature: multiplies the loss by temperature / base_temperature; None for 1.
        variant: `out` averages the positives outside the logarithm (published), `in` inside.
        anchors: every view is an anchor, or the first of each image.
        singletons: anchors without a positive leave the mean, or count in it with loss 0 (the authors' code).
        hard_negative_beta: weight of hard negatives, at least 0; 0 weighs all alike.
        normalize: bring the vectors to unit length first.
        gradient_dtype: dtype of the two products that make the gradient, for instance bfloat16; the loss itself
            stays exact. None for that of the features.

    Returns:
        A scalar, 0 with zero gradient where no anchor has a positive. Differentiable once.

    Raises:
        InvalidInput: a shape, a range or a word is wrong.

    >>> views = torch.eye(3).repeat_interleave(2, 0).view(3, 2, 3)
    >>> label_contrastive_loss(views, torch.tensor([0, 1, 2]), temperature=1.0)
    tensor(0.9048)
    """
    N, V, D = check_shapes(features=(features, "N V D")).values()
    _check_settings(features, temperature, base_temperature, hard_negative_beta)
    for name, word, words in (
        ("variant", variant, ("out", "in")),
        ("anchors", anchors, ("all", "first")),
        ("singletons", singletons, ("skip", "zero")),
    ):
        if word not in words:
            raise InvalidInput(f"{name} is {word!r}; expected {words[0]!r} or {words[1]!r}.")
    own = features.reshape(N * V, D).to(torch.promote_types(features.dtype, torch.float32))
    own = F.normalize(own, dim=1, eps=1e-12) if normalize else own
    classes = _classes(labels, features).repeat_interleave(V)  # [N V], image after image
    step = V if anchors == "first" else 1
    losses = anchor_losses(
        gather(own),
        gather(classes),
        rows_before(own) + torch.arange(0, N * V, step, device=features.device),
        temperature=temperature,
        variant=variant,
        hard_negative_beta=hard_negative_beta,
        gradient_dtype=gradient_dtype,
    )
    count = global_rows(losses.counted if singletons == "skip" else losses.anchors, features.device)
    factor = 1.0 if base_temperature is None else temperature / base_temperature
    return losses.total * (
        factor / (float(count) or 1.0)
    )  # a number: single precision would round the factor


class AnchorLosses(NamedTuple):
    """The sum of the anchors' losses, how many of them have a positive, and how many there are."""

    total: Tensor
    counted: int
    anchors: int


def anchor_losses(
    vectors: Tensor,
    classes: Tensor,
    anchors: Tensor,
    *,
    temperature: float,
    variant: Literal["out", "in"] = "out",
    hard_negative_beta: float = 0.0,
    gradient_dtype: torch.dtype | None = None,
) -> AnchorLosses:
    """Sum of the losses of some anchors against the whole contrast set.

    On several processes each takes its own rows as anchors against the vectors of all.

    Args:
        vectors: the contrast set `[M, D]`, float32 or float64.
        classes: class ids `[M]`, integers.
        anchors: rows `[A]` of the vectors that are anchors.
        temperature, variant, hard_negative_beta, gradient_dtype: as in `label_contrastive_loss`.
    """
    check_shapes(vectors=(vectors, "M D"), classes=(classes, "M"), anchors=(anchors, "A"))
    inverse, sizes = torch.unique(classes, return_inverse=True, return_counts=True)[1:]
    counted = anchors[sizes[inverse[anchors]] > 1]
    settings = _Settings(temperature, variant, hard_negative_beta, gradient_dtype or vectors.dtype)
    with torch.autocast(vectors.device.type, enabled=False):
        total = _BlockedLosses.apply(vectors, inverse, sizes, counted, settings)
    return AnchorLosses(total, len(counted), len(anchors))


class _Settings(NamedTuple):
    temperature: float
    variant: str
    beta: float
    gradient_dtype: torch.dtype


class _BlockedLosses(torch.autograd.Function):
    """Sum of the anchors' losses; the gradient is made beside the value, block by block, and kept."""

    @staticmethod
    def forward(
        ctx: Any, vectors: Tensor, classes: Tensor, sizes: Tensor, anchors: Tensor, settings: _Settings
    ) -> Tensor:
        wanted = ctx.needs_input_grad[0]
        gradient = torch.zeros_like(vectors)
        narrow = vectors.to(settings.gradient_dtype)
        total = vectors.new_zeros(())
        for rows in torch.split(anchors, _block_rows(vectors)):
            scores = vectors[rows] @ vectors.T  # [b, M]
            scores.mul_(1 / settings.temperature)
            scores[torch.arange(len(rows), device=rows.device), rows] = -torch.inf
            if settings.variant == "out" and not settings.beta:
                losses, pull = _all_alike(scores)
            else:
                losses, pull = _weighted(scores, classes[rows, None] == classes, settings)
            total += losses.sum()
            if wanted:
                pull = pull.to(narrow.dtype)
                gradient.index_add_(0, rows, (pull @ narrow).to(vectors.dtype))
                gradient += pull.T @ narrow[rows]
        if settings.variant == "out":
            total -= (
                _positives(vectors, classes, sizes, anchors, gradient if wanted else None)
                / settings.temperature
            )
        if wanted:
            ctx.save_for_backward(gradient.div_(settings.temperature))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream, None, None, None, None


def _all_alike(scores: Tensor) -> tuple[Tensor, Tensor]:
    """`lse` over all but the anchor itself `[b]` and its derivative, which overwrites the scores `[b, M]`."""
    top = scores.amax(1, keepdim=True)
    weights = scores.sub_(top).exp_()
    sums = weights.sum(1, keepdim=True)
    return (top + sums.log())[:, 0], weights.div_(sums)


def _weighted(scores: Tensor, same: Tensor, settings: _Settings) -> tuple[Tensor, Tensor]:
    """The general form: losses `[b]` without the positives of L_out, and their derivative in the scores `[b, M]`.

    `same` `[b, M]` marks the class of the anchor, itself included; its own score is -inf.
    """
    beta = settings.beta
    positives = scores.masked_fill(~same, -torch.inf)
    log_positives = torch.logsumexp(positives, 1, keepdim=True)
    if beta:
        negatives = scores.masked_fill(same, -torch.inf)
        # Without negatives the sums are -inf; 0 in their place keeps the differences free of NaN.
        hard = torch.logsumexp((1 + beta) * negatives, 1, keepdim=True)
        soft = torch.logsumexp(beta * negatives, 1, keepdim=True).nan_to_num(neginf=0.0)
        log_negatives = (~same).sum(1, keepdim=True, dtype=scores.dtype).log() + hard - soft
        log_all = torch.logaddexp(log_positives, log_negatives)
        hard = hard.nan_to_num(neginf=0.0)
        tilt = (1 + beta) * ((1 + beta) * negatives - hard).exp() - beta * (beta * negatives - soft).exp()
        pull = (positives - log_all).exp() + (log_negatives - log_all).exp() * tilt
    else:
        log_all = torch.logsumexp(scores, 1, keepdim=True)
        pull = (scores - log_all).exp()
    if settings.variant == "out":
        return log_all[:, 0], pull
    count = same.sum(1, keepdim=True, dtype=scores.dtype) - 1
    return (log_all - log_positives + count.log())[:, 0], pull - (positives - log_positives).exp()


def _positives(
    vectors: Tensor, classes: Tensor, sizes: Tensor, anchors: Tensor, gradient: Tensor | None
) -> Tensor:
    """Sum over anchors of the mean dot product with their positives; its derivative is taken off `gradient`.

    From sums over classes alone: the positives of z_i add up to S - z_i, with S the sum over its class.
    """
    weights = 1 / (sizes - 1).clamp(min=1).to(vectors.dtype)  # [C]
    sums, anchor_sums = (vectors.new_zeros(len(sizes), vectors.shape[1]) for _ in range(2))
    sums.index_add_(0, classes, vectors)
    own, own_classes = vectors[anchors], classes[anchors]
    anchor_sums.index_add_(0, own_classes, own)
    means = (sums[own_classes] - own) * weights[own_classes, None]
    if gradient is not None:
        gradient.index_add_(0, anchors, means, alpha=-1)
        # Vector j is a positive of every anchor of its class but itself.
        gradient.sub_((anchor_sums * weights[:, None])[classes])
        gradient.index_add_(0, anchors, own * weights[own_classes, None])
    return (own * means).sum()


def _block_rows(vectors: Tensor) -> int:
    """Anchors in one block of similarities."""
    rows = BLOCK_BYTES * torch.get_num_threads() // (vectors.element_size() * max(len(vectors), 1))
    return max(64, int(rows)) if vectors.device.type == "cpu" else 2048


def _classes(labels: Tensor | None, features: Tensor) -> Tensor:
    """Class ids `[N]`; without labels every image of all processes is its own class."""
    images, device = len(features), features.device
    if labels is None:
        return rows_before(features) + torch.arange(images, device=device)
    if tuple(labels.shape) != (images,):
        raise InvalidInput(
            f"labels have shape {list(labels.shape)}; expected [{images}], one for each image."
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise InvalidInput(f"labels have dtype {labels.dtype}; expected integer class ids.")
    return labels.to(device)


def _check_settings(
    features: Tensor, temperature: float, base_temperature: float | None, beta: float
) -> None:
    if not features.is_floating_point():
        raise InvalidInput(f"features have dtype {features.dtype}; expected floating-point vectors.")
    if not features.shape[0] or not features.shape[1]:
        raise InvalidInput(
            f"features have shape {list(features.shape)}; expected at least one image and view."
        )
    for name, value in (("temperature", temperature), ("base_temperature", base_temperature)):
        if value is not None and not 0 < value < float("inf"):
            raise InvalidInput(f"{name} is {value}; expected a positive number.")
    if not 0 <= beta < float("inf"):
        raise InvalidInput(f"hard_negative_beta is {beta}; expected a number of at least 0.")

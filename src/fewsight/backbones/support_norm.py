"""Batch norm of episodes: the supports set the moments, for themselves and for the queries.

As in Meta-Dataset (Triantafillou et al. 2020) and CrossTransformers (Doersch et al. 2020): queries never see one
another and supports never see a query. With running moments (CrossTransformers) a test prediction does not depend on
the class balance of the support; without (the other Meta-Dataset learners) it does.

Differs from the authors' code: the variance is taken around the mean. Theirs, E[x^2] - E[x]^2 in single precision, is
wrong by 35 % at mean 1000 and deviation 1. Differs from `nn.BatchNorm2d`: stored variances are biased.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from fewsight.backbones.features import Features
from fewsight.distributed import all_reduce_sum, is_distributed
from fewsight.errors import InvalidInput
from fewsight.shapes import check_shapes

__all__ = [
    "EncodesThroughMoments",
    "HandedMoments",
    "MomentsPass",
    "NormalisedEpisode",
    "SupportBatchNorm",
    "moments",
    "normalise",
    "support_batch_norm",
]


DECAY, EPSILON = 0.9, 1e-5


class NormalisedEpisode(NamedTuple):
    """Supports `[S, C, H, W]`, queries `[Q, C, H, W]`, and the new running moments `[C]`."""

    supports: Tensor
    queries: Tensor
    running_mean: Tensor
    running_var: Tensor


def support_batch_norm(
    supports: Tensor,
    queries: Tensor,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    *,
    training: bool,
    use_running_moments: bool,
    transductive: bool = False,
    backprop_through_moments: bool = True,
    decay: float = DECAY,
    epsilon: float = EPSILON,
) -> NormalisedEpisode:
    """Normalise an episode.

    Args:
        supports: `[S, C, H, W]`, S at least 1 unless running moments serve.
        queries: `[Q, C, H, W]`; the grid may differ.
        weight, bias, running_mean, running_var: `[C]`; none of them is changed.
        training: whether running moments are updated (from the supports) and batch moments serve.
        use_running_moments: at test both sets take the running moments; else the supports' moments.
        transductive: each set takes its own moments.
        backprop_through_moments: False makes the moments constants for the queries; the supports' own
            normalisation keeps its whole gradient.
        decay: running = decay * running + (1 - decay) * batch.
        epsilon: added to the variance.

    Raises:
        InvalidInput: a shape or range is wrong, or moments of no support are asked for.
    """
    check_shapes(
        supports=(supports, "S C H W"),
        queries=(queries, "Q C h w"),
        weight=(weight, "C"),
        bias=(bias, "C"),
        running_mean=(running_mean, "C"),
        running_var=(running_var, "C"),
    )
    if not 0 <= decay <= 1 or not epsilon >= 0:
        raise InvalidInput(f"decay is {decay} and epsilon {epsilon}; expected 0 to 1, and 0 or more.")
    if use_running_moments and not training:
        new_supports, new_queries = (
            normalise(maps, running_mean, running_var, weight, bias, epsilon) for maps in (supports, queries)
        )
        return NormalisedEpisode(new_supports, new_queries, running_mean, running_var)
    if not supports.numel():
        raise InvalidInput("supports are empty: there are no moments to normalise by.")
    mean, var = moments(supports)
    query_mean, query_var = moments(queries) if transductive and queries.numel() else (mean, var)
    if not backprop_through_moments:
        query_mean, query_var = query_mean.detach(), query_var.detach()
    if use_running_moments:
        running_mean = decay * running_mean + (1 - decay) * mean.detach()
        running_var = decay * running_var + (1 - decay) * var.detach()
    return NormalisedEpisode(
        normalise(supports, mean, var, weight, bias, epsilon),
        normalise(queries, query_mean, query_var, weight, bias, epsilon),
        running_mean,
        running_var,
    )


def moments(maps: Tensor, *, over_ranks: bool = False) -> tuple[Tensor, Tensor]:
    """Mean and biased variance `[C]` over images and positions of `[B, C, H, W]`; differentiable.

    Args:
        over_ranks: of the batches of all ranks together. An episode stays on one rank and needs its own.
    """
    if not (over_ranks and is_distributed()):
        var, mean = torch.var_mean(maps, (0, 2, 3), correction=0)
        return mean, var
    count = all_reduce_sum(maps.new_tensor([maps.numel() / maps.shape[1]]))
    mean = all_reduce_sum(maps.sum((0, 2, 3))) / count
    var = all_reduce_sum((maps - mean[:, None, None]).square().sum((0, 2, 3))) / count
    return mean, var


def normalise(
    maps: Tensor, mean: Tensor, var: Tensor, weight: Tensor, bias: Tensor, epsilon: float
) -> Tensor:
    """weight * (maps - mean) / sqrt(var + epsilon) + bias, channel by channel."""
    scale = weight * torch.rsqrt(var + epsilon)
    mean, scale, bias = (vector[:, None, None] for vector in (mean, scale, bias))
    # The mean is taken off first: folded into the bias it would cancel where it is large.
    return (maps - mean) * scale + bias


HandedMoments = dict[nn.Module, Tensor]  # norm -> mean and biased variance, [2, C]


class MomentsPass(NamedTuple):
    """A training pass over supports, which fills `handed` norm by norm, or, with `given`, one that takes them.

    `over_ranks`: the supports of one episode stand on all ranks.
    """

    handed: HandedMoments
    given: bool
    over_ranks: bool = False


@runtime_checkable
class EncodesThroughMoments(Protocol):
    """A network that can hand its supports' moments to the queries, so that these need not stand in one graph."""

    def encode_supports(self, images: Tensor, *, over_ranks: bool = False) -> tuple[Features, HandedMoments]:
        """Features of all supports, and the moments of every norm; activations are computed again in backward."""

    def encode_queries(self, images: Tensor, handed: HandedMoments) -> Features:
        """Features of some queries, normed by moments that were handed out."""


class SupportBatchNorm(nn.Module):
    """`support_batch_norm` over a batch of supports followed by queries; see there."""

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, use_running_moments: bool = True) -> None:
        super().__init__()
        self.use_running_moments = use_running_moments
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, maps: Tensor, num_supports: int | MomentsPass | None = None) -> Tensor:
        """Normalise `[B, C, H, W]`, of which the first `num_supports` (None: all) are supports.

        With a `MomentsPass` all of them are supports that hand out moments, or queries that take them.
        """
        if isinstance(num_supports, MomentsPass):
            return self._through(maps, num_supports)
        supports, queries = maps[:num_supports], maps[len(maps) if num_supports is None else num_supports :]
        result = support_batch_norm(
            supports,
            queries,
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            training=self.training,
            use_running_moments=self.use_running_moments,
        )
        if self.training and self.use_running_moments:
            with torch.no_grad():
                self.running_mean.copy_(result.running_mean)
                self.running_var.copy_(result.running_var)
        return torch.cat([result.supports, result.queries]) if len(queries) else result.supports

    def _through(self, maps: Tensor, episode: MomentsPass) -> Tensor:
        if episode.given:
            mean, var = episode.handed[self]
            return normalise(maps, mean, var, self.weight, self.bias, EPSILON)
        mean, var = moments(maps, over_ranks=episode.over_ranks)
        if self not in episode.handed:  # the backward pass comes here again
            episode.handed[self] = torch.stack([mean, var])
            if self.use_running_moments:
                with torch.no_grad():
                    self.running_mean.copy_(DECAY * self.running_mean + (1 - DECAY) * mean)
                    self.running_var.copy_(DECAY * self.running_var + (1 - DECAY) * var)
        return normalise(maps, mean, var, self.weight, self.bias, EPSILON)

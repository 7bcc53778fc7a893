"""MoCo-v3: contrast of a student's queries with a momentum teacher's keys, without a queue.

Chen, Xie, He: An Empirical Study of Training Self-Supervised Vision Transformers (ICCV 2021), algorithm 1.

    ctr(q, k) = 2 T  mean over i of  [ logsumexp_j (q_i . k_j / T)  -  q_i . k_i / T ],    L = ctr(q1, k2) + ctr(q2, k1)

The factor 2 T makes the gradient's scale independent of the temperature T. Keys come from the whole global
batch and carry no gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewsight.distributed import gather, rows_before, world_size
from fewsight.errors import InvalidInput
from fewsight.objectives.blocks import at_least_float32, full_precision
from fewsight.objectives.info_nce import contrastive_sum, unit_rows
from fewsight.objectives.ranges import check_positive
from fewsight.shapes import check_shapes

__all__ = ["moco_v3_loss"]


def moco_v3_loss(q1: Tensor, q2: Tensor, k1: Tensor, k2: Tensor, temperature: float) -> Tensor:
    """Symmetrised contrastive loss of two views; q1 pairs with k2, q2 with k1.

    Args:
        q1, q2: `[B, D]`, student, projector and predictor; normalised inside.
        k1, k2: `[B, D]`, teacher and projector; no gradient.
        temperature: above 0; published 0.2 for vision transformers, 1 for residual networks.

    Returns:
        Scalar; 0 for a single image, which has no negatives.

    Raises:
        InvalidInput: wrong shapes, no images, temperature not above 0.
    """
    B = check_shapes(q1=(q1, "B D"), q2=(q2, "B D"), k1=(k1, "B D"), k2=(k2, "B D"))["B"]
    check_positive(temperature=temperature)
    if B < 1:
        raise InvalidInput(f"q1 has shape {list(q1.shape)}; expected at least one image.")
    loss = torch.zeros((), dtype=at_least_float32(q1).dtype, device=q1.device)
    positives = rows_before(q1) + torch.arange(B, device=q1.device)
    for queries, keys in ((q1, k2), (q2, k1)):
        with full_precision(q1):
            own = unit_rows(queries)
            every = gather(unit_rows(keys.detach()))
        scale = 2 * temperature * world_size() / len(every)
        loss = loss + contrastive_sum(own, every, positives, temperature) * scale
    return loss

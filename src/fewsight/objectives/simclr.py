"""SimCLR: the normalised temperature-scaled cross-entropy (NT-Xent).

Chen, Kornblith, Norouzi, Hinton: A Simple Framework for Contrastive Learning of Visual Representations
(ICML 2020), equation 1 and algorithm 1. With z the 2B unit rows of both views and S = z z^T / T:

    L = -1/(2B)  sum over i of  [ S_i,pos(i) - logsumexp over j != i of S_ij ]

ln(2B - 1) for a collapsed batch.

Differs from the authors' code: theirs adds the means of the two views, which is 2 L. Ranks are gathered with
gradient, as each row is a query here and a negative elsewhere.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewsight.distributed import gather, rows_before, world_size
from fewsight.errors import InvalidInput
from fewsight.objectives.blocks import full_precision
from fewsight.objectives.info_nce import contrastive_sum, unit_rows
from fewsight.objectives.ranges import check_positive
from fewsight.shapes import check_shapes

__all__ = ["nt_xent"]


def nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """NT-Xent of two views, mean over the 2B anchors.

    Args:
        z1, z2: projections `[B, D]` of the two views of the same images; normalised inside.
        temperature: above 0; published 0.1 (0.5 for small images).

    Returns:
        Scalar. Peak memory: gradients and one block of scores, never 2B x 2B.

    Raises:
        InvalidInput: wrong shapes, no images, temperature not above 0.

    >>> round(nt_xent(torch.ones(4, 2), torch.ones(4, 2), 0.1).item(), 4)  # collapsed: ln 7
    1.9459
    """
    B = check_shapes(z1=(z1, "B D"), z2=(z2, "B D"))["B"]
    check_positive(temperature=temperature)
    if B < 1:
        raise InvalidInput(f"z1 has shape {list(z1.shape)}; expected at least one image.")
    with full_precision(z1):
        queries = torch.cat([unit_rows(z1), unit_rows(z2)])
        keys, first = gather(queries), rows_before(queries)
    local = torch.arange(2 * B, device=z1.device)
    positives = first + (local + B) % (2 * B)
    return (
        contrastive_sum(queries, keys, positives, temperature, itself=first + local)
        * world_size()
        / len(keys)
    )

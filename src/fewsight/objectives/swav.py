"""SwAV: swapped prediction of balanced cluster assignments between views.

Caron, Misra, Mairal, Goyal, Bojanowski, Joulin: Unsupervised Learning of Visual Features by Contrasting Cluster
Assignments (NeurIPS 2020), sections 3.1 to 3.3. Codes of the first views come from Sinkhorn over the batch (and
a queue of past features); each of the other views predicts them.

    L = 1 / (A (V - 1))  sum over i < A, v != i of  mean over images of  H(sinkhorn(scores_i), softmax(scores_v / T))

Differs from the authors' code: Sinkhorn is safe for scores of any magnitude.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fewsight.errors import InvalidInput
from fewsight.objectives.assignments import sinkhorn
from fewsight.objectives.cross_entropy import view_cross_entropy
from fewsight.objectives.ranges import check_positive
from fewsight.shapes import check_shapes

__all__ = ["swav_loss"]


def swav_loss(
    scores: Tensor,
    temperature: float,
    epsilon: float,
    iterations: int,
    assigned: int,
    queue_scores: Tensor | None = None,
) -> Tensor:
    """Swapped prediction loss; codes carry no gradient.

    Args:
        scores: cosines `[V, B, K]` of unit features and unit prototypes, view-major.
        temperature: of the prediction, published 0.1.
        epsilon: temperature of Sinkhorn, published 0.05; 0.03 where the loss stays at ln K.
        iterations: of Sinkhorn, published 3.
        assigned: A, the first views that give codes, published 2.
        queue_scores: `[A, Q, K]` of past features with the present prototypes; they stand before the batch in
            Sinkhorn and are dropped after it. None while the queue is not full.

    Returns:
        Scalar.

    Raises:
        InvalidInput: wrong shapes or ranges, `assigned` outside 1..V, a single view.
    """
    check_positive(temperature=temperature, epsilon=epsilon)
    V, B, _ = check_shapes(scores=(scores, "V B K")).values()
    if not 1 <= assigned <= V or V < 2:
        raise InvalidInput(f"assigned is {assigned} with {V} views; expected 1 to V, and two views or more.")
    codes = scores[:assigned].detach()
    if queue_scores is not None:
        check_shapes(scores=(scores, "V B K"), queue_scores=(queue_scores, f"{assigned} Q K"))
        codes = torch.cat([queue_scores.detach().to(codes.dtype), codes], dim=1)
    # Each view is balanced by itself, not all together.
    targets = torch.stack([sinkhorn(view, epsilon, iterations)[-B:] for view in codes])
    return view_cross_entropy(scores, targets, temperature)

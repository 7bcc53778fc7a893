"""SwAV: the plain loop, the queue, and what is refused."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fewsight.errors import InvalidInput
from fewsight.objectives.assignments import sinkhorn
from fewsight.objectives.swav import swav_loss


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def plain(scores, assigned, queue):
    losses = []
    for i in range(assigned):
        rows = scores[i] if queue is None else torch.cat([queue[i], scores[i]])
        code = sinkhorn(rows, 0.05, 3)[-scores.shape[1] :]
        pairs = [
            -(code * F.log_softmax(scores[v] / 0.1, dim=-1)).sum(dim=-1).mean()
            for v in range(len(scores))
            if v != i
        ]
        losses.append(torch.stack(pairs).mean())
    return torch.stack(losses).mean()


@pytest.mark.parametrize("assigned", [1, 2, 3])
@pytest.mark.parametrize("queue_rows", [0, 11])
def test_equals_the_loop(assigned, queue_rows):
    scores = torch.tanh(random(4, 5, 6))
    queue = torch.tanh(random(assigned, queue_rows, 6, seed=1)) if queue_rows else None
    loss = swav_loss(scores, 0.1, 0.05, 3, assigned, queue_scores=queue)
    torch.testing.assert_close(loss, plain(scores, assigned, queue))


def test_a_queue_lets_few_images_have_sharp_codes():
    # Sinkhorn bounds an assignment by rows / prototypes: 4 / 64 alone, 68 / 64 with the queue.
    unit = F.normalize(random(4, 64), dim=1)
    alone = sinkhorn(unit, 0.02, 50).amax()
    joined = sinkhorn(torch.cat([F.normalize(random(64, 64, seed=1), dim=1), unit]), 0.02, 50)[-4:].amax()
    assert alone < 4 / 64 + 1e-3
    assert joined > 4 * alone


@pytest.mark.parametrize(
    ("shape", "assigned", "queue", "name"),
    [
        ((2, 3, 4), 0, None, "assigned"),
        ((2, 3, 4), 3, None, "assigned"),
        ((1, 3, 4), 1, None, "assigned"),
        ((2, 3, 4), 2, (1, 5, 4), "queue_scores"),
        ((2, 3, 4), 2, (2, 5, 3), "queue_scores"),
    ],
)
def test_refuses(shape, assigned, queue, name):
    queue_scores = None if queue is None else torch.zeros(queue)
    with pytest.raises(InvalidInput, match=name):
        swav_loss(torch.zeros(shape), 0.1, 0.05, 3, assigned, queue_scores=queue_scores)

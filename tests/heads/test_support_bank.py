"""The bank's margins are those of the pure functions, plus the margin of prototypes."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from fewsight.heads.dense_matching import foreground_margin
from fewsight.heads.support_bank import SupportBank

MEMBERSHIP = torch.tensor([[True, False], [False, True], [False, True]])


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def bank_of(prior: torch.Tensor, **settings: object) -> SupportBank:
    return SupportBank.of(
        random(3, 12, 5), prior, MEMBERSHIP, **{"neighbours": 4, "temperature": 0.1, **settings}
    )


def test_margins_are_two_differences() -> None:
    prior = random(3, 2, 12, seed=1).sigmoid()
    bank, query = bank_of(prior), random(2, 3, 4, 5, seed=2)
    support = random(3, 12, 5)
    own = torch.where(MEMBERSHIP[:, :1], prior[:, 0], prior[:, 1])
    classes = torch.tensor([0, 1, 1]).repeat_interleave(12)
    patches = foreground_margin(
        query.flatten(0, 2),
        support.flatten(0, 1),
        own.flatten(),
        classes,
        num_classes=2,
        neighbours=4,
        temperature=0.1,
    )
    prototypes = []
    for weight in (own * MEMBERSHIP[:, :1], own * MEMBERSHIP[:, 1:], 1 - own):
        mean = (support * weight[..., None]).sum((0, 1)) / weight.sum()
        prototypes.append(F.cosine_similarity(query.flatten(0, 2), mean, dim=1))
    expected = patches + torch.stack([prototypes[0] - prototypes[2], prototypes[1] - prototypes[2]])
    torch.testing.assert_close(bank.margins(query).transpose(0, 1).flatten(1), expected)


def test_class_without_an_image_is_never_chosen() -> None:
    prior = torch.full((3, 3, 12), 0.5, dtype=torch.float64)
    membership = F.pad(MEMBERSHIP, (0, 1))
    bank = SupportBank.of(random(3, 12, 5), prior, membership, neighbours=None, temperature=0.1)
    margin = bank.margins(random(2, 3, 4, 5, seed=2))
    assert (margin[:, 2] == -torch.inf).all()
    presence = bank.presence(random(2, 3, 4, 5, seed=2), margin, fraction=0.1)
    assert (presence[:, 2] == -torch.inf).all()
    assert presence[:, :2].isfinite().all()


def test_prior_of_other_classes_does_not_count() -> None:
    prior = random(3, 2, 12, seed=1).sigmoid()
    changed = torch.where(MEMBERSHIP[..., None], prior, 1 - prior)
    query = random(1, 3, 4, 5, seed=2)
    torch.testing.assert_close(bank_of(prior).margins(query), bank_of(changed).margins(query))

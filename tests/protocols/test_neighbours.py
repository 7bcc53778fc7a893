"""k-NN: the vote written out for each test photo, any labels, few photos."""

from __future__ import annotations

import pytest
import torch

from fewsight.errors import InvalidInput
from fewsight.protocols.neighbours import evaluate_neighbours


@pytest.mark.parametrize("k", [1, 5, 20])
def test_equals_the_vote_written_out(k: int) -> None:
    generator = torch.Generator().manual_seed(k)
    labels = torch.tensor([2, 9, 40]).repeat(20)
    centres = {2: 0, 9: 1, 40: 2}
    features = torch.randn(3, 6, generator=generator)[[centres[int(n)] for n in labels]]
    features = features + torch.randn(features.shape, generator=generator)
    train, test = slice(0, 40), slice(40, 60)
    found = evaluate_neighbours(features[train], labels[train], features[test], labels[test], ks=(k,))[k]
    for place, query in enumerate(features[test]):
        cosines = torch.cosine_similarity(query[None], features[train])
        votes = {2: 0.0, 9: 0.0, 40: 0.0}
        for row in cosines.argsort(descending=True)[:k].tolist():
            votes[int(labels[row])] += float((cosines[row] / 0.07).exp())
        assert bool(found[place]) == (max(votes, key=votes.__getitem__) == int(labels[40 + place]))


def test_large_k_is_left_out_and_the_smallest_cut() -> None:
    features, labels = torch.eye(4), torch.tensor([0, 0, 1, 1])
    assert list(evaluate_neighbours(features, labels, features, labels, ks=(2, 4, 5))) == [2, 4]
    assert list(evaluate_neighbours(features, labels, features, labels)) == [4]
    with pytest.raises(InvalidInput, match="0 to be judged"):
        evaluate_neighbours(features, labels, features[:0], labels[:0])
    with pytest.raises(InvalidInput, match="k is 0"):
        evaluate_neighbours(features, labels, features, labels, ks=(0,))

"""The training-free head: what it must find, and changes that must not change it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import Tensor

from fewsight.backbones.features import Features, concatenate
from fewsight.errors import IncompatibleModel, InvalidInput
from fewsight.heads.correspondence import ConditionedCorrespondence, Correspondence
from fewsight.heads.head import Support
from fewsight.heads.presence import presence_threshold

SIDE, WIDTH = 8, 16
# What the world is made of: three objects and a background, as directions of tokens.
KINDS = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(0)))[0]
BACKGROUND = 3


def photo(kind: int | None, seed: int, *, top: int = 2, left: int = 3) -> tuple[Features, Tensor]:
    """One photo whose object covers 3 x 4 patches, with attention on it, and its mask in pixels."""
    generator = torch.Generator().manual_seed(seed)
    inside = torch.zeros(SIDE, SIDE, dtype=torch.bool)
    if kind is not None:
        inside[top : top + 3, left : left + 4] = True
    tokens = KINDS[torch.where(inside, BACKGROUND if kind is None else kind, BACKGROUND)]
    tokens = tokens + 0.15 * torch.randn(SIDE, SIDE, WIDTH, generator=generator) + 0.5 * KINDS[5]
    attention = (inside.float() + 0.05)[None] + 0.01 * torch.rand(2, SIDE, SIDE, generator=generator)
    attention = attention / attention.sum((1, 2), keepdim=True)
    pixels = inside.repeat_interleave(4, 0).repeat_interleave(4, 1)
    return Features(tokens.mean((0, 1))[None], tokens[None], attention=attention[None]), pixels


def make_support(shots: tuple[int, ...], *, masks: str = "none") -> Support:
    """`shots[k]` photos of class k; masks `"none"`, `"all"`, or `"first"` of each class."""
    features, marks, membership = [], [], []
    for kind, count in enumerate(shots):
        for shot in range(count):
            tokens, mask = photo(kind, 10 * kind + shot, top=shot % 4, left=shot % 3)
            features.append(tokens)
            marks.append(mask if masks == "all" or (masks == "first" and shot == 0) else None)
            membership.append([kind == k for k in range(len(shots))])
    names = tuple("abc"[: len(shots)])
    return Support(
        concatenate(features), torch.tensor(membership), names, None if masks == "none" else tuple(marks)
    )


def iou(found: Tensor, truth: Tensor) -> float:
    return float((found & truth).sum() / (found | truth).sum())


@pytest.mark.parametrize("masks", ["none", "all", "first"])
@pytest.mark.parametrize("shots", [(1, 1), (3, 1, 2), (2, 2, 2)])
def test_finds_what_is_there_and_says_what_is_not(shots: tuple[int, ...], masks: str) -> None:
    conditioned = Correspondence().condition(make_support(shots, masks=masks))
    for kind in range(len(shots)):
        query, truth = photo(kind, 99, top=4, left=1)
        found = conditioned.segment(query, (32, 32))
        assert found.presence.shape == (1, len(shots))
        assert int(found.presence[0].argmax()) == kind
        assert found.presence[0, kind] > 0.5
        # With one photo a class no photo shows presence, and the threshold is only a level for real photos.
        assert max(shots) == 1 or int((found.presence > 0.5).sum()) == 1
        # Bilinear edges of 4-pixel patches cost a rim of two pixels.
        assert iou(found.foreground[0, kind] >= 0.5, truth) > 0.7
    absent = conditioned.segment(photo(None, 98)[0], (32, 32)).presence
    assert (absent < conditioned.segment(query, (32, 32)).presence.max()).all()


def test_follows_the_support_and_not_what_is_salient() -> None:
    """Two objects in one query: each support marks its own."""
    first, truth = photo(0, 50, top=0, left=0)
    second, other = photo(1, 51, top=5, left=4)
    patches = torch.where(other[::4, ::4][None, :, :, None], second.patches, first.patches)
    query = Features(None, patches)
    found = Correspondence().condition(make_support((2, 2))).segment(query, (32, 32)).foreground[0] >= 0.5
    assert iou(found[0], truth) > 0.7 > 0.2 > iou(found[0], other)
    assert iou(found[1], other) > 0.7 > 0.2 > iou(found[1], truth)


def test_one_class_one_photo() -> None:
    conditioned = Correspondence().condition(make_support((1,)))
    assert conditioned.threshold.rule == "level"
    assert conditioned.threshold.false_alarm_rate is None
    query, truth = photo(0, 99)
    found = conditioned.segment(query, (32, 32))
    assert iou(found.foreground[0, 0] >= 0.5, truth) > 0.7
    assert found.presence[0, 0] > conditioned.segment(photo(1, 98)[0], (8, 8)).presence[0, 0]


def test_scores_are_log_odds_of_presence() -> None:
    conditioned = Correspondence().condition(make_support((2, 2)))
    queries = concatenate([photo(0, 99)[0], photo(1, 98)[0], photo(None, 97)[0]])
    scores, presence = conditioned.scores(queries), conditioned.segment(queries, (4, 4)).presence
    torch.testing.assert_close(scores.sigmoid(), presence)
    assert scores.shape == (3, 2)
    assert scores.argmax(1)[:2].tolist() == [0, 1]


def test_queries_do_not_influence_one_another() -> None:
    conditioned = Correspondence().condition(make_support((2, 1)))
    queries = concatenate([photo(0, 99)[0], photo(1, 98)[0]])
    both = conditioned.segment(queries, (8, 8))
    alone = conditioned.segment(queries.rows([1]), (8, 8))
    torch.testing.assert_close(both.foreground[1:], alone.foreground)
    torch.testing.assert_close(both.presence[1:], alone.presence)


def test_order_of_photos_and_classes_does_not_matter() -> None:
    support = make_support((2, 3), masks="first")
    query = photo(1, 99)[0]
    expected = Correspondence().condition(support).segment(query, (8, 8))
    order = torch.tensor([4, 0, 3, 1, 2])
    swapped = Support(
        support.features.rows(order),
        support.membership[order].flip(1),
        support.names[::-1],
        tuple(support.masks[i] for i in order.tolist()),
    )
    found = Correspondence().condition(swapped).segment(query, (8, 8))
    torch.testing.assert_close(found.foreground.flip(1), expected.foreground)
    torch.testing.assert_close(found.presence.flip(1), expected.presence)


def test_a_photo_of_two_classes() -> None:
    support = make_support((2, 2), masks="none")
    membership = support.membership.clone()
    membership[0, 1] = True
    conditioned = Correspondence().condition(dataclasses.replace(support, membership=membership))
    assert conditioned.scores(photo(1, 99)[0])[0].argmax() == 1


def test_state_is_a_round_trip() -> None:
    head = Correspondence()
    conditioned = head.condition(make_support((2, 1), masks="first"))
    restored = head.restore(conditioned.names, conditioned.state())
    query = photo(0, 99)[0]
    # Half precision of the kept patches.
    torch.testing.assert_close(restored.scores(query), conditioned.scores(query), rtol=0.02, atol=0.02)
    with pytest.raises(IncompatibleModel, match="prior"):
        head.restore(conditioned.names, {"patches": conditioned.patches})
    with pytest.raises(IncompatibleModel, match="3 classes"):
        head.restore(("a", "b", "c"), conditioned.state())


def test_classes_can_be_added_and_removed() -> None:
    whole = make_support((2, 1, 2))
    conditioned = Correspondence().condition(whole)
    rows = whole.membership[:, 2]
    without = conditioned.without_class("c")
    added = without.with_class("c", whole.features.rows(rows.nonzero().flatten()))
    query = photo(2, 99)[0]
    torch.testing.assert_close(added.scores(query), conditioned.scores(query))
    fewer = Correspondence().condition(whole.rows((~rows).nonzero().flatten()))
    torch.testing.assert_close(without.scores(query), fewer.scores(query))
    with pytest.raises(InvalidInput, match="already"):
        conditioned.with_class("a", whole.features)
    with pytest.raises(InvalidInput, match="cannot be removed"):
        conditioned.without_class("d")


def test_evidence_leaves_each_photo_out() -> None:
    conditioned = Correspondence().condition(make_support((3, 1)))
    positives, negatives = conditioned.evidence
    assert (len(positives), len(negatives)) == (3, 4)  # the lone photo has no other shot: no positive
    assert positives.min() > negatives.max()
    assert conditioned.threshold == presence_threshold(positives, negatives)
    promised = conditioned.presence_threshold(false_alarms=0.25)
    assert promised.false_alarm_rate == 0.25


def test_leave_one_out_is_conditioning_on_the_others() -> None:
    support = make_support((2, 1, 2), masks="all")  # given masks: priors are not refined by the others
    head = Correspondence()
    conditioned = head.condition(support)
    scores = conditioned.left_out(torch.arange(5))
    for image in range(5):
        rest = head.condition(support.rows(torch.tensor([i for i in range(5) if i != image])))
        columns = [support.names.index(name) for name in rest.names]
        raw = rest.scores(support.features.rows([image])) * rest.threshold.scale + rest.threshold.value
        torch.testing.assert_close(scores[image, columns], raw[0].to(scores), rtol=1e-4, atol=1e-4)
    assert scores[2].tolist()[1] == -torch.inf
    log_odds = head.leave_one_out(support)
    assert log_odds.argmax(1).tolist() != [0] * 5
    assert (log_odds[[0, 1], 0] > 0).all()


def test_matches_name_the_support_patch() -> None:
    support = make_support((2, 2), masks="all")
    query, truth = photo(0, 99, top=4, left=1)
    matches = Correspondence().condition(support).matches(query)
    inside = truth[::4, ::4]
    assert matches.image.shape == (1, 2, SIDE, SIDE)
    assert set(matches.image[0, 0].flatten().tolist()) <= {0, 1}
    assert set(matches.image[0, 1].flatten().tolist()) <= {2, 3}
    found = zip(matches.image[0, 0][inside].tolist(), matches.place[0, 0][inside].tolist(), strict=True)
    assert all(support.masks[image][::4, ::4].flatten()[place] for image, place in found)
    assert matches.cosine[0, 0][inside].mean() > 0.8 > matches.cosine[0, 1][inside].mean()


def test_without_attention_the_affinity_serves() -> None:
    support = make_support((2, 2))
    bare = dataclasses.replace(support, features=support.features._replace(attention=None))
    query, truth = photo(0, 99)
    found = Correspondence(attention=False).condition(bare).segment(query._replace(attention=None), (32, 32))
    assert iou(found.foreground[0, 0] >= 0.5, truth) > 0.6


def test_keys_in_place_of_patches() -> None:
    support = make_support((2, 1))
    keys = support.features.patches.unflatten(3, (2, -1)).permute(0, 3, 1, 2, 4)
    by_keys = Support(support.features._replace(keys=keys), support.membership, support.names)
    head = Correspondence(tokens="keys")
    assert head.request.keys
    expected = Correspondence().condition(support)
    assert isinstance(expected, ConditionedCorrespondence)
    torch.testing.assert_close(head.condition(by_keys).patches, expected.patches)


def test_errors() -> None:
    with pytest.raises(InvalidInput, match="patch"):
        Correspondence().condition(
            Support(Features(torch.ones(1, 4)), torch.ones(1, 1, dtype=torch.bool), ("a",))
        )
    with pytest.raises(InvalidInput, match="tokens"):
        Correspondence(tokens="cls")
    with pytest.raises(InvalidInput, match="neighbours"):
        Correspondence(neighbours=0)
    with pytest.raises(InvalidInput, match="temperature"):
        Correspondence(temperature=-1)
    empty = make_support((1,), masks="all")
    with pytest.raises(InvalidInput, match="'a'"):
        Correspondence().condition(dataclasses.replace(empty, masks=(torch.zeros(32, 32, dtype=torch.bool),)))

"""Verdicts on what a training did: right ones, no false ones, and none where the photos are too few."""

from __future__ import annotations

import numpy
import pytest
import torch

from fewsight.errors import InvalidInput
from fewsight.protocols.verdict import compare_answers, enough_photos, judge_features


def clusters(spread: float, *, classes: int = 4, per_class: int = 20, seed: int = 0) -> torch.Tensor:
    """Features around one unit vector a class, `[classes * per_class, 16]`."""
    noise = torch.randn(classes * per_class, 16, generator=torch.Generator().manual_seed(seed))
    return torch.eye(16)[:classes].repeat_interleave(per_class, 0) + spread * noise


LABELS = torch.arange(4).repeat_interleave(20)


def test_tighter_classes_are_better_and_looser_ones_worse() -> None:
    loose, tight = clusters(0.8), clusters(0.1)
    better, worse = judge_features(loose, tight, LABELS), judge_features(tight, loose, LABELS)
    assert (better.outcome, worse.outcome) == ("better", "worse")
    assert better.improved
    assert not worse.improved
    assert better.difference.mean == -worse.difference.mean
    assert better.sentence.startswith("Better: the new model is right on 100.0 % of 80 photos")
    assert worse.sentence.startswith("Worse: ")


def test_the_same_features_show_no_difference() -> None:
    features = clusters(0.6)
    verdict = judge_features(features, features.clone(), LABELS)
    assert verdict.outcome == "no difference shown"
    assert verdict.difference.mean == 0
    assert verdict.difference.low < 0 < verdict.difference.high


def test_features_may_change_their_width() -> None:
    assert judge_features(clusters(0.8), clusters(0.1)[:, :8], LABELS).outcome == "better"


def test_photos_that_are_learnt_from_are_not_judged() -> None:
    learnt = torch.arange(80) % 2 == 0
    before, after = clusters(0.5), clusters(0.5)
    after[learnt] = clusters(0.01)[learnt]  # perfect where it was trained
    verdict = judge_features(before, after, LABELS, learnt=learnt)
    assert verdict.before.n == 40
    alone = judge_features(before, before, LABELS, learnt=learnt)
    assert verdict.before == alone.before


def test_too_few_photos_are_not_judged_and_told_how_many_would_do() -> None:
    rows = torch.arange(0, 80, 8)
    verdict = judge_features(clusters(0.8)[rows], clusters(0.1)[rows], LABELS[rows], shot=1)
    assert verdict.outcome == "not judged"
    assert verdict.sentence == (
        "Not judged: 10 photos that the training did not see cannot show even a gain of 20 points; "
        "30 photos would be enough."
    )
    assert verdict.as_values()["difference"]["low"] is None
    nobody = compare_answers([], [])
    assert nobody.outcome == "not judged"
    assert nobody.sentence.startswith("Not judged: no photos that")


def test_enough_is_the_fewest_that_can_be_judged() -> None:
    enough = enough_photos(0.2)
    gained = [1.0] * (enough // 5) + [0.0] * (enough - enough // 5)
    assert compare_answers([0.0] * enough, gained).outcome == "better"
    assert compare_answers([0.0] * (enough - 1), gained[:-1]).outcome == "not judged"


def test_a_group_counts_once_and_stands_on_one_side() -> None:
    photos = numpy.repeat([0.0, 1.0], 30)
    changed = numpy.where(numpy.arange(60) < 12, 1.0, photos)
    assert compare_answers(photos, changed).outcome == "better"
    bursts = (numpy.arange(60) // 12).tolist()  # all gains are one burst
    assert compare_answers(photos, changed, groups=bursts).outcome == "not judged"
    pairs = [row // 2 for row in range(80)]
    verdict = judge_features(clusters(0.8), clusters(0.1), LABELS, groups=pairs)
    assert verdict.difference.n == 40
    assert "in 40 groups" in verdict.sentence


def test_models_that_do_not_differ_are_rarely_told_apart() -> None:
    generator = numpy.random.default_rng(0)
    false_alarms = 0
    for _ in range(400):
        old, new = (generator.random(40) < 0.7 for _ in range(2))
        false_alarms += compare_answers(old, new).outcome in ("better", "worse")
    assert false_alarms <= 32  # 5 % of 400 are 20, and three standard deviations


def test_single_photo_classes_and_unknown_classes_are_left_out() -> None:
    labels = LABELS.clone()
    labels[0] = 99
    verdict = judge_features(clusters(0.5), clusters(0.4), labels)
    assert verdict.before.n == 79
    learnt = LABELS < 3
    learnt[::2] = False
    assert judge_features(clusters(0.5), clusters(0.4), LABELS, learnt=learnt).before.n == 30


def test_wrong_input_is_named() -> None:
    features = clusters(0.5)
    with pytest.raises(InvalidInput, match="labels"):
        judge_features(features, features, LABELS[:-1])
    with pytest.raises(InvalidInput, match="integer"):
        judge_features(features, features, LABELS.float())
    with pytest.raises(InvalidInput, match="groups has 3"):
        judge_features(features, features, LABELS, groups=[1, 2, 3])
    with pytest.raises(InvalidInput, match="learnt"):
        judge_features(features, features, LABELS, learnt=LABELS)
    with pytest.raises(InvalidInput, match="shot is 0"):
        judge_features(features, features, LABELS, shot=0)
    with pytest.raises(InvalidInput, match="one value a photo"):
        compare_answers([1.0], [1.0, 0.0])
    with pytest.raises(InvalidInput, match="outside"):
        compare_answers([2.0], [1.0])
    with pytest.raises(InvalidInput, match="detectable"):
        enough_photos(0.0)

"""Class-balanced batches: balance, coverage, functions of (seed, number), shares of ranks, views."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch

from fewsight import distributed
from fewsight.data.pipelines import AUGMENTATIONS
from fewsight.data.store import PixelStore
from fewsight.data.transform import Transform
from fewsight.errors import InvalidInput
from fewsight.training.balanced_source import Balanced, LabelledViews, Shuffled, plain_view

BY_CLASS = [numpy.arange(0, 5), numpy.arange(5, 6), numpy.arange(6, 16)]
LABELS = numpy.repeat([0, 1, 2], [5, 1, 10])
TRANSFORM = Transform(size=(16, 16))


def store() -> PixelStore:
    pixels = numpy.random.default_rng(0).integers(0, 256, (16, 16, 16, 3), dtype=numpy.uint8)
    return PixelStore(pixels, frozenset(), "")


def test_each_class_gives_as_many_photos() -> None:
    rows = Balanced(BY_CLASS, classes=3, photos=4)(0)
    assert numpy.bincount(LABELS[rows]).tolist() == [4, 4, 4]
    assert (rows[LABELS[rows] == 1] == 5).all(), "the only photo of a class comes again"
    few = Balanced(BY_CLASS, classes=50, photos=2)(3)
    assert numpy.bincount(LABELS[few]).tolist() == [2, 2, 2]


def test_a_round_visits_each_class_and_each_photo_in_turn() -> None:
    rows = Balanced([numpy.arange(4 * k, 4 * k + 4) for k in range(6)], classes=2, photos=2)
    for turn in range(3):
        classes = [rows(3 * turn + place) // 4 for place in range(3)]
        assert sorted(numpy.concatenate(classes).tolist()) == sorted([*range(6), *range(6)])
    two_rounds = numpy.concatenate([rows(number) for number in range(6)])
    assert sorted(two_rounds.tolist()) == list(range(24)), "no photo comes again before all have come"


def test_no_class_stands_twice_in_a_batch() -> None:
    rows = Balanced([numpy.arange(k, k + 1) for k in range(7)], classes=3, photos=1)
    for number in range(20):
        assert len(set(rows(number).tolist())) == 3


def test_batches_are_functions_of_seed_and_number() -> None:
    for make in (
        lambda seed: Balanced(BY_CLASS, 2, 3, seed),
        lambda seed: Shuffled(numpy.arange(16), 6, seed),
    ):
        assert make(1)(5).tolist() == make(1)(5).tolist()
        assert make(1)(5).tolist() != make(2)(5).tolist()
        assert make(1)(5).tolist() != make(1)(6).tolist()


def test_shuffled_batches_are_full_and_epochs_whole() -> None:
    rows = Shuffled(numpy.arange(10, 15), 4)
    drawn = numpy.concatenate([rows(number) for number in range(5)])
    assert len(drawn) == 20
    for epoch in drawn.reshape(4, 5):
        assert sorted(epoch.tolist()) == [10, 11, 12, 13, 14]


def source(rows: object = None, **changes: object) -> LabelledViews:
    chosen = AUGMENTATIONS["crop_flip"]
    settings = {"pipelines": [None, chosen, chosen], "seed": 3, **changes}
    return LabelledViews(store(), LABELS, rows or Balanced(BY_CLASS, 3, 2), transform=TRANSFORM, **settings)  # type: ignore[arg-type]


def test_views_are_clean_or_augmented_each_in_its_own_way() -> None:
    batch = source()(7)
    assert batch.labels is not None
    assert batch.index is not None
    assert batch.labels.tolist() == LABELS[batch.index.numpy()].tolist()
    clean, first, second = batch.images
    torch.testing.assert_close(clean, plain_view(store(), batch.index.numpy(), TRANSFORM))
    mean, std = (torch.tensor(part)[:, None, None] for part in (TRANSFORM.mean, TRANSFORM.std))
    torch.testing.assert_close((clean * std + mean) * 255, store().rows(batch.index.numpy()).float())
    assert not torch.equal(first, second)
    assert not torch.equal(first, clean)
    again = source()(7)
    assert all(torch.equal(one, other) for one, other in zip(batch.images, again.images, strict=True))
    assert not torch.equal(source(seed=4)(7).images[1], first)


def test_ranks_share_a_batch_and_see_the_views_of_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = source()(2)
    monkeypatch.setattr(distributed, "world_size", lambda: 2)
    parts = []
    for rank in range(2):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        parts.append(source()(2))
    for view in range(3):
        merged = torch.empty_like(whole.images[view])
        merged[0::2], merged[1::2] = parts[0].images[view], parts[1].images[view]
        assert torch.equal(merged, whole.images[view])


def test_wrong_numbers_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="0 classes"):
        Balanced(BY_CLASS, 0, 1)
    with pytest.raises(InvalidInput, match="without a photo"):
        Balanced([*BY_CLASS, numpy.arange(0)], 2, 1)
    with pytest.raises(InvalidInput, match="from 0 photos"):
        Shuffled(numpy.arange(0), 4)(0)

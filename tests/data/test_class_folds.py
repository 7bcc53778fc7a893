"""Folds by rule: every class in one fold, no photo on two sides."""

import numpy
import pytest

from fewsight.data.class_folds import class_fold, divided, fold_count
from fewsight.data.collection import Collection, Row
from fewsight.errors import InvalidInput


def photos(classes: int = 8, each: int = 4, extra: tuple[str, ...] = ()) -> Collection:
    rows = [Row(f"{k}/{n}.png".encode(), [f"c{k}", *extra]) for k in range(classes) for n in range(each)]
    return Collection.from_rows("/nowhere", rows)


def test_every_class_is_novel_once_and_photos_have_one_side():
    collection = photos()
    novel = [class_fold(collection, fold).novel for fold in range(fold_count(8))]
    assert sorted(sum(novel, ())) == list(range(8))
    assert novel[0] == (0, 4)
    for fold in range(4):
        found = class_fold(collection, fold)
        assert set(found.base).isdisjoint(found.novel)
        assert sorted([*found.training.tolist(), *found.test.tolist()]) == list(range(len(collection)))
        shown = {int(k) for row in found.training for k in collection.labels_of(row)}
        assert shown.isdisjoint(found.novel)


def test_where_photos_show_everything_halves_are_drawn():
    collection = photos(extra=("everywhere",))
    number = collection.classes.index("everywhere")
    fold = next(f for f in range(4) if number in class_fold(collection, f).novel)
    found = class_fold(collection, fold)
    assert set(found.training).isdisjoint(found.test)
    assert 10 <= len(found.test) <= 22
    again = class_fold(collection, fold)
    assert (found.test == again.test).all()
    assert not numpy.array_equal(found.test, class_fold(collection, fold, seed=1).test)


def test_splits_of_the_data_come_first():
    rows = [
        Row(f"{n}.png".encode(), ["a", "b", "c", "d"], split="test" if n % 3 == 0 else "train")
        for n in range(12)
    ]
    rest, shown = divided(Collection.from_rows("/nowhere", rows), (0,), numpy.arange(12))
    assert shown.tolist() == [0, 3, 6, 9]
    assert len(rest) == 8


def test_one_class_is_a_benchmark_without_base_classes():
    found = class_fold(photos(classes=1), 0)
    assert (found.base, found.novel, len(found.test)) == ((), (0,), 4)


def test_no_such_fold():
    with pytest.raises(InvalidInput, match="fold is 4 of 4"):
        class_fold(photos(), 4)
    with pytest.raises(InvalidInput, match="no class has 9 photos"):
        class_fold(photos(), 0, least=9)

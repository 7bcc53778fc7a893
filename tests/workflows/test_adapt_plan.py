"""Who is trained on, who stops, who judges: never the same photos, splits kept to, small sets not cut up."""

from __future__ import annotations

import numpy
import pytest

from fewsight.data.collection import Collection, Row
from fewsight.errors import InvalidInput
from fewsight.protocols.verdict import enough_photos
from fewsight.workflows.adapt_plan import PhotoPlan, plan_photos


def collection(counts: list[int], splits: list[str | None] | None = None) -> Collection:
    rows = [
        Row(f"{k}/{n}.jpg".encode(), (f"class {k}",), None, None, splits[n % len(splits)] if splits else None)
        for k, count in enumerate(counts)
        for n in range(count)
    ]
    return Collection.from_rows("/photos", rows)


def planned(photos: Collection, **settings: object) -> PhotoPlan:
    given = {"judged_share": 1 / 3, "stop_share": 0.2, "seed": 0, **settings}
    plan = plan_photos(photos, photos.targets(), **given)  # type: ignore[arg-type]
    parts = numpy.concatenate([plan.train, plan.stop, plan.judged])
    assert len(set(parts.tolist())) == len(parts), "no photo has two parts"
    return plan


def test_a_share_of_each_class_judges() -> None:
    photos = collection([30, 60, 90])
    plan = planned(photos)
    labels = photos.targets()
    assert numpy.bincount(labels[plan.judged]).tolist() == [10, 20, 30]
    assert numpy.bincount(labels[plan.stop]).tolist() == [4, 8, 12]
    assert len(plan.train) + len(plan.stop) + len(plan.judged) == 180
    assert "60 of 180 photos" in plan.remarks[0]
    assert planned(photos).judged.tolist() == plan.judged.tolist()
    assert planned(photos, seed=1).judged.tolist() != plan.judged.tolist()


def test_up_to_half_where_it_takes_that_many() -> None:
    photos = collection([12] * 5)
    plan = planned(photos, stop_share=0.0)
    assert len(plan.judged) == enough_photos() == 30
    assert numpy.bincount(photos.targets()[plan.train]).tolist() == [6] * 5


@pytest.mark.parametrize("counts", [[1, 1], [2, 2, 2], [10, 10]])
def test_nothing_is_held_out_where_no_verdict_can_come_of_it(counts: list[int]) -> None:
    plan = planned(collection(counts), stop_share=0.0)
    assert len(plan.train) == sum(counts)
    assert len(plan.judged) == 0
    assert plan.remarks[-1].startswith("No photo is held out")


def test_small_classes_give_no_photo_to_stopping() -> None:
    photos = collection([4, 40, 40, 40])
    plan = planned(photos)
    labels = photos.targets()
    assert 0 not in labels[plan.stop]
    assert (numpy.bincount(labels[plan.train]) > 0).all()


def test_splits_of_the_data_are_kept_to() -> None:
    photos = collection([8, 8], ["train", "train", "val", "test"])
    plan = planned(photos)
    assert photos.in_split("test")[plan.judged].all()
    assert photos.in_split("val")[plan.stop].all()
    assert photos.in_split("train")[plan.train].all()
    assert [len(part) for part in (plan.train, plan.stop, plan.judged)] == [8, 4, 4]
    without = planned(photos, stop_share=0.0)
    assert len(without.stop) == 0
    assert len(without.train) == 12, "nobody chooses, so the validation photos are trained on"


def test_groups_stay_together() -> None:
    photos = collection([60, 60])
    groups = [str(row // 3) for row in range(120)]
    plan = planned(photos, groups=groups)
    sides = [{groups[row] for row in part.tolist()} for part in (plan.train, plan.stop, plan.judged)]
    assert not sides[0] & sides[1]
    assert not sides[0] & sides[2]
    assert not sides[1] & sides[2]
    bursts = ["one burst"] * 120
    with pytest.raises(InvalidInput, match="two classes"):
        plan_photos(
            collection([60, 60], ["train", "test"]),
            photos.targets(),
            judged_share=0.3,
            stop_share=0.0,
            groups=bursts,
        )


def test_photos_that_must_not_serve_stand_nowhere() -> None:
    photos = collection([60, 60])
    labels = photos.targets()
    labels[::2] = -1
    plan = plan_photos(photos, labels, judged_share=1 / 3, stop_share=0.2)
    for part in (plan.train, plan.stop, plan.judged):
        assert (part % 2 == 1).all()


def test_fewer_than_two_classes_are_an_error_that_names_them() -> None:
    with pytest.raises(InvalidInput, match=r"60 labelled photos to train on, of one class \('class 0'\)"):
        planned(collection([60]))

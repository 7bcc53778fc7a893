"""Labels of any kind in, sorted classes and membership out."""

import math

import numpy
import pytest

from fewsight.class_labels import as_plain, class_array, from_plain, label_sets, membership
from fewsight.errors import InvalidInput


def test_lists_and_sets_are_several_labels_and_tuples_one():
    rows, several = label_sets([("leaf", 3), {"b"}, ["a", "b", "a"]])
    assert several
    assert rows == [(("leaf", 3),), ("b",), ("a", "b")]
    assert not label_sets(numpy.array([1, 2]))[1]


@pytest.mark.parametrize("entry", [[], set(), None, math.nan, {"a": 1}, [["a"]]])
def test_what_cannot_name_a_class_is_named(entry):
    with pytest.raises((InvalidInput, TypeError)):
        label_sets(["a", entry])


@pytest.mark.parametrize(
    "labels", [["b", "a"], [3, -1, 2], [0.5, 0.25], [True, False], ["ä", "a", "Ω"], [2**70, 1], ["a\0", "a"]]
)
def test_classes_are_sorted_and_come_back_from_json(labels):
    classes = class_array(labels)
    assert classes.tolist() == sorted(labels)
    assert from_plain(as_plain(classes)).tolist() == classes.tolist()


def test_labels_of_several_kinds_keep_their_kinds():
    classes = class_array(["1", 1, ("x", 2), "a"])
    assert {type(label) for label in classes.tolist()} == {int, str, tuple}
    assert membership([("x", 2), ("1",)][1:], classes).sum() == 1
    with pytest.raises(InvalidInput, match="tuple"):
        as_plain(classes)


def test_an_unknown_label_is_named():
    with pytest.raises(InvalidInput, match="zebra"):
        membership([("zebra",)], class_array(["a"]))


@pytest.mark.parametrize("labels", [[], ["b", "a"], ["a", "a"], [["a"]], [None]])
def test_hostile_classes_are_refused(labels):
    with pytest.raises(InvalidInput):
        from_plain(labels)

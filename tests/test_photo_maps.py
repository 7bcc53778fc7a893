"""Maps of one photo: the kept size, parts that cover it, labels from kept maps."""

from __future__ import annotations

import numpy

from fewsight.photo_maps import labels_of_maps, map_size, overlapping_parts


def test_kept_maps_are_no_larger_than_128_pixels() -> None:
    assert map_size((96, 70)) == (96, 70)
    assert map_size((512, 1024)) == (64, 128)
    assert map_size((1, 5000)) == (1, 128)


def test_labels_follow_presence_and_threshold() -> None:
    maps = numpy.array([[[255, 128], [0, 100]], [[255, 200], [10, 140]]], dtype=numpy.uint8)
    both = numpy.array([True, True])
    assert labels_of_maps(maps, both, (2, 2)).tolist() == [[1, 2], [0, 2]]
    assert labels_of_maps(maps, numpy.array([True, False]), (2, 2)).tolist() == [[1, 1], [0, 0]]
    assert labels_of_maps(maps, both, (2, 2), threshold=0.6).tolist() == [[1, 2], [0, 0]]
    assert labels_of_maps(maps, both, (5, 7)).shape == (5, 7)
    assert not labels_of_maps(maps, numpy.array([False, False]), (2, 2)).any()


def test_parts_cover_the_photo_and_overlap() -> None:
    seen = numpy.zeros((301, 200), dtype=int)
    for top, bottom, left, right in overlapping_parts((301, 200), 3):
        assert bottom - top == 151
        seen[top:bottom, left:right] += 1
    assert seen.min() >= 1
    assert seen.max() <= 6  # a pixel where the parts' edges round inwards

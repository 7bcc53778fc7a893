"""Measures of label maps against counts by hand, scikit-learn, and what must not matter."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.metrics import jaccard_score

from fewsight.errors import InvalidInput
from fewsight.evaluation.segmentation import (
    episode_areas,
    fewshot_segmentation_metrics,
    metrics_of_areas,
    segmentation_metrics,
)


def maps(seed: int, high: int, *shape: int) -> torch.Tensor:
    return torch.randint(0, high, shape, generator=torch.Generator().manual_seed(seed))


def test_iou_equals_scikit_learn() -> None:
    predictions, targets = maps(0, 4, 3, 6, 5), maps(1, 4, 3, 6, 5)
    targets[0, :2] = 255
    found = segmentation_metrics(predictions, targets, 4)
    valid = targets != 255
    expected = jaccard_score(targets[valid], predictions[valid], average=None, labels=range(4))
    assert found["iou"].tolist() == pytest.approx(expected.tolist())
    assert found["miou"] == pytest.approx(expected.mean())
    assert int(found["confusion"].sum()) == int(valid.sum())


def test_predictions_under_ignored_targets_may_be_anything() -> None:
    predictions = torch.tensor([[[0, 99]]])
    assert segmentation_metrics(predictions, torch.tensor([[[0, 7]]]), 2, ignore_index=7)["accuracy"] == 1


def test_nothing_to_measure_is_not_a_number() -> None:
    found = segmentation_metrics(maps(0, 2, 1, 2, 2), torch.full((1, 2, 2), 255), 2)
    assert all(math.isnan(found[name]) for name in ("miou", "accuracy", "mean_accuracy"))


def by_sets(predictions, targets, way_classes, classes, void):
    """IoU of each class with sets of pixels."""
    pixels: dict[int, list[set]] = {c: [set(), set()] for c in [0, *classes]}
    for e in range(len(predictions)):
        for y in range(predictions[e].shape[0]):
            for x in range(predictions[e].shape[1]):
                p, t = int(predictions[e][y, x]), int(targets[e][y, x])
                if t == 255 and void == "strict":
                    continue
                t = 0 if t == 255 else t
                absolute = [0, *way_classes[e].tolist()]
                pixels[absolute[p]][0].add((e, y, x, p))
                pixels[absolute[t]][1].add((e, y, x, t))
    return [len(a & b) / max(len(a | b), 1) for a, b in (pixels[c] for c in classes)]


@pytest.mark.parametrize("void", ["published", "strict"])
def test_few_shot_iou_equals_sets(void: str) -> None:
    predictions = [maps(e, 3, 4, 3 + e % 3) for e in range(6)]  # maps of different sizes
    targets = [maps(10 + e, 3, 4, 3 + e % 3) for e in range(6)]
    for target in targets:
        target[0, 0] = 255
    way_classes = torch.tensor([[3, 5], [5, 7], [7, 3], [3, 7], [5, 3], [7, 5]])
    found = fewshot_segmentation_metrics(predictions, targets, way_classes, classes=[3, 5, 7, 9], void=void)
    expected = by_sets(predictions, targets, way_classes, [3, 5, 7, 9], void)
    assert found.iou.tolist() == pytest.approx(expected)
    assert found.miou == pytest.approx(sum(expected) / 4)  # class 9 was never drawn and counts 0


def test_areas_of_resampled_episodes() -> None:
    predictions, targets = maps(0, 2, 5, 4, 4), maps(1, 2, 5, 4, 4)
    way_classes = torch.tensor([[1], [2], [1], [2], [1]])
    areas = episode_areas(predictions, targets, way_classes)
    drawn = torch.tensor([4, 4, 1])
    resampled = type(areas)(areas.intersection[drawn], areas.union[drawn])
    found = metrics_of_areas(resampled, way_classes[drawn], classes=[1, 2])
    expected = fewshot_segmentation_metrics(
        predictions[drawn], targets[drawn], way_classes[drawn], classes=[1, 2]
    )
    assert found.miou == expected.miou
    assert found.fb_iou == expected.fb_iou


def test_areas_are_exact_beyond_float32() -> None:
    """17 million background pixels: float32 sums would stop counting at 2^24."""
    big = torch.zeros(1, 4100, 4100, dtype=torch.uint8)
    areas = episode_areas(big, big, torch.tensor([[1]]))
    assert int(areas.union[0, 0]) == 4100 * 4100


def test_errors_name_the_argument() -> None:
    one = torch.zeros(1, 2, 2, dtype=torch.int64)
    way = torch.tensor([[1]])
    with pytest.raises(InvalidInput, match="targets"):
        segmentation_metrics(one, one + 5, 3)
    with pytest.raises(InvalidInput, match="predictions"):
        segmentation_metrics(one - 1, one, 3)
    with pytest.raises(InvalidInput, match="targets"):
        segmentation_metrics(one, one[:, :1], 3)
    with pytest.raises(InvalidInput, match="num_classes"):
        segmentation_metrics(one, one, 0)
    with pytest.raises(InvalidInput, match="void"):
        fewshot_segmentation_metrics(one, one, way, classes=[1], void="ignore")
    with pytest.raises(InvalidInput, match="predictions"):
        fewshot_segmentation_metrics(one + 2, one, way, classes=[1])
    with pytest.raises(InvalidInput, match="classes"):
        fewshot_segmentation_metrics(one, one, way, classes=[2])
    with pytest.raises(InvalidInput, match="episodes"):
        fewshot_segmentation_metrics(one, one, way.expand(2, 1), classes=[1])
    with pytest.raises(InvalidInput, match="dtype"):
        fewshot_segmentation_metrics(one.float(), one, way, classes=[1])

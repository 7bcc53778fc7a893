"""Scenes: a function of (seed, index), with classes apart, and not to be solved by colour."""

from __future__ import annotations

import numpy
import pytest

from fewsight.data.scenes import Scene, Scenes
from fewsight.errors import InvalidInput

SCENES = Scenes(seed=3, size=64)


def test_scene_is_a_function_of_seed_and_index() -> None:
    before = SCENES[7]
    SCENES[8]
    assert all(numpy.array_equal(a, b) for a, b in zip(before, Scenes(seed=3, size=64)[7], strict=True))
    assert not numpy.array_equal(before.image, Scenes(seed=4, size=64)[7].image)
    assert not numpy.array_equal(before.image, SCENES[8].image)


def test_types_and_labels_agree_with_masks() -> None:
    several = 0
    for index in range(30):
        scene = SCENES[index]
        assert scene.image.dtype == numpy.uint8
        assert scene.image.shape == (64, 64, 3)
        assert tuple(int(c) - 1 for c in numpy.unique(scene.mask) if c) == scene.labels
        assert set(scene.labels) <= set(SCENES.classes)
        assert all((scene.mask == c + 1).sum() >= 0.01 * 64 * 64 for c in scene.labels)
        several += len(scene.labels) > 1
    assert several >= 10


def test_base_and_novel_classes_are_apart() -> None:
    base, novel = Scenes(0, "base").classes, Scenes(0, "novel").classes
    assert not set(base) & set(novel)
    assert sorted((*base, *novel)) == list(range(48)) == list(Scenes(0, "all").classes)


def test_include_and_exclude() -> None:
    wanted, unwanted = SCENES.classes[2], SCENES.classes[5]
    for index in range(20):
        assert wanted in SCENES.scene(index, include=(wanted,)).labels
        assert unwanted not in SCENES.scene(index, exclude=(unwanted,)).labels


def test_objects_hide_one_another() -> None:
    """Five objects show far less than five times what one shows."""
    single, five = (
        numpy.mean([(Scenes(0, size=64, objects=(n, n))[i].mask > 0).mean() for i in range(16)])
        for n in (1, 5)
    )
    assert single < five < 0.8 * 5 * single


def test_colour_does_not_find_objects() -> None:
    """Even with the best threshold for each query, distance to the support's colours stays near the whole image.

    Colours are known by a histogram of the support. For objects of fixed colours that would be enough: asked
    about the support itself the rule is right for most of the object.
    """
    scenes = Scenes(seed=0, split="novel", size=64, objects=(1, 3))
    by_colour, whole = [], []
    for index in range(24):
        wanted = scenes.classes[index % len(scenes.classes)]
        support, query = (scenes.scene(2 * index + k, include=(wanted,)) for k in range(2))
        by_colour.append(best_colour_iou(support, query, wanted))
        whole.append((query.mask == wanted + 1).mean())
    itself = [best_colour_iou(s, s, s.labels[0]) for s in (scenes[i] for i in range(24))]
    assert numpy.mean(itself) > 0.6
    # The mean of best thresholds is an upper bound of what any one threshold gives.
    assert numpy.mean(by_colour) < 0.4
    assert numpy.mean(by_colour) < numpy.mean(whole) + 0.2


def best_colour_iou(support: Scene, query: Scene, wanted: int) -> float:
    """IoU of the best threshold of foreground against background likelihood of colour, known from the support."""

    def cells(scene: Scene) -> numpy.ndarray:
        quantised = (scene.image // 43).astype(int)
        return quantised @ numpy.array([36, 6, 1])

    inside = support.mask == wanted + 1
    counts = [numpy.bincount(cells(support)[where], minlength=216) + 0.5 for where in (inside, ~inside)]
    likelihood = numpy.log(counts[0] / counts[0].sum()) - numpy.log(counts[1] / counts[1].sum())
    score, truth = likelihood[cells(query)], query.mask == wanted + 1
    found = [score >= level for level in numpy.quantile(score, numpy.linspace(0, 0.99, 34))]
    return max(float((f & truth).sum() / (f | truth).sum()) for f in found)


@pytest.mark.parametrize(
    ("settings", "word"),
    [({"split": "test"}, "split"), ({"num_classes": 3}, "num_classes"), ({"objects": (0, 2)}, "objects")],
)
def test_bad_settings(settings: dict, word: str) -> None:
    with pytest.raises(InvalidInput, match=word):
        Scenes(0, **settings)


def test_bad_scene() -> None:
    with pytest.raises(InvalidInput, match="index"):
        SCENES.scene(-1)
    with pytest.raises(InvalidInput, match="include"):
        SCENES.scene(0, include=(3,))

"""Samplers of published episodes: properties over many draws, hierarchies, SimCLR episodes, errors."""

import numpy
import pytest
import torch

from fewsight.data.episodes import class_hierarchy, episode_shots, sample_episode, simclr_episode
from fewsight.data.splits import imagenet_hierarchy, meta_dataset_images
from fewsight.errors import InvalidInput


def test_every_episode_keeps_the_rules():
    images = numpy.random.default_rng(0).integers(6, 400, 80)
    rng = numpy.random.RandomState(0)
    ways = set()
    for _ in range(300):
        classes, supports, queries = sample_episode(images, rng)
        ways.add(len(classes))
        assert 5 <= len(classes) <= 50
        assert len(set(classes.tolist())) == len(classes)
        assert (supports >= 1).all()
        assert (queries == min(10, images[classes].min() // 2)).all()
        assert (supports + queries <= images[classes]).all()
        assert supports.sum() <= 500
    assert min(ways) == 5
    assert max(ways) == 50


def test_a_class_with_more_images_gets_more_supports_on_average():
    rng = numpy.random.RandomState(0)
    big, small = [], []
    for _ in range(200):
        classes, supports, _ = sample_episode([20, 20, 20, 20, 400], rng)
        big.append(supports[classes == 4][0])
        small.extend(supports[classes != 4])
    assert numpy.mean(big) > 5 * numpy.mean(small)


def test_contribution_limit_acts_on_the_size_alone():
    shots = episode_shots([1000, 20], 0.999, [0.7, -0.7])
    assert shots.support_set_size <= 100 + 10 + 1
    assert shots.num_support_per_class[0] > 100


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"images_per_class": [5, 1]}, "images_per_class"),
        ({"images_per_class": [5, 0]}, "images_per_class"),
        ({"images_per_class": [5.0, 4.0]}, "images_per_class"),
        ({"images_per_class": []}, "images_per_class"),
        ({"beta": 1.0}, "beta"),
        ({"beta": float("nan")}, "beta"),
        ({"log_weights": [0.0]}, "log_weights"),
        ({"log_weights": [0.0, float("inf")]}, "log_weights"),
    ],
)
def test_errors_of_shots(arguments, named):
    with pytest.raises(InvalidInput, match=named):
        episode_shots(**{"images_per_class": [5, 6], "beta": 0.5, "log_weights": [0.0, 0.0], **arguments})


@pytest.mark.parametrize(
    "arguments",
    [
        {"images_per_class": [9] * 4},
        {"images_per_class": [9] * 8, "num_ways": 9},
        {"images_per_class": [9] * 8, "num_ways": 0},
        {"images_per_class": [9] * 8, "num_ways": 5, "classes_per_superclass": [8]},
        {"images_per_class": [9] * 8, "classes_per_superclass": [5, 5]},
        {"images_per_class": [9] * 8, "classes_per_superclass": [4, 4]},
        {"images_per_class": [9] * 8, "num_ways": 5, "num_support": 9},
        {"images_per_class": [9] * 8, "num_ways": 5, "num_support": 5, "num_query": 5},
        {"images_per_class": [9] * 8, "num_ways": 5, "num_support": (5, 3)},
        {"images_per_class": [9] * 8, "num_ways": 5, "num_support": (1, 2, 3)},
        {"images_per_class": [9] * 8, "num_query": 0},
        {"images_per_class": [9] * 8, "ignore_hierarchy_probability": 2.0},
    ],
)
def test_errors_of_episodes(arguments):
    with pytest.raises(InvalidInput):
        sample_episode(rng=numpy.random.RandomState(0), **arguments)


def test_superclasses_are_never_mixed():
    rng = numpy.random.RandomState(0)
    starts = numpy.array([0, 6, 20])
    for _ in range(100):
        classes = sample_episode([20] * 29, rng, classes_per_superclass=[6, 14, 9]).class_ids
        assert len(set(numpy.searchsorted(starts, classes, side="right"))) == 1


def test_imagenet_hierarchies_have_the_published_counts():
    published = {"train": (299, 113, 16), "valid": (42, 18, 4), "test": (50, 15, 1)}
    for split, (internal, eligible, large) in published.items():
        graph = imagenet_hierarchy(split)
        hierarchy = class_hierarchy(graph.edges, graph.leaves, min_ways=5, max_leaves=392)
        assert len(hierarchy.internal_nodes) == internal
        assert len(hierarchy.eligible_nodes) == eligible
        assert (hierarchy.eligible_sizes > 50).sum() == large
        assert len(graph.leaves) == len(meta_dataset_images("ilsvrc_2012", split))


def test_episodes_of_a_graph_hold_all_leaves_of_a_node_or_fifty():
    spanned = [[3, 1, 4], list(range(70))]
    rng = numpy.random.RandomState(0)
    sizes = {len(sample_episode([9] * 70, rng, spanned_classes=spanned).class_ids) for _ in range(30)}
    assert sizes == {3, 50}


def test_hierarchy_keeps_no_only_child_and_counts_paths_once():
    diamond = [[0, 1], [0, 2], [1, 3], [2, 3], [1, 4], [2, 5], [5, 6], [6, 7]]
    hierarchy = class_hierarchy(diamond, [3, 4, 7], min_ways=1, max_leaves=9)
    assert hierarchy.internal_nodes.tolist() == [0, 1, 2]
    assert [leaves.tolist() for leaves in hierarchy.spanned_classes()] == [[3, 4, 7], [3, 4], [3, 7]]
    with pytest.raises(InvalidInput, match="cycle"):
        class_hierarchy([[0, 1], [1, 0], [0, 2], [1, 3]], [2, 3], min_ways=1, max_leaves=2)
    with pytest.raises(InvalidInput, match="edges"):
        class_hierarchy([0, 1], [1], min_ways=1, max_leaves=2)


def test_simclr_episode_takes_the_first_supports_of_each_class():
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        support, query = (torch.randint(4, (size,), generator=generator) for size in (12, 7))
        result = simclr_episode(support, query)
        expected, seen = [], dict.fromkeys(range(4), 0)
        for place, label in enumerate(support.tolist()):
            seen[label] += 1
            if seen[label] <= (query == label).sum():
                expected.append(place)
        assert result.query_indices.tolist() == expected
        assert result.query_targets.tolist() == expected
        assert result.support_targets.tolist() == list(range(12))
    with pytest.raises(InvalidInput, match="support_labels"):
        simclr_episode(torch.zeros(2, 2), torch.zeros(2))

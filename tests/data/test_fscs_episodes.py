"""Published FS-CS episodes: structure over many indices, the published shares, errors."""

import pytest

from fewsight.data.fscs_episodes import published_fscs_episode
from fewsight.data.splits import pascal5i_images
from fewsight.errors import InvalidInput


@pytest.mark.parametrize(("benchmark", "way", "shot"), [("pascal", 2, 3), ("coco", 3, 2)])
def test_supports_are_distinct_and_never_the_query(benchmark, way, shot):
    for index in range(40):
        episode = published_fscs_episode(index, benchmark=benchmark, fold=1, way=way, shot=shot)
        assert len(set(episode.support_classes.tolist())) == way
        for images in episode.support.tolist():
            assert len(set(images)) == shot
            assert episode.query not in images


def test_five_ways_are_all_classes_of_a_pascal_fold():
    episode = published_fscs_episode(3, benchmark="pascal", fold=2, way=5, shot=1)
    assert sorted(episode.support_classes.tolist()) == [11, 12, 13, 14, 15]


def test_half_of_the_one_way_queries_lack_the_class():
    """50.7 % with the way present over all four folds (reference of the benchmark); one fold is close."""
    images, classes = pascal5i_images("val", 0)
    held = set(zip(images.tolist(), classes.tolist(), strict=True))
    episodes = [
        published_fscs_episode(index, benchmark="pascal", fold=0, way=1, shot=1) for index in range(1000)
    ]
    present = sum((episode.query, int(episode.support_classes[0])) in held for episode in episodes)
    assert 460 < present < 560


@pytest.mark.parametrize(
    "changes", [{"benchmark": "voc"}, {"fold": 4}, {"way": 0}, {"way": 6}, {"shot": 0}, {"shot": 1000}]
)
def test_errors_name_the_argument(changes):
    with pytest.raises(InvalidInput, match=next(iter(changes))):
        published_fscs_episode(0, **{"benchmark": "pascal", "fold": 0, "way": 1, "shot": 1, **changes})

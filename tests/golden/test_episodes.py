"""Meta-Dataset's sampler and hierarchy, SimCLR episodes and the FS-CS test episodes of the original codes."""

import numpy
import pytest
from golden_cases import cases

from fewsight.data.episodes import (
    class_hierarchy,
    episode_shots,
    published_fscs_episode,
    sample_episode,
    simclr_episode,
)


@pytest.mark.parametrize("case", cases("meta_dataset_sampler"), ids=str)
def test_episode_shots(case):
    result = episode_shots(**case.inputs, **case.params)
    case.check(**result._asdict())


@pytest.mark.parametrize("case", cases("meta_dataset_episode"), ids=str)
def test_sample_episode(case):
    settings = case.params
    rng = numpy.random.RandomState(settings.pop("seed"))
    results = {}
    for number in range(settings.pop("num_episodes")):
        episode = sample_episode(**case.inputs, rng=rng, **settings)
        results |= {f"{name}_{number}": value for name, value in episode._asdict().items()}
    case.check(**results)


@pytest.mark.parametrize("case", cases("class_hierarchy"), ids=str)
def test_class_hierarchy(case):
    case.check(**class_hierarchy(**case.inputs, **case.params)._asdict())


@pytest.mark.parametrize("case", cases("simclr_episode"), ids=str)
def test_simclr_episode(case):
    result = simclr_episode(case.tensor("support_labels"), case.tensor("query_labels"))
    case.check(**result._asdict())


@pytest.mark.parametrize("case", cases("fscs_episodes"), ids=str)
def test_published_fscs_episode(case):
    settings = case.params
    episodes = [published_fscs_episode(index, **settings) for index in settings.pop("indices")]
    case.check(
        **{
            name: numpy.stack([getattr(episode, name) for episode in episodes])
            for name in episodes[0]._fields
        }
    )

"""SimCLR episodes: which photos, which labels, how often; a function of (seed, step); any head trains on them."""

from __future__ import annotations

import numpy
import pytest
import torch
from torch import Tensor

from fewsight.backbones.conv4 import Conv4
from fewsight.data.fixed_episodes import FixedEpisodes
from fewsight.data.store import PixelStore
from fewsight.data.transform import Transform
from fewsight.errors import InvalidInput
from fewsight.heads.crosstransformer import CrossTransformer
from fewsight.heads.head import Head
from fewsight.heads.matching import Matching
from fewsight.heads.prototypes import Prototypes
from fewsight.objectives.episodic import Episodic
from fewsight.objectives.simclr_episodes import SimclrEpisodes
from fewsight.training.episode_source import EpisodeSource

LABELS = torch.tensor([4, 9, 4, 4, 9, 2, 4, 9, 9, 9, 2])
ROLES = torch.tensor([0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
ALWAYS = SimclrEpisodes(fraction=1.0)


def pixels(count: int = 11) -> Tensor:
    """Pictures of one grey value each, by which they are known again."""
    grey = torch.arange(count, dtype=torch.uint8) * 20
    return grey[:, None, None, None].expand(-1, 3, 16, 16).contiguous()


def test_supports_are_classes_and_the_first_of_each_class_queries() -> None:
    episode = ALWAYS.converted(pixels(), LABELS, ROLES, seed=0, step=3)
    # class 4 has one query, class 9 three queries but two supports, class 2 one of each
    assert episode.rows.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 4, 5]
    assert episode.labels.tolist() == [0, 1, 2, 3, 4, 5, 0, 1, 4, 5]
    assert episode.roles.tolist() == [0] * 6 + [1] * 4
    assert episode.images.shape == (10, 3, 16, 16)
    assert episode.images.dtype == torch.float32


def test_roles_may_be_mixed() -> None:
    order = torch.tensor([7, 0, 10, 3, 1, 6, 5, 2, 8, 4, 9])
    episode = ALWAYS.converted(pixels()[order], LABELS[order], ROLES[order], seed=0, step=3)
    supports = order[episode.rows[episode.roles == 0]]
    assert sorted(supports.tolist()) == [0, 1, 2, 3, 4, 5]
    queries = order[episode.rows[episode.roles == 1]]
    assert torch.equal(queries, supports[episode.labels[episode.roles == 1]])
    assert LABELS[queries].tolist().count(4) == 1


def test_random_selection_takes_as_many_of_each_class() -> None:
    settings = SimclrEpisodes(fraction=1.0, selection="random")
    chosen = set()
    for step in range(40):
        episode = settings.converted(pixels(), LABELS, ROLES, seed=0, step=step)
        queries = episode.rows[episode.roles == 1]
        assert sorted(LABELS[queries].tolist()) == [2, 4, 9, 9]
        assert torch.equal(queries, episode.labels[episode.roles == 1])
        chosen |= set(queries.tolist())
    assert chosen == {0, 1, 2, 3, 4, 5}


def test_fraction_is_kept_and_hangs_on_seed_and_step_alone() -> None:
    half = SimclrEpisodes()
    first = [half.converts(0, step) for step in range(1000)]
    assert 450 < sum(first) < 550
    assert first == [half.converts(0, step) for step in range(1000)]
    assert first != [half.converts(1, step) for step in range(1000)]
    assert not any(SimclrEpisodes(fraction=0.0).converts(0, step) for step in range(1000))
    assert all(ALWAYS.converts(0, step) for step in range(1000))


def test_an_episode_that_stays_is_given_back_as_it_is() -> None:
    never = SimclrEpisodes(fraction=0.0)
    images = pixels()
    episode = never.converted(images, LABELS, ROLES, seed=0, step=3)
    assert episode.images is images
    assert torch.equal(episode.rows, torch.arange(11))
    augmented = SimclrEpisodes(fraction=0.0, augment_others=True)
    other = augmented.converted(images, LABELS, ROLES, seed=0, step=3)
    assert torch.equal(other.labels, LABELS)
    assert not torch.equal(other.images, images.float() / 255)


def test_queries_are_blurred_and_supports_are_not() -> None:
    white = torch.full((11, 3, 40, 40), 255, dtype=torch.uint8)
    episode = SimclrEpisodes(fraction=1.0, strength=0.0).converted(white, LABELS, ROLES, seed=0, step=0)
    border = episode.images[:, 0, 0, 20]
    assert (border[episode.roles == 0] > 1 - 1e-5).all()
    assert (border[episode.roles == 1] < 0.99).any()


def test_views_follow_the_settings() -> None:
    """Whole, unblurred pictures without jitter are the photos, mirrored or not; flat ones show no mirror."""
    still = SimclrEpisodes(fraction=1.0, strength=0.0, query_blur=0.0, smallest_crop=1.0)
    episode = still.converted(pixels(), LABELS, ROLES, seed=0, step=3)
    torch.testing.assert_close(episode.images, pixels()[episode.rows].float() / 255, atol=1e-4, rtol=0)


def test_views_of_one_photo_differ_and_repeat() -> None:
    noise = torch.rand(11, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    one, other = (ALWAYS.converted(noise, LABELS, ROLES, seed=0, step=3) for _ in range(2))
    assert torch.equal(one.images, other.images)
    assert not torch.equal(one.images[0], one.images[6])  # support 0 and its view as a query
    assert not torch.equal(one.images, ALWAYS.converted(noise, LABELS, ROLES, seed=0, step=4).images)


def source(simclr: SimclrEpisodes | None) -> EpisodeSource:
    content = numpy.random.default_rng(0).integers(0, 256, (24, 32, 32, 3), dtype=numpy.uint8)
    rows = [numpy.arange(6) + 6 * k for k in range(4)]
    transform = Transform(size=(32, 32), mode="squash", mean=(0.5,) * 3, std=(0.5,) * 3)
    return EpisodeSource(
        PixelStore(content, frozenset(), ""), FixedEpisodes(rows, 3, 2, 2), transform, simclr
    )


def test_source_gives_the_rows_of_the_photos() -> None:
    plain, converted = source(None)(7), source(ALWAYS)(7)
    assert plain.index is not None
    assert converted.index is not None
    assert converted.labels is not None
    assert torch.equal(converted.index[:6], plain.index[:6])
    assert torch.equal(converted.index[6:], plain.index[converted.labels[6:]])
    assert converted.images[0].shape == (12, 3, 32, 32)
    assert -1 <= float(converted.images[0].min()) < 0 < float(converted.images[0].max()) <= 1


@pytest.mark.parametrize(
    "head",
    [CrossTransformer(8, key_dim=4, value_dim=4), Prototypes(), Matching()],
    ids=lambda h: type(h).__name__,
)
def test_any_head_learns_from_them(head: Head) -> None:
    torch.manual_seed(0)
    objective = Episodic(Conv4(8, 8, "group"), head)
    terms = objective.backward(source(ALWAYS)(0))
    assert terms.total.isfinite()
    assert all(p.grad is not None for p in objective.encoder.parameters())
    assert any(p.grad.abs().max() > 0 for p in objective.encoder.parameters())  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"fraction": 1.5}, "fraction is 1.5"),
        ({"query_blur": -1}, "query_blur is -1"),
        ({"smallest_crop": 1.5}, "smallest_crop is 1.5"),
        ({"selection": "last"}, "selection is 'last'"),
    ],
)
def test_errors_name_the_setting(settings: dict, named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        SimclrEpisodes(**settings)

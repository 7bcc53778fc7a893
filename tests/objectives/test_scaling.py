"""Settings by the size of the data."""

from __future__ import annotations

import pytest
import torch

from fewsight.errors import InvalidInput
from fewsight.objectives.assignments import sinkhorn
from fewsight.objectives.dino import DinoSettings
from fewsight.objectives.ibot import IbotSettings
from fewsight.objectives.mae_training import MaeSettings
from fewsight.objectives.masked_clustering import MaskedClusteringSettings
from fewsight.objectives.moco_v3 import MocoV3Settings
from fewsight.objectives.msn import MsnSettings
from fewsight.objectives.scaling import data_scale, flat_targets, scaled_values

SIZES = (10, 500, 1_999, 2_000, 19_999, 50_000, 99_999, 499_999, 500_000, 1_281_167)


def test_more_photos_never_ask_for_less():
    scales = [data_scale(images, batch=100_000) for images in SIZES]
    for name in ("prototypes", "teacher_temperature", "local_views", "hidden", "momentum", "least_steps"):
        values = [getattr(scale, name) for scale in scales]
        assert values == sorted(values), name
    assert [scale.from_scratch for scale in scales] == [images >= 2_000 for images in SIZES]


@pytest.mark.parametrize("batch", [1, 16, 64, 1024])
@pytest.mark.parametrize("images", SIZES)
def test_prototypes_suit_the_batch(images, batch):
    for collapse, room in (("sinkhorn+memax", 2 * batch), ("centring", 8 * batch), ("memax", 8 * batch)):
        scale = data_scale(images, batch=batch, collapse=collapse)
        assert 2 <= scale.prototypes <= max(2, room)
        assert flat_targets(scale.prototypes, room, collapse) is None


def test_pitfall_3_more_prototypes_than_rows_make_flat_targets():
    cosines = torch.rand(32, 1024, generator=torch.Generator().manual_seed(0)) * 2 - 1
    # the bound is of the converged assignment
    assert sinkhorn(cosines, 0.05, 100).max() <= 1.01 * 32 / 1024, "p <= B / K"
    told = flat_targets(1024, 32, "sinkhorn")
    assert told is not None
    assert "0.03" in told
    assert flat_targets(1024, 32, "centring") is None


@pytest.mark.parametrize("kind", [DinoSettings, IbotSettings, MaskedClusteringSettings, MsnSettings])
def test_values_fit_the_settings(kind):
    values = scaled_values(kind, 500, batch=32, steps=2_000)
    settings = kind(**values)
    assert settings.prototypes <= 8 * 32
    assert settings.hidden == 512
    if kind is MaskedClusteringSettings:
        assert settings.patch_prototypes == settings.prototypes
    if kind is DinoSettings:
        assert settings.temperature_warmup == 0.3
        assert settings.frozen_prototypes == pytest.approx(15 / 2_000)


def test_objectives_without_clusters_keep_their_values():
    assert scaled_values(MaeSettings, 500, batch=32, steps=100) == {}
    assert scaled_values(MocoV3Settings, 500, batch=32, steps=100) == {}


def test_nothing_is_refused():
    with pytest.raises(InvalidInput, match="images is 0"):
        data_scale(0, batch=1)

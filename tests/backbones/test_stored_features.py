"""Stored features: the same numbers from the disk, from memory and fresh; bad photos and copies left out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from fewsight.backbones.bundled import load_bundled
from fewsight.backbones.encode import Encoder
from fewsight.backbones.feature_cache import FeatureCache
from fewsight.backbones.features import Request
from fewsight.backbones.stored_features import store_features
from fewsight.data.layouts import read_layout
from fewsight.data.scene_folder import write_scenes
from fewsight.errors import InvalidInput

EVERYTHING = Request(blocks="all", attention=True, keys=True, class_query=True)


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    return write_scenes(tmp_path / "scenes", base=5, novel=0, size=64, num_classes=8)


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return Encoder(load_bundled(), EVERYTHING, precision="fp32")


def test_a_budget_changes_no_number(scenes: Path, tmp_path: Path, encoder: Encoder) -> None:
    collection = read_layout(scenes).collection
    with FeatureCache(tmp_path / "large") as large, FeatureCache(tmp_path / "none", limit=1) as none:
        kept = store_features(encoder, collection, large, workers=0).rows([3, 1, 3, 0])
        again = store_features(encoder, collection, none, workers=0)
        fresh = again.rows([3, 1, 3, 0])
        assert none.usage().entries < 5
        once_more = again.rows([3, 1, 3, 0])
    for first, second in ((kept, fresh), (kept, once_more)):
        assert torch.equal(first.patches, second.patches)
        assert torch.equal(first.blocks.patches, second.blocks.patches)
        assert torch.equal(first.attention, second.attention)
    assert torch.equal(kept.patches[0], kept.patches[2])
    assert kept.patches.dtype == torch.float32


def test_bad_photos_and_copies_are_left_out(scenes: Path, tmp_path: Path, encoder: Encoder) -> None:
    images = sorted((scenes / "images" / "train").iterdir())
    images[1].write_bytes(b"not a picture")
    shutil.copy(images[2], images[4])
    with FeatureCache(tmp_path / "cache") as cache:
        for _ in range(2):  # fresh, and from the cache
            stored = store_features(encoder, read_layout(scenes).collection, cache, workers=0)
            assert len(stored) == 3
            assert [file for file, _ in stored.left_out] == [
                "images/train/00001.png",
                "images/train/00004.png",
            ]
            assert stored.sizes == ((64, 64),) * 3
        for image in images:
            image.write_bytes(b"")
        with pytest.raises(InvalidInput, match="none of 5 photos can be read"):
            store_features(encoder, read_layout(scenes).collection, cache, workers=0)

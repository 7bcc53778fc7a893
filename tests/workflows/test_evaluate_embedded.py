"""`evaluate` on what `embed` wrote: the figures of the photos themselves, and what such a folder cannot answer."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from photo_folders import picture, write_labelled

from fewsight.errors import InvalidInput
from fewsight.workflows import judged_models as module
from fewsight.workflows.embed import embed
from fewsight.workflows.evaluate import evaluate

PHOTOS: dict[str, Any] = {"image_size": 64, "quiet": True, "device": "cpu", "precision": "fp32"}


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.setenv("FEWSIGHT_CACHE", str(tmp_path / "cache"))
    photos = write_labelled(tmp_path / "photos", 5)
    (photos / "dots" / "damaged.png").write_bytes(b"no picture")
    embed(photos, tmp_path / "run", backbone="fewsight-bundled", batch_size=2, shard_size=4, **PHOTOS)
    return photos, tmp_path / "run"


@pytest.mark.parametrize("protocol", ["episodes", "knn"])
def test_same_figures_as_from_the_photos(
    folders: tuple[Path, Path], protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options: dict[str, Any] = {"protocol": protocol, "way": 3, "shots": (1,), "query": 2, "episodes": 20}
    direct = evaluate(folders[0], backbone="fewsight-bundled", **options, **PHOTOS)
    monkeypatch.setattr(module, "encode_collection", None)
    stored = evaluate(folders[1], quiet=True, **options)
    assert [result.value for result in stored.results] == [result.value for result in direct.results]
    assert any("1 photos without features" in remark for remark in stored.remarks)
    shutil.rmtree(folders[0])  # without the photos, the folders in the names of the index are the classes
    gone = evaluate(folders[1], quiet=True, **options)
    assert [result.value for result in gone.results] == [result.value for result in direct.results]
    if protocol == "episodes":
        pair = evaluate(folders[1], against="neighbours", quiet=True, **options)
        assert pair.comparisons["3-way 1-shot"].difference.n == 20


def test_what_features_cannot_answer(folders: tuple[Path, Path]) -> None:
    photos, run = folders
    with pytest.raises(InvalidInput, match="patch tokens"):
        evaluate(run, head="crosstransformer", quiet=True)
    with pytest.raises(InvalidInput, match="holds features of fewsight-bundled"):
        evaluate(run, backbone="dino-s16", quiet=True)
    with pytest.raises(InvalidInput, match="needs masks"):
        evaluate(run, protocol="segmentation", quiet=True)
    picture("dots", 77).save(photos / "dots" / "new.png")
    with pytest.raises(InvalidInput, match="have changed"):
        evaluate(run, quiet=True)

"""`evaluate --protocol meta-dataset` as its user calls it, on two fabricated sources."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from photo_folders import picture

from fewsight.data.splits import meta_dataset_images
from fewsight.errors import InvalidInput
from fewsight.workflows.evaluate import evaluate

SETTINGS: dict[str, Any] = {
    "protocol": "meta-dataset",
    "backbone": "fewsight-bundled",
    "image_size": 64,
    "quiet": True,
    "device": "cpu",
    "precision": "fp32",
    "episodes": 4,
}


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FEWSIGHT_CACHE", str(tmp_path / "cache"))
    for source, folder in (("dtd", "dtd/images"), ("aircraft", "aircraft")):
        for number, name in enumerate(meta_dataset_images(source, "test")):
            (tmp_path / "data" / folder / name).mkdir(parents=True)
            for shot in range(4):
                kind = ("stripes", "dots", "plain")[number % 3]
                picture(kind, 50 * number + shot).save(tmp_path / "data" / folder / name / f"{shot}.png")
    return tmp_path / "data"


def test_sources_there_are_scored_and_missing_ones_named(data: Path) -> None:
    found = evaluate(data, against="neighbours", **SETTINGS)
    scored = {(result.dataset, result.metric) for result in found.results}
    assert {("dtd", "accuracy"), ("aircraft", "accuracy")} < scored
    assert sum("not found; looked in" in remark for remark in found.remarks) == 8
    assert any("28 photos, 840 in the published set" in remark for remark in found.remarks)
    assert found.comparisons["dtd"].difference.n == 4
    told = json.loads(json.dumps(found.summary()))
    ours = [row for row in told["published"] if row["ours"]]
    assert [row["beside"] for row in ours] == ["ImageNet", "eight sources"]
    assert set(ours[0]["figures"]) == {"dtd", "aircraft"}
    assert len(told["published"]) == 39
    lines = list(found.sentences())
    assert any(line.startswith("> fewsight-bundled with prototypes") for line in lines)


def test_episodes_of_sources_are_saved_and_scored_again(data: Path, tmp_path: Path) -> None:
    first = evaluate(data, save_episodes=tmp_path / "list.npz", **SETTINGS)
    again = evaluate(data, load_episodes=tmp_path / "list.npz", seed=5, **SETTINGS)
    assert [result.value for result in again.results] == [result.value for result in first.results]
    picture("dots", 1).save(data / "dtd" / "images" / "banded" / "more.png")
    with pytest.raises(InvalidInput, match="drawn from other data"):
        evaluate(data, load_episodes=tmp_path / "list.npz", **SETTINGS)


def test_unreadable_photos_are_left_out(data: Path) -> None:
    for name in meta_dataset_images("dtd", "test"):
        (data / "dtd" / "images" / name / "0.png").write_text("no picture")
    found = evaluate(data, **SETTINGS)
    assert any("dtd: 7 photos cannot be read" in remark for remark in found.remarks)


def test_what_has_no_meaning_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="leave --way out"):
        evaluate(data, way=3, **SETTINGS)
    with pytest.raises(InvalidInput, match="leave --group-by out"):
        evaluate(data, group_by="folder", **SETTINGS)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match="no source of Meta-Dataset is in"):
        evaluate(tmp_path / "empty", **SETTINGS)
    with pytest.raises(InvalidInput, match="no folder of photos"):
        evaluate(tmp_path / "gone", **SETTINGS)

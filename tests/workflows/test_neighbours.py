"""`neighbours`: where photos of new classes land, as one number and as pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest
import torch
from photo_folders import picture, write_labelled

from fewsight.errors import InvalidInput
from fewsight.workflows import neighbours as module
from fewsight.workflows.neighbours import nearest_neighbours, neighbours

SETTINGS = {
    "backbone": "fewsight-bundled",
    "image_size": 64,
    "quiet": True,
    "device": "cpu",
    "precision": "fp32",
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEWSIGHT_CACHE", str(tmp_path / "cache"))


def test_new_class_finds_its_own_kind(tmp_path: Path) -> None:
    write_labelled(tmp_path / "data" / "train", 3, ("stripes", "plain"))
    write_labelled(tmp_path / "data" / "test", 4, ("dots",))
    found = neighbours(tmp_path / "data", k=3, out=tmp_path / "run", **SETTINGS)  # type: ignore[arg-type]
    assert (found.trained_on, found.tested) == (6, 4)
    assert found.shares["own class"].mean == 1
    assert found.collapse.mean == 0
    assert found.collapse.high > 0.2  # four queries show no more
    assert found.by_chance["wrong training class"] == pytest.approx(6 / 9)
    for row in found.queries:
        assert row.query not in row.nearest
        assert list(row.cosines) == sorted(row.cosines, reverse=True)
    held = json.loads((tmp_path / "run" / "neighbours.json").read_text(encoding="utf-8"))
    assert held["shares"]["wrong training class"]["mean"] == 0
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/webp") == 4  # each photo stands in the page once
    assert page.count('class="mark right"') == 12


def test_collapsed_class_is_counted_and_marked(tmp_path: Path) -> None:
    write_labelled(tmp_path / "old", 3, ("stripes", "plain"))
    for shot in range(2):  # stripes under another name: nearest to the stripes trained on
        (tmp_path / "new" / "bars").mkdir(parents=True, exist_ok=True)
        picture("stripes", 900 + shot).save(tmp_path / "new" / "bars" / f"{shot}.png")
    (tmp_path / "new" / "dots").mkdir()
    for shot in range(5):
        picture("dots", 700 + shot).save(tmp_path / "new" / "dots" / f"{shot}.png")
    found = neighbours(
        tmp_path / "new",
        train=tmp_path / "old",
        k=4,
        out=tmp_path / "run",
        **SETTINGS,  # type: ignore[arg-type]
    )
    assert found.by_class["dots"] == 0
    assert found.by_class["bars"] >= 0.75
    assert found.queries[0].query.labels == ("bars",)
    assert found.collapse.mean == pytest.approx(2 * found.by_class["bars"] / 7)
    assert found.collapse.low <= found.collapse.mean <= found.collapse.high
    assert any("only 1 other" in remark for remark in found.remarks)
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert page.count('class="mark wrong"') == 2 * 4 * found.by_class["bars"]
    assert sum(share.mean for share in found.shares.values()) == pytest.approx(1)


@pytest.mark.parametrize("chunk", [1, 2**20])
def test_nearest_against_a_loop(monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(module, "CHUNK", chunk)
    pool = torch.randn(9, 4, generator=torch.Generator().manual_seed(3))
    indices, cosines = nearest_neighbours(pool[5:], pool, 3)
    for query in range(4):
        own = 5 + query
        all_cosines = torch.nn.functional.cosine_similarity(pool[own][None], pool)
        expected = sorted((row for row in range(9) if row != own), key=lambda row: -float(all_cosines[row]))
        assert indices[query].tolist() == expected[:3]
        assert torch.allclose(cosines[query], all_cosines[expected[:3]])


def test_kinds_of_a_class_on_both_sides() -> None:
    photos = tuple(
        module.Photo(name, name, tuple(labels.split()), trained_on)
        for name, labels, trained_on in (
            ("a", "cat", True), ("b", "dog", True), ("c", "cat", False), ("d", "owl", False), ("e", "owl dog", False)
        )
    )  # fmt: skip
    expected = [[0, 1, 0, 2, 2], [1, 1, 2, 0, 0], [1, 0, 2, 0, 0]]
    assert module._kinds(photos, 2).tolist() == expected


def test_interval_draws_whole_queries() -> None:
    alike = module._share(numpy.repeat([[True], [False]], 50, axis=1).repeat(20, axis=0))
    mixed = module._share(numpy.tile([True, False], (40, 25)))
    assert alike.mean == mixed.mean == 0.5
    assert alike.n == mixed.n == 40
    assert 0.1 < alike.half_width < 0.2  # 40 queries, not 2,000 neighbours
    assert 0.1 < mixed.half_width < 0.2  # no spread to draw from


def test_missing_splits_and_k_are_named(tmp_path: Path) -> None:
    write_labelled(tmp_path / "data", 1)
    with pytest.raises(InvalidInput, match="--train"):
        neighbours(tmp_path / "data", **SETTINGS)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="k is 0"):
        neighbours(tmp_path / "data", k=0, **SETTINGS)  # type: ignore[arg-type]


def test_command_takes_the_model_before_the_photos(monkeypatch: pytest.MonkeyPatch) -> None:
    """`neighbours MODEL DATA`, `neighbours DATA` and `neighbours DATA --backbone MODEL`."""
    from fewsight.cli.neighbours import neighbours as command

    class Asked(Exception):
        pass

    def asked(data: Path, *, backbone: str, **_: object) -> None:
        raise Asked(f"{backbone} on {data}")

    monkeypatch.setattr(module, "neighbours", asked)
    for arguments, expected in (
        (("run/model", Path("photos")), "run/model on photos"),
        (("photos", None), "auto on photos"),
        (("photos", None, "dino-s16"), "dino-s16 on photos"),
    ):
        with pytest.raises(Asked, match=f"^{expected}$"):
            command(*arguments)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput, match="two backbones"):
        command("run/model", Path("photos"), "dino-s16")

"""`geometry`: the measures of the features it encoded, beside their lines, in words and on a page."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from photo_folders import write_labelled

from fewsight.errors import InvalidInput, RunExists
from fewsight.evaluation import geometry as measures
from fewsight.evaluation.feature_sums import unit_rows
from fewsight.workflows import geometry as module
from fewsight.workflows import geometry_result
from fewsight.workflows.encoded_data import EncodedData, encode_data, vectors_of
from fewsight.workflows.geometry import geometry, measure_space, reference_lines
from fewsight.workflows.geometry_report import cosine_histogram, variance_shares

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


def test_measures_of_each_split_with_page_and_json(tmp_path: Path) -> None:
    write_labelled(tmp_path / "data" / "train", 3, ("stripes", "plain"))
    write_labelled(tmp_path / "data" / "test", 3, ("dots",))
    found = geometry(tmp_path / "data", out=tmp_path / "run", **SETTINGS)  # type: ignore[arg-type]
    assert {name: part.photos for name, part in found.after.parts.items()} == {
        "all": 9,
        "train": 6,
        "test": 3,
    }
    features, labels = found.after.features, torch.from_numpy(found.collection.targets())
    whole = found.after.parts["all"]
    assert whole.unit["isoscore"] == pytest.approx(float(measures.isoscore(unit_rows(features))))
    assert whole.raw["isoscore"] == pytest.approx(float(measures.isoscore(features)))
    assert whole.raw["nc1"] == pytest.approx(float(measures.nc1(features, labels)))
    assert whole.lines["collapsed"]["participation_ratio"] == 2
    held = json.loads((tmp_path / "run" / "geometry.json").read_text(encoding="utf-8"))
    assert held["backbones"][0]["parts"]["test"]["unit"]["class_separation"] is None  # one class
    assert held["meaning"] == list(found.meaning())
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert page.count("<circle cx=") >= 9
    for title in ("What the figures say", "The spectrum", "The cosines", "A map", "Split test"):
        assert title in page
    assert (tmp_path / "run" / "run.yaml").exists()
    with pytest.raises(RunExists):
        geometry(tmp_path / "data", out=tmp_path / "run", **SETTINGS)  # type: ignore[arg-type]


def test_before_and_after_on_the_same_photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_labelled(tmp_path / "data", 2)
    offset = torch.tensor(0.0)

    def vectors(features: object) -> torch.Tensor:
        """The first space as it is, the second with a common offset: a narrower cone with the same spectrum."""
        moved = vectors_of(features) + offset  # type: ignore[arg-type]
        offset.add_(5)
        return moved

    monkeypatch.setattr(module, "vectors_of", vectors)
    found = geometry(tmp_path / "data", against="fewsight-bundled", **SETTINGS)  # type: ignore[arg-type]
    assert found.before is not None
    assert [space is found.before for space in found.spaces] == [True, False]
    before, after = (space.parts["all"] for space in found.spaces)
    assert before.unit["average_cosine"] > after.unit["average_cosine"]
    assert before.raw["isoscore"] == pytest.approx(
        after.raw["isoscore"], rel=1e-3
    )  # float32 of shifted features
    told = " ".join(found.meaning())
    assert f"average cosine went from {before.unit['average_cosine']:.2f}" in told
    separation = before.unit["class_separation"], after.unit["class_separation"]
    assert "class separation {:.2f} before, {:.2f} after".format(*separation) in told
    assert [held["role"] for held in found.summary()["backbones"]] == ["before", "after"]


def test_words_say_when_cosine_and_isoscore_disagree() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(60) % 3
    cone = torch.randn(60, 8, generator=generator) + 8  # white around a far mean
    corners = torch.eye(8)[labels] - torch.eye(8)[:3].mean(0) + 1e-3 * torch.randn(60, 8, generator=generator)
    spaces = [
        module.Space(name, features, {"all": measure_space(features, labels)})
        for name, features in (("cone", cone), ("simplex", corners))
    ]
    told = list(geometry_result._change(*spaces))
    assert "they disagree" in told[0]
    assert "further apart" in told[1]


@pytest.mark.parametrize(
    ("cosine", "isoscore", "words"),
    [
        (-0.2, 0.1, "more isotropic by both"),
        (0.2, -0.1, "less isotropic by both"),
        (-0.2, -0.1, "they disagree"),
        (-0.2, 0.0, "more isotropic by the cosine alone"),
        (0.0, -0.1, "less isotropic by IsoScore alone"),
        (0.0, 0.0, "as isotropic as before"),
    ],
)
def test_verdict(cosine: float, isoscore: float, words: str) -> None:
    assert geometry_result._verdict(cosine, isoscore).startswith(words)


def test_words_say_when_nothing_changed() -> None:
    part = measure_space(torch.randn(20, 4, generator=torch.Generator().manual_seed(2)), torch.arange(20) % 2)
    space = module.Space("one", torch.zeros(20, 4), {"all": part})
    told = list(geometry_result._change(space, space))
    assert told[0].endswith("as isotropic as before.")
    assert "as far apart as before" in told[1]


def test_simplex_lies_on_the_line_of_collapsed_classes() -> None:
    labels = torch.arange(40) % 4
    part = measure_space((torch.eye(6)[:4] - torch.eye(6)[:4].mean(0))[labels], labels)
    for name, value in part.lines["collapsed"].items():
        assert part.unit[name] == pytest.approx(value, abs=1e-5), name  # float32 features


def test_lines_of_small_data() -> None:
    assert reference_lines(2, 4, 1)["collapsed"] == {}
    assert "isoscore" not in reference_lines(2, 4, 1)["white"]


def test_histogram_and_spectrum_against_pairs() -> None:
    features = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 2])
    within, between = cosine_histogram(features, labels, bins=4)
    counts = torch.zeros(2, 4)
    for i in range(7):
        for j in range(i):
            cosine = torch.nn.functional.cosine_similarity(features[i], features[j], dim=0)
            counts[int(labels[i] != labels[j]), min(3, int((float(cosine) + 1) * 2))] += 1
    assert torch.allclose(within, counts[0] / 5)
    assert torch.allclose(between, counts[1] / 16)
    variances = torch.linalg.eigvalsh(torch.cov(features.double().T)).flip(0)
    assert torch.allclose(variance_shares(features), variances / variances.sum())
    wide = variance_shares(torch.randn(3, 9, generator=torch.Generator().manual_seed(0)))
    assert len(wide) == 2
    assert math.isclose(float(wide.sum()), 1)


def test_one_split_is_not_measured_twice(tmp_path: Path) -> None:
    write_labelled(tmp_path / "data" / "train", 2, ("stripes", "plain"))
    write_labelled(tmp_path / "data" / "test", 2, ("dots",))
    found = geometry(tmp_path / "data", split="train", **SETTINGS)  # type: ignore[arg-type]
    assert list(found.after.parts) == ["all"]
    assert found.after.parts["all"].photos == 4


def test_one_photo_is_named(tmp_path: Path) -> None:
    write_labelled(tmp_path / "one", 1, ("dots",))
    with pytest.raises(InvalidInput, match="at least two"):
        geometry(tmp_path / "one", **SETTINGS)  # type: ignore[arg-type]


def test_encoded_data_is_taken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_labelled(tmp_path / "data", 2, ("dots", "plain"))
    calls = []

    def counting(*words: object, **settings: object) -> EncodedData:
        calls.append(words)
        return encode_data(*words, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "encode_data", counting)
    geometry(tmp_path / "data", out=tmp_path / "run", **SETTINGS)  # type: ignore[arg-type]
    assert len(calls) == 1

"""The projector of a training, kept beside the model, and what `geometry` makes of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from photo_folders import write_labelled
from torch import Tensor

from fewsight import FewShotClassifier, load_backbone
from fewsight.errors import IncompatibleModel, InvalidInput
from fewsight.evaluation import geometry as measures
from fewsight.model import SavedModel, read_model
from fewsight.objectives.label_contrastive import LabelContrastiveSettings
from fewsight.workflows.adapt_model import name_adapted, write_classifier
from fewsight.workflows.geometry import geometry
from fewsight.workflows.geometry_result import HELD_OUT, TRAINED_ON
from fewsight.workflows.projectors import Projectors, read_projectors, with_projectors

WIDTH = 256  # of the bundled backbone's vectors
SETTINGS = {"quiet": True, "device": "cpu", "precision": "fp32"}


def projector(seed: int) -> dict[str, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return dict(LabelContrastiveSettings().projector(WIDTH).state_dict())


@pytest.fixture
def adapted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model as `adapt` writes it: the bundled backbone, moved a little, trained on two classes."""
    monkeypatch.setenv("FEWSIGHT_CACHE", str(tmp_path / "cache"))
    backbone = load_backbone("fewsight-bundled", image_size=64, device="cpu")
    with torch.no_grad():
        backbone.norm.weight.mul_(torch.linspace(0.5, 1.5, WIDTH))  # type: ignore[union-attr, operator]
    vectors = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(0))
    told = {"from": "fewsight-bundled", "classes": ["stripes", "dots"]}
    write_classifier(
        tmp_path / "run" / "model",
        name_adapted(backbone, "pictures"),
        "prototypes",
        vectors,
        ["stripes", "stripes", "dots", "dots"],
        list("1234"),
        None,
        told,
        seed=0,
        projectors=Projectors(projector(1), projector(2)),
    )
    return tmp_path / "run"


def test_backbone_and_projector_before_and_after_on_classes_trained_on_and_others(
    adapted: Path, tmp_path: Path
) -> None:
    write_labelled(tmp_path / "data", 3)
    found = geometry(adapted, tmp_path / "data", against="fewsight-bundled", out=tmp_path / "out", **SETTINGS)  # type: ignore[arg-type]
    assert {name: part.photos for name, part in found.after.parts.items()} == {
        "all": 9,
        TRAINED_ON: 6,
        HELD_OUT: 3,
    }
    assert [view.name for view in found.views] == ["backbone", "projector"]
    assert found.projected is not None
    for space, source, seed in (
        (found.projected.after, found.after, 1),
        (found.projected.before, found.before, 2),
    ):
        assert space is not None
        assert source is not None
        held = projector(seed)
        wide = torch.relu(source.features @ held["0.weight"].T + held["0.bias"])
        expected = wide @ held["2.weight"].T + held["2.bias"]
        assert torch.allclose(space.features, expected, atol=1e-4)
        assert space.parts["all"].unit["isoscore"] == pytest.approx(
            float(measures.isoscore(torch.nn.functional.normalize(expected))), rel=1e-3
        )
    assert not torch.allclose(found.after.features, found.before.features)  # type: ignore[union-attr]
    told = found.summary()
    assert [held["role"] for held in told["projectors"]] == ["before", "after"]
    assert told["projectors"][1]["width"] == 128
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for words in ("behind the projector", "Classes trained on: 6 photos", "Held-out classes"):
        assert words in page


def test_a_model_with_a_projector_still_predicts(adapted: Path) -> None:
    classifier = FewShotClassifier.load(adapted / "model", device="cpu")
    assert classifier.classes_.tolist() == ["dots", "stripes"]
    assert classifier.photo_encoder().backbone.name == "fewsight-bundled+pictures"


def test_tensors_come_back_as_modules() -> None:
    saved = with_projectors(SavedModel("backbone", {}, {}), Projectors(projector(1), projector(2)))
    found = read_projectors(saved)
    assert found is not None
    for module, seed in zip(found, (1, 2), strict=True):
        state = projector(seed)
        assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert read_projectors(SavedModel("backbone", {}, {})) is None
    assert with_projectors(SavedModel("backbone", {}, {}), None).tensors == {}


def test_a_damaged_projector_is_named(adapted: Path) -> None:
    saved = read_model(adapted / "model")
    broken = dict(saved.tensors)
    del broken["projector.2.weight"]
    with pytest.raises(IncompatibleModel, match="projector"):
        read_projectors(SavedModel("classifier", saved.description, broken))


def test_a_model_given_twice_is_refused(adapted: Path, tmp_path: Path) -> None:
    write_labelled(tmp_path / "data", 2)
    with pytest.raises(InvalidInput, match="given twice"):
        geometry(adapted, tmp_path / "data", backbone="resnet50", **SETTINGS)  # type: ignore[arg-type]

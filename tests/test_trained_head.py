"""The head of a model folder that `metatrain` wrote: taken by the faces where it is asked for by name."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from fewsight.backbones.architectures import untrained_backbone
from fewsight.backbones.description import describe
from fewsight.classifier import FewShotClassifier
from fewsight.errors import IncompatibleModel
from fewsight.heads.crosstransformer import CrossTransformer
from fewsight.heads.prototypes import Prototypes
from fewsight.model import SavedModel, write_model
from fewsight.trained_head import make_head, trained_head
from workflows.photo_folders import write_labelled


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    backbone = untrained_backbone("conv4", image_size=32, width=16, output_stride=8, norm="group")
    head = CrossTransformer(16, key_dim=4, value_dim=4)
    tensors = {f"backbone.{name}": value for name, value in backbone.state_dict().items()}
    tensors |= {f"head.{name}": value for name, value in head.state_dict().items()}
    told = {
        "backbone": describe(backbone),
        "head": {"name": "crosstransformer", "settings": {"dim": 16, "key_dim": 4, "value_dim": 4}},
    }
    write_model(tmp_path / "run" / "model", SavedModel("backbone", told, tensors))
    return tmp_path / "run"


def test_the_trained_head_comes_back(folder: Path) -> None:
    head = trained_head(folder)
    assert isinstance(head, CrossTransformer)
    assert not head.training
    assert type(make_head("crosstransformer", folder, "patches")) is CrossTransformer
    made = make_head("crosstransformer", str(folder / "model"), "patches")
    assert isinstance(made, CrossTransformer)
    assert torch.equal(made.key_weight, head.key_weight)  # type: ignore[arg-type]
    assert not made.key_weight.requires_grad  # type: ignore[union-attr]


def test_another_head_or_no_folder_gives_a_fresh_one(folder: Path, tmp_path: Path) -> None:
    assert isinstance(make_head("prototypes", folder, "patches"), Prototypes)
    fresh = make_head("crosstransformer", "fewsight-bundled", "cls")
    assert isinstance(fresh, CrossTransformer)
    assert fresh.key_weight is None
    assert trained_head(tmp_path) is None


def test_a_classifier_takes_saves_and_loads_it(folder: Path, tmp_path: Path) -> None:
    photos = write_labelled(tmp_path / "photos", 3)
    paths = sorted(photos.rglob("*.png"))
    labels = [path.parent.name for path in paths]
    fitted = FewShotClassifier(str(folder), "crosstransformer").fit(paths, labels)
    assert fitted.head_.key_weight is not None  # type: ignore[union-attr]
    scores = fitted.scores(paths)
    fitted.save(tmp_path / "saved")
    torch.testing.assert_close(FewShotClassifier.load(tmp_path / "saved").scores(paths), scores)
    untrained = FewShotClassifier(str(folder), CrossTransformer()).fit(paths, labels)
    assert not torch.allclose(untrained.scores(paths), scores)


def test_a_head_that_does_not_fit_its_description_is_refused(folder: Path) -> None:
    path = folder / "model" / "model.json"
    told = json.loads(path.read_text())
    told["head"]["settings"]["key_dim"] = 5
    path.write_text(json.dumps(told))
    with pytest.raises(IncompatibleModel, match="does not hold the head"):
        trained_head(folder)

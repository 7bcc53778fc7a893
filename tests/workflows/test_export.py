"""`export`: the file answers in ONNX Runtime as the model does, and says what a reader must know."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import Tensor

from fewsight import FewShotClassifier, FewShotSegmenter
from fewsight.backbones.architectures import untrained_backbone
from fewsight.backbones.backbone import Backbone, Licence
from fewsight.cli.main import main
from fewsight.errors import FewsightError, InvalidInput, RunExists
from fewsight.model import SavedModel, write_model
from fewsight.workflows.adapt_model import write_backbone
from fewsight.workflows.export import TOLERANCE, export

LABELS = list("aaabbccd")


def photos(count: int, *size: int, seed: int = 0) -> numpy.ndarray[Any, Any]:
    return numpy.random.default_rng(seed).integers(0, 256, (count, *size, 3), dtype=numpy.uint8)


def normalised(backbone: Backbone, pixels: numpy.ndarray[Any, Any]) -> Tensor:
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (backbone.mean, backbone.std))
    return (images - mean) / std


def run(path: Path, pixels: numpy.ndarray[Any, Any]) -> dict[str, numpy.ndarray[Any, Any]]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"photos": pixels}), strict=True))


def told(path: Path) -> dict[str, str]:
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return dict(session.get_modelmeta().custom_metadata_map)


@pytest.fixture(scope="module")
def bundled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FewShotClassifier]:
    """A classifier on the bundled backbone as a run's folder with its file, `model.onnx`."""
    folder = tmp_path_factory.mktemp("bundled")
    classifier = FewShotClassifier(
        "fewsight-bundled", image_size=96, reject=0.25, device="cpu", precision="fp32"
    )
    classifier.fit(photos(8, 96, 96), LABELS).save(folder / "model")
    made = export(folder, folder / "model.onnx", quiet=True)
    assert made.difference <= TOLERANCE
    assert made.bytes == (folder / "model.onnx").stat().st_size
    return folder, classifier


@pytest.mark.parametrize("shape", [(1, 96, 96), (4, 64, 160), (3, 131, 97), (2, 128, 128)])
def test_the_bundled_backbone_at_any_batch_and_size(
    bundled: tuple[Path, FewShotClassifier], shape: tuple[int, ...]
) -> None:
    folder, classifier = bundled
    pixels = photos(*shape, seed=1)
    found = run(folder / "model.onnx", pixels)
    backbone = classifier.photo_encoder().backbone
    with torch.no_grad():
        features = backbone.features(normalised(backbone, pixels))
    assert found["scores"] == pytest.approx(classifier.scores(features).numpy(), abs=1e-4)
    assert found["probabilities"] == pytest.approx(classifier.predict_proba(features), abs=1e-4)
    assert found["novelty"] == pytest.approx(classifier.novelty(features), abs=1e-4)


def test_the_answer_is_that_of_predict_for_a_photo_brought_to_size(
    bundled: tuple[Path, FewShotClassifier],
) -> None:
    folder, classifier = bundled
    picture = Image.fromarray(photos(1, 96, 96, seed=2)[0])
    found = run(folder / "model.onnx", numpy.asarray(picture)[None])
    assert found["probabilities"] == pytest.approx(classifier.predict_proba([picture]), abs=1e-4)


def test_what_stands_in_the_file(bundled: tuple[Path, FewShotClassifier]) -> None:
    folder, classifier = bundled
    values = told(folder / "model.onnx")
    assert json.loads(values["classes"]) == ["a", "b", "c", "d"]
    assert json.loads(values["transform"])["size"] == [96, 96]
    assert json.loads(values["licences"])["backbone weights"]["name"] == "Apache-2.0"
    assert json.loads(values["provenance"])["support_photos"] == 8
    assert json.loads(values["calibration"])["temperature"] == pytest.approx(classifier.trust_.temperature)
    assert classifier.rejection_ is not None
    assert json.loads(values["novelty_above_which_none_of_these"]) == pytest.approx(
        classifier.rejection_.value
    )
    assert json.loads(values["sides"]) == [64, 384]
    assert "uint8 [N, H, W, 3]" in values["input"]


def test_another_image_size_says_that_the_calibration_is_for_the_old_one(
    bundled: tuple[Path, FewShotClassifier], tmp_path: Path
) -> None:
    made = export(bundled[0] / "model", tmp_path / "m.onnx", image_size=64, pixels="float", quiet=True)
    assert any("calibration" in remark for remark in made.remarks)
    pixels = photos(3, 80, 64, seed=3)
    given = numpy.ascontiguousarray(pixels.transpose(0, 3, 1, 2) / numpy.float32(255), dtype=numpy.float32)
    same = run(bundled[0] / "model.onnx", pixels)["scores"]
    assert run(tmp_path / "m.onnx", given)["scores"] == pytest.approx(same, abs=1e-4)


@pytest.mark.parametrize("head", ["logistic", "neighbours", "matching", "crosstransformer"])
def test_every_head(head: str, tmp_path: Path) -> None:
    backbone = untrained_backbone("vit_tiny_patch16_224", image_size=48, depth=2, embed_dim=32, num_heads=2)
    backbone.eval()
    classifier = FewShotClassifier(backbone, head, device="cpu", precision="fp32").fit(
        photos(8, 48, 48), LABELS
    )
    classifier.save(tmp_path / "model")
    export(tmp_path / "model", tmp_path / "m.onnx", quiet=True)
    pixels = photos(7, 48, 48, seed=1)
    found = run(tmp_path / "m.onnx", pixels)
    with torch.no_grad():
        features = backbone.features(normalised(backbone, pixels), classifier.head_.request)
    assert found["scores"] == pytest.approx(classifier.scores(features).numpy(), rel=1e-4, abs=1e-4)
    assert found["probabilities"] == pytest.approx(classifier.predict_proba(features), abs=1e-4)


def test_several_labels_a_photo_have_a_sigmoid_each(tmp_path: Path) -> None:
    backbone = untrained_backbone("resnet10t", image_size=32)
    backbone.eval()
    labels = [{"a", "b"}, {"a"}, {"b"}, {"b", "c"}, {"c"}, {"a", "c"}]
    classifier = FewShotClassifier(backbone, device="cpu", precision="fp32").fit(photos(6, 32, 32), labels)
    classifier.save(tmp_path / "model")
    export(tmp_path / "model", tmp_path / "m.onnx", quiet=True)
    pixels = photos(3, 32, 32, seed=1)
    found = run(tmp_path / "m.onnx", pixels)["probabilities"]
    with torch.no_grad():
        features = backbone.features(normalised(backbone, pixels))
    assert found == pytest.approx(classifier.predict_proba(features), abs=1e-4)
    assert found.sum(1) != pytest.approx(numpy.ones(3), abs=1e-3)


@pytest.mark.parametrize(
    ("name", "size", "sizes"),
    [
        ("vit_small_patch14_dinov2", 42, {"depth": 2, "embed_dim": 32, "num_heads": 2}),
        ("beit_base_patch16_224", 48, {"depth": 1, "embed_dim": 32, "num_heads": 2}),
        ("eva02_tiny_patch14_224", 42, {"depth": 1, "embed_dim": 32, "num_heads": 2}),
        ("resnet10t", 64, {}),
    ],
)
def test_other_backbones_have_one_size_and_any_batch(
    name: str, size: int, sizes: dict[str, int], tmp_path: Path
) -> None:
    backbone = untrained_backbone(name, image_size=size, **sizes).eval()
    made = _export_backbone(backbone, tmp_path)
    assert "knows no classes" in made.remarks[0]
    pixels = photos(3, size, size, seed=1)
    with torch.no_grad():
        expected = backbone(normalised(backbone, pixels)).numpy()
    assert run(tmp_path / "m.onnx", pixels)["vectors"] == pytest.approx(expected, rel=1e-4, abs=1e-4)
    with pytest.raises(Exception, match="dimensions"):
        run(tmp_path / "m.onnx", photos(1, size + 14, size + 14))


def _export_backbone(backbone: Backbone, folder: Path) -> Any:
    write_backbone(folder / "model", backbone, {"from": "nothing"}, classes=["x"])
    return export(folder / "model", folder / "m.onnx", quiet=True)


def test_a_linear_head_of_adapt(tmp_path: Path) -> None:
    backbone = untrained_backbone("resnet10t", image_size=32)
    backbone.eval()
    head = torch.nn.Linear(backbone.vector_dim, 3)
    write_backbone(tmp_path, backbone, {}, classes=["x", "y", "z"], head=head.state_dict())
    export(tmp_path, tmp_path / "m.onnx", quiet=True)
    pixels = photos(2, 32, 32, seed=1)
    with torch.no_grad():
        expected = head(backbone(normalised(backbone, pixels)))
    found = run(tmp_path / "m.onnx", pixels)
    assert found["scores"] == pytest.approx(expected.numpy(), abs=1e-4)
    assert found["probabilities"] == pytest.approx(expected.softmax(1).numpy(), abs=1e-4)
    assert json.loads(told(tmp_path / "m.onnx")["classes"]) == ["x", "y", "z"]


def test_a_licence_without_commercial_use_is_said(tmp_path: Path) -> None:
    backbone = untrained_backbone("resnet10t", image_size=32)
    backbone.eval()
    backbone.licence = Licence("CC-BY-NC-4.0", False, "by others")
    made = _export_backbone(backbone, tmp_path)
    assert any("CC-BY-NC-4.0" in remark for remark in made.remarks)
    assert "CC-BY-NC-4.0" in told(tmp_path / "m.onnx")["licences"]


def test_what_has_no_form_is_refused_in_a_sentence(
    bundled: tuple[Path, FewShotClassifier], tmp_path: Path
) -> None:
    FewShotClassifier().fit(numpy.eye(4), list("aabb")).save(tmp_path / "features")
    with pytest.raises(InvalidInput, match="made from features"):
        export(tmp_path / "features", tmp_path / "m.onnx")
    write_model(tmp_path / "head", SavedModel("head", {"head": {"name": "cst"}}, {}))
    with pytest.raises(InvalidInput, match="only classifiers and backbones"):
        export(tmp_path / "head", tmp_path / "m.onnx")
    masks = [numpy.pad(numpy.ones((32, 32), dtype=bool), 32)] * 2
    segmenter = FewShotSegmenter("fewsight-bundled", image_size=96, device="cpu", precision="fp32")
    segmenter.fit(photos(2, 96, 96), ["a", "b"], masks).save(tmp_path / "segmenter")
    with pytest.raises(InvalidInput, match="segmenter"):
        export(tmp_path / "segmenter", tmp_path / "m.onnx")
    with pytest.raises(InvalidInput, match="folder"):
        export(bundled[0], tmp_path)
    with pytest.raises(RunExists, match="--force"):
        export(bundled[0], bundled[0] / "model.onnx")
    with pytest.raises(InvalidInput, match="unknown"):
        export("no_such_model", tmp_path / "m.onnx")
    with pytest.raises(InvalidInput, match="sides from 64"):
        export(bundled[0], tmp_path / "m.onnx", image_size=32)
    assert not (tmp_path / "m.onnx").exists()


def test_photos_that_change_one_another_are_refused(tmp_path: Path) -> None:
    backbone = untrained_backbone("resnet34-s16", image_size=64, use_running_moments=False)
    with pytest.raises(InvalidInput, match="change one another"):
        _export_backbone(backbone, tmp_path)


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_named(
    missing: str, bundled: tuple[Path, FewShotClassifier], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(FewsightError, match=rf"{missing} is not installed.*fewsight\[onnx\]"):
        export(bundled[0], tmp_path / "m.onnx")


def test_numbers_that_differ_are_not_written(
    bundled: tuple[Path, FewShotClassifier], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fewsight.workflows.export.onnx_bytes", lambda *_, **__: b"")
    monkeypatch.setattr("fewsight.workflows.export.largest_difference", lambda *_: 1e-3)
    with pytest.raises(FewsightError, match="nothing was written"):
        export(bundled[0], tmp_path / "m.onnx")
    assert not list(tmp_path.iterdir())


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    backbone = untrained_backbone("resnet10t", image_size=32)
    write_backbone(tmp_path / "model", backbone, {}, classes=["x"])
    with pytest.raises(SystemExit) as left:
        main(["export", str(tmp_path), "--onnx", str(tmp_path / "m.onnx"), "--json"])
    assert left.value.code == 0
    values = json.loads(capsys.readouterr().out)
    assert values["outputs"] == {"vectors": f"[N, {backbone.vector_dim}], one vector a photo"}
    assert values["checked_sizes"] == [[32, 32]]

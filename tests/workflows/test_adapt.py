"""`adapt`: runs end to end, says what it did, keeps the old model unless shown otherwise, resumes to the same bytes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy
import pytest
import torch
from photo_folders import write_labelled

import fewsight
from fewsight.backbones.loading import load_backbone
from fewsight.errors import CollapsedRun, InvalidInput, RunExists
from fewsight.objectives import label_contrastive
from fewsight.training import loop
from fewsight.workflows import adapt as module
from fewsight.workflows import adapt_training as training
from fewsight.workflows.adapt import AdaptRun, adapt, adapt_recipe
from fewsight.workflows.adapt_recipe import METHODS, AdaptRecipe
from fewsight.workflows.recipes import packaged_recipes, read_recipe

SMALL = (
    "training.steps=6",
    "training.checkpoint_every=2",
    "training.learning_rate=0.01",
    "classes=3",
    "photos=2",
    "stop_every=3",
)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labelled(tmp_path_factory.mktemp("adapt") / "photos", 20)


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A published layout of a vision transformer, with random weights."""
    import timm

    torch.manual_seed(0)
    model = timm.create_model(
        "vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=64, num_heads=1, num_classes=0
    )
    path = tmp_path_factory.mktemp("vit") / "dino.pth"
    torch.save(model.state_dict(), path)
    return str(path)


def run(photos: Path, out: Path, *overrides: str, **settings: object) -> AdaptRun:
    given = {"backbone": "conv4", "overrides": (*SMALL, *overrides), "quiet": True, **settings}
    return adapt(photos, out, **given)  # type: ignore[arg-type]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_backbone(str(folder)).state_dict())


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_run_judges_on_photos_that_nothing_else_saw(photos: Path, tmp_path: Path) -> None:
    found = run(photos, tmp_path / "run", keep="adapted")
    assert found.photos == (33, 9, 18) or sum(found.photos) == 60
    assert found.verdict is not None
    assert found.verdict.before.n == found.photos[2]
    told = json.loads((tmp_path / "run" / "verdict.json").read_text())
    assert told["verdict"]["outcome"] == found.verdict.outcome
    assert told["kept"] == "adapted"
    sentences = list(found.sentences())
    assert any(sentence.startswith("Trained for 6 steps") for sentence in sentences)
    assert any("holds the adapted backbone" in sentence for sentence in sentences)
    assert "<html" in (tmp_path / "run" / "report.html").read_text()
    steps = [
        json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    ]
    assert max(steps) == 5


def test_the_model_serves_as_backbone_and_as_classifier(photos: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "run", "stop_every=0", keep="adapted")
    backbone = load_backbone(str(tmp_path / "run" / "model"))
    assert backbone.name == "conv4+photos"
    assert "adapted on photos" in backbone.licence.note
    assert not equal(weights(tmp_path / "run" / "model"), dict(load_backbone("conv4").state_dict()))
    told = json.loads((tmp_path / "run" / "model" / "model.json").read_text())
    assert told["provenance"]["adapted"]["from"] == "conv4"
    assert "verdict" in told["provenance"]["adapted"]
    predicted = fewsight.predict(tmp_path / "run" / "model", photos, tmp_path / "predicted", quiet=True)
    assert predicted.counts["ok"] == 60
    evaluated = fewsight.evaluate(
        photos, backbone=str(tmp_path / "run" / "model"), way=2, shots=(1,), query=2, episodes=5, quiet=True
    )
    assert evaluated.results[0].value.n == 5


def test_the_old_model_is_kept_where_nothing_better_is_shown(photos: Path, tmp_path: Path) -> None:
    found = run(photos, tmp_path / "run", "backbone_learning_rate=1e-9", "stop_every=0")
    assert found.verdict is not None
    assert found.verdict.outcome == "no difference shown" if found.photos[2] >= 30 else "not judged"
    assert found.kept == "old"
    assert equal(weights(tmp_path / "run" / "model"), dict(load_backbone("conv4").state_dict()))
    assert not equal(weights(tmp_path / "run" / "adapted"), weights(tmp_path / "run" / "model"))
    assert any("holds the old backbone" in sentence for sentence in found.sentences())


@pytest.mark.parametrize("shots", [1, 2])
def test_one_or_two_photos_a_class_run_and_are_not_judged(shots: int, tmp_path: Path) -> None:
    photos = write_labelled(tmp_path / "photos", shots, ("dots", "plain"))
    found = run(photos, tmp_path / "run")
    assert found.verdict is not None
    assert found.verdict.outcome == "not judged"
    assert found.kept == "old"
    assert "30 photos would be enough" in found.verdict.sentence
    assert found.photos == (2 * shots, 0, 0)


@pytest.mark.parametrize("method", [name for name, row in METHODS.items() if row.objective])
def test_every_method_trains(method: str, photos: Path, vit: str, tmp_path: Path) -> None:
    steps = ("training.steps=2", "stop_every=0")
    found = run(photos, tmp_path / "run", *steps, method=method, backbone=vit, keep="adapted")
    assert found.result.finished
    old, new = (dict(load_backbone(source).state_dict()) for source in (vit, str(tmp_path / "run" / "model")))
    assert old.keys() == new.keys(), "additions are merged"
    moved = {name for name, value in old.items() if not torch.equal(value, new[name])}
    expected = {"lora": ".attn.qkv.weight", "layer_norm": "norm"}.get(METHODS[method].tuning)
    assert moved
    assert expected is None or all(expected in name for name in moved)


def test_the_published_preset_runs_with_its_own_second_stage(photos: Path, vit: str, tmp_path: Path) -> None:
    small = ("epochs=1", "batch=8", "training.accumulation=2", "stage2.epochs=1", "stage2.batch=16")
    found = adapt(
        photos,
        tmp_path / "run",
        preset="published",
        overrides=small,
        backbone=vit,
        keep="adapted",
        quiet=True,
    )
    assert found.result.steps == round(found.photos[0] / 8 / 2)
    assert found.head_verdict is not None
    told = json.loads((tmp_path / "run" / "model" / "model.json").read_text())
    assert told["head"] == {"name": "linear", "classes": ["dots", "plain", "stripes"]}
    assert load_backbone(str(tmp_path / "run" / "model")).name.endswith("dino.pth+photos")
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert all(line["loss"] > 0 for line in lines if "loss" in line)


def test_an_interrupted_run_resumes_to_the_same_bytes(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(photos, tmp_path / "whole", keep="adapted")
    write, calls = loop.write_checkpoint, []

    def dying(*arguments: object, **settings: object) -> object:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return write(*arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "write_checkpoint", dying)
    with pytest.raises(KeyboardInterrupt):
        run(photos, tmp_path / "broken", keep="adapted")
    monkeypatch.setattr(loop, "write_checkpoint", write)
    run(photos, tmp_path / "broken", keep="adapted", resume=True)
    for name in ("model/model.safetensors",):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "broken" / name).read_bytes()
    with pytest.raises(RunExists):
        run(photos, tmp_path / "whole")
    with pytest.raises(InvalidInput, match="seed was 0, now 1"):
        run(photos, tmp_path / "whole", keep="adapted", seed=1, resume=True)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_bytes(photos: Path, tmp_path: Path) -> None:
    more = ("training.steps=30", "training.checkpoint_every=2")
    run(photos, tmp_path / "whole", *more, keep="adapted")
    words = [sys.executable, "-m", "fewsight.cli", "adapt", str(photos), "--out", str(tmp_path / "killed")]
    words += ["--backbone", "conv4", "--keep", "adapted", "--quiet", "--resume"]
    words += [part for override in (*SMALL, *more) for part in ("--set", override)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for kill in range(2):
        process = subprocess.Popen(words, env=environment)
        newest = len(list((tmp_path / "killed" / "checkpoints").glob("*")))
        for _ in range(600):
            time.sleep(0.05)
            there = list((tmp_path / "killed" / "checkpoints").glob("step-*.pt"))
            if len(there) > newest or (there and kill and process.poll() is None):
                break
        process.send_signal(signal.SIGKILL)
        assert process.wait() in (-signal.SIGKILL, 0)
    assert subprocess.run(words, env=environment, check=False).returncode == 0
    name = "model/model.safetensors"
    assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()


def test_a_collapsing_run_stops_in_words(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(label_contrastive, "ALL_EQUAL", -1.0)
    with pytest.raises(CollapsedRun, match=r"stopped at step 10: the features are all equal .*log\(2B - 1\)"):
        run(photos, tmp_path / "run", "training.steps=20", "stop_every=0")


def test_a_run_that_only_did_harm_keeps_its_first_step_and_says_so(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "right_answers", lambda *arguments: numpy.ones(9))  # ties keep the earlier
    found = run(photos, tmp_path / "run", keep="adapted")
    assert found.step == 0
    assert any("no step of the training was better" in remark for remark in found.remarks)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda folder: folder.mkdir(), "no labels found"),
        (lambda folder: write_labelled(folder, 5, ("dots",)), "of one class"),
        (lambda folder: write_labelled(folder, 1, ("dots",)), "of one class"),
    ],
)
def test_data_that_cannot_work_is_named(write: object, message: str, tmp_path: Path) -> None:
    write(tmp_path / "photos")  # type: ignore[operator]
    with pytest.raises(InvalidInput, match=message):
        run(tmp_path / "photos", tmp_path / "run")


def test_settings_that_cannot_work_are_named(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="trains nothing; use it with --compare"):
        run(photos, tmp_path / "a", method="linear_probe")
    with pytest.raises(InvalidInput, match="choose one of: nearest_mean"):
        run(photos, tmp_path / "b", method="lacvitt")
    with pytest.raises(InvalidInput, match="it has no attention layer"):
        run(photos, tmp_path / "c", "tuning=lora")
    with pytest.raises(InvalidInput, match=r"recipe of `fewsight metatrain`|not a setting"):
        adapt_recipe("lowshot", "omniglot_prototypes", (), None)
    with pytest.raises(InvalidInput, match="share in"):
        adapt_recipe("lowshot", None, ("judged_share=2",), None)


@pytest.mark.parametrize("name", sorted(packaged_recipes("adapt")))
def test_every_packaged_recipe_is_understood(name: str) -> None:
    assert read_recipe(AdaptRecipe, name).method == "lacvit"


def test_remarks_name_a_rate_that_is_too_high(photos: Path, tmp_path: Path) -> None:
    found = run(photos, tmp_path / "run", "backbone_learning_rate=0.01", "training.steps=1")
    assert any("is high for adamw" in remark for remark in found.remarks)
    assert module.AdaptRun is AdaptRun


@pytest.mark.slow
def test_two_processes_adapt_as_one(photos: Path, vit: str, tmp_path: Path) -> None:
    settings = {"backbone": vit, "keep": "adapted"}
    steps = ("training.steps=3", "stop_every=0", "training.optimiser=sgd", "training.weight_decay=0")
    run(photos, tmp_path / "one", *steps, **settings)
    found = run(photos, tmp_path / "two", *steps, devices=2, **settings)
    assert found.verdict is not None
    one, two = weights(tmp_path / "one" / "model"), weights(tmp_path / "two" / "model")
    assert not equal(one, dict(load_backbone(vit).state_dict()))
    for name, value in one.items():  # sums over halves of a batch, in float32
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-6)


def test_a_run_is_repeated_from_its_record(photos: Path, tmp_path: Path) -> None:
    run(photos, tmp_path / "first", keep="adapted", seed=5)
    adapt(photos, tmp_path / "second", recipe=tmp_path / "first" / "run.yaml", keep="adapted", quiet=True)
    name = "model/model.safetensors"
    assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()

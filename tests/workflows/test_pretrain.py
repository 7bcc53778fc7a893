import json
import os
import signal
from pathlib import Path

import numpy
import pytest
import torch
from photo_folders import picture, write_labelled
from PIL import Image
from safetensors.torch import load_file

import fewsight
from fewsight.errors import InvalidInput, UnreadableImage
from fewsight.training.view_source import ViewSource
from fewsight.workflows.pretrain import _wanted, pretrain

TINY = """
objective: {objective}
objective_settings: {settings}
backbone: vit_tiny_patch16_224
from_scratch: true
network: {{depth: 1, embed_dim: 24, num_heads: 2, patch_size: 8}}
image_size: 32
batch_size: 6
watch_every: 2
training: {{steps: 4, learning_rate: 0.001, checkpoint_every: 1}}
"""


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    return write_labelled(tmp_path_factory.mktemp("photos") / "labelled", shots=8)


def _recipe(folder: Path, objective: str = "simclr", settings: str = "{}") -> Path:
    path = folder / "tiny.yaml"
    path.write_text(TINY.format(objective=objective, settings=settings))
    return path


def _run(photos: Path, folder: Path, **others):
    return pretrain(
        photos, folder / "run", recipe=_recipe(folder), insist=True, quiet=True, workers=1, **others
    )


def test_a_run_leaves_a_backbone_a_verdict_and_a_log(photos, tmp_path):
    run = _run(photos, tmp_path)
    assert run.result.finished
    assert run.photos == (18, 6)  # 2 of the 8 photos of each class are held out
    backbone = fewsight.load_backbone(tmp_path / "run" / "model")
    assert backbone.dim == 24
    assert backbone.image_size == (32, 32)
    verdict = json.loads((tmp_path / "run" / "verdict.json").read_text())
    assert verdict["steps"] == 4
    assert verdict["verdict"]["outcome"] in ("better", "worse", "no difference shown", "not judged")
    log = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("knn" in line and "watch_deviation" in line for line in log)
    assert any(sentence.startswith("Use it: fewsight predict") for sentence in run.sentences())


def test_the_timm_file_loads_into_timm(photos, tmp_path):
    import timm

    _run(photos, tmp_path)
    model = timm.create_model(
        "vit_tiny_patch16_224", num_classes=0, img_size=32, depth=1, embed_dim=24, num_heads=2, patch_size=8
    )
    model.load_state_dict(load_file(tmp_path / "run" / "timm.safetensors"))
    ours = fewsight.load_backbone(tmp_path / "run" / "model").eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours.features(images).cls, model.eval().forward_features(images)[:, 0])


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "run" / "model" / "model.safetensors")


def test_an_interrupted_run_resumes_to_the_same_bits(photos, tmp_path, monkeypatch):
    for name in ("whole", "cut"):
        (tmp_path / name).mkdir()
    _run(photos, tmp_path / "whole")
    plain = ViewSource.__call__

    def interrupted(self, number):
        if number == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return plain(self, number)

    monkeypatch.setattr(ViewSource, "__call__", interrupted)
    run = _run(photos, tmp_path / "cut")
    assert not run.result.finished
    assert not (tmp_path / "cut" / "run" / "model").exists()
    assert "--resume" in next(iter(run.sentences()))
    monkeypatch.setattr(ViewSource, "__call__", plain)
    assert _run(photos, tmp_path / "cut", resume=True).result.finished
    first, second = _weights(tmp_path / "whole"), _weights(tmp_path / "cut")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
def test_two_processes_pretrain_as_one(photos, tmp_path):
    sgd = ("training.optimiser=sgd", "training.weight_decay=0")
    for name, devices in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        run = _run(photos, tmp_path / name, overrides=sgd, devices=devices)
        assert run.result.finished
        assert run.verdict is not None
    one, two = _weights(tmp_path / "one"), _weights(tmp_path / "two")
    for name, value in one.items():  # sums over halves of a batch in float32, beside steps of 0.01 to 0.1
        torch.testing.assert_close(two[name], value, rtol=0, atol=5e-5)
    with pytest.raises(InvalidInput, match="cannot be cut into equal parts for 2 ranks"):
        _run(photos, tmp_path / "two", overrides=("batch_size=5",), devices=2, force=True)


def test_a_changed_recipe_is_not_resumed(photos, tmp_path):
    _run(photos, tmp_path)
    with pytest.raises(InvalidInput, match="holds another run"):
        _run(photos, tmp_path, resume=True, overrides=("training.learning_rate=0.5",))


def test_photos_without_labels_are_not_judged_and_say_how_to(tmp_path):
    (tmp_path / "pile").mkdir()
    for number in range(9):
        picture("dots", number).save(tmp_path / "pile" / f"{number}.png")
    run = _run(tmp_path / "pile", tmp_path)
    assert run.verdict is None
    assert run.kept == "pretrained"
    assert run.photos == (9, 0)
    assert any("was not judged" in remark and "fewsight evaluate" in remark for remark in run.remarks)


def test_a_backbone_that_did_not_become_better_is_not_returned(photos, tmp_path):
    """From the bundled weights, two steps at a rate that changes next to nothing."""
    run = pretrain(
        photos,
        tmp_path / "run",
        overrides=("training.steps=2", "training.learning_rate=1e-9", "batch_size=4"),
        image_size=64,
        quiet=True,
        workers=1,
    )
    assert run.verdict is not None
    assert run.verdict.outcome in ("no difference shown", "not judged")
    kept = fewsight.load_backbone(tmp_path / "run" / "model")
    old = fewsight.load_backbone("fewsight-bundled", image_size=64)
    if run.kept == "old":
        assert all(torch.equal(a, b) for a, b in zip(kept.parameters(), old.parameters(), strict=True))
        assert fewsight.load_backbone(tmp_path / "run" / "pretrained").image_size == (64, 64)


def test_what_is_chosen_follows_photos_and_start():
    """A teacher must be able to follow within the run: it is what is kept."""
    assert _wanted(None, (), 500, None).objective == "simclr"
    assert _wanted(None, ("from_scratch=true",), 5000, None).objective == "masked_clustering"
    for objective in ("dino", "masked_clustering", "moco_v3"):
        recipe = _wanted(None, (), 500, objective)
        steps, momentum = recipe.training.steps, recipe.objective_settings["momentum"]
        assert momentum ** (steps // 2) < 0.01, "half of the run leaves nothing of the old teacher"
    assert "scale" not in _wanted(None, (), 500, "simmim").objective_settings


def test_a_bad_photo_is_left_out_or_stops_a_strict_run(photos, tmp_path):
    folder = write_labelled(tmp_path / "labelled", shots=8)
    (folder / "dots" / "page.jpg").write_text("<html>")
    assert _run(folder, tmp_path).photos == (18, 6)
    with pytest.raises(UnreadableImage, match=r"page\.jpg"):
        _run(folder, tmp_path, strict=True, force=True)


def test_too_few_photos_are_refused_before_any_work(photos, tmp_path):
    (tmp_path / "one").mkdir()
    picture("dots", 1).save(tmp_path / "one" / "1.png")
    with pytest.raises(InvalidInput, match="1 photo"):
        _run(tmp_path / "one", tmp_path)
    with pytest.raises(InvalidInput, match="fewer than 2000"):
        pretrain(photos, tmp_path / "other", recipe=_recipe(tmp_path), quiet=True)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "other").exists()


def test_greyscale_photos_are_noticed(tmp_path):
    (tmp_path / "xrays").mkdir()
    for number in range(9):
        noise = numpy.random.default_rng(number).integers(0, 256, (40, 40), numpy.uint8)
        Image.fromarray(noise).save(tmp_path / "xrays" / f"{number}.png")
    run = _run(tmp_path / "xrays", tmp_path)
    assert "kind: greyscale" in (tmp_path / "run" / "run.yaml").read_text()
    assert any("no colour" in remark for remark in run.remarks)


def test_misspelt_settings_name_the_nearest(photos, tmp_path):
    with pytest.raises(InvalidInput, match="Did you mean temperature"):
        pretrain(photos, tmp_path / "run", recipe=_recipe(tmp_path, settings="{temperatur: 1}"), insist=True)
    with pytest.raises(InvalidInput, match="no pretext task"):
        pretrain(photos, tmp_path / "run2", objective="episodic")

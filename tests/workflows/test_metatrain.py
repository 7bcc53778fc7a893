"""`metatrain`: recipes are read and checked, a run trains, resumes, refuses another one, and its model loads."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from photo_folders import write_labelled

from fewsight.backbones.loading import load_backbone
from fewsight.data.imagenet_episodes import spanned_imagenet_classes
from fewsight.data.layouts import read_layout
from fewsight.data.splits import meta_dataset_images
from fewsight.errors import InvalidInput, RunExists
from fewsight.heads.crosstransformer import CrossTransformer
from fewsight.trained_head import make_head, trained_head
from fewsight.workflows import metatrain as module
from fewsight.workflows.evaluate import evaluate
from fewsight.workflows.metatrain import EpisodeSettings, MetatrainRecipe, episodes_of, metatrain
from fewsight.workflows.metatrain_dense import DenseRecipe
from fewsight.workflows.recipes import packaged_recipes, read_recipe, recipe_values, with_overrides

SMALL = (
    "episodes.way=2",
    "episodes.query=2",
    "validation.way=2",
    "validation.query=2",
    "held_out=0.5",
    "rotations=true",
    "validation_episodes=5",
    "validation_every=4",
    "training.steps=12",
    "training.checkpoint_every=3",
    "training.learning_rate=0.01",
    "head_settings.metric=euclidean",
)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_labelled(tmp_path / "photos", 5)


def test_trains_and_its_model_is_a_backbone(photos: Path, tmp_path: Path) -> None:
    run = metatrain(photos, tmp_path / "run", overrides=SMALL, quiet=True)
    assert run.result.finished
    assert run.validation is not None
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    measured = {line["step"]: line["validation"] for line in lines if "validation" in line}
    assert sorted(measured) == [3, 7, 11]
    assert run.validation.mean == max(measured.values())
    head = make_head("prototypes", tmp_path / "run" / "model", "patches")
    assert (head.metric, make_head("prototypes", None, "patches").metric) == ("euclidean", "cosine")
    backbone = load_backbone(str(tmp_path / "run" / "model"))
    assert backbone.name == "conv4"
    found = evaluate(
        photos, backbone=str(tmp_path / "run" / "model"), way=2, shots=(1,), query=2, episodes=5, quiet=True
    )
    assert found.results[0].value.n == 5
    with pytest.raises(RunExists):
        metatrain(photos, tmp_path / "run", overrides=SMALL, quiet=True)


def test_interrupted_run_resumes_to_the_same_weights(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metatrain(photos, tmp_path / "whole", overrides=SMALL, quiet=True)
    accuracy, calls = module.episode_accuracy, []

    def dying(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return accuracy(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "episode_accuracy", dying)
    with pytest.raises(KeyboardInterrupt):
        metatrain(photos, tmp_path / "broken", overrides=SMALL, quiet=True)
    monkeypatch.setattr(module, "episode_accuracy", accuracy)
    metatrain(photos, tmp_path / "broken", overrides=SMALL, resume=True, quiet=True)
    one, other = (load_backbone(str(tmp_path / name / "model")).state_dict() for name in ("whole", "broken"))
    assert all(torch.equal(value, other[name]) for name, value in one.items())


def test_simclr_episodes_resume_to_the_same_weights(photos: Path, tmp_path: Path) -> None:
    """Cut off between two checkpoints; the draws of a step hang on it alone."""
    more = (*SMALL, "simclr.fraction=0.5", "validation_every=100", "training.steps=8", "episodes.shot=2")
    metatrain(photos, tmp_path / "whole", overrides=more, quiet=True)
    metatrain(photos, tmp_path / "plain", overrides=(*more, "simclr.fraction=0"), quiet=True)
    metatrain(photos, tmp_path / "broken", overrides=more, quiet=True)
    for path in (tmp_path / "broken" / "checkpoints").glob("step-000000008.pt"):
        path.unlink()
    (tmp_path / "broken" / "best.pt").unlink()
    metatrain(photos, tmp_path / "broken", overrides=more, resume=True, quiet=True)
    one, other, plain = (
        load_backbone(str(tmp_path / name / "model")).state_dict() for name in ("whole", "broken", "plain")
    )
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert not all(torch.equal(value, plain[name]) for name, value in one.items())


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["ctx_imagenet", "ctx_simclr_imagenet"])
def test_published_crosstransformer_runs_on_a_little_data(recipe: str, tmp_path: Path) -> None:
    """Two steps as published but for the size of the photos; the head comes back with the backbone."""
    classes: tuple[str, ...] = ()
    for split in ("train", "valid"):
        names = list(meta_dataset_images("ilsvrc_2012", split))  # type: ignore[arg-type]
        span = min(spanned_imagenet_classes(names, split), key=len)  # type: ignore[arg-type]
        classes += tuple(names[number] for number in span[:5])
    classes += tuple(meta_dataset_images("ilsvrc_2012", "test"))[:1]  # a split without any photo is an error
    write_labelled(tmp_path / "photos", 3, classes)
    small = ("image_size=32", "training.steps=2", "validation_episodes=1", "training.checkpoint_every=1")
    run = metatrain(tmp_path / "photos", tmp_path / "run", recipe=recipe, overrides=small, quiet=True)
    assert run.result.finished
    losses = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert losses[0]["learning_rate"] == 6e-4
    assert losses[0]["penalty"] > 0
    head = trained_head(tmp_path / "run")
    assert isinstance(head, CrossTransformer)
    assert head.key_weight is not None
    assert head.key_weight.shape == (128, 512)


def test_the_four_paired_recipes_differ_in_head_and_simclr_episodes_alone() -> None:
    names = (
        "ctx_cifar_fs",
        "ctx_cifar_fs_prototypes",
        "ctx_simclr_cifar_fs",
        "ctx_simclr_cifar_fs_prototypes",
    )
    recipes = [read_recipe(MetatrainRecipe, name) for name in names]
    default = MetatrainRecipe()
    alike = [replace(each, head="", head_settings={}, simclr=default.simclr) for each in recipes]
    assert all(each == alike[0] for each in alike)
    assert [each.simclr.fraction for each in recipes] == [0, 0, 0.5, 0.5]
    assert recipes[2].simclr == recipes[3].simclr
    assert [each.head for each in recipes] == ["crosstransformer", "prototypes"] * 2


def test_only_the_first_photos_of_a_training_class_are_trained_on(photos: Path) -> None:
    collection = read_layout(photos).collection
    shape = EpisodeSettings(way=2, shot=1, query=2)
    episodes = episodes_of(
        collection, [0, 1, 2], shape, part="train", rotations=False, seed=0, stream="training episode", most=3
    )
    first = {int(row) for rows in collection.by_class()[:3] for row in rows[:3]}
    drawn = [episodes[number] for number in range(40)]
    assert {int(row) for episode in drawn for row in (*episode.support, *episode.query)} == first


def test_episode_settings_that_do_not_go_together(photos: Path, tmp_path: Path) -> None:
    for settings, named in (
        (("episodes.hierarchy=imagenet",), "sampler: meta_dataset"),
        (("episodes.hierarchy=imagenet", "episodes.sampler=meta_dataset"), "no hierarchy holds"),
        (("backbone=fewsight-bundled", "backbone_settings.width=3"), "from scratch"),
    ):
        with pytest.raises(InvalidInput, match=named):
            metatrain(photos, tmp_path / named[:3], overrides=(*SMALL, *settings), quiet=True)


def test_resume_names_what_changed(photos: Path, tmp_path: Path) -> None:
    metatrain(photos, tmp_path / "run", overrides=SMALL, quiet=True)
    with pytest.raises(InvalidInput, match="seed was 0, now 1"):
        metatrain(photos, tmp_path / "run", overrides=SMALL, seed=1, resume=True, quiet=True)
    (photos / "dots" / "0.png").unlink()
    with pytest.raises(InvalidInput, match="content of data"):
        metatrain(photos, tmp_path / "run", overrides=SMALL, resume=True, quiet=True)


def same_model(one: Path, other: Path) -> bool:
    first, second = (load_backbone(str(run / "model")).state_dict() for run in (one, other))
    return all(torch.equal(value, second[name]) for name, value in first.items())


def test_run_yaml_repeats_the_run(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metatrain(photos, tmp_path / "first", overrides=SMALL, seed=3, quiet=True)
    metatrain(photos, tmp_path / "again", recipe=tmp_path / "first" / "run.yaml")
    assert same_model(tmp_path / "first", tmp_path / "again")
    assert "other photos" not in capsys.readouterr().err
    (photos / "dots" / "0.png").unlink()
    metatrain(photos, tmp_path / "less", recipe=tmp_path / "first" / "run.yaml")
    assert "holds other photos than the run" in capsys.readouterr().err
    record = (tmp_path / "first" / "run.yaml").read_text()
    (tmp_path / "other.yaml").write_text(record.replace("verb: metatrain", "verb: embed"))
    with pytest.raises(InvalidInput, match="`fewsight embed`"):
        metatrain(photos, tmp_path / "wrong", recipe=tmp_path / "other.yaml", quiet=True)


def test_resume_takes_other_housekeeping_and_workers(photos: Path, tmp_path: Path) -> None:
    metatrain(photos, tmp_path / "whole", overrides=SMALL, quiet=True)
    metatrain(photos, tmp_path / "parts", overrides=SMALL, workers=1, quiet=True)
    for checkpoint in sorted((tmp_path / "parts" / "checkpoints").iterdir())[1:]:
        checkpoint.unlink()
    other = (*SMALL, "training.prefetch=3", "training.log_every=1", "training.keep=5")
    metatrain(photos, tmp_path / "parts", overrides=other, workers=2, resume=True, quiet=True)
    assert same_model(tmp_path / "whole", tmp_path / "parts")
    changed = (*SMALL, "training.learning_rate=0.02")
    with pytest.raises(InvalidInput, match=r"--training.learning-rate was 0.01, now 0.02\."):
        metatrain(photos, tmp_path / "parts", overrides=changed, resume=True, quiet=True)


def test_force_forgets_the_best_of_the_earlier_run(photos: Path, tmp_path: Path) -> None:
    metatrain(photos, tmp_path / "fresh", overrides=SMALL, seed=1, quiet=True)
    metatrain(photos, tmp_path / "forced", overrides=SMALL, quiet=True)
    metatrain(photos, tmp_path / "forced", overrides=SMALL, seed=1, force=True, quiet=True)
    assert same_model(tmp_path / "fresh", tmp_path / "forced")


@pytest.mark.slow
def test_two_devices_give_the_same(photos: Path, tmp_path: Path) -> None:
    metatrain(photos, tmp_path / "one", overrides=SMALL, quiet=True)
    run = metatrain(photos, tmp_path / "two", overrides=SMALL, devices=2, quiet=True)
    assert run.result.finished
    one, two = (load_backbone(str(tmp_path / name / "model")).state_dict() for name in ("one", "two"))
    for name, value in one.items():
        # float32: sums over queries in another order, 12 steps
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5, msg=name)


def test_input_that_cannot_work_is_named(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="5-way"):
        metatrain(photos, tmp_path / "a", quiet=True)
    with pytest.raises(InvalidInput, match="do not fit the head"):
        metatrain(photos, tmp_path / "b", overrides=(*SMALL, "head_settings.nonsense=1"), quiet=True)
    with pytest.raises(InvalidInput, match="none of the 1028 train classes"):
        metatrain(photos, tmp_path / "c", overrides=(*SMALL, "class_split=omniglot_vinyals"), quiet=True)
    with pytest.raises(InvalidInput, match="train_photos is 0"):
        metatrain(photos, tmp_path / "d", overrides=(*SMALL, "train_photos=0"), quiet=True)


@pytest.mark.parametrize("name", sorted(packaged_recipes("metatrain")))
def test_every_packaged_recipe_is_understood(name: str) -> None:
    dense = recipe_values(name, (), verb="metatrain").get("head") == "cst"
    kind: Any = DenseRecipe if dense else MetatrainRecipe
    assert read_recipe(kind, name, verb="metatrain").training.steps > 0


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainig.steps=3", "Did you mean training"),
        ("training.stepz=3", "Did you mean steps"),
        ("training.steps=none", "training.steps"),
        ("training.steps=0", "steps is 0"),
        ("backbone", "KEY=VALUE"),
    ],
)
def test_wrong_settings_are_named(override: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_recipe(MetatrainRecipe, None, [override])


def test_overrides_do_not_change_what_they_are_given() -> None:
    values = {"training": {"steps": 5}}
    assert with_overrides(values, ["training.steps=7"])["training"]["steps"] == 7
    assert values == {"training": {"steps": 5}}


def test_damaged_recipe_file_names_the_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("backbone: conv4\nhead: [\n")
    with pytest.raises(InvalidInput, match=r"mine\.yaml, line"):
        read_recipe(MetatrainRecipe, path)
    with pytest.raises(InvalidInput, match="Did you mean omniglot_prototypes"):
        read_recipe(MetatrainRecipe, "omniglot_prototype")

"""`metatrain --head cst`: three kinds of supervision, resumed to the bit, and what may be looked at."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from fewsight import distributed
from fewsight.backbones.bundled import load_bundled
from fewsight.data.scene_folder import write_scenes
from fewsight.data.splits import pascal5i_images
from fewsight.errors import IncompatibleModel, InvalidInput
from fewsight.heads.correlation_head import CorrelationHead
from fewsight.model import read_model
from fewsight.trained_heads import read_cst
from fewsight.training.pair_source import PairSource
from fewsight.workflows.metatrain import metatrain
from fewsight.workflows.metatrain_dense import (
    DenseRecipe,
    DenseRun,
    is_dense,
    metatrain_dense,
    sides_of,
    training_photos,
)
from fewsight.workflows.recipes import read_recipe

SMALL = (
    "head_settings={widths: [16, 16], pools: [2, 2], centred_width: -1}",
    "image_size=64",
    "pairs=3",
    "validation_pairs=6",
    "validation_every=2",
    "enhancer_steps=2",
    "training.steps=4",
    "training.checkpoint_every=2",
    "training.log_every=1",
)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_scenes(tmp_path_factory.mktemp("scenes"), base=30, novel=6, size=64, num_classes=12)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEWSIGHT_CACHE", str(tmp_path_factory.getbasetemp() / "dense cache"))


def trained(data: Path, out: Path, **options: Any) -> DenseRun:
    overrides = (*SMALL, f"class_split={data / 'split.json'}", *options.pop("overrides", ()))
    run = metatrain(data, out, head="cst", overrides=overrides, workers=0, quiet=True, **options)
    assert isinstance(run, DenseRun)
    return run


@pytest.mark.parametrize("supervision", ["image", "pixel", "mixed"])
def test_every_supervision_gives_a_head(scenes: Path, tmp_path: Path, supervision: Any) -> None:
    run = trained(scenes, tmp_path / "run", supervision=supervision)
    assert run.result.finished
    assert run.validation is not None
    told = read_model(tmp_path / "run" / "model", "head").description["provenance"]
    assert told["supervision"] == supervision
    assert {name[:5] for name in told["kept_back"]} == {"novel"}
    assert (told["masks"] > 0) == (supervision != "image")
    head = read_cst(tmp_path / "run" / "model", load_bundled())
    assert (head.enhancer is not None) == (supervision == "mixed")
    assert head.get_buffer("centre").abs().sum() > 0
    other = load_bundled()
    with torch.no_grad():
        other.norm.bias.add_(1)
    with pytest.raises(IncompatibleModel, match="trained on fewsight-bundled"):
        read_cst(tmp_path / "run" / "model", other)


@pytest.mark.slow
def test_two_processes_train_as_one(scenes: Path, tmp_path: Path) -> None:
    sgd = ("pairs=4", "training.optimiser=sgd", "training.weight_decay=0")
    runs = [
        trained(scenes, tmp_path / name, supervision="mixed", overrides=sgd, devices=devices)
        for name, devices in (("one", 1), ("two", 2))
    ]
    assert runs[1].validation is not None
    assert runs[1].best_step == runs[0].best_step
    one, two = (read_model(tmp_path / name / "model").tensors for name in ("one", "two"))
    for name, value in one.items():  # float32: sums over halves of a batch
        torch.testing.assert_close(two[name], value, rtol=1e-4, atol=1e-5, msg=name)
    with pytest.raises(InvalidInput, match=r"3 pairs cannot be cut .* --set pairs=4"):
        trained(scenes, tmp_path / "odd", supervision="image", devices=2)


def test_a_cut_run_ends_with_the_same_bits(
    scenes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = trained(scenes, tmp_path / "whole", supervision="mixed")
    made = PairSource.__call__

    def fails(self: PairSource, number: int) -> Any:
        if self.stream == "training pairs" and number == 3:
            raise RuntimeError("power cut")
        return made(self, number)

    with monkeypatch.context() as patch:
        patch.setattr(PairSource, "__call__", fails)
        with pytest.raises(RuntimeError, match="power cut"):
            trained(scenes, tmp_path / "cut", supervision="mixed")
    again = trained(scenes, tmp_path / "cut", supervision="mixed", resume=True)
    assert again.best_step == whole.best_step
    tensors = [read_model(tmp_path / name / "model").tensors for name in ("whole", "cut")]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


def test_image_supervision_never_looks_at_masks(scenes: Path, tmp_path: Path) -> None:
    """Folders with and without masks give the same head, chosen at the same step."""
    bare = tmp_path / "bare"
    shutil.copytree(scenes / "images", bare / "images")
    lines = [line.split(",") for line in (scenes / "index.csv").read_text().splitlines()]
    (bare / "index.csv").write_text("\n".join(",".join([a, s, c]) for a, _, s, c in lines))
    (bare / "split.json").write_text((scenes / "split.json").read_text())
    runs = [trained(data, tmp_path / f"run{n}", supervision="image") for n, data in enumerate((scenes, bare))]
    assert runs[0].best_step == runs[1].best_step
    tensors = [read_model(run.folder / "model").tensors for run in runs]
    assert all(torch.equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


def test_masks_of_some_photos_are_enough_for_mixed_and_not_for_pixel(scenes: Path, tmp_path: Path) -> None:
    lines = (scenes / "index.csv").read_text().splitlines()
    some = [line.replace(line.split(",")[1], "") if n % 2 else line for n, line in enumerate(lines)]
    (scenes / "some.csv").write_text("\n".join(some))
    data, options = scenes / "some.csv", {"overrides": (*SMALL, f"class_split={scenes / 'split.json'}")}
    with pytest.raises(InvalidInput, match="of 30 photos have no mask"):
        metatrain_dense(data, tmp_path / "pixel", supervision="pixel", workers=0, quiet=True, **options)
    run = metatrain_dense(data, tmp_path / "mixed", supervision="mixed", workers=0, quiet=True, **options)
    assert "of their masks used" in " ".join(run.remarks)
    told = read_model(tmp_path / "mixed" / "model").description["provenance"]
    assert 0 < told["masks"] < told["photos"]


def test_wrong_settings_are_named(scenes: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="mask_share is 2"):
        trained(scenes, tmp_path / "a", overrides=("mask_share=2",))
    with pytest.raises(InvalidInput, match="--supervision belongs to dense heads"):
        metatrain(scenes, tmp_path / "b", head="prototypes", supervision="image")
    with pytest.raises(InvalidInput, match="do not fit the head cst"):
        trained(scenes, tmp_path / "c", overrides=("head_settings={colour: red}",))


def test_pairs_depend_on_their_number_alone(scenes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fewsight.backbones.encode import Encoder
    from fewsight.backbones.feature_cache import FeatureCache
    from fewsight.backbones.stored_features import store_features
    from fewsight.data.label_maps import LabelMaps
    from fewsight.data.layouts import read_layout
    from fewsight.workflows.metatrain_dense import DENSE_REQUEST, squashed

    with FeatureCache() as cache:
        collection = read_layout(scenes).collection
        encoder = Encoder(squashed(load_bundled(), 64), DENSE_REQUEST, precision="fp32")
        photos = store_features(encoder, collection, cache, workers=0)
        maps = LabelMaps(photos.collection, photos.sizes, 64)
        masked = numpy.ones(len(photos), dtype=bool)
        source = PairSource(photos, maps, masked, tuple(range(9)), numpy.arange(30), 8, 0, "pairs")
        first, again = source(5), source(5)
        assert torch.equal(first.features.blocks.patches, again.features.blocks.patches)
        assert torch.equal(first.masks, again.masks)
        shares = [float(source(n).labels[8:].float().mean()) for n in range(20)]
        assert 0.35 < numpy.mean(shares) < 0.75  # one half, and chance meetings in scenes of several objects
        shared = replace(source, guessed_supports=0.5, _lines={})
        whole, halves = shared(5), []
        monkeypatch.setattr(distributed, "world_size", lambda: 2)
        for rank in (0, 1):
            monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
            halves.append(replace(shared, split=True, _lines={})(5))
        for name in ("index", "masks", "labels"):  # supports of both parts, then queries of both
            parts = [getattr(half, name).unflatten(0, (2, 4)) for half in halves]
            assert torch.equal(torch.cat(parts, 1).flatten(0, 1), getattr(whole, name))
        bare = replace(source, masked=~masked, _lines={})
        assert bare(5).masks is None
        for pair in source.drawn(3):
            assert pair.support != pair.query
            assert pair.wanted in collection.labels_of(pair.support)


@pytest.mark.parametrize("name", ["cst_small", "cst_published"])
def test_the_packaged_recipes_are_sound(name: str) -> None:
    recipe = read_recipe(DenseRecipe, name, verb="metatrain")
    assert recipe.head == "cst"
    assert is_dense(None, name, ())
    assert not is_dense("prototypes", name, ())
    head = CorrelationHead(6, 12, **{k: v for k, v in recipe.head_settings.items() if k != "centred_width"})
    if name == "cst_published":
        assert sum(p.numel() for p in head.parameters()) == 366_004
        assert (recipe.class_weight, recipe.foreground_weight, recipe.training.learning_rate) == (
            0.1,
            1.0,
            1e-3,
        )
        assert (head.learner.mask_reduction, recipe.image_size, recipe.pairs) == ("points", 400, 12)


def test_published_lists_are_trained_on_where_the_folder_is_a_benchmark(tmp_path: Path) -> None:
    images, masks = tmp_path / "JPEGImages", tmp_path / "SegmentationClassAug"
    images.mkdir()
    masks.mkdir()
    for fold in (1, 2, 3):
        for image in pascal5i_images("train", fold)[0].tolist():
            stem = f"{image // 1_000_000}_{image % 1_000_000:06d}"
            (images / f"{stem}.jpg").touch()
            (masks / f"{stem}.png").touch()
    with pytest.raises(InvalidInput, match="is pascal-5i: say which fold"):
        training_photos(tmp_path, DenseRecipe())
    found = training_photos(tmp_path, DenseRecipe(fold=0))
    assert found.read is not None
    sides = sides_of(found.collection, DenseRecipe(), 0)
    assert set(sides.train) | set(sides.val) == set(range(5, 20))  # the classes of the other three folds
    assert len(sides.val) == 3  # of 15 are held out for choosing the weights
    assert len(sides.train_rows) + len(sides.val_rows) == len(found.collection)

"""`pretrain` on tar shards: the whole verb, killed and resumed, damaged, and cut over ranks."""

import io
import json
import os
import signal
from itertools import chain
from pathlib import Path

import numpy
import pytest
import torch
from photo_folders import CLASSES, picture
from safetensors.torch import load_file
from test_pretrain import _recipe

import fewsight
from data.shards.writing import write_tar
from fewsight import distributed
from fewsight.data.transform import Transform
from fewsight.data.views import ViewSpec
from fewsight.errors import InvalidInput, UnreadableImage
from fewsight.training.view_source import ViewSource
from fewsight.workflows import pretrain_judge
from fewsight.workflows.pretrain import pretrain
from fewsight.workflows.pretrain_judge import held_out_of_classes
from fewsight.workflows.pretrain_photos import ShardedPhotos
from fewsight.workflows.pretrain_recipe import PretrainRecipe


def _png(kind: str, seed: int) -> bytes:
    file = io.BytesIO()
    picture(kind, seed, 40).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def shards(tmp_path) -> Path:
    """Four unequal shards, 24 photos of three classes."""
    number = 0
    for shard, count in enumerate((3, 10, 4, 7)):
        members = []
        for _ in range(count):
            kind = number % 3
            members.append((f"{number:04d}.png", _png(CLASSES[kind], number)))
            members.append((f"{number:04d}.cls", str(kind).encode()))
            number += 1
        write_tar(tmp_path / "shards" / f"photos-{shard:06d}.tar", members)
    return tmp_path / "shards"


def _run(data: Path, folder: Path, **others):
    folder.mkdir(exist_ok=True)
    return pretrain(
        data, folder / "run", recipe=_recipe(folder), insist=True, quiet=True, workers=1, **others
    )


def test_shards_make_a_backbone_and_a_verdict(shards, tmp_path):
    run = _run(shards / "photos-{000000..000003}.tar", tmp_path / "a")
    assert run.result.finished
    assert run.photos == (18, 6)  # a quarter of the eight of each class, two, is held out
    assert fewsight.load_backbone(tmp_path / "a" / "run" / "model").dim == 24
    verdict = json.loads((tmp_path / "a" / "run" / "verdict.json").read_text())
    assert verdict["verdict"] is not None
    assert not (tmp_path / "a" / "run" / "store").exists()  # nothing is unpacked
    assert (tmp_path / "a" / "run" / "shards" / "index.json").exists()
    by_folder = _run(shards, tmp_path / "b")
    first, second = (load_file(tmp_path / name / "run" / "model" / "model.safetensors") for name in "ab")
    assert by_folder.photos == run.photos
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_killed_run_sees_the_same_photos_and_ends_in_the_same_bits(shards, tmp_path, monkeypatch):
    plain, seen = ViewSource.__call__, {}

    def noted(name, dies_at=None):
        def call(self, number):
            batch = plain(self, number)
            if batch.images[0].shape[0] == 6:
                seen.setdefault(name, {})[number] = batch.index.tolist()
            if number == dies_at:
                os.kill(os.getpid(), signal.SIGTERM)
            return batch

        return call

    monkeypatch.setattr(ViewSource, "__call__", noted("whole"))
    _run(shards, tmp_path / "whole")
    monkeypatch.setattr(ViewSource, "__call__", noted("cut", 2))
    assert not _run(shards, tmp_path / "cut").result.finished
    monkeypatch.setattr(ViewSource, "__call__", noted("resumed"))
    assert _run(shards, tmp_path / "cut", resume=True).result.finished
    assert seen["cut"].keys() | seen["resumed"].keys() == seen["whole"].keys()
    assert {**seen["cut"], **seen["resumed"]} == seen["whole"]
    first, second = (
        load_file(tmp_path / name / "run" / "model" / "model.safetensors") for name in ("whole", "cut")
    )
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_damage_is_counted_and_named_and_stops_nothing(shards, tmp_path):
    last = shards / "photos-000003.tar"
    last.write_bytes(last.read_bytes()[:-40_000])
    write_tar(shards / "photos-000004.tar", [("bad/0.jpg", b"<html>"), ("bad/1.jpg", b"")])
    (shards / "photos-000005.tar").write_bytes(b"not a tar at all" * 100)
    run = _run(shards, tmp_path / "a")
    assert run.result.finished
    report = (tmp_path / "a" / "run" / "unreadable.csv").read_text()
    assert "photos-000004.tar/bad/0.jpg,unreadable,not an image" in report
    assert any("truncated" in remark and "photos-000003.tar" in remark for remark in run.remarks)
    assert any("could not be read; others stood in" in remark for remark in run.remarks)
    with pytest.raises(InvalidInput, match=r"truncated.*--strict stops here"):
        _run(shards, tmp_path / "b", strict=True)
    (shards / "photos-000003.tar").unlink()
    (shards / "photos-000005.tar").unlink()
    with pytest.raises(UnreadableImage, match=r"photos-000004\.tar/bad/\d\.jpg cannot be read"):
        _run(shards, tmp_path / "c", strict=True)


def test_other_shards_are_not_resumed(shards, tmp_path):
    _run(shards, tmp_path / "a")
    write_tar(shards / "photos-000004.tar", [("n.png", _png("dots", 77))])
    with pytest.raises(InvalidInput, match=r"holds another run: .*content of data"):
        _run(shards, tmp_path / "a", resume=True)


def test_too_few_photos_are_refused_before_a_folder_is_made(tmp_path):
    file = write_tar(tmp_path / "few.tar", [(f"{n}.png", _png("dots", n)) for n in range(3)])
    with pytest.raises(InvalidInput, match="3 photos are too few"):
        pretrain(file, tmp_path / "run", quiet=True)
    assert not (tmp_path / "run").exists()


def test_ranks_see_disjoint_photos_and_the_batches_of_one_process(shards, tmp_path, monkeypatch):
    files = sorted(shards.glob("*.tar"))
    photos = ShardedPhotos.of(files, tmp_path / "run", strict=False, workers=1)
    recipe = PretrainRecipe(batch_size=6, held_out=0.2)
    material = photos.material(Transform(size=(32, 32)), recipe, "cpu", seed=1)

    def batches(rank: int, ranks: int) -> list[list[int]]:
        monkeypatch.setattr(distributed, "rank", lambda: rank)
        monkeypatch.setattr(distributed, "world_size", lambda: ranks)
        views = (ViewSpec(1, 16, "crop_flip", (0.4, 1.0)),)
        source = ViewSource(material.photos, material.rows, views, Transform(), 6, seed=1)
        return [source(number).index.tolist() for number in range(source.batches_per_epoch)]

    whole = batches(0, 1)
    for ranks in (2, 3):
        parts = [batches(rank, ranks) for rank in range(ranks)]
        assert [list(chain(*rows)) for rows in zip(*parts, strict=True)] == whole
    seen = [row for batch in whole for row in batch]
    assert len(set(seen)) == 18
    assert not set(seen) & set(material.held_out.tolist())


def test_held_out_photos_are_drawn_by_class(monkeypatch):
    labels = numpy.repeat([0, 1, 2, -1], [50, 50, 3, 100]).astype(numpy.int32)
    rows = held_out_of_classes(labels, 0.2, seed=0)
    assert numpy.bincount(labels[rows]).tolist() == [10, 10]  # three photos are too few to give some away
    assert (numpy.diff(rows) > 0).all()
    assert numpy.array_equal(rows, held_out_of_classes(labels, 0.2, seed=0))
    assert not numpy.array_equal(rows, held_out_of_classes(labels, 0.2, seed=1))
    assert len(held_out_of_classes(labels, 0.0, seed=0)) == 0
    assert len(held_out_of_classes(labels - 9, 0.2, seed=0)) == 0
    monkeypatch.setattr(pretrain_judge, "LOOKED_AT", 60)  # a set of which only some are looked at
    monkeypatch.setattr(pretrain_judge, "MOST_JUDGED", 20)
    some = held_out_of_classes(numpy.tile(labels, 5), 0.5, seed=0)
    assert 2 <= len(some) <= 20

"""`evaluate` on splits as its user calls it: low-shot, knn, multi-label; halves, groups, pairs, what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
from photo_folders import picture, write_labelled, write_pile
from PIL import Image

from fewsight.data.layouts import read_layout
from fewsight.errors import InvalidInput
from fewsight.workflows.evaluate import Evaluation, evaluate
from fewsight.workflows.train_and_test import train_and_test

SETTINGS: dict[str, Any] = {
    "backbone": "fewsight-bundled",
    "image_size": 64,
    "quiet": True,
    "device": "cpu",
    "precision": "fp32",
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEWSIGHT_CACHE", str(tmp_path / "cache"))


def figures(found: Evaluation) -> dict[str, float]:
    return {result.metric: result.value.mean for result in found.results}


def test_low_shot_on_halves(tmp_path: Path) -> None:
    data = write_labelled(tmp_path / "photos", 6)
    found = evaluate(data, protocol="low-shot", **SETTINGS)
    shots = [(result.way, result.shot) for result in found.results if result.shot is not None]
    assert shots == [(3, 1)] * 3 + [(3, 2)] * 3
    assert all(result.value.n == 10 for result in found.results)
    assert min(figures(found).values()) > 0.8  # stripes, dots and plain pictures: easy
    assert any("5 photos a class are left out" in remark for remark in found.remarks)
    assert any("no splits train and test" in remark for remark in found.remarks)
    assert any("1 % of the labels is one photo a class" in remark for remark in found.remarks)
    assert json.loads(json.dumps(found.summary()))["protocol"] == "low-shot"
    assert any("3-way 1-shot accuracy, k-NN: " in sentence for sentence in found.sentences())


def test_knn_on_the_splits_of_the_data_and_against_another_backbone(tmp_path: Path) -> None:
    write_labelled(tmp_path / "photos" / "train", 4)
    shutil.rmtree(write_labelled(tmp_path / "photos" / "test", 6) / "plain")
    for kind in ("stripes", "dots"):
        for shot in range(4):  # the same files as in train are copies; only the others are judged
            (tmp_path / "photos" / "test" / kind / f"{shot}.png").unlink()
    found = evaluate(tmp_path / "photos", protocol="knn", against="conv4", **SETTINGS)
    assert any("train (12 photos), judged on test (4 photos)" in remark for remark in found.remarks)
    assert figures(found)["accuracy, k-NN with k = 10"] == 1
    assert set(found.recalls) == {"stripes", "dots"}
    assert found.comparisons["accuracy, k-NN with k = 10"].difference.n == 4
    assert "paired photos" in found.comparisons["accuracy, k-NN with k = 10"].sentence


def test_multi_label(tmp_path: Path) -> None:
    pile = write_pile(tmp_path / "photos", 6)
    extra = {"stripes": "stripes;pattern", "dots": "dots;pattern", "plain": "plain"}
    lines = [f"{path.name},{extra[path.name.split('-')[0]]}" for path in sorted(pile.glob("*.png"))]
    (pile / "index.csv").write_text("image,labels\n" + "\n".join(lines) + "\n")
    found = evaluate(pile, protocol="multi-label", **SETTINGS)
    assert figures(found)["mAP (average)"] > 0.9
    assert {"mAP (11point)", "mAP (area)", "CF1 at probability 0.5", "OF1 of the 3 highest"} <= set(
        figures(found)
    )
    with pytest.raises(InvalidInput, match="2 labels"):
        evaluate(pile, protocol="knn", **SETTINGS)
    paired = evaluate(pile, protocol="multi-label", against="conv4", **SETTINGS)
    assert figures(paired)["mAP (average)"] == figures(found)["mAP (average)"]
    difference = paired.comparisons["mAP (average)"].difference
    assert difference.mean == pytest.approx(
        figures(paired)["mAP (average)"] - figures(paired)["mAP (average) of conv4"]
    )
    assert difference.low <= difference.mean <= difference.high


def test_groups_never_stand_on_both_sides(tmp_path: Path) -> None:
    write_labelled(tmp_path / "photos", 8)
    collection = read_layout(tmp_path / "photos").collection
    groups = [f"{index // 8}-{index % 8 // 2}" for index in range(24)]
    sides = train_and_test(collection, groups)
    train, test = ({groups[row] for row in part} for part in (sides.train, sides.test))
    assert not train & test
    assert len(sides.train) == len(sides.test) == 12
    assert sorted([*sides.train, *sides.test]) == list(range(24))
    assert (train_and_test(collection, groups, seed=1).train != sides.train).any()
    with pytest.raises(InvalidInput, match="0 to be judged"):
        train_and_test(collection, ["one"] * 24)


def test_one_class_is_nothing_to_tell(tmp_path: Path) -> None:
    one = write_labelled(tmp_path / "one", 6, classes=("dots",))
    for protocol in ("knn", "low-shot"):
        with pytest.raises(InvalidInput, match="one class alone"):
            evaluate(one, protocol=protocol, **SETTINGS)


def test_what_has_no_meaning_is_refused(tmp_path: Path) -> None:
    data = tmp_path / "never read"
    with pytest.raises(InvalidInput, match="Did you mean low-shot"):
        evaluate(data, protocol="lowshot", **SETTINGS)
    with pytest.raises(InvalidInput, match="--head logistic"):
        evaluate(data, protocol="knn", head="logistic", **SETTINGS)
    with pytest.raises(InvalidInput, match="name a backbone"):
        evaluate(data, protocol="knn", against="matching", **SETTINGS)


def write_halves(folder: Path, count: int = 8) -> Path:
    """FOLDER/stripes/n.png, stripes on one side and plain on the other, with n_mask.png."""
    (folder / "stripes").mkdir(parents=True)
    for number in range(count):
        left = number % 2 == 0
        photo, other = picture("plain", number, 128), picture("stripes", 50 + number, 128)
        place = 0 if left else 64
        photo.paste(other.crop((0, 0, 64, 128)), (place, 0))
        mask = numpy.zeros((128, 128), numpy.uint8)
        mask[:, place : place + 64] = 255
        photo.save(folder / "stripes" / f"{number}.png")
        Image.fromarray(mask).save(folder / "stripes" / f"{number}_mask.png")
    return folder


def test_segmentation(tmp_path: Path) -> None:
    data = write_halves(tmp_path / "photos")
    picture("plain", 99).save(data / "stripes" / "unmasked.png")
    settings = SETTINGS | {"image_size": 128}
    found = evaluate(data, protocol="segmentation", **settings)
    # half of each picture is striped: answering one class throughout gives a mean IoU of 0.25, accuracy 0.5
    assert figures(found)["mean IoU"] > 0.7
    assert figures(found)["pixel accuracy"] > 0.8
    assert any("1 photos without a mask" in remark for remark in found.remarks)
    assert any("IoU of background" in remark for remark in found.remarks)
    itself = evaluate(data, protocol="segmentation", against="fewsight-bundled", **settings)
    assert (
        itself.comparisons["mean IoU"].difference.mean == 0
    )  # same photos, same draws: no difference at all
    assert (
        itself.comparisons["mean IoU"].difference.low == itself.comparisons["mean IoU"].difference.high == 0
    )
    assert figures(itself)["mean IoU of fewsight-bundled"] == figures(found)["mean IoU"]
    (tmp_path / "photos" / "classes.csv").write_text("id,name\n0,void\n255,stripes\n")
    alone = evaluate(data, protocol="segmentation", **settings)  # void counts nowhere: one class is left
    assert figures(alone)["mean IoU"] == 1
    assert not any("background" in remark for remark in alone.remarks)
    with pytest.raises(InvalidInput, match="no masks"):
        evaluate(write_labelled(tmp_path / "without"), protocol="segmentation", **settings)


def test_copies_of_training_photos_are_not_judged(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_halves(tmp_path / "photos" / split, 2 if split == "train" else 4)
    found = evaluate(tmp_path / "photos", protocol="segmentation", **SETTINGS)
    assert any("2 test photos left out: copies" in remark for remark in found.remarks)
    assert found.results[0].value.n == 2

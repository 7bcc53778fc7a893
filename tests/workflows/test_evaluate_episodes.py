"""`evaluate` on episodes as its user calls it: groups, duplicates, the curve, confusion, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from photo_folders import CLASSES, picture, write_labelled
from PIL import Image

from fewsight.errors import InvalidInput
from fewsight.workflows.evaluate import Evaluation, evaluate

SETTINGS: dict[str, Any] = {
    "backbone": "fewsight-bundled",
    "image_size": 64,
    "quiet": True,
    "device": "cpu",
    "precision": "fp32",
    "way": 3,
    "shots": (1,),
    "query": 3,
    "episodes": 40,
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FEWSIGHT_CACHE", str(tmp_path / "cache"))


def left_out(found: Evaluation, reason: str) -> int:
    """How many queries a remark says were left out for a reason."""
    told = (remark.partition(": ")[2] for remark in found.remarks if reason in remark)
    return sum(int(words.split()[0]) for words in told)


def test_figures_curve_confusion_and_json(tmp_path: Path) -> None:
    data = write_labelled(tmp_path / "photos", 8)
    found = evaluate(data, **SETTINGS)
    by_metric = {result.metric: result for result in found.results}
    assert by_metric["accuracy"].value.mean > 0.8
    curve = [r.shot for r in found.results if r.metric == "accuracy, curve over shots"]
    assert curve == [1, 2]
    assert any("Would more photos help? From 1 to 2 a class" in sentence for sentence in found.sentences())
    told = json.loads(json.dumps(found.summary()))
    assert set(told) >= {"protocol", "episodes", "results", "comparison"}
    assert set(told["results"][0]) == {"dataset", "way", "shot", "metric", "mean", "low", "high", "n"}
    assert told["confusion"]["classes"] == sorted(CLASSES)
    assert sum(map(sum, told["confusion"]["counts"])) == 40 * 9


def test_duplicates_are_reported_and_never_judged_against_themselves(tmp_path: Path) -> None:
    data = write_labelled(tmp_path / "photos", 4)
    for kind in ("stripes", "dots"):  # the second photo saved again, smaller and as JPEG
        with Image.open(data / kind / "1.png") as photo:
            photo.resize((64, 64)).save(data / kind / "again.jpg", quality=80)
    (data / "plain" / "stray.png").write_bytes((data / "dots" / "0.png").read_bytes())
    found = evaluate(data, **SETTINGS)
    assert any("have a duplicate in the data" in remark for remark in found.remarks)
    assert left_out(found, "a duplicate of theirs") > 0
    knn = evaluate(data, protocol="knn", **{k: v for k, v in SETTINGS.items() if k not in ("way", "shots")})
    assert any("have a duplicate in the data" in remark for remark in knn.remarks)


def test_group_by_folder_and_by_column(tmp_path: Path) -> None:
    for place in ("north", "south"):
        for kind in CLASSES:
            (tmp_path / "photos" / kind / place).mkdir(parents=True)
            for number in range(3):
                seed = 17 * number + len(kind) + (500 if place == "north" else 0)
                picture(kind, seed).save(tmp_path / "photos" / kind / place / f"{number}.png")
    by_folder = evaluate(tmp_path / "photos", group_by="folder", **SETTINGS)
    gone = left_out(by_folder, "--group-by folder")
    # of 5 candidates for 3 queries two lie in the folder of the support: 1.2 of them on average
    assert gone == pytest.approx(40 * 9 * 0.4, rel=0.2)
    lines = [
        f"{path.relative_to(tmp_path / 'photos')},{path.parts[-3]},{path.parts[-2]}"
        for path in sorted((tmp_path / "photos").glob("*/*/*.png"))
    ]
    (tmp_path / "photos" / "index.csv").write_text("image,label,station\n" + "\n".join(lines) + "\n")
    by_column = evaluate(tmp_path / "photos", group_by="station", **SETTINGS)
    # one support of each class: a query is kept only if all three lie at the other place
    assert left_out(by_column, "--group-by station") > gone
    with pytest.raises(InvalidInput, match="columns are image, label, station"):
        evaluate(tmp_path / "photos", group_by="camera", **SETTINGS)


def test_group_by_burst(tmp_path: Path) -> None:
    for number, kind in enumerate(CLASSES):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for shot in range(6):
            exif = Image.Exif()
            exif[0x0110] = "Trap 3"
            minute = 10 * number + shot // 2  # pairs, two seconds apart
            exif.get_ifd(0x8769)[0x9003] = f"2026:05:01 06:{minute:02d}:{2 * (shot % 2):02d}"
            picture(kind, 100 * number + shot).save(tmp_path / "photos" / kind / f"{shot}.jpg", exif=exif)
    found = evaluate(tmp_path / "photos", group_by="burst", **SETTINGS)
    # of five candidates for three queries one is the support's neighbour: 0.6 of 3
    assert left_out(found, "--group-by burst") == pytest.approx(40 * 9 * 0.2, rel=0.3)


def test_groups_that_leave_nothing_and_names_that_mean_nothing(tmp_path: Path) -> None:
    data = write_labelled(tmp_path / "photos", 4)
    with pytest.raises(InvalidInput, match="several groups a class"):
        evaluate(data, group_by="folder", **SETTINGS)
    with pytest.raises(InvalidInput, match="no CSV with a column 'station'"):
        evaluate(data, group_by="station", **SETTINGS)


def test_little_data_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match="no labels found"):
        evaluate(tmp_path / "empty", **SETTINGS)
    one = write_labelled(tmp_path / "one", 4, classes=("dots",))
    with pytest.raises(InvalidInput, match="1 classes with at least 2 photos"):
        evaluate(one, **SETTINGS)
    single = tmp_path / "photo.png"
    picture("dots", 1).save(single)
    with pytest.raises(InvalidInput, match="one file without a label"):
        evaluate(single, **SETTINGS)
    two = write_labelled(tmp_path / "two", 3, classes=("dots", "plain"))
    found = evaluate(two, **SETTINGS | {"way": 20, "shots": (1, 5)})
    assert any("2-way episodes in place of 20-way" in remark for remark in found.remarks)
    assert any("5-shot is left out" in remark for remark in found.remarks)


def test_one_way_and_a_renamed_list_are_refused_before_anything_is_encoded(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="nothing to tell apart"):
        evaluate(tmp_path / "never read", **SETTINGS | {"way": 1})
    (tmp_path / "list.npz").write_text("renamed")
    with pytest.raises(InvalidInput, match=r"it is no \.npz file"):
        evaluate(tmp_path / "never read", load_episodes=tmp_path / "list.npz", **SETTINGS)


def test_episodes_saved_and_scored_by_others(tmp_path: Path) -> None:
    data = write_labelled(tmp_path / "photos", 8)
    path = tmp_path / "episodes.npz"
    options = SETTINGS | {"shots": (1, 3)}
    first = evaluate(data, save_episodes=path, **options)
    again = evaluate(
        data, load_episodes=path, head="neighbours", against="prototypes", **SETTINGS | {"way": 2, "seed": 9}
    )
    mine = {r.shot: r.value for r in first.results if r.metric == "accuracy"}
    theirs = {
        r.shot: r.value for r in again.results if r.metric == "accuracy of fewsight-bundled with prototypes"
    }
    assert theirs == mine
    assert again.episodes == 40
    assert again.comparisons["3-way 3-shot"].difference.n == 40
    assert any("40 of 3-way 1-shot, 40 of 3-way 3-shot" in remark for remark in again.remarks)
    picture("dots", 77).save(data / "dots" / "new.png")
    with pytest.raises(InvalidInput, match="drawn from other data"):
        evaluate(data, load_episodes=path, **SETTINGS)
    with pytest.raises(InvalidInput, match="knn has no episodes: leave --load-episodes"):
        evaluate(data, protocol="knn", load_episodes=path, **SETTINGS)

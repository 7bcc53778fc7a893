"""`adapt --compare`: the table, its pairs, cells that are kept, and errors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest
from photo_folders import write_labelled

from fewsight.errors import InvalidInput
from fewsight.evaluation.intervals import paired_interval
from fewsight.workflows import adapt_compare as module
from fewsight.workflows.adapt_compare import Comparison, compare_methods

SMALL = ("training.steps=2", "classes=3", "photos=2", "stop_every=0")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labelled(tmp_path_factory.mktemp("compare") / "photos", 20)


def compared(photos: Path, out: Path, **settings: object) -> Comparison:
    given = {
        "backbone": "conv4", "overrides": SMALL, "methods": ["lacvit"], "shots": [1, 3], "draws": 2, "quiet": True,
        **settings,
    }  # fmt: skip
    return compare_methods(photos, out, **given)  # type: ignore[arg-type]


def test_the_table_pairs_each_method_with_the_old_features(photos: Path, tmp_path: Path) -> None:
    found = compared(photos, tmp_path / "run")
    assert [(row.method, row.shot) for row in found.rows] == [
        (name, shot) for shot in (1, 3) for name in ("nearest_mean", "linear_probe", "lacvit")
    ]
    assert found.finished == found.wanted == 12
    assert found.judged == 30, "half of each class, since a third is too little for a verdict"
    cells = tmp_path / "run" / "cells"

    def right(name: str, draw: int, what: str) -> numpy.ndarray:
        return numpy.array(
            [int(bit) for bit in json.loads((cells / f"3-{draw}-{name}.json").read_text())[what]]
        )

    row = found.rows[-1]
    gains = [right("lacvit", d, "answers") - right("linear_probe", d, "answers") for d in (0, 1)]
    assert row.gain == paired_interval(numpy.mean(gains, 0))
    assert row.gains == tuple(gain.mean() for gain in gains)
    assert row.answers == numpy.mean([right("lacvit", draw, "answers") for draw in (0, 1)])
    before = [right("lacvit", d, "prototypes") - right("nearest_mean", d, "prototypes") for d in (0, 1)]
    assert row.prototype_gain == paired_interval(numpy.mean(before, 0))
    table = (tmp_path / "run" / "comparison.md").read_text().splitlines()
    assert table == list(found.table())
    assert len(table) == 8
    assert any("label-aware contrastive adaptation" in sentence for sentence in found.sentences())
    told = json.loads((tmp_path / "run" / "comparison.json").read_text())
    assert told["rows"][0]["method"] == "nearest_mean"


def test_finished_cells_are_kept_and_the_rest_is_made(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = compared(photos, tmp_path / "whole")
    train, calls = module.adapt_backbone, []

    def dying(*arguments: object, **settings: object) -> object:
        calls.append(arguments)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return train(*arguments, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(module, "adapt_backbone", dying)
    with pytest.raises(KeyboardInterrupt):
        compared(photos, tmp_path / "broken")
    assert len(list((tmp_path / "broken" / "cells").glob("*.json"))) == 4
    calls.clear()
    monkeypatch.setattr(module, "adapt_backbone", lambda *a, **s: calls.append(a) or train(*a, **s))
    again = compared(photos, tmp_path / "broken", resume=True)
    assert len(calls) == 8
    assert again.rows == whole.rows
    more = compared(photos, tmp_path / "broken", methods=["prototype_tuning"], shots=[3], resume=True)
    assert more.finished == more.wanted == 6
    assert [row for row in more.rows if row.method != "prototype_tuning"] == list(whole.rows), (
        "cells are kept"
    )
    assert [row.shot for row in more.rows if row.method == "prototype_tuning"] == [3]


def test_all_photos_and_few_judges(photos: Path, tmp_path: Path) -> None:
    found = compared(photos, tmp_path / "run", shots=(), draws=1, most_judged=7, methods=["linear_probe"])
    assert found.judged == 7
    assert {row.shot for row in found.rows} == {None}
    assert found.rows[0].prototype_gain is None


def test_what_cannot_be_compared_is_named(photos: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="Did you mean lacvit"):
        compared(photos, tmp_path / "a", methods=["lacvitt"])
    with pytest.raises(InvalidInput, match="a class has 10 labelled photos; 11"):
        compared(photos, tmp_path / "b", shots=[11])
    with pytest.raises(InvalidInput, match="draws is 0"):
        compared(photos, tmp_path / "c", draws=0)
    with pytest.raises(InvalidInput, match="nothing can be compared: No photo is held out"):
        compared(write_labelled(tmp_path / "few", 2), tmp_path / "d")

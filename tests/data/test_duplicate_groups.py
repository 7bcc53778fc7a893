"""Duplicates as groups: copies and pictures saved again share a number, whatever lies between."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
from PIL import Image

from fewsight.data import duplicate_groups as module
from fewsight.data.collection import Collection
from fewsight.data.duplicate_groups import duplicate_groups


def scene(seed: int) -> Image.Image:
    pixels = numpy.random.default_rng(seed).integers(0, 256, (9, 9, 3)).astype(numpy.uint8)
    return Image.fromarray(pixels).resize((96, 96), Image.Resampling.BICUBIC)


def test_exact_and_near_duplicates_share_a_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene(1).save(tmp_path / "a.png")
    scene(2).save(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes((tmp_path / "a.png").read_bytes())
    scene(2).resize((80, 80)).save(tmp_path / "d.jpg", quality=60)
    scene(3).save(tmp_path / "e.png")
    (tmp_path / "f.png").write_bytes(b"no picture")
    collection = Collection.from_paths(
        [tmp_path / name for name in sorted(p.name for p in tmp_path.iterdir())]
    )
    told = []
    found = duplicate_groups(collection, done=lambda: told.append(1))
    assert len(told) == 6
    a, b, c, d, e, f = found.codes.tolist()
    assert a == c
    assert b == d
    assert len({a, b, e, f}) == 4
    assert found.pairs == ((0, 2, True), (1, 3, False))
    assert "4 photos have a duplicate" in str(found.remark(collection))
    assert "the same file as" in str(found.remark(collection))
    alone = duplicate_groups(collection.select([0, 1, 4]))
    assert alone.codes.tolist() == [0, 1, 2]
    assert alone.remark(collection) is None
    gone = duplicate_groups(Collection.from_paths([tmp_path / "gone.png", tmp_path / "e.png"]))
    assert "1 of 2 photos are not there" in str(gone.remark(collection))
    assert duplicate_groups(collection.select([])).codes.shape == (0,)
    monkeypatch.setattr(module, "LARGEST", 3)  # more photos: only equal files are found, and that is said
    many = duplicate_groups(collection)
    assert many.pairs == ((0, 2, True),)
    assert "only equal files are looked for" in str(many.remark(collection))
    assert "only equal files" in str(duplicate_groups(collection.select([0, 1, 3, 4])).remark(collection))

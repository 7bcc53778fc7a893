import csv
import os
import threading
from pathlib import Path

import numpy
import pytest
import torch

from data.shards.writing import photo, write_shards, write_tar
from fewsight.data.collection import Collection
from fewsight.data.shards.index import build_index
from fewsight.data.shards.photos import ShardPhotos
from fewsight.data.stored_photos import store_photos
from fewsight.data.transform import Transform
from fewsight.errors import FewsightError, UnreadableImage

SMALL = Transform(size=(24, 24))


def _photos(tmp_path, files, **others):
    return ShardPhotos(build_index(files, tmp_path / "index"), SMALL, workers=2, **others)


def test_photos_are_those_of_the_store(tmp_path):
    """The same bytes in shards and as files: equal pixels, whatever order they are asked for in."""
    photos = _photos(tmp_path, write_shards(tmp_path / "shards", [4, 3, 5]))
    for number in range(12):
        (tmp_path / f"{number}.jpg").write_bytes(photo(number))
    collection = Collection.from_paths([tmp_path / f"{number}.jpg" for number in range(12)])
    store = store_photos(collection, SMALL, tmp_path / "store", workers=1)
    rows = numpy.array([7, 0, 11, 3])
    assert torch.equal(photos.rows(rows), store.rows(rows))
    assert len(photos) == len(store) == 12


def test_an_unreadable_photo_is_named_and_its_neighbour_stands_in(tmp_path):
    members = [(f"p/{n}.jpg", photo(n)) for n in range(4)]
    members[1] = ("p/1.jpg", b"<html>not found</html>")
    members[2] = ("p/2.jpg", photo(2)[:200])
    members[3] = ("p/3.jpg", b"")
    file = write_tar(tmp_path / "a.tar", members)
    report = tmp_path / "unreadable.csv"
    photos = _photos(tmp_path, [file], report=report)
    pixels = photos.rows([0, 1, 2, 3])
    assert all(torch.equal(pixels[row], pixels[0]) for row in range(4))  # the only one that is left
    assert photos.unreadable == 3
    with report.open(newline="") as lines:
        found = {row["file"]: row for row in csv.DictReader(lines)}
    assert set(found) == {"a.tar/p/1.jpg", "a.tar/p/2.jpg", "a.tar/p/3.jpg"}
    assert found["a.tar/p/3.jpg"]["note"] == "empty"
    assert found["a.tar/p/1.jpg"]["status"] == "unreadable"
    again = _photos(tmp_path, [file], report=report)  # a resumed run
    assert torch.equal(again.rows([0, 1, 2, 3]), pixels)
    assert again.unreadable == 3
    assert len(report.read_text().splitlines()) == 4


def test_what_was_held_out_never_stands_in(tmp_path):
    members = [("0.jpg", b"no photo"), ("1.jpg", photo(1)), ("2.jpg", photo(2))]
    file = write_tar(tmp_path / "a.tar", members)
    photos = _photos(tmp_path, [file], left_out=numpy.array([1]))
    assert torch.equal(photos.rows([0])[0], photos.rows([2])[0])


def test_a_strict_run_stops_and_names_the_photo(tmp_path):
    file = write_tar(tmp_path / "a.tar", [("d/0.jpg", photo(0)[:100])])
    with pytest.raises(UnreadableImage, match=r"a\.tar/d/0\.jpg cannot be read .*--strict"):
        _photos(tmp_path, [file], strict=True).rows([0])


def test_nothing_readable_at_all_is_one_sentence(tmp_path):
    file = write_tar(tmp_path / "a.tar", [(f"{n}.jpg", b"text") for n in range(5)])
    with pytest.raises(FewsightError, match=r"5 photos on end cannot be read from a\.tar/0\.jpg on"):
        _photos(tmp_path, [file]).rows([0])


def test_a_shard_that_shrinks_or_vanishes_meanwhile_costs_its_photos(tmp_path):
    files = write_shards(tmp_path / "s", [3, 3])
    photos = _photos(tmp_path, files, report=tmp_path / "unreadable.csv")
    files[0].write_bytes(files[0].read_bytes()[:600])
    assert photos.rows([0, 1]).shape == (2, 3, 24, 24)
    assert "the shard ends before the photo does" in (tmp_path / "unreadable.csv").read_text()


def test_many_threads_and_more_shards_than_are_kept_open(tmp_path, monkeypatch):
    monkeypatch.setattr("fewsight.data.shards.photos.OPEN_SHARDS", 2)
    photos = _photos(tmp_path, write_shards(tmp_path / "s", [2] * 8))
    before = len(list(Path("/proc/self/fd").iterdir()))
    wanted = photos.rows(range(16))
    wrong = []

    def read():
        generator = numpy.random.default_rng(threading.get_ident() % 1000)
        for _ in range(10):
            rows = generator.permutation(16)
            if not torch.equal(photos.rows(rows), wanted[rows]):
                wrong.append(rows)

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert len(list(Path("/proc/self/fd").iterdir())) <= before + 4


def test_spans_are_read_ahead_once(tmp_path, monkeypatch):
    advised = []
    monkeypatch.setattr(
        os, "posix_fadvise", lambda file, offset, size, advice: advised.append((offset, size))
    )
    monkeypatch.setattr("fewsight.data.shards.photos.SPAN", 1 << 10)
    photos = _photos(tmp_path, write_shards(tmp_path / "s", [6]))
    photos.rows([4, 2, 4])
    once = list(advised)
    photos.rows([2, 4])
    assert advised == once
    assert len(set(once)) == len(once)
    for row in (2, 4):
        place = photos.index.rows[row]
        covered = {offset for offset, _ in once}
        assert {place["offset"] // 1024 * 1024, (place["offset"] + place["size"]) // 1024 * 1024} <= covered

import json

import numpy
import pytest

from data.shards.writing import photo, write_shards, write_tar
from fewsight.data.shards import index as module
from fewsight.data.shards.index import build_index, count_up_to, open_index
from fewsight.errors import IncompatibleModel, InvalidInput


def test_the_index_holds_every_photo_of_every_shard(tmp_path):
    files = write_shards(tmp_path, [3, 0, 5], labels=True)
    index = build_index(files, tmp_path / "index")
    assert len(index) == 8
    assert index.starts.tolist() == [0, 3, 3, 8]
    assert [index.shard_of(row) for row in range(8)] == [0, 0, 0, 2, 2, 2, 2, 2]
    assert [index.classes[label] for label in index.rows["label"]] == list("abababab")
    for row in range(8):
        raw = index.files[index.shard_of(row)].read_bytes()
        place = index.rows[row]
        assert raw[place["offset"] : place["offset"] + place["size"]] == photo(row)
    assert index.rows.dtype.itemsize == 16


def test_a_finished_index_is_opened_and_not_made_again(tmp_path, monkeypatch):
    files = write_shards(tmp_path, [2, 2])
    first = build_index(files, tmp_path / "index")
    monkeypatch.setattr(module, "read_headers", lambda path: pytest.fail("read again"))
    assert build_index(files, tmp_path / "index").fingerprint == first.fingerprint
    assert open_index(tmp_path / "index").fingerprint == first.fingerprint


def test_a_killed_pass_goes_on_to_the_same_index(tmp_path, monkeypatch):
    files = write_shards(tmp_path, [2, 3, 4, 5], labels=True)
    whole = build_index(files, tmp_path / "whole")
    plain, seen = module.read_headers, []

    def dying(path):
        if path == files[2] and not seen.count(files[2]):
            seen.append(path)
            raise KeyboardInterrupt
        seen.append(path)
        return plain(path)

    monkeypatch.setattr(module, "SAVED_EVERY", 0.0)
    monkeypatch.setattr(module, "read_headers", dying)
    with pytest.raises(KeyboardInterrupt):
        build_index(files, tmp_path / "cut", workers=1)
    with pytest.raises(IncompatibleModel, match="unfinished"):
        open_index(tmp_path / "cut")
    with (tmp_path / "cut" / "rows.bin").open("ab") as file:
        file.write(b"half a row")
    again = build_index(files, tmp_path / "cut", workers=1)
    assert numpy.array_equal(again.rows, whole.rows)
    assert again.fingerprint == whole.fingerprint
    assert seen.count(files[0]) == 1


def test_a_changed_shard_changes_the_fingerprint(tmp_path):
    files = write_shards(tmp_path, [2, 2])
    first = build_index(files, tmp_path / "index").fingerprint
    write_tar(files[1], [("a.jpg", photo(9))])
    index = build_index(files, tmp_path / "index")
    assert len(index) == 3
    assert index.fingerprint != first


def test_damage_is_collected_in_sentences(tmp_path):
    files = write_shards(tmp_path, [4, 4])
    files[0].write_bytes(files[0].read_bytes()[:3000])
    index = build_index(files, tmp_path / "index")
    assert len(index.damage) == 1
    assert "truncated" in index.damage[0]
    assert 4 < len(index) < 8


def test_shards_without_photos_are_refused(tmp_path):
    file = write_tar(tmp_path / "a.tar", [("a.txt", b"text")])
    with pytest.raises(InvalidInput, match=r"hold no photo; a sample is KEY\.jpg"):
        build_index([file], tmp_path / "index")
    (tmp_path / "page.tar").write_bytes(b"<html>" * 200)
    with pytest.raises(InvalidInput, match=r"hold no photo \(.*page\.tar is no tar file"):
        count_up_to([tmp_path / "page.tar"], 8)


def test_a_damaged_index_is_told(tmp_path):
    files = write_shards(tmp_path, [2])
    build_index(files, tmp_path / "index")
    (tmp_path / "index" / "rows.bin").write_bytes(b"123")
    with pytest.raises(IncompatibleModel, match="damaged"):
        open_index(tmp_path / "index")
    assert len(build_index(files, tmp_path / "index")) == 2  # made anew
    (tmp_path / "index" / "index.json").write_text(json.dumps({"version": 99}))
    with pytest.raises(IncompatibleModel, match="unfinished"):
        open_index(tmp_path / "index")


def test_counting_stops_when_it_is_enough(tmp_path, monkeypatch):
    files = write_shards(tmp_path, [3, 3, 3])
    assert count_up_to(files, 100) == 9
    read = []
    plain = module.read_headers
    monkeypatch.setattr(module, "read_headers", lambda path: (read.append(path), plain(path))[1])
    assert count_up_to(files, 5) == 5
    assert len(read) == 2

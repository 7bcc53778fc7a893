import pytest

from fewsight.data.shards.names import shard_files
from fewsight.errors import InvalidInput


@pytest.fixture
def folder(tmp_path):
    for number in (0, 1, 2, 10):
        (tmp_path / f"photos-{number:03d}.tar").write_bytes(b"")
    return tmp_path


def _names(found):
    return [file.name for file in found]


def test_braces_keep_their_zeros_and_order(folder):
    assert _names(shard_files(folder / "photos-{000..002}.tar")) == [f"photos-00{n}.tar" for n in range(3)]
    assert _names(shard_files(folder / "photos-{010,001}.tar")) == ["photos-010.tar", "photos-001.tar"]


def test_patterns_folders_and_single_shards(folder):
    everything = ["photos-000.tar", "photos-001.tar", "photos-002.tar", "photos-010.tar"]
    assert _names(shard_files(folder / "photos-*.tar")) == everything
    assert _names(shard_files(folder)) == everything
    assert _names(shard_files(folder / "photos-010.tar")) == ["photos-010.tar"]


def test_side_files_do_not_hide_shards_and_photos_do(folder):
    (folder / "sizes.json").write_text("{}")
    assert len(shard_files(folder)) == 4
    (folder / "photo.jpg").write_bytes(b"")
    assert shard_files(folder) is None


def test_what_is_no_shard_is_left_to_others(tmp_path):
    (tmp_path / "a{1..3}.tar").mkdir()  # a folder of that very name
    (tmp_path / "index.csv").write_text("image\n")
    for source in (
        tmp_path / "a{1..3}.tar",
        tmp_path / "index.csv",
        tmp_path,
        tmp_path / "no.tar",
        "x{a,b}.csv",
    ):
        assert shard_files(source) is None


def test_absent_and_compressed_shards_are_named(folder):
    with pytest.raises(InvalidInput, match=r"2 of the 5 shards .* the first is .*photos-003.tar"):
        shard_files(folder / "photos-{000..004}.tar")
    (folder / "photos-000.tar.gz").write_bytes(b"")
    with pytest.raises(InvalidInput, match=r"compressed.*unpack it to a plain \.tar"):
        shard_files(folder / "photos-000.tar.gz")
    with pytest.raises(InvalidInput, match="too many shards"):
        shard_files(folder / "photos-{0..99999999999}.tar")

import os
import tarfile

import pytest

from data.shards.writing import photo, write_shards, write_tar
from fewsight.data.shards.headers import member_name, read_headers
from fewsight.errors import InvalidInput


def _content(path, found):
    raw = path.read_bytes()
    return [raw[photo.offset : photo.offset + photo.size] for photo in found.photos]


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_photos_lie_where_the_index_says_for_every_dialect(tmp_path, format):
    long = "f" * 90 + "/" + "n" * 90 + ".jpg"  # longer than a plain header holds
    names = ["a.jpg", long, "ü/b.png"]
    contents = [photo(number) for number in range(3)]
    path = write_tar(tmp_path / "s.tar", list(zip(names, contents, strict=True)), format)
    found = read_headers(path)
    assert _content(path, found) == contents
    assert (found.passed, found.damage) == (0, "")
    file = os.open(path, os.O_RDONLY)
    read = [member_name(file, place.offset) for place in found.photos]
    os.close(file)
    assert read == names


def test_samples_are_grouped_by_the_name_up_to_its_first_dot(tmp_path):
    one, two = photo(0), photo(1)
    members = [
        ("d/01.cls", b"cat\n"),
        ("d/01.jpg", one),
        ("d/01.json", b"{}"),
        ("d/02.seg.png", two),
        ("d/02.jpg", one),  # the sample has its picture already
        ("d/02.cls", b"7"),
        ("e/02.JPEG", two),
        ("._x.jpg", b"finder"),
        ("e/readme", b"no suffix"),
        ("e/3.cls", b"no picture"),
        ("e/4.cls", b"x" * 500),
        ("e/4.webp", one),
    ]
    path = write_tar(tmp_path / "s.tar", members)
    found = read_headers(path)
    assert [place.label for place in found.photos] == ["cat", "7", None, None]
    assert _content(path, found) == [one, two, two, one]
    assert found.passed == 1


def test_links_and_folders_are_passed_over(tmp_path):
    path = tmp_path / "s.tar"
    with tarfile.open(path, "w") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE):
            member = tarfile.TarInfo(f"{kind!r}.jpg")
            member.type, member.linkname = kind, "/etc/passwd"
            archive.addfile(member)
    assert read_headers(path).photos == []


def test_a_truncated_shard_keeps_its_whole_photos(tmp_path):
    (path,) = write_shards(tmp_path, [5])
    whole = read_headers(path).photos
    path.write_bytes(path.read_bytes()[: whole[3].offset + 10])
    found = read_headers(path)
    assert found.photos == whole[:3]
    assert found.damage == f"{path} ends in the middle of p/00003.jpg (truncated)"


@pytest.mark.parametrize("cut", ["mark", "header"])
def test_a_shard_without_its_end_mark_is_whole(tmp_path, cut):
    (path,) = write_shards(tmp_path, [3])
    whole = read_headers(path).photos
    end = -(-(whole[2].offset + whole[2].size) // 512) * 512
    path.write_bytes(path.read_bytes()[: end if cut == "mark" else whole[2].offset - 512])
    assert read_headers(path).photos == (whole if cut == "mark" else whole[:2])


def test_damage_costs_what_it_touches(tmp_path):
    (path,) = write_shards(tmp_path, [6])
    whole = read_headers(path).photos
    raw = bytearray(path.read_bytes())
    raw[whole[2].offset - 512 : whole[2].offset - 400] = b"\xff" * 112  # the header of the third photo
    path.write_bytes(raw)
    found = read_headers(path)
    assert found.photos == whole[:2] + whole[3:]
    assert found.damage == f"{path} is damaged in 1 place; photos there are lost"


def test_shards_laid_end_to_end_are_read_to_the_end(tmp_path):
    first, second = write_shards(tmp_path, [2, 3])
    first.write_bytes(first.read_bytes() + second.read_bytes())
    assert len(read_headers(first).photos) == 5


def test_what_is_no_tar_is_said(tmp_path):
    (tmp_path / "page.tar").write_bytes(b"<html>" * 1000)
    assert read_headers(tmp_path / "page.tar").damage.endswith(
        "page.tar is no tar file, or nothing is left of it"
    )
    with pytest.raises(InvalidInput, match="cannot be read"):
        read_headers(tmp_path / "absent.tar")
    (tmp_path / "empty.tar").write_bytes(b"")
    assert read_headers(tmp_path / "empty.tar").damage.endswith("is empty")


def test_no_damage_stops_the_program(tmp_path):
    """150 shards with ten flipped bytes each."""
    import numpy

    (path,) = write_shards(tmp_path, [3])
    raw = numpy.frombuffer(path.read_bytes(), numpy.uint8)
    generator = numpy.random.default_rng(0)
    counts = []
    for _ in range(150):
        changed = raw.copy()
        headers = generator.integers(0, 512, 5)  # half of them in the first header, the others anywhere
        changed[headers] = generator.integers(0, 256, 5)
        changed[generator.integers(0, len(raw), 5)] = generator.integers(0, 256, 5)
        path.write_bytes(changed.tobytes())
        counts.append(len(read_headers(path).photos))
    # The photos fill a third of the bytes, and the end mark most of the rest; the first header is hit each time.
    assert numpy.mean(counts) > 1.3
    assert max(counts) <= 3

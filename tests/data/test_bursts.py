"""Bursts by EXIF time."""

from __future__ import annotations

import pytest
from PIL import Image

from fewsight.data.bursts import burst_groups, exposure_of
from fewsight.data.collection import Collection, Row
from fewsight.errors import InvalidInput


@pytest.fixture
def shot(tmp_path, picture, encoded, write):
    """`shot(name, time, camera)`: a JPEG with this EXIF time."""

    def make(name: str, time: str | None, camera: str = "Trap 1", fraction: str | None = None) -> Row:
        exif = Image.Exif()
        exif[0x0110] = camera
        if time is not None:
            exif.get_ifd(0x8769)[0x9003] = f"2024:05:01 {time}"
        if fraction is not None:
            exif.get_ifd(0x8769)[0x9291] = fraction
        write(tmp_path / name, encoded(picture(), exif=exif.tobytes()))
        return Row(name.encode())

    return make


def test_runs_of_one_camera_in_one_folder(shot, tmp_path):
    rows = [
        shot("a/3.jpg", "10:00:12"),
        shot("a/1.jpg", "10:00:00"),
        shot("a/2.jpg", "10:00:06"),
        shot("a/4.jpg", "10:00:40"),
        shot("a/5.jpg", "10:00:06", camera="Trap 2"),
        shot("b/1.jpg", "10:00:06"),
        shot("b/2.jpg", None),
    ]
    groups = burst_groups(Collection.from_rows(tmp_path, rows))
    assert groups == ["a/1.jpg", "a/1.jpg", "a/1.jpg", "a/4.jpg", "a/5.jpg", "b/1.jpg", "b/2.jpg"]
    assert burst_groups(Collection.from_rows(tmp_path, rows), seconds=5)[:3] == [
        "a/3.jpg",
        "a/1.jpg",
        "a/2.jpg",
    ]
    with pytest.raises(InvalidInput, match="seconds"):
        burst_groups(Collection.from_rows(tmp_path, rows), seconds=-1)


def test_fractions_of_a_second(shot, tmp_path):
    shot("1.jpg", "10:00:00", fraction="25")
    exposure = exposure_of(str(tmp_path / "1.jpg"))
    assert exposure is not None
    assert exposure.time % 60 == pytest.approx(0.25)


def test_files_that_say_nothing(tmp_path, write, picture, encoded):
    write(tmp_path / "plain.jpg")
    write(tmp_path / "cut.jpg", encoded(picture())[:100])
    write(tmp_path / "a.png", encoded(picture(), "PNG"))
    write(tmp_path / "text.jpg", b"hello")
    for name in ("plain.jpg", "cut.jpg", "a.png", "text.jpg", "gone.jpg"):
        assert exposure_of(str(tmp_path / name)) is None

"""Bursts: photos that one camera took within seconds of each other, by the time in their EXIF data."""

from __future__ import annotations

import io
from datetime import datetime
from itertools import pairwise
from typing import NamedTuple

from PIL import JpegImagePlugin

from fewsight.data.collection import Collection
from fewsight.data.decode import silent_pillow
from fewsight.data.source import leaves_folder, read_head
from fewsight.errors import InvalidInput

__all__ = ["Exposure", "burst_groups", "exposure_of"]

_HEAD_BYTES = 1 << 18  # EXIF stands first in a JPEG
_EXIF_IFD, _MAKE, _MODEL, _TIME, _FRACTION, _SERIAL = 0x8769, 0x010F, 0x0110, 0x9003, 0x9291, 0xA431


class Exposure(NamedTuple):
    """When a photo was taken, in seconds, and by which camera."""

    camera: str
    time: float


def burst_groups(collection: Collection, *, seconds: float = 10.0) -> list[str]:
    """A group name for each of N photos: photos of a burst share one, all others stand alone.

    A burst is a run of photos in one folder by one camera, each at most `seconds` after the one before. The name is
    the file of the burst's first photo. A photo without a time in its EXIF data stands alone.

    Args:
        collection: JPEGs; photos of other formats stand alone.
        seconds: the longest pause within a burst.
    """
    if not seconds >= 0:
        raise InvalidInput(f"seconds is {seconds}; expected 0 or more.")
    names = [collection.file(index) for index in range(len(collection))]
    series: dict[tuple[str, str], list[tuple[float, int]]] = {}
    for index, name in enumerate(names):
        path = collection.path(index)
        exposure = None if leaves_folder(path, collection.root) else exposure_of(path)
        if exposure is not None:
            series.setdefault((name.rpartition("/")[0], exposure.camera), []).append((exposure.time, index))
    groups = list(names)
    for shots in series.values():
        shots.sort()
        for (before, first), (time, second) in pairwise(shots):
            if time - before <= seconds:
                groups[second] = groups[first]
    return groups


def exposure_of(path: str) -> Exposure | None:
    """Camera and time of a JPEG, or None where its EXIF data do not say."""
    head = read_head(path, _HEAD_BYTES)
    if not head.startswith(b"\xff\xd8"):
        return None
    try:
        with silent_pillow():
            exif = JpegImagePlugin.JpegImageFile(io.BytesIO(head)).getexif()
            more = exif.get_ifd(_EXIF_IFD)
        taken = datetime.strptime(str(more[_TIME]).strip("\0 "), "%Y:%m:%d %H:%M:%S")  # cameras know no zone
    except Exception:  # damaged EXIF data raise whatever they lead to
        return None
    digits = str(more.get(_FRACTION, "")).strip("\0 ")
    fraction = float(f"0.{digits}") if digits.isdigit() else 0.0
    camera = " ".join(
        str(part) for part in (exif.get(_MAKE, ""), exif.get(_MODEL, ""), more.get(_SERIAL, ""))
    )
    return Exposure(camera, (taken - datetime(1970, 1, 1)).total_seconds() + fraction)

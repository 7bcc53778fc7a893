"""Signs of damage in a JPEG that decodes without complaint.

Three quarters of damaged JPEGs decode silently; what is wrong shows only as a grey or smeared tail. Four signs cost
next to nothing, because they come from the markers and from watching the decoder read:

    no end marker       the file was cut
    wrong marker        a marker inside the picture data that no JPEG has there, or restart markers out of order
    data left over      the decoder had all its pixels although the last bytes of the picture were still withheld
    data used up        the decoder asked for more than the picture data hold: it made up the rest, in grey

The last two are read off a baseline file only; a progressive one is decoded after all of it was read. Not every
damage shows: bits that flip without a change in length leave a wrong patch that no decoder can know of.
"""

from __future__ import annotations

import io
import re
from typing import NamedTuple

import numpy
from PIL.Image import Image

from fewsight.data.pixels import Pixels

__all__ = ["JpegScan", "WatchedBytes", "grey_tail", "jpeg_damage", "scan_jpeg"]

# Cheap cameras leave a few bytes between the picture and the end marker: these are not damage.
TOLERATED_REST = 32
_LOOKAHEAD = 8  # bytes of libjpeg's bit buffer
_BASELINE = frozenset((0xC0, 0xC1))
_FRAMES = frozenset((0xC0, 0xC1, 0xC2, 0xC3, 0xC5, 0xC6, 0xC7, 0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF))
# Between scans: tables, scans, restart interval, number of lines, end, application data, comment.
_BETWEEN_SCANS = frozenset((0xC4, 0xCC, 0xDA, 0xDB, 0xDC, 0xDD, 0xD9, 0xFE, *range(0xE0, 0xF0)))
# FF followed by neither 00 (stuffing) nor FF (fill)
_MARKER = re.compile(rb"\xff[^\x00\xff]")


class JpegScan(NamedTuple):
    """Where the picture data of a JPEG lie, and whether its markers are sound."""

    baseline: bool
    scans: int
    data_start: int  # of the first scan
    data_end: int  # position of the end marker, or the length of the file
    complaint: str | None

    @property
    def watchable(self) -> bool:
        """Whether the decoder reads the file as it goes: one scan, baseline, markers sound."""
        return self.baseline and self.scans == 1 and self.complaint is None


def scan_jpeg(content: bytes) -> JpegScan:
    """Walk the markers from the start to the end marker."""
    position, baseline, scans, first, size = 2, True, 0, 0, len(content)

    def found(complaint: str | None, end: int = size) -> JpegScan:
        return JpegScan(baseline, scans, first, end, complaint)

    while position + 4 <= size:
        if content[position] != 0xFF:
            return found("unexpected data between segments")
        code = content[position + 1]
        if code == 0xFF:  # fill byte
            position += 1
            continue
        if code == 0xD9:
            break
        if code in _FRAMES:
            baseline = code in _BASELINE
        if scans and code not in _BETWEEN_SCANS:
            return found(f"wrong marker FF{code:02X} in the picture data")
        position += 2 + max(2, int.from_bytes(content[position + 2 : position + 4], "big"))
        if code != 0xDA:
            continue
        scans, first = scans + 1, first or position
        end, in_order = _end_of_scan(content, position)
        if end is None:
            return found("no end marker")
        if not in_order:
            return found("restart markers out of order")
        position = end
    if content[position : position + 2] != b"\xff\xd9":
        return found("no end marker")
    return found(None, position)


def _end_of_scan(content: bytes, start: int) -> tuple[int | None, bool]:
    """Where the first marker behind a scan's data stands (None: nowhere), and whether restarts count 0 to 7, 0, ..."""
    in_order = True
    for restarts, marker in enumerate(_MARKER.finditer(content, start)):
        code = content[marker.start() + 1]
        if not 0xD0 <= code <= 0xD7:
            return marker.start(), in_order
        in_order &= (code & 7) == restarts % 8
    return None, in_order


class WatchedBytes(io.BytesIO):
    """A JPEG that hands out its end piece by piece, to see how much of it the decoder asks for.

    Behind the picture data stand eight bytes of padding: libjpeg fills a buffer of 64 bits ahead of its need, so a
    sound picture may ask for padding, but never for the end marker behind it.

    `asked_for_rest` is whether the decoder read the last `TOLERATED_REST` bytes of the picture data;
    `asked_for_end` whether it read on beyond the padding.
    """

    def __init__(self, content: bytes, scan: JpegScan) -> None:
        end, view = scan.data_end, memoryview(content)
        super().__init__(b"".join((view[:end], bytes(_LOOKAHEAD), view[end:])))
        self._borders = (max(scan.data_start, end - TOLERATED_REST), end + _LOOKAHEAD)
        self.asked_for_rest = False
        self.asked_for_end = False

    def read(self, size: int | None = -1, /) -> bytes:
        """As of any file, but never across one of the two borders."""
        here = self.tell()
        rest, end = self._borders
        if size is not None and 0 <= size <= rest - here:  # nearly all of the many reads
            return super().read(size)
        self.asked_for_rest |= here >= rest
        self.asked_for_end |= here >= end
        border = next((border for border in self._borders if here < border), None)
        if border is not None:
            size = border - here if size is None or size < 0 else min(size, border - here)
        return super().read(size)


def jpeg_damage(scan: JpegScan, watched: WatchedBytes | None, picture: Pixels | Image) -> str | None:
    """What is wrong with a JPEG that was decoded (from `watched`) to an RGB picture, or None."""
    if scan.complaint:
        return scan.complaint
    if watched is not None:
        if not watched.asked_for_rest:
            return "picture data left over"
        if watched.asked_for_end:
            return "picture data used up before the last pixel"
    if grey_tail(picture):
        return "grey tail"
    return None


def grey_tail(picture: Pixels | Image) -> bool:
    """Whether an RGB picture ends in rows of the decoder's filling grey (128) that do not begin it.

    A picture on a background of exactly this grey has it at its top as well, and is not taken for damaged.
    """
    if not isinstance(picture, numpy.ndarray):
        if picture.getpixel((picture.width - 1, picture.height - 1)) != (128, 128, 128):
            return False  # nearly every picture, without turning it into an array
        picture = numpy.asarray(picture)
    rows = max(1, min(8, picture.shape[0] // 16))
    return bool(numpy.all(picture[-rows:] == 128) and not numpy.all(picture[:1] == 128))

"""Facts that stand in the header of a file and that must be known before, or beside, decoding."""

from __future__ import annotations

import struct
from typing import Any

__all__ = ["claimed_size", "exif_orientation", "grey_bits", "webp_size"]

_ORIENTATION = 0x0112
_BITS_PER_SAMPLE = 258


def exif_orientation(exif: Any) -> int:
    """The orientation (1 to 8) of an EXIF block as bytes; 1 where there is none or it is damaged.

    Read here, not by Pillow, whose reader warns about each oddity of a camera.

    >>> exif_orientation(bytes.fromhex("4949 2a00 0800 0000 0100 1201 0300 0100 0000 0600 0000"))
    6
    """
    if not isinstance(exif, bytes):
        return 1
    block = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(block[:2])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(order + "I", block, 4)
        (count,) = struct.unpack_from(order + "H", block, start)
        for entry in range(start + 2, start + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH", block, entry)
            if tag == _ORIENTATION:
                (value,) = struct.unpack_from(order + ("I" if kind == 4 else "H"), block, entry + 8)
                return value if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def claimed_size(kind: str, content: bytes) -> tuple[int, int] | None:
    """Width and height that the first bytes claim, read before any plugin sees them; None where they claim none.

    A file may hold nothing but such a header; and Pillow's WebP plugin allocates the canvas as soon as it is made.
    """
    if kind == "PNG" and content[12:16] == b"IHDR" and len(content) >= 24:
        return int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
    if kind == "GIF" and len(content) >= 10:
        return int.from_bytes(content[6:8], "little"), int.from_bytes(content[8:10], "little")
    if kind == "BMP" and len(content) >= 26 and int.from_bytes(content[14:18], "little") >= 40:
        width, height = struct.unpack_from("<ii", content, 18)
        return abs(width), abs(height)  # a negative height: rows from the top
    return webp_size(content) if kind == "WebP" else None


def webp_size(content: bytes) -> tuple[int, int] | None:
    """Width and height of a WebP canvas, or None where the header is damaged."""
    kind, body = content[12:16], content[20:30]
    if kind == b"VP8X" and len(body) == 10:
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"VP8L" and len(body) >= 5:
        packed = int.from_bytes(body[1:5], "little")
        return (packed & 0x3FFF) + 1, (packed >> 14 & 0x3FFF) + 1
    if kind == b"VP8 " and len(body) == 10:
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    return None


def grey_bits(image: Any, content: bytes) -> int | None:
    """Significant bits that a 16-bit grey TIFF or PNG declares, where fewer than 16."""
    if image.format == "PNG":
        bits = _png_significant_bits(content)
    elif image.format == "TIFF":
        declared = image.tag_v2.get(_BITS_PER_SAMPLE)
        bits = declared[0] if isinstance(declared, tuple) and declared else declared
    else:
        return None
    return bits if isinstance(bits, int) and 8 < bits < 16 else None


def _png_significant_bits(content: bytes) -> int | None:
    """The first value of the sBIT chunk."""
    position = 8
    while position + 12 <= len(content):
        length = int.from_bytes(content[position : position + 4], "big")
        name = content[position + 4 : position + 8]
        if name == b"sBIT" and length:
            return content[position + 8]
        if name in (b"IDAT", b"IEND"):
            return None
        position += 12 + length
    return None

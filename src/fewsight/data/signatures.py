"""What a file is, by its first bytes: the formats that are decoded, and those that are refused by name.

Suffixes are never trusted: a PNG named `.jpg` is decoded as PNG, an HTML page named `.jpg` is not an image.
"""

from __future__ import annotations

from typing import Literal

from fewsight.errors import UnreadableImage

__all__ = ["CAMERA_RAW_SUFFIXES", "FORMATS", "IMAGE_SUFFIXES", "Format", "detect_format", "is_image_head"]

Format = Literal["JPEG", "PNG", "WebP", "BMP", "TIFF", "GIF"]

FORMATS: dict[Format, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WebP": (".webp",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
}

HEAD_BYTES = 1024  # SVG is known by a tag that may stand behind a long XML header

# Camera raw files are TIFF inside, and Pillow would give the thumbnail that is stored first.
CAMERA_RAW_SUFFIXES = frozenset(
    [".raw", ".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw"]
)

# Formats that people take for photos and that get their row, though they are refused.
_REFUSED_SUFFIXES = frozenset(
    [
        ".heic",
        ".heif",
        ".avif",
        ".jp2",
        ".j2k",
        ".jxl",
        ".ico",
        ".psd",
        ".eps",
        ".ps",
        ".svg",
        ".pdf",
        ".pnm",
        ".ppm",
        ".pgm",
        ".pbm",
        ".tga",
        ".xcf",
        ".exr",
        ".hdr",
    ]
)

IMAGE_SUFFIXES = (
    frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
    | _REFUSED_SUFFIXES
    | CAMERA_RAW_SUFFIXES
)

_SIGNATURES: tuple[tuple[bytes, Format], ...] = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"BM", "BMP"),
    (b"II*\0", "TIFF"),
    (b"MM\0*", "TIFF"),
    (b"II+\0", "TIFF"),
    (b"MM\0+", "TIFF"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
)

_REFUSED: tuple[tuple[bytes, str], ...] = (
    (b"%PDF", "PDF"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "EPS"),
    (b"8BPS", "PSD"),
    (b"\0\0\1\0", "ICO"),
    (b"\0\0\0\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\0\0\0\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"v/1\1", "OpenEXR"),
    (b"P1", "PNM"),
    (b"P2", "PNM"),
    (b"P3", "PNM"),
    (b"P4", "PNM"),
    (b"P5", "PNM"),
    (b"P6", "PNM"),
)


def detect_format(head: bytes) -> Format:
    """The format of a file that starts with `head` (`HEAD_BYTES` are enough).

    Raises:
        UnreadableImage: `refused` for a known format outside the allow-list, `unreadable` for anything else.

    >>> detect_format(b"GIF89a" + bytes(26))
    'GIF'
    """
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WebP"
    for signature, name in _SIGNATURES:
        if head.startswith(signature):
            return name
    refused = _refused_format(head)
    if refused:
        raise UnreadableImage(f"format not allowed ({refused}): save it as JPEG or PNG", status="refused")
    raise UnreadableImage("not an image")


def is_image_head(head: bytes) -> bool:
    """Whether `head` starts a format of the allow-list."""
    try:
        detect_format(head)
    except UnreadableImage:
        return False
    return True


def _refused_format(head: bytes) -> str | None:
    if head[4:8] == b"ftyp":
        brand = head[8:12]
        return {b"avif": "AVIF", b"avis": "AVIF"}.get(brand) or (
            "HEIC" if brand in (b"heic", b"heix", b"mif1", b"msf1", b"hevc", b"heim", b"heis") else None
        )
    for signature, name in _REFUSED:
        if head.startswith(signature) and (name != "PNM" or head[2:3].isspace()):
            return name
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith(b"<svg") or (text.startswith(b"<?xml") and b"<svg" in text):
        return "SVG"
    return None

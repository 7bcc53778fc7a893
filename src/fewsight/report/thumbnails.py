"""Small pictures for a page: each photo is read once, shrunk, stripped of its metadata and embedded once."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["Album", "Kind", "ReadPicture", "Thumbnail", "fitting_edge", "make_thumbnail"]

Kind = Literal["query", "support"]
ReadPicture = Callable[[Kind, str], "bytes | Image.Image | None"]

# photos given as bytes are decoded by these of Pillow's readers and no others
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
MAX_PIXELS = 178_956_970  # where Pillow itself speaks of a decompression bomb
QUALITY = 72  # WebP: the lowest at which 96-pixel faces and feathers showed no blocks


@dataclass(frozen=True)
class Thumbnail:
    """A small picture.

    Attributes:
        key: its id in the page.
        uri: the picture as a data URI.
        width, height: of the small picture, pixels.
    """

    key: str
    uri: str
    width: int
    height: int


class Album:
    """The pictures of one page, each read and shrunk once.

    Args:
        read: gives a photo by kind and file name, as a picture or encoded bytes, or None where there is none.
        edge: longer side of a thumbnail, pixels.
        budget: bytes that all data URIs together may take; photos that come later get none.
    """

    def __init__(self, read: ReadPicture, *, edge: int = 96, budget: int = 20 * 2**20) -> None:
        self.read = read
        self.edge = edge
        self.budget = budget
        self.used = 0
        self.left_out = 0
        self._kept: dict[tuple[Kind, str], Thumbnail | None] = {}

    def picture(self, kind: Kind, file: str) -> Thumbnail | None:
        """The thumbnail of one photo, or None where it cannot be shown."""
        if (kind, file) not in self._kept:
            self._kept[kind, file] = self._make(kind, file)
        return self._kept[kind, file]

    def known(self, kind: Kind, file: str) -> Thumbnail | None:
        """The thumbnail if it was made before; makes none."""
        return self._kept.get((kind, file))

    def _make(self, kind: Kind, file: str) -> Thumbnail | None:
        if self.used >= self.budget:
            self.left_out += 1
            return None
        made = make_thumbnail(self.read(kind, file), edge=self.edge, key=f"{kind[0]}{len(self._kept)}")
        self.used += len(made.uri) if made else 0
        return made


def fitting_edge(count: int) -> int:
    """Longer side in pixels for a page of `count` photos: a few may be larger, thousands stay small.

    >>> [fitting_edge(count) for count in (40, 400, 2000)]
    [208, 144, 96]
    """
    return 208 if count <= 150 else 144 if count <= 600 else 96


def make_thumbnail(
    picture: bytes | Image.Image | None, *, edge: int = 96, key: str = "p0"
) -> Thumbnail | None:
    """Shrink a picture so that its longer side is at most `edge` pixels; None if it cannot be decoded.

    The result is WebP without any metadata (no place, no camera). Bytes are turned as EXIF says; a picture is
    taken as it is.
    """
    try:
        image = _opened(picture, edge)
        if image is None or min(image.size) < 1:
            return None
        image = _on_white(image)
        image.thumbnail((edge, edge))
        stream = io.BytesIO()
        image.save(stream, "WEBP", quality=QUALITY, method=4)
    except Exception:  # a report must come out whatever one photo holds; its row says why it is not shown
        return None
    uri = "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
    return Thumbnail(key, uri, *image.size)


def _opened(picture: bytes | Image.Image | None, edge: int) -> Image.Image | None:
    if not isinstance(picture, bytes):
        return picture
    from PIL import Image, ImageOps

    image: Image.Image = Image.open(io.BytesIO(picture), formats=FORMATS)
    if image.width * image.height > MAX_PIXELS:
        return None
    image.draft("RGB", (2 * edge, 2 * edge))  # JPEG: decode at a reduced scale
    return ImageOps.exif_transpose(image)


def _on_white(image: Image.Image) -> Image.Image:
    from PIL import Image

    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB") if image.mode != "RGB" else image.copy()

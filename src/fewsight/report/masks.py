"""Masks as coloured layers over a thumbnail: filled lightly, outlined fully, small objects kept."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from fewsight.errors import InvalidInput
from fewsight.report.thumbnails import Thumbnail

__all__ = ["mask_layer", "shrink_labels"]

LabelMap = npt.NDArray[np.integer]

FILL, OUTLINE = 110, 255  # opacity of 255: the photo stays visible inside
# a pixel of the small mask is foreground when this share of what it covers is
KEPT_SHARE = 0.35


def mask_layer(
    labels: npt.ArrayLike, colours: Mapping[int, str], picture: Thumbnail, *, key: str
) -> Thumbnail | None:
    """A label map `[H, W]` (0 = background) as a transparent picture of the thumbnail's size; None if empty.

    Args:
        labels: any size; it is shrunk to that of `picture`.
        colours: by label, as the web writes them; others are drawn grey.
        key: its id in the page.
    """
    from PIL import Image, ImageColor

    table = shrink_labels(labels, (picture.height, picture.width))
    if not table.any():
        return None
    layer = np.zeros((*table.shape, 4), dtype=np.uint8)
    edge = _outline(table)
    for label in np.unique(table[table > 0]).tolist():
        inside = table == label
        layer[inside, :3] = ImageColor.getrgb(colours.get(label, "#888888"))[:3]
        layer[inside, 3] = FILL
    layer[edge, 3] = OUTLINE
    stream = io.BytesIO()
    Image.fromarray(layer).quantize(64).save(stream, "PNG", optimize=True)
    uri = "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
    return Thumbnail(key, uri, picture.width, picture.height)


def shrink_labels(labels: npt.ArrayLike, size: tuple[int, int]) -> LabelMap:
    """A label map at another size: each pixel takes the label that covers most of it, if any covers enough.

    Background needs the larger part of a pixel, so that thin things do not vanish.

    Raises:
        InvalidInput: `labels` is not a matrix of whole numbers.
    """
    from PIL import Image

    table = np.asarray(labels)
    if table.ndim != 2 or not np.issubdtype(table.dtype, np.integer):
        raise InvalidInput(f"labels is {table.dtype} of shape {table.shape}; expected whole numbers [H, W].")
    height, width = size
    best = np.full(size, KEPT_SHARE, dtype=np.float32)
    shrunk = np.zeros(size, dtype=np.int64)
    for label in np.unique(table[table > 0]).tolist():
        share = Image.fromarray((table == label).astype(np.float32)).resize(
            (width, height), Image.Resampling.BOX
        )
        covered = np.asarray(share)
        shrunk[covered >= best] = label
        best = np.maximum(best, covered)
    return shrunk


def _outline(table: LabelMap) -> npt.NDArray[np.bool_]:
    """Foreground pixels with a neighbour (of four) of another label; the border of the picture is none."""
    edge = np.zeros(table.shape, dtype=bool)
    down, right = table[1:] != table[:-1], table[:, 1:] != table[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    edge &= table > 0
    return edge

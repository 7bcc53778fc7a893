"""Masks as label maps in the frame of the upright photo: checked, mapped to classes, refused with what was seen.

A mask is an indexed or grey picture as large as its photo. Three ways of writing are read:

    binary      0 and one other value (1, 255, ...): the other is the photo's one class; grey edges between 0 and 255
                that some programs draw are cut at 128
    indexed     values are class ids, 0 is background, named by `classes.csv` (columns id, name); 255 is left out of
                account where the table does not name it (PASCAL VOC's border)
    16 bit      as indexed
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy
from numpy.typing import NDArray

from fewsight.data.collection import Photo
from fewsight.data.decode import MAX_PIXELS, decode_raw
from fewsight.errors import InvalidInput, UnreadableImage

__all__ = ["IGNORED", "label_map", "mask_values", "read_mask_names"]

IGNORED = -1
_VOID = 255
_CUT = 128
_SOLID_SHARE = 0.9  # of the pixels of an anti-aliased binary mask are 0 or 255


def read_mask_names(root: str | Path) -> dict[int, str]:
    """Class names by mask value from `classes.csv` (columns id, name) in `root`; empty where there is none."""
    path = Path(root, "classes.csv")
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8-sig")
    names: dict[int, str] = {}
    reader = csv.DictReader(io.StringIO(text, newline=""))
    for row in reader:
        fields = {str(key).strip().lower(): value for key, value in row.items()}
        try:
            names[int(fields["id"])] = fields["name"]
        except (KeyError, TypeError, ValueError):
            raise InvalidInput(
                f"{path}, line {reader.line_num}: expected the columns id (a number) and name."
            ) from None
    return names


def label_map(
    photo: Photo, size: tuple[int, int], classes: Sequence[str], names: Mapping[int, str] | None = None
) -> NDArray[numpy.int16]:
    """The mask of a photo, int16 [H, W]: 0 background, k + 1 for `classes[k]`, -1 for pixels left out of account.

    Args:
        photo: with a mask.
        size: height and width of the upright photo (`Decoded.original_size`).
        classes: names in the order wanted; ids of other classes become background.
        names: class names by mask value, from `read_mask_names`.

    Raises:
        InvalidInput: the mask is missing, unreadable, of another size, or holds values without a name.
    """
    if photo.mask is None:
        raise InvalidInput(f"{photo.file} has no mask.")
    values = mask_values(photo.mask)
    if values.shape != tuple(size):
        raise InvalidInput(
            f"mask {photo.mask} has {values.shape[1]} x {values.shape[0]} pixels, its photo {size[1]} x {size[0]} "
            "(upright, after its EXIF orientation); masks must be as large as their photos."
        )
    table = dict(names or {})
    seen = numpy.unique(values)
    if not table:
        return _binary(photo, values, seen, classes)
    table.pop(0, None)
    unknown = [int(value) for value in seen if value not in table and value not in (0, _VOID)]
    if unknown:
        raise InvalidInput(
            f"mask {photo.mask} holds the values {_shown(seen)}; classes.csv does not name {_shown(unknown)}."
        )
    return _indexed(values, seen, classes, table)


def mask_values(path: Path) -> NDArray[numpy.int32]:
    """The values of a mask picture, int32 [H, W]: palette indices, or grey values.

    Raises:
        InvalidInput: it cannot be read, or is a picture in colours.
    """
    try:
        image = decode_raw(path, max_pixels=MAX_PIXELS)
    except UnreadableImage as error:
        raise InvalidInput(f"mask {path} cannot be read: {error}.") from error
    if image.mode in ("RGB", "RGBA", "LA"):
        bands = [numpy.asarray(image.getchannel(band)) for band in image.mode if band != "A"]
        if any(not numpy.array_equal(bands[0], band) for band in bands[1:]):
            raise InvalidInput(
                f"mask {path} is in colours; save it as an indexed or grey picture of class ids."
            )
        return bands[0].astype(numpy.int32)
    if image.mode not in ("1", "L", "P", "I") and not image.mode.startswith("I;16"):
        raise InvalidInput(f"mask {path} is of the kind {image.mode}; save it as an indexed or grey picture.")
    grey = (
        image if image.mode in ("L", "P", "I", "I;16") else image.convert("I" if "I" in image.mode else "L")
    )
    return numpy.asarray(grey).astype(numpy.int32)


def _binary(
    photo: Photo, values: NDArray[numpy.int32], seen: NDArray[numpy.int32], classes: Sequence[str]
) -> NDArray[numpy.int16]:
    foreground = values != 0
    if len(seen[seen != 0]) > 1:
        solid = numpy.isin(values, (0, 255)).mean()
        if 255 not in seen or solid < _SOLID_SHARE:
            raise InvalidInput(
                f"mask {photo.mask} holds the values {_shown(seen)}; without a classes.csv (columns id, name) beside "
                "the photos a mask may hold 0 and one other value."
            )
        foreground = values >= _CUT
    if len(photo.labels) != 1 and foreground.any():
        raise InvalidInput(
            f"mask {photo.mask} is binary, but {photo.file} has {len(photo.labels)} labels; use an indexed mask and "
            "a classes.csv (columns id, name)."
        )
    wanted = classes.index(photo.labels[0]) + 1 if photo.labels and photo.labels[0] in classes else 0
    return numpy.where(foreground, wanted, 0).astype(numpy.int16)


def _indexed(
    values: NDArray[numpy.int32], seen: NDArray[numpy.int32], classes: Sequence[str], table: Mapping[int, str]
) -> NDArray[numpy.int16]:
    position = {name: k + 1 for k, name in enumerate(classes)}
    mapped = [
        IGNORED if value == _VOID and value not in table else position.get(table.get(int(value), ""), 0)
        for value in seen
    ]
    return numpy.asarray(mapped, dtype=numpy.int16)[numpy.searchsorted(seen, values)]


def _shown(values: Sequence[int] | NDArray[numpy.int32]) -> str:
    shown = [str(int(value)) for value in values[:16]]
    return ", ".join(shown) + (", ..." if len(values) > 16 else "")

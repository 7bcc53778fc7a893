"""Masks as label maps in the frame of the upright photo: checked, mapped to classes, refused with what was seen.

A mask is a picture as large as its photo. Four ways of writing are read:

    binary      0 and one other value (1, 255, ...): the other is the photo's one class; grey edges between 0 and 255
                that some programs draw are cut at 128
    indexed     values are class ids, 0 is background, named by `classes.csv` (columns id, name); 255 is left out of
                account where the table does not name it (PASCAL VOC's border)
    16 bit      as indexed
    coloured    RGB by the column `colour` of `classes.csv` (`#c00080` or `192 0 128`; black is background unless the
                table says otherwise); pixels of mixed colour, as drawing programs leave at edges, take the nearest
                colour of the table if nine of ten pixels are of the table
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy
from numpy.typing import NDArray

from fewsight.data.collection import Photo
from fewsight.data.decode import MAX_PIXELS, decode_raw
from fewsight.errors import InvalidInput, UnreadableImage

__all__ = ["IGNORED", "label_map", "mask_values", "read_mask_colours", "read_mask_names"]

IGNORED = -1
_VOID = 255
_CUT = 128
_SOLID_SHARE = 0.9  # of the pixels of an anti-aliased binary mask are 0 or 255


def read_mask_names(root: str | Path) -> dict[int, str]:
    """Class names by mask value from `classes.csv` (columns id, name) in `root`; empty where there is none."""
    names: dict[int, str] = {}
    for line, fields in _table(root):
        try:
            names[int(fields["id"])] = fields["name"]
        except (KeyError, TypeError, ValueError):
            raise InvalidInput(
                f"{Path(root, 'classes.csv')}, line {line}: expected the columns id (a number) and name."
            ) from None
    return names


def read_mask_colours(root: str | Path) -> dict[int, tuple[int, int, int]]:
    """Red, green and blue by mask value from the column `colour` (or `color`) of `classes.csv`; empty without it.

    Raises:
        InvalidInput: a colour is not `#rrggbb` or three numbers.
    """
    colours = {}
    for line, fields in _table(root):
        text = str(fields.get("colour") or fields.get("color") or "").strip()
        if not text:
            continue
        parts = [text[k : k + 2] for k in (1, 3, 5)] if text.startswith("#") else re.split(r"[ ,;]+", text)
        try:
            red, green, blue = (int(part, 16 if text.startswith("#") else 10) for part in parts)
            if not all(0 <= value <= 255 for value in (red, green, blue)):
                raise ValueError
        except ValueError:
            raise InvalidInput(
                f"{Path(root, 'classes.csv')}, line {line}: colour is {text!r}; expected #rrggbb or three numbers from "
                "0 to 255."
            ) from None
        colours[int(fields["id"])] = (red, green, blue)
    return colours


def _table(root: str | Path) -> Iterator[tuple[int, dict[str, str]]]:
    """Lines of `classes.csv` with lower-case column names."""
    path = Path(root, "classes.csv")
    if not path.is_file():
        return
    reader = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""))
    for row in reader:
        yield reader.line_num, {str(key).strip().lower(): value for key, value in row.items()}


def label_map(
    photo: Photo,
    size: tuple[int, int],
    classes: Sequence[str],
    names: Mapping[int, str] | None = None,
    colours: Mapping[int, tuple[int, int, int]] | None = None,
) -> NDArray[numpy.int16]:
    """The mask of a photo, int16 [H, W]: 0 background, k + 1 for `classes[k]`, -1 for pixels left out of account.

    Args:
        photo: with a mask.
        size: height and width of the upright photo (`Decoded.original_size`).
        classes: names in the order wanted; ids of other classes become background.
        names: class names by mask value, from `read_mask_names`.
        colours: of mask values, from `read_mask_colours`, for masks in colours.

    Raises:
        InvalidInput: the mask is missing, unreadable, of another size, or holds values without a name.
    """
    if photo.mask is None:
        raise InvalidInput(f"{photo.file} has no mask.")
    values = mask_values(photo.mask, colours)
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


def mask_values(
    path: Path, colours: Mapping[int, tuple[int, int, int]] | None = None
) -> NDArray[numpy.int32]:
    """The values of a mask picture, int32 [H, W]: palette indices, grey values, or those of `colours`.

    Raises:
        InvalidInput: it cannot be read, or is in colours that no table names.
    """
    try:
        image = decode_raw(path, max_pixels=MAX_PIXELS)
    except UnreadableImage as error:
        raise InvalidInput(f"mask {path} cannot be read: {error}.") from error
    if image.mode in ("RGB", "RGBA", "LA"):
        bands = [numpy.asarray(image.getchannel(band)) for band in image.mode if band != "A"]
        if any(not numpy.array_equal(bands[0], band) for band in bands[1:]):
            return _values_of_colours(path, numpy.stack(bands[:3], axis=-1), dict(colours or {}))
        return bands[0].astype(numpy.int32)
    if image.mode not in ("1", "L", "P", "I") and not image.mode.startswith("I;16"):
        raise InvalidInput(f"mask {path} is of the kind {image.mode}; save it as an indexed or grey picture.")
    grey = (
        image if image.mode in ("L", "P", "I", "I;16") else image.convert("I" if "I" in image.mode else "L")
    )
    return numpy.asarray(grey).astype(numpy.int32)


def _values_of_colours(
    path: Path, pixels: NDArray[numpy.uint8], colours: dict[int, tuple[int, int, int]]
) -> NDArray[numpy.int32]:
    """Mask values of RGB pixels [H, W, 3]; few pixels of mixed colour take the nearest colour of the table."""
    code = pixels.astype(numpy.int64) @ numpy.array([65536, 256, 1])
    found, place, counts = numpy.unique(code, return_inverse=True, return_counts=True)
    if not colours:
        raise InvalidInput(
            f"mask {path} is in colours ({_hex(found[numpy.argsort(-counts)])}); save it as an indexed or grey picture "
            "of class ids, or give the colours in a column 'colour' of classes.csv."
        )
    if 0 not in colours and (0, 0, 0) not in colours.values():
        colours = {0: (0, 0, 0), **colours}
    table = numpy.array(list(colours.values()))
    codes = table @ numpy.array([65536, 256, 1])
    known = numpy.isin(found, codes)
    if counts[known].sum() < _SOLID_SHARE * code.size:
        unknown = found[~known][numpy.argsort(-counts[~known])]
        raise InvalidInput(
            f"mask {path} holds colours that classes.csv does not name: {_hex(unknown)} (in "
            f"{100 * counts[~known].sum() / code.size:.0f} % of the pixels)."
        )
    seen = numpy.stack([found >> 16, (found >> 8) & 255, found & 255], axis=1)
    nearest = ((seen[:, None] - table[None]) ** 2).sum(-1).argmin(1)
    values = numpy.array(list(colours), dtype=numpy.int32)[nearest]
    return values[place].reshape(code.shape)


def _hex(codes: NDArray[numpy.int64]) -> str:
    shown = [f"#{int(code):06x}" for code in codes[:8]]
    return ", ".join(shown) + (", ..." if len(codes) > 8 else "")


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

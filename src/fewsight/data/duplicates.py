"""Exact and near-duplicates, within a set and between two: by the bytes of the file, and by a perceptual hash.

The perceptual hash is pHash of 256 bits (Zauner 2010, "Implementation and benchmarking of perceptual image hash
functions"; signs of the low 16 x 16 coefficients of a cosine transform about their median), from `imagehash`. Two
photos that differ in at most `NEAR` = 32 bits are near-duplicates. Measured with it on distinct photos: not one pair
of 79,800 each of caltech101_a, resisc12 and sign_digits, and not one of 319,600 of omniglot (black drawings on white,
the hardest; the 64-bit hash errs on 1 pair in 10,000 there); of dtd10 one pair, a web in red and in grey. Found (95th
percentile of the distance): the same photo as JPEG of quality 50 (4 to 12 bits), at half size (2 to 6), 15 % brighter
(10), with noise (12), cropped by 2 % (26); flat textures (dtd10) and very small photos move further. Photos cropped
by 6 % or mirrored are not found.

Letters: N photos, M photos of a second set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy
from numpy.typing import NDArray
from PIL import Image

from fewsight.data.collection import Collection
from fewsight.data.decode import MAX_PIXELS, Decoded, Source, decode, decode_bytes
from fewsight.data.loading import default_workers
from fewsight.data.pixels import Pixels
from fewsight.data.source import read_bytes
from fewsight.errors import InvalidInput, UnreadableImage

__all__ = ["NEAR", "Duplicate", "PhotoHashes", "find_duplicates", "hash_photos", "nearest_duplicates"]

NEAR = 32  # of 256 bits
_SIDE = 16  # coefficients a side
_NEEDED = (4 * _SIDE, 4 * _SIDE)  # pixels that the hash is made of
_CONTENT_BYTES = 16
_PLAIN = 1.0  # grey levels of standard deviation, below which a photo has no look to compare
_BLOCK = 4096  # photos compared at once
_COMPARISONS = 1 << 24  # of them with all others: 64 MiB


class PhotoHashes(NamedTuple):
    """What N photos are compared by.

    `content` uint8 [N, 16]: hash of the file's bytes; `perceptual` uint8 [N, 32]: 256 bits; `readable` bool [N]: the
    content could be read; `comparable` bool [N]: the photo was decoded and is not of one colour, so that its
    perceptual hash means something.
    """

    content: NDArray[numpy.uint8]
    perceptual: NDArray[numpy.uint8]
    readable: NDArray[numpy.bool_]
    comparable: NDArray[numpy.bool_]


class Duplicate(NamedTuple):
    """Photo `first` of one set is photo `second` of the other (or of the same): `distance` bits apart.

    `exact`: the files are equal byte for byte.
    """

    first: int
    second: int
    exact: bool
    distance: int


def hash_photos(
    sources: Collection | Sequence[Source],
    *,
    workers: int | None = None,
    max_pixels: int = MAX_PIXELS,
    follow_links: bool = False,
    exact_only: bool = False,
    seen: Callable[[int, Decoded | UnreadableImage], None] = lambda index, found: None,
) -> PhotoHashes:
    """Hash photos; those that cannot be read equal nothing.

    Args:
        sources: a collection, or paths, Pillow images and uint8 arrays.
        workers: threads; None takes one for each processor but one.
        max_pixels, follow_links: as in `fewsight.data.loading.photos`.
        exact_only: hash the bytes alone and decode nothing, which is many times faster.
        seen: told what became of each photo, in any order and from several threads; it must be quick.
    """
    root = sources.root if isinstance(sources, Collection) and not follow_links else None
    count = len(sources)
    content = numpy.zeros((count, _CONTENT_BYTES), dtype=numpy.uint8)
    perceptual = numpy.zeros((count, _SIDE * _SIDE // 8), dtype=numpy.uint8)
    readable = numpy.zeros(count, dtype=bool)
    comparable = numpy.zeros(count, dtype=bool)

    def hash_one(index: int) -> None:
        source = sources.path(index) if isinstance(sources, Collection) else sources[index]
        try:
            data, decoded = _opened(source, max_pixels, root)
            digest = blake2b(data, digest_size=_CONTENT_BYTES).digest()
            content[index], readable[index] = numpy.frombuffer(digest, dtype=numpy.uint8), True
            if exact_only:
                return
            # equal files that are broken are equal all the same: decode after the content is known
            photo = decoded or decode_bytes(
                data, needed=_NEEDED, max_pixels=max_pixels, suffix=_suffix(source)
            )
            bits = _perceptual_hash(photo.image)
            if bits is not None:
                perceptual[index], comparable[index] = bits, True
            seen(index, photo)
        except UnreadableImage as error:
            seen(index, error)

    with ThreadPoolExecutor(max(1, default_workers() if workers is None else workers)) as pool:
        for start in range(
            0, count, _BLOCK
        ):  # a block at a time, so that no queue of a million tasks is built
            list(pool.map(hash_one, range(start, min(start + _BLOCK, count))))
    return PhotoHashes(content, perceptual, readable, comparable)


def find_duplicates(
    first: PhotoHashes, second: PhotoHashes | None = None, *, distance: int = NEAR
) -> tuple[Duplicate, ...]:
    """All pairs of duplicates, by `first` then `second`; within one set each pair once, with first < second.

    Memory beyond the pairs found: about 100 MiB, and 1 KiB for each of M photos.
    """
    _check_distance(distance)
    other = first if second is None else second
    found: list[Duplicate] = []
    for start, apart, exact in _compared(first, other):
        near = (apart <= distance) | exact
        if second is None:
            near &= numpy.arange(start, start + len(apart))[:, None] < numpy.arange(apart.shape[1])[None, :]
        for row, column in numpy.argwhere(near).tolist():
            equal = bool(exact[row, column])
            found.append(Duplicate(start + row, column, equal, 0 if equal else int(apart[row, column])))
    return tuple(found)


def nearest_duplicates(
    pile: PhotoHashes, support: PhotoHashes, *, distance: int = NEAR
) -> tuple[NDArray[numpy.int64], NDArray[numpy.bool_]]:
    """For each of N photos of a pile the support photo it duplicates, int64 [N], -1 for none; bool [N]: exactly."""
    _check_distance(distance)
    nearest = numpy.full(len(pile.content), -1, dtype=numpy.int64)
    exactly = numpy.zeros(len(pile.content), dtype=bool)
    if not len(support.content):
        return nearest, exactly
    for start, apart, exact in _compared(pile, support):
        apart[exact] = -1
        best = apart.argmin(axis=1)
        least = apart[numpy.arange(len(apart)), best]
        nearest[start : start + len(apart)] = numpy.where(least <= distance, best, -1)
        exactly[start : start + len(apart)] = least < 0
    return nearest, exactly


def _compared(
    first: PhotoHashes, second: PhotoHashes
) -> Iterator[tuple[int, NDArray[numpy.float32], NDArray[numpy.bool_]]]:
    """Blocks of rows: (first row, bits apart [rows, M], equal byte for byte [rows, M]).

    With bits as -1 and 1, a . b = bits - 2 * (bits that differ): one matrix product a block.
    """
    bits = 8 * first.perceptual.shape[1]
    columns = _signs(second.perceptual)
    codes, other_codes = _codes(first, second)
    step = max(1, min(_BLOCK, _COMPARISONS // max(1, len(second.content))))
    for start in range(0, len(first.content), step):
        rows = slice(start, start + step)
        apart = (bits - _signs(first.perceptual[rows]) @ columns.T) / 2
        apart[~first.comparable[rows]] = numpy.inf
        apart[:, ~second.comparable] = numpy.inf
        exact = codes[rows, None] == other_codes[None, :]
        exact &= first.readable[rows, None] & second.readable[None, :]
        yield start, apart, exact


def _codes(first: PhotoHashes, second: PhotoHashes) -> tuple[NDArray[numpy.int64], NDArray[numpy.int64]]:
    """Contents as integers that are equal where the contents are."""
    both = numpy.concatenate([first.content, second.content])
    _, codes = numpy.unique(both, axis=0, return_inverse=True)
    codes = codes.reshape(-1)
    return codes[: len(first.content)], codes[len(first.content) :]


def _signs(packed: NDArray[numpy.uint8]) -> NDArray[numpy.float32]:
    return numpy.unpackbits(packed, axis=1).astype(numpy.float32) * 2 - 1


def _opened(source: Source, max_pixels: int, root: str | None) -> tuple[bytes, Decoded | None]:
    """What stands for the content: the bytes of a file, or the pixels of a picture, which is then decoded already."""
    if isinstance(source, (str, PathLike)):
        return read_bytes(source, max_bytes=8 * max_pixels + (1 << 26), root=root), None
    if isinstance(source, (Image.Image, numpy.ndarray)):
        decoded = decode(source, max_pixels=max_pixels)
        return decoded.image.tobytes(), decoded
    return source.read(), None


def _suffix(source: Source) -> str:
    return Path(source).suffix if isinstance(source, (str, PathLike)) else ""


def _perceptual_hash(image: Pixels) -> NDArray[numpy.uint8] | None:
    import imagehash

    picture = Image.fromarray(image).convert("L")
    # a thousand pixels are enough to see whether the photo shows anything
    if numpy.asarray(picture.resize((32, 32), Image.Resampling.BOX), dtype=numpy.float32).std() < _PLAIN:
        return None
    return numpy.packbits(imagehash.phash(picture, hash_size=_SIDE).hash.reshape(-1))


def _check_distance(distance: int) -> None:
    if not 0 <= distance <= _SIDE * _SIDE:
        raise InvalidInput(f"distance is {distance}; expected 0 to {_SIDE * _SIDE} bits.")

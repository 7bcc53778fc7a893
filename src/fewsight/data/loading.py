"""A stream of photos as batches of tensors: in order, whatever the workers do, and past every bad file.

Threads decode, because Pillow works outside the interpreter lock and a thread shares the collection for nothing.
At most a bounded number of photos is in flight, so that memory does not grow with the number of photos. Pixels
depend on nothing but the file and the `Transform`: not on batch size, workers, or the photos around.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Literal

import numpy
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from fewsight.data.boxes import cut_out, needed_whole
from fewsight.data.collection import Collection
from fewsight.data.decode import MAX_PIXELS, Decoded, Source, decode, decode_bytes
from fewsight.data.file_names import escaped
from fewsight.data.pixels import Pixels
from fewsight.data.source import read_bytes
from fewsight.data.transform import Transform
from fewsight.errors import InvalidInput, UnreadableImage

__all__ = ["LoadedBatch", "Outcome", "apply_transform", "default_workers", "needed_size", "photos", "shrink"]

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}


@dataclass(frozen=True)
class Outcome:
    """What became of one photo.

    Attributes:
        index: of the photo in what was loaded.
        status: `ok`, `suspicious` (decoded, but damaged), `unreadable`, `refused`, or `skipped` (`wanted` said no).
        note: the status in words, and what was done to the pixels.
        original_size: height and width of the upright photo, or None where it was not decoded.
        digest: of the file's content, where it was asked for.
    """

    index: int
    status: Literal["ok", "suspicious", "unreadable", "refused", "skipped"]
    note: str = ""
    original_size: tuple[int, int] | None = None
    digest: str | None = None

    @property
    def decoded(self) -> bool:
        """Whether the photo's pixels stand in its batch."""
        return self.status in ("ok", "suspicious")


@dataclass(frozen=True)
class LoadedBatch:
    """Consecutive photos.

    Attributes:
        indices: of the B photos that were decoded, int64 [B].
        images: their pixels as the backbone takes them, float32 [B, 3, H, W].
        outcomes: of every photo of this stretch in order, the B decoded ones among them.
    """

    indices: Tensor
    images: Tensor
    outcomes: tuple[Outcome, ...]


def photos(
    sources: Collection | Sequence[Source],
    transform: Transform,
    batch_size: int = 32,
    workers: int | None = None,
    *,
    max_pixels: int = MAX_PIXELS,
    follow_links: bool = False,
    wanted: Callable[[str], bool] | None = None,
) -> Iterator[LoadedBatch]:
    """Load photos in order, `batch_size` at a time; a photo that cannot be decoded has its outcome and no image.

    Args:
        sources: a collection, or paths, Pillow images and uint8 arrays.
        transform: the backbone's preprocessing.
        batch_size: photos of one batch, readable or not.
        workers: threads that decode; 0 decodes in the caller's thread; None takes one for each processor but one.
        max_pixels: larger photos are refused.
        follow_links: also decode what links outside the collection's folder point to.
        wanted: asked for the digest of each file's content before it is decoded (by the workers); where it answers
            False the photo is `skipped`. Only for files.
    """
    if batch_size < 1:
        raise InvalidInput(f"batch_size is {batch_size}; expected at least 1.")
    count = default_workers() if workers is None else workers
    if count < 0:
        raise InvalidInput(f"workers is {workers}; expected 0 or more.")
    loader = _Loader(sources, transform, max_pixels, follow_links, wanted)
    return _inline(loader, batch_size) if count == 0 else _threaded(loader, batch_size, count)


def default_workers() -> int:
    """Threads for decoding beside a network: one for each processor of this process but one."""
    try:
        processors = len(os.sched_getaffinity(0))
    except AttributeError:  # not on every system
        processors = os.cpu_count() or 1
    return max(1, min(16, processors - 1))


def needed_size(transform: Transform) -> tuple[int, int]:
    """Height and width that photos are shrunk to before the crop.

    >>> needed_size(Transform(size=(224, 224), crop_fraction=0.875))
    (256, 256)
    """
    height, width = transform.size
    # as timm does: floor of size / fraction
    return math.floor(height / transform.crop_fraction), math.floor(width / transform.crop_fraction)


def shrink(picture: Pixels | Image.Image, transform: Transform) -> Pixels:
    """Resize and crop: RGB, uint8 [H, W, 3] or a Pillow image, to uint8 [h, w, 3] of `transform.size`.

    Only the part that the crop keeps is computed, so that a picture of 1 x 5000 pixels costs no more than another.
    Against resizing all of it and cutting out the centre a pixel differs by at most two grey levels (0.2 on average):
    Pillow rounds between its two passes, and chooses their order by the sizes.
    """
    image = Image.fromarray(picture) if isinstance(picture, numpy.ndarray) else picture
    source_width, source_height = image.size
    height, width = transform.size
    tall, wide = needed_size(transform)
    if transform.mode == "crop":
        if tall * source_width <= wide * source_height:
            tall = int(wide * source_height / source_width)
        else:
            wide = int(tall * source_width / source_height)
    top, left = round((tall - height) / 2), round((wide - width) / 2)
    scale_y, scale_x = source_height / tall, source_width / wide
    box = (left * scale_x, top * scale_y, (left + width) * scale_x, (top + height) * scale_y)
    box = (max(0.0, box[0]), max(0.0, box[1]), min(source_width, box[2]), min(source_height, box[3]))
    resized = image.resize((width, height), _FILTERS[transform.interpolation], box=box)
    return numpy.asarray(resized)


def apply_transform(image: Pixels, transform: Transform) -> Tensor:
    """Resize, crop and normalise: uint8 [H, W, 3] to float32 [3, h, w].

    The recipe of timm and torchvision: Resize (of the Pillow image, antialiased), CenterCrop, ToTensor, Normalize; see
    `shrink` for the rounding.
    """
    _check_image(image)
    out = numpy.empty((3, *transform.size), dtype=numpy.float32)
    _normalise(shrink(image, transform), transform, out)
    return torch.from_numpy(out)


def _normalise(image: Pixels, transform: Transform, out: NDArray[numpy.float32]) -> None:
    """Write uint8 [H, W, 3] to float32 [3, H, W], in torchvision's steps: / 255, - mean, / std."""
    for channel, plane in enumerate(out):
        plane[...] = image[:, :, channel]
        plane /= 255
        plane -= transform.mean[channel]
        plane /= transform.std[channel]


def _check_image(image: Pixels) -> None:
    if image.dtype != numpy.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InvalidInput(f"image is {image.dtype} {list(image.shape)}; expected uint8 [H, W, 3].")


class _Loader:
    """Loads photo `index` into a slot; knows nothing of order, batches and threads."""

    def __init__(
        self,
        sources: Collection | Sequence[Source],
        transform: Transform,
        max_pixels: int,
        follow_links: bool,
        wanted: Callable[[str], bool] | None,
    ) -> None:
        self.sources = sources
        self.transform = transform
        self._max_pixels = max_pixels
        self._root = sources.root if isinstance(sources, Collection) and not follow_links else None
        self._wanted = wanted

    def __len__(self) -> int:
        return len(self.sources)

    def load(self, index: int, slot: NDArray[numpy.float32]) -> Outcome:
        """Decode photo `index` and write it to `slot` [3, H, W]."""
        note = "name is not UTF-8" if self._named_in_bytes(index) else ""
        digest = None
        try:
            decoded, digest = self._decode(index)
        except UnreadableImage as error:
            return Outcome(index, _refusal(error.status), _joined(str(error), note))
        if decoded is None:
            return Outcome(index, "skipped", note, digest=digest)
        box = self._box(index)
        picture = decoded.picture if box is None else cut_out(decoded.image, box)
        _normalise(shrink(picture, self.transform), self.transform, slot)
        status: Literal["ok", "suspicious"] = "suspicious" if decoded.suspicious else "ok"
        cut = "cut to its surest box" if box is not None else ""
        return Outcome(index, status, _joined(*decoded.notes, cut, note), decoded.original_size, digest)

    def _decode(self, index: int) -> tuple[Decoded | None, str | None]:
        source = self.sources.path(index) if isinstance(self.sources, Collection) else self.sources[index]
        needed, box = needed_size(self.transform), self._box(index)
        if box is not None:
            needed = needed_whole(needed, box)
        if self._wanted is None or not isinstance(source, (str, os.PathLike)):
            return decode(source, needed=needed, max_pixels=self._max_pixels, root=self._root), None
        content = read_bytes(source, max_bytes=8 * self._max_pixels + (1 << 26), root=self._root)
        digest = blake2b(content, digest_size=16).hexdigest()
        if box is not None:  # another part of the photo has other features
            digest = f"{digest}-{blake2b(repr(box).encode(), digest_size=8).hexdigest()}"
        if not self._wanted(digest):
            return None, digest
        suffix = Path(source).suffix
        return decode_bytes(content, needed=needed, max_pixels=self._max_pixels, suffix=suffix), digest

    def _box(self, index: int) -> tuple[float, float, float, float] | None:
        return self.sources.box_of(index) if isinstance(self.sources, Collection) else None

    def _named_in_bytes(self, index: int) -> bool:
        return isinstance(self.sources, Collection) and escaped(self.sources.files[index])


def _refusal(status: str) -> Literal["unreadable", "refused"]:
    return "refused" if status == "refused" else "unreadable"


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def _inline(loader: _Loader, batch_size: int) -> Iterator[LoadedBatch]:
    for start in range(0, len(loader), batch_size):
        indices = range(start, min(start + batch_size, len(loader)))
        slots = _slots(loader, len(indices))
        yield _batch(
            slots, [loader.load(index, slot) for index, slot in zip(indices, slots.numpy(), strict=True)]
        )


def _threaded(loader: _Loader, batch_size: int, workers: int) -> Iterator[LoadedBatch]:
    pending: deque[tuple[Tensor, list[Future[Outcome]]]] = deque()
    ahead = 1 + max(1, math.ceil(4 * workers / batch_size))  # batches in flight
    with ThreadPoolExecutor(workers, thread_name_prefix="fewsight-decode") as pool:
        try:
            for start in range(0, len(loader), batch_size):
                indices = range(start, min(start + batch_size, len(loader)))
                slots = _slots(loader, len(indices))
                views = slots.numpy()
                pending.append((slots, [pool.submit(loader.load, n, views[n - start]) for n in indices]))
                if len(pending) > ahead:
                    yield _finished(pending.popleft())
            while pending:
                yield _finished(pending.popleft())
        finally:  # the caller stopped early, or was interrupted: leave without decoding the rest
            pool.shutdown(wait=False, cancel_futures=True)


def _slots(loader: _Loader, count: int) -> Tensor:
    return torch.empty(count, 3, *loader.transform.size)


def _finished(pending: tuple[Tensor, list[Future[Outcome]]]) -> LoadedBatch:
    slots, futures = pending
    return _batch(slots, [future.result() for future in futures])


def _batch(slots: Tensor, outcomes: list[Outcome]) -> LoadedBatch:
    rows = [row for row, outcome in enumerate(outcomes) if outcome.decoded]
    images = slots if len(rows) == len(outcomes) else slots[rows]
    indices = torch.tensor([outcomes[row].index for row in rows], dtype=torch.int64)
    return LoadedBatch(indices, images, tuple(outcomes))

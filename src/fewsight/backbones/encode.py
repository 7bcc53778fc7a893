"""Photos through a backbone: in order, in 16 bits where that is faster, past the memory limit, at flat memory.

    encoder = Encoder(backbone, head.request)
    for batch in encode_photos(encoder, collection, cache=FeatureCache()):
        ...                                   batch.features, batch.outcomes

`encode` does the same for tensors that are at hand and joins the results.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from fewsight.backbones.backbone import Backbone
from fewsight.backbones.feature_cache import FeatureCache, fingerprint, image_digest
from fewsight.backbones.features import Features, Request, concatenate, pool
from fewsight.backbones.precision import agrees, at_precision, evaluating
from fewsight.data.collection import Collection
from fewsight.data.loading import LoadedBatch, Outcome, photos
from fewsight.devices import default_batch_size, resolve_device, resolve_precision
from fewsight.errors import FewsightError, InvalidInput
from fewsight.progress import say

__all__ = ["EncodedBatch", "Encoder", "encode", "encode_photos"]

NAME_NOTE = "name is not UTF-8"  # the part of a note that belongs to the name, not to the content


@dataclass(frozen=True)
class EncodedBatch:
    """Consecutive photos.

    Attributes:
        indices: of the B photos that were decoded, int64 [B].
        features: of these, on the CPU, float32.
        outcomes: of every photo of this stretch in order, the B decoded ones among them.
        encoded: how many of the B went through the backbone; the others were in the cache.
    """

    indices: Tensor
    features: Features
    outcomes: tuple[Outcome, ...]
    encoded: int


class Encoder:
    """A backbone made ready for inference: number format, device, and what to do when memory runs out.

    Calling it with images `[B, 3, H, W]` gives their `Features` on the CPU in float32. A batch that does not fit
    into memory is halved, which is said once; if single images do not fit, the error names the size to set. If
    16-bit numbers overflow, 32-bit ones take over, which is said too.

    Args:
        backbone: weights of later changes are not seen; make a new encoder after training.
        request: what is needed of it.
        precision: `fp32`, `fp16`, `bf16`, or `auto`: 16 bits where the processor is faster with them and this
            network's features stay the same (`agreement` at least 0.999).
        device: None for the backbone's own.
        vectors: keep one vector an image (as `cls`) and leave the patches out: memory and cache stay small.
        batch_size: images at a time; None for 8 on a processor, 64 on a GPU.
    """

    def __init__(
        self,
        backbone: Backbone,
        request: Request = Request(),
        *,
        precision: str = "auto",
        device: str | torch.device | None = None,
        vectors: bool = False,
        batch_size: int | None = None,
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise InvalidInput(f"batch_size is {batch_size}; expected at least 1.")
        self.backbone, self.request, self.vectors = backbone, request, vectors
        self.device = backbone.device if device is None else resolve_device(device)
        self.dtype = resolve_precision(precision, self.device)
        self.batch_size = batch_size or default_batch_size(self.device)
        self._network = at_precision(backbone, self.dtype, self.device)
        if precision == "auto" and self.dtype != torch.float32:
            exact = at_precision(backbone, torch.float32, self.device)
            if not agrees(exact, self._network):
                self.dtype, self._network = torch.float32, exact
        self._key: str | None = None

    @property
    def caches(self) -> bool:
        """Whether features of an image depend on that image alone, so that they may be kept."""
        with evaluating(self._network) as network:
            return not network.couples_images

    def key(self, digest: str) -> str:
        """The cache key of a photo, from the digest of its content."""
        if self._key is None:
            self._key = fingerprint(
                self.backbone, self.request, precision=str(self.dtype), vectors=self.vectors
            )
        return f"{self._key}-{digest}"

    def __call__(self, images: Tensor) -> Features:
        """Features of normalised images `[B, 3, H, W]`."""
        if not len(images):
            return self.nothing()
        parts, start = [], 0
        while start < len(images):
            piece = images[start : start + self.batch_size]
            try:
                parts.append(self._finite(piece))
            except (RuntimeError, MemoryError) as error:
                self._shrink(error, images)
                continue
            start += len(piece)
        return parts[0] if len(parts) == 1 else concatenate(parts)

    def nothing(self) -> Features:
        """Features of no image."""
        return Features(cls=torch.empty(0, self.backbone.dim))

    def stored(self, features: Features) -> Features:
        """The same values in the smallest format that holds them exactly."""
        if self.vectors or self.dtype == torch.float32:
            return features
        small = features.to(self.dtype)
        return small._replace(attention=features.attention)  # a float32 softmax

    def _finite(self, images: Tensor) -> Features:
        features = self._forward(images)
        if _is_finite(features):
            return features
        if self.dtype != torch.float32:
            say(f"{self.backbone.name}: 16-bit numbers overflow, going on in 32 bits.", once=True)
            self.dtype, self._key = torch.float32, None
            self._network = at_precision(self.backbone, self.dtype, self.device)
            return self._finite(images)
        raise FewsightError(
            f"{self.backbone.name} gives features that are not finite: its weights are damaged; load them again."
        )

    def _forward(self, images: Tensor) -> Features:
        with evaluating(self._network) as network, torch.no_grad():
            features = network.features(images.to(self.device, self.dtype), self.request)
        features = features.map(lambda tensor: tensor.to("cpu", torch.float32))
        if self.vectors:
            features = features._replace(cls=pool(features, self.backbone.pooling), patches=None)
        return features

    def _shrink(self, error: BaseException, images: Tensor) -> None:
        """Halve the batch if memory ran out, else raise the error again."""
        if not _out_of_memory(error):
            raise error
        if self.batch_size == 1 or not self.caches:  # halving would change coupled features
            raise FewsightError(
                f"out of memory with {len(images)} images of {images.shape[2]} x {images.shape[3]} pixels in "
                f"{self.backbone.name}: choose a smaller --image-size, or another backbone."
            ) from error
        self.batch_size = max(1, min(self.batch_size, len(images)) // 2)
        say(f"out of memory: going on with {self.batch_size} images at a time.")
        if self.device.type == "cuda":
            torch.cuda.empty_cache()


def _is_finite(features: Features) -> bool:
    return all(bool(tensor.isfinite().all()) for tensor in features[:2] if tensor is not None)


def _out_of_memory(error: BaseException) -> bool:
    words = ("out of memory", "can't allocate memory", "cannot allocate memory", "could not allocate")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        phrase in str(error).lower() for phrase in words
    )


def encode(
    backbone: Backbone,
    batches: Iterable[Tensor | LoadedBatch],
    request: Request = Request(),
    *,
    precision: str = "auto",
    device: str | torch.device | None = None,
    vectors: bool = False,
    cache: FeatureCache | None = None,
    batch_size: int | None = None,
) -> Features:
    """Features of all images of some batches, in order, joined.

    Args:
        backbone, request, precision, device, vectors, batch_size: as in `Encoder`.
        batches: normalised images `[B, 3, H, W]`, or what `data.loading.photos` gives (decoded photos only).
        cache: where to look first, by the content of each image.

    Returns:
        On the CPU, float32. Without any image `[0, D]`.
    """
    encoder = Encoder(
        backbone, request, precision=precision, device=device, vectors=vectors, batch_size=batch_size
    )
    parts = []
    for batch in batches:
        images = batch.images if isinstance(batch, LoadedBatch) else batch
        if len(images):
            parts.append(_through_cache(encoder, images, cache))
    return concatenate(parts) if parts else encoder.nothing()


def _through_cache(encoder: Encoder, images: Tensor, cache: FeatureCache | None) -> Features:
    if cache is None or not encoder.caches:
        return encoder(images)
    keys = [encoder.key(image_digest(image)) for image in images]
    kept = [cache.get(key) for key in keys]
    absent = [row for row, entry in enumerate(kept) if entry is None]
    fresh = encoder(images[absent])
    if absent:
        cache.put(
            {keys[row]: (encoder.stored(fresh.rows(slice(n, n + 1))), {}) for n, row in enumerate(absent)}
        )
    return _merged(
        fresh, absent, {row: entry[0] for row, entry in enumerate(kept) if entry is not None}, len(keys)
    )


def encode_photos(
    encoder: Encoder,
    sources: Collection | Sequence[Any],
    *,
    cache: FeatureCache | None = None,
    workers: int | None = None,
    batch_size: int | None = None,
    **loading: Any,
) -> Iterator[EncodedBatch]:
    """Decode and encode photos in order; those in the cache are neither decoded nor encoded.

    Args:
        encoder: its backbone's `transform` prepares the photos.
        sources: a collection, or paths, Pillow images and uint8 arrays.
        cache: where features are kept by the content of the file.
        workers: threads that decode, as in `data.loading.photos`.
        batch_size: photos a batch; None for the encoder's.
        loading: `max_pixels` and `follow_links` of `data.loading.photos`.
    """
    use = cache if cache is not None and encoder.caches else None
    batches = photos(
        sources,
        encoder.backbone.transform,
        batch_size or encoder.batch_size,
        workers,
        wanted=None if use is None else lambda digest: not use.holds(encoder.key(digest)),
        **loading,
    )
    for batch in batches:
        if use is None:
            yield EncodedBatch(batch.indices, encoder(batch.images), batch.outcomes, len(batch.images))
        else:
            yield _with_cache(encoder, batch, use, sources, loading)


def _with_cache(
    encoder: Encoder,
    batch: LoadedBatch,
    cache: FeatureCache,
    sources: Collection | Sequence[Any],
    loading: dict[str, Any],
) -> EncodedBatch:
    key_before = encoder.key("")
    fresh = encoder(batch.images)
    decoded = [outcome for outcome in batch.outcomes if outcome.decoded]
    # (an overflow has changed the key: then these are kept for the next run under the new one)
    entries = {
        encoder.key(outcome.digest): (encoder.stored(fresh.rows(slice(n, n + 1))), _words(outcome))
        for n, outcome in enumerate(decoded)
        if outcome.digest is not None
    }
    kept, outcomes = _recalled(batch.outcomes, cache, key_before, encoder, sources, loading)
    cache.put(entries)
    cache.touch(
        key_before + outcome.digest for outcome in outcomes if outcome.index in kept and outcome.digest
    )
    known = [outcome.index for outcome in outcomes if outcome.decoded]
    rows = {index: row for row, index in enumerate(known)}
    features = _merged(
        fresh,
        [rows[int(i)] for i in batch.indices],
        {rows[i]: f for i, f in kept.items()},
        len(known),
    )
    return EncodedBatch(torch.tensor(known, dtype=torch.int64), features, tuple(outcomes), len(batch.images))


def _recalled(
    outcomes: Sequence[Outcome],
    cache: FeatureCache,
    prefix: str,
    encoder: Encoder,
    sources: Collection | Sequence[Any],
    loading: dict[str, Any],
) -> tuple[dict[int, Features], list[Outcome]]:
    """Features of skipped photos by index, and every outcome as it was when they were first decoded."""
    kept: dict[int, Features] = {}
    told = []
    for outcome in outcomes:
        if outcome.status == "skipped":
            entry = cache.get(prefix + str(outcome.digest))
            if entry is None:  # another process made room in between: decode it after all
                outcome, features = _again(outcome, encoder, sources, loading)
            else:
                features, outcome = entry[0], _as_before(outcome, entry[1])
            if features is not None:
                kept[outcome.index] = features.to(torch.float32)
        told.append(outcome)
    return kept, told


def _again(
    outcome: Outcome, encoder: Encoder, sources: Collection | Sequence[Any], loading: dict[str, Any]
) -> tuple[Outcome, Features | None]:
    one = sources.select([outcome.index]) if isinstance(sources, Collection) else [sources[outcome.index]]
    (batch,) = photos(one, encoder.backbone.transform, 1, 0, **loading)
    found = replace(batch.outcomes[0], index=outcome.index, digest=outcome.digest)
    return found, encoder(batch.images) if len(batch.images) else None


def _words(outcome: Outcome) -> dict[str, str]:
    """What is kept of an outcome: what belongs to the content, not to the name."""
    note = outcome.note.removesuffix(NAME_NOTE).removesuffix("; ")
    return {"outcome": json.dumps([outcome.status, note, outcome.original_size])}


def _as_before(outcome: Outcome, words: dict[str, str]) -> Outcome:
    status, note, size = json.loads(words["outcome"])
    note = "; ".join(part for part in (note, outcome.note) if part)
    return replace(outcome, status=status, note=note, original_size=None if size is None else tuple(size))


def _merged(fresh: Features, places: list[int], kept: dict[int, Features], count: int) -> Features:
    """Rows of fresh and kept features in the order of their places 0 ... count - 1."""
    if not kept:
        return fresh
    parts = [kept[place].to(torch.float32) for place in kept] + ([fresh] if places else [])
    order = torch.empty(count, dtype=torch.long)
    order[torch.tensor([*kept, *places], dtype=torch.long)] = torch.arange(count)
    return concatenate(parts).rows(order)

"""Whole photos through a backbone, squashed to its input: what masks and dense heads need."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewsight.backbones.backbone import Backbone
from fewsight.backbones.encode import encode_photos
from fewsight.backbones.feature_cache import FeatureCache
from fewsight.backbones.features import Features, concatenate
from fewsight.backbones.registry import BUNDLED
from fewsight.data.collection import Collection
from fewsight.data.masks import label_map, read_mask_colours, read_mask_names
from fewsight.errors import InvalidInput, UnreadableImage
from fewsight.heads.head import Head
from fewsight.photo_input import PhotoEncoder, file_names

__all__ = ["Size", "WholePhotoEncoder", "checked_masks", "collection_masks"]

Size = tuple[int, int]

VOID = 255  # of masks, as heads read them
BUNDLED_SIDE = 256  # pixels: where the presence level of `Correspondence` was measured


class WholePhotoEncoder(PhotoEncoder):
    """A `PhotoEncoder` that shows the backbone all of a photo, whatever its aspect: no crop.

    The caller's backbone is not changed; the copy used here shares its weights.
    """

    _whole: Backbone | None = None

    @property
    def backbone(self) -> Backbone:
        """The network, with a transform that squashes."""
        if self._whole is None:
            whole = copy.copy(super().backbone)
            size = whole.transform.size
            if self.saved is None and self.image_size is not None:
                side = self.image_size
                size = side if isinstance(side, tuple) else (side, side)
            elif self.saved is None and whole.name == BUNDLED:
                size = (BUNDLED_SIDE, BUNDLED_SIDE)
            whole.transform = replace(whole.transform, size=size, mode="squash", crop_fraction=1.0)
            self._whole = whole
        return self._whole

    def features_and_sizes(self, photos: Any, head: Head) -> tuple[Features, list[Size]]:
        """Features in order, and height and width of each upright photo.

        Raises:
            UnreadableImage: a photo cannot be decoded; the message names it.
        """
        sources = photos if isinstance(photos, Collection) else [_as_source(photo) for photo in photos]
        encoder = self.ready(head)
        parts, sizes = [], []
        with FeatureCache() as cache:
            kept = cache if isinstance(photos, Collection) else None
            for batch in encode_photos(encoder, sources, cache=kept):
                for outcome in batch.outcomes:
                    if outcome.original_size is None:
                        name = file_names(sources, None, len(sources))[outcome.index]
                        raise UnreadableImage(
                            f"{name} cannot be used: {outcome.note}. Leave it out, or replace it.",
                            status="refused" if outcome.status == "refused" else "unreadable",
                        )
                    sizes.append(outcome.original_size)
                if batch.features.num_images:
                    parts.append(batch.features)
        return concatenate(parts) if parts else encoder.nothing(), sizes

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_whole": None}


def collection_masks(
    photos: Collection, sizes: Sequence[Size], classes: Sequence[str]
) -> list[numpy.ndarray | None]:
    """The label map of each photo that has a mask: 0 background, k + 1 for `classes[k]`, -1 not known.

    Raises:
        InvalidInput: a mask is unreadable, of another size, or holds values without a name.
    """
    if photos.masks is None:
        return [None] * len(photos)
    names, colours = read_mask_names(photos.root), read_mask_colours(photos.root)
    return [
        None if photo.mask is None else label_map(photo, size, classes, names, colours)
        for photo, size in zip(photos, sizes, strict=True)
    ]


def checked_masks(
    masks: Sequence[Any] | None,
    sizes: Sequence[Size],
    membership: Tensor,
    classes: Sequence[str],
    files: Sequence[str],
) -> tuple[Tensor | None, ...]:
    """Masks that a caller gave for the support photos, as heads read them: 0 background, k + 1 for `classes[k]`, 255
    not known; None for a photo without.

    Args:
        masks: whole numbers or bool [H, W] a photo, or None; None: no photo has one. -1 stands for not known.
        sizes: height and width of each photo.
        membership: bool [S, K], which photo has which class.
        classes, files: names, for the errors.

    Raises:
        InvalidInput: lengths differ, or a mask does not fit its photo or marks nothing of its class.
    """
    if masks is None:
        return (None,) * len(sizes)
    if len(masks) != len(sizes):
        raise InvalidInput(
            f"masks has {len(masks)} entries for {len(sizes)} photos; use None for a photo without."
        )
    own = [row.nonzero()[:, 0].tolist() for row in membership]
    return tuple(
        None if mask is None else _checked_mask(numpy.asarray(mask), size, ways, classes, file)
        for mask, size, ways, file in zip(masks, sizes, own, files, strict=True)
    )


def _checked_mask(
    mask: NDArray[Any], size: Size, own: Sequence[int], classes: Sequence[str], name: str
) -> Tensor:
    if mask.shape != tuple(size) or mask.dtype.kind not in "biu":
        raise InvalidInput(
            f"the mask of {name} has shape {list(mask.shape)} and dtype {mask.dtype}; expected whole numbers or "
            f"bool {list(size)}."
        )
    if mask.dtype == bool and len(own) != 1:
        raise InvalidInput(f"the mask of {name} is bool, but it has {len(own)} labels; give class numbers.")
    values = mask.astype(numpy.int64) * (own[0] + 1 if mask.dtype == bool else 1)
    if values.size and not -1 <= values.min() <= values.max() <= len(classes):
        raise InvalidInput(
            f"the mask of {name} reaches from {values.min()} to {values.max()}; expected -1 to {len(classes)}."
        )
    for way in own:
        if not (values == way + 1).any():
            raise InvalidInput(
                f"the mask of {name} marks no pixel of {classes[way]!r}, its label; mend the mask or the label, or "
                "leave the mask out."
            )
    return torch.from_numpy(numpy.where(values < 0, VOID, values).astype(numpy.int32))


def _as_source(photo: Any) -> Any:
    if isinstance(photo, Tensor):
        return photo.cpu().numpy()
    if isinstance(photo, Features):
        raise InvalidInput("X holds features; a segmenter needs the photos.")
    return photo

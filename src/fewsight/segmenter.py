"""`FewShotSegmenter`: a few labelled photos in; which classes are in other photos, and where, out.

Labels of whole photos are enough; masks are used where they are given, photo by photo. A class that is called absent
marks no pixel: "not here" is an answer.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted
from torch import Tensor

from fewsight.backbones.features import Features, pool
from fewsight.class_labels import class_array, label_sets, membership
from fewsight.data.collection import Collection
from fewsight.data.loading import apply_transform
from fewsight.errors import IncompatibleModel, InvalidInput
from fewsight.heads.correspondence import ConditionedCorrespondence
from fewsight.heads.head import DenseConditioned, Head, Support
from fewsight.heads.presence import PresenceThreshold
from fewsight.heads.vectors import unit
from fewsight.model import read_model, write_model
from fewsight.names import DENSE_HEADS, resolve
from fewsight.photo_input import checked_labels, file_names, is_photos
from fewsight.photo_maps import (
    MAP_SIDE,
    MOST_TILES,
    PhotoSegments,
    labels_of_maps,
    map_size,
    overlapping_parts,
)
from fewsight.predictions import SupportMatch
from fewsight.progress import say
from fewsight.seeding import stream_seed
from fewsight.trained_heads import is_head_folder, read_cst, shipped_cst
from fewsight.whole_photos import Size, WholePhotoEncoder, checked_masks, collection_masks

__all__ = ["FewShotSegmenter"]

NEAREST = 3  # support photos that are named for an answer
SPEAKING = 0.02  # share of a photo's patches that name them


class FewShotSegmenter(BaseEstimator):  # type: ignore[misc]
    """Find the classes of a few labelled photos in others, pixel by pixel.

    Args:
        backbone: a name for `load_backbone`, a path, or a `Backbone` with a patch grid.
        head: `correspondence` (needs no training), `cst`, the folder of a trained head (`metatrain --head cst`), or a
            dense `Head`. `cst` by name has the weights that come with fewsight for its backbone, or else random ones.
        image_size: side in pixels that photos are squashed to; None: 256 for the bundled backbone, else its own.
        device: `auto`, `cpu`, `cuda`, ...
        precision: `auto`, `fp32`, `fp16`, `bf16`.
        seed: of everything random: the weights of an untrained head.
        false_alarms: call at most this share of absent classes present, as far as the support can promise it; None
            weighs false alarms and misses alike.
        presence_threshold: a class is called present above this probability.
        threshold: a pixel belongs to a class from this foreground probability on.

    Attributes:
        classes_: the K labels, sorted.
        files_: names of the S support photos.
        masked_: how many of them came with a mask.
    """

    def __init__(
        self,
        backbone: Any = "auto",
        head: Any = "correspondence",
        *,
        image_size: int | tuple[int, int] | None = None,
        device: str = "auto",
        precision: str = "auto",
        seed: int = 0,
        false_alarms: float | None = None,
        presence_threshold: float = 0.5,
        threshold: float = 0.5,
    ) -> None:
        self.backbone = backbone
        self.head = head
        self.image_size = image_size
        self.device = device
        self.precision = precision
        self.seed = seed
        self.false_alarms = false_alarms
        self.presence_threshold = presence_threshold
        self.threshold = threshold

    def fit(
        self, X: Any, y: Any, masks: Sequence[Any] | None = None, *, files: Sequence[str] | None = None
    ) -> FewShotSegmenter:
        """Read the labelled photos.

        Args:
            X: paths, Pillow images, uint8 `[N, H, W, 3]`, or a `Collection`, whose own masks are used.
            y: a label a photo, or a list or set of them.
            masks: an array `[H, W]` a photo, or None for a photo without. Whole numbers: 0 background, k + 1 for
                `classes_[k]` (the sorted labels), -1 not known. Bool: the object, for a photo with one label.
            files: a name a photo, for reasons and errors; paths name themselves.

        Raises:
            InvalidInput: lengths differ, or a mask does not fit its photo or marks nothing of its class.
            UnreadableImage: a photo cannot be decoded.
        """
        self._check_settings()
        if not is_photos(X):
            raise InvalidInput("X holds no photos; a segmenter needs paths, pictures or uint8 [N, H, W, 3].")
        encoder = WholePhotoEncoder(self.backbone, self.image_size, self.device, self.precision)
        head = self._made_head(encoder)
        labels, _ = label_sets(checked_labels(y, len(X)))
        features, sizes = encoder.features_and_sizes(X, head)
        self._encoder, self.head_ = encoder, head
        self.files_ = file_names(X, files, len(sizes))
        self.classes_ = class_array(label for row in labels for label in row)
        names = tuple(str(label) for label in self.classes_.tolist())
        if masks is None and isinstance(X, Collection):
            masks = collection_masks(X, sizes, names)
        self.membership_ = membership(labels, self.classes_)
        given = checked_masks(masks, sizes, self.membership_, names, self.files_)
        self.masked_ = sum(mask is not None for mask in given)
        conditioned = head.condition(Support(features, self.membership_, names, given))
        # what a saved model answers, this one answers: the state is kept in half precision
        self.conditioned_ = cast("DenseConditioned", head.restore(names, conditioned.state()))
        self.support_vectors_ = self.query_vectors(features)
        self._set_presence()
        return self

    def predict(self, X: Any) -> list[NDArray[numpy.int16]]:
        """A label map int16 `[H, W]` for each photo at its original size: 0 background, k + 1 = `classes_[k]`."""
        features, sizes = self._encoded(X)
        return [found.labels for found in self.answers(features, sizes)]

    def predict_presence(self, X: Any) -> NDArray[numpy.float64]:
        """Probability that each class is in each photo, `[N, K]`; called present above 0.5."""
        features, sizes = self._encoded(X)
        rows = [self._presence(features.rows([row]))[0] for row in range(len(sizes))]
        return torch.stack(rows).numpy() if rows else numpy.zeros((0, len(self.classes_)))

    def answers(self, features: Features, sizes: Sequence[Size]) -> Iterator[PhotoSegments]:
        """Label map and presence of each photo, from features of `photo_encoder()` and the photos' sizes."""
        check_is_fitted(self, "conditioned_")
        for row, size in enumerate(sizes):
            found = self.conditioned_.segment(features.rows([row]), map_size(size))
            presence = self._decided(found.presence.double())[0]
            yield self._segments(presence, found.foreground[0], size)

    def tiled_answer(self, image: NDArray[numpy.uint8], tiles: int) -> PhotoSegments:
        """One upright photo [H, W, 3] seen whole and in `tiles` x `tiles` overlapping parts: for small objects.

        Foreground is the larger of what the whole says and the mean of the parts that show a pixel; presence is the
        largest of all. More parts have more chances of a false alarm: `presence_threshold` may have to rise.

        Raises:
            InvalidInput: `tiles` is out of range.
        """
        check_is_fitted(self, "conditioned_")
        if not 2 <= tiles <= MOST_TILES:
            raise InvalidInput(f"tiles is {tiles}; expected 2 to {MOST_TILES}.")
        encoder, size = self._encoder.ready(self.head_), (image.shape[0], image.shape[1])
        side = tuple(min(length, MAP_SIDE * tiles) for length in size)
        sums, counts = torch.zeros(len(self.classes_), *side), torch.zeros(side)
        answers = []
        for top, bottom, left, right in [(0, size[0], 0, size[1]), *overlapping_parts(size, tiles)]:
            pixels = apply_transform(
                numpy.ascontiguousarray(image[top:bottom, left:right]), encoder.backbone.transform
            )
            rows = slice(top * side[0] // size[0], max(1, bottom * side[0] // size[0]))
            columns = slice(left * side[1] // size[1], max(1, right * side[1] // size[1]))
            shape = (rows.stop - rows.start, columns.stop - columns.start)
            found = self.conditioned_.segment(encoder(pixels[None]), shape)
            answers.append(self._decided(found.presence.double())[0])
            if len(answers) == 1:
                whole = found.foreground[0]
                continue
            sums[:, rows, columns] += found.foreground[0]
            counts[rows, columns] += 1
        foreground = torch.maximum(whole, sums / counts.clamp(min=1))
        return self._segments(torch.stack(answers).amax(0), foreground, size)

    def _segments(self, presence: Tensor, foreground: Tensor, size: Size) -> PhotoSegments:
        maps = (foreground * 255).round().clamp(0, 255).to(torch.uint8).numpy()
        labels = labels_of_maps(
            maps, presence.numpy() > self.presence_threshold, size, threshold=self.threshold
        )
        return PhotoSegments(labels, presence.numpy(), maps)

    def set_thresholds(
        self, *, presence: float | None = None, foreground: float | None = None
    ) -> FewShotSegmenter:
        """Change when a class is called present, and when a pixel is its, without fitting again.

        Raises:
            InvalidInput: a threshold is not in (0, 1).
        """
        self.presence_threshold = self.presence_threshold if presence is None else presence
        self.threshold = self.threshold if foreground is None else foreground
        self._check_settings()
        return self

    def nearest(self, features: Features) -> list[tuple[SupportMatch, ...]]:
        """The support photos that answered for each photo: owners of its best matched patches, likeliest class.

        With a head that does not match patches, the photos most like it as a whole.
        """
        conditioned = self.conditioned_
        if not isinstance(conditioned, ConditionedCorrespondence):
            similarity = self.query_vectors(features) @ self.support_vectors_.T
            return [self._named(row, range(len(row))) for row in similarity]
        images, _, cosines = conditioned.matches(features)
        margins, presence = conditioned.margins(features).flatten(2), self._presence(features)
        told = []
        for query, way in enumerate(presence.argmax(1).tolist()):
            count = max(1, round(SPEAKING * margins.shape[2]))
            chosen = margins[query, way].topk(count).indices
            owners = images[query, way].flatten()[chosen]
            best = torch.full((len(self.files_),), -torch.inf)
            best.scatter_reduce_(0, owners, cosines[query, way].flatten()[chosen].float(), "amax")
            told.append(self._named(best, owners.unique().tolist(), way))
        return told

    def photo_encoder(self) -> WholePhotoEncoder:
        """The backbone behind this segmenter."""
        check_is_fitted(self, "conditioned_")
        return self._encoder

    def query_vectors(self, features: Features) -> Tensor:
        """One vector a photo at unit length, `[B, D]`."""
        how = self._encoder.backbone.pooling if features.patches is not None else "cls"
        return unit(pool(features, how))

    def set_false_alarms(self, false_alarms: float | None) -> FewShotSegmenter:
        """Change the promised share of false alarms without fitting again.

        Raises:
            InvalidInput: the share is out of range, or the head cannot promise one.
        """
        self.false_alarms = false_alarms
        self._check_settings()
        self._set_presence()
        return self

    def save(self, folder: str | Path) -> None:
        """Write the model folder: it answers without the support photos, and holds the backbone.

        Raises:
            InvalidInput: a label is neither text nor a number, or the head is not one of fewsight's.
        """
        check_is_fitted(self, "conditioned_")
        from fewsight.saved_segmenter import pack

        write_model(folder, pack(self))

    @classmethod
    def load(
        cls, folder: str | Path, *, backbone: Any = None, device: str = "auto", precision: str = "auto"
    ) -> FewShotSegmenter:
        """Read a model folder.

        Args:
            folder: what `save` wrote.
            backbone: only where the model was made with a `Backbone` of the caller's own class: that backbone.
            device, precision: of the backbone.

        Raises:
            InvalidInput: there is no model.
            IncompatibleModel: it is damaged, changed, of another kind or of an unknown version.
        """
        from fewsight.saved_segmenter import unpack

        saved = read_model(folder, "segmenter")
        try:
            return unpack(saved, cls, backbone=backbone, device=device, precision=precision)
        except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
            raise IncompatibleModel(f"{folder} does not describe a segmenter ({error}).") from error

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "conditioned_")

    def _check_settings(self) -> None:
        if self.false_alarms is not None and not 0 < self.false_alarms < 1:
            raise InvalidInput(
                f"false_alarms is {self.false_alarms}; expected a share in (0, 1), such as 0.1, or None."
            )
        for name in ("presence_threshold", "threshold"):
            if not 0 < getattr(self, name) < 1:
                raise InvalidInput(f"{name} is {getattr(self, name)}; expected a probability in (0, 1).")

    def _made_head(self, encoder: WholePhotoEncoder) -> Head:
        if isinstance(self.head, Head):
            return copy.deepcopy(self.head).eval()
        if isinstance(self.head, (str, Path)) and is_head_folder(self.head):
            return read_cst(self.head, encoder.backbone)
        if not isinstance(self.head, str) or self.head not in DENSE_HEADS:
            raise InvalidInput(
                f"head is {self.head!r}; expected a trained Head, the folder of one (RUN/model of `metatrain --head "
                f"cst`), or one of: {', '.join(DENSE_HEADS)}."
            )
        shipped = shipped_cst(encoder.backbone) if self.head == "cst" else None
        if shipped is not None:
            return shipped
        if self.head == "cst":
            say("The head cst has random weights here: its answers mean nothing until it is trained.")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream_seed(self.seed, "segmenter head") >> 1)
            head: Head = resolve("dense heads", self.head).for_backbone(encoder.backbone)
        return head.eval()

    def _set_presence(self) -> None:
        """With a promise asked for: the threshold that gives it."""
        self.presence_: PresenceThreshold | None = None
        if self.false_alarms is None:
            return
        if not isinstance(self.conditioned_, ConditionedCorrespondence):
            raise InvalidInput("false_alarms needs head='correspondence', which scores its own support.")
        self.presence_ = self.conditioned_.presence_threshold(false_alarms=self.false_alarms)

    def _presence(self, features: Features) -> Tensor:
        return self._decided(self.conditioned_.segment(features, (1, 1)).presence.double())

    def _decided(self, presence: Tensor) -> Tensor:
        """Probabilities under the threshold that was asked for."""
        if self.presence_ is None:
            return presence
        usual = cast("ConditionedCorrespondence", self.conditioned_).threshold
        raw = presence.logit() * usual.scale + usual.value
        return ((raw - self.presence_.value) / self.presence_.scale).sigmoid()

    def _encoded(self, X: Any) -> tuple[Features, list[Size]]:
        check_is_fitted(self, "conditioned_")
        if hasattr(X, "__len__") and not len(X):
            return self._encoder.features_and_sizes([], self.head_)
        if not is_photos(X):
            raise InvalidInput("X holds no photos; a segmenter needs paths, pictures or uint8 [N, H, W, 3].")
        return self._encoder.features_and_sizes(X, self.head_)

    def _named(
        self, similarity: Tensor, rows: Sequence[int], way: int | None = None
    ) -> tuple[SupportMatch, ...]:
        ordered = sorted(rows, key=lambda row: -float(similarity[row]))[:NEAREST]
        columns = [int(self.membership_[row].nonzero()[0, 0]) if way is None else way for row in ordered]
        return tuple(
            SupportMatch(self.files_[row], str(self.classes_[column]), float(similarity[row]))
            for row, column in zip(ordered, columns, strict=True)
        )

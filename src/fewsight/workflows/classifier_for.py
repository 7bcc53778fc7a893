"""From SUPPORT to a classifier that fits QUERIES: photos, features of `fewsight embed`, or a model folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from fewsight.classifier import FewShotClassifier
from fewsight.errors import InvalidInput
from fewsight.workflows.embedded_photos import EmbeddedPhotos, FeatureMaker
from fewsight.workflows.feature_shards import is_embedding
from fewsight.workflows.labelled_photos import (
    LabelledPhotos,
    embedded_labelled,
    fit,
    group_column,
    read_labelled,
)
from fewsight.workflows.one_backbone import backbone_like, check_same, check_vectors, maker_of
from fewsight.workflows.pile import Pile

__all__ = ["PredictSettings", "backbone_name", "fitted_classifier", "loaded_classifier", "read_support"]

CSV = (".csv", ".tsv")


@dataclass(frozen=True)
class PredictSettings:
    """The options of `predict` that decide its result."""

    backbone: str
    head: str
    reject: float | None
    coverage: float | None
    image_size: int | None
    precision: str
    device: str
    seed: int
    group_by: str | None
    class_level: str
    skip_empty: bool
    strict: bool
    batch_size: int | None = None
    workers: int | None = field(default=None, compare=False)


def read_support(source: Path, labels: Path | None, pile: Pile, settings: PredictSettings) -> LabelledPhotos:
    """Read SUPPORT; the rows of a CSV that name photos of embedded QUERIES take their features from there.

    Raises:
        InvalidInput: nothing fits, or a class has no photo that can be used.
        UnreadableImage: with `strict`, the first photo that cannot be decoded.
    """
    options = {"skip_empty": settings.skip_empty, "strict": settings.strict}
    if is_embedding(source):
        embedded = EmbeddedPhotos(source)
        if labels is not None:
            reading = embedded.labelled_by(labels)
        else:
            reading = embedded.labelled(
                class_level=settings.class_level,
                skip_empty=settings.skip_empty,
                group_column=group_column(settings.group_by),
            )
        return embedded_labelled(embedded, reading, **options)
    if labels is not None:
        raise InvalidInput(
            f"--labels belongs to a SUPPORT made by `fewsight embed`, which {source} is not: give the CSV as SUPPORT."
        )
    if pile.embedded is not None and source.suffix.lower() in CSV and pile.embedded.names_any_of(source):
        return embedded_labelled(pile.embedded, pile.embedded.labelled_by(source), **options)
    root = [path for path in (source.parent, Path(pile.collection.root)) if path.is_dir()]
    root += [path.parent for path in root[-1:]]
    return read_labelled(
        source, root=root, class_level=settings.class_level, group_by=settings.group_by, **options
    )


def fitted_classifier(photos: LabelledPhotos, pile: Pile, settings: PredictSettings) -> FewShotClassifier:
    """A classifier of labelled photos, with the backbone that made the features where there are some.

    Raises:
        InvalidInput: support and queries were embedded by two backbones, or by another than was asked for.
        MissingWeights: photos must be encoded, and the backbone of the features is not here.
    """
    origins = [origin for origin in (photos.embedded, pile.embedded) if origin is not None]
    backbone: object = settings.backbone
    precision, maker = settings.precision, None
    if origins:
        check_vectors(settings.head, origins[0].folder)
        maker = origins[0].maker
        check_same(maker, origins[0].folder, origins[-1].maker, origins[-1].folder)
        backbone = backbone_like(
            maker, origins[0], settings.backbone, settings.image_size, needed=len(origins) < 2
        )
        if precision == "auto":
            precision = maker.precision
    classifier = FewShotClassifier(
        "auto" if backbone is None else backbone,
        settings.head,
        reject=settings.reject,
        image_size=None if origins else settings.image_size,
        device=settings.device,
        precision=precision,
        seed=settings.seed,
    )
    fit(classifier, photos, settings.group_by)
    if classifier.features_only and maker is not None:
        classifier.features_of_ = {
            "name": maker.name,
            "image_size": list(maker.image_size),
            "identity": maker.identity,
        }
    return classifier


def loaded_classifier(folder: Path, pile: Pile, settings: PredictSettings) -> FewShotClassifier:
    """The classifier of a model folder.

    Raises:
        InvalidInput: the queries are features of another backbone, or photos where the model takes features alone.
        IncompatibleModel: the folder is damaged or changed.
    """
    classifier = FewShotClassifier.load(folder, device=settings.device, precision=settings.precision)
    if settings.reject is not None:
        classifier.set_reject(settings.reject)
    if classifier.features_only:
        maker = _recorded(classifier)
        if pile.embedded is None:
            raise InvalidInput(
                f"{folder} takes features of {maker} alone: give a folder of `fewsight embed` as QUERIES, or make the "
                "model again from photos."
            )
        check_same(maker, folder, pile.embedded.maker, pile.embedded.folder)
    elif pile.embedded is not None:
        made = maker_of(classifier.photo_encoder().backbone)
        check_same(made, folder, pile.embedded.maker, pile.embedded.folder)
    return classifier


def _recorded(classifier: FewShotClassifier) -> FeatureMaker:
    told = classifier.features_of_ or {}
    size = told.get("image_size", (0, 0))
    return FeatureMaker(
        str(told.get("name", "unknown")), (int(size[0]), int(size[1])), "auto", str(told.get("identity", ""))
    )


def backbone_name(classifier: FewShotClassifier) -> str:
    """What stands behind the features."""
    return (
        _recorded(classifier).name if classifier.features_only else classifier.photo_encoder().backbone.name
    )

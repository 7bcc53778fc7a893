"""`fewsight segment`: a few labelled photos and a pile of others in; masks, areas, a report and a model out."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fewsight.backbones.encode import EncodedBatch, encode_photos
from fewsight.backbones.feature_cache import FeatureCache
from fewsight.data.collection import Collection
from fewsight.data.decode import decode
from fewsight.data.fingerprint import fingerprint
from fewsight.data.layouts import read_layout
from fewsight.data.loading import Outcome
from fewsight.errors import InvalidInput, UnreadableImage
from fewsight.files import run_folder, sha256
from fewsight.heads.correspondence import ConditionedCorrespondence
from fewsight.predictions import SupportMatch
from fewsight.progress import Progress, quieted, say
from fewsight.report.facts import Licence, RunFacts, SupportPhoto
from fewsight.report.segmentation import Presence, SegmentedPhoto, write_segmentation_report
from fewsight.segmenter import FewShotSegmenter, PhotoSegments
from fewsight.workflows.known_photos import KnownPhotos
from fewsight.workflows.labelled_photos import LabelledPhotos, is_model_folder, read_labelled
from fewsight.workflows.run_record import RunRecord, record_run
from fewsight.workflows.segment_files import (
    append_line,
    finished_lines,
    place_of,
    read_mask,
    segments_of,
    write_mask,
    write_overlay,
    write_tables,
)

__all__ = ["SegmentationRun", "segment"]

PART = "segments.part.jsonl"
MOST_CLASSES = 254  # an indexed mask holds 256 values: background and "not known" take two
THUMBNAIL = 256


@dataclass(frozen=True)
class SegmentationRun:
    """What a run of `segment` gave.

    Attributes:
        folder: with `photos.csv`, `masks/`, `overlays/`, `segments.json`, `areas.csv`, `classes.csv`, `report.html`,
            `model/` and `run.yaml`.
        counts: photos by status.
        classes: names in the order of the mask values.
        remarks: sentences that a person should read.
    """

    folder: Path
    counts: dict[str, int]
    classes: tuple[str, ...]
    remarks: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {
            "folder": str(self.folder),
            "photos": sum(self.counts.values()),
            "status": self.counts,
            "classes": list(self.classes),
            "remarks": list(self.remarks),
        }

    def sentences(self) -> Iterator[str]:
        """The result in words."""
        told = ", ".join(f"{count} {status}" for status, count in self.counts.items())
        yield f"{sum(self.counts.values())} photos: {told or 'none'}."
        yield from self.remarks
        yield f"Report: {self.folder / 'report.html'}"


@dataclass(frozen=True)
class _Settings:
    backbone: str
    head: str
    image_size: int | None
    false_alarms: float | None
    precision: str
    device: str
    seed: int
    class_level: str
    skip_empty: bool
    strict: bool
    batch_size: int | None
    workers: int | None


def segment(
    support: str | Path,
    queries: str | Path,
    out: str | Path,
    *,
    backbone: str = "auto",
    head: str = "correspondence",
    image_size: int | None = None,
    false_alarms: float | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    seed: int = 0,
    class_level: Literal["top", "leaf"] = "top",
    skip_empty: bool = False,
    strict: bool = False,
    resume: bool = False,
    force: bool = False,
    quiet: bool = False,
) -> SegmentationRun:
    """Find the classes of `support` in the photos of `queries`, pixel by pixel.

    Args:
        support: class folders or a CSV, with masks beside the photos or without, or a model folder.
        queries: a folder, a CSV, or one photo.
        out: the run's folder.
        backbone, head, image_size, false_alarms, precision, device, seed: as in `FewShotSegmenter`.
        strict: stop at the first photo that cannot be read.
        resume, force: go on with, or replace, the run in `out`.

    Raises:
        FewsightError: something in the input is wrong; the message says what, where, and what to do.
    """
    settings = _Settings(
        backbone, head, image_size, false_alarms, precision, device, seed, class_level, skip_empty, strict,
        batch_size, workers,
    )  # fmt: skip
    with quieted(quiet), run_folder(out, resume=resume, force=force) as folder:
        if not resume:
            (folder / PART).unlink(missing_ok=True)
        return _Run(Path(support), Path(queries), folder, settings, resume).run()


@dataclass
class _Run:
    """One run, step by step."""

    support: Path
    queries: Path
    folder: Path
    settings: _Settings
    resume: bool
    remarks: list[str] = field(default_factory=list)
    known: KnownPhotos | None = None

    def run(self) -> SegmentationRun:
        reading = read_layout(self.queries, labels="optional")
        self.remarks += reading.warnings
        photos, pile = self._photos(), reading.collection
        segmenter = self._segmenter(photos)
        names = tuple(str(label) for label in segmenter.classes_.tolist())
        if len(names) > MOST_CLASSES:
            raise InvalidInput(
                f"there are {len(names)} classes; an indexed mask holds at most {MOST_CLASSES}."
            )
        self._record(photos, pile, segmenter)
        if (self.folder / "photos.csv").exists():
            say("The run is finished already.")
            return self._told(names)
        if photos is not None:
            self.known = KnownPhotos(photos.collection)
        self._tell(segmenter)
        rows = self._rows(segmenter, pile, names)
        self._report(rows, segmenter, photos, pile, names)
        write_tables(self.folder, rows, names)
        (self.folder / PART).unlink(missing_ok=True)
        return self._told(names)

    def _told(self, names: tuple[str, ...]) -> SegmentationRun:
        with (self.folder / "photos.csv").open(encoding="utf-8", newline="") as file:
            counts = Counter(row["status"] for row in csv.DictReader(file))
        return SegmentationRun(self.folder, dict(counts), names, tuple(self.remarks))

    def _photos(self) -> LabelledPhotos | None:
        if is_model_folder(self.support):
            return None
        s = self.settings
        roots = [path for path in (self.support.parent, self.queries, self.queries.parent) if path.is_dir()]
        photos = read_labelled(
            self.support, root=roots, class_level=s.class_level, skip_empty=s.skip_empty, strict=s.strict
        )
        say(photos.reading.description)
        self.remarks += photos.reading.warnings
        self.remarks += [f"Labelled photo {file} is left out: {note}." for file, note in photos.unreadable]
        return photos

    def _segmenter(self, photos: LabelledPhotos | None) -> FewShotSegmenter:
        s = self.settings
        if photos is None:
            loaded = FewShotSegmenter.load(self.support, device=s.device, precision=s.precision)
            return loaded if s.false_alarms is None else loaded.set_false_alarms(s.false_alarms)
        segmenter = FewShotSegmenter(
            s.backbone,
            s.head,
            image_size=s.image_size,
            device=s.device,
            precision=s.precision,
            seed=s.seed,
            false_alarms=s.false_alarms,
        )
        collection = photos.collection
        labels = [
            [collection.classes[k] for k in collection.labels_of(index)] for index in range(len(collection))
        ]
        segmenter.fit(collection, labels)
        segmenter.save(self.folder / "model")
        return segmenter

    def _record(self, photos: LabelledPhotos | None, pile: Collection, segmenter: FewShotSegmenter) -> None:
        chosen = {key: value for key, value in vars(self.settings).items() if key != "workers"}
        chosen["backbone"] = segmenter.photo_encoder().backbone.name
        chosen |= {"support": str(self.support), "queries": str(self.queries)}
        data = {
            "support": photos.fingerprint if photos else sha256(self.support / "model.json")[:16],
            "queries": fingerprint(pile),
        }
        record_run(self.folder, RunRecord("segment", chosen, data), resume=self.resume)

    def _tell(self, segmenter: FewShotSegmenter) -> None:
        count = len(segmenter.files_)
        self.remarks.append(f"{segmenter.masked_} of {count} labelled photos came with a mask.")
        conditioned = segmenter.conditioned_
        if isinstance(conditioned, ConditionedCorrespondence) and conditioned.separation is not None:
            share = conditioned.separation
            advice = "" if share >= 0.7 else ": absence is not to be relied on; give masks or more photos"
            self.remarks.append(
                f"Among the labelled photos a class that is there scores above one that is not in "
                f"{100 * share:.0f} % of pairs{advice}."
            )
        for remark in self.remarks:
            say(remark)

    def _rows(
        self, segmenter: FewShotSegmenter, pile: Collection, names: tuple[str, ...]
    ) -> list[dict[str, Any]]:
        rows = finished_lines(self.folder / PART)[: len(pile)]
        rest = pile.select(range(len(rows), len(pile)))
        encoder = segmenter.photo_encoder().ready(segmenter.head_)
        s = self.settings
        with FeatureCache() as cache, Progress("segmenting", len(pile), done=len(rows)) as bar:
            for batch in encode_photos(
                encoder, rest, cache=cache, workers=s.workers, batch_size=s.batch_size
            ):
                for row in self._batch(batch, rest, segmenter, names):
                    append_line(self.folder / PART, row)
                    rows.append(row)
                bar.advance(len(batch.outcomes))
        return rows

    def _batch(
        self, batch: EncodedBatch, pile: Collection, segmenter: FewShotSegmenter, names: tuple[str, ...]
    ) -> Iterator[dict[str, Any]]:
        sizes = [outcome.original_size for outcome in batch.outcomes if outcome.original_size is not None]
        answers = segmenter.answers(batch.features, sizes)
        nearest = iter(segmenter.nearest(batch.features) if sizes else [])
        alike = iter(_most_alike(segmenter, batch) if sizes else ())
        for outcome in batch.outcomes:
            file = pile.file(outcome.index)
            if not outcome.decoded:
                status = "refused" if outcome.status == "refused" else "unreadable"
                if self.settings.strict:
                    raise UnreadableImage(f"{file}: {outcome.note} (--strict stops here)", status=status)
                yield _row(file, status, outcome.note)
                continue
            row = self._answered(next(answers), outcome, pile, names, next(nearest))
            same = self.known and self.known.same_as(pile.path(outcome.index), outcome.digest, *next(alike))
            if same:
                row |= {"status": "duplicate", "note": "; ".join(filter(None, (same, outcome.note)))}
            yield row

    def _answered(
        self,
        found: PhotoSegments,
        outcome: Outcome,
        pile: Collection,
        names: tuple[str, ...],
        nearest: tuple[SupportMatch, ...],
    ) -> dict[str, Any]:
        """One row, its mask and overlay written."""
        file = pile.file(outcome.index)
        mask = place_of(self.folder / "masks", file, ".png")
        write_mask(mask, found.labels, len(names))
        overlay = place_of(self.folder / "overlays", file, ".jpg")
        write_overlay(overlay, pile.path(outcome.index), found.labels, len(names), pile.root)
        return _row(file, outcome.status, outcome.note) | {
            "mask": mask.relative_to(self.folder).as_posix(),
            "size": list(found.labels.shape),
            "presence": found.presence.tolist(),
            "areas": [float((found.labels == k + 1).mean()) for k in range(len(names))],
            "segments": segments_of(found.labels),
            "nearest": [[match.file, match.label, match.similarity] for match in nearest],
        }

    def _report(
        self,
        rows: list[dict[str, Any]],
        segmenter: FewShotSegmenter,
        photos: LabelledPhotos | None,
        pile: Collection,
        names: tuple[str, ...],
    ) -> None:
        labels = [tuple(names[k] for k in row.nonzero()[:, 0].tolist()) for row in segmenter.membership_]
        places = {pile.file(index): pile.path(index) for index in range(len(pile))}
        masks = {row["file"]: row["mask"] for row in rows if row["mask"]}
        write_segmentation_report(
            self.folder / "report.html",
            [_reported(row, names) for row in rows],
            names,
            support=[SupportPhoto(*pair) for pair in zip(segmenter.files_, labels, strict=True)],
            read_picture=_Pictures(photos, places),
            read_mask=lambda kind, file: (
                read_mask(self.folder / masks[file]) if kind == "query" and file in masks else None
            ),
            facts=self._facts(segmenter),
        )

    def _facts(self, segmenter: FewShotSegmenter) -> RunFacts:
        backbone = segmenter.photo_encoder().backbone
        settings = {key: value for key, value in vars(self.settings).items() if value is not None}
        return RunFacts(
            title="Where it is in the photos",
            expected_note="How well the outlines fit cannot be judged without masks of other photos.",
            remarks=tuple(self.remarks),
            command=f"fewsight segment {self.support} {self.queries} --out {self.folder}",
            settings=settings | {"backbone": backbone.name},
            licences=(
                Licence("fewsight", "Apache-2.0", "the program"),
                Licence(f"weights of {backbone.name}", backbone.licence.name, backbone.licence.note),
            ),
        )


class _Pictures:
    """Reads the pictures of the report; None where that is no longer possible."""

    def __init__(self, photos: LabelledPhotos | None, queries: dict[str, str]) -> None:
        held = None if photos is None else photos.collection
        support = {} if held is None else {held.file(i): held.path(i) for i in range(len(held))}
        self.places = {"query": queries, "support": support}

    def __call__(self, kind: str, file: str) -> Any:
        from PIL import Image

        path = self.places[kind].get(file)
        try:
            return None if path is None else Image.fromarray(decode(path, needed=(THUMBNAIL,) * 2).image)
        except UnreadableImage:
            return None


def _most_alike(segmenter: FewShotSegmenter, batch: EncodedBatch) -> Iterator[tuple[float, int]]:
    """For each decoded photo the cosine and row of the support photo that is most like it."""
    likeness, rows = (segmenter.query_vectors(batch.features) @ segmenter.support_vectors_.T).max(1)
    return zip(likeness.tolist(), rows.tolist(), strict=True)


def _row(file: str, status: str, note: str) -> dict[str, Any]:
    """A row of a photo that says nothing yet."""
    return {"file": file, "status": status, "note": note, "mask": "", "size": None, "presence": [],
            "areas": [], "segments": [], "nearest": []}  # fmt: skip


def _reported(row: dict[str, Any], names: tuple[str, ...]) -> SegmentedPhoto:
    presences = tuple(
        Presence(name, presence, presence > 0.5, area)
        for name, presence, area in zip(names, row["presence"], row["areas"], strict=False)
    )
    nearest = tuple(SupportMatch(*match) for match in row["nearest"])
    return SegmentedPhoto(row["file"], row["status"], row["note"], presences, nearest)

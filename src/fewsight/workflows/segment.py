"""`fewsight segment`: a few labelled photos and a pile of others in; masks, areas, a report and a model out."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
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
from fewsight.photo_maps import MOST_TILES, PhotoSegments
from fewsight.predictions import SupportMatch
from fewsight.progress import Progress, quieted, say
from fewsight.report.facts import Licence, RunFacts, SupportPhoto
from fewsight.report.segmentation import write_segmentation_report
from fewsight.segmenter import FewShotSegmenter
from fewsight.workflows.known_photos import KnownPhotos
from fewsight.workflows.labelled_photos import LabelledPhotos, is_model_folder, read_labelled
from fewsight.workflows.run_record import RunRecord, record_run
from fewsight.workflows.segment_again import decide_again
from fewsight.workflows.segment_files import (
    ANSWERS,
    FOREGROUND,
    Pictures,
    SegmentationRun,
    append_line,
    draw,
    finished_lines,
    place_of,
    read_mask,
    reported,
    write_maps,
    write_tables,
)

__all__ = ["SegmentationRun", "segment"]

PART = "segments.part.jsonl"
MOST_CLASSES = 254  # an indexed mask holds 256 values: background and "not known" take two


@dataclass(frozen=True)
class _Settings:
    backbone: str
    head: str
    image_size: int | None
    false_alarms: float | None
    presence_threshold: float | None
    threshold: float | None
    tiles: int
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
    queries: str | Path | None,
    out: str | Path,
    *,
    backbone: str = "auto",
    head: str = "correspondence",
    image_size: int | None = None,
    false_alarms: float | None = None,
    presence_threshold: float | None = None,
    threshold: float | None = None,
    tiles: int = 1,
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
        support: class folders or a CSV, with masks beside the photos or without, or a model folder; or, without
            `queries`, the folder of an earlier run, whose answers are decided anew by other thresholds.
        queries: a folder, a CSV, or one photo.
        out: the run's folder.
        backbone, head, image_size, false_alarms, presence_threshold, threshold, precision, device, seed: as in
            `FewShotSegmenter`.
        tiles: look at each photo whole and in tiles x tiles overlapping parts: for small objects in large photos.
        strict: stop at the first photo that cannot be read.
        resume, force: go on with, or replace, the run in `out`.

    Raises:
        FewsightError: something in the input is wrong; the message says what, where, and what to do.
    """
    settings = _Settings(
        backbone, head, image_size, false_alarms, presence_threshold, threshold, tiles, precision, device, seed,
        class_level, skip_empty, strict, batch_size, workers,
    )  # fmt: skip
    if queries is None:
        with quieted(quiet), run_folder(out, resume=resume, force=force) as folder:
            return decide_again(Path(support), folder, presence=presence_threshold, foreground=threshold)
    if not 1 <= tiles <= MOST_TILES:
        raise InvalidInput(f"tiles is {tiles}; expected 1 to {MOST_TILES}.")
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
        photos, pile = self._photos(), reading.collection.whole()  # masks are of whole photos
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
        # What was answered stays: other thresholds need no second look at the photos.
        (self.folder / PART).replace(self.folder / ANSWERS) if rows else (self.folder / PART).unlink(
            missing_ok=True
        )
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
        photos = replace(photos, collection=photos.collection.whole())
        say(photos.reading.description)
        self.remarks += photos.reading.warnings
        self.remarks += [f"Labelled photo {file} is left out: {note}." for file, note in photos.unreadable]
        return photos

    def _segmenter(self, photos: LabelledPhotos | None) -> FewShotSegmenter:
        s = self.settings
        if photos is None:
            loaded = FewShotSegmenter.load(self.support, device=s.device, precision=s.precision)
            loaded.set_thresholds(presence=s.presence_threshold, foreground=s.threshold)
            return loaded if s.false_alarms is None else loaded.set_false_alarms(s.false_alarms)
        segmenter = FewShotSegmenter(
            s.backbone,
            s.head,
            image_size=s.image_size,
            device=s.device,
            precision=s.precision,
            seed=s.seed,
            false_alarms=s.false_alarms,
        ).set_thresholds(presence=s.presence_threshold, foreground=s.threshold)
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
            found = next(answers)
            if self.settings.tiles > 1:
                whole = decode(pile.path(outcome.index), root=pile.root).image
                found = segmenter.tiled_answer(whole, self.settings.tiles)
            row = self._answered(found, segmenter, outcome, pile, names, next(nearest))
            same = self.known and self.known.same_as(pile.path(outcome.index), outcome.digest, *next(alike))
            if same:
                row |= {"status": "duplicate", "note": "; ".join(filter(None, (same, outcome.note)))}
            yield row

    def _answered(
        self,
        found: PhotoSegments,
        segmenter: FewShotSegmenter,
        outcome: Outcome,
        pile: Collection,
        names: tuple[str, ...],
        nearest: tuple[SupportMatch, ...],
    ) -> dict[str, Any]:
        """One row, its mask and overlay written."""
        file = pile.file(outcome.index)
        kept = place_of(self.folder / FOREGROUND, file, ".png")
        write_maps(kept, found.maps)
        drawn = draw(self.folder, file, pile.path(outcome.index), found.labels, len(names), pile.root)
        return (
            _row(file, outcome.status, outcome.note)
            | drawn
            | {
                "foreground": kept.relative_to(self.folder).as_posix(),
                "presence": found.presence.tolist(),
                "present": (found.presence > segmenter.presence_threshold).tolist(),
                "nearest": [[match.file, match.label, match.similarity] for match in nearest],
            }
        )

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
            [reported(row, names) for row in rows],
            names,
            support=[SupportPhoto(*pair) for pair in zip(segmenter.files_, labels, strict=True)],
            read_picture=Pictures(_places(photos), places),
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


def _places(photos: LabelledPhotos | None) -> dict[str, str]:
    held = None if photos is None else photos.collection
    return {} if held is None else {held.file(i): held.path(i) for i in range(len(held))}


def _row(file: str, status: str, note: str) -> dict[str, Any]:
    """A row of a photo that says nothing yet."""
    return {"file": file, "status": status, "note": note, "mask": "", "foreground": "", "size": None,
            "presence": [], "present": [], "areas": [], "segments": [], "nearest": []}  # fmt: skip


def _most_alike(segmenter: FewShotSegmenter, batch: EncodedBatch) -> Iterator[tuple[float, int]]:
    """For each decoded photo the cosine and row of the support photo that is most like it."""
    likeness, rows = (segmenter.query_vectors(batch.features) @ segmenter.support_vectors_.T).max(1)
    return zip(likeness.tolist(), rows.tolist(), strict=True)

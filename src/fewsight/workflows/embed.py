"""`fewsight embed`: the features of any number of photos as shards of fixed size, however often the run is killed.

The photos are cut into stretches of `shard_size`; stretch k becomes `features-<k>.safetensors`. A batch never holds
photos of two stretches, so a shard depends on its photos, the weights, the number format, the batch size and the
thread count alone, all of which `run.yaml` names. A shard is written whole or not at all: a killed run goes on at the
first one that is missing, and ranks or jobs share the shards out by their numbers.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from fewsight.backbones.backbone import Backbone
from fewsight.backbones.encode import EncodedBatch, Encoder, encode_photos
from fewsight.backbones.feature_cache import features_of
from fewsight.backbones.features import Request
from fewsight.backbones.loading import load_backbone
from fewsight.data.collection import Collection
from fewsight.data.fingerprint import fingerprint
from fewsight.data.layouts import read_layout
from fewsight.data.reading import nothing_there, photos_of
from fewsight.errors import FewsightError, InvalidInput, RunExists, UnreadableImage
from fewsight.files import LOCK, run_folder, said_of_disk
from fewsight.progress import Progress, quieted
from fewsight.workflows.feature_shards import (
    PhotoRow,
    remove_leftovers,
    shard_name,
    write_index,
    write_shard,
)
from fewsight.workflows.run_record import RunRecord, read_record, record_run

__all__ = ["Embedding", "embed"]

SHARD = 1024  # photos; a killed run repeats at most so many
LOCK_SECONDS = 300.0  # waiting for another part that looks into the same folder


@dataclass(frozen=True)
class Embedding:
    """What a run of `embed` gave.

    Attributes:
        folder: with `features-00000.safetensors`, ..., `index.csv` and `run.yaml`.
        photos: how many were given.
        counts: those in the folder so far, by status.
        shards: how many the photos fill.
        missing: shards that are not in the folder yet (other parts make them).
        width: numbers a photo.
        remarks: sentences that a person should read.
    """

    folder: Path
    photos: int
    counts: dict[str, int]
    shards: int
    missing: int
    width: int
    remarks: tuple[str, ...] = ()

    def summary(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {
            "folder": str(self.folder),
            "photos": self.photos,
            "status": self.counts,
            "shards": self.shards,
            "missing": self.missing,
            "width": self.width,
            "remarks": list(self.remarks),
        }

    def sentences(self) -> Iterator[str]:
        """The result in words."""
        yield from self.remarks
        told = ", ".join(f"{count} {status}" for status, count in sorted(self.counts.items()))
        shards = "1 shard" if self.shards == 1 else f"{self.shards} shards"
        yield f"{photos_of(self.photos)}, {self.width} numbers each, {shards}: {told or 'none'}."
        if self.missing:
            yield f"Shards left to the other parts: {self.missing}; the last part completes index.csv."
        yield f"Index: {self.folder / 'index.csv'}"


@dataclass(frozen=True)
class _Part:
    """Which shards are this process's: those of number k with k mod `of` = `number`."""

    number: int = 0
    of: int = 1


def embed(
    photos: str | Path,
    out: str | Path,
    *,
    backbone: str | Backbone = "auto",
    image_size: int | None = None,
    shard_size: int = SHARD,
    shard: str | None = None,
    batch_size: int | None = None,
    threads: int | None = None,
    workers: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    strict: bool = False,
    resume: bool = False,
    force: bool = False,
    quiet: bool = False,
) -> Embedding:
    """Encode photos into shards of features, one vector a photo.

    Args:
        photos: a folder, a CSV, or one photo; labels are not needed.
        out: the run's folder.
        backbone: a name or path for `load_backbone`, or a `Backbone`.
        shard_size: photos a shard; raised to a multiple of the batch size, so that batches never cross shards.
        shard: `i/n`, 0 <= i < n: make only every n-th shard, from the i-th on; several such runs may share `out`.
            None takes RANK and WORLD_SIZE of `torchrun` where they are set.
        batch_size: photos encoded at once; None for what suits the device.
        threads: of the arithmetic on a processor, which decide the last bits; None keeps those of the process, or on
            resume those of the run.
        workers: threads that decode while the network works; they change nothing.
        strict: stop at the first photo that cannot be read.
        resume, force: go on with, or replace, the run in `out`.

    Raises:
        FewsightError: something in the input is wrong; the message says what, where, and what to do.
    """
    part = _part(shard)
    if shard_size < 1 or (threads is not None and threads < 1):
        raise InvalidInput(f"shard_size is {shard_size} and threads {threads}; expected at least 1.")
    with quieted(quiet):
        reading = read_layout(photos, labels="optional")
        with _folder(Path(out), part, resume=resume, force=force) as folder, _threads(folder, threads):
            encoder = _encoder(backbone, image_size, precision, device, batch_size)
            size = -(-shard_size // encoder.batch_size) * encoder.batch_size
            remarks = (*reading.warnings, *nothing_there(reading, photos))
            run = _Run(reading.collection, folder, encoder, size, part, strict, workers, remarks)
            return run.run(Path(photos), resume=resume or part.of > 1)


def _part(shard: str | None) -> _Part:
    if shard is None:
        found = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    else:
        match = re.fullmatch(r"(\d+)/(\d+)", shard)
        found = (match[1], match[2]) if match else ("", "")
    if all(text.isdigit() for text in found) and int(found[0]) < int(found[1]):
        return _Part(int(found[0]), int(found[1]))
    given = f"--shard is {shard!r}" if shard is not None else f"RANK/WORLD_SIZE is {'/'.join(found)}"
    raise InvalidInput(f"{given}; expected i/n with 0 <= i < n: 0/4, 1/4, 2/4 and 3/4 make four parts.")


@contextlib.contextmanager
def _folder(path: Path, part: _Part, *, resume: bool, force: bool) -> Iterator[Path]:
    """The output folder: this process's alone, or shared with the other parts of the same run."""
    if part.of == 1:
        with run_folder(path, resume=resume, force=force) as folder:
            yield folder
        return
    if force:
        raise InvalidInput(
            f"--force would remove what other parts have made in {path}: delete the folder before the parts start."
        )
    import filelock

    with said_of_disk(path):
        path.mkdir(parents=True, exist_ok=True)
        own = filelock.FileLock(path / f"{LOCK}-{part.number}-of-{part.of}", blocking=False)
    try:
        with own:
            yield path
    except filelock.Timeout:
        raise RunExists(f"part {part.number}/{part.of} of {path} is being made by another process.") from None


@contextlib.contextmanager
def _alone(folder: Path, part: _Part) -> Iterator[None]:
    """A moment in which no other part looks into the folder."""
    if part.of == 1:
        yield  # `run_folder` holds the lock
        return
    import filelock

    try:
        with filelock.FileLock(folder / LOCK, timeout=LOCK_SECONDS):
            yield
    except filelock.Timeout:
        raise RunExists(f"{folder} is in use by another fewsight process: wait for it.") from None


@contextlib.contextmanager
def _threads(folder: Path, threads: int | None) -> Iterator[None]:
    """Let the arithmetic use the given number of threads, else those that the run in `folder` began with."""
    before = torch.get_num_threads()
    if threads is None and (folder / "run.yaml").exists():
        threads = int(read_record(folder).settings.get("threads", before))
    torch.set_num_threads(threads or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _encoder(
    backbone: str | Backbone, image_size: int | None, precision: str, device: str, batch_size: int | None
) -> Encoder:
    local = os.environ.get("LOCAL_RANK", "")
    if device == "auto" and local.isdigit() and torch.cuda.is_available():
        device = f"cuda:{int(local) % torch.cuda.device_count()}"
    loaded = backbone
    if not isinstance(loaded, Backbone):
        loaded = load_backbone(loaded, image_size=image_size)
    return Encoder(loaded, Request(), precision=precision, device=device, vectors=True, batch_size=batch_size)


@dataclass
class _Run:
    """One part of a run, step by step."""

    photos: Collection
    folder: Path
    encoder: Encoder
    shard_size: int
    part: _Part
    strict: bool
    workers: int | None
    remarks: tuple[str, ...]

    def __post_init__(self) -> None:
        self.batch_size, self.dtype = self.encoder.batch_size, self.encoder.dtype
        self.shards = -(-len(self.photos) // self.shard_size)
        pooled = 2 if self.encoder.backbone.pooling == "cls+patches" else 1
        self.width = pooled * self.encoder.backbone.dim

    def run(self, source: Path, *, resume: bool) -> Embedding:
        with _alone(self.folder, self.part):
            self._check_strangers()
            record_run(self.folder, self._record(source), resume=resume)
        own = range(self.part.number, self.shards, self.part.of)
        left = [number for number in own if not (self.folder / shard_name(number)).exists()]
        for number in left:
            remove_leftovers(self.folder, number)
        self._encode(left, done=sum(map(self._length, own)) - sum(map(self._length, left)))
        with _alone(self.folder, self.part):
            counts = write_index(self.folder)
            missing = sum(not (self.folder / shard_name(number)).exists() for number in range(self.shards))
        return Embedding(
            self.folder, len(self.photos), counts, self.shards, missing, self.width, self.remarks
        )

    def _check_strangers(self) -> None:
        """A part joins its own run or an empty folder, nothing else."""
        held = [entry.name for entry in self.folder.iterdir() if not entry.name.startswith(LOCK)]
        if self.part.of > 1 and held and "run.yaml" not in held:
            raise RunExists(
                f"{self.folder} already holds {len(held)} files, {sorted(held)[0]!r} among them, and no run: choose "
                "another folder for --out."
            )

    def _record(self, source: Path) -> RunRecord:
        backbone = self.encoder.backbone
        settings = {
            "photos": str(source),
            "backbone": backbone.name,
            "image_size": list(backbone.image_size),
            "precision": str(self.dtype).removeprefix("torch."),
            "device": self.encoder.device.type,
            "threads": torch.get_num_threads(),
            "batch_size": self.batch_size,
            "shard_size": self.shard_size,
        }
        data = {
            "photos": fingerprint(self.photos),
            "count": str(len(self.photos)),
            "backbone": self.encoder.key("")[:16],
            "features": features_of(backbone),
        }
        return RunRecord("embed", settings, data)

    def _stretch(self, number: int) -> range:
        first = number * self.shard_size
        return range(first, min(first + self.shard_size, len(self.photos)))

    def _length(self, number: int) -> int:
        return len(self._stretch(number))

    def _encode(self, left: list[int], done: int) -> None:
        """Make the shards `left`; one stream of photos runs through all of them, so that decoding never waits."""
        if not left:
            return
        chosen = self.photos.select(numpy.concatenate([numpy.array(self._stretch(k)) for k in left]))
        # no cache: with some photos left out of a batch the last bits of the others may change
        stream = encode_photos(self.encoder, chosen, batch_size=self.batch_size, workers=self.workers)
        with Progress("embedding", done + len(chosen), done=done) as bar:
            for number in left:
                features: list[Tensor] = [torch.empty(0, self.width)]
                rows: list[PhotoRow] = []
                while len(rows) < self._length(number):
                    batch = next(stream)
                    rows += self._rows(batch, chosen, sum(map(len, features)))
                    if len(batch.indices):
                        features.append(_vectors(batch))
                    bar.advance(len(batch.outcomes))
                self._check_precision()
                write_shard(self.folder, number, torch.cat(features), rows)
                self.encoder.batch_size = (
                    self.batch_size
                )  # halved where memory ran out; each shard begins alike

    def _rows(self, batch: EncodedBatch, chosen: Collection, row: int) -> list[PhotoRow]:
        rows = []
        for outcome in batch.outcomes:
            file = chosen.file(outcome.index)
            if self.strict and not outcome.decoded:
                raise UnreadableImage(f"{file}: {outcome.note} (--strict stops here)", status=outcome.status)
            rows.append(PhotoRow(file, outcome.status, outcome.note, row if outcome.decoded else None))
            row += outcome.decoded
        return rows

    def _check_precision(self) -> None:
        if self.encoder.dtype != self.dtype:
            raise FewsightError(
                f"16-bit numbers overflow in {self.encoder.backbone.name}, and shards of one run hold one number "
                "format: start anew with --precision fp32 --force."
            )


def _vectors(batch: EncodedBatch) -> Tensor:
    assert batch.features.cls is not None
    return batch.features.cls

"""`fewsight neighbours`: supervision collapse, seen and counted.

A network trained with labels may forget what it did not need to tell its training classes apart. Photos of new classes
then land among those of a training class. Carl Doersch, Ankush Gupta, Andrew Zisserman, "CrossTransformers:
spatially-aware few-shot transfer", NeurIPS 2020, section 1 and figure 1, show it by nearest neighbours among training
and test classes together; here it also becomes a number.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewsight.backbones.encode import Encoder
from fewsight.backbones.features import concatenate
from fewsight.backbones.loading import load_backbone
from fewsight.data.collection import Collection
from fewsight.data.fingerprint import fingerprint
from fewsight.errors import InvalidInput
from fewsight.evaluation.intervals import Interval, group_bootstrap, proportion_interval
from fewsight.files import run_folder, write_json
from fewsight.heads.vectors import unit
from fewsight.progress import quieted, say
from fewsight.workflows.encoded_data import EncodedData, encode_data, vector_encoder, vectors_of
from fewsight.workflows.neighbours_result import KINDS, NeighboursFound, Photo, QueryNeighbours
from fewsight.workflows.run_record import RunRecord, record_run

__all__ = ["KINDS", "NeighboursFound", "Photo", "QueryNeighbours", "nearest_neighbours", "neighbours"]

CHUNK = 2**22  # cosines held at once


def neighbours(
    data: str | Path,
    *,
    train: str | Path | None = None,
    backbone: str = "auto",
    k: int = 5,
    out: str | Path | None = None,
    image_size: int | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    device: str = "auto",
    precision: str = "auto",
    class_level: str = "top",
    skip_empty: bool = False,
    force: bool = False,
    quiet: bool = False,
) -> NeighboursFound:
    """Nearest neighbours of test photos among the photos trained on and the other test photos together.

    Args:
        data: labelled photos with splits `train` and `test` (else `val`), mostly of different classes; or, with
            `train`, those of the test classes alone.
        train: labelled photos of the classes that the backbone was trained on.
        k: neighbours of each query; fewer where there are fewer photos.
        out: folder for `neighbours.json` and `report.html`.

    Raises:
        InvalidInput: one side is empty, or `k` is below 1.
    """
    if k < 1:
        raise InvalidInput(f"k is {k}; expected at least 1 neighbour.")
    data = Path(data)
    opened = nullcontext() if out is None else run_folder(out, force=force)
    with quieted(quiet), opened as folder:
        loaded = load_backbone(backbone, image_size=image_size)
        encoder = vector_encoder(loaded, precision=precision, device=device, batch_size=batch_size)
        reading = {"class_level": class_level, "skip_empty": skip_empty, "workers": workers}
        known, tested = _sides(data, None if train is None else Path(train), encoder, reading)
        remarks = tuple(dict.fromkeys((*known.remarks, *tested.remarks)))
        for remark in remarks:
            say(remark)
        found = _found(data.name or str(data), loaded.name, known, tested, k, remarks, folder)
        if folder is not None:
            from fewsight.workflows.neighbours_report import report_neighbours

            settings = {"data": str(data), "train": None if train is None else str(train), "k": found.k}
            settings |= {"backbone": loaded.name, "image_size": image_size, "precision": precision}
            sides = {"train": fingerprint(known.collection), "test": fingerprint(tested.collection)}
            record_run(folder, RunRecord("neighbours", settings, sides))
            write_json(folder / "neighbours.json", found.summary())
            report_neighbours(found, folder / "report.html")
        return found


def _sides(
    data: Path, train: Path | None, encoder: Encoder, reading: dict[str, Any]
) -> tuple[EncodedData, EncodedData]:
    """The photos trained on and the queries."""
    encoded = encode_data(data, encoder, **reading)
    if train is not None:
        return encode_data(train, encoder, **reading), encoded
    collection = encoded.collection
    judged = next((name for name in ("test", "val") if name in collection.split_names), None)
    if judged is None or "train" not in collection.split_names:
        raise InvalidInput(
            f"{data} has no splits train and test (found: {', '.join(collection.split_names) or 'none'}): name the "
            "folders so, or give the photos of the training classes with --train FOLDER."
        )
    return _part(encoded, "train"), _part(encoded, judged)


def _part(encoded: EncodedData, split: str) -> EncodedData:
    rows = numpy.flatnonzero(encoded.collection.in_split(split))
    if not len(rows):
        raise InvalidInput(f"the split {split} has no photo that can be read.")
    return EncodedData(encoded.collection.select(rows), encoded.features.rows(rows.tolist()), encoded.remarks)


def nearest_neighbours(queries: Tensor, pool: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k nearest of a pool by cosine, where the queries are the last rows of the pool and never their own.

    Args:
        queries: `[Q, D]` of any length; zero rows have cosine 0 with all.
        pool: `[P, D]`, whose last Q rows are the queries.
        k: at most P - 1.

    Returns:
        Rows of the pool `[Q, k]`, the nearest first, and their cosines `[Q, k]`.
    """
    Q, P = len(queries), len(pool)
    left, right = unit(queries), unit(pool)
    indices, cosines = [], []
    for rows in torch.split(torch.arange(Q), max(1, CHUNK // P)):
        block = left[rows] @ right.T
        block[torch.arange(len(rows)), P - Q + rows] = -torch.inf
        best = block.topk(k, dim=1)
        indices.append(best.indices)
        cosines.append(best.values)
    return torch.cat(indices), torch.cat(cosines)


def _found(
    dataset: str,
    backbone: str,
    known: EncodedData,
    tested: EncodedData,
    k: int,
    remarks: tuple[str, ...],
    folder: Path | None,
) -> NeighboursFound:
    features = concatenate([known.features, tested.features])
    photos = (*_photos(known.collection, True), *_photos(tested.collection, False))
    first, pool = len(known.collection), vectors_of(features).float()
    k = min(k, len(photos) - 1)
    kinds = _kinds(photos, first)
    nearest, cosines = nearest_neighbours(pool[first:], pool, k)
    chosen = numpy.take_along_axis(kinds, nearest.numpy(), axis=1)  # [Q, k]
    own = numpy.zeros_like(kinds, dtype=bool)
    own[numpy.arange(len(own)), first + numpy.arange(len(own))] = True
    wrong = (chosen == 1).mean(1)
    fewest = int(((kinds == 0) & ~own).sum(1).min())
    if fewest < k:
        remarks = (
            *remarks,
            f"A query has only {fewest} other photos of its class: not all {k} neighbours can be of it. Take a smaller "
            "k or more photos a class.",
        )
    rows = numpy.argsort(-wrong, kind="stable").tolist()
    return NeighboursFound(
        dataset,
        backbone,
        k,
        first,
        len(tested.collection),
        {kind: _share(chosen == code) for code, kind in enumerate(KINDS)},
        {kind: float((kinds[~own] == code).mean()) for code, kind in enumerate(KINDS)},
        _by_class(photos[first:], wrong),
        tuple(
            QueryNeighbours(
                photos[first + row],
                tuple(photos[index] for index in nearest[row].tolist()),
                tuple(cosines[row].tolist()),
                tuple(KINDS[code] for code in chosen[row].tolist()),
            )
            for row in rows
        ),
        remarks,
        folder,
    )


def _photos(collection: Collection, trained_on: bool) -> Iterator[Photo]:
    for index in range(len(collection)):
        labels = tuple(collection.classes[label] for label in collection.labels_of(index))
        yield Photo(collection.file(index), collection.path(index), labels, trained_on)


def _kinds(photos: tuple[Photo, ...], first: int) -> NDArray[numpy.int8]:
    """The kind of each photo as a neighbour of each query, indices into `KINDS`, `[Q, P]`."""
    columns = {name: index for index, name in enumerate({label: 0 for p in photos for label in p.labels})}
    members = numpy.zeros((len(photos), len(columns)), dtype=numpy.float32)
    for row, photo in enumerate(photos):
        members[row, [columns[label] for label in photo.labels]] = 1
    shared = members[first:] @ members.T > 0
    kinds = numpy.where(numpy.arange(len(photos)) < first, 1, 2).astype(numpy.int8)
    return numpy.where(shared, numpy.int8(0), kinds)


def _share(hits: NDArray[numpy.bool_]) -> Interval:
    """Share of hits `[Q, k]`; the neighbours of a query hang together, so that whole queries are drawn."""
    Q, k = hits.shape
    shares = hits.mean(1)
    if shares.min() == shares.max():  # no spread to draw from: as wide as if each query were one yes or no
        mean = float(shares[0])
        wide = proportion_interval(round(mean * Q), Q)
        return Interval(mean, wide.low, wide.high, Q)
    return group_bootstrap(hits.astype(float).ravel(), numpy.repeat(numpy.arange(Q), k).tolist())


def _by_class(queries: tuple[Photo, ...], wrong: NDArray[numpy.float64]) -> dict[str, float]:
    held: dict[str, list[float]] = {}
    for photo, share in zip(queries, wrong.tolist(), strict=True):
        for label in photo.labels:
            held.setdefault(label, []).append(share)
    return {name: sum(shares) / len(shares) for name, shares in held.items()}

"""Which photos train and which judge in `metatrain --head cst`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy
from numpy.typing import NDArray

from fewsight.data.class_folds import class_fold, divided
from fewsight.data.class_splits import held_out_split, split_class_names, split_classes
from fewsight.data.collection import Collection
from fewsight.data.fscs_benchmarks import FOLDS, find_benchmark, read_benchmark
from fewsight.data.label_maps import ReadMap
from fewsight.data.layouts import read_layout
from fewsight.errors import InvalidInput
from fewsight.workflows.dense_recipe import DenseRecipe

__all__ = ["Sides", "TrainingPhotos", "sides_of", "training_photos"]


@dataclass(frozen=True)
class Sides:
    """Class ids for training, for choosing the weights and (where known) for the test; rows of each."""

    train: tuple[int, ...]
    val: tuple[int, ...]
    test: tuple[int, ...]
    train_rows: NDArray[numpy.int64]
    val_rows: NDArray[numpy.int64]
    test_rows: NDArray[numpy.int64]


def sides_of(collection: Collection, recipe: DenseRecipe, seed: int) -> Sides:
    """Which classes and photos are for what; no photo is on two sides.

    Raises:
        InvalidInput: a class split does not fit, or too few classes are left.
    """
    everything = numpy.arange(len(collection))
    if recipe.class_split is not None:
        listed = split_class_names(recipe.class_split)
        here = set(collection.classes)
        # A folder of training photos alone has none of the test classes.
        listed = {part: names for part, names in listed.items() if part == "train" or here & set(names)}
        named = split_classes(collection, listed)
        base, novel = tuple(named["train"]), tuple(named.get("test", ()))
        rest, test_rows = divided(collection, novel, everything, seed=seed)
        chosen = tuple(named.get("val", ()))
    else:
        if recipe.fold is None:
            counts = collection.counts()
            base = tuple(k for k in range(len(collection.classes)) if counts[k] >= 2)
            novel, rest, test_rows = (), everything, everything[:0]
        else:
            fold = class_fold(collection, recipe.fold, folds=recipe.folds, seed=seed)
            base, novel, rest, test_rows = fold
        chosen = ()
    if not chosen and recipe.held_out > 0 and len(base) > 3:
        held = held_out_split(len(base), recipe.held_out, seed)
        chosen = tuple(base[k] for k in held["val"])
        if len(chosen) < 2:  # a pair needs two classes
            chosen = (*chosen, *(c for c in base if c not in chosen))[:2]
        base = tuple(c for c in base if c not in chosen)
    train_rows, val_rows = divided(collection, chosen, rest, seed=seed, share=recipe.held_out or 0.2)
    return Sides(base, chosen, novel, train_rows, val_rows, test_rows)


class TrainingPhotos(NamedTuple):
    """Photos, sentences about them, and how masks are read where a published benchmark says so."""

    collection: Collection
    remarks: tuple[str, ...]
    read: ReadMap | None


def training_photos(data: str | Path, recipe: DenseRecipe) -> TrainingPhotos:
    """The photos of a folder; of Pascal-5i, COCO-20i and FSS-1000 those that the published lists train on.

    Raises:
        InvalidInput: a published benchmark without `fold`, or nothing that fits.
    """
    found = find_benchmark(data)
    if found is None:
        reading = read_layout(data, class_level=recipe.class_level)
        return TrainingPhotos(reading.collection, reading.warnings, None)
    name = found[0]
    if recipe.fold is None and FOLDS[name] > 1:
        raise InvalidInput(
            f"{data} is {name}: say which fold is kept back for the test, for example --set fold=0."
        )
    benchmark = read_benchmark(data, name, fold=recipe.fold or 0, part="train")
    remark = f"{name}, published training list of fold {benchmark.fold}: {len(benchmark.collection)} photos."
    return TrainingPhotos(benchmark.collection, (remark,), benchmark.label_map)

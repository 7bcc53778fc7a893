"""The output folder of a training, for one process or several: the first holds and writes it, the others are quiet."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from fewsight import distributed
from fewsight.data.collection import Collection
from fewsight.data.store import PixelStore, open_store
from fewsight.data.stored_photos import store_photos
from fewsight.data.transform import Transform
from fewsight.files import run_folder
from fewsight.launch import joined
from fewsight.progress import quieted

__all__ = ["is_first_process", "stored_once", "training_run"]


@contextlib.contextmanager
def training_run(
    out: str | Path, *, resume: bool = False, force: bool = False, quiet: bool = False
) -> Iterator[Path]:
    """Join the processes that were started for this run, and open its folder.

    Raises:
        RunExists: as `files.run_folder`, on the first process.
    """
    with joined(), quieted(quiet or not distributed.is_main()):
        if not distributed.is_main():
            distributed.barrier()
            yield Path(out)
            return
        with run_folder(out, resume=resume, force=force) as folder:
            distributed.barrier()
            yield folder


def stored_once(
    collection: Collection, transform: Transform, folder: Path, *, workers: int | None = None
) -> PixelStore:
    """The store of a collection, made by the first process; all read the same pages of it."""
    if distributed.is_main():
        store_photos(collection, transform, folder, workers=workers)
    distributed.barrier()
    return open_store(folder)


def is_first_process() -> bool:
    """Whether this process speaks for the run, also before the processes are joined and after."""
    return os.environ.get("RANK", "0") == "0"

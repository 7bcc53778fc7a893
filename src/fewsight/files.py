"""Files that are whole or not there: atomic writes, locked run folders, hashes, sentences for a full disk."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from fewsight.errors import FewsightError, InvalidInput, RunExists

__all__ = [
    "RUN_FILES",
    "cache_folder",
    "new_file",
    "run_folder",
    "said_of_disk",
    "sha256",
    "write_json",
    "write_text",
]

LOCK = ".fewsight.lock"

# what a verb may have written into its output folder, and what `force` may therefore remove from it
RUN_FILES = (
    "run.yaml",
    "metrics.jsonl",
    "report.html",
    "model",
    "predictions.csv",
    "predictions.jsonl",
    "predictions.parquet",
    "label-studio.json",
    "label-studio.xml",
    "timelapse.csv",
    "photos.csv",
    "segments.json",
    "segments.part.jsonl",
    "answers.jsonl",
    "foreground",
    "predictions.part.jsonl",
    "areas.csv",
    "classes.csv",
    "index.csv",
    "geometry.json",
    "neighbours.json",
    "masks",
    "overlays",
    "features-*.safetensors",
    "checkpoints",
    "best.pt",
    "store",
    "shards",
    "judged",
    "unreadable*.csv",
    "stage2",
    "adapted",
    "verdict.json",
    "comparison.json",
    "comparison.md",
    "cells",
    "*nan_capture.pt",
    "tensorboard",
)

_SENTENCES = {
    errno.ENOSPC: "the disk is full: free some space, or write to another disk",
    errno.EDQUOT: "your disk quota is used up: free some space, or write to another disk",
    errno.EFBIG: "the file is larger than this disk allows: write to another disk",
    errno.EROFS: "the disk is read-only: write to another folder",
    errno.EACCES: "this account may not write there: choose another folder, or change its permissions",
    errno.EPERM: "this account may not write there: choose another folder, or change its permissions",
    errno.ENAMETOOLONG: "the name is too long for this disk: choose a shorter one",
    errno.ENOTDIR: "a part of the path is a file, not a folder: choose another path",
    errno.EEXIST: "a file of that name is in the way: choose another path",
    errno.EISDIR: "a folder of that name is in the way: choose another path",
    errno.ENOENT: "the folder is not there: it was moved or deleted; create it again",
}

# the block that writes may open other files; only these can come from writing itself
_WHILE_WRITING = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@contextlib.contextmanager
def said_of_disk(path: Path | str, only: frozenset[int] = frozenset(_SENTENCES)) -> Iterator[None]:
    """Turn what the disk refuses while writing to `path` into a `FewsightError` in plain words."""
    try:
        yield
    except OSError as error:
        if error.errno not in only:
            raise
        raise FewsightError(f"cannot write {path}: {_SENTENCES[error.errno]}.") from error


@contextlib.contextmanager
def new_file(path: Path | str, mode: str = "wb") -> Iterator[IO[Any]]:
    """A file that appears at `path`, whole, when the block ends without an error; else nothing changes there.

    It is written beside its place under a temporary name, flushed to the disk, then moved. Text is UTF-8 with
    line ends as given.

    Raises:
        FewsightError: the disk is full, read-only, or the folder may not be written.
    """
    path = Path(path)
    part = path.with_name(f".{path.name[:100]}.{secrets.token_hex(6)}.part")
    encoding, newline = (None, None) if "b" in mode else ("utf-8", "")
    try:
        with said_of_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            file: IO[Any] = part.open(mode.replace("w", "x"), encoding=encoding, newline=newline)
        with said_of_disk(path, only=_WHILE_WRITING), file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        with said_of_disk(path):
            part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise


def write_text(path: Path | str, text: str) -> None:
    """Write UTF-8 text atomically."""
    with new_file(path, "w") as file:
        file.write(text)


def write_json(path: Path | str, value: Any) -> None:
    """Write a value as indented JSON, atomically; NaN is refused, for no other reader takes it."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def sha256(path: Path | str) -> str:
    """SHA-256 of a file's content as 64 hexadecimal digits; reads it in pieces.

    Raises:
        InvalidInput: the file cannot be read.
    """
    try:
        with Path(path).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InvalidInput(
            f"cannot read {path}: {error.strerror}. Check the path and its permissions."
        ) from error


def cache_folder() -> Path:
    """Where fewsight keeps what it can make again: FEWSIGHT_CACHE, or the platform's cache folder."""
    named = os.environ.get("FEWSIGHT_CACHE")
    if named:
        return Path(named).expanduser()
    import platformdirs

    return Path(platformdirs.user_cache_dir("fewsight", appauthor=False))


@contextlib.contextmanager
def run_folder(path: Path | str, *, resume: bool = False, force: bool = False) -> Iterator[Path]:
    """An output folder that is this process's alone while the block runs.

    Args:
        path: created if need be.
        resume: the folder may hold an earlier run, which is kept.
        force: the folder may hold an earlier run, whose files (`RUN_FILES`) are removed; others stay.

    Raises:
        RunExists: it holds something and neither `resume` nor `force` was given, or another process writes to
            it.
        FewsightError: it cannot be written.
    """
    import filelock

    path = Path(path)
    with said_of_disk(path):
        path.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(path / LOCK, blocking=False)
        try:
            lock.acquire()
        except filelock.Timeout:
            raise RunExists(
                f"{path} is in use by another fewsight process: wait for it, or choose another folder for --out."
            ) from None
    try:
        _check_contents(path, resume=resume, force=force)
        yield path
    finally:
        lock.release()


def _check_contents(path: Path, *, resume: bool, force: bool) -> None:
    held = [entry.name for entry in path.iterdir() if entry.name != LOCK]
    if not held or resume:
        return
    if not force:
        raise RunExists(
            f"{path} already holds {len(held)} files, {sorted(held)[0]!r} among them: choose another folder for "
            "--out, or give --resume to go on with that run, or --force to replace it."
        )
    with said_of_disk(path):
        for pattern in RUN_FILES:
            for entry in path.glob(pattern):
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()

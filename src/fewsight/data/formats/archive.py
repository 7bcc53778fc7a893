"""A zip of any layout, unpacked so that nothing is written outside, and no bomb fills the disk."""

from __future__ import annotations

import atexit
import shutil
import stat
import tempfile
import zipfile
from pathlib import Path

from fewsight.errors import InvalidInput

__all__ = ["unpack_zip", "unpacked"]

MAX_BYTES = 64 << 30
MAX_FILES = 5_000_000
MAX_RATIO = 200  # of a file over a mebibyte; photos do not shrink, tables and masks by less
_BLOCK = 1 << 20


def unpack_zip(path: Path, folder: Path, *, max_bytes: int = MAX_BYTES, max_files: int = MAX_FILES) -> Path:
    """Write the files of a zip under `folder`; links, devices and system litter are left out.

    Raises:
        InvalidInput: no zip, a name that leads out of the folder, a password, more files or bytes than allowed (also
            where the zip lies about them), a file that grows more than 200 times, or too little room on the disk.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if _wanted(entry)]
            _check(path, entries, folder, max_bytes, max_files)
            left = max_bytes
            for entry in entries:
                left -= _write(path, archive, entry, folder, left)
    except InvalidInput:
        raise
    except (
        Exception
    ) as error:  # damage shows as an error of the zip, of each compressor, of text or of the disk
        raise InvalidInput(f"{path} cannot be unpacked: {error}.") from error
    return folder


def unpacked(path: Path) -> Path:
    """A temporary folder with the content of a zip, removed when the program ends."""
    folder = Path(tempfile.mkdtemp(prefix="fewsight-zip-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return unpack_zip(path, folder)


def _wanted(entry: zipfile.ZipInfo) -> bool:
    mode = entry.external_attr >> 16
    regular = not stat.S_IFMT(mode) or stat.S_ISREG(mode)
    return regular and not entry.is_dir() and not entry.filename.startswith("__MACOSX/")


def _check(path: Path, entries: list[zipfile.ZipInfo], folder: Path, max_bytes: int, max_files: int) -> None:
    if len(entries) > max_files:
        raise InvalidInput(f"{path} holds {len(entries):,} files; the limit is {max_files:,}.")
    total = sum(entry.file_size for entry in entries)
    if total > max_bytes:
        raise InvalidInput(f"{path} would take {total:,} bytes; the limit is {max_bytes:,}.")
    room = shutil.disk_usage(folder).free
    if total > room:
        raise InvalidInput(f"{path} needs {total:,} bytes; the disk of {folder} has {room:,} left.")
    for entry in entries:
        if entry.flag_bits & 1:
            raise InvalidInput(f"{path} is protected by a password ({entry.filename!r}); unpack it first.")
        if entry.file_size > _BLOCK and entry.file_size > MAX_RATIO * max(1, entry.compress_size):
            raise InvalidInput(
                f"{path}: {entry.filename!r} grows {MAX_RATIO} times and more; this is no photo."
            )
        _target(path, entry, folder)


def _target(path: Path, entry: zipfile.ZipInfo, folder: Path) -> Path:
    name = entry.filename.replace("\\", "/")
    parts = [part for part in name.split("/") if part not in ("", ".")]
    drive = len(name) > 1 and name[1] == ":"
    if name.startswith("/") or drive or ".." in parts or not parts or "\0" in name:
        raise InvalidInput(f"{path}: {entry.filename!r} leads out of the folder; nothing was unpacked.")
    return folder.joinpath(*parts)


def _write(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, folder: Path, left: int) -> int:
    """Unpack one file; the bytes written, which are bounded whatever the zip claims."""
    target = _target(path, entry, folder)
    target.parent.mkdir(parents=True, exist_ok=True)
    written = 0
    with archive.open(entry) as source, target.open("wb") as copy:
        while block := source.read(_BLOCK):
            written += len(block)
            if written > left:
                raise InvalidInput(f"{path} holds more bytes than it claims; stopped at {entry.filename!r}.")
            copy.write(block)
    return written

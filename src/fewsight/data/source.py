"""The bytes of one file, read so that no file can hang, fill the memory, or lead out of the folder.

A path is opened without waiting (a FIFO would block), looked at by its open handle (nothing can be swapped
between look and read), and read whole up to a bound. Errors that network file systems give now and then are
tried again a few times. Whatever is wrong becomes `UnreadableImage` with the status for the result's row.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import time
from collections.abc import Callable
from pathlib import Path

from fewsight.errors import UnreadableImage

__all__ = ["leaves_folder", "read_bytes", "read_head", "read_part"]

RETRY_DELAYS = (0.05, 0.25, 1.0)  # seconds; at most four attempts
TRANSIENT = {
    getattr(errno, name)
    for name in ("EIO", "ESTALE", "ETIMEDOUT", "EAGAIN", "EINTR", "EBUSY", "ECONNRESET", "EHOSTDOWN")
    if hasattr(errno, name)
}
_BLOCK = 1 << 24  # bytes of one read, which are allocated before it
_WITHOUT_WAITING = getattr(os, "O_NONBLOCK", 0)
REASONS = {
    errno.EISDIR: "not a regular file (a folder)",
    errno.ENOENT: "file not found",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
    errno.ELOOP: "link points in a circle",
    errno.ENAMETOOLONG: "name too long",
    errno.ENXIO: "not a regular file (a socket or device)",
    errno.ENOTDIR: "file not found",
}


def read_bytes(path: str | os.PathLike[str], *, max_bytes: int, root: str | Path | None = None) -> bytes:
    """All bytes of a regular file.

    Args:
        path: of the file; names that are not UTF-8 as Python gives them (surrogates).
        max_bytes: a larger file is refused before it is read.
        root: a link that leads out of this folder is refused; None allows every link.

    Raises:
        UnreadableImage: `unreadable` (vanished, no permission, broken link, not a regular file, empty, read error
            after retries) or `refused` (link leaves the folder, too large).
    """
    if root is not None and leaves_folder(path, root):
        raise UnreadableImage("link leaves the folder", status="refused")
    return _patiently(lambda: _read_regular(path, max_bytes), path)


def read_part(file: int, offset: int, size: int, *, max_bytes: int) -> bytes:
    """`size` bytes of an open file from `offset` on.

    Raises:
        UnreadableImage: `unreadable` (empty, the file ends before, read error after retries) or `refused` (too large).
    """
    if size > max_bytes:
        raise UnreadableImage(f"file too large: {size:,} bytes, the limit is {max_bytes:,}", status="refused")
    content = _patiently(lambda: os.pread(file, size, offset))
    if len(content) < size:
        raise UnreadableImage("truncated: the shard ends before the photo does")
    if not content:
        raise UnreadableImage("empty")
    return content


def _patiently(read: Callable[[], bytes], path: str | os.PathLike[str] = "") -> bytes:
    """What `read` gives; errors that pass are tried again."""
    for delay in (*RETRY_DELAYS, None):
        try:
            return read()
        except ValueError as error:  # a NUL byte in the name
            raise UnreadableImage("name is not a path") from error
        except OSError as error:
            if error.errno in TRANSIENT and delay is not None:
                time.sleep(delay)
                continue
            raise UnreadableImage(_reason(path, error)) from error
    raise AssertionError("the last attempt returns or raises")


def leaves_folder(path: str | os.PathLike[str], root: str | Path) -> bool:
    """Whether `path` is, or lies behind, a link that ends outside `root`."""
    try:
        real = os.path.realpath(path)
    except (OSError, ValueError):
        return False  # reading it says what is wrong
    folder = os.path.realpath(root)
    return real != folder and not real.startswith(folder.rstrip(os.sep) + os.sep)


def _read_regular(path: str | os.PathLike[str], max_bytes: int) -> bytes:
    with _open(path) as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise UnreadableImage(f"not a regular file ({_kind(found.st_mode)})")
        if found.st_size > max_bytes:
            raise UnreadableImage(
                f"file too large: {found.st_size:,} bytes, the limit is {max_bytes:,}", status="refused"
            )
        # the size may grow while we read: the bound holds all the same
        blocks, length, step = [], 0, min(found.st_size + 1, _BLOCK)
        while length <= max_bytes and (block := file.read(min(step, max_bytes + 1 - length))):
            blocks.append(block)
            length += len(block)
    if not blocks:
        raise UnreadableImage("empty")
    if length > max_bytes:
        raise UnreadableImage(f"file too large: more than {max_bytes:,} bytes", status="refused")
    return b"".join(blocks)  # one block is not copied


def _open(path: str | os.PathLike[str]) -> io.FileIO:
    """A file for reading, without waiting for the other end of a pipe."""
    return open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | _WITHOUT_WAITING))


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a folder",
        stat.S_IFIFO: "a pipe",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "special")


def _reason(path: str | os.PathLike[str], error: OSError) -> str:
    if error.errno == errno.ENOENT and Path(path).is_symlink():
        return "broken link"
    number = error.errno or 0
    return REASONS.get(number) or f"read error ({errno.errorcode.get(number, number)})"


def read_head(path: str | os.PathLike[str], count: int) -> bytes:
    """The first bytes of a regular file; none where it cannot be read or is something else."""
    try:
        with _open(path) as file:
            return file.read(count) if stat.S_ISREG(os.fstat(file.fileno()).st_mode) else b""
    except OSError:
        return b""

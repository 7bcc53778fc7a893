"""Where weights lie on this machine, and fetching those that do not.

Looked up in this order: `weights/NAME/` in the cache folder of fewsight (where files carried from another machine
go), then the cache of the Hugging Face hub. Nothing here is fetched unless a function is told to.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fewsight.errors import FewsightError, MissingWeights
from fewsight.files import cache_folder

__all__ = ["Remote", "describe_remote", "download", "local_file", "offline", "place_for", "without_network"]

WEIGHTS = "model.safetensors"

_kept_off: contextvars.ContextVar[bool] = contextvars.ContextVar("fewsight_without_network", default=False)


@dataclass(frozen=True)
class Remote:
    """A file of the hub: its repository, name, revision, and size in bytes where known."""

    repository: str
    file: str = WEIGHTS
    revision: str | None = None
    size: int | None = None


def offline() -> bool:
    """Whether the network must not be tried: FEWSIGHT_OFFLINE=1, HF_HUB_OFFLINE=1, or within `without_network`."""
    return _kept_off.get() or any(
        os.environ.get(name, "").strip().lower() in ("1", "on", "true", "yes")
        for name in ("FEWSIGHT_OFFLINE", "HF_HUB_OFFLINE")
    )


@contextlib.contextmanager
def without_network() -> Iterator[None]:
    """Within the block weights are looked for on this machine alone, as with FEWSIGHT_OFFLINE=1."""
    token = _kept_off.set(True)
    try:
        yield
    finally:
        _kept_off.reset(token)


def place_for(name: str) -> Path:
    """The folder in which files of a backbone that were carried here are looked for."""
    return cache_folder() / "weights" / name.replace("/", "--")


def local_file(name: str, remote: Remote) -> Path | None:
    """The file on this machine, or None."""
    carried = place_for(name) / remote.file
    if carried.is_file():
        return carried
    if not _hub_folder().is_dir():
        return None
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(
        remote.repository, remote.file, cache_dir=_hub_folder(), revision=remote.revision
    )
    return Path(found) if isinstance(found, str) else None


def _hub_folder() -> Path:
    """The hub's cache, by its own rules; read at every call, and without importing its library."""
    if named := os.environ.get("HF_HUB_CACHE"):
        return Path(named).expanduser()
    home = os.environ.get("HF_HOME") or str(
        Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    )
    return Path(home).expanduser() / "hub"


def _endpoint() -> str:
    return os.environ.get("HF_ENDPOINT") or "https://huggingface.co"


def describe_remote(remote: Remote) -> Remote:
    """Ask the hub for the size of a file.

    Raises:
        MissingWeights: the hub does not answer, or has no such file.
    """
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    with _said(remote):
        url = hf_hub_url(remote.repository, remote.file, revision=remote.revision, endpoint=_endpoint())
        size = get_hf_file_metadata(url, timeout=10, endpoint=_endpoint()).size
    return Remote(remote.repository, remote.file, remote.revision, size)


def download(remote: Remote) -> Path:
    """Fetch a file into the hub's cache and give its path.

    Raises:
        MissingWeights: the hub does not answer, or has no such file.
        FewsightError: the disk is full or may not be written.
    """
    from huggingface_hub import hf_hub_download

    with _said(remote):
        return Path(
            hf_hub_download(
                remote.repository,
                remote.file,
                revision=remote.revision,
                cache_dir=_hub_folder(),
                endpoint=_endpoint(),
                library_name="fewsight",
            )
        )


class _said:  # noqa: N801 - reads as a word where it is used
    """Turn what the hub's library raises into one of our errors."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if error is None or not isinstance(error, Exception) or isinstance(error, FewsightError):
            return
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        what = f"{self._remote.file} of {self._remote.repository} from {_endpoint()}"
        if isinstance(error, HfHubHTTPError):
            code = error.response.status_code
            reason = {
                401: "it is not public, or the name is wrong",
                403: "its authors ask for an agreement first",
            }
            raise MissingWeights(
                f"cannot get {what}: {reason.get(code, 'the hub has no such file')} (HTTP {code}). Check the name, or "
                "accept the terms on the hub and log in with `hf auth login`."
            ) from error
        if isinstance(error, (LocalEntryNotFoundError, ConnectionError, TimeoutError)) or _is_network(error):
            raise MissingWeights(f"cannot get {what}: the network does not answer.") from error
        if isinstance(error, OSError):
            raise FewsightError(
                f"cannot keep {what}: {error.strerror or error}. Free some space, or set HF_HOME to another disk."
            ) from error


def _is_network(error: Exception) -> bool:
    library = type(error).__module__.split(".")[0].rstrip("0123456789")
    return library in ("httpx", "httpcore", "requests", "urllib", "http")

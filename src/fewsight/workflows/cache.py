"""`fewsight cache`: what is kept on disk, and clearing it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from fewsight.backbones.feature_cache import LIMIT, CacheUsage, clear, usage

__all__ = ["CacheReport", "cache_usage", "clear_cache"]


@dataclass(frozen=True)
class CacheReport:
    """What the cache holds, or held before it was cleared."""

    usage: CacheUsage
    cleared: bool

    def summary(self) -> dict[str, Any]:
        """Plain values for `--json`."""
        return {
            "folder": str(self.usage.folder),
            "photos": self.usage.entries,
            "bytes": self.usage.disk_bytes,
            "cleared": self.cleared,
        }

    def sentences(self) -> Iterator[str]:
        """In words."""
        size = f"features of {self.usage.entries} photos, {self.usage.disk_bytes / 2**20:.1f} MiB"
        if self.cleared:
            yield f"Cleared: {size} in {self.usage.folder}."
            return
        yield f"{self.usage.folder} holds {size} (at most {LIMIT / 2**30:.0f} GiB; the oldest go first)."
        yield "Clear it: fewsight cache --clear"


def cache_usage() -> CacheReport:
    """How much is kept."""
    return CacheReport(usage(), cleared=False)


def clear_cache() -> CacheReport:
    """Delete all kept features."""
    return CacheReport(clear(), cleared=True)

"""Episodes of one kind, drawn as they are needed or listed in a file, and the list that others can score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy
from numpy.typing import NDArray

from fewsight.data.episode_lists import EpisodeList, EpisodePart
from fewsight.data.fixed_episodes import FixedEpisodes
from fewsight.protocols.listed_episodes import unrelated
from fewsight.workflows.encoded_data import EncodedData

__all__ = ["AnyPart", "FixedPart", "save_parts"]


@dataclass(frozen=True)
class FixedPart:
    """The first `count` episodes of a fixed way and shot."""

    drawn: FixedEpisodes
    count: int

    @property
    def way(self) -> int:
        """Classes of an episode."""
        return self.drawn.way

    @property
    def shot(self) -> int:
        """Supports a class."""
        return self.drawn.shot

    @property
    def name(self) -> str:
        """As the results call it."""
        return f"{self.way}-way {self.shot}-shot"

    def listed(self) -> EpisodePart:
        """All of them at once."""
        episodes = tuple(self.drawn[number] for number in range(self.count))
        return EpisodePart(self.name, self.way, self.shot, episodes)


AnyPart = FixedPart | EpisodePart


def save_parts(
    path: Path, parts: Sequence[AnyPart], encoded: EncodedData, groups: Sequence[NDArray[numpy.int64]]
) -> None:
    """Write the episodes as they are judged: without the queries that have a relative among the supports."""
    collection = encoded.collection
    files = tuple(collection.file(row) for row in range(len(collection)))
    listed = [part.listed() if isinstance(part, FixedPart) else part for part in parts]
    kept = tuple(
        part._replace(episodes=tuple(unrelated(one, groups)[0] for one in part.episodes)) for part in listed
    )
    EpisodeList(files, collection.classes, kept, encoded.fingerprint).save(path)

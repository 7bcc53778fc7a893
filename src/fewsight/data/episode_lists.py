"""Lists of episodes as a small file, so that others can score the same ones.

The file is a compressed NumPy archive without pickles. Any program that reads `.npz` can use it:

    files    names of the photos, relative to the data      classes  names of the classes
    parts    what the episodes are, such as `5-way 1-shot`   part     [E] the part of each episode
    ways     [E] classes of each episode                     fingerprint, format
    of_class, shots, queries   [sum of ways] the class of each way, how many supports and queries it has
    support, query             rows of `files`, way after way, episode after episode
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy
from numpy.typing import NDArray

from fewsight.data.fixed_episodes import Episode
from fewsight.errors import InvalidInput
from fewsight.files import new_file

__all__ = ["EpisodeList", "EpisodePart", "load_episodes"]

FORMAT = 1
_NAMES = ("files", "classes", "parts", "fingerprint")
_NUMBERS = (
    "format",
    "part",
    "ways",
    "of_class",
    "shots",
    "queries",
    "support",
    "query",
    "part_way",
    "part_shot",
)


class EpisodePart(NamedTuple):
    """Episodes of one kind: a name; their way and shot, 0 where these vary."""

    name: str
    way: int
    shot: int
    episodes: tuple[Episode, ...]


@dataclass(frozen=True)
class EpisodeList:
    """Episodes over named photos; the rows of `parts` are places in `files`, the classes places in `classes`.

    Attributes:
        fingerprint: of the data that they were drawn from.
    """

    files: tuple[str, ...]
    classes: tuple[str, ...]
    parts: tuple[EpisodePart, ...]
    fingerprint: str

    def save(self, path: str | Path) -> None:
        """Write the file; only photos that occur are named in it."""
        used, short = _renumbered(self)
        episodes = [episode for part in short for episode in part.episodes]
        counts = [_counts(episode) for episode in episodes]
        columns: dict[str, NDArray[numpy.generic]] = {
            "format": numpy.array(FORMAT),
            "fingerprint": numpy.array(self.fingerprint),
            "files": numpy.array([self.files[row] for row in used], dtype=numpy.str_),
            "classes": numpy.array(self.classes, dtype=numpy.str_),
            "parts": numpy.array([part.name for part in short], dtype=numpy.str_),
            "part_way": numpy.array([part.way for part in short], dtype=numpy.int32),
            "part_shot": numpy.array([part.shot for part in short], dtype=numpy.int32),
            "part": _small([n for n, part in enumerate(short) for _ in part.episodes]),
            "ways": _small([len(episode.classes) for episode in episodes]),
            "of_class": _small(_joined(episode.classes for episode in episodes)),
            "shots": _small(_joined(shots for shots, _ in counts)),
            "queries": _small(_joined(queries for _, queries in counts)),
            "support": _small(_joined(episode.support for episode in episodes)),
            "query": _small(_joined(episode.query for episode in episodes)),
        }
        with new_file(path) as file:
            numpy.savez_compressed(file, **columns)  # type: ignore[arg-type]

    def on(self, files: Sequence[str], classes: Sequence[str], fingerprint: str) -> EpisodeList:
        """The same episodes with rows and classes of the data at hand.

        Args:
            files, classes: names in the data at hand.
            fingerprint: of these data.

        Raises:
            InvalidInput: the data differ from those that the episodes were drawn from.
        """
        rows = {name: row for row, name in enumerate(files)}
        numbers = {name: number for number, name in enumerate(classes)}
        absent = [name for name in self.files if name not in rows]
        absent += [name for name in self.classes if name not in numbers]
        if absent:
            raise InvalidInput(
                f"the episodes were drawn from other data ({self.fingerprint}, here {fingerprint}): {len(absent)} of "
                f"their photos and classes are not here, the first is {absent[0]}. Give the data that they came from."
            )
        if fingerprint != self.fingerprint:
            raise InvalidInput(
                f"the episodes were drawn from other data ({self.fingerprint}, here {fingerprint}): names are the "
                "same, but photos were added, changed or labelled anew. Give the data that they came from."
            )
        place = numpy.array([rows[name] for name in self.files], dtype=numpy.int64)
        number = numpy.array([numbers[name] for name in self.classes], dtype=numpy.int64)
        parts = tuple(
            part._replace(
                episodes=tuple(
                    replace(
                        one, classes=number[one.classes], support=place[one.support], query=place[one.query]
                    )
                    for one in part.episodes
                )
            )
            for part in self.parts
        )
        return EpisodeList(tuple(files), tuple(classes), parts, fingerprint)


def load_episodes(path: str | Path) -> EpisodeList:
    """Read what `EpisodeList.save` wrote; nothing in the file is executed.

    Raises:
        InvalidInput: the file is not there, is none of these, or is damaged.
    """
    path = Path(path)
    if path.is_file() and not zipfile.is_zipfile(path):
        raise InvalidInput(f"{path} is no list of episodes of fewsight (or is damaged): it is no .npz file.")
    try:
        with path.open("rb") as file, numpy.load(file, allow_pickle=False) as held:
            columns = {name: held[name] for name in (*_NAMES, *_NUMBERS)}
    except OSError as error:
        raise InvalidInput(f"{path} cannot be read: {error.strerror or error}.") from error
    except (KeyError, ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise InvalidInput(f"{path} is no list of episodes of fewsight, or is damaged ({error}).") from error
    if int(columns["format"]) != FORMAT:
        raise InvalidInput(f"{path} has format {columns['format']}; this fewsight reads {FORMAT}.")
    try:
        return _unpacked(columns)
    except (IndexError, ValueError) as error:
        raise InvalidInput(f"{path} is damaged: its columns do not fit each other ({error}).") from error


def _unpacked(columns: dict[str, NDArray[numpy.generic]]) -> EpisodeList:
    files, classes = (tuple(columns[name].tolist()) for name in ("files", "classes"))
    numbers = {name: columns[name].astype(numpy.int64).reshape(-1) for name in _NUMBERS}
    for name, count in (("support", len(files)), ("query", len(files)), ("of_class", len(classes))):
        if numbers[name].size and not 0 <= numbers[name].min() <= numbers[name].max() < count:
            raise ValueError(f"{name} leads outside")
    if numbers["shots"].sum() != len(numbers["support"]) or numbers["queries"].sum() != len(numbers["query"]):
        raise ValueError("counts differ")
    ends = numpy.cumsum(numbers["ways"])[:-1]
    by_episode = {name: numpy.split(numbers[name], ends) for name in ("of_class", "shots", "queries")}
    supports = _pieces(numbers["support"], [int(part.sum()) for part in by_episode["shots"]])
    queries = _pieces(numbers["query"], [int(part.sum()) for part in by_episode["queries"]])
    episodes: list[list[Episode]] = [[] for _ in columns["parts"]]
    for number, part in enumerate(numbers["part"].tolist()):
        ways = numpy.arange(len(by_episode["of_class"][number]))
        episodes[part].append(
            Episode(
                by_episode["of_class"][number],
                supports[number],
                numpy.repeat(ways, by_episode["shots"][number]),
                queries[number],
                numpy.repeat(ways, by_episode["queries"][number]),
            )
        )
    parts = tuple(
        EpisodePart(str(name), way, shot, tuple(those))
        for name, way, shot, those in zip(
            columns["parts"].tolist(),
            numbers["part_way"].tolist(),
            numbers["part_shot"].tolist(),
            episodes,
            strict=True,
        )
    )
    return EpisodeList(files, classes, parts, str(columns["fingerprint"]))


def _renumbered(episodes: EpisodeList) -> tuple[list[int], list[EpisodePart]]:
    """Rows that occur, ascending, and the parts with places among them."""
    all_rows = [row for part in episodes.parts for one in part.episodes for row in (one.support, one.query)]
    used = numpy.unique(_joined(all_rows))
    parts = [
        part._replace(
            episodes=tuple(
                replace(
                    one,
                    support=numpy.searchsorted(used, one.support),
                    query=numpy.searchsorted(used, one.query),
                )
                for one in part.episodes
            )
        )
        for part in episodes.parts
    ]
    return used.tolist(), parts


def _counts(episode: Episode) -> tuple[NDArray[numpy.int64], NDArray[numpy.int64]]:
    """Supports and queries of each way; both stand way after way in an `Episode`."""
    ways = len(episode.classes)
    return numpy.bincount(episode.support_way, minlength=ways), numpy.bincount(
        episode.query_way, minlength=ways
    )


def _joined(arrays: Iterable[NDArray[numpy.int64]]) -> NDArray[numpy.int64]:
    return numpy.concatenate([numpy.zeros(0, dtype=numpy.int64), *arrays])


def _pieces(array: NDArray[numpy.int64], sizes: Sequence[int]) -> list[NDArray[numpy.int64]]:
    return numpy.split(array, numpy.cumsum(sizes)[:-1])


def _small(values: Sequence[int] | NDArray[numpy.int64]) -> NDArray[numpy.generic]:
    """The narrowest unsigned integers that hold the values."""
    array = numpy.asarray(values, dtype=numpy.int64)
    return array.astype(numpy.min_scalar_type(int(array.max(initial=0))))

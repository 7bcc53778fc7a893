"""Lists of episodes: they come back as they were, fit their data alone, and damaged files are refused."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest

from fewsight.data.episode_lists import EpisodeList, EpisodePart, load_episodes
from fewsight.data.fixed_episodes import Episode, FixedEpisodes
from fewsight.data.variable_episodes import VariableEpisodes
from fewsight.errors import InvalidInput

SIZES = (12, 30, 9, 25, 14, 40)
BY_CLASS = [numpy.arange(sum(SIZES[:k]), sum(SIZES[: k + 1])) for k in range(len(SIZES))]
FILES = tuple(f"é/{row}.jpg" for row in range(sum(SIZES)))
CLASSES = tuple("abcdef")


def assert_same(one: Episode, other: Episode) -> bool:
    return all(
        numpy.array_equal(getattr(one, name), getattr(other, name))
        for name in ("classes", "support", "support_way", "query", "query_way")
    )


def listed() -> EpisodeList:
    fixed, variable = FixedEpisodes(BY_CLASS, 4, 3, 20, seed=1), VariableEpisodes(BY_CLASS, seed=2)
    return EpisodeList(
        FILES,
        CLASSES,
        (
            EpisodePart("4-way 3-shot", 4, 3, tuple(fixed[i] for i in range(20))),
            EpisodePart("Meta-Dataset", 0, 0, tuple(variable[i] for i in range(10))),
        ),
        "0123",
    )


def test_saved_and_read_back(tmp_path: Path) -> None:
    episodes = listed()
    episodes.save(tmp_path / "list.npz")
    back = load_episodes(tmp_path / "list.npz").on(FILES, CLASSES, "0123")
    for before, after in zip(episodes.parts, back.parts, strict=True):
        assert after[:3] == before[:3]
        assert all(assert_same(*pair) for pair in zip(before.episodes, after.episodes, strict=True))
    assert (tmp_path / "list.npz").stat().st_size < 20_000
    with numpy.load(tmp_path / "list.npz", allow_pickle=False) as held:  # what others see
        assert held["files"][held["support"][0]] == FILES[episodes.parts[0].episodes[0].support[0]]


def test_rows_follow_the_names(tmp_path: Path) -> None:
    episodes = listed()
    episodes.save(tmp_path / "list.npz")
    order = numpy.random.default_rng(0).permutation(len(FILES))
    back = load_episodes(tmp_path / "list.npz").on([FILES[row] for row in order], CLASSES[::-1], "0123")
    before, after = episodes.parts[0].episodes[7], back.parts[0].episodes[7]
    assert (order[after.support] == before.support).all()
    assert (5 - after.classes == before.classes).all()


def test_other_data_are_refused(tmp_path: Path) -> None:
    listed().save(tmp_path / "list.npz")
    back = load_episodes(tmp_path / "list.npz")
    with pytest.raises(InvalidInput, match=r"other data \(0123, here 4567\).*the first is é/0.jpg"):
        back.on(FILES[5:], CLASSES, "4567")
    with pytest.raises(InvalidInput, match="names are the same, but photos were added"):
        back.on(FILES, CLASSES, "4567")


def test_damaged_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "list.npz"
    with pytest.raises(InvalidInput, match="cannot be read"):
        load_episodes(path)
    path.write_text("renamed")
    with pytest.raises(InvalidInput, match=r"it is no \.npz file"):
        load_episodes(path)
    listed().save(path)
    content = path.read_bytes()
    path.write_bytes(content[:-200])
    with pytest.raises(InvalidInput, match="no list of episodes"):
        load_episodes(path)
    with numpy.load(_written(path, content)) as held:
        columns = dict(held)
    for name, wrong, words in (
        ("support", columns["support"].astype(int) + 60_000, "leads outside"),
        ("query", columns["query"][:-1], "counts differ"),
        ("part", columns["part"] + 7, "do not fit"),
        ("format", numpy.array(9), "format 9"),
    ):
        numpy.savez_compressed(path, **columns | {name: wrong})
        with pytest.raises(InvalidInput, match=words):
            load_episodes(path)
    numpy.savez_compressed(path, **{"format": numpy.array(1)})
    with pytest.raises(InvalidInput, match="no list of episodes"):
        load_episodes(path)


def _written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path

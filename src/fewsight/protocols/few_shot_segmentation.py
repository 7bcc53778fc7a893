"""FS-CS: what is in a query and where, given a few photos of N classes (Kang and Cho, CVPR 2022; CST, CVPR 2023).

An episode has N classes with K supports each and one query, which may hold none, some or all of them. Two answers are
judged: presence (exact ratio: the share of episodes whose N presences are all right) and the map (mIoU over absolute
classes, areas summed over episodes; FB-IoU: the mean of pooled foreground and background). Special cases: FS-S, whose
class is always there and which has no presence; FS-C, where exactly one of the N is there and the likeliest counts.

Intervals are 95 % bootstraps over episodes (areas of resampled episodes are summed again); comparisons are paired on
the same episodes. Differs from the publications, which give one figure without an interval.

Letters: E episodes, N ways, K shots, C classes, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewsight.errors import InvalidInput
from fewsight.evaluation.intervals import Comparison, Interval, proportion_interval, worded_comparison
from fewsight.evaluation.segmentation import EpisodeAreas, episode_areas, metrics_of_areas
from fewsight.seeding import numpy_generator
from fewsight.shapes import check_shapes

__all__ = [
    "Answer",
    "DenseEpisode",
    "EpisodeVerdicts",
    "FewShotFigures",
    "compare_verdicts",
    "decided",
    "dense_episode",
    "few_shot_figures",
    "judge_episodes",
]

Task = Literal["fs-cs", "fs-s", "fs-c"]
Integers = NDArray[numpy.int64]
RESAMPLES = 1000
TRIES = 100  # queries that are drawn for an episode whose other classes must be absent


class DenseEpisode(NamedTuple):
    """Rows of the query and of each way's supports; `ways` are class ids."""

    query: int
    ways: tuple[int, ...]
    supports: tuple[tuple[int, ...], ...]


class Answer(NamedTuple):
    """Of one query: which ways are called present, bool [N]; the map [H, W], 0 = background, n = n-th way; scores of
    presence [N]."""

    present: Tensor
    labels: Tensor
    scores: Tensor


def decided(presence: Tensor, foreground: Tensor, *, consistent: bool = False) -> Answer:
    """The published rule: present above 0.5; the way of the largest foreground of at least 0.5, else background.

    Args:
        presence: [N].
        foreground: [N, H, W].
        consistent: clear the pixels of absent classes (ours; the published answers do not gate one another).
    """
    check_shapes(presence=(presence, "N"), foreground=(foreground, "N H W"))
    present = presence > 0.5
    if consistent:
        foreground = torch.where(present[:, None, None], foreground, 0)
    largest, way = foreground.max(0)
    return Answer(present, torch.where(largest >= 0.5, way + 1, 0), presence)


def dense_episode(
    by_class: Mapping[int, Integers],
    way: int,
    shot: int,
    *,
    seed: int,
    index: int,
    task: Task = "fs-cs",
    shown: Callable[[int], frozenset[int]] | None = None,
) -> DenseEpisode:
    """Episode `index`: a function of (seed, way, shot, task, index).

    The query's class is uniform over the classes, the query over its photos. Ways of FS-CS are drawn as published: the
    query's class with weight one half, the others share the rest.

    Args:
        by_class: class id -> rows of its photos.
        shown: row -> class ids that the photo shows; needed for `fs-c`, whose other ways are not in the query.

    Raises:
        InvalidInput: too few classes have enough photos.
    """
    classes = [number for number, rows in by_class.items() if len(rows) > shot]
    if not 1 <= way <= len(classes):
        raise InvalidInput(
            f"{len(classes)} classes have more than {shot} photos; {way}-way episodes need {way}. Give more photos, or "
            "fewer ways or shots."
        )
    draw = numpy_generator(seed, f"{task} episode {way} {shot}", index)
    for _ in range(TRIES):
        own = classes[int(draw.integers(len(classes)))]
        query = int(draw.choice(by_class[own]))
        others = [number for number in classes if number != own]
        if task == "fs-c":
            if shown is None:
                raise InvalidInput("fs-c needs to know what each photo shows.")
            # A query that shows nearly all classes leaves too few absent ones: another query is drawn.
            others = [number for number in others if number not in shown(query)]
        if task == "fs-cs" or len(others) >= way - 1:
            break
    else:
        raise InvalidInput(
            f"the photos show so many classes that {way - 1} absent ones are not left; fewer ways."
        )
    ways = _ways(draw, own, others, way, task, classes)
    supports = []
    for number in ways:
        rows = by_class[number]
        chosen = draw.choice(rows[rows != query], shot, replace=False)
        supports.append(tuple(int(row) for row in chosen))
    return DenseEpisode(query, tuple(ways), tuple(supports))


def _ways(
    draw: numpy.random.Generator, own: int, others: list[int], way: int, task: Task, classes: list[int]
) -> list[int]:
    """Class ids of the ways in the order of the draw."""
    if task == "fs-cs":
        weights = numpy.array([0.5 if number == own else 0.5 / max(1, len(others)) for number in classes])
        return [int(k) for k in draw.choice(classes, way, replace=False, p=weights / weights.sum())]
    chosen = draw.choice(others, way - 1, replace=False).tolist() if way > 1 else []
    ways: list[int] = [own, *chosen]
    return [ways[place] for place in draw.permutation(way)]


@dataclass(frozen=True)
class EpisodeVerdicts:
    """How one method answered E episodes.

    Attributes:
        right: all N presences right, bool [E].
        found: the likeliest way is one that is there, bool [E] (FS-C).
        areas: pixels of each way, background first.
        ways: absolute class of each way, [E, N].
    """

    right: Tensor
    found: Tensor
    areas: EpisodeAreas
    ways: Tensor


def judge_episodes(
    answers: Sequence[Answer],
    truths: Sequence[Tensor],
    ways: Iterable[Sequence[int]],
    *,
    void: Literal["published", "strict"] = "strict",
) -> EpisodeVerdicts:
    """Compare answers with the truth.

    Args:
        answers: of E episodes.
        truths: true maps [H, W] of any sizes: 0 background, n = n-th way, 255 void. A way is there where a pixel is.
        ways: class ids of each episode's ways.
        void: `strict` leaves void pixels out; `published` counts them as background, as CST and iFSL do.
    """
    numbers = torch.tensor([list(each) for each in ways])
    N = numbers.shape[1]
    there = torch.stack([torch.stack([(truth == n + 1).any() for n in range(N)]) for truth in truths])
    said = torch.stack([answer.present for answer in answers])
    likeliest = torch.stack([answer.scores for answer in answers]).argmax(1)
    areas = episode_areas([answer.labels for answer in answers], truths, numbers, void=void)
    found = there.gather(1, likeliest[:, None])[:, 0]
    return EpisodeVerdicts((said == there).all(1), found, areas, numbers)


class FewShotFigures(NamedTuple):
    """With intervals over episodes; `iou` [C] is that of each class over all episodes."""

    exact_ratio: Interval
    miou: Interval
    fb_iou: Interval
    accuracy: Interval
    iou: Tensor


def few_shot_figures(verdicts: EpisodeVerdicts, classes: Sequence[int], *, seed: int = 0) -> FewShotFigures:
    """Figures of a fold; classes without an episode have IoU 0 and count in the mean, as published."""
    E = len(verdicts.right)
    samples = _resampled(verdicts, classes, seed)
    whole = metrics_of_areas(verdicts.areas, verdicts.ways, classes=classes)
    return FewShotFigures(
        proportion_interval(int(verdicts.right.sum()), E),
        _interval(whole.miou, samples[0], E),
        _interval(whole.fb_iou, samples[1], E),
        proportion_interval(int(verdicts.found.sum()), E),
        whole.iou,
    )


def compare_verdicts(
    first: EpisodeVerdicts,
    second: EpisodeVerdicts,
    classes: Sequence[int],
    names: tuple[str, str],
    *,
    seed: int = 0,
) -> dict[str, Comparison]:
    """Paired differences, first minus second, on the same episodes: `exact ratio` and `mIoU`.

    Raises:
        InvalidInput: the episodes are not the same.
    """
    if first.ways.shape != second.ways.shape or not bool((first.ways == second.ways).all()):
        raise InvalidInput(
            "the two methods answered different episodes; a paired comparison is not possible."
        )
    E = len(first.right)
    draws = _draws(E, seed)
    told = {}
    values = [few_shot_figures(each, classes, seed=seed) for each in (first, second)]
    areas = [_resampled(each, classes, seed)[0] for each in (first, second)]
    rights = [draws @ each.right.double() / E for each in (first, second)]
    for what, samples, pair in (
        ("exact ratio", rights, [each.exact_ratio for each in values]),
        ("mIoU", areas, [each.miou for each in values]),
    ):
        difference = _interval(pair[0].mean - pair[1].mean, samples[0] - samples[1], E)
        told[what] = worded_comparison(difference, pair[0], pair[1], names=names, unit="episodes")
    return told


def _draws(episodes: int, seed: int) -> Tensor:
    """How often each episode is in each resample, float64 [R, E]."""
    generator = numpy_generator(seed, "episode resamples")
    times = generator.multinomial(episodes, [1 / episodes] * episodes, size=RESAMPLES)
    return torch.from_numpy(times).double()


def _resampled(verdicts: EpisodeVerdicts, classes: Sequence[int], seed: int) -> tuple[Tensor, Tensor]:
    """mIoU and FB-IoU of each resample, float64 [R] both."""
    E = len(verdicts.ways)
    place = {number: row for row, number in enumerate(classes)}
    columns = torch.tensor([[place[int(number)] for number in row] for row in verdicts.ways])
    summed = []
    draws = _draws(E, seed)
    for part in verdicts.areas:
        table = torch.zeros(E, len(classes), dtype=torch.float64)
        table.scatter_add_(1, columns, part[:, 1:].double().cpu())
        summed.append((draws @ table, draws @ part[:, 0].double().cpu()))
    (inside, inside_back), (union, union_back) = summed
    miou = (inside / union.clamp(min=1)).mean(1)
    foreground = inside.sum(1) / union.sum(1).clamp(min=1)
    return miou, (foreground + inside_back / union_back.clamp(min=1)) / 2


def _interval(value: float, samples: Tensor, n: int) -> Interval:
    if n < 2:
        return Interval(value, float("nan"), float("nan"), n)
    low, high = samples.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return Interval(value, low, high, n)

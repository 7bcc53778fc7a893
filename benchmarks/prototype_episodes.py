"""Prototype episodes on stored features: `protocols.episodes.evaluate_episodes` against easyfsl's `evaluate`.

    PYTHONPATH=PEERS python benchmarks/prototype_episodes.py

500 episodes, 5-way 5-shot 15 queries, width 384, one thread; the same head for both: minus the squared distance here,
minus the distance there, which rank alike. Sampling is part of both. Limit: reading 100 rows of 1.5 kB an episode,
6.5 ms in all, and 0.8 ms of products. `variable`: 200 Meta-Dataset episodes, easyfsl's head in a loop on episodes
that are drawn already.
"""

from __future__ import annotations

import numpy
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from fewsight.backbones.features import Features
from fewsight.data.episodes import sample_episode
from fewsight.data.fixed_episodes import FixedEpisodes
from fewsight.heads.prototype_episodes import ragged_answers
from fewsight.heads.prototypes import Prototypes
from fewsight.protocols.episodes import evaluate_episodes
from measure import compare, table

CLASSES, PHOTOS, WIDTH, EPISODES, VARIABLE = 20, 600, 384, 500, 200


def easyfsl_evaluate(features: Tensor, labels: list[int]) -> None:
    """easyfsl 1.5 as its documentation shows it."""
    from easyfsl.datasets import FeaturesDataset
    from easyfsl.methods import PrototypicalNetworks
    from easyfsl.samplers import TaskSampler
    from easyfsl.utils import evaluate

    # torch's Sampler takes no data source any more, which easyfsl 1.5 still gives
    torch.utils.data.Sampler.__init__ = lambda self, data_source=None: None  # type: ignore[method-assign]
    data = FeaturesDataset(labels, features, [str(number) for number in range(CLASSES)])
    sampler = TaskSampler(data, 5, 5, 15, EPISODES)
    loader = DataLoader(data, batch_sampler=sampler, collate_fn=sampler.episodic_collate_fn)
    evaluate(PrototypicalNetworks(nn.Identity()), loader, device="cpu", use_tqdm=False)


def fixed(features: Tensor, labels: Tensor) -> None:
    """Print the table of fixed episodes."""
    by_class = [numpy.flatnonzero(labels.numpy() == number) for number in range(CLASSES)]
    head = Prototypes(metric="euclidean", normalize=False, centring=0)
    held = Features(cls=features)

    def ours() -> None:
        evaluate_episodes(head, held, by_class, FixedEpisodes(by_class, 5, 5, 15), EPISODES)

    costs = compare({"easyfsl evaluate": lambda: easyfsl_evaluate(features, labels.tolist()), "ours": ours})
    print(f"{EPISODES} episodes, 5-way 5-shot\n" + table(costs, "easyfsl evaluate", limit_ms=6.5))


def variable(features: Tensor) -> None:
    """Print the table of variable episodes."""
    from easyfsl.methods import PrototypicalNetworks

    generator = numpy.random.RandomState(0)
    tasks = []
    for _ in range(VARIABLE):
        drawn = sample_episode([PHOTOS] * CLASSES, generator)
        rows = [generator.permutation(PHOTOS)[: s + q] + PHOTOS * k for k, s, q in zip(*drawn, strict=True)]
        support = [torch.as_tensor(r[:s]) for r, s in zip(rows, drawn.num_support, strict=True)]
        query = [torch.as_tensor(r[s:]) for r, s in zip(rows, drawn.num_support, strict=True)]
        tasks.append((support, query))
    model = PrototypicalNetworks(nn.Identity())
    all_support = torch.cat([part for support, _ in tasks for part in support])
    counts = torch.tensor([len(part) for support, _ in tasks for part in support])
    starts = counts.cumsum(0) - counts
    ways = torch.tensor([len(support) for support, _ in tasks])
    queries = torch.tensor([sum(map(len, query)) for _, query in tasks])
    all_query = torch.cat([part for _, query in tasks for part in query])

    def theirs() -> None:
        for support, query in tasks:
            labels = torch.arange(len(support)).repeat_interleave(
                torch.tensor([len(part) for part in support])
            )
            model.process_support_set(features[torch.cat(support)], labels)
            model(features[torch.cat(query)]).argmax(1)

    def ours() -> None:
        ragged_answers(features, all_support, starts, ways, all_query, queries, metric="euclidean")

    costs = compare({"easyfsl head": theirs, "ours": ours})
    print(f"\n{VARIABLE} variable episodes\n" + table(costs, "easyfsl head"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    rows = torch.randn(CLASSES * PHOTOS, WIDTH, generator=torch.Generator().manual_seed(0))
    fixed(rows, torch.arange(CLASSES).repeat_interleave(PHOTOS))
    with torch.no_grad():
        variable(rows)

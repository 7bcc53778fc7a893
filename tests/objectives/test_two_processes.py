"""Every pretraining objective on two processes equals one: losses, gradients, and all state after the step.

One pair of processes does all cases. Ranks hold 3 and 5 of 8 photos, so that sums and counts must be kept apart.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from fewsight.distributed import average_gradients
from fewsight.objectives.collapse import AVOIDANCES
from fewsight.objectives.dino import DinoSettings
from fewsight.objectives.gmml import CorruptionSettings, GmmlSettings
from fewsight.objectives.ibot import IbotSettings
from fewsight.objectives.masked_clustering import MaskedClusteringSettings
from fewsight.objectives.msn import MsnSettings
from fewsight.objectives.objective import Progress
from fewsight.objectives.swav import SwavSettings
from objectives.tiny import CLUSTER, SETTINGS, batch, made

SHARES = (3, 5)
SMALL: dict[str, Any] = {"prototypes": 12, "hidden": 16, "projection": 8, "local_views": 0}


def cases() -> dict[str, tuple[str, Any]]:
    made: dict[str, tuple[str, Any]] = {name: (name, settings) for name, (_, settings) in SETTINGS.items()}
    for method in AVOIDANCES:
        made[f"dino {method}"] = ("dino", DinoSettings(**CLUSTER, collapse=method))
        made[f"swav {method}"] = ("swav", SwavSettings(**SMALL, collapse=method))
        msn = {**SMALL, "focal_views": 0, "entropy_weight": 0.5}
        msn.pop("local_views")
        made[f"msn {method}"] = ("msn", MsnSettings(**msn, collapse=method))
        made[f"ibot {method}"] = (
            "ibot",
            IbotSettings(**CLUSTER, patch_prototypes=10, collapse=method, patch_collapse=method),
        )
    made["gmml aliens"] = (
        "gmml",
        GmmlSettings(corruption=CorruptionSettings(replace_probability=0.6), drop_path=0.0),
    )
    made["mc_ssl"] = (
        "masked_clustering",
        MaskedClusteringSettings(
            **CLUSTER,
            patch_prototypes=10,
            patch_targets="all",
            error="l2",
            collapse="centring",
            corruption=CorruptionSettings(align=1),
        ),
    )
    return made


def run(name: str, settings: Any, rank: int | None) -> dict[str, torch.Tensor]:
    """Two steps: the second one reads the centre, queue and teacher that the first one left."""
    objective = made(name, settings).double().train()
    parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]
    first, count = (0, sum(SHARES)) if rank is None else (sum(SHARES[:rank]), SHARES[rank])
    found: dict[str, torch.Tensor] = {}
    for step in range(2):
        objective.before_step(Progress(step, 4))
        objective.zero_grad(set_to_none=True)
        views = batch(objective, count, step=step, first=first)
        views = type(views)(
            **{**vars(views), "images": tuple(view.double() for view in views.images)},
        )
        terms = objective.backward(views)
        average_gradients(parameters)
        found |= {f"{step} loss {key}": value for key, value in terms.values.items()}
        found |= {
            f"{step} grad {key}": p.grad for key, p in objective.named_parameters() if p.grad is not None
        }
        with torch.no_grad():
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad
        objective.after_step(Progress(step + 1, 4))
    found |= {f"state {key}": value for key, value in objective.state_dict().items()}
    return {key: value.clone() for key, value in found.items()}


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        results = {case: run(name, settings, rank) for case, (name, settings) in cases().items()}
    finally:
        dist.destroy_process_group()
    torch.save(results, f"{folder}/{rank}.pt")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, torch.Tensor]]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(work, (str(folder),), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.slow
@pytest.mark.parametrize("case", cases())
def test_two_processes_equal_one(case: str, pairs: list[dict[str, dict[str, torch.Tensor]]]) -> None:
    whole = run(*cases()[case], None)
    for key, expected in whole.items():
        values = [pair[case][key] for pair in pairs]
        if key.endswith((".queue", "queue")) or "queued" in key:
            continue  # each rank keeps its own part of it
        got = sum(values) / 2 if " loss " in key else values[0]
        # float64; sums over ranks in another order than over rows
        torch.testing.assert_close(
            got, expected, rtol=1e-9, atol=1e-11, msg=lambda text, key=key: f"{key}: {text}"
        )

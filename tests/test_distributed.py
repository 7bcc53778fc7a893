"""Two processes give the losses and gradients of one: every objective, every means against collapse.

Each rank holds a part of the batch, of unequal size where that is allowed; losses are averaged over ranks, and so
are gradients of what all ranks share, as the training loop does it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing
from torch import Tensor

from fewsight import distributed
from fewsight.objectives.assignments import assign, assign_patches, koleo, me_max, sinkhorn, update_center
from fewsight.objectives.dino import dino_loss
from fewsight.objectives.gmml import masked_pixel_loss
from fewsight.objectives.ibot import ibot_loss
from fewsight.objectives.mae import mae_loss
from fewsight.objectives.masked_clustering import masked_clustering_loss
from fewsight.objectives.moco_v3 import moco_v3_loss
from fewsight.objectives.msn import msn_loss
from fewsight.objectives.simclr import nt_xent
from fewsight.objectives.simmim import simmim_loss
from fewsight.objectives.swav import swav_loss

B, K, P, N = 8, 6, 5, 4
RANKS = 2
SHARES = (3, 5)  # images of each rank: unequal, so that sums and counts must be kept apart


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass(frozen=True)
class Case:
    """A loss of named tensors: `axes` tells the batch axis of those that are split, `trained` who learns."""

    loss: Callable[..., Tensor]
    tensors: dict[str, Tensor]
    axes: dict[str, int]
    trained: tuple[str, ...] = ()

    def part(self, rank: int | None) -> dict[str, Tensor]:
        start = 0 if rank in (None, 0) else SHARES[0]
        length = B if rank is None else SHARES[rank]
        parts = {
            name: tensor.narrow(self.axes[name], start, length) if name in self.axes else tensor
            for name, tensor in self.tensors.items()
        }
        return {
            name: part.clone().requires_grad_(name in self.trained)
            if part.is_floating_point()
            else part.clone()
            for name, part in parts.items()
        }

    def run(self, rank: int | None) -> dict[str, Tensor]:
        """Loss, and gradients by what is trained."""
        parts = self.part(rank)
        loss = self.loss(**parts)
        if self.trained:
            loss.sum().backward()
        return {"loss": loss.detach()} | {name: parts[name].grad for name in self.trained}


def views(loss: Callable[..., Tensor], trained: str = "student", **shapes: tuple[int, ...]) -> Case:
    tensors = {name: random(*shape, seed=seed) for seed, (name, shape) in enumerate(shapes.items())}
    return Case(loss, tensors, dict.fromkeys(shapes, 1), (trained,))


def rows(loss: Callable[..., Tensor], trained: tuple[str, ...], width: int, *names: str) -> Case:
    tensors = {name: random(B, width, seed=seed) for seed, name in enumerate(names)}
    return Case(loss, tensors, dict.fromkeys(names, 0), trained)


def msn(
    anchors: Tensor, targets: Tensor, prototypes: Tensor, balance: bool, weights: tuple[float, float]
) -> Tensor:
    losses = msn_loss(anchors.flatten(0, 1), targets, prototypes, 0.1, 0.25, balance, 3, *weights)
    return losses.cross_entropy + weights[0] * losses.me_max + weights[1] * losses.entropy


def dino(student: Tensor, teacher: Tensor, method: str, center: Tensor | None = None) -> Tensor:
    return dino_loss(student, teacher, center, 0.1, 0.05, method=method)


def dino_me_max(student: Tensor, teacher: Tensor, method: str) -> Tensor:
    spread = me_max(torch.softmax(student / 0.1, dim=-1).flatten(0, 1))
    return dino(student, teacher, method) + 3 * spread


def ibot(
    student: Tensor, teacher: Tensor, patches: Tensor, targets: Tensor, mask: Tensor, method: str
) -> Tensor:
    centers = (torch.zeros(K).double(), torch.zeros(P).double()) if method == "centring" else (None, None)
    losses = ibot_loss(
        student,
        teacher,
        patches,
        targets,
        mask,
        *centers,
        0.1,
        0.05,
        0.07,
        method=method,
        patch_method=method,
    )
    return losses.cls_loss + losses.patch_loss


def joined(
    student: Tensor, teacher: Tensor, patches: Tensor, targets: Tensor, mask: Tensor, which: str
) -> Tensor:
    images, pixels = targets[..., None, :, :3], patches[..., None, :, :3]
    losses = masked_clustering_loss(
        student,
        teacher,
        patches,
        targets,
        pixels,
        images,
        mask[..., None].expand(-1, -1, -1, 3),
        None,
        None,
        0.1,
        0.07,
        patch_targets=which,
        patch_mask=mask,
        reconstruction_error="l1",
        method="sinkhorn",
        patch_method="none",
    )
    return losses.cls_loss + losses.patch_loss + losses.reconstruction_loss


def with_patches(loss: Callable[..., Tensor]) -> Case:
    case = views(loss, student=(3, B, K), teacher=(2, B, K), patches=(2, B, N, P), targets=(2, B, N, P))
    mask = random(2, B, N, seed=9) > 0.3
    mask[:, 0] = False
    return Case(case.loss, case.tensors | {"mask": mask}, case.axes | {"mask": 1}, ("student", "patches"))


def cases() -> dict[str, Case]:
    pair = {"student": (4, B, K), "teacher": (2, B, K)}
    images = {"images": random(B, 3, 4, 4, seed=0), "made": random(B, 3, 4, 4, seed=1)}
    pixels = random(B, 4, 4, seed=2) > 0.5
    patches = random(B, N, seed=3) > 0
    prototypes = {"prototypes": random(K, 4, seed=7)}
    made = {
        "nt_xent": rows(partial(nt_xent, temperature=0.2), ("z1", "z2"), 7, "z1", "z2"),
        "moco_v3": rows(partial(moco_v3_loss, temperature=0.2), ("q1", "q2"), 7, "q1", "q2", "k1", "k2"),
        "koleo": rows(koleo, ("features",), 3, "features"),
        "me_max": rows(lambda x: me_max(torch.softmax(x, dim=1)), ("x",), K, "x"),
        "sinkhorn_extreme": rows(lambda x: balanced_squares(100 * x), (), K, "x"),
        "update_center": rows(lambda x: update_center(torch.ones(7).double(), x, 0.9), (), 7, "x"),
        "dino_centring": views(partial(dino, method="centring", center=random(K, seed=5)), **pair),
        "dino_none": views(partial(dino, method="none"), **pair),
        "dino_sinkhorn": views(partial(dino, method="sinkhorn"), **pair),
        "dino_me_max": views(partial(dino_me_max, method="none"), **pair),
        "dino_sinkhorn_me_max": views(partial(dino_me_max, method="sinkhorn"), **pair),
        "swav": views(lambda student: swav_loss(student, 0.1, 0.05, 3, 2), student=(4, B, K)),
        "swav_queue": views(
            lambda student, queue: swav_loss(student, 0.1, 0.05, 3, 2, queue_scores=queue),
            student=(4, B, K),
            queue=(2, B, K),
        ),
        "masked_pixel_loss": Case(
            masked_pixel_loss_of,
            images | {"mask": pixels},
            dict.fromkeys(("images", "made", "mask"), 0),
            ("made",),
        ),
        "simmim": Case(
            lambda images, made, mask: simmim_loss(images, made, mask, 2),
            images | {"mask": pixels[:, ::2, ::2]},
            dict.fromkeys(("images", "made", "mask"), 0),
            ("made",),
        ),
        "mae": Case(
            lambda images, pred, mask: mae_loss(images, pred, mask, 2, True),
            {"images": images["images"], "pred": random(B, N, 12, seed=4), "mask": patches},
            dict.fromkeys(("images", "pred", "mask"), 0),
            ("pred",),
        ),
    }
    for method in ("none", "centring", "sinkhorn"):
        made[f"ibot_{method}"] = with_patches(partial(ibot, method=method))
    for which in ("all", "masked"):
        made[f"masked_clustering_{which}"] = with_patches(partial(joined, which=which))
    for balance, weights in ((False, (1.0, 1.0)), (True, (1.0, 0.0)), (True, (0.0, 0.0))):
        made[f"msn_{balance}_{weights[0]}"] = Case(
            partial(msn, balance=balance, weights=weights),
            {"anchors": random(3, B, 4, seed=5), "targets": random(B, 4, seed=6)} | prototypes,
            {"anchors": 1, "targets": 0},
            ("anchors", "prototypes"),
        )
    return made


def balanced_squares(scores: Tensor) -> Tensor:
    return sinkhorn(scores, 0.05, 3).square().sum() / distributed.global_rows(len(scores), scores.device)


def masked_pixel_loss_of(images: Tensor, made: Tensor, mask: Tensor) -> Tensor:
    return masked_pixel_loss(made, images, mask, "l2")


def work(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=RANKS)
    try:
        results = {name: case.run(rank) for name, case in cases().items()}
        results["ground"] = ground(rank)
    finally:
        dist.destroy_process_group()
    torch.save(results, f"{folder}/{rank}.pt")


def ground(rank: int) -> dict[str, Tensor]:
    """The collectives by themselves."""
    x = torch.full((2,), float(rank + 1), requires_grad=True)
    (distributed.all_reduce_sum(x) * (rank + 1)).sum().backward()
    y = torch.full((rank, 3), 5.0, requires_grad=True)
    gathered = distributed.gather(y)
    (gathered * (rank + 1)).sum().backward()
    weight = torch.nn.Parameter(torch.zeros(2))
    once, unused = torch.nn.Parameter(torch.zeros(1)), torch.nn.Parameter(torch.zeros(1))
    weight.grad = torch.full((2,), float(rank))
    once.grad = torch.ones(1) if rank else None
    distributed.average_gradients([weight, once, unused])
    assert unused.grad is None, "a gradient of zeros would let AdamW decay it"
    bf16 = distributed.gather(torch.ones(1, dtype=torch.bfloat16))
    return {
        "rank": torch.tensor(
            [distributed.rank(), distributed.world_size(), int(distributed.is_distributed())]
        ),
        "sum_gradient": x.grad,
        "gathered": gathered.detach(),
        "gather_gradient": y.grad,
        "largest": distributed.all_reduce_max(torch.tensor([float(rank), -float(rank)])),
        "count": distributed.global_count(torch.tensor(float(rank))),
        "before": torch.tensor(distributed.rows_before(y)),
        "half": bf16,
        "averaged": torch.cat([weight.grad, once.grad]),
    }


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    folder: Path = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(work, args=(str(folder),), nprocs=RANKS, join=True)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(RANKS)]


@pytest.mark.parametrize("name", sorted(cases()))
def test_two_processes_equal_one(results, name):
    case = cases()[name]
    expected = case.run(None)
    parts = [result[name] for result in results]
    # float64: what is left is the order of sums.
    loss = torch.stack([part["loss"] for part in parts]).mean(dim=0)
    torch.testing.assert_close(loss, expected["loss"], rtol=1e-9, atol=1e-12)
    for trained in case.trained:
        if trained in case.axes:
            gradient = torch.cat([part[trained] for part in parts], dim=case.axes[trained]) / RANKS
        else:
            gradient = torch.stack([part[trained] for part in parts]).mean(dim=0)
        torch.testing.assert_close(gradient, expected[trained], rtol=1e-8, atol=1e-12)


def test_a_local_form_would_be_seen():
    """The comparison can fail: ranks that do not talk give another loss for all that couples images."""
    for name in ("nt_xent", "dino_sinkhorn", "me_max", "koleo", "masked_pixel_loss", "msn_True_1.0"):
        case = cases()[name]
        alone = torch.stack([case.run(rank)["loss"] for rank in range(RANKS)]).mean()
        assert not torch.isclose(alone, case.run(None)["loss"], rtol=1e-6), name


def test_collectives(results):
    for rank, result in enumerate(results):
        ground = result["ground"]
        assert ground["rank"].tolist() == [rank, 2, 1]
        assert ground["sum_gradient"].tolist() == [3.0, 3.0]
        assert ground["gathered"].shape == (1, 3)
        assert ground["gather_gradient"].tolist() == [[3.0] * 3] * rank
        assert ground["largest"].tolist() == [1.0, 0.0]
        assert ground["count"].item() == 0.5
        assert ground["before"].item() == 0
        assert ground["half"].dtype == torch.bfloat16
        assert ground["averaged"].tolist() == [0.5, 0.5, 0.5]


def test_one_process_needs_no_group():
    x = torch.ones(3, requires_grad=True)
    assert distributed.all_reduce_sum(x) is x
    assert distributed.gather(x) is x
    assert distributed.all_reduce_max(x).equal(x)
    assert (distributed.rank(), distributed.world_size(), distributed.is_distributed()) == (0, 1, False)
    assert distributed.global_rows(5, x.device) == 5
    assert distributed.rows_before(x) == 0
    assert assign(torch.ones(2, 3), "sinkhorn", 0.1).sum().item() == pytest.approx(2)
    assert assign_patches(torch.ones(2, 2, 3), "sinkhorn", 0.1).sum().item() == pytest.approx(4)

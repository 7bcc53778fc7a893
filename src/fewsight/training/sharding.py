"""FSDP2: a backbone's parameters, gradients and moments lie in parts on the processes of a mesh.

Yanli Zhao et al., "PyTorch FSDP: Experiences on Scaling Fully Sharded Data Parallel", VLDB 2023; torch's
`fully_shard`. Each block is one unit, what is outside the blocks another. Heads stay whole on every process: they are
small, and gradient caching calls them by itself. A checkpoint holds whole tensors, so that a run may go on with
another number of processes, or without sharding.

Was run on processors alone, on one process and on two.
"""

from __future__ import annotations

import atexit
import warnings
from collections.abc import Mapping
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn

from fewsight import distributed
from fewsight.errors import InvalidInput
from fewsight.objectives.objective import Objective
from fewsight.training.blocks import compute_blocks

__all__ = ["full_state", "is_sharded", "like", "load_full", "local", "shard", "whole"]


def is_sharded(tensor: Any) -> bool:
    """Whether a tensor lies in parts on several processes."""
    return hasattr(tensor, "full_tensor")


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on every process; a collective call where it is sharded."""
    return tensor.full_tensor() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def local(tensor: Tensor) -> Tensor:
    """The part of a tensor that this process holds; all of one that is not sharded."""
    return tensor.to_local() if is_sharded(tensor) else tensor  # type: ignore[attr-defined]


def like(value: Tensor, reference: Tensor) -> Tensor:
    """A whole tensor, cut as `reference` is."""
    if not is_sharded(reference) or is_sharded(value) or value.shape != reference.shape:
        return value
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(value, reference.device_mesh, reference.placements)  # type: ignore[attr-defined]


def full_state(tree: Any) -> Any:
    """A copy of nested dicts and lists in which every sharded tensor is whole; collective, in their order."""
    if isinstance(tree, Mapping):
        return {key: full_state(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(full_state(value) for value in tree)
    return whole(tree) if isinstance(tree, Tensor) else tree


def load_full(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """`module.load_state_dict` of whole tensors into a module that may be sharded."""
    held = module.state_dict()
    module.load_state_dict(
        {name: like(value, held[name]) if name in held else value for name, value in state.items()}
    )


def shard(objective: Objective) -> None:
    """Shard the trained backbone of an objective in place; call it before the optimiser is made.

    Raises:
        InvalidInput: the objective keeps a teacher, whose average reads whole parameters.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    backbone = objective.trained_backbone()
    if objective.backbone() is not backbone:
        raise InvalidInput(
            f"sharding: fsdp does not go with {type(objective).__name__}, which keeps a teacher: leave it out."
        )
    _join_alone()
    device = next(backbone.parameters()).device.type
    mesh = init_device_mesh(device, (distributed.world_size(),))
    blocks = compute_blocks(backbone)
    for block in blocks:
        # keys and attention of the last block are read from its matrices after its own forward
        fully_shard(block, mesh=mesh, reshard_after_forward=block is not blocks[-1])
    fully_shard(backbone, mesh=mesh)
    register_fsdp_forward_method(backbone, "features")
    # tokens are views of the last norm's output; nothing of ours changes features in place
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view tensor")


def _join_alone() -> None:
    """A group of one, where no other was started: FSDP2 needs one."""
    if not dist.is_initialized():
        from torch._C._distributed_c10d import HashStore

        dist.init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
        atexit.register(dist.destroy_process_group)

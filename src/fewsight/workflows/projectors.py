"""The projector of a contrastive training, kept beside the backbone: as training left it, and as it began.

What is contrasted lies behind it; it is dropped for use. Kept, it lets `fewsight geometry` look at both spaces.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from fewsight.errors import IncompatibleModel
from fewsight.model import SavedModel

__all__ = ["Projectors", "read_projectors", "with_projectors"]

TRAINED, START = "projector.", "projector_start."


@dataclass(frozen=True)
class Projectors:
    """One projector twice, each a linear layer, ReLU, a linear layer, or any `Sequential` of that form.

    Attributes:
        trained: state of the kept step.
        start: state before the first step.
    """

    trained: Mapping[str, Tensor]
    start: Mapping[str, Tensor]


def with_projectors(saved: SavedModel, projectors: Projectors | None) -> SavedModel:
    """The same model, with the projectors beside it; faces and backbones do not read them."""
    if projectors is None:
        return saved
    tensors = {TRAINED + name: value for name, value in projectors.trained.items()}
    tensors |= {START + name: value for name, value in projectors.start.items()}
    return SavedModel(saved.kind, saved.description, {**saved.tensors, **tensors})


def read_projectors(saved: SavedModel) -> tuple[nn.Module, nn.Module] | None:
    """The trained projector and that before training, as modules; None where the model has none.

    Raises:
        IncompatibleModel: the tensors are not those of a projector.
    """
    found = [_projector(saved.tensors, prefix) for prefix in (TRAINED, START)]
    return None if found[0] is None or found[1] is None else (found[0], found[1])


def _projector(tensors: Mapping[str, Tensor], prefix: str) -> nn.Module | None:
    held: dict[str, Any] = {
        name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)
    }
    if not held:
        return None
    try:
        (hidden, width), out = held["0.weight"].shape, held["2.weight"].shape[0]
        made = nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, out))
        made.load_state_dict(held)
    except (KeyError, ValueError, RuntimeError) as error:
        raise IncompatibleModel(f"the projector of this model cannot be read: {error}.") from error
    return made.eval().requires_grad_(False)

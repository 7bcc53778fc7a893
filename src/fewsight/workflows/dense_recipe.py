"""Everything that decides a run of `metatrain --head cst`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from fewsight.errors import InvalidInput
from fewsight.names import choices
from fewsight.training.settings import TrainingSettings
from fewsight.workflows.recipes import recipe_values

__all__ = ["SMALL", "DenseRecipe", "Supervision", "is_dense"]

Supervision = Literal["image", "pixel", "mixed"]
SMALL = "cst_small"  # the recipe where none is given


def is_dense(head: str | None, recipe: str | Path | None, overrides: Sequence[str]) -> bool:
    """Whether `metatrain` is asked for a dense head: by name, or by its recipe."""
    if head is not None:
        return head in choices("dense heads")
    held = recipe_values(recipe, overrides, verb="metatrain").get("head")
    return isinstance(held, str) and held in choices("dense heads")


@dataclass(frozen=True)
class DenseRecipe:
    """Everything that decides a run.

    Attributes:
        backbone: a name that `load_backbone` takes; it stays frozen.
        head, head_settings: `cst`, and arguments of `CorrelationHead`.
        supervision: what photos are taught by; see the module.
        mask_share: `mixed`: the share of the masks that may be used, drawn by seed; 1 = all that exist.
        image_size: side in pixels that photos are squashed to.
        target_size: side of the masks that the loss sees; None = image_size, as published.
        fold, folds: classes of this fold are kept back for a test (`data.class_folds`); None: no class is.
        class_split: a packaged list of classes or a JSON file, in place of folds.
        class_level: `leaf` takes the deepest folder as the class.
        held_out: share of the base classes for choosing the weights.
        pairs: of a batch.
        draw: `photos` as published, or `classes`.
        guessed_supports: share of supports whose mask is held back in training.
        class_weight, foreground_weight: of `cst_loss`.
        enhancer_steps: of the enhancer (`mixed`).
        validation_pairs, validation_every: pairs of held-out classes, judged every so many steps.
        features_gib: disk budget of the stored features.
        training: optimiser and schedules.
    """

    backbone: str = "auto"
    head: str = "cst"
    head_settings: dict[str, Any] = field(default_factory=dict)
    supervision: Supervision = "image"
    mask_share: float = 1.0
    image_size: int = 256
    target_size: int | None = None
    fold: int | None = None
    folds: int | None = None
    class_split: str | None = None
    class_level: Literal["top", "leaf"] = "top"
    held_out: float = 0.2
    pairs: int = 12
    draw: Literal["photos", "classes"] = "photos"
    guessed_supports: float = 0.0
    class_weight: float = 0.1
    foreground_weight: float = 1.0
    enhancer_steps: int = 400
    validation_pairs: int = 240
    validation_every: int = 250
    features_gib: float = 10.0
    training: TrainingSettings = field(default_factory=lambda: TrainingSettings(steps=2000))

    def __post_init__(self) -> None:
        for name, low in (("mask_share", 0.0), ("guessed_supports", 0.0), ("held_out", 0.0)):
            if not low <= getattr(self, name) <= 1:
                raise InvalidInput(f"{name} is {getattr(self, name)}; expected a share in [0, 1].")
        if self.head != "cst":
            raise InvalidInput(f"head is {self.head!r}; the dense head that trains is 'cst'.")
        if self.pairs < 1 or self.enhancer_steps < 1 or self.validation_pairs < self.pairs:
            raise InvalidInput(
                f"pairs, enhancer_steps and validation_pairs are {self.pairs}, {self.enhancer_steps} and "
                f"{self.validation_pairs}; expected at least 1, 1 and pairs."
            )
        if self.features_gib <= 0:
            raise InvalidInput(f"features_gib is {self.features_gib}; expected a positive number.")

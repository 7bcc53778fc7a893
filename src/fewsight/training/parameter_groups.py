"""Parameters in groups of one learning-rate factor and one decay rule."""

from __future__ import annotations

from typing import Any

from torch import nn

from fewsight.objectives.objective import Objective
from fewsight.training.settings import TrainingSettings

__all__ = ["parameter_groups"]


def parameter_groups(objective: Objective, settings: TrainingSettings) -> list[dict[str, Any]]:
    """Groups for a torch optimiser, each with `params`, `factor` (on the rate) and `decays` (0 or 1).

    Only parameters that `backbones.tuning.select_tuning`, or anyone else, left marked as training are taken. Vectors,
    scalars and what the objective names `undecayed` do not decay. Backbone parameters have `backbone_rate`, and
    `layer_decay` by depth. With `backbone_rate` 0 they are left out and keep no gradient.
    """
    trained = objective.trained_backbone()
    backbone = {id(parameter): name for name, parameter in trained.named_parameters()}
    scales = _backbone_factors(trained, settings)
    undecayed = {id(parameter) for parameter in objective.undecayed()}
    groups: dict[tuple[float, int], list[nn.Parameter]] = {}
    for parameter in objective.parameters():
        if not parameter.requires_grad:
            continue
        factor = scales[backbone[id(parameter)]] if id(parameter) in backbone else 1.0
        if factor == 0:
            parameter.requires_grad_(False)
            continue
        decays = int(parameter.ndim > 1 and id(parameter) not in undecayed)
        groups.setdefault((factor, decays), []).append(parameter)
    return [
        {"params": parameters, "factor": factor, "decays": decays, "lr": 0.0, "weight_decay": 0.0}
        for (factor, decays), parameters in groups.items()
    ]


def _backbone_factors(backbone: nn.Module, settings: TrainingSettings) -> dict[str, float]:
    names = [name for name, _ in backbone.named_parameters()]
    depth = int(getattr(backbone, "depth", 0))
    if settings.layer_decay == 1.0 or not depth:
        return dict.fromkeys(names, settings.backbone_rate)
    from fewsight.training.layer_decay import layer_scales

    scales = layer_scales([_timm_name(name) for name in names], depth=depth, decay=settings.layer_decay)
    return {name: settings.backbone_rate * float(scale) for name, scale in zip(names, scales, strict=True)}


def _timm_name(name: str) -> str:
    """A parameter of a backbone as timm's vision transformers call it: by that name its depth is known.

    timm's own networks stand one level down in ours; in the bundled one a trunk and a projection cut the patches.
    """
    name = name.removeprefix("model.")
    return f"patch_embed.{name}" if name.startswith(("trunk.", "embed.")) else name

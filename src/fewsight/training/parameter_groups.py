"""Parameters in groups of one learning-rate factor and one decay rule."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from fewsight.errors import InvalidInput
from fewsight.objectives.objective import Objective
from fewsight.training.layer_decay import layer_scales
from fewsight.training.settings import TrainingSettings

__all__ = ["parameter_groups"]


def parameter_groups(objective: Objective, settings: TrainingSettings) -> list[dict[str, Any]]:
    """Groups for a torch optimiser: `params`, `factor` (on the rate), `decays` (0 or 1), `backbone` (whether of it).

    Only parameters that `backbones.tuning.select_tuning`, or anyone else, left marked as training are taken. Vectors,
    scalars and what the objective names `undecayed` do not decay (with `decay_vectors` all but the latter do).
    Backbone parameters have `backbone_rate`, and `layer_decay` by depth; `rate_factors` come on top. With a factor of
    0 they are left out and keep no gradient.

    Raises:
        InvalidInput: a pattern of `rate_factors` fits no parameter.
    """
    trained = objective.trained_backbone()
    backbone = {id(parameter): name for name, parameter in trained.named_parameters()}
    scales = _backbone_factors(trained, settings)
    undecayed = {id(parameter) for parameter in objective.undecayed()}
    _check_patterns(settings, [name for name, _ in objective.named_parameters()])
    groups: dict[tuple[float, int, bool], list[nn.Parameter]] = {}
    for name, parameter in objective.named_parameters():
        if not parameter.requires_grad:
            continue
        of_backbone = id(parameter) in backbone
        factor = scales[backbone[id(parameter)]] if of_backbone else 1.0
        factor *= _further(name, settings)
        if factor == 0:
            parameter.requires_grad_(False)
            continue
        decays = (parameter.ndim > 1 or settings.decay_vectors) and id(parameter) not in undecayed
        groups.setdefault((factor, int(decays), of_backbone), []).append(parameter)
    return [
        {
            "params": parameters,
            "factor": factor,
            "decays": decays,
            "backbone": of_backbone,
            "lr": 0.0,
            "weight_decay": 0.0,
        }
        for (factor, decays, of_backbone), parameters in groups.items()
    ]


def _backbone_factors(backbone: nn.Module, settings: TrainingSettings) -> dict[str, float]:
    names = [name for name, _ in backbone.named_parameters()]
    depth = int(getattr(backbone, "depth", 0))
    if settings.layer_decay == 1.0 or not depth:
        return dict.fromkeys(names, settings.backbone_rate)
    scales = layer_scales([_timm_name(name) for name in names], depth=depth, decay=settings.layer_decay)
    return {name: settings.backbone_rate * scale for name, scale in zip(names, scales, strict=True)}


def _timm_name(name: str) -> str:
    """A parameter of a backbone as timm's vision transformers call it: by that name its depth is known.

    timm's own networks stand one level down in ours; in the bundled one a trunk and a projection cut the patches.
    """
    name = name.removeprefix("model.")
    return f"patch_embed.{name}" if name.startswith(("trunk.", "embed.")) else name


def _further(name: str, settings: TrainingSettings) -> float:
    product = 1.0
    for pattern, factor in settings.rate_factors.items():
        if fnmatchcase(name, pattern):
            product *= factor
    return product


def _check_patterns(settings: TrainingSettings, names: Iterable[str]) -> None:
    known = list(names)
    for pattern in settings.rate_factors:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise InvalidInput(
                f"rate_factors: {pattern!r} fits none of the {len(known)} parameters; they are named like {known[0]!r}."
            )

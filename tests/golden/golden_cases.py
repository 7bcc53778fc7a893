"""Golden cases as pytest parameters: inputs and outputs of the original code, read from the shared folder."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from conftest import load_module, shared_folder


@dataclass(frozen=True)
class GoldenCase:
    """A case with tensors at hand. `check` compares every output and fails if one is not given."""

    raw: Any

    def __str__(self) -> str:
        return str(self.raw.name)

    @property
    def name(self) -> str:
        return str(self.raw.name)

    @property
    def params(self) -> dict[str, Any]:
        return dict(self.raw.params)

    @property
    def inputs(self) -> dict[str, numpy.ndarray]:
        return dict(self.raw.inputs)

    @property
    def outputs(self) -> dict[str, numpy.ndarray]:
        return dict(self.raw.outputs)

    def has(self, name: str) -> bool:
        return name in self.raw.inputs

    def tensor(self, name: str, *, grad: bool = False) -> torch.Tensor:
        """An input as a tensor of its own dtype; a leaf that collects gradients where `grad`."""
        tensor = torch.from_numpy(numpy.array(self.raw.inputs[name]))
        return tensor.requires_grad_(True) if grad else tensor

    def state_dict(self, prefix: str = "sd:") -> dict[str, torch.Tensor]:
        """The inputs whose names begin with `prefix`, without it."""
        return {name[len(prefix) :]: self.tensor(name) for name in self.raw.inputs if name.startswith(prefix)}

    def check(self, **results: Any) -> None:
        self.raw.check(**results)


def cases(subject: str) -> list[Any]:
    """The cases of one subject as parameters; one skipped parameter (a failure where CI=true) if missing."""
    folder = shared_folder() / "golden"
    if not (folder / f"{subject}.npz").exists():
        message = f"golden subject {subject!r} is missing: set FEWSIGHT_SHARED"
        if os.environ.get("CI") == "true":
            raise FileNotFoundError(message)
        return [pytest.param(None, marks=pytest.mark.skip(reason=message))]
    golden = load_module(folder / "golden.py", "shared_golden")
    return [GoldenCase(case) for case in golden.load(subject, folder)]

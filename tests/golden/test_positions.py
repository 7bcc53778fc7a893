"""Position tables against the authors' code: sine-cosine and three rules of resampling."""

from __future__ import annotations

import pytest
from golden_cases import cases

from fewsight.backbones.positions import interpolate_position_embedding, sincos_position_embedding


@pytest.mark.parametrize("case", [*cases("dino_pos_embed"), *cases("pos_embed_interpolation")], ids=str)
def test_interpolation(case):
    output = next(iter(case.outputs))
    case.check(**{output: interpolate_position_embedding(case.tensor("pos_embed"), **case.params)})


@pytest.mark.parametrize("case", cases("sincos_pos_embed"), ids=str)
def test_sincos(case):
    output = next(iter(case.outputs))
    case.check(**{output: sincos_position_embedding(**case.params)})

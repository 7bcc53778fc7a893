"""Photometric operations against Pillow, torchvision and SimCLR's blur."""

from __future__ import annotations

import pytest
from golden_cases import cases

from fewsight.data.augment import photometric


@pytest.mark.parametrize("case", cases("gaussian_blur_solarize"), ids=str)
def test_photometric(case):
    images = case.tensor("images")
    before = images.clone()
    result = photometric(images, **case.params)
    assert result.dtype == images.dtype
    assert images.equal(before)
    # In int, lest differences of uint8 wrap around.
    case.check(result=result.int() if not result.is_floating_point() else result)

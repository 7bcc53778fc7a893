"""SimMIM's and GMML's pixel losses: plain forms, masks of all kinds, errors."""

from __future__ import annotations

import pytest
import torch

from fewsight.errors import InvalidInput
from fewsight.objectives.gmml import masked_pixel_loss
from fewsight.objectives.simmim import simmim_loss


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("norm", ["l1", "l2"])
@pytest.mark.parametrize("shape", [(3, 4, 6), (2, 3, 4, 6), (2, 5, 1, 4, 6)])
def test_masked_pixel_loss_pools_selected_values(norm, shape):
    reconstruction, image = random(*shape), random(*shape, seed=1)
    mask = random(*shape[:-3], *shape[-2:], seed=2) > 0.5
    values = (reconstruction - image).movedim(-3, -1)[mask]
    expected = values.abs().mean() if norm == "l1" else values.square().mean()
    torch.testing.assert_close(masked_pixel_loss(reconstruction, image, mask, norm), expected)
    torch.testing.assert_close(
        masked_pixel_loss(reconstruction, image, mask.long().unsqueeze(-3), norm), expected
    )


@pytest.mark.parametrize("norm", ["l1", "l2"])
def test_pixels_that_do_not_count_may_be_anything(norm):
    reconstruction, mask = torch.ones(1, 3, 2, 2), torch.tensor([[[1, 0], [0, 0]]])
    reconstruction[..., 1, 1] = torch.nan
    reconstruction.requires_grad_(True)
    loss = masked_pixel_loss(reconstruction, torch.zeros(1, 3, 2, 2), mask, norm)
    loss.backward()
    assert loss.item() == 1
    assert reconstruction.grad.isfinite().all()


def test_empty_masks_give_zero():
    images = torch.ones(2, 3, 4, 4)
    reconstruction = torch.zeros_like(images).requires_grad_(True)
    for loss in (
        masked_pixel_loss(reconstruction, images, torch.zeros(2, 4, 4)),
        simmim_loss(images, reconstruction, torch.zeros(2, 2, 2), 2),
    ):
        loss.backward()
        assert loss.item() == 0


def test_an_identity_network_has_no_loss():
    images = random(2, 3, 4, 4)
    assert masked_pixel_loss(images, images, torch.ones(2, 4, 4)).item() == 0
    assert simmim_loss(images, images, torch.ones(2, 2, 2), 2).item() == 0


def test_simmim_equals_the_plain_form():
    images, reconstruction, mask = random(2, 3, 6, 4), random(2, 3, 6, 4, seed=1), random(2, 3, 2, seed=2) > 0
    pixels = mask.repeat_interleave(2, 1).repeat_interleave(2, 2)[:, None]
    expected = ((images - reconstruction).abs() * pixels).sum() / (pixels.sum() + 1e-5) / 3
    torch.testing.assert_close(simmim_loss(images, reconstruction, mask, 2), expected)


def test_half_precision_sums_in_float32():
    images = torch.zeros(4, 3, 64, 64, dtype=torch.float16)
    mask = torch.ones(4, 64, 64)
    loss = masked_pixel_loss(images + 200, images, mask, "l2")
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(200**2)
    assert simmim_loss(images, images + 200, torch.ones(4, 8, 8), 8).item() == pytest.approx(200)


def test_refuses():
    images = torch.zeros(2, 3, 4, 4)
    with pytest.raises(InvalidInput, match="norm"):
        masked_pixel_loss(images, images, torch.ones(2, 4, 4), "huber")
    with pytest.raises(InvalidInput, match="mask"):
        masked_pixel_loss(images, images, torch.ones(2, 3, 4, 4))
    with pytest.raises(InvalidInput, match="reconstruction"):
        masked_pixel_loss(images[:1], images, torch.ones(2, 4, 4))
    with pytest.raises(InvalidInput, match="mask"):
        simmim_loss(images, images, torch.ones(2, 2, 2), 4)
    with pytest.raises(InvalidInput, match="reconstruction"):
        simmim_loss(images, images[:, :1], torch.ones(2, 2, 2), 2)

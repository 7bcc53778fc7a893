"""MAE: the plain loss, extremes, and the network's contract."""

from __future__ import annotations

import pytest
import torch

from fewsight.errors import InvalidInput
from fewsight.objectives.mae import AutoencoderSizes, MaskedAutoencoder, mae_loss
from fewsight.objectives.masking import patchify

TINY = AutoencoderSizes((2, 3), 4, 3, 16, 2, 2, 32, 8, 1, 2, 16)


def random(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize("norm_pix_loss", [False, True])
def test_loss_pools_masked_patches_of_the_batch(norm_pix_loss):
    images, pred = random(2, 3, 4, 6), random(2, 6, 12, seed=1)
    mask = torch.tensor([[1, 0, 0, 0, 0, 0], [1, 1, 1, 0, 1, 0]])
    target = patchify(images, 2)
    if norm_pix_loss:
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6).sqrt()
    expected = (pred - target).square()[mask.bool()].mean()
    torch.testing.assert_close(mae_loss(images, pred, mask, 2, norm_pix_loss), expected)


def test_half_precision_targets_keep_small_deviations():
    # A deviation of 1e-3 squares below what float16 resolves; the variance must be taken in float32.
    images = (0.5 + 1e-3 * random(1, 3, 8, 8, dtype=torch.float32)).half()
    loss = mae_loss(images, torch.zeros(1, 4, 48).half(), torch.ones(1, 4), 4, True)
    assert loss.dtype == torch.float32
    expected = mae_loss(images.double(), torch.zeros(1, 4, 48).double(), torch.ones(1, 4), 4, True)
    # float32 squares of 1e-3 beside a mean of 0.5.
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=0)


def test_constant_patches_and_empty_masks_are_finite():
    pred = torch.zeros(1, 4, 12, requires_grad=True)
    loss = mae_loss(torch.ones(1, 3, 4, 4), pred, torch.ones(1, 4), 2, True)
    assert loss.item() == 0
    mae_loss(torch.ones(1, 3, 4, 4), pred, torch.zeros(1, 4), 2, True).backward()
    assert pred.grad.equal(torch.zeros_like(pred))


def test_loss_refuses():
    images, pred = torch.zeros(1, 3, 4, 4), torch.zeros(1, 4, 12)
    with pytest.raises(InvalidInput, match="mask"):
        mae_loss(images, pred, torch.ones(1, 5), 2, False)
    with pytest.raises(InvalidInput, match="pred"):
        mae_loss(images, pred[..., :11], torch.ones(1, 4), 2, False)
    with pytest.raises(InvalidInput, match="images"):
        mae_loss(images, pred, torch.ones(1, 4), 3, False)


def test_network_sees_kept_patches_only():
    network = MaskedAutoencoder(TINY).eval()
    images, noise = random(2, 3, 8, 12, dtype=torch.float32), torch.rand(2, 6)
    output = network(images, noise, 0.5, False)
    assert output.pred.shape == (2, 6, 48)
    assert (output.mask.sum(dim=1) == 3).all()
    hidden = output.mask.view(2, 1, 2, 3).repeat_interleave(4, 2).repeat_interleave(4, 3).bool()
    changed = network(torch.where(hidden, images + 1, images), noise, 0.5, False)
    torch.testing.assert_close(changed.pred, output.pred)
    assert not torch.allclose(
        network(torch.where(hidden, images, images + 1), noise, 0.5, False).pred, output.pred
    )


def test_every_parameter_learns_and_tables_do_not():
    network = MaskedAutoencoder(TINY)
    network(random(2, 3, 8, 12, dtype=torch.float32), torch.rand(2, 6), 0.5, True).loss.backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    assert "pos_embed" not in dict(network.named_parameters())
    assert "pos_embed" in network.state_dict()


def test_state_dict_round_trip_in_either_form():
    sizes = AutoencoderSizes((2, 2), 4, 3, 16, 2, 2, 32, 8, 1, 2, 16)
    network = MaskedAutoencoder(sizes)
    images, noise = random(1, 3, 8, 8, dtype=torch.float32), torch.rand(1, 4)
    expected = network(images, noise, 0.5, True)
    for state in (network.state_dict(), {"model": network.state_dict(), "epoch": 3}):
        again = MaskedAutoencoder.from_state_dict(state, 2, 2)
        assert again.sizes == sizes
        torch.testing.assert_close(again(images, noise, 0.5, True), expected)


def test_refuses_other_files_and_pictures():
    sizes = AutoencoderSizes((2, 2), 4, 3, 16, 2, 2, 32, 8, 1, 2, 16)
    state = MaskedAutoencoder(sizes).state_dict()
    encoder = {key: value for key, value in state.items() if "decoder" not in key and key != "mask_token"}
    with pytest.raises(InvalidInput, match="decoder"):
        MaskedAutoencoder.from_state_dict(encoder, 2, 2)
    with pytest.raises(InvalidInput, match="unknown"):
        MaskedAutoencoder.from_state_dict(state | {"head.weight": torch.zeros(1)}, 2, 2)
    with pytest.raises(InvalidInput, match="num_heads"):
        MaskedAutoencoder.from_state_dict(state, 3, 2)
    with pytest.raises(InvalidInput, match="images"):
        MaskedAutoencoder(sizes)(torch.zeros(1, 3, 8, 12), torch.rand(1, 6))
    with pytest.raises(InvalidInput, match="noise"):
        MaskedAutoencoder(sizes)(torch.zeros(1, 3, 8, 8), torch.rand(1, 5))

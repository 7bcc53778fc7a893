"""MAE through a timm backbone equals the network of the published files."""

from __future__ import annotations

import pytest
import torch

from fewsight.errors import InvalidInput
from fewsight.objectives.drawn_masks import noise
from fewsight.objectives.mae import AutoencoderSizes, MaskedAutoencoder
from fewsight.objectives.mae_training import Mae, MaeSettings
from objectives.tiny import batch, network


def test_equals_the_published_network_on_the_same_weights():
    torch.manual_seed(0)
    objective = Mae(network(), MaeSettings(decoder_dim=16, decoder_depth=2, decoder_heads=2)).double()
    sizes = AutoencoderSizes((4, 4), 8, 3, 16, 2, 2, 64, 16, 2, 2, 64)
    published = MaskedAutoencoder(sizes).double()
    encoder = dict(objective.encoder.model.state_dict())
    decoder = objective.decoder.state_dict()
    names = {
        "embed": "decoder_embed",
        "blocks": "decoder_blocks",
        "norm": "decoder_norm",
        "pred": "decoder_pred",
    }
    for key, value in decoder.items():
        first, _, rest = key.partition(".")
        encoder["mask_token" if first == "mask_token" else f"{names[first]}.{rest}"] = value
    encoder["decoder_pos_embed"] = objective.decoder.positions
    published.load_state_dict(encoder)
    views = batch(objective)
    views = type(views)(**{**vars(views), "images": (views.images[0].double(),)})
    drawn = noise(views, views.images[0], 16).double()
    expected = published(views.images[0], drawn).loss
    loss = objective(views).total
    torch.testing.assert_close(loss, expected)
    loss.backward()
    expected.backward()
    ours = objective.encoder.model.patch_embed.proj.weight.grad
    torch.testing.assert_close(ours, published.patch_embed.proj.weight.grad)
    torch.testing.assert_close(objective.decoder.mask_token.grad, published.mask_token.grad)


def test_heads_that_do_not_divide_are_told():
    with pytest.raises(InvalidInput, match="decoder_dim"):
        MaeSettings(decoder_dim=100, decoder_heads=16)

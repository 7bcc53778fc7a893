"""Conv-4: the published sizes, the finer map, group norm that keeps images apart, errors."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fewsight.backbones.architectures import untrained_backbone
from fewsight.backbones.conv4 import Conv4
from fewsight.backbones.description import describe, rebuild
from fewsight.errors import InvalidInput


def test_published_network() -> None:
    network = Conv4().eval()
    # 3 x 3 kernels with bias, and scale and offset of each norm
    assert sum(p.numel() for p in network.parameters()) == 64 * 3 * 9 + 3 * 64 * 64 * 9 + 4 * 3 * 64
    with torch.no_grad():
        assert network.features(torch.rand(2, 3, 28, 28)).patches.shape == (2, 1, 1, 64)
        assert network.features(torch.rand(2, 3, 84, 84)).patches.shape == (2, 5, 5, 64)


def test_finer_map_is_the_one_before_the_last_pooling() -> None:
    torch.manual_seed(0)
    fine = Conv4([4, 5, 6, 7], output_stride=8).eval()
    coarse = Conv4([4, 5, 6, 7]).eval()
    coarse.load_state_dict(fine.state_dict())
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        maps, pooled = fine.features(images).patches, coarse.features(images).patches
    assert maps.shape == (2, 4, 4, 7)
    assert (fine.dim, fine.stride) == (7, 8)
    torch.testing.assert_close(
        nn.functional.max_pool2d(maps.permute(0, 3, 1, 2), 2), pooled.permute(0, 3, 1, 2)
    )


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_group_norm_keeps_images_apart_in_training(norm: str) -> None:
    torch.manual_seed(0)
    network = untrained_backbone("conv4", image_size=32, width=[16, 32, 8, 8], norm=norm).train()
    assert network.couples_images is (norm == "batch")
    images = torch.rand(3, 3, 32, 32)
    together = network.features(images).patches[:1]
    alone = network.features(images[:1]).patches
    assert torch.allclose(together, alone, atol=1e-5) is (norm == "group")


def test_settings_survive_a_model_folder() -> None:
    made = untrained_backbone("conv4", image_size=32, width=[4, 5, 6, 7], output_stride=8, norm="group")
    again = rebuild(describe(made), made.state_dict())
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(again.features(images).patches, made.eval().features(images).patches)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"width": 0}, "width is 0"),
        ({"width": [4, 4]}, r"width is \[4, 4\]"),
        ({"output_stride": 4}, "output_stride is 4"),
        ({"norm": "layer"}, "norm 'layer'"),
        ({"width": 24, "norm": "group"}, "multiples of 16"),
    ],
)
def test_errors_name_the_setting(settings: dict, named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        Conv4(**settings)
    with pytest.raises(InvalidInput, match="at least 8 x 8"):
        Conv4(4, 8).features(torch.rand(1, 3, 7, 8))

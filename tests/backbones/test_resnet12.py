"""ResNet-12: size, grid, coupling of images; errors."""

import pytest
import torch

from fewsight.backbones.backbone import TokenMask
from fewsight.backbones.features import Request
from fewsight.backbones.resnet12 import ResNet12
from fewsight.errors import InvalidInput


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return ResNet12().eval()


def test_size_and_grid(net):
    assert sum(parameter.numel() for parameter in net.parameters()) == 12_424_320  # published: 12.4 M
    with torch.no_grad():
        assert net.features(torch.zeros(1, 3, 84, 84)).patches.shape == (1, 5, 5, 640)
        assert net(torch.zeros(2, 3, 32, 48)).shape == (2, 640)


def test_images_are_joined_in_training_only(net):
    torch.manual_seed(0)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(net.features(images).patches[:1], net.features(images[:1]).patches)
    assert not net.couples_images
    assert ResNet12.couples_images.fget(net.train()) is True
    net.eval()


def test_errors(net):
    with pytest.raises(InvalidInput, match="dropout"):
        ResNet12(dropout=1.0)
    with pytest.raises(InvalidInput, match="16 x 16"):
        net.features(torch.zeros(1, 3, 15, 84))
    for settings in (
        {"request": Request(keys=True)},
        {"mask": TokenMask(torch.zeros(1, 2, 2, dtype=torch.bool))},
    ):
        with pytest.raises(InvalidInput, match="vision transformer"):
            net.features(torch.zeros(1, 3, 32, 32), **settings)

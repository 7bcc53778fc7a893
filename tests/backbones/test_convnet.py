from __future__ import annotations

import pytest
import timm
import torch

from fewsight.backbones.backbone import TokenMask
from fewsight.backbones.convnet import ConvolutionalBackbone
from fewsight.backbones.features import Request, pool
from fewsight.errors import InvalidInput


@pytest.fixture(scope="module")
def resnet():
    return timm.create_model("resnet10t", pretrained=False).eval()


def test_the_last_map_is_the_grid(resnet):
    images = torch.randn(2, 3, 64, 96)
    expected = resnet.forward_features(images)
    backbone = ConvolutionalBackbone(resnet, name="resnet10t").eval()
    features = backbone.features(images)
    assert features.cls is None
    assert torch.equal(features.patches, expected.permute(0, 2, 3, 1))
    assert features.patches.shape == (2, 64 // backbone.stride, 96 // backbone.stride, backbone.dim)
    assert torch.equal(backbone(images), pool(features))


def test_maps_with_channels_last():
    model = timm.create_model(
        "swin_tiny_patch4_window7_224", pretrained=False, embed_dim=24, depths=(1, 1), num_heads=(1, 2)
    )
    backbone = ConvolutionalBackbone(model, name="swin").eval()
    assert backbone.features(torch.randn(1, 3, 224, 224)).patches.shape == (1, 28, 28, 48)


@pytest.mark.parametrize("request_", [Request(blocks="all"), Request(keys=True), Request(attention=True)])
def test_what_only_transformers_have_is_refused(resnet, request_):
    backbone = ConvolutionalBackbone(resnet, name="resnet10t")
    with pytest.raises(InvalidInput, match="convolutional"):
        backbone.features(torch.zeros(1, 3, 64, 64), request_)
    with pytest.raises(InvalidInput, match="convolutional"):
        backbone.features(torch.zeros(1, 3, 64, 64), mask=TokenMask(torch.zeros(1, 2, 2, dtype=torch.bool)))

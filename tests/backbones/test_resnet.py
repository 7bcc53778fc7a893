"""ResNet-34: torchvision's network where both agree, support moments through all layers, settings; errors."""

import pytest
import torch

from fewsight.backbones.features import Request
from fewsight.backbones.resnet import _convolve, _pool, basic_block, resnet34
from fewsight.errors import InvalidInput


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return resnet34(16)


@pytest.mark.parametrize("size", [5, 6, 7, 8])
@pytest.mark.parametrize(
    ("kernel", "stride", "dilation"), [(7, 2, 1), (3, 2, 1), (3, 1, 1), (3, 1, 2), (1, 2, 1)]
)
def test_same_padding_by_loops(size, kernel, stride, dilation):
    maps, weight = torch.randn(1, 1, size, size).double(), torch.randn(1, 1, kernel, kernel).double()
    outputs = _convolve(maps, weight, stride, dilation)[0, 0]
    assert outputs.shape == (-(-size // stride),) * 2
    total = max((len(outputs) - 1) * stride + (kernel - 1) * dilation + 1 - size, 0)
    before = total // 2
    for row in range(len(outputs)):
        for column in range(len(outputs)):
            value = torch.zeros(()).double()
            for a in range(kernel):
                for b in range(kernel):
                    y, x = row * stride - before + a * dilation, column * stride - before + b * dilation
                    if 0 <= y < size and 0 <= x < size:
                        value += weight[0, 0, a, b] * maps[0, 0, y, x]
            torch.testing.assert_close(outputs[row, column], value)


def test_pooling_pads_with_minus_infinity():
    assert (_pool(torch.full((1, 1, 4, 4), -3.0)) == -3).all()


@pytest.mark.slow
def test_torchvision_gives_the_same_with_symmetric_padding():
    torchvision = pytest.importorskip("torchvision")
    theirs = torchvision.models.resnet34(weights=None).eval()
    ours = resnet34(32, padding="symmetric").eval()
    pairs = [(ours.conv, ours.norm, theirs.conv1, theirs.bn1)]
    for mine, other in zip(
        ours.blocks, [block for k in (1, 2, 3, 4) for block in getattr(theirs, f"layer{k}")], strict=True
    ):
        pairs += [
            (mine.conv1, mine.norm1, other.conv1, other.bn1),
            (mine.conv2, mine.norm2, other.conv2, other.bn2),
        ]
        if other.downsample is not None:
            pairs.append((mine.project, mine.project_norm, *other.downsample))
    with torch.no_grad():
        for convolution, norm, other, other_norm in pairs:
            convolution.weight.copy_(other.weight)
            norm.load_state_dict(
                {k: v for k, v in other_norm.state_dict().items() if k != "num_batches_tracked"}
            )
        first = ours.blocks[0]  # its projection has no counterpart: make it the identity
        first.project.weight.copy_(torch.eye(64)[:, :, None, None])
        first.project_norm.weight.fill_((1 + 1e-5) ** 0.5)
        images = torch.randn(2, 3, 64, 96)
        body = torch.nn.Sequential(*list(theirs.children())[:-2])
        torch.testing.assert_close(ours.maps(images), body(images), rtol=1e-4, atol=1e-4)


def test_grid_and_attributes(net):
    with torch.no_grad():
        features = net.eval().features(torch.zeros(2, 3, 50, 33))
        assert features.patches.shape == (2, 4, 3, 512)
        assert net(torch.zeros(1, 3, 32, 32)).shape == (1, 512)
    assert net.stride == 16
    assert not net.couples_images
    assert net.train().couples_images


def test_support_moments_reach_every_layer(net):
    """Queries follow the supports, never each other; running moments make a test image independent."""
    torch.manual_seed(1)
    support, query = torch.randn(3, 3, 32, 32), torch.randn(2, 3, 32, 32)
    state = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        supports, queries = net.train().encode_episode(support, query)
        net.load_state_dict(state)
        again, first = net.encode_episode(support, query[:1])
        net.load_state_dict(state)
        torch.testing.assert_close(first.patches, queries.patches[:1], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(again.patches, supports.patches, rtol=1e-4, atol=1e-4)
        moved = net.encode_episode(support * 2 + 1, query[:1])[1]
        net.load_state_dict(state)
        assert not torch.allclose(moved.patches, first.patches, atol=1e-2)
        supports, queries = net.eval().encode_episode(support, query)
        torch.testing.assert_close(queries.patches, net.features(query).patches, rtol=1e-4, atol=1e-4)


def test_last_stage_dilates_in_place_of_its_stride(net):
    layers = [(b.conv1.stride[0], b.conv1.dilation[0], b.conv2.dilation[0]) for b in net.blocks]
    assert layers[13:] == [(1, 1, 2), (1, 2, 2), (1, 2, 2)]
    assert layers[:3] == [(1, 1, 1)] * 3
    assert [layer[0] for layer in layers].count(2) == 2


def test_weights_start_as_published(net):
    weights = torch.cat([block.conv1.weight.detach().flatten() for block in net.blocks])
    assert weights.abs().max() <= 0.2
    assert weights.std().item() == pytest.approx(
        0.088, rel=0.01
    )  # of a normal of sd 0.1 cut at two deviations


def test_errors(net):
    with pytest.raises(InvalidInput, match="output_stride"):
        resnet34(8)
    with pytest.raises(InvalidInput, match="padding"):
        resnet34(16, padding="valid")
    with pytest.raises(InvalidInput, match="vision transformer"):
        net.features(torch.zeros(1, 3, 32, 32), Request(attention=True))
    tensors = [
        torch.zeros(1, 2, 4, 4),
        torch.zeros(3, 2, 3, 3),
        *[torch.zeros(3)] * 2,
        torch.zeros(3, 3, 3, 3),
        *[torch.zeros(3)] * 2,
    ]
    with pytest.raises(InvalidInput, match="project_weight"):
        basic_block(*tensors, stride=1, dilation=(1, 1))

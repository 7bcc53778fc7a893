"""Layer-wise decay: timm's own function as oracle, ranges, errors."""

import pytest

from fewsight.errors import InvalidInput
from fewsight.training.layer_decay import layer_scales


@pytest.mark.parametrize("options", [{}, {"global_pool": "avg"}, {"reg_tokens": 2, "class_token": True}])
def test_equals_timm_on_a_real_network(options):
    import timm
    from timm.optim import param_groups_layer_decay

    network = timm.create_model("vit_tiny_patch16_224", depth=3, num_classes=5, **options)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    expected = {
        names[id(parameter)]: group["lr_scale"]
        for group in param_groups_layer_decay(network, layer_decay=0.7)
        for parameter in group["params"]
    }
    scales = layer_scales(list(expected), depth=3, decay=0.7)
    assert scales == pytest.approx(list(expected.values()), rel=1e-12)


def test_scales_grow_with_depth_and_vanish_at_decay_one():
    names = ["pos_embed", *(f"blocks.{i}.attn.qkv.weight" for i in range(12)), "head.weight"]
    scales = layer_scales(names, depth=12, decay=0.65)
    assert scales == sorted(scales)
    assert scales[-1] == 1
    assert layer_scales(names, depth=12, decay=1.0, convention="beit") == [1.0] * 14


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"depth": 0}, "depth"),
        ({"decay": 0.0}, "decay"),
        ({"decay": 1.1}, "decay"),
        ({"convention": "mae"}, "convention"),
        ({"names": ["blocks.3.norm1.weight"]}, "depth"),
    ],
)
def test_errors_name_the_argument(changes, named):
    with pytest.raises(InvalidInput, match=named):
        layer_scales(**{"names": ["head.weight"], "depth": 3, "decay": 0.5, **changes})

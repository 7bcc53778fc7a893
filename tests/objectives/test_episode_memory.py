"""Episodes in chunks: the gradients of the plain graph, a graph that does not grow with the episode, LITE unbiased."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fewsight.backbones.backbone import Backbone
from fewsight.backbones.conv4 import Conv4
from fewsight.backbones.features import BlockTokens, Features
from fewsight.backbones.resnet import ResNet34
from fewsight.errors import InvalidInput
from fewsight.gradients.lite import draw_subset
from fewsight.heads.crosstransformer import CrossTransformer
from fewsight.heads.head import Head
from fewsight.heads.prototypes import Prototypes
from fewsight.objectives.episodic import EpisodeMemory, Episodic
from fewsight.objectives.objective import Batch
from fewsight.objectives.packed_features import pack


def episode(
    way: int = 3, shot: int = 3, query: int = 2, side: int = 16, dtype: torch.dtype = torch.float64
) -> Batch:
    labels = torch.cat([torch.arange(way).repeat_interleave(count) for count in (shot, query)])
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))
    images = torch.rand(len(labels), 3, side, side, generator=torch.Generator().manual_seed(0), dtype=dtype)
    roles = (torch.arange(len(labels)) >= way * shot).long()
    return Batch(images=(images,), labels=labels[order], roles=roles[order], step=4, seed=2)


def network(kind: str) -> Backbone:
    torch.manual_seed(0)
    if kind == "group norm":
        return Conv4(16, 8, "group")
    made = ResNet34()
    made.blocks, made.dim = made.blocks[:4], 128  # three blocks of one stage, one that strides and projects
    for weight in made.parameters():
        if weight.ndim == 4:
            torch.nn.init.kaiming_normal_(weight)
    return made


def head(kind: str, dim: int) -> Head:
    torch.manual_seed(1)
    return CrossTransformer(dim, key_dim=4, value_dim=4) if kind == "ctx" else Prototypes(pooling="patches")


def gradients(objective: Episodic, batch: Batch) -> tuple[Tensor, list[Tensor]]:
    objective.zero_grad()
    terms = objective.backward(batch, 0.5)
    return terms.total, [p.grad.clone() for p in objective.parameters() if p.grad is not None]


@pytest.mark.parametrize("kind", ["group norm", "support moments"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
def test_gradients_are_those_of_the_plain_graph(kind: str, dtype: torch.dtype, tolerance: float) -> None:
    """Norm of the difference over the norm of each gradient; running moments move alike."""
    encoder = network(kind).to(dtype).train()
    compared = head("ctx", encoder.dim).to(dtype)
    batch = episode(dtype=dtype, side=16 if kind == "group norm" else 32)
    before = [buffer.clone() for buffer in encoder.buffers()]
    loss, expected = gradients(Episodic(encoder, compared, penalty=1e-3).train(), batch)
    moved = [buffer.clone() for buffer in encoder.buffers()]
    largest = max(float(gradient.norm()) for gradient in expected)
    for chunk in (1, 4, 100):
        for buffer, value in zip(encoder.buffers(), before, strict=True):
            buffer.copy_(value)
        objective = Episodic(encoder, compared, penalty=1e-3, memory=EpisodeMemory(chunk)).train()
        value, found = gradients(objective, batch)
        torch.testing.assert_close(value, loss, rtol=tolerance, atol=0)
        for one, other in zip(found, expected, strict=True):
            # biases before a norm have gradient zero but for rounding
            assert float((one - other).norm()) <= tolerance * max(float(other.norm()), 1e-3 * largest)
        torch.testing.assert_close(list(encoder.buffers()), moved, rtol=tolerance, atol=tolerance)


class Counting(Conv4):
    """Counts the images of the largest batch that was encoded with a graph."""

    largest = 0

    def features(self, images, *arguments, **settings):  # type: ignore[no-untyped-def]
        if torch.is_grad_enabled():
            type(self).largest = max(type(self).largest, len(images))
        return super().features(images, *arguments, **settings)


@pytest.mark.parametrize("shot", [3, 20])
def test_the_largest_graph_does_not_grow_with_the_episode(shot: int) -> None:
    """Images that a graph holds, and bytes that autograd keeps at once between two images of an episode."""
    held: dict[int, int] = {}
    peak = 0

    def kept(tensor: Tensor) -> Tensor:
        nonlocal peak
        if tensor.ndim == 4:  # maps of the network; the head's own tensors are [positions, width]
            held[id(tensor)] = tensor.numel() * tensor.element_size()
            peak = max(peak, sum(held.values()))
        return tensor

    def used(tensor: Tensor) -> Tensor:
        held.pop(id(tensor), None)
        return tensor

    torch.manual_seed(0)
    encoder = Counting(16, 8, "group")
    objective = Episodic(encoder, head("ctx", 16), memory=EpisodeMemory(4)).train()
    Counting.largest = 0
    with torch.autograd.graph.saved_tensors_hooks(kept, used):
        objective.backward(episode(way=5, shot=shot, query=shot, dtype=torch.float32))
    assert Counting.largest == 4
    # each of the four images keeps at most nine maps a block, the largest 16 channels of 16 x 16, in float32
    assert 0 < peak <= 4 * 4 * 9 * 16 * 16 * 16 * 4


def test_validation_is_encoded_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    plain = Conv4.features

    def counted(self, images, *arguments):  # type: ignore[no-untyped-def]
        sizes.append(len(images))
        return plain(self, images, *arguments)

    encoder = Conv4(16, 8, "batch")
    batch = episode(dtype=torch.float32)
    with torch.no_grad():
        expected = Episodic(encoder, head("ctx", 16)).eval()(batch).total
        monkeypatch.setattr(Conv4, "features", counted)
        found = Episodic(encoder, head("ctx", 16), memory=EpisodeMemory(4)).eval()(batch).total
    torch.testing.assert_close(found, expected)
    assert sizes == [4, 4, 1, 4, 2]


def test_lite_is_unbiased_and_exact_with_all_supports() -> None:
    """The mean over every subset of one support is the plain gradient."""
    encoder, compared = Conv4(16, 8, "group").double(), head("ctx", 16).double()
    batch = episode(shot=1)
    _, exact = gradients(Episodic(encoder, compared).train(), batch)
    whole = Episodic(encoder, compared, memory=EpisodeMemory(2, lite=3)).train()
    torch.testing.assert_close(gradients(whole, batch)[1], exact, rtol=1e-9, atol=1e-12)
    few = Episodic(encoder, compared, memory=EpisodeMemory(2, lite=1)).train()
    by_support: dict[int, list[Tensor]] = {}
    for step in range(60):
        drawn = int(draw_subset(3, 1, seed=2, step=step))
        if drawn not in by_support:
            again = Batch(images=batch.images, labels=batch.labels, roles=batch.roles, step=step, seed=2)
            by_support[drawn] = gradients(few, again)[1]
    assert sorted(by_support) == [0, 1, 2]
    for parts, expected in zip(zip(*by_support.values(), strict=True), exact, strict=True):
        torch.testing.assert_close(torch.stack(parts).mean(0), expected, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(by_support[0][0], exact[0])


def test_lite_encodes_dropped_supports_without_a_graph() -> None:
    encoder = Counting(16, 8, "group")
    seen: list[int] = []

    class Noting(Counting):
        def features(self, images, *arguments, **settings):  # type: ignore[no-untyped-def]
            if torch.is_grad_enabled():
                seen.append(len(images))
            return super().features(images, *arguments, **settings)

    encoder.__class__ = Noting
    objective = Episodic(encoder, head("ctx", 16), memory=EpisodeMemory(1, lite=2)).train()
    objective.backward(episode(shot=10, dtype=torch.float32))
    # 2 of 30 supports and 6 queries, one by one; the last chunk of all always runs
    assert sum(seen) == 2 + 6 + 1


def test_any_head_and_any_features_are_packed() -> None:
    features = Features(
        cls=torch.rand(3, 4),
        patches=torch.rand(3, 2, 2, 4),
        blocks=BlockTokens(torch.rand(3, 2, 4), torch.rand(3, 2, 2, 2, 4)),
        keys=torch.rand(3, 2, 2, 2, 2),
    )
    packed = pack(features)
    assert packed.rows.shape == (3, 4 + 16 + 8 + 32 + 16)
    torch.testing.assert_close(tuple(packed.features(packed.rows))[:2], tuple(features)[:2])
    again = packed.features(packed.rows[1:])
    assert again.blocks is not None
    torch.testing.assert_close(again.blocks.patches, features.blocks.patches[1:])  # type: ignore[union-attr]
    torch.testing.assert_close(again.keys, features.keys[1:])  # type: ignore[index]
    encoder = Conv4(16, 8, "group").double()
    loss, exact = gradients(Episodic(encoder, head("prototypes", 16)).train(), episode())
    value, found = gradients(
        Episodic(encoder, head("prototypes", 16), memory=EpisodeMemory(4)).train(), episode()
    )
    torch.testing.assert_close((value, found), (loss, exact), rtol=1e-9, atol=1e-12)


def test_batch_norm_that_chunks_would_change_is_refused() -> None:
    objective = Episodic(Conv4(8), head("ctx", 8), memory=EpisodeMemory(4)).train()
    with pytest.raises(InvalidInput, match="norm: group"):
        objective.backward(episode(dtype=torch.float32))


@pytest.mark.parametrize(
    ("settings", "named"),
    [({"chunk": 0}, "chunk is 0"), ({"chunk": 2, "lite": 0}, "lite is 0"), ({"lite": 4}, "lite")],
)
def test_errors_name_the_setting(settings: dict, named: str) -> None:
    with pytest.raises(InvalidInput, match=named):
        EpisodeMemory(**settings)
    with pytest.raises(InvalidInput, match="penalty is -1"):
        Episodic(Conv4(8), head("ctx", 8), penalty=-1)

"""The CST head: the plain form as an oracle, and the invariants that follow from its structure."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fewsight.errors import InvalidInput
from fewsight.heads.correlation import CorrelationTransformer, correlation_tokens, predict_episode
from fewsight.heads.support_tokens import support_directions

HEADS, BLOCKS, WIDTH = 2, 3, 8
# Sums of some hundred float64 products in another order.
CLOSE = {"rtol": 1e-12, "atol": 1e-12}


@pytest.fixture
def head() -> CorrelationTransformer:
    torch.manual_seed(0)
    return make_head()


def make_head(**settings: object) -> CorrelationTransformer:
    return CorrelationTransformer(HEADS * BLOCKS, (16, 8), (3, 2), heads=4, **settings).double()


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def images(rows: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Query patches, support class tokens and support patches."""
    return (
        random(rows, BLOCKS, 4, 5, WIDTH, seed=seed),
        random(rows, BLOCKS, WIDTH, seed=seed + 1),
        random(rows, BLOCKS, 7, 6, WIDTH, seed=seed + 2),
    )


def tokens_of(query: Tensor, cls: Tensor, support: Tensor) -> Tensor:
    return correlation_tokens(query, cls, support, heads=HEADS, support_grid=(6, 6))


def plain_form(head: CorrelationTransformer, x: Tensor, mask: Tensor | None, grid: tuple[int, int]):
    """The head as the paper writes it: project, pool, mask with -1e9, attend over all support tokens."""
    for block in head.corrtransformer:
        attn, side = block.attn, int((x.shape[3] - 1) ** 0.5)

        def pooled(t: Tensor, side: int = side, pool: int = attn.pool) -> Tensor:
            image = F.avg_pool2d(t[..., 1:].reshape(-1, 1, side, side), pool).reshape(*t.shape[:3], -1)
            return torch.cat([t[..., :1], image], dim=3)

        shortcut = attn.short_cut[2:](pooled(attn.short_cut[0](x)))
        q, k, v = attn.qkv(x).chunk(3, dim=1)
        q, k, v = (t.unflatten(1, (attn.heads, -1)) for t in (pooled(q), k, v))
        logits = torch.einsum("bhcpl,bhcpm->bhplm", q, k)
        if mask is not None:
            small = F.interpolate(
                mask[:, None].double(), size=(side, side), mode="bilinear", align_corners=True
            )
            logits = logits.masked_fill(F.pad(small.flatten(1) == 0, (1, 0))[:, None, None, None], -1e9)
        attended = torch.einsum("bhplm,bhcpm->bhcpl", logits.softmax(-1), v).flatten(1, 2)
        y = attn.out_norm(attn.agg(attended) + shortcut)
        x = block.ff["out_norm"](block.ff["ff"](y) + y)
    for_class, for_mask = head.linear(x).unflatten(2, grid).unbind(4)
    classes = head.decoder2_cls(F.avg_pool2d(head.decoder1_cls(for_class), 3, 2, 1)).mean((2, 3))
    size = (2 * grid[0], 2 * grid[1])
    enlarged = F.interpolate(head.decoder1_seg(for_mask), size=size, mode="bilinear", align_corners=True)
    return classes, head.decoder2_seg(enlarged)


def object_mask(rows: int) -> Tensor:
    mask = torch.zeros(rows, 40, 40)
    for row in range(rows):  # rows see different numbers of tokens: padding is at work
        mask[row, 0 : 9 + 8 * row, 12:33] = 1
    return mask


@pytest.mark.parametrize("memory_mib", [8.0, 0.05, 1e-4])
@pytest.mark.parametrize("masked", [True, False])
def test_bounded_form_equals_plain_form(
    head: CorrelationTransformer, masked: bool, memory_mib: float
) -> None:
    """Values and gradients, from tokens and from patches, at any chunk."""
    query, cls, support = (t.requires_grad_() for t in images(3))
    mask = object_mask(3) if masked else None
    expected = plain_form(head, tokens_of(query, cls, support), mask, (4, 5))
    cotangents = [random(*t.shape, seed=9) for t in expected]
    wanted = [query, support, cls, *head.parameters()]
    expected_gradients = torch.autograd.grad(expected, wanted, cotangents)
    head.memory_mib = memory_mib
    directions = support_directions(cls, support, heads=HEADS, support_grid=(6, 6))
    seen = None if mask is None else head.reduce_mask(mask)
    for found in (
        head(tokens_of(query, cls, support), mask, query_grid=(4, 5)),
        head.correlate(query, directions, seen),
    ):
        torch.testing.assert_close(found, expected, **CLOSE)
        gradients = torch.autograd.grad(found, wanted, cotangents, retain_graph=True)
        # Gradients of the norms cancel: they are small differences of sums of thousands.
        torch.testing.assert_close(gradients, expected_gradients, rtol=1e-9, atol=1e-10)


def test_without_gradients_the_same(head: CorrelationTransformer) -> None:
    query, cls, support = images(2)
    directions = support_directions(cls, support, heads=HEADS, support_grid=(6, 6))
    expected = head.correlate(query, directions)
    head.memory_mib = 1e-3
    with torch.no_grad():
        torch.testing.assert_close(head.correlate(query, directions), expected, **CLOSE)


def test_one_query_for_all_rows(head: CorrelationTransformer) -> None:
    query, cls, support = images(3)
    directions = support_directions(cls, support, heads=HEADS, support_grid=(6, 6))
    expected = head.correlate(query[:1].expand(3, -1, -1, -1, -1), directions)
    torch.testing.assert_close(head.correlate(query[:1], directions), expected, **CLOSE)


def test_joint_shots(head: CorrelationTransformer) -> None:
    """One shot is what it is alone, the order of shots does not matter, and two equal shots are one."""
    query, cls, support = images(3)
    directions = support_directions(cls, support, heads=HEADS, support_grid=(6, 6))
    seen = head.reduce_mask(object_mask(3))
    alone = head.correlate(query[:1], directions[:1], [level[:1] for level in seen])
    found = head.correlate_jointly(query[:1], directions[:1], [level[:1] for level in seen])
    torch.testing.assert_close(found, alone, **CLOSE)
    joint = head.correlate_jointly(query[:1], directions, seen)
    assert not torch.allclose(joint[1], alone[1])
    order = [2, 0, 1]
    swapped = head.correlate_jointly(query[:1], directions[order], [level[order] for level in seen])
    torch.testing.assert_close(swapped, joint, **CLOSE)
    # Each key twice, softmax and mean over them unchanged.
    twice = [0, 0]
    doubled = head.correlate_jointly(query[:1], directions[twice], [level[twice] for level in seen])
    torch.testing.assert_close(doubled, alone, **CLOSE)
    everything = head.correlate_jointly(query[:1], directions[:1])
    torch.testing.assert_close(everything, head.correlate(query[:1], directions[:1]), **CLOSE)
    with pytest.raises(InvalidInput, match="query_patches"):
        head.correlate_jointly(query, directions)


def test_scaling_any_vector_changes_nothing(head: CorrelationTransformer) -> None:
    query, cls, support = images(2)
    lengths = random(2, BLOCKS, 4, 5, 1, seed=5).exp()
    expected = head(tokens_of(query, cls, support), query_grid=(4, 5))
    found = head(tokens_of(query * lengths, cls * 3, support * 1e-3), query_grid=(4, 5))
    torch.testing.assert_close(found, expected, **CLOSE)
    directions = support_directions(cls, support, heads=HEADS, support_grid=(6, 6))
    torch.testing.assert_close(head.correlate(query * lengths, directions), expected, **CLOSE)


def test_query_tokens_may_be_permuted_up_to_the_neck(head: CorrelationTransformer) -> None:
    """Nothing but the norms mixes query tokens; the decoders, with their 3 x 3 windows, do."""
    from fewsight.heads.correlation_block import TokenColumns

    tokens = tokens_of(*images(2))
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))

    def neck(x: Tensor) -> Tensor:
        for block in head.corrtransformer:
            x = block(TokenColumns(x, None, block.attn.pool), None, 8.0)
        return head.linear(x)

    torch.testing.assert_close(neck(tokens[:, :, order]), neck(tokens)[:, :, order], **CLOSE)
    permuted = head(tokens[:, :, order], query_grid=(4, 5))[1]
    assert not torch.allclose(permuted, head(tokens, query_grid=(4, 5))[1])


def test_everything_masked_leaves_the_class_column_as_key(head: CorrelationTransformer) -> None:
    """Image columns then act through the pooled shortcut and queries alone: keys and values do not see them."""
    tokens = tokens_of(*images(2))
    empty = torch.zeros(2, 40, 40)
    expected = plain_form(head, tokens, empty, (4, 5))
    torch.testing.assert_close(head(tokens, empty, query_grid=(4, 5)), expected, **CLOSE)
    # A change that pooling averages away cannot be seen.
    moved = tokens.clone()
    moved[..., 1] += 0.3
    moved[..., 2] -= 0.3
    torch.testing.assert_close(head(moved, empty, query_grid=(4, 5)), expected, **CLOSE)
    full = head(moved, torch.ones(2, 40, 40), query_grid=(4, 5))
    assert not torch.allclose(full[1], head(tokens, torch.ones(2, 40, 40), query_grid=(4, 5))[1])


def test_mask_of_ones_is_no_mask_and_values_do_not_matter(head: CorrelationTransformer) -> None:
    tokens, mask = tokens_of(*images(2)), object_mask(2)
    ones = head(tokens, torch.ones(2, 31, 29), query_grid=(4, 5))
    torch.testing.assert_close(ones, head(tokens, query_grid=(4, 5)), **CLOSE)
    found = head(tokens, mask * 0.001, query_grid=(4, 5))
    torch.testing.assert_close(found, head(tokens, mask, query_grid=(4, 5)), **CLOSE)


def test_rows_do_not_interact(head: CorrelationTransformer) -> None:
    tokens, mask = tokens_of(*images(3)), object_mask(3)
    together = head(tokens, mask, query_grid=(4, 5))
    alone = [head(tokens[i : i + 1], mask[i : i + 1], query_grid=(4, 5)) for i in range(3)]
    torch.testing.assert_close(together[0], torch.cat([a[0] for a in alone]), **CLOSE)
    torch.testing.assert_close(together[1], torch.cat([a[1] for a in alone]), **CLOSE)


def test_a_patch_correlates_fully_with_itself() -> None:
    query, cls, _ = images(1)
    query = F.pad(query, (0, 0, 0, 1, 0, 2))[:, :, :6, :6] + 1  # [1, L, 6, 6, D]
    diagonal = tokens_of(query, cls, query)[0, :, :, 1:].diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(diagonal, torch.ones_like(diagonal))


def test_large_logits_stay_finite(head: CorrelationTransformer) -> None:
    tokens = 40 * tokens_of(*images(2)).float().requires_grad_()
    logits = head.float()(tokens, object_mask(2), query_grid=(4, 5))
    assert all(part.isfinite().all() for part in logits)
    (gradient,) = torch.autograd.grad(logits[0].sum() + logits[1].sum(), tokens)
    assert gradient.isfinite().all()


def test_area_sees_what_points_miss() -> None:
    torch.manual_seed(0)
    area, points = make_head(mask_reduction="area"), make_head()
    mask = torch.zeros(1, 60, 60)
    mask[0, 2:9, 2:9] = 1
    assert [int(level.sum()) for level in points.reduce_mask(mask)] == [0, 0]
    assert [int(level.sum()) for level in area.reduce_mask(mask)] == [1, 1]


def test_half_precision_correlations(head: CorrelationTransformer) -> None:
    """Products in half, all else in the head's type: errors of a half cosine (5e-4) and no larger."""
    query, cls, support = (t.float() for t in images(2))
    head = head.float()
    directions = support_directions(cls, support, heads=HEADS, support_grid=(6, 6))
    with torch.no_grad():
        expected = head.correlate(query, directions)
        found = head.correlate(query.half(), directions.half())
    assert found[1].dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0.02)


def test_shots_may_be_permuted_and_repeated() -> None:
    class_logits, mask_logits = random(2, 3, 2, 2), random(2, 3, 2, 2, 4, 4)
    expected = predict_episode(class_logits, mask_logits, size=(9, 7))
    order = [2, 0, 1]
    for found in (
        predict_episode(class_logits[:, order], mask_logits[:, order], size=(9, 7)),
        predict_episode(class_logits.repeat(1, 2, 1, 1), mask_logits.repeat(1, 2, 1, 1, 1, 1), size=(9, 7)),
    ):
        torch.testing.assert_close(found.foreground, expected.foreground, **CLOSE)
        torch.testing.assert_close(found.presence, expected.presence, **CLOSE)
        assert torch.equal(found.labels, expected.labels)


def test_ways_permute_the_answer() -> None:
    class_logits, mask_logits = random(2, 1, 3, 2), random(2, 1, 3, 2, 4, 4)
    expected = predict_episode(class_logits, mask_logits, size=(8, 8))
    order = [2, 0, 1]
    found = predict_episode(class_logits[:, :, order], mask_logits[:, :, order], size=(8, 8))
    assert torch.equal(found.present, expected.present[:, order])
    renamed = torch.tensor([0, 2, 3, 1])[expected.labels]  # old way 1 stands at place 2, ...
    assert torch.equal(found.labels, renamed)


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"in_channels": 0}, "in_channels"),
        ({"in_channels": 4, "widths": (16,)}, "pools"),
        ({"in_channels": 4, "widths": (12, 8), "pools": (2, 2)}, "heads"),
        ({"in_channels": 4, "mask_reduction": "mean"}, "mask_reduction"),
        ({"in_channels": 4, "memory_mib": 0}, "memory_mib"),
    ],
)
def test_bad_settings(settings: dict, word: str) -> None:
    with pytest.raises(InvalidInput, match=word):
        CorrelationTransformer(**settings)


def test_bad_inputs(head: CorrelationTransformer) -> None:
    tokens = tokens_of(*images(2))
    with pytest.raises(InvalidInput, match="pools"):
        head(tokens[..., :17], query_grid=(4, 5))
    with pytest.raises(InvalidInput, match="query_grid"):
        head(tokens, query_grid=(5, 5))
    with pytest.raises(InvalidInput, match="tokens"):
        head(tokens[:, :4], query_grid=(4, 5))
    with pytest.raises(InvalidInput, match="support_mask"):
        head(tokens, torch.ones(3, 8, 8), query_grid=(4, 5))
    with pytest.raises(InvalidInput, match="query_patches"):
        head.correlate(random(3, BLOCKS, 4, 5, WIDTH), random(2, 6, 37, 4))
    with pytest.raises(InvalidInput, match="mask_logits"):
        predict_episode(random(1, 1, 1, 2), random(1, 1, 2, 2, 3, 3), size=(4, 4))
    with pytest.raises(InvalidInput, match="support_cls"):
        correlation_tokens(
            random(1, 3, 4, 4, 8), random(1, 2, 8), random(1, 3, 4, 4, 8), heads=2, support_grid=(6, 6)
        )


def test_memory_is_bounded() -> None:
    """Beyond inputs and the kept tensor, peak memory stays near the bound: 48 numbers of 10 columns a token."""
    from fewsight.heads.correlation_block import TokenColumns

    torch.manual_seed(0)
    block = CorrelationTransformer(72, memory_mib=1.0).corrtransformer[0].attn
    columns = TokenColumns(torch.zeros(1, 72, 2500, 145), None, 4)
    chunk = block._chunk(columns, 1.0)
    seen, pooled = columns.slice(0, chunk)
    in_work = 4 * (seen.numel() + pooled.numel())
    assert 1 <= chunk < 100
    assert in_work < 2**20

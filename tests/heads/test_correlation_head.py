"""CST as a head: the same answers as the pure functions, image by image and shot by shot."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fewsight.backbones.features import BlockTokens, Features
from fewsight.errors import IncompatibleModel, InvalidInput
from fewsight.heads.correlation import correlation_tokens, predict_episode
from fewsight.heads.correlation_head import CorrelationHead
from fewsight.heads.head import Support

HEADS, BLOCKS, WIDTH = 2, 3, 8


def make_head(**settings: object) -> CorrelationHead:
    torch.manual_seed(0)
    return CorrelationHead(HEADS, BLOCKS, widths=(16, 16), pools=(3, 2), **settings).eval()


def images(count: int, seed: int = 0, grid: tuple[int, int] = (7, 7)) -> Features:
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    blocks = BlockTokens(random(count, BLOCKS, WIDTH), random(count, BLOCKS, *grid, WIDTH))
    attention = random(count, HEADS, *grid).flatten(2).softmax(-1).unflatten(2, grid)
    keys, query = random(count, HEADS, *grid, 4), random(count, HEADS, 4)
    return Features(random(count, WIDTH), random(count, *grid, WIDTH), blocks, keys, query, attention)


def make_support() -> Support:
    """Three photos of a, one of b; two of them with masks."""
    membership = torch.tensor([[True, False], [True, False], [False, True], [True, False]])
    mask = torch.zeros(30, 40, dtype=torch.bool)
    mask[5:20, 10:30] = True
    return Support(images(4), membership, ("a", "b"), (mask, None, mask[:, :25], None))


def by_hand(head: CorrelationHead, support: Support, queries: Features, size: tuple[int, int]):
    """Every pair on its own, through all correlation tokens and `predict_episode`."""
    guessed = head.guess_masks(support.features)
    presence, foreground = [], []
    for way in range(len(support.names)):
        shots = support.membership[:, way].nonzero().flatten().tolist()
        logits = []
        for shot in shots:
            tokens = correlation_tokens(
                queries.blocks.patches,
                support.features.blocks.cls[shot : shot + 1].expand(len(queries.cls), -1, -1),
                support.features.blocks.patches[shot : shot + 1].expand(len(queries.cls), -1, -1, -1, -1),
                heads=HEADS,
                support_grid=(6, 6),
            )
            mask = guessed[shot] if support.masks[shot] is None else support.masks[shot]
            logits.append(head.learner(tokens, mask[None].expand(len(tokens), -1, -1), query_grid=(4, 5)))
        result = predict_episode(
            torch.stack([c for c, _ in logits], 1)[:, :, None],
            torch.stack([m for _, m in logits], 1)[:, :, None],
            size=size,
        )
        presence.append(result.presence)
        foreground.append(result.foreground)
    return torch.cat(presence, 1), torch.cat(foreground, 1)


@pytest.mark.parametrize("mask_reduction", ["points", "area"])
def test_ragged_shots_with_and_without_masks(mask_reduction: str) -> None:
    head = make_head(mask_reduction=mask_reduction)
    queries = images(3, seed=5, grid=(4, 5))
    conditioned = head.condition(make_support())
    found = conditioned.segment(queries, (9, 11))
    with torch.no_grad():
        presence, foreground = by_hand(head, make_support(), queries, (9, 11))
    # float32 sums in another order
    torch.testing.assert_close(found.presence, presence, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.foreground, foreground, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(conditioned.scores(queries), presence, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shots", ["average", "joint"])
def test_copies_of_a_shot_are_one_shot(shots: str) -> None:
    head, queries = make_head(shots=shots), images(2, seed=5, grid=(4, 5))
    one = Support(images(2), torch.eye(2, dtype=torch.bool), ("a", "b"))
    copies = Support(one.features.rows([0, 0, 1, 0]), one.membership[[0, 0, 1, 0]], one.names)
    expected, found = (head.condition(s).segment(queries, (8, 8)) for s in (one, copies))
    torch.testing.assert_close(found.foreground, expected.foreground)
    torch.testing.assert_close(found.presence, expected.presence)


def test_joint_shots() -> None:
    """A class of one shot answers as ever; one of several shots by one softmax over all of them."""
    queries = images(2, seed=5, grid=(4, 5))
    averaged, joint = (make_head(shots=s).condition(make_support()) for s in ("average", "joint"))
    expected, found = averaged.segment(queries, (8, 8)), joint.segment(queries, (8, 8))
    torch.testing.assert_close(found.foreground[:, 1], expected.foreground[:, 1])
    torch.testing.assert_close(found.presence[:, 1], expected.presence[:, 1])
    assert (found.foreground[:, 0] - expected.foreground[:, 0]).abs().max() > 1e-5
    rows = (joint.ways == 0).nonzero().flatten()
    class_logits, _ = joint.head.learner.correlate_jointly(
        joint.head._blocks(queries).patches[:1],
        joint.directions[joint.images[rows]],
        [s[rows] for s in joint.seen],
    )
    assert float(found.presence[0, 0]) == pytest.approx(
        float(class_logits.detach().softmax(1)[0, 1]), abs=1e-6
    )
    with pytest.raises(InvalidInput, match="shots"):
        make_head(shots="sum")


def test_adding_and_removing_classes() -> None:
    head, queries = make_head(), images(2, seed=5, grid=(4, 5))
    support = Support(images(3), torch.eye(3, dtype=torch.bool), ("a", "b", "c"))
    whole = head.condition(support)
    fewer = whole.without_class("b")
    torch.testing.assert_close(fewer.scores(queries), whole.scores(queries)[:, [0, 2]])
    assert len(fewer.directions) == 2
    again = fewer.with_class("b", support.features.rows([1]))
    torch.testing.assert_close(again.scores(queries), whole.scores(queries)[:, [0, 2, 1]])
    with pytest.raises(InvalidInput, match="already"):
        whole.with_class("a", support.features)
    with pytest.raises(InvalidInput, match="cannot be removed"):
        whole.without_class("z")


def test_state_is_a_round_trip() -> None:
    head, queries = make_head(), images(2, seed=5, grid=(4, 5))
    conditioned = head.condition(make_support())
    restored = head.restore(conditioned.names, conditioned.state())
    # Half precision of the kept directions.
    torch.testing.assert_close(restored.scores(queries), conditioned.scores(queries), rtol=0.01, atol=0.01)
    with pytest.raises(IncompatibleModel, match="seen"):
        head.restore(conditioned.names, {"directions": conditioned.directions})
    with pytest.raises(IncompatibleModel, match="1 classes"):
        head.restore(("a",), conditioned.state())


def test_training_pairs_have_gradients() -> None:
    head = make_head()
    masks = torch.zeros(2, 20, 20)
    masks[:, 4:15, 4:15] = 1
    for given in (masks, None):
        head.zero_grad()
        class_logits, mask_logits = head(images(2, seed=1, grid=(4, 5)), images(2), given)
        (class_logits.sum() + mask_logits.square().sum()).backward()
        assert mask_logits.shape == (2, 2, 8, 10)
        assert all(p.grad is not None for p in head.learner.parameters())


@pytest.mark.parametrize("kind", ["attention", "published", "enhanced", "none"])
def test_kinds_of_pseudo_masks(kind: str) -> None:
    head = make_head(pseudo_masks=kind)
    support = Support(images(2), torch.eye(2, dtype=torch.bool), ("a", "b"))
    scores = head.condition(support).scores(images(1, seed=5, grid=(4, 5)))
    assert scores.shape == (1, 2)
    assert head.request.keys == (kind in ("published", "enhanced"))
    assert head.request.attention == (kind == "attention")


def test_without_class_token_or_attention() -> None:
    head, features = make_head(), images(2)
    bare = features._replace(blocks=BlockTokens(None, features.blocks.patches), attention=None)
    conditioned = head.condition(Support(bare, torch.eye(2, dtype=torch.bool), ("a", "b")))
    mean = bare._replace(blocks=BlockTokens(bare.blocks.patches.mean((2, 3)), bare.blocks.patches))
    torch.testing.assert_close(conditioned.directions, head.reduce(mean))


def test_published_checkpoint_layout() -> None:
    head = CorrelationHead.published()
    weights = {f"learner.{name}": torch.full_like(t, 0.5) for name, t in head.learner.state_dict().items()}
    head.load_published({**weights, "backbone.norm.weight": torch.ones(384)})
    assert all((t == 0.5).all() for t in head.learner.state_dict().values())
    assert sum(p.numel() for p in head.parameters()) == 366_004
    with pytest.raises(IncompatibleModel, match="CST"):
        make_head().load_published(weights)


def test_errors() -> None:
    head, features = make_head(), images(1)
    one = torch.ones(1, 1, dtype=torch.bool)
    with pytest.raises(InvalidInput, match="request"):
        head.condition(Support(features._replace(blocks=None), one, ("a",)))
    with pytest.raises(InvalidInput, match="'a'"):
        head.condition(Support(features, one, ("a",), (torch.zeros(5, 5, dtype=torch.bool),)))
    with pytest.raises(InvalidInput, match="pseudo_masks"):
        make_head(pseudo_masks="best")
    with pytest.raises(InvalidInput, match="keys"):
        make_head(pseudo_masks="published").condition(Support(features._replace(keys=None), one, ("a",)))
    support = dataclasses.replace(Support(features, one, ("a",)), masks=None)
    assert head.condition(support).names == ("a",)


def test_calibration_moves_presence_and_no_pixel() -> None:
    queries, one = (
        images(2, seed=5, grid=(4, 5)),
        Support(images(1), torch.ones(1, 1, dtype=torch.bool), ("a",)),
    )
    plain, moved = (
        make_head(calibration=c).condition(one).segment(queries, (8, 8)) for c in ((1, 0), (2, 0.5))
    )
    expected = (2 * plain.presence.logit() + 0.5).sigmoid()
    torch.testing.assert_close(moved.presence, expected, rtol=1e-5, atol=1e-6)  # logit of a float32 sigmoid
    torch.testing.assert_close(moved.foreground, plain.foreground)


def test_centred_tokens_forget_what_all_images_share() -> None:
    """A vector added to every token of every image changes nothing once it is in the centre."""
    head = make_head(centred_width=WIDTH)
    queries, one = images(2, seed=5), Support(images(1), torch.ones(1, 1, dtype=torch.bool), ("a",))
    expected = head.condition(one).segment(queries, (8, 8))
    common = torch.randn(BLOCKS, WIDTH, generator=torch.Generator().manual_seed(3))

    def shifted(features: Features) -> Features:
        cls, patches = features.blocks
        return features._replace(blocks=BlockTokens(cls + common, patches + common[:, None, None]))

    head.get_buffer("centre").copy_(common)
    found = head.condition(Support(shifted(one.features), one.membership, ("a",))).segment(
        shifted(queries), (8, 8)
    )
    torch.testing.assert_close(found.foreground, expected.foreground, rtol=1e-4, atol=1e-5)  # (x + c) - c
    head.centre_on(queries)
    torch.testing.assert_close(head.get_buffer("centre"), queries.blocks.patches.mean((0, 2, 3)))
    with pytest.raises(InvalidInput, match="centred_width"):
        make_head().centre_on(queries)

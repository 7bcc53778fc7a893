"""The house's types carry the methods: golden cases of CST, CTX, masked tokens and gradient caching through
`Features`, `Request`, `Support`, `Conditioned`, `Objective` and `Batch`.
"""

from __future__ import annotations

import pytest
import torch
from golden_cases import GoldenCase, cases
from torch import Tensor, nn

from fewsight.backbones.architectures import untrained_backbone
from fewsight.backbones.backbone import TokenMask
from fewsight.backbones.features import BlockTokens, Features, Request, concatenate, pool
from fewsight.errors import InvalidInput
from fewsight.gradients.cache import cached_backward
from fewsight.heads.correlation import correlation_tokens
from fewsight.heads.crosstransformer import CrossTransformer
from fewsight.heads.head import Support, membership_from_labels
from fewsight.heads.pseudo_masks import cst_pseudo_masks
from fewsight.objectives.label_contrastive import label_contrastive_loss
from fewsight.objectives.objective import Batch, Objective, Terms


@pytest.mark.parametrize("case", cases("correlation_tokens"), ids=str)
def test_blocks_of_features_give_correlation_tokens(case: GoldenCase) -> None:
    query = Features(
        blocks=BlockTokens(None, case.tensor("query_patches")), patches=case.tensor("query_patches")[:, -1]
    )
    cls, patches = case.tensor("support_cls"), case.tensor("support_patches")
    support = Features(cls=cls[:, -1], patches=patches[:, -1], blocks=BlockTokens(cls, patches))
    support = concatenate([support.rows([row]) for row in range(support.num_images)])
    assert query.blocks is not None
    assert support.blocks is not None
    tokens = correlation_tokens(
        query.blocks.patches,
        support.blocks.cls,
        support.blocks.patches,
        heads=case.params["heads"],
        support_grid=tuple(case.params["support_grid"]),
    )
    case.check(tokens=tokens)


@pytest.mark.parametrize("case", cases("cst_pseudo_mask"), ids=str)
def test_keys_and_class_query_give_pseudo_masks(case: GoldenCase) -> None:
    query, keys = case.tensor("cls_query"), case.tensor("support_keys")
    support = Features(cls=query.flatten(1), keys=keys, class_query=query)
    other = Features(cls=query.flatten(1), keys=case.tensor("query_keys"))
    masks = cst_pseudo_masks(
        support.class_query,
        support.keys,
        other.keys,
        case.tensor("present"),
        size=tuple(case.params["size"]),
        threshold=case.params["threshold"],
    )
    assert (masks[0].numpy() == case.outputs["support_mask"]).all()
    assert (masks[1].numpy() == case.outputs["query_mask"]).all()


@pytest.mark.parametrize("case", cases("crosstransformer"), ids=str)
def test_a_conditioned_head_keeps_keys_and_scores_any_number_of_queries(case: GoldenCase) -> None:
    key, value = case.tensor("key_weight"), case.tensor("value_weight")
    head = CrossTransformer(key.shape[1], key_dim=key.shape[0], value_dim=value.shape[0]).to(key.dtype)
    head.load_state_dict({"key_weight": key, "value_weight": value})
    labels = case.tensor("labels")
    names = tuple(str(label) for label in torch.unique(labels).tolist())
    maps = Features(patches=case.tensor("supports").permute(0, 2, 3, 1))
    conditioned = head.condition(Support(maps, membership_from_labels(labels), names))
    queries = Features(patches=case.tensor("queries").permute(0, 2, 3, 1))
    one_by_one = torch.cat([conditioned.scores(queries.rows([row])) for row in range(queries.num_images)])
    torch.testing.assert_close(
        one_by_one.detach(), torch.from_numpy(case.outputs["logits"]), rtol=case.raw.rtol, atol=case.raw.atol
    )
    kept = head.restore(names, conditioned.state()).scores(queries)
    assert torch.equal(kept, conditioned.scores(queries))


class CachedContrast(Objective):
    """Gradient caching as an objective: it owns its backward."""

    def __init__(self, case: GoldenCase) -> None:
        super().__init__()
        self.case = case
        self.weights = nn.ParameterDict(
            {name: case.tensor(name) for name in case.inputs if name[:4] in ("weig", "bias")}
        )

    def backbone(self) -> nn.Module:
        return self

    def encode(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(inputs @ self.weights["weight_1"].T + self.weights["bias_1"])
        return hidden @ self.weights["weight_2"].T + self.weights["bias_2"]

    def loss(self, representations: Tensor, labels: Tensor, views: int) -> Tensor:
        settings = {key: value for key, value in self.case.params.items() if key != "chunk"}
        features = representations.reshape(-1, views, representations.shape[-1])
        return label_contrastive_loss(features, labels, **settings)

    def forward(self, batch: Batch) -> Terms:
        assert batch.labels is not None
        return Terms({"contrast": self.loss(self.encode(_rows(batch)), batch.labels, len(batch.images))})

    def backward(self, batch: Batch, scale: float = 1.0) -> Terms:
        labels, views = batch.labels, len(batch.images)
        assert labels is not None
        chunk = self.case.params["chunk"]
        value = cached_backward(
            self.encode, lambda z: self.loss(z, labels, views), _rows(batch), chunk=chunk, scale=scale
        )
        return Terms({"contrast": value})


def _rows(batch: Batch) -> Tensor:
    return torch.stack(batch.images, dim=1).flatten(0, 1)


@pytest.mark.parametrize("case", cases("gradient_cache"), ids=str)
def test_an_objective_with_gradient_caching_equals_the_plain_one(case: GoldenCase) -> None:
    labels = case.tensor("labels") if case.has("labels") else torch.arange(len(case.inputs["inputs"]))
    batch = Batch(images=case.tensor("inputs").unbind(1), labels=labels)
    cached, plain = CachedContrast(case), CachedContrast(case)
    value = cached.backward(batch, 0.5).total
    Objective.backward(plain, batch, 0.5)
    torch.testing.assert_close(value, plain(batch).total.detach(), rtol=1e-12, atol=0)
    for name, parameter in cached.weights.items():
        # float64: sums in another order; measured 1e-15
        torch.testing.assert_close(parameter.grad, plain.weights[name].grad, rtol=1e-9, atol=1e-12)


def vit() -> nn.Module:
    return untrained_backbone(
        "vit_tiny_patch16_224", image_size=64, depth=3, embed_dim=48, num_heads=3
    ).eval()


def test_dropped_tokens_do_not_matter_and_kept_ones_do() -> None:
    backbone, images = vit(), torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    hidden = torch.zeros(2, 4, 4, dtype=torch.bool)
    hidden[0, :2] = hidden[1, 2:] = True
    with torch.no_grad():
        first = backbone.features(images, mask=TokenMask(hidden, "drop"))
        other = images.clone()
        other[0, :, :32] = 7.0
        second = backbone.features(other, mask=TokenMask(hidden, "drop"))
        plain = backbone.features(other)
    assert first.patches.shape == (2, 1, 8, 48)
    assert torch.equal(first.patches, second.patches)
    assert not torch.allclose(first.patches[0].flatten(0, 1), plain.patches[0, 2:].flatten(0, 1))


def test_everything_that_can_be_asked_for_comes_in_its_shape() -> None:
    backbone = vit()
    request = Request(blocks="all", attention=True, keys=True, class_query=True)
    with torch.no_grad():
        features = backbone.features(torch.randn(2, 3, 64, 96), request)
    assert features.blocks is not None
    assert features.blocks.patches.shape == (2, 3, 4, 6, 48)
    assert features.keys.shape == (2, 3, 4, 6, 16)
    assert features.class_query.shape == (2, 3, 16)
    assert features.attention.shape == (2, 3, 4, 6)
    torch.testing.assert_close(features.blocks.patches[:, -1], features.patches)
    assert (features.attention.sum((2, 3)) < 1).all()  # the class token's own share is cut off
    assert pool(features, "cls+patches").shape == (2, 96)


def test_requests_join_and_refuse() -> None:
    joined = Request(blocks=(0,), keys=True).joined(Request(blocks=(2, 0), attention=True))
    assert joined == Request(blocks=(0, 2), keys=True, attention=True)
    with pytest.raises(InvalidInput, match="block 7"):
        Request(blocks=(7,)).block_indices(3)
    with pytest.raises(InvalidInput, match="ask twice"):
        Request(blocks=(0,)).joined(Request(blocks=(1,), normed=False))

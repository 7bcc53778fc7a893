"""The CST head, its losses, pseudo-masks and episode rule against the authors' code."""

from __future__ import annotations

import numpy
import pytest
import torch
from golden_cases import GoldenCase, cases

from fewsight.heads.correlation import (
    CorrelationTransformer,
    correlation_tokens,
    predict_episode,
    seen_tokens,
)
from fewsight.heads.pseudo_masks import (
    PseudoMaskEnhancer,
    attention_mass_mask,
    cls_similarity,
    cst_pseudo_masks,
)
from fewsight.objectives.cst import cst_loss, enhancer_loss


@pytest.mark.parametrize("case", cases("correlation_tokens"), ids=str)
def test_correlation_tokens(case: GoldenCase) -> None:
    tensors = {name: case.tensor(name) for name in case.inputs}
    case.check(tokens=correlation_tokens(**tensors, **case.params))


# The second bound forces one query token at a time: chunking must not show.
@pytest.mark.parametrize("memory_mib", [8.0, 1e-4])
@pytest.mark.parametrize("case", cases("cst_head"), ids=str)
def test_head_and_gradients(case: GoldenCase, memory_mib: float) -> None:
    params = case.params
    size, grid = params.pop("size"), params.pop("query_grid")
    head = CorrelationTransformer(**params, memory_mib=memory_mib).double()
    head.load_state_dict(case.state_dict())
    tokens = case.tensor("tokens").double().requires_grad_()
    mask = case.tensor("support_mask") if case.has("support_mask") else None
    class_logits, mask_logits = head(tokens, mask, query_grid=grid)
    loss = cst_loss(class_logits, mask_logits, case.tensor("present"), case.tensor("target"), size=size)[0]
    loss.backward()
    gradients = {f"grad_sd:{name}": parameter.grad for name, parameter in head.named_parameters()}
    case.check(
        class_logits=class_logits, mask_logits=mask_logits, loss=loss, grad_tokens=tokens.grad, **gradients
    )


@pytest.mark.parametrize("case", cases("cst_head_published"), ids=str)
def test_published_head(case: GoldenCase) -> None:
    channels, (h, w) = case.params["in_channels"], case.params["query_grid"]
    head = CorrelationTransformer(in_channels=channels).double()
    head.load_state_dict(
        {name: seeded(j, name, value) for j, (name, value) in enumerate(head.state_dict().items())}
    )
    mask = case.tensor("support_mask")
    draws = [
        numpy.random.RandomState(500 + b).uniform(-1, 1, (channels, h * w, 145)) for b in range(len(mask))
    ]
    with torch.no_grad():
        class_logits, mask_logits = head(torch.from_numpy(numpy.stack(draws)), mask, query_grid=(h, w))
    seen = torch.stack([seen_tokens(mask, grid=(side, side)).sum(1) for side in (12, 3)], dim=1)
    case.check(class_logits=class_logits, mask_logits=mask_logits, seen=seen)


def seeded(j: int, name: str, value: torch.Tensor) -> torch.Tensor:
    """The weights of the published golden: a formula, so that 366,004 numbers need no file."""
    u = torch.from_numpy(numpy.random.RandomState(j).uniform(-1, 1, tuple(value.shape)))
    if value.ndim == 1:
        return 1 + 0.2 * u if name.endswith("weight") else 0.2 * u
    return u * (6 / value[0].numel()) ** 0.5


@pytest.mark.parametrize("case", cases("cst_parameters"), ids=str)
def test_parameters(case: GoldenCase) -> None:
    head = CorrelationTransformer(**case.params)
    state = head.state_dict()
    assert list(state) == [name for name in case.outputs if name != "total"]
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    case.check(**shapes, total=sum(p.numel() for p in head.parameters()))


@pytest.mark.parametrize("case", cases("cst_forward_rules"), ids=str)
def test_episode_rule(case: GoldenCase) -> None:
    result = predict_episode(case.tensor("class_logits"), case.tensor("mask_logits"), **case.params)
    case.check(**result._asdict())


@pytest.mark.parametrize("case", cases("cst_losses"), ids=str)
def test_losses(case: GoldenCase) -> None:
    class_logits, mask_logits = case.tensor("class_logits", grad=True), case.tensor("mask_logits", grad=True)
    result = cst_loss(class_logits, mask_logits, case.tensor("present"), case.tensor("target"), **case.params)
    result.loss.backward()
    case.check(**result._asdict(), grad_class_logits=class_logits.grad, grad_mask_logits=mask_logits.grad)


@pytest.mark.parametrize("case", cases("cst_pseudo_mask"), ids=str)
def test_pseudo_masks(case: GoldenCase) -> None:
    cls_query, support_keys, query_keys, present = map(
        case.tensor, ("cls_query", "support_keys", "query_keys", "present")
    )
    size = case.params["size"]
    masks = cst_pseudo_masks(cls_query, support_keys, query_keys, present, **case.params)
    case.check(
        **masks._asdict(),
        support_similarity=cls_similarity(cls_query, support_keys, size=size),
        query_similarity=cls_similarity(cls_query, query_keys, size=size),
    )


@pytest.mark.parametrize("case", cases("cst_pseudo_mask_enhancer"), ids=str)
def test_enhancer(case: GoldenCase) -> None:
    enhancer = PseudoMaskEnhancer(**case.params).double()
    enhancer.load_state_dict(case.state_dict())
    similarity = case.tensor("similarity").double().requires_grad_()
    enhanced = enhancer(similarity)
    loss = enhancer_loss(enhanced, case.tensor("target"))
    loss.backward()
    case.check(enhanced=enhanced, loss=loss, grad_similarity=similarity.grad)


@pytest.mark.parametrize("case", cases("attention_mass_mask"), ids=str)
def test_attention_mass_mask(case: GoldenCase) -> None:
    case.check(mask=attention_mass_mask(case.tensor("attention"), **case.params))

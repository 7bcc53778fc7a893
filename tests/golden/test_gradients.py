"""Gradient caching and LITE against full-batch gradients."""

import pytest
import torch
import torch.nn.functional as F
from golden_cases import cases

from fewsight.gradients.cache import cached_backward
from fewsight.gradients.lite import subset_gradients
from fewsight.heads.prototypes import prototype_logits
from fewsight.objectives.label_contrastive import label_contrastive_loss

WEIGHTS = ("weight_1", "bias_1", "weight_2", "bias_2")


@pytest.mark.parametrize("case", cases("gradient_cache"), ids=str)
def test_gradient_cache(case):
    settings = case.params
    chunk = settings.pop("chunk")
    weights = {name: case.tensor(name, grad=True) for name in WEIGHTS}
    for weight in weights.values():
        weight.grad = torch.ones_like(weight)
    inputs, labels = case.tensor("inputs"), case.tensor("labels")
    N, V, _ = inputs.shape
    rows_with_graph = []

    def encode(x):
        if torch.is_grad_enabled():
            rows_with_graph.append(len(x))
        hidden = F.relu(F.linear(x, weights["weight_1"], weights["bias_1"]))
        return F.normalize(F.linear(hidden, weights["weight_2"], weights["bias_2"]), dim=1)

    def loss(z):
        return label_contrastive_loss(z.reshape(N, V, -1), labels, **settings)

    value = cached_backward(encode, loss, inputs.flatten(0, 1), chunk=chunk)
    assert max(rows_with_graph) <= chunk
    assert not value.requires_grad
    case.check(loss=value, **{f"grad_{name}": weight.grad - 1 for name, weight in weights.items()})


@pytest.mark.parametrize("case", cases("lite"), ids=str)
def test_lite(case):
    rescale = case.params["rescale"]
    if case.name == "primitive":
        features = case.tensor("features", grad=True)
        values = subset_gradients(features, case.tensor("keep"), rescale=rescale)
        (values * case.tensor("cotangent")).sum().backward()
        case.check(values=values, grad_features=features.grad)
        return
    losses, gradients = [], []
    for row in [*case.tensor("subsets"), None]:
        weight = case.tensor("weight", grad=True)
        z, q = torch.tanh(case.tensor("supports") @ weight), torch.tanh(case.tensor("queries") @ weight)
        z = z if row is None else subset_gradients(z, row, rescale=rescale)
        logits = prototype_logits(q, z, case.tensor("labels"), metric="euclidean")
        loss = F.cross_entropy(logits, case.tensor("query_targets"))
        loss.backward()
        losses.append(loss.detach())
        gradients.append(weight.grad)
    # The loss is the same to the last bit, whatever rows are kept.
    assert all(loss == losses[0] for loss in losses)
    subsets = torch.stack(gradients[:-1])
    case.check(
        loss=losses[0],
        grad_weight_subsets=subsets,
        grad_weight_mean=subsets.mean(0),
        grad_weight_full=gradients[-1],
    )

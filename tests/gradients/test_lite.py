"""LITE: exact values, the mean over subsets is the full gradient, draws by (seed, step); errors."""

import itertools

import pytest
import torch

from fewsight.errors import InvalidInput
from fewsight.gradients.lite import draw_subset, subset_gradients


def test_mean_over_all_subsets_is_the_full_gradient_for_any_loss():
    torch.manual_seed(0)
    inputs, weight = torch.randn(5, 4).double(), torch.randn(4, 3).double()

    def gradient(keep):
        w = weight.clone().requires_grad_()
        z = torch.tanh(inputs @ w)
        z = z if keep is None else subset_gradients(z, keep)
        torch.logsumexp(z @ z.T, 1).sum().backward()  # far from linear in z
        return w.grad

    subsets = [gradient(torch.tensor(rows)) for rows in itertools.combinations(range(5), 2)]
    torch.testing.assert_close(torch.stack(subsets).mean(0), gradient(None), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_values_stay_the_same_to_the_last_bit(dtype):
    features = (torch.randn(6, 2, 3) * 1e3).to(dtype)
    assert torch.equal(subset_gradients(features, torch.tensor([1, 4])), features)
    assert subset_gradients(features, torch.tensor([1, 4])).dtype == dtype


def test_subsets_are_drawn_by_seed_and_step():
    first = draw_subset(10, 4, seed=0, step=1)
    assert torch.equal(first, draw_subset(10, 4, seed=0, step=1))
    assert len({tuple(draw_subset(10, 4, seed=0, step=step).tolist()) for step in range(20)}) > 15
    assert draw_subset(3, 40, seed=0, step=0).tolist() == [0, 1, 2]
    counts = torch.zeros(10)
    for step in range(500):
        counts[draw_subset(10, 4, seed=1, step=step)] += 1
    assert (counts / 500 - 0.4).abs().max() < 0.1  # three deviations of a share are 0.066


@pytest.mark.parametrize(
    "keep",
    [
        torch.tensor([], dtype=torch.long),
        torch.tensor([0, 0]),
        torch.tensor([3]),
        torch.tensor([-1]),
        torch.ones(3).bool(),
    ],
)
def test_errors_name_the_argument(keep):
    with pytest.raises(InvalidInput, match="keep"):
        subset_gradients(torch.zeros(3, 2), keep)
    with pytest.raises(InvalidInput):
        draw_subset(0, 1, seed=0, step=0)

"""Sums over features: the same from parts as from the whole, in blocks, and without cancellation."""

import pytest
import torch

from fewsight.evaluation.feature_sums import BLOCK_ROWS, ClassSums, Scatter, unit_rows


def data(N=3 * BLOCK_ROWS + 17, D=140, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(N, D, generator=generator, dtype=torch.float64) + 2
    return features.to(dtype), torch.randint(5, (N,), generator=generator) * 2 - 3


@pytest.mark.parametrize(
    ("dtype", "product"), [(torch.float64, None), (torch.float32, None), (torch.float32, torch.float64)]
)
def test_scatter_is_covariance_times_rows_less_one(dtype, product):
    features, _ = data(dtype=dtype)
    scatter = Scatter.of(features, product_dtype=product)
    exact = torch.cov(features.double().T) * (len(features) - 1)
    # Products of float32 carry 1e-7 each and add up over 3000 rows.
    tolerance = 1e-10 if product or dtype == torch.float64 else 1e-5
    torch.testing.assert_close(scatter.matrix, exact, rtol=tolerance, atol=tolerance * len(features))
    torch.testing.assert_close(scatter.mean, features.double().mean(0), rtol=1e-6, atol=0)
    raw = features.double().T @ features.double()
    torch.testing.assert_close(scatter.uncentred(), raw, rtol=tolerance, atol=tolerance * len(features))
    assert torch.equal(scatter.matrix, scatter.matrix.T)


def test_parts_merge_to_the_whole():
    features, labels = data()
    cut = 1000
    merged = Scatter.of(features[:cut]).merged(Scatter.of(features[cut:]))
    for part, whole in zip(merged, Scatter.of(features), strict=True):
        torch.testing.assert_close(part, whole, rtol=1e-10, atol=1e-8)
    first = labels[:cut].clamp(min=1)  # the two parts hold different classes
    both = torch.cat([first, labels[cut:]])
    for unit in (False, True):
        merged = ClassSums.of(features[:cut], first, unit=unit).merged(
            ClassSums.of(features[cut:], labels[cut:], unit=unit)
        )
        for part, whole in zip(merged, ClassSums.of(features, both, unit=unit), strict=True):
            torch.testing.assert_close(part, whole, rtol=1e-10, atol=1e-10)


def test_class_sums_equal_sums_over_masks():
    features, labels = data(50, 4)
    sums = ClassSums.of(features, labels, unit=False)
    for column, label in enumerate(sums.classes):
        rows = features[labels == label]
        torch.testing.assert_close(sums.sums[column], rows.sum(0))
        assert sums.counts[column] == len(rows)
        torch.testing.assert_close(sums.squares[column], rows.square().sum())


def test_constant_rows_are_found_out_at_any_offset():
    for value in (0.0, 0.1, 1e6):
        assert Scatter.of(torch.full((5, 3), value)).constant
        moving = torch.full((5, 3), value, dtype=torch.float64)
        moving[0, 0] += max(value, 1) * 1e-6
        assert not Scatter.of(moving).constant


@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_unit_rows_at_the_ends_of_the_range(scale):
    rows = torch.tensor([[3.0, 4.0], [0.0, 0.0]]) * scale
    torch.testing.assert_close(unit_rows(rows), torch.tensor([[0.6, 0.8], [0.0, 0.0]]))

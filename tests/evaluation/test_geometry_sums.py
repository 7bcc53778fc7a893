"""Measures from a stream: those of the whole set, whatever the parts; errors."""

import pytest
import torch

from fewsight.errors import InvalidInput
from fewsight.evaluation import geometry
from fewsight.evaluation.geometry_sums import GeometrySums

LABELLED = {"intra_class_cosine", "inter_class_cosine", "alignment", "class_separation", "nc1"}


def data(N=2500, D=9, offset=3.0):
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(6, (N,), generator=generator)
    centres = torch.randn(6, D, generator=generator, dtype=torch.float64)
    return torch.randn(N, D, generator=generator, dtype=torch.float64) + centres[labels] + offset, labels


@pytest.mark.parametrize(
    "offset", [0.0, 3.0, 1e4]
)  # the last a narrow cone, where plain sums of squares cancel
def test_merged_parts_give_the_measures_of_the_whole(offset):
    features, labels = data(offset=offset)
    merged = None
    for rows, names in zip(features.split(700), labels.split(700), strict=True):
        part = GeometrySums.of(rows, names)
        merged = part if merged is None else merged.merged(part)
    for name, value in merged.measures().items():
        whole = getattr(geometry, name)(*((features, labels) if name in LABELLED else (features,)))
        # At offset 1e4 cosines are 1 - 1e-8, and their differences keep half the digits.
        assert value == pytest.approx(whole.item(), rel=1e-8 if offset < 1e4 else 1e-5, abs=1e-8), name


def test_order_of_merging_does_not_matter():
    features, labels = data(90)
    first, second = (GeometrySums.of(features[rows], labels[rows]) for rows in (slice(50), slice(50, None)))
    one, other = first.merged(second).measures(), second.merged(first).measures()
    assert one == pytest.approx(other, rel=1e-10)


def test_fewer_rows_than_columns():
    features, labels = data(8, 20)
    measures = GeometrySums.of(features, labels).measures()
    for name in ("participation_ratio", "effective_rank", "rankme"):
        # Roots of eigenvalues that should be 0 are 1e-8 of the largest.
        assert measures[name] == pytest.approx(getattr(geometry, name)(features).item(), rel=1e-4), name


def test_errors():
    with pytest.raises(InvalidInput, match="labels"):
        GeometrySums.of(torch.zeros(3, 2), torch.zeros(2, dtype=torch.long))

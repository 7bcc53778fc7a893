"""The fourteen measures against a pair-by-pair oracle."""

import pytest
import torch
from golden_cases import cases

from fewsight.evaluation import geometry

WITH_LABELS = {"intra_class_cosine", "inter_class_cosine", "alignment", "class_separation", "nc1"}


def run(case, dtype=torch.float64):
    features, labels = case.tensor("features").to(dtype), case.tensor("labels")
    results = {}
    for name in case.outputs:
        arguments = (features, labels) if name in WITH_LABELS else (features,)
        if name == "log_partition_isotropy":
            results[name] = geometry.partition_isotropy(features, log=True)
        elif name == "isoscore_star":
            results[name] = geometry.isoscore_star(features, case.params["shrinkage"])
        elif name == "spectrum_exponent":
            results[name] = geometry.spectrum_exponent(features, case.params["first"], case.params["last"])
        else:
            results[name] = getattr(geometry, name)(*arguments)
    return results


@pytest.mark.parametrize("case", cases("geometry"), ids=str)
def test_golden(case):
    results = run(case)
    assert all(value.dtype == torch.float64 and value.shape == () for value in results.values())
    case.check(**results)

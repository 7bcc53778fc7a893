"""RankMe, feature standard deviation and LiDAR against their published definitions."""

import pytest
from golden_cases import cases

from fewsight.evaluation.geometry import feature_std, lidar, rankme


@pytest.mark.parametrize("case", cases("collapse_diagnostics"), ids=str)
def test_golden(case):
    features = case.tensor("features")
    if features.ndim == 3:
        case.check(lidar=lidar(features, **case.params))
    else:
        case.check(rankme=rankme(features, **case.params), feature_std=feature_std(features))

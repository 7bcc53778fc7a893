"""Golden vectors of low-shot logistic regression."""

import pytest
from golden_cases import cases

from fewsight.heads.logistic import logistic_regression


@pytest.mark.parametrize("case", cases("low_shot_logreg"), ids=str)
def test_low_shot_protocol(case):
    arguments = {name: case.tensor(name) for name in ("features", "labels", "test_features")}
    case_result = logistic_regression(**arguments, **case.params)
    case.check(**{name: value for name, value in case_result._asdict().items() if name in case.outputs})

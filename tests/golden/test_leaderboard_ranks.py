"""The published ranks of Meta-Dataset's leaderboard."""

import pytest
from golden_cases import cases

from fewsight.evaluation.episodes import leaderboard_ranks


@pytest.mark.parametrize("case", cases("leaderboard_ranks"), ids=str)
def test_golden(case):
    case.check(**leaderboard_ranks(**case.inputs)._asdict())

"""Processes started on this machine: what one says reaches the caller, and ends all."""

from __future__ import annotations

import pytest
import torch

from fewsight import distributed
from fewsight.errors import FewsightError, InvalidInput
from fewsight.launch import joined, launch


def task() -> None:
    with joined():
        if distributed.rank() == 1:
            raise FewsightError("the second one has no disk")
        distributed.all_reduce_sum(torch.ones(1))  # would wait for ever


@pytest.mark.slow
def test_what_one_says_ends_all() -> None:
    with pytest.raises(FewsightError, match="the second one has no disk"):
        launch(task, {}, 2)


def test_one_process_joins_nothing_and_none_is_refused() -> None:
    with joined():
        assert distributed.world_size() == 1
    with pytest.raises(InvalidInput, match="devices is 0"):
        launch(task, {}, 0)

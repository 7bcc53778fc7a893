"""Segmentation and multi-label measures against the authors' meters, scikit-learn and VISSL."""

from __future__ import annotations

import pytest
from golden_cases import GoldenCase, cases

from fewsight.evaluation.multilabel import average_precision, exact_ratio, precision_recall_f1
from fewsight.evaluation.segmentation import fewshot_segmentation_metrics, segmentation_metrics


@pytest.mark.parametrize("case", cases("fscs_metrics"), ids=str)
def test_few_shot_segmentation(case: GoldenCase) -> None:
    maps = [case.tensor(name) for name in ("predictions", "targets", "way_classes")]
    results = {}
    for void in ("published", "strict"):
        figures = fewshot_segmentation_metrics(*maps, **case.params, void=void)
        results |= {f"{void}_{name}": value for name, value in figures._asdict().items()}
    ratio = exact_ratio(case.tensor("present_predicted"), case.tensor("present"))
    case.check(**results, exact_ratio=ratio)


@pytest.mark.parametrize("case", cases("segmentation_metrics"), ids=str)
def test_segmentation(case: GoldenCase) -> None:
    case.check(**segmentation_metrics(case.tensor("predictions"), case.tensor("targets"), **case.params))


@pytest.mark.parametrize("case", cases("multilabel_metrics"), ids=str)
def test_multi_label(case: GoldenCase) -> None:
    scores, targets = case.tensor("scores"), case.tensor("targets")
    results = {}
    for mode in ("average", "area", "11point"):
        results[f"ap_{mode}"] = average_precision(scores, targets, mode)
        results[f"map_{mode}"] = results[f"ap_{mode}"].nanmean()
    for kind, setting in (("threshold", "threshold"), ("top", "top")):
        figures = precision_recall_f1(scores, targets, **{setting: case.params[kind]})
        results |= {f"{name}_{kind}": value for name, value in figures.items()}
    case.check(**results)

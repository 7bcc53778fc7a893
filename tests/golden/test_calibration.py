"""Golden vectors of calibration and of conformal sets."""

import pytest
import torch
from golden_cases import cases

from fewsight.evaluation.calibration import (
    auroc,
    conformal_sets,
    conformal_threshold,
    expected_calibration_error,
    fit_temperature,
    fpr_at_tpr,
    full_conformal_p_values,
    jackknife_plus_sets,
    negative_log_likelihood,
)


@pytest.mark.parametrize("case", cases("calibration"), ids=str)
def test_calibration(case):
    results = {}
    if case.has("scores"):
        scores, positives = case.tensor("scores"), case.tensor("positives")
        results["auroc"] = auroc(scores, positives)
        results["fpr_at_tpr"] = fpr_at_tpr(scores, positives, **case.params)
    else:
        labels = case.tensor("labels")
        if case.has("logits"):
            logits = case.tensor("logits")
            results["temperature"] = fit_temperature(logits, labels)
            results["nll_before"] = negative_log_likelihood(logits, labels)
            results["nll_after"] = negative_log_likelihood(logits, labels, results["temperature"])
        probabilities = logits.softmax(1) if case.has("logits") else case.tensor("probabilities")
        for scheme in ("width", "mass"):
            results[f"ece_{scheme}"] = expected_calibration_error(
                probabilities, labels, scheme=scheme, **case.params
            )
    case.check(**results)


@pytest.mark.parametrize("case", cases("conformal"), ids=str)
def test_conformal(case):
    if case.name.startswith("jackknife"):
        sets = jackknife_plus_sets(
            case.tensor("left_out_scores"), case.tensor("candidate_scores"), **case.params
        )
        case.check(sets=sets)
    elif case.name.startswith("full"):
        arguments = [case.tensor(name) for name in ("features", "labels", "queries")]
        case.check(p_values=full_conformal_p_values(*arguments, **case.params))
    else:
        threshold = conformal_threshold(case.tensor("calibration"), case.tensor("labels"), **case.params)
        sets = conformal_sets(case.tensor("probabilities"), threshold, score=case.params["score"])
        assert sets.dtype == torch.bool
        case.check(threshold=threshold, sets=sets)

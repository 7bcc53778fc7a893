"""Golden vectors of the k-NN protocol."""

import pytest
from golden_cases import cases

from fewsight.evaluation.neighbours import knn_probabilities


@pytest.mark.parametrize("case", cases("dino_knn"), ids=str)
def test_votes(case):
    arguments = {name: case.tensor(name) for name in ("queries", "train_features", "train_labels")}
    probabilities = knn_probabilities(**arguments, **case.params)
    predictions = probabilities.argmax(1)
    top1 = 100 * (predictions == case.tensor("query_labels")).double().mean()
    case.check(probabilities=probabilities, predictions=predictions, top1=top1)

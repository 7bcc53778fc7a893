"""The k-NN protocol's probabilities, under the name that measures go by."""

from fewsight.heads.neighbours import knn_probabilities

__all__ = ["knn_probabilities"]

"""Matching networks: every support speaks for its classes, the more the more alike it is.

Oriol Vinyals, Charles Blundell, Timothy Lillicrap, Koray Kavukcuoglu, Daan Wierstra, "Matching Networks for One Shot
Learning", NeurIPS 2016 (arXiv 1606.04080), equations 1 and 2, without the full-context embeddings:

    p[q, c] = sum over supports j of class c of softmax_j(cos(x_q, s_j) / temperature)

Differs from the paper: the softmax has a temperature; at 1, as there, cosines of a frozen backbone differ too little
to outweigh the number of photos in a class. It is the nearest-neighbour head in which all supports vote.
"""

from __future__ import annotations

import sys
from typing import Any

from fewsight.backbones.features import Pooling
from fewsight.heads.neighbours import Neighbours

__all__ = ["Matching"]


class Matching(Neighbours):
    """Scores whose softmax at `temperature` is the attention summed over the supports of each class.

    Args:
        temperature: of the attention, positive.
        pooling: which tokens serve as the vector of an image.
    """

    def __init__(self, *, temperature: float = 0.07, pooling: Pooling = "cls") -> None:
        super().__init__(k=sys.maxsize, temperature=temperature, pooling=pooling)

    def settings(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"temperature": self.temperature, "pooling": self.pooling}

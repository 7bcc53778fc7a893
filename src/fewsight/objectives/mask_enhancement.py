"""Training of CST's pseudo-label enhancer on the photos that have masks (Kang, Koniusz, Cho and Murray, CVPR 2023).

The authors lost their training code (issue 1 of their repository); layers and input are theirs, all else here is ours:
input (cosine + 1) / 2 of each head at patch resolution, from a support to itself and to a query of its class; target =
share of the class's pixels in each patch; mean binary cross entropy. Trained first, then frozen.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fewsight.backbones.backbone import Backbone
from fewsight.backbones.features import Request
from fewsight.errors import InvalidInput
from fewsight.heads.pseudo_masks import PseudoMaskEnhancer, head_similarity
from fewsight.objectives.cst import QUERY, VOID, enhancer_loss
from fewsight.objectives.objective import Batch, Objective, Sampling, Terms

__all__ = ["MaskEnhancement"]


class MaskEnhancement(Objective):
    """Trains a `PseudoMaskEnhancer` on pairs as `CST` takes them; the backbone is frozen.

    Only images with a mask count (not 255 throughout), and queries only where they have the class.
    """

    sampling: Sampling = "episodes"

    def __init__(self, backbone: Backbone, enhancer: PseudoMaskEnhancer) -> None:
        super().__init__()
        self.encoder, self.enhancer = backbone.requires_grad_(False), enhancer.requires_grad_(True)
        self.request = Request(keys=True, class_query=True)

    def backbone(self) -> nn.Module:
        """The frozen encoder."""
        return self.encoder

    def forward(self, batch: Batch) -> Terms:
        """`enhancer`: the loss of the support's own map and of the map that it gives its query.

        Raises:
            InvalidInput: features, labels, roles or masks are missing.
        """
        features = batch.features
        if features is None or batch.labels is None or batch.roles is None or batch.masks is None:
            raise InvalidInput("the enhancer needs stored features, labels, roles and masks.")
        is_query = batch.roles == QUERY
        supports, queries = features.rows(~is_query), features.rows(is_query)
        query, own, others = supports.class_query, supports.keys, queries.keys
        if query is None or own is None or others is None:
            raise InvalidInput("the features hold no keys and class query; ask with `request`.")
        similarity = torch.cat([head_similarity(query, own), head_similarity(query, others)])
        share, known = _shares(batch.masks, (own.shape[2], own.shape[3]))
        counts = known & batch.labels.bool().flatten()
        if not bool(counts.any()):
            return Terms({"enhancer": self.enhancer((similarity[:1] + 1) / 2).sum() * 0})
        return Terms({"enhancer": enhancer_loss(self.enhancer((similarity[counts] + 1) / 2), share[counts])})


def _shares(masks: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Foreground share of each patch [B, h, w] (void counts as background), and which images have a mask [B]."""
    known = ~(masks == VOID).flatten(1).all(1)
    return F.adaptive_avg_pool2d((masks == 1)[:, None].float(), grid)[:, 0], known

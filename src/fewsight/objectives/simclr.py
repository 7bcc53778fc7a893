"""SimCLR: the normalised temperature-scaled cross-entropy (NT-Xent).

Chen, Kornblith, Norouzi, Hinton: A Simple Framework for Contrastive Learning of Visual Representations
(ICML 2020), equation 1 and algorithm 1. With z the 2B unit rows of both views and S = z z^T / T:

    L = -1/(2B)  sum over i of  [ S_i,pos(i) - logsumexp over j != i of S_ij ]

ln(2B - 1) for a collapsed batch.

Differs from the authors' code: theirs adds the means of the two views, which is 2 L. Ranks are gathered with
gradient, as each row is a query here and a negative elsewhere.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from fewsight.backbones.backbone import Backbone
from fewsight.data.views import ViewSpec
from fewsight.distributed import gather, rows_before, world_size
from fewsight.errors import InvalidInput
from fewsight.objectives.blocks import full_precision
from fewsight.objectives.crops import checked_views, vectors
from fewsight.objectives.distillation import Student
from fewsight.objectives.info_nce import contrastive_sum, unit_rows
from fewsight.objectives.objective import Batch, Objective, Terms
from fewsight.objectives.projection_heads import mlp
from fewsight.objectives.ranges import check_positive
from fewsight.shapes import check_shapes

__all__ = ["SimClr", "SimClrSettings", "nt_xent"]


def nt_xent(z1: Tensor, z2: Tensor, temperature: float) -> Tensor:
    """NT-Xent of two views, mean over the 2B anchors.

    Args:
        z1, z2: projections `[B, D]` of the two views of the same images; normalised inside.
        temperature: above 0; published 0.1 (0.5 for small images).

    Returns:
        Scalar. Peak memory: gradients and one block of scores, never 2B x 2B.

    Raises:
        InvalidInput: wrong shapes, no images, temperature not above 0.

    >>> round(nt_xent(torch.ones(4, 2), torch.ones(4, 2), 0.1).item(), 4)  # collapsed: ln 7
    1.9459
    """
    B = check_shapes(z1=(z1, "B D"), z2=(z2, "B D"))["B"]
    check_positive(temperature=temperature)
    if B < 1:
        raise InvalidInput(f"z1 has shape {list(z1.shape)}; expected at least one image.")
    with full_precision(z1):
        queries = torch.cat([unit_rows(z1), unit_rows(z2)])
        keys, first = gather(queries), rows_before(queries)
    local = torch.arange(2 * B, device=z1.device)
    positives = first + (local + B) % (2 * B)
    return (
        contrastive_sum(queries, keys, positives, temperature, itself=first + local)
        * world_size()
        / len(keys)
    )


@dataclass(frozen=True)
class SimClrSettings:
    """Defaults of the authors' code for ImageNet.

    Attributes:
        temperature: 0.1; 0.5 for small images.
        projection: width of the compared vectors.
        layers: of the projector, whose hidden layers are as wide as the backbone; 2 in the first edition.
        scale: area of the crops.
    """

    temperature: float = 0.1
    projection: int = 128
    layers: int = 3
    scale: tuple[float, float] = (0.08, 1.0)

    def __post_init__(self) -> None:
        check_positive(temperature=self.temperature, projection=self.projection, layers=self.layers)


class SimClr(Objective):
    """Two views of each photo, each told from all others of the batch; any backbone."""

    settings_type = SimClrSettings

    def __init__(self, backbone: Backbone, settings: SimClrSettings = SimClrSettings()) -> None:
        super().__init__()
        widths = [*[backbone.dim] * settings.layers, settings.projection]
        self.student = Student(backbone, mlp(widths, last="scaled"))
        self.settings = settings
        self.views = (ViewSpec(2, backbone.image_size[0], "simclr", settings.scale),)
        self._seen: dict[str, Tensor] = {}

    def backbone(self) -> Backbone:
        """The trained encoder."""
        return self.student.backbone

    def forward(self, batch: Batch) -> Terms:
        """`contrast`."""
        images = checked_views(batch, self.views)
        features = vectors(self.student.backbone, images)
        first, second = self.student.head(features).chunk(2)
        loss = nt_xent(first, second, self.settings.temperature)
        rows = 2 * len(first) * world_size()
        self._seen = {
            "loss": loss.detach(),
            "collapsed_loss": torch.tensor(math.log(max(1, rows - 1))),
            "features": features[: len(first)].detach(),
        }
        return Terms({"contrast": loss})

    def watched(self) -> dict[str, Tensor]:
        """The loss beside that of a collapsed batch, and features of one view."""
        return self._seen

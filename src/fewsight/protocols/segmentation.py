"""Segmentation with frozen features: one linear layer on the patch tokens, mean IoU over all pixels of the test photos.

The light form of DINOv2's linear protocol (Oquab et al. 2023, arXiv 2304.07193, section 7.4): patch tokens after the
last normalisation, standardised, one linear layer; its logits on the patch grid are enlarged to the size of the mask
(bilinear, corners not aligned) before the largest is taken. Pixels of the ignore index count nowhere.

Differs from the published runs: the layer is solved by L-BFGS on whole patches, whose targets are the shares of the
classes among their pixels (published: many epochs of AdamW on enlarged logits); one size, no sliding window.
Letters: n patches, D width, K classes, h w patch grid, H W pixels, M photos.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fewsight.errors import InvalidInput
from fewsight.evaluation.intervals import Interval
from fewsight.evaluation.resampled import Resampled
from fewsight.evaluation.segmentation import segmentation_metrics
from fewsight.seeding import numpy_generator
from fewsight.shapes import check_shapes

__all__ = [
    "LinearSegmentation",
    "SegmentationResult",
    "fit_linear_segmentation",
    "judge_segmentation",
    "patch_targets",
]

LEAST_KNOWN = 0.5  # share of a patch's pixels that must have a label


@dataclass(frozen=True)
class LinearSegmentation:
    """A linear layer on standardised patch tokens: `mean`, `scale` [D], `weights` [K, D], `bias` [K]."""

    mean: Tensor
    scale: Tensor
    weights: Tensor
    bias: Tensor

    def logits(self, patches: Tensor) -> Tensor:
        """`[K, h, w]` of one photo's patch tokens `[h, w, D]`."""
        rows = (patches - self.mean) * self.scale
        return (rows @ self.weights.T + self.bias).permute(2, 0, 1)

    def label_map(self, patches: Tensor, size: tuple[int, int]) -> Tensor:
        """Class of each pixel, long `[H, W]`."""
        enlarged = F.interpolate(self.logits(patches)[None], size=size, mode="bilinear", align_corners=False)
        return enlarged[0].argmax(0)


@dataclass(frozen=True)
class SegmentationResult:
    """What came of M photos.

    Attributes:
        iou: of each class over all pixels, float64 [K]; NaN for a class that is in no mask and no answer.
        resampled: `mean IoU` and `pixel accuracy`, and those of each draw of the photos; the draws are a function of
            the seed and the number of photos.
    """

    iou: Tensor
    resampled: dict[str, Resampled]

    @property
    def miou(self) -> Interval:
        """With its 95 % interval (bootstrap over photos)."""
        return self.resampled["mean IoU"].interval

    @property
    def accuracy(self) -> Interval:
        """Share of right pixels, likewise."""
        return self.resampled["pixel accuracy"].interval


def patch_targets(labels: Tensor, grid: tuple[int, int], num_classes: int, ignore_index: int = -1) -> Tensor:
    """Share of each class among all pixels of each patch, `[h w, K]`; rows sum to the share of known pixels.

    Args:
        labels: class of each pixel, `[H, W]`, 0..K-1 or `ignore_index`.
        grid: (h, w).

    Raises:
        InvalidInput: a label is out of range.

    >>> patch_targets(torch.tensor([[0, 1], [1, -1]]), (1, 1), 2)
    tensor([[0.2500, 0.5000]])
    """
    check_shapes(labels=(labels, "H W"))
    known = labels != ignore_index
    if known.any() and not 0 <= int(labels[known].min()) <= int(labels[known].max()) < num_classes:
        raise InvalidInput(
            f"labels run from {int(labels[known].min())} to {int(labels[known].max())}; expected 0 to "
            f"{num_classes - 1}."
        )
    one_hot = F.one_hot(torch.where(known, labels, num_classes).long(), num_classes + 1)[..., :num_classes]
    shares = F.adaptive_avg_pool2d(one_hot.permute(2, 0, 1).float(), grid)  # [K, h, w]
    return shares.flatten(1).T


def fit_linear_segmentation(
    patches: Tensor, targets: Tensor, *, penalty: float = 1e-4, steps: int = 100
) -> LinearSegmentation:
    """Fit the layer: mean cross-entropy of the patches plus `penalty / 2` times the squared weights.

    Patches less than half of whose pixels are known are left out.

    Args:
        patches: tokens `[n, D]`.
        targets: `[n, K]` of `patch_targets`.
        penalty: at least 0.
        steps: of L-BFGS.

    Raises:
        InvalidInput: shapes disagree, or no patch is known.
    """
    check_shapes(patches=(patches, "n D"), targets=(targets, "n K"))
    share = targets.sum(1)
    known = share > LEAST_KNOWN
    if not known.any():
        raise InvalidInput("no patch has a label for most of its pixels: give masks with more labelled area.")
    rows, goals = patches[known].float(), (targets[known] / share[known, None]).float()
    mean, spread = rows.mean(0), rows.std(0, correction=0)
    scale = torch.where(spread > 0, 1 / spread.clamp(min=1e-12), 0)
    rows = (rows - mean) * scale
    weights = torch.zeros(goals.shape[1], rows.shape[1], requires_grad=True)
    bias = torch.zeros(goals.shape[1], requires_grad=True)
    solver = torch.optim.LBFGS(
        [weights, bias], max_iter=steps, history_size=10, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(rows @ weights.T + bias, goals) + penalty / 2 * weights.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        solver.step(loss)  # type: ignore[no-untyped-call]
    return LinearSegmentation(mean, scale, weights.detach(), bias.detach())


def judge_segmentation(
    answers: Iterable[tuple[Tensor, Tensor]],
    num_classes: int,
    *,
    ignore_index: int = -1,
    resamples: int = 200,
    seed: int = 0,
) -> SegmentationResult:
    """Mean IoU and pixel accuracy over all pixels of all photos; the photos may differ in size.

    Args:
        answers: for each photo the class of each pixel, answered and true, `[H, W]` both; read one at a time.
        num_classes: K.
        ignore_index: true value of pixels that count nowhere.
        resamples: of the photos, for the intervals.

    Raises:
        InvalidInput: shapes differ, a class is out of range, or there is no photo.
    """
    parts = []
    for answered, true in answers:
        found = segmentation_metrics(answered[None], true[None], num_classes, ignore_index)["confusion"]
        parts.append(torch.stack([found.diagonal(), found.sum(1), found.sum(0)]))
    if not parts:
        raise InvalidInput("there is no photo to be judged.")
    sums = torch.stack(parts).double()  # [M, 3, K]: right, true and answered pixels
    M = len(sums)
    times = numpy_generator(seed, "segmentation resamples").multinomial(M, [1 / M] * M, size=resamples)
    again = torch.einsum("rm,mck->rck", torch.from_numpy(times).double(), sums)
    total = sums.sum(0)
    resampled = {
        "mean IoU": Resampled(float(_iou(total).nanmean()), _iou(again).nanmean(-1).numpy(), M),
        "pixel accuracy": Resampled(float(_accuracy(total)), _accuracy(again).numpy(), M),
    }
    return SegmentationResult(_iou(total), resampled)


def _iou(sums: Tensor) -> Tensor:
    """`[..., K]` of `[..., 3, K]`."""
    right, true, answered = sums.unbind(-2)
    return right / (true + answered - right)


def _accuracy(sums: Tensor) -> Tensor:
    return sums[..., 0, :].sum(-1) / sums[..., 1, :].sum(-1)

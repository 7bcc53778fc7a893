"""Linear segmentation: shares of patches counted by hand, a layer that scikit-learn also finds, IoU over all pixels."""

from __future__ import annotations

import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression

from fewsight.errors import InvalidInput
from fewsight.evaluation.segmentation import segmentation_metrics
from fewsight.protocols.segmentation import fit_linear_segmentation, judge_segmentation, patch_targets


def test_patch_targets_are_shares_of_pixels() -> None:
    labels = torch.randint(-1, 3, (12, 20), generator=torch.Generator().manual_seed(0))
    found = patch_targets(labels, (3, 5), 3)
    for patch in range(15):
        top, left = patch // 5 * 4, patch % 5 * 4
        block = labels[top : top + 4, left : left + 4]
        for k in range(3):
            assert float(found[patch, k]) == pytest.approx(float((block == k).float().mean()), abs=1e-6)
    with pytest.raises(InvalidInput, match="0 to 1"):
        patch_targets(labels, (3, 5), 2)
    assert not patch_targets(torch.full((4, 4), -1), (2, 2), 3).any()


def test_layer_is_that_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(1)
    labels = torch.arange(3).repeat(60)
    patches = torch.randn(3, 6, generator=generator)[labels] + torch.randn(180, 6, generator=generator)
    patches = 5 * patches + 2
    targets = torch.nn.functional.one_hot(labels, 3).float()
    layer = fit_linear_segmentation(patches, targets, penalty=0.01, steps=500)
    standard = (patches - patches.mean(0)) / patches.std(0, correction=0)
    theirs = LogisticRegression(C=1 / (0.01 * 180), tol=1e-9, max_iter=5000).fit(standard, labels)
    ours = layer.logits(patches[:, None]).flatten(1).T.softmax(1)
    # float32 L-BFGS stops at a change of 1e-9 in the loss
    torch.testing.assert_close(
        ours, torch.from_numpy(theirs.predict_proba(standard)).float(), atol=2e-3, rtol=0
    )


def test_patches_that_are_mostly_unknown_teach_nothing() -> None:
    patches = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [0.9, 0.1]])
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.4, 0.0], [0.0, 0.0]])
    layer = fit_linear_segmentation(patches, targets)
    grid = torch.stack([patches[0], patches[1]])[None]  # [1, 2, D]
    assert layer.label_map(grid, (4, 8)).tolist() == [[0] * 4 + [1] * 4] * 4
    assert not torch.isnan(layer.logits(torch.ones(1, 1, 2))).any()
    with pytest.raises(InvalidInput, match="no patch"):
        fit_linear_segmentation(patches, torch.zeros(4, 2))


def test_iou_is_over_all_pixels_of_photos_of_any_size() -> None:
    generator = torch.Generator().manual_seed(2)
    photos = [
        (torch.randint(0, 3, (4, n), generator=generator), torch.randint(-1, 3, (4, n), generator=generator))
        for n in range(3, 15)
    ]
    found = judge_segmentation(photos, 4)
    joined = segmentation_metrics(*(torch.cat(part, 1)[None] for part in zip(*photos, strict=True)), 4, -1)
    torch.testing.assert_close(found.iou, joined["iou"], equal_nan=True)
    assert found.miou.mean == pytest.approx(joined["miou"])
    assert found.accuracy.mean == pytest.approx(joined["accuracy"])
    assert found.miou.low < found.miou.mean < found.miou.high
    assert math.isnan(float(found.iou[3]))
    alone = judge_segmentation(photos[:1], 3)
    assert math.isnan(alone.miou.low)
    assert math.isnan(judge_segmentation([(photos[0][0], torch.full((4, 3), -1))], 3).accuracy.mean)
    with pytest.raises(InvalidInput, match="no photo"):
        judge_segmentation([], 3)

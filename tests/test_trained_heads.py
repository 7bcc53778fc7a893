"""Trained CST heads as folders: written and read again, refused where they do not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fewsight.backbones.bundled import load_bundled
from fewsight.errors import IncompatibleModel, InvalidInput
from fewsight.heads.correlation_head import CorrelationHead
from fewsight.model import SavedModel, read_model, write_model
from fewsight.trained_heads import SHIPPED, is_head_folder, read_cst, shipped_cst, write_cst


def made() -> CorrelationHead:
    torch.manual_seed(0)
    return CorrelationHead.for_backbone(
        load_bundled(),
        widths=(16, 32),
        pools=(4, 2),
        pseudo_masks="enhanced",
        shots="joint",
        centred_width=-1,
        calibration=(1.5, -0.25),
    )


def test_a_head_comes_back_as_it_was(tmp_path: Path) -> None:
    head, backbone = made(), load_bundled()
    head.centre_on(backbone.features(torch.randn(1, 3, 64, 64), head.request))
    write_cst(tmp_path / "head", head, backbone, {"data": "of a test"})
    assert is_head_folder(tmp_path / "head")
    again = read_cst(tmp_path / "head", backbone)
    assert (again.shots, again.pseudo_masks, again.calibration) == ("joint", "enhanced", (1.5, -0.25))
    assert again.learner.widths == (16, 32)
    for name, value in head.state_dict().items():
        # Weights are kept in half precision.
        torch.testing.assert_close(again.state_dict()[name], value, rtol=1e-3, atol=1e-4)
    assert read_model(tmp_path / "head").description["provenance"]["data"] == "of a test"


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    head, backbone = made(), load_bundled()
    write_cst(tmp_path / "head", head, backbone, {})
    with torch.no_grad():
        backbone.norm.weight.mul_(1.01)
    with pytest.raises(IncompatibleModel, match="trained on fewsight-bundled"):
        read_cst(tmp_path / "head", backbone)
    with pytest.raises(InvalidInput, match="not a model folder"):
        read_cst(tmp_path, load_bundled())
    saved = read_model(tmp_path / "head")
    saved.description["head"]["settings"]["widths"] = [16, 48]
    write_model(tmp_path / "changed", SavedModel("head", saved.description, saved.tensors))
    with pytest.raises(IncompatibleModel, match="does not describe a CST head"):
        read_cst(tmp_path / "changed", load_bundled())
    content = (tmp_path / "head" / "model.safetensors").read_bytes()
    (tmp_path / "head" / "model.safetensors").write_bytes(content[:-1] + b"x")
    with pytest.raises(IncompatibleModel, match="changed after it was written"):
        read_cst(tmp_path / "head", load_bundled())


def test_the_head_that_ships_fits_the_bundled_backbone_alone() -> None:
    backbone = load_bundled()
    head = shipped_cst(backbone)
    assert head is not None
    assert not head.training
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 2 * 2**20
    assert sum(p.numel() for p in head.parameters()) == 96_340
    told = read_model(SHIPPED, "head").description["provenance"]
    assert told["kept_back"] == ["aeroplane", "bottle", "person", "train"]
    with torch.no_grad():
        backbone.norm.weight.mul_(1.01)
    assert shipped_cst(backbone) is None

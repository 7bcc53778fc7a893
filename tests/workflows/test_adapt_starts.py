"""`adapt` starts from published files of every kind (random weights in their layouts), a name, and its own models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from photo_folders import write_labelled
from torch import Tensor

from fewsight.backbones.hub import place_for
from fewsight.backbones.loading import load_backbone
from fewsight.workflows.adapt import AdaptRun, adapt

SIZES: dict[str, Any] = {
    "img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 1, "num_classes": 0
}  # fmt: skip
State = dict[str, Tensor]


def transformer(**sizes: Any) -> State:
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    return dict(VisionTransformer(**{**SIZES, **sizes}).state_dict())


def simmim() -> dict[str, Any]:
    from timm.models.beit import Beit

    torch.manual_seed(0)
    made = Beit(**SIZES, use_abs_pos_emb=False, use_rel_pos_bias=True, init_values=0.1)
    state = {
        name: value for name, value in made.state_dict().items() if "relative_position_index" not in name
    }
    return {
        "model": {f"encoder.{name}": value for name, value in state.items()}
        | {"encoder.mask_token": torch.zeros(1, 1, 64), "decoder.0.bias": torch.ones(3)}
    }


def fine_tuned_mae() -> dict[str, Any]:
    """Norm behind the pooling, as in the files that the authors of LaCViT began with."""
    state = transformer()
    tuned = {
        name.replace("norm.", "fc_norm.") if name.startswith("norm.") else name: v
        for name, v in state.items()
    }
    return {"model": tuned | {"head.weight": torch.ones(5, 64), "head.bias": torch.ones(5)}}


STARTS: dict[str, Callable[[], dict[str, Any]]] = {
    "supervised": lambda: transformer() | {"head.weight": torch.ones(5, 64), "head.bias": torch.ones(5)},
    "mae": lambda: {"model": transformer() | {"decoder_pos_embed": torch.ones(1, 17, 8)}},
    "mae fine-tuned": fine_tuned_mae,
    "simmim": simmim,
    "dino": transformer,
    "dinov2": lambda: transformer(init_values=1e-5),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_labelled(tmp_path_factory.mktemp("starts") / "photos", 2)


def two_steps(photos: Path, out: Path, backbone: str, **settings: Any) -> AdaptRun:
    small = ("training.steps=2", "classes=3", "photos=2", "stop_every=0", "training.learning_rate=0.01")
    return adapt(photos, out, backbone=backbone, overrides=small, keep="adapted", quiet=True, **settings)


def moved(start: str, out: Path) -> set[str]:
    before, after = (dict(load_backbone(source).state_dict()) for source in (start, str(out)))
    return {name for name, value in before.items() if not torch.equal(value, after[name])}


@pytest.mark.parametrize("start", STARTS)
def test_a_published_file_is_adapted(start: str, photos: Path, tmp_path: Path) -> None:
    path = tmp_path / f"{start}.pth"
    torch.save(STARTS[start](), path)
    size = None if start == "simmim" else 32
    found = two_steps(photos, tmp_path / "run", str(path), image_size=size)
    assert found.result.finished
    assert any(".attn.qkv." in name for name in moved(str(path), tmp_path / "run"))
    again = two_steps(photos, tmp_path / "again", str(tmp_path / "run" / "model"))
    assert again.result.finished, "its own model is a start, too"


def test_a_name_is_adapted_once_its_weights_are_here(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small architecture of timm in place of ViT-S: names resolve alike."""
    import timm
    from safetensors.torch import save_file

    monkeypatch.setenv("FEWSIGHT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("FEWSIGHT_OFFLINE", "1")
    name = "vit_tiny_patch16_224.augreg_in21k"
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", num_classes=21843)
    place = place_for(name)
    place.mkdir(parents=True)
    save_file(model.state_dict(), place / "model.safetensors")
    found = two_steps(photos, tmp_path / "run", name, image_size=32)
    assert found.result.finished
    assert any(".attn.qkv." in key for key in moved(name, tmp_path / "run"))

from __future__ import annotations

import pytest
import timm
import torch

from fewsight.backbones import registry
from fewsight.backbones.registry import KNOWN, find, licence_named, rows
from fewsight.names import load


def test_names_are_unique_and_found():
    names = [name for known in KNOWN for name in {known.name, known.target}]
    assert len(names) == len(set(names))
    assert all(find(known.name) is known and find(known.target) is known for known in KNOWN)
    assert find("no such") is None


@pytest.mark.parametrize("known", [k for k in KNOWN if k.kind == "timm"], ids=lambda k: k.name)
def test_the_table_says_what_timm_says(known):
    published = timm.models.get_pretrained_cfg(known.target)
    assert published.hf_hub_id == known.repository
    stated = licence_named(published.license)
    assert (stated.commercial, stated.name.lower().replace(" ", "-")) == (
        known.licence.commercial,
        known.licence.name.lower().replace(" ", "-"),
    )
    with torch.device("meta"):
        model = timm.create_model(known.target.split(".")[0], num_classes=0)
        whole = timm.create_model(known.target.split(".")[0], num_classes=published.num_classes)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(known.parameters, abs=0.06)
    assert sum(t.numel() * 4 for t in whole.state_dict().values()) / 1e6 == pytest.approx(
        known.megabytes, abs=1
    )


@pytest.mark.parametrize("known", [k for k in KNOWN if k.kind == "untrained"], ids=lambda k: k.name)
def test_our_own_networks_are_as_large_as_the_table_says(known):
    with torch.device("meta"):
        backbone = load(known.target)()
    assert sum(p.numel() for p in backbone.parameters()) / 1e6 == pytest.approx(known.parameters, abs=0.06)
    assert backbone.image_size == (known.side, known.side)


def test_rows(tmp_path, monkeypatch):
    monkeypatch.setenv("FEWSIGHT_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    table = {row.name: row for row in rows()}
    assert set(table) == {known.name for known in KNOWN}
    assert table["fewsight-bundled"].here
    assert not table["dinov2-s"].here
    place = tmp_path / "weights" / table["dinov2-s"].target
    place.mkdir(parents=True)
    (place / "model.safetensors").write_bytes(b"")
    assert next(row for row in rows() if row.name == "dinov2-s").here
    assert table["dinov2-s"].as_dict()["resolves_to"] == "vit_small_patch14_dinov2.lvd142m"


def test_commercial_leaves_out_what_is_not_known_to_allow_it():
    kept = {row.name for row in rows(commercial=True)}
    assert {"dinov2-s", "resnet50"} <= kept
    assert not {"mae-b", "dinov3-s"} & kept


@pytest.mark.parametrize(
    ("word", "name", "commercial"),
    [
        ("apache-2.0", "Apache-2.0", True),
        ("MIT", "MIT", True),
        ("cc-by-nc-4.0", "CC-BY-NC-4.0", False),
        ("cc-by-nc-sa-4.0", "CC-BY-NC-SA-4.0", False),
        ("dinov3-license", "dinov3-license", None),
        (None, "unknown", None),
        ("", "unknown", None),
    ],
)
def test_licences(word, name, commercial):
    licence = licence_named(word)
    assert (licence.name, licence.commercial) == (name, commercial)


def test_hints():
    assert "dinov2-s" in registry.suggestion("dinov2_s")

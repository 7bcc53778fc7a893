"""The model folder: what is written is read; what was changed, cut or made up is refused."""

import hashlib
import json
from pathlib import Path

import pytest
import torch

from fewsight.errors import FewsightError, IncompatibleModel, InvalidInput
from fewsight.model import SavedModel, read_model, write_model

MODEL = SavedModel(
    "classifier", {"classes": ["a", "Ω"], "margin": 0.5}, {"weights": torch.arange(6.0).view(2, 3)}
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_model(tmp_path / "model", MODEL)
    return tmp_path / "model"


def description(folder: Path) -> dict:
    return json.loads((folder / "model.json").read_text(encoding="utf-8"))


def signed(values: dict) -> str:
    """JSON with the right SHA-256 of itself, as an attacker could make it."""
    values = {key: value for key, value in values.items() if key != "sha256"}
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return json.dumps(values | {"sha256": hashlib.sha256(text.encode()).hexdigest()})


def test_what_is_written_is_read(folder):
    found = read_model(folder, "classifier")
    assert found.kind == "classifier"
    assert found.description == MODEL.description
    assert torch.equal(found.tensors["weights"], MODEL.tensors["weights"])
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]


def test_the_description_names_the_hash_of_the_tensors(folder):
    content = (folder / "model.safetensors").read_bytes()
    assert description(folder)["tensors"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert description(folder)["version"] == 1


def test_a_model_is_replaced(folder):
    write_model(folder, SavedModel("segmenter", {}, {"other": torch.zeros(2)}))
    assert read_model(folder).kind == "segmenter"
    with pytest.raises(IncompatibleModel, match="segmenter"):
        read_model(folder, "classifier")


def test_views_and_shared_tensors_can_be_saved(tmp_path):
    tensor = torch.arange(12.0).view(3, 4)
    write_model(tmp_path, SavedModel("classifier", {}, {"a": tensor.T, "b": tensor, "c": tensor[:2]}))
    assert torch.equal(read_model(tmp_path).tensors["a"], tensor.T)


@pytest.mark.parametrize("file", ["model.json", "model.safetensors"])
def test_any_changed_byte_is_refused(folder, file):
    path = folder / file
    content = path.read_bytes()
    for place in range(0, len(content), max(1, len(content) // 25)):
        changed = bytes([content[place] ^ 1])
        path.write_bytes(content[:place] + changed + content[place + 1 :])
        with pytest.raises(FewsightError):
            read_model(folder)
    path.write_bytes(content)
    read_model(folder)


@pytest.mark.parametrize("file", ["model.json", "model.safetensors"])
def test_a_file_that_is_cut_or_missing_is_refused(folder, file):
    content = (folder / file).read_bytes()
    (folder / file).write_bytes(content[:-2])  # the last byte of model.json is a line end
    with pytest.raises(IncompatibleModel):
        read_model(folder)
    (folder / file).unlink()
    with pytest.raises(FewsightError):
        read_model(folder)


@pytest.mark.parametrize("version", [2, 0, "1", None, True, [1]])
def test_unknown_versions_are_refused(folder, version):
    (folder / "model.json").write_text(signed(description(folder) | {"version": version}))
    with pytest.raises(IncompatibleModel, match="version"):
        read_model(folder)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        "[" * 100_000,
        '{"format": "fewsight model", "version": NaN}',
        '{"format": "fewsight model", "version": 1}',
        "\x00\x01",
    ],
    ids=range(8),
)
def test_hostile_json_is_refused(folder, text):
    (folder / "model.json").write_text(text)
    with pytest.raises(IncompatibleModel):
        read_model(folder)


@pytest.mark.parametrize("name", ["../secret.safetensors", "/etc/passwd", "other.safetensors", None])
def test_tensors_of_another_name_are_refused(folder, name):
    values = description(folder)
    values["tensors"]["file"] = name
    (folder / "model.json").write_text(signed(values))
    with pytest.raises(IncompatibleModel, match=r"model\.safetensors"):
        read_model(folder)


@pytest.mark.parametrize("content", [b"\x80\x04not tensors", (2**62).to_bytes(8, "little") + b"{}"])
def test_tensors_that_are_none_are_refused(folder, content):
    values = description(folder)
    values["tensors"] |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (folder / "model.json").write_text(signed(values))
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(IncompatibleModel, match="safetensors"):
        read_model(folder)


def test_a_huge_description_is_refused_unread(folder):
    with (folder / "model.json").open("r+b") as file:
        file.truncate(2**32)  # sparse: it takes no room
    with pytest.raises(IncompatibleModel, match="4294967296 bytes"):
        read_model(folder)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(InvalidInput, match="not a model folder"):
        read_model(tmp_path)


def test_what_cannot_be_described_is_refused(tmp_path):
    for values in ({"version": 3}, {"x": float("nan")}, {"x": object()}):
        with pytest.raises(InvalidInput, match="description"):
            write_model(tmp_path, SavedModel("classifier", values, {}))
    assert not list(tmp_path.iterdir())

"""Weight files that are damaged or hostile: each is refused by name, and nothing in it is executed."""

from __future__ import annotations

import argparse
import json
import os
import pickle
import struct
import zipfile
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import save_file

from fewsight.backbones.reading import check_tensors, flatten, read_header, read_tensors
from fewsight.errors import IncompatibleModel, InvalidInput


def safetensors_file(path: Path, header: object, data: bytes = b"\0" * 16, length: int | None = None) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)
    return path


def entry(begin: int, end: int, shape=(2,), kind: str = "F32") -> dict:
    return {"dtype": kind, "shape": list(shape), "data_offsets": [begin, end]}


class Payload:
    """Touches a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return (os.mkdir, (str(self.mark),))


def test_sound_files_of_both_kinds(tmp_path):
    tensors = {
        "a.weight": torch.randn(2, 3),
        "b": torch.arange(4),
        "half": torch.ones(2, dtype=torch.bfloat16),
    }
    save_file(tensors, tmp_path / "a.safetensors", {"made": "here"})
    torch.save(
        {"model": {"a": {"weight": tensors["a.weight"]}, "b": tensors["b"]}, "epoch": 3}, tmp_path / "b.pth"
    )
    assert {k: v.tolist() for k, v in read_tensors(tmp_path / "a.safetensors").items()} == {
        k: v.tolist() for k, v in tensors.items()
    }
    assert read_header(tmp_path / "a.safetensors") == {"made": "here"}
    assert list(read_tensors(tmp_path / "b.pth")) == ["model.a.weight", "model.b"]


def test_published_extras_are_plain_data(tmp_path):
    """DINO's full checkpoints carry their arguments, others numpy numbers."""
    torch.save(
        {
            "w": torch.ones(1),
            "args": argparse.Namespace(lr=0.1),
            "best": numpy.float64(0.5),
            "n": numpy.int64(3),
        },
        tmp_path / "a.pth",
    )
    assert list(read_tensors(tmp_path / "a.pth")) == ["w"]


def test_a_pickle_payload_is_not_executed(tmp_path):
    mark = tmp_path / "executed"
    for name, save in (
        ("zip.pth", lambda value, path: torch.save(value, path)),
        ("old.pth", lambda value, path: torch.save(value, path, _use_new_zipfile_serialization=False)),
        ("plain.bin", lambda value, path: path.write_bytes(pickle.dumps(value))),
    ):
        save({"model": torch.ones(1), "evil": Payload(mark)}, tmp_path / name)
        with pytest.raises(IncompatibleModel, match=r"nothing was executed") as told:
            read_tensors(tmp_path / name)
        assert name in str(told.value)
        assert ("mkdir" in str(told.value)) == (name != "plain.bin")
    assert not mark.exists()


def test_a_namespace_cannot_smuggle_a_payload(tmp_path):
    mark = tmp_path / "executed"
    torch.save({"args": argparse.Namespace(x=Payload(mark))}, tmp_path / "a.pth")
    with pytest.raises(IncompatibleModel):
        read_tensors(tmp_path / "a.pth")
    assert not mark.exists()


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"a": entry(0, 8), "b": entry(4, 12), "c": entry(12, 16, (1,))}, "'b' and 'a' overlap"),
        ({"a": entry(0, 8), "b": entry(0, 8), "c": entry(8, 16)}, "'b' and 'a' overlap"),
        ({"a": entry(0, 8)}, "8 bytes behind the last"),
        ({"a": entry(0, 4, (1,)), "b": entry(8, 16)}, "leave a gap"),
        ({"a": entry(0, 64, (16,))}, "'a' of shape"),
        ({"a": entry(0, 16, (3,))}, "'a' of shape"),
        ({"a": entry(0, 16, (2**40, 2**40))}, "'a' of shape"),
        ({"a": entry(0, 16, (-4, -1))}, "'a' of shape"),
        ({"a": entry(16, 0, (4,))}, "'a' of shape"),
        ({"a": entry(0, 16, (4,), "F33")}, "'a' cannot be understood"),
        ({"a": {"dtype": "F32"}}, "'a' cannot be understood"),
        ({"a": entry(0, 16, ("4",))}, "'a' cannot be understood"),
        ([1, 2], "no table"),
        (b"{not json", "no JSON"),
        (b"[" * 100_000, "no JSON"),
    ],
)
def test_headers_that_lie(tmp_path, header, words):
    path = safetensors_file(tmp_path / "a.safetensors", header)
    with pytest.raises(IncompatibleModel, match=words) as told:
        read_tensors(path)
    assert str(path) in str(told.value)


@pytest.mark.parametrize("length", [0, 1, 10**6, 2**63])
def test_lengths_that_lie(tmp_path, length):
    path = safetensors_file(tmp_path / "a.safetensors", {}, length=length)
    with pytest.raises(IncompatibleModel, match="header claims"):
        read_tensors(path)


def test_empty_truncated_and_renamed_files(tmp_path):
    torch.save({"a": torch.randn(1000)}, tmp_path / "whole.pth")
    content = (tmp_path / "whole.pth").read_bytes()
    for name, data, words in (
        ("empty.pth", b"", "it is empty"),
        ("empty.safetensors", b"", "not a safetensors file"),
        ("cut.pth", content[: len(content) // 2], "damaged or incomplete"),
        ("page.pth", b"<html>not found</html>", "begins with b'<html>not found<'"),
        ("page.safetensors", b"<html>not found</html>", "not a safetensors file"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(IncompatibleModel, match=rf"{name}.*{words}"):
            read_tensors(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "other.pth", "w") as archive:
        archive.writestr("readme.txt", "no weights")
    with pytest.raises(IncompatibleModel, match=r"other\.pth"):
        read_tensors(tmp_path / "other.pth")


def test_absent_files_and_folders(tmp_path):
    for path in (tmp_path / "absent.pth", tmp_path):
        with pytest.raises(InvalidInput, match="is not a file"):
            read_tensors(path)


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_values_that_are_not_finite(tmp_path, value, suffix):
    tensors = {"fine": torch.ones(2), "blocks.3.mlp.fc1.weight": torch.tensor([0.0, value]).half()}
    path = tmp_path / f"a.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(tensors, path)
    with pytest.raises(IncompatibleModel, match=r"'blocks\.3\.mlp\.fc1\.weight' holds values"):
        read_tensors(path)


def test_tensors_that_claim_more_than_the_file_holds(tmp_path):
    torch.save({"bomb": torch.zeros(1).expand(10**6, 10**6)}, tmp_path / "a.pth")
    assert (tmp_path / "a.pth").stat().st_size < 10_000
    with pytest.raises(IncompatibleModel, match=r"'bomb'.*overlaps itself"):
        read_tensors(tmp_path / "a.pth")


def test_sparse_tensors():
    with pytest.raises(IncompatibleModel, match="'a' is not a plain"):
        check_tensors({"a": torch.eye(2).to_sparse()}, "x")


def test_flatten_joins_names_with_dots():
    nested = {"a": {"b.c": torch.ones(1), "d": [torch.ones(1)]}, "e": torch.zeros(2), "f": "text"}
    assert list(flatten(nested)) == ["a.b.c", "e"]

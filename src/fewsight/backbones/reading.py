"""Weight files read without executing anything in them, and refused by name where something is wrong.

safetensors files are checked before they are opened: the header must describe every byte exactly once. Other
files go through `torch.load(weights_only=True)`, which builds tensors and plain values only.
"""

from __future__ import annotations

import argparse
import json
import math
import struct
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fewsight.errors import IncompatibleModel, InvalidInput

__all__ = [
    "IncompatibleCheckpoint",
    "check_fit",
    "check_tensors",
    "flatten",
    "listed",
    "need",
    "read_header",
    "read_tensors",
]

SUFFIXES = (".safetensors", ".pth", ".pt", ".bin", ".tar", ".ckpt")
HEADER_LIMIT = 100_000_000  # bytes; the limit of the format's own readers

_BITS = {
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E4M3", "F8_E5M2"), 8),
    **dict.fromkeys(("U16", "I16", "F16", "BF16"), 16),
    **dict.fromkeys(("U32", "I32", "F32"), 32),
    **dict.fromkeys(("U64", "I64", "F64"), 64),
}


class IncompatibleCheckpoint(IncompatibleModel, InvalidInput):
    """A file or dictionary of weights is damaged, hostile, or not of the layout that it is said to have."""


def read_tensors(path: Path | str) -> dict[str, Tensor]:
    """The tensors of a weight file, nested dictionaries joined with dots; everything else in it is left out.

    Raises:
        InvalidInput: there is no such file.
        IncompatibleCheckpoint: it is damaged or hostile; the message names the tensor or object.
    """
    path = Path(path)
    if not path.is_file():
        raise InvalidInput(f"{path} is not a file; give a .safetensors or .pth file of weights.")
    if _is_safetensors(path):
        read_header(path)
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors = load_file(path)
        except SafetensorError as error:
            raise IncompatibleCheckpoint(f"{path} is not a sound safetensors file: {error}.") from error
    else:
        tensors = flatten(_unpickled(path))
    check_tensors(tensors, str(path))
    return tensors


def _is_safetensors(path: Path) -> bool:
    if path.suffix == ".safetensors":
        return True
    with path.open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{"


def read_header(path: Path) -> dict[str, str]:
    """Check the header of a safetensors file and give its metadata.

    Raises:
        IncompatibleCheckpoint: tensors overlap, leave gaps, reach outside the file, or have a size that does
            not fit their shape.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else -1
        if not 2 <= length <= min(HEADER_LIMIT, size - 8):
            raise IncompatibleCheckpoint(
                f"{path} is not a safetensors file: its header claims {length} bytes, the file has {size}."
            )
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise IncompatibleCheckpoint(
                f"{path} is not a safetensors file: its header is no JSON."
            ) from error
    if not isinstance(header, dict):
        raise IncompatibleCheckpoint(f"{path} is not a safetensors file: its header is no table.")
    metadata = header.pop("__metadata__", {})
    _check_layout(path, header, size - 8 - length)
    return metadata if isinstance(metadata, dict) else {}


def _check_layout(path: Path, header: dict[str, Any], size: int) -> None:
    """Every byte of the data belongs to exactly one tensor."""
    spans = []
    for name, entry in header.items():
        try:
            kind, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            bits = _BITS[kind] * math.prod(shape)
            sound = min([0, *shape]) == 0 and all(isinstance(number, int) for number in (*shape, begin, end))
        except (KeyError, TypeError, ValueError):
            raise IncompatibleCheckpoint(
                f"{path}: the entry of tensor {name!r} cannot be understood."
            ) from None
        if not sound or not 0 <= begin <= end <= size or bits != 8 * (end - begin):
            raise IncompatibleCheckpoint(
                f"{path}: tensor {name!r} of shape {shape} and type {kind} does not fit its bytes {begin} to {end} of "
                f"{size}."
            )
        spans.append((begin, end, name))
    reached, before = 0, "the header"
    for begin, end, name in sorted(spans):
        if begin != reached:
            fault = "overlap" if begin < reached else "leave a gap"
            raise IncompatibleCheckpoint(f"{path}: tensor {name!r} and {before!r} {fault}.")
        reached, before = end, name
    if reached != size:
        raise IncompatibleCheckpoint(f"{path}: {size - reached} bytes behind the last tensor belong to none.")


def _unpickled(path: Path) -> Any:
    # published DINO and MSN files carry their arguments and numpy numbers: plain data, rebuilt without calls
    harmless: list[Any] = [argparse.Namespace, *_numpy_scalars()]
    try:
        with torch.serialization.safe_globals(harmless), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of strange pickles, which are refused below
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged archive
        named = _first_named(str(error))
        fault = (
            f"asks for {named}, which is code and not weights; nothing was executed"
            if named
            else _fault(path)
        )
        raise IncompatibleCheckpoint(
            f"{path} was refused: it {fault}. Use a file from its authors, or one in the safetensors format."
        ) from error


def _fault(path: Path) -> str:
    """What is wrong with a file that torch cannot read, from its first bytes; torch speaks of its insides."""
    with path.open("rb") as file:
        start = file.read(16)
    if not start:
        return "is empty"
    if start.startswith(b"PK") or start[:1] == b"\x80":  # archive; pickle
        return (
            "is a damaged or incomplete weight file, or holds other things than weights; nothing was executed"
        )
    return f"is no weight file: it begins with {start!r}"


def _numpy_scalars() -> list[Any]:
    import numpy
    from numpy._core import multiarray

    return [
        multiarray.scalar,
        (multiarray.scalar, "numpy.core.multiarray.scalar"),
        numpy.dtype,
        *(type(numpy.dtype(kind)) for kind in ("float64", "float32", "int64", "int32", "bool")),
    ]


def _first_named(message: str) -> str | None:
    """The global that torch refused, from its message."""
    for marker in ("Unsupported global: GLOBAL ", "Unsupported class ", "GLOBAL "):
        if marker in message:
            return message.split(marker, 1)[1].split()[0]
    return None


def flatten(state: Any, prefix: str = "") -> dict[str, Tensor]:
    """Tensors of nested dictionaries under dotted names.

    >>> list(flatten({"teacher": {"norm.weight": torch.ones(2)}, "epoch": 3}))
    ['teacher.norm.weight']
    """
    if isinstance(state, Tensor):
        return {prefix or "tensor": state}
    found: dict[str, Tensor] = {}
    if isinstance(state, Mapping):
        for key, value in state.items():
            found.update(flatten(value, f"{prefix}.{key}" if prefix else str(key)))
    return found


def check_tensors(tensors: Mapping[str, Tensor], source: str) -> None:
    """Refuse tensors that are larger than their storage, sparse, or not finite.

    Raises:
        IncompatibleCheckpoint: naming the tensor and `source`.
    """
    for name, tensor in tensors.items():
        if tensor.layout is not torch.strided or tensor.is_quantized:
            raise IncompatibleCheckpoint(f"{source}: tensor {name!r} is not a plain dense tensor.")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise IncompatibleCheckpoint(
                f"{source}: tensor {name!r} of shape {list(tensor.shape)} overlaps itself: it claims more values than "
                "the file holds."
            )
        wide = tensor.float() if tensor.element_size() == 1 else tensor  # 8-bit floats have few operations
        if tensor.is_floating_point() and not bool(torch.isfinite(wide).all()):
            raise IncompatibleCheckpoint(f"{source}: tensor {name!r} holds values that are not finite.")


def check_fit(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse tensors that are not exactly those that a network expects, by name and shape.

    Raises:
        IncompatibleCheckpoint: naming what is missing, left over, or of another shape.
    """
    need(tensors, expected)
    extra = [name for name in tensors if name not in expected]
    if extra:
        raise IncompatibleCheckpoint(f"the checkpoint holds {listed(extra)}, which the network lacks.")
    for name, tensor in tensors.items():
        if tensor.shape != expected[name].shape:
            raise IncompatibleCheckpoint(
                f"{name} has shape {list(tensor.shape)}; expected {list(expected[name].shape)}."
            )


def need(tensors: Mapping[str, Tensor], names: Iterable[str]) -> None:
    """Refuse a checkpoint without some tensors.

    Raises:
        IncompatibleCheckpoint: naming them.
    """
    missing = [name for name in names if name not in tensors]
    if missing:
        raise IncompatibleCheckpoint(f"the checkpoint lacks {listed(missing)}.")


def listed(names: Iterable[str], most: int = 3) -> str:
    """Some names for a message.

    >>> listed("abcde")
    'a, b, c and 2 more'
    """
    held = list(names)
    more = f" and {len(held) - most} more" if len(held) > most else ""
    return ", ".join(held[:most]) + more if held else "nothing"

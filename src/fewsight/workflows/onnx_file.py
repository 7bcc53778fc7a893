"""A traced network as an ONNX file, and the check that ONNX Runtime gives the same numbers.

The graph is made by tracing (torch's TorchScript exporter): shapes that depend on the input stay expressions, so one
file serves every batch and, where the network allows it, every image size, in a second or two. The newer exporter
(`torch.export`) proves each shape symbolically, which takes minutes for networks whose padding and positions depend on
the size; it serves networks of one size that tracing gets wrong (rotary positions).
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from fewsight.errors import FewsightError, InvalidInput

__all__ = ["LARGEST_FILE", "OPSET", "check_installed", "largest_difference", "onnx_bytes"]

OPSET = 18  # LayerNormalization is one operator from 17 on, a scatter knows maxima from 18
LARGEST_FILE = 2**31 - 2**24  # bytes: a protocol buffer ends at 2 GiB
MOST_PHOTOS = 2**20  # in a batch, where shapes are proven
INSTALL = "pip install 'fewsight[onnx]'"


def check_installed() -> None:
    """Whether what writes and runs ONNX files is there.

    Raises:
        FewsightError: it is not; the message says what to install.
    """
    for name in ("onnx", "onnxruntime", "onnxscript"):
        try:
            __import__(name)
        except ImportError as error:
            raise FewsightError(
                f"{name} is not installed, which `fewsight export` needs: `{INSTALL}`."
            ) from error


def onnx_bytes(
    graph: nn.Module,
    example: Tensor,
    *,
    output_names: Sequence[str],
    dynamic: Mapping[int, str],
    metadata: Mapping[str, str],
    symbolic: bool = False,
) -> bytes:
    """The file's content.

    Args:
        graph: takes one tensor, gives a tuple of tensors with a row for each photo.
        example: an input to trace with.
        dynamic: axis of the input -> name, where any size is taken; axis 0 among them.
        metadata: texts that the file carries.
        symbolic: use the exporter that proves shapes.

    Raises:
        InvalidInput: the weights do not fit into one file, or the network cannot be traced.
    """
    import onnx

    size = sum(value.numel() * 4 for value in graph.state_dict().values())
    if size > LARGEST_FILE:
        raise InvalidInput(f"the weights take {size / 2**30:.1f} GiB; one ONNX file holds less than 2 GiB.")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of tracing: our own checks of shapes hold for the example alone
        try:
            written = (_proven if symbolic else _traced)(graph, example, list(output_names), dynamic)
        except (torch.onnx.errors.OnnxExporterError, RuntimeError, TypeError) as error:
            first = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InvalidInput(f"this network cannot be written as an ONNX graph: {first}") from error
    model = onnx.load_model_from_string(written)
    del model.graph.value_info[:]  # shapes that were guessed while tracing; the runtime infers its own
    model.producer_name = "fewsight"
    onnx.helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _traced(graph: nn.Module, example: Tensor, outputs: list[str], dynamic: Mapping[int, str]) -> bytes:
    buffer = io.BytesIO()
    axes: dict[str, Any] = {"photos": dict(dynamic)} | {name: {0: dynamic[0]} for name in outputs}
    torch.onnx.export(
        graph,
        (example,),
        buffer,  # type: ignore[arg-type]
        dynamo=False,
        opset_version=OPSET,
        input_names=["photos"],
        output_names=outputs,
        dynamic_axes=axes,
    )
    return buffer.getvalue()


def _proven(graph: nn.Module, example: Tensor, outputs: list[str], dynamic: Mapping[int, str]) -> bytes:
    buffer = io.BytesIO()
    shapes = {axis: torch.export.Dim(name, min=1, max=MOST_PHOTOS) for axis, name in dynamic.items()}
    program = torch.onnx.export(
        graph,
        (example,),
        dynamo=True,
        opset_version=OPSET,
        input_names=["photos"],
        output_names=outputs,
        dynamic_shapes=(shapes,),
        optimize=False,
        verbose=False,
    )
    assert program is not None
    program.save(buffer)  # type: ignore[arg-type]
    return buffer.getvalue()


def largest_difference(content: bytes, graph: nn.Module, inputs: Sequence[Tensor]) -> float:
    """Largest difference between ONNX Runtime and torch, over all outputs and inputs.

    Each output is measured in its largest value where that is above 1.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors alone
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    largest = 0.0
    for photos in inputs:
        with torch.no_grad():
            expected = [value.numpy() for value in graph(photos)]
        for found, value in zip(session.run(None, {"photos": photos.numpy()}), expected, strict=True):
            if found.shape != value.shape or not numpy.isfinite(found).all():
                return float("inf")
            largest = max(largest, float(numpy.abs(found - value).max() / max(1.0, numpy.abs(value).max())))
    return largest

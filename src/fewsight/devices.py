"""Where tensors live and how precise they are: `device="auto"`, `precision="auto"`.

16-bit numbers are chosen only where the processor multiplies them faster than 32-bit ones. float16 has an eighth
of the rounding error of bfloat16, but on processors it is fast only with tiles of its own (`amx_fp16`): with
`avx512_fp16` alone it was measured as slow as float32, where bfloat16 with `amx_bf16` was over three times as fast.
"""

from __future__ import annotations

import functools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

from fewsight.errors import InvalidInput

if TYPE_CHECKING:
    import torch

__all__ = [
    "PRECISIONS",
    "Precision",
    "default_batch_size",
    "keep_buffers",
    "matrix_precision",
    "multiplies_faster",
    "processor_flags",
    "resolve_device",
    "resolve_precision",
]

Precision = Literal["auto", "fp32", "fp16", "bf16"]
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def resolve_device(device: str | torch.device = "auto") -> torch.device:
    """The device to work on: for `auto` the first CUDA GPU, else Apple's, else the processor.

    Raises:
        InvalidInput: the device is unknown, or not in this machine.

    >>> resolve_device("cpu")
    device(type='cpu')
    """
    import torch

    if str(device) == "auto":
        return torch.device(
            "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
        )
    try:
        found = torch.device(device)
    except RuntimeError:
        raise InvalidInput(f"device {device!r} is unknown; give auto, cpu, cuda, cuda:1 or mps.") from None
    _check_present(found)
    return found


def _check_present(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        count = torch.cuda.device_count()
        if (device.index or 0) >= count:
            raise InvalidInput(
                f"device {str(device)!r} is not in this machine ({count} CUDA GPUs); give --device cpu or auto."
            )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise InvalidInput("device 'mps' is not in this machine; give --device cpu or auto.")


def resolve_precision(
    precision: Precision | str = "auto", device: str | torch.device = "auto"
) -> torch.dtype:
    """The number format for inference on a device: for `auto`, 16 bits where the hardware multiplies them.

    Raises:
        InvalidInput: the name is unknown.

    >>> resolve_precision("bf16", "cpu")
    torch.bfloat16
    """
    import torch

    if precision == "auto":
        precision = matrix_precision(resolve_device(device).type)
    formats = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    if precision not in formats:
        raise InvalidInput(f"precision {precision!r} is unknown; choose one of: {', '.join(PRECISIONS)}.")
    return formats[precision]


def matrix_precision(device_type: str) -> Precision:
    """The fastest format that a kind of device (`cpu`, `cuda`, `mps`) multiplies in hardware.

    On GPUs that is `fp16` from CUDA capability 7 (tensor cores) on. On a processor it is the format of an instruction
    that it lists, if torch is measured to be faster with it.
    """
    if device_type == "cuda":
        import torch

        return "fp16" if torch.cuda.get_device_capability()[0] >= 7 else "fp32"
    if device_type != "cpu":
        return "fp32"
    flags = processor_flags()
    candidate: Precision = "fp16" if "amx_fp16" in flags else "bf16"
    known = {"amx_fp16", "amx_bf16", "avx512_bf16"} & flags
    return candidate if known and multiplies_faster(candidate) else "fp32"


@functools.cache
def multiplies_faster(precision: Precision, size: int = 384, repetitions: int = 7) -> bool:
    """Whether this build of torch multiplies matrices of a 16-bit format in less processor time than 32-bit ones.

    An instruction that the processor lists is worth nothing where torch does not use it: then 16 bits are many times
    slower. The least of a few repetitions is compared; with the instruction it is about half and less, so that the
    answer does not depend on what else runs.
    """
    import torch

    least = {}
    for name, dtype in (("fp32", torch.float32), (precision, resolve_precision(precision, "cpu"))):
        rows = torch.ones(size, size).to(dtype)
        times = []
        for _ in range(repetitions):
            start = time.process_time()
            torch.nn.functional.linear(rows, rows)
            times.append(time.process_time() - start)
        least[name] = min(times)
    return least[precision] < least["fp32"]


@functools.cache
def processor_flags(listing: Path = Path("/proc/cpuinfo")) -> frozenset[str]:
    """Instruction sets of the processor as Linux lists them; empty where they cannot be told."""
    try:
        text = listing.read_text(errors="replace")
    except OSError:
        return frozenset()
    for line in text.splitlines():
        key, _, values = line.partition(":")
        if key.strip() in ("flags", "Features"):
            return frozenset(values.split())
    return frozenset()


def default_batch_size(device: str | torch.device) -> int:
    """Images a batch for inference: 8 on a processor (larger ones leave its caches), 64 on a GPU."""
    return 8 if resolve_device(device).type == "cpu" else 64


def keep_buffers(bytes_kept: int = 1 << 30) -> bool:
    """Let glibc keep freed memory for the next step instead of giving it back to the system.

    Every large tensor is otherwise mapped anew, and each of its pages costs a fault: small pixel operations were
    measured up to eight times as fast with it, training steps by a fifth. Called once by verbs that train.

    Returns:
        Whether the C library took it; other libraries than glibc are left alone.
    """
    import ctypes

    m_trim_threshold, m_mmap_threshold = -1, -3  # mallopt(3)
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(m_mmap_threshold, bytes_kept) and mallopt(m_trim_threshold, bytes_kept))

from __future__ import annotations

import pytest
import torch

from fewsight import devices
from fewsight.errors import InvalidInput


@pytest.mark.parametrize(
    ("flags", "precision"),
    [
        ("fpu avx2", "fp32"),
        ("avx2 avx512_bf16", "bf16"),
        ("amx_bf16 amx_tile", "bf16"),
        ("amx_bf16 avx512_fp16 amx_tile", "bf16"),
        ("amx_bf16 amx_fp16", "fp16"),
        ("avx512f avx512_fp16", "fp32"),
        ("asimdhp bf16", "fp32"),
    ],
)
def test_precision_follows_the_processor(tmp_path, monkeypatch, flags, precision):
    listing = tmp_path / "cpuinfo"
    listing.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    found = devices.processor_flags(listing)
    monkeypatch.setattr(devices, "processor_flags", lambda: found)
    monkeypatch.setattr(devices, "multiplies_faster", lambda precision: True)
    assert devices.matrix_precision("cpu") == precision
    monkeypatch.setattr(devices, "multiplies_faster", lambda precision: False)
    assert devices.matrix_precision("cpu") == "fp32"


def test_a_format_is_measured_against_32_bits(monkeypatch):
    linear, slow = torch.nn.functional.linear, torch.float16

    def product(rows, weight):
        for _ in range(20 if rows.dtype == slow else 1):
            found = linear(rows.float(), weight.float())
        return found

    monkeypatch.setattr(torch.nn.functional, "linear", product)
    assert not devices.multiplies_faster.__wrapped__("fp16")
    slow = torch.float32
    assert devices.multiplies_faster.__wrapped__("fp16")


def test_no_listing_means_32_bits(tmp_path, monkeypatch):
    found = devices.processor_flags(tmp_path / "absent")
    monkeypatch.setattr(devices, "processor_flags", lambda: found)
    assert devices.resolve_precision("auto", "cpu") is torch.float32


def test_names():
    assert devices.resolve_precision("fp32", "cpu") is torch.float32
    assert devices.resolve_device(torch.device("cpu")) == torch.device("cpu")
    with pytest.raises(InvalidInput, match="fp8"):
        devices.resolve_precision("fp8", "cpu")
    with pytest.raises(InvalidInput, match="gpu"):
        devices.resolve_device("gpu")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_device_that_is_not_there():
    assert devices.resolve_device("auto").type in ("cpu", "mps")
    with pytest.raises(InvalidInput, match="not in this machine"):
        devices.resolve_device("cuda")


def test_batches_are_small_on_a_processor():
    assert devices.default_batch_size("cpu") == 8

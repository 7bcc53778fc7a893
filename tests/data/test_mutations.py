"""Two thousand damaged files of six formats: each becomes a picture or a reason, and the process lives.

The work runs in a process of its own, so that a crash in a decoder is a failure of this test and not its end.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

PROGRAM = r"""
import collections, io, json, pathlib, time
import numpy
from PIL import Image
from fewsight.data.decode import decode_bytes
from fewsight.errors import UnreadableImage

scene = numpy.random.default_rng(0).integers(0, 256, (6, 8, 3), dtype=numpy.uint8)
smooth = Image.fromarray(scene).resize((128, 96), Image.Resampling.BICUBIC)
variants = {
    "JPEG": [{}, {"progressive": True}, {"quality": 95, "optimize": True}],
    "PNG": [{}],
    "WEBP": [{}, {"lossless": True}],
    "BMP": [{}],
    "TIFF": [{}, {"compression": "tiff_lzw"}, {"compression": "tiff_deflate"}, {"compression": "jpeg"}],
    "GIF": [{}, {"save_all": True, "append_images": [smooth.rotate(90)]}],
}

def encoded(kind, options):
    content = io.BytesIO()
    smooth.save(content, kind, **options)
    return content.getvalue()

def mutated(content, draw):
    content = bytearray(content)
    kind = draw.integers(6)
    head = min(len(content), 200)
    if kind == 0:  # bits
        for _ in range(draw.integers(1, 9)):
            content[draw.integers(len(content))] ^= 1 << int(draw.integers(8))
    elif kind == 1:  # bits of the header
        for _ in range(draw.integers(1, 5)):
            content[draw.integers(4, head)] ^= 1 << int(draw.integers(8))
    elif kind == 2:  # bytes of the header
        at = draw.integers(4, head - 8)
        content[at : at + 4] = draw.bytes(4)
    elif kind == 3:  # a stretch
        at, length = draw.integers(len(content)), draw.integers(1, 300)
        content[at : at + length] = bytes(length) if draw.integers(2) else draw.bytes(length)
    elif kind == 4:  # cut short
        del content[draw.integers(len(content)):]
    else:  # a piece left out
        at = draw.integers(len(content))
        del content[at : at + draw.integers(1, 200)]
    return bytes(content)

counts = {kind: collections.Counter() for kind in variants}
slowest = 0.0
for number in range(2004):
    kind = list(variants)[number % 6]
    options = variants[kind][number // 6 % len(variants[kind])]
    content = mutated(encoded(kind, options), numpy.random.default_rng(number))
    started = time.perf_counter()
    try:
        decoded = decode_bytes(content, needed=(32, 32), max_pixels=20_000_000)
        assert decoded.image.dtype == numpy.uint8 and decoded.image.ndim == 3 and decoded.image.shape[2] == 3
        counts[kind]["suspicious" if decoded.suspicious else "decoded"] += 1
    except UnreadableImage as error:
        assert error.status in ("unreadable", "refused") and str(error)
        counts[kind][error.status] += 1
    slowest = max(slowest, time.perf_counter() - started)
# not ru_maxrss: that of the parent counts in it
status = pathlib.Path("/proc/self/status").read_text()
peak = int(status.partition("VmHWM:")[2].split()[0])
print(json.dumps({"counts": counts, "slowest": slowest, "peak": peak}))
"""


LIBTIFF = re.compile(r"\w+Decode: |tempfile\.tif: |JPEGLib: |TIFF\w+: |_?TIFF|\w+: .*(strip|scanline|tile)")


@pytest.mark.slow
def test_two_thousand_mutated_files_and_not_one_dead_process():
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    # Pillow is silent; libtiff writes its complaints itself, and no caller of Pillow can stop it
    others = [line for line in done.stderr.splitlines() if not LIBTIFF.match(line)]
    assert others == []
    found = json.loads(done.stdout)
    assert sum(sum(counts.values()) for counts in found["counts"].values()) == 2004
    for counts in found["counts"].values():  # the mutations hit: each format has both outcomes
        assert counts.get("unreadable", 0) > 0
        assert counts.get("decoded", 0) + counts.get("suspicious", 0) > 0
    assert found["counts"]["JPEG"]["suspicious"] > 20
    assert (
        found["peak"] < 400_000
    )  # KiB; a picture at the bound of 20 Mpx takes 140 MiB (measured: 90 MB in all)

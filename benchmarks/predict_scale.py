"""Many photos through `fewsight predict`: time a photo and peak memory at N and at 10 N.

    python benchmarks/predict_scale.py --photos 100000

The photos are small PNGs made here, the backbone is a grid of mean colours, so that what is measured is everything
around the network: listing, decoding, rows, report. Memory should not grow with the number of photos; the limit for
time is decoding.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import numpy
from PIL import Image

RUN = """
    import json, resource, sys, time
    from pathlib import Path
    import torch
    from fewsight.backbones.backbone import Backbone, Licence
    from fewsight.backbones.features import Features, Request
    from fewsight.data.transform import Transform
    from fewsight.workflows.predict import predict

    class MeanColours(Backbone):
        name, dim, depth, num_heads, stride = "mean-colours", 3, 0, 0, 8
        licence, pooling, transform = Licence("none", True), "patches", Transform(size=(16, 16), mode="squash")
        def __init__(self):
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros(1))
        def features(self, images, request=Request(), mask=None):
            return Features(patches=torch.nn.functional.avg_pool2d(images, 8).permute(0, 2, 3, 1))

    folder = Path(sys.argv[1])
    began = time.perf_counter()
    run = predict(folder / "labelled", folder / sys.argv[2], folder / ("run-" + sys.argv[2]), backbone=MeanColours(),
                  precision="fp32", quiet=True, batch_size=64)
    print(json.dumps({"photos": len(run.rows), "seconds": time.perf_counter() - began,
                      "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def write_photos(folder: Path, count: int) -> None:
    """`count` distinct PNGs of 16 x 16 pixels, a thousand a folder."""
    generator = numpy.random.default_rng(0)
    for number in range(count):
        part = folder / f"{number // 1000:04d}"
        if number % 1000 == 0:
            part.mkdir(parents=True)
        pixels = numpy.broadcast_to(generator.integers(0, 256, (1, 1, 3), numpy.uint8), (16, 16, 3)).copy()
        pixels[number % 16, (number // 16) % 16] = 255 - pixels[0, 0]
        Image.fromarray(pixels).save(part / f"{number:07d}.png", compress_level=1)


def main() -> None:
    """Print one line of figures for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--photos", type=int, default=100_000)
    count = parser.parse_args().photos
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name, colour in (("red", (200, 40, 40)), ("green", (40, 200, 40)), ("blue", (40, 40, 200))):
            (folder / "labelled" / name).mkdir(parents=True)
            for shot in range(3):
                Image.new("RGB", (16, 16), tuple(c + 10 * shot for c in colour)).save(
                    folder / "labelled" / name / f"{shot}.png"
                )
        for number in (count // 10, count):
            write_photos(folder / f"pile{number}", number)
            command = [sys.executable, "-c", textwrap.dedent(RUN), str(folder), f"pile{number}"]
            environment = {"FEWSIGHT_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "PATH": ""}
            told = json.loads(
                subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout
            )
            print({**told, "photos/s": round(told["photos"] / told["seconds"])}, flush=True)


if __name__ == "__main__":
    main()

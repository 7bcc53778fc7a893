"""`fewsight embed` on a folder of 500 x 375 JPEGs through ViT-S/16, beside the network alone on one core.

    python benchmarks/embed_rate.py [--photos 384] [--repetitions 3] [--precision auto]

The network has one core and the decoding thread the other. Both ways run in turn in one process. Two figures:

- by processor time: a photo takes the larger of what the network's thread and what the decoding thread work for it, if
  both cores are free; the network alone takes what its thread works. Neighbours on the machine disturb this little.
- by the clock: what is seen, which counts as a figure only where nothing else runs.

Random weights: speed does not depend on them. What embed does besides (listing, the check of 16 bits, writing the
shards, index.csv) is counted in; the check is a fixed cost, which `--photos` spreads.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch

from decode import make_photos
from fewsight.backbones.architectures import untrained_backbone
from fewsight.backbones.encode import Encoder
from fewsight.workflows.embed import embed


class Spent(NamedTuple):
    """Seconds: of the calling thread's processor time, of all other threads', and by the clock."""

    own: float
    others: float
    clock: float


def spent(call) -> Spent:  # type: ignore[no-untyped-def]
    """What one call takes."""
    clock, own, all_threads = time.perf_counter(), time.thread_time(), time.process_time()
    call()
    own = time.thread_time() - own
    return Spent(own, time.process_time() - all_threads - own, time.perf_counter() - clock)


def main() -> None:
    """Print the rates and their ratios."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=384)
    parser.add_argument("--repetitions", type=int, default=3)
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    torch.set_num_threads(1)
    backbone = untrained_backbone("vit_small_patch16_224").eval()
    encoder = Encoder(backbone, precision=options.precision, vectors=True)
    images = torch.randn(encoder.batch_size, 3, *backbone.image_size)
    batches = -(-options.photos // encoder.batch_size)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "photos").mkdir()
        make_photos(folder / "photos", options.photos, (500, 375))

        def alone() -> None:
            for _ in range(batches):
                encoder(images)

        def embedded() -> None:
            embed(
                folder / "photos",
                folder / "run",
                backbone=backbone,
                precision=options.precision,
                threads=1,
                workers=1,
                force=True,
                quiet=True,
            )

        runs: dict[str, list[Spent]] = {"alone": [], "embed": []}
        for repetition in range(options.repetitions + 1):
            for name, call in (("alone", alone), ("embed", embedded)):
                found = spent(call)
                if repetition:  # the first is a warm-up
                    runs[name].append(found)
    network = median(run.own for run in runs["alone"]) / (batches * encoder.batch_size)
    own = median(run.own for run in runs["embed"]) / options.photos
    decoding = median(run.others for run in runs["embed"]) / options.photos
    rate = 1 / max(own, decoding)
    print(
        f"ViT-S/16, {encoder.dtype}, {options.photos} JPEGs of 500 x 375: network alone {1 / network:.1f} photos/s on "
        f"one core; embed {rate:.1f} on two ({100 * network * rate:.1f} %; its network thread works {1e3 * own:.1f} ms "
        f"a photo, decoding {1e3 * decoding:.1f} ms)"
    )
    clock = [
        b.clock / options.photos * batches * encoder.batch_size / a.clock
        for a, b in zip(*runs.values(), strict=True)
    ]
    print(
        f"by the clock, median of {options.repetitions}: {100 / median(clock):.1f} % (others may share the machine)"
    )


if __name__ == "__main__":
    main()

"""A million rows of features through `fewsight predict`: time a row and peak memory at N / 10 and at N.

    python benchmarks/predict_rows.py --rows 1000000

The features are synthetic (10 classes about random centres, D = 384, 5 labelled photos each) and lie in folders as
`fewsight embed` writes them; no photo and no network is there, so that what is measured is everything that `predict`
does with features: reading shards, scores, novelty, calibrated probabilities, nearest labelled photos, rows, tables,
report. Time should be linear and memory flat. Time is processor time of the whole process, one thread.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import textwrap
from pathlib import Path

import torch

from fewsight.workflows.feature_shards import PhotoRow, write_index, write_shard
from fewsight.workflows.run_record import RunRecord, record_run

DIM, CLASSES, SHOTS, SHARD = 384, 10, 5, 1024
RUN = """
    import json, resource, sys, time
    from pathlib import Path
    from fewsight.workflows.predict import predict

    folder = Path(sys.argv[1])
    run = predict(folder / "labelled", folder / sys.argv[2], folder / ("run-" + sys.argv[2]), quiet=True, reject=0.05)
    print(json.dumps({"rows": len(run.rows), "seconds": time.process_time(),
                      "peak MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""


def write_features(
    folder: Path, names: list[str], labels: torch.Tensor, centres: torch.Tensor, seed: int
) -> None:
    """A folder of `fewsight embed` with synthetic features about the centres of their classes."""
    folder.mkdir(parents=True)
    settings = {
        "photos": str(folder / "gone"),
        "backbone": "synthetic",
        "image_size": [0, 0],
        "precision": "float32",
    }
    record_run(folder, RunRecord("embed", settings, {"count": str(len(names)), "features": "synthetic"}))
    generator = torch.Generator().manual_seed(seed)
    for number, first in enumerate(range(0, len(names), SHARD)):
        part = labels[first : first + SHARD]
        features = centres[part] + torch.randn(len(part), DIM, generator=generator)
        rows = [PhotoRow(name, "ok", "", row) for row, name in enumerate(names[first : first + SHARD])]
        write_shard(folder, number, features, rows)
    write_index(folder)


def main() -> None:
    """Print one line of figures for each size."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    count = parser.parse_args().rows
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(CLASSES, DIM, generator=generator)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        labels = torch.arange(CLASSES).repeat_interleave(SHOTS)
        names = [f"class{k}/{shot}.jpg" for k in range(CLASSES) for shot in range(SHOTS)]
        write_features(folder / "labelled", names, labels, centres, seed=1)
        for size in (count // 10, count):
            labels = torch.randint(CLASSES, (size,), generator=generator)
            names = [f"station{n // 1000:04d}/{n:07d}.jpg" for n in range(size)]
            write_features(folder / f"pile{size}", names, labels, centres, seed=2)
            command = [sys.executable, "-c", textwrap.dedent(RUN), str(folder), f"pile{size}"]
            environment = os.environ | {"FEWSIGHT_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
            told = json.loads(
                subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment).stdout
            )
            print({**told, "rows/s": round(told["rows"] / told["seconds"])}, flush=True)


if __name__ == "__main__":
    main()

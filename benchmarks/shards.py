"""Tar shards beside files: photos a second, headers a second, and memory with the index of a hundred million photos.

    python benchmarks/shards.py [--photos 600] [--repetitions 5]

Both sides decode the same JPEGs of 500 x 375 to 256 x 256 in batches of 64 with one thread, by processor time; files
are read by path as the store is made. The index of a hundred million photos is made up (10,000 shards of 10,000), since
what it costs does not depend on what the photos show. Nothing here waits for a disk: the pages are in memory.
"""

from __future__ import annotations

import argparse
import io
import tarfile
import tempfile
import time
from pathlib import Path

import numpy
import torch
from PIL import Image

from fewsight.data.collection import Collection
from fewsight.data.shards.headers import read_headers
from fewsight.data.shards.index import ROW, ShardIndex, build_index
from fewsight.data.shards.order import ShardOrder
from fewsight.data.shards.photos import ShardPhotos
from fewsight.data.stored_photos import _pixels
from fewsight.data.transform import Transform
from fewsight.devices import keep_buffers
from measure import compare, table

BATCH, HUNDRED_MILLION = 64, 100_000_000
STORED = Transform(size=(256, 256))


def photo(number: int) -> bytes:
    """A JPEG as large as one of a camera at 500 x 375."""
    generator = numpy.random.default_rng(number)
    coarse = Image.fromarray(generator.integers(0, 256, (24, 32, 3), dtype=numpy.uint8))
    file = io.BytesIO()
    coarse.resize((500, 375), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    return file.getvalue()


def written(folder: Path, count: int) -> tuple[list[Path], list[Path]]:
    """The same photos as files and as four shards."""
    (folder / "files").mkdir()
    files, shards = [], []
    for number in range(count):
        files.append(folder / "files" / f"{number:06d}.jpg")
        files[-1].write_bytes(photo(number))
    for shard in range(4):
        shards.append(folder / f"photos-{shard:06d}.tar")
        with tarfile.open(shards[-1], "w") as archive:
            for file in files[shard * count // 4 : (shard + 1) * count // 4]:
                archive.add(file, file.name)
    return files, shards


def rates(files: list[Path], shards: list[Path], folder: Path, repetitions: int) -> None:
    """The table of both, each photo once in the order of an epoch."""
    collection = Collection.from_paths(files)
    photos = ShardPhotos(build_index(shards, folder / "index"), STORED, workers=1)
    order = ShardOrder(photos.index.starts, BATCH)
    batches = [order.rows(0, first, first + BATCH, 0) for first in range(0, order.places, BATCH)]

    def by_file() -> None:
        for rows in batches:
            pixels = numpy.stack([_pixels(collection, row, STORED) for row in rows.tolist()])  # type: ignore[arg-type]
            torch.from_numpy(pixels)

    def by_shard() -> None:
        for number, rows in enumerate(batches):
            assert numpy.array_equal(order.rows(0, number * BATCH, (number + 1) * BATCH, 0), rows)
            photos.rows(rows)

    costs = compare({"files": by_file, "shards": by_shard}, repetitions)
    print(table(costs, "files"))
    print(", ".join(f"{name}: {order.places / cost.seconds:.0f} photos/s" for name, cost in costs.items()))


def headers(folder: Path) -> None:
    """How fast the index grows: 20,000 members of 4 kB."""
    path = folder / "many.tar"
    with tarfile.open(path, "w") as archive:
        for number in range(20_000):
            member = tarfile.TarInfo(f"n{number % 1000:04d}/{number:08d}.jpg")
            member.size = 4096
            archive.addfile(member, io.BytesIO(bytes(4096)))
    started = time.process_time()
    count = len(read_headers(path).photos)
    print(f"headers: {count / (time.process_time() - started):,.0f} photos/s of processor time")


def own_mib() -> float:
    """Memory that is this process's alone: without pages of files, which all share and the system takes back."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) / 1024
    return 0.0


def memory(folder: Path) -> None:
    """A hundred million photos: what a process holds while it draws batches here and there of several epochs."""
    path = folder / "rows.bin"
    rows = numpy.memmap(path, ROW, "w+", shape=(HUNDRED_MILLION,))
    del rows
    files = tuple(Path(f"photos-{shard:06d}.tar") for shard in range(10_000))
    before = own_mib()
    index = ShardIndex(
        files, numpy.arange(0, HUNDRED_MILLION + 1, 10_000), numpy.memmap(path, ROW, "r"), (), (), 0
    )
    order = ShardOrder(index.starts, 1024)
    started = time.process_time()
    draws = 200
    for number in range(draws):
        first = number * 487 % (order.places // 1024) * 1024
        places = order.rows(number % 3, first, first + 1024, 0)
        index.rows[places]["offset"].sum()
    took = (time.process_time() - started) / draws
    print(
        f"index of {HUNDRED_MILLION:,} photos: {path.stat().st_size / 2**30:.2f} GiB on the disk, "
        f"{own_mib() - before:.0f} MiB of memory a process, {1e3 * took:.1f} ms to draw a batch of 1,024"
    )


def main() -> None:
    """Print all three."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", type=int, default=600)
    parser.add_argument("--repetitions", type=int, default=5)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_buffers()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        files, shards = written(folder, arguments.photos)
        rates(files, shards, folder, arguments.repetitions)
        headers(folder)
        memory(folder)


if __name__ == "__main__":
    main()

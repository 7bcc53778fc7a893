"""Two SimCLR views of 224 px beside lightly's transform: photos a second, from JPEG files and from the uint8 store.

    python benchmarks/two_views.py --data SHARED/data [--repetitions 7]

Photos of voc15, enlarged to 500 x 375 and saved as JPEG (quality 90); the store holds them at 256 x 256. One thread.
Both sides make the published SimCLR pipeline (strength 1, blur for half the views); lightly blurs with Pillow, we with
the published kernel and border. Limits: decoding takes 1 to 2 ms a photo, and the operations touch every pixel about
30 times.
"""

from __future__ import annotations

import argparse
import io
import sys
from pathlib import Path

import numpy
import torch
from lightly.transforms import SimCLRTransform
from PIL import Image

from fewsight.data.pipelines import AUGMENTATIONS, augmented, draws_of
from fewsight.devices import keep_buffers
from measure import compare, table

COUNT, SIZE = 16, (224, 224)


def photos(data: Path) -> list[Image.Image]:
    """Real photos at 500 x 375."""
    sys.path.insert(0, str(data))
    import read

    found = []
    for image, *_ in read.load("voc15"):
        found.append(image.convert("RGB").resize((500, 375), Image.Resampling.BICUBIC))
        if len(found) == COUNT:
            return found
    raise SystemExit("voc15 holds too few photos.")


def as_jpeg(image: Image.Image) -> bytes:
    """The bytes of a JPEG file."""
    file = io.BytesIO()
    image.save(file, "JPEG", quality=90)
    return file.getvalue()


def two_views(pixels: torch.Tensor | list[torch.Tensor], samples: numpy.ndarray) -> list[torch.Tensor]:
    """Ours, from uint8 `[B, 3, H, W]`, or from photos of their own sizes."""
    mean, std = (torch.tensor(v)[:, None, None] for v in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    return [
        augmented(pixels, AUGMENTATIONS["simclr"], SIZE, draws_of(0, view, samples)).sub_(mean).div_(std)
        for view in range(2)
    ]


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--repetitions", type=int, default=7)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    keep_buffers()
    pictures = photos(arguments.data)
    files = [as_jpeg(picture) for picture in pictures]
    stored = numpy.stack([numpy.asarray(p.resize((256, 256), Image.Resampling.BICUBIC)) for p in pictures])
    tensors = torch.from_numpy(stored).permute(0, 3, 1, 2)
    ids = numpy.arange(COUNT)
    peer = SimCLRTransform(input_size=224)

    def ours_from_jpeg() -> list[torch.Tensor]:
        decoded = [numpy.array(Image.open(io.BytesIO(file)).convert("RGB")) for file in files]
        return two_views([torch.from_numpy(pixels).permute(2, 0, 1) for pixels in decoded], ids)

    cases = {
        "from JPEG": {
            "lightly SimCLRTransform": lambda: [
                peer(Image.open(io.BytesIO(f)).convert("RGB")) for f in files
            ],
            "fewsight": ours_from_jpeg,
        },
        "from the store": {
            "lightly SimCLRTransform": lambda: [peer(Image.fromarray(pixels)) for pixels in stored],
            "fewsight": lambda: two_views(tensors, ids),
        },
    }
    for name, calls in cases.items():
        costs = compare(calls, arguments.repetitions)
        print(f"\n{name}, {COUNT} photos\n\n{table(costs, 'lightly SimCLRTransform')}")
        print(", ".join(f"{who}: {COUNT / cost.seconds:.0f} photos/s" for who, cost in costs.items()))


if __name__ == "__main__":
    main()

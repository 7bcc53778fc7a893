"""Makes the bundled backbone: views, targets, four stages of training, weights with their description.

    python distil/bundled.py prepare --data DATA --work FOLDER          views and targets, once
    python distil/bundled.py train   --data DATA --work FOLDER          stages a to d; goes on where it stopped
    python distil/bundled.py export  --work FOLDER --out WEIGHTS        bundled.safetensors and bundled.json

DATA holds tiny_imagenet.zip, imagenet_one_each.zip, read.py and mobilenetv2_imagenet.safetensors.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from targets import write_targets
from teacher import Teacher
from train import STAGES, Targets, train
from views import write_views

from fewsight.backbones.bundled import BundledBackbone

TEACHER = "mobilenetv2_imagenet.safetensors"
LICENCE = {
    "name": "Apache-2.0",
    "commercial": None,
    "note": (
        "started from and taught by MobileNetV2 of github.com/google-coral/test_data (Apache-2.0); trained on photos "
        "whose terms are non-commercial research (ImageNet) or unknown (CIFAR-100)"
    ),
}
PROVENANCE = {
    "teacher": "tf2_mobilenet_v2_1.0_224_ptq.tflite of github.com/google-coral/test_data, Apache-2.0",
    "data": {
        "tiny_imagenet": "85 photos of each of 200 classes; ImageNet's terms: non-commercial research",
        "imagenet_one_each": "1 photo of each of 1,000 classes; ImageNet's terms: non-commercial research",
        "cifar100": "about 4,000 training photos of the 64 training classes of CIFAR-FS; terms unknown",
        "omniglot": "about 1,000 drawings of the training characters; MIT",
    },
}


def prepare(options: argparse.Namespace) -> None:
    """Write views and targets of the wanted blocks that are not there yet."""
    options.work.mkdir(parents=True, exist_ok=True)
    teacher = Teacher(options.data / TEACHER).to(memory_format=torch.channels_last)
    for block, limit in zip(options.blocks, options.rows or [None] * len(options.blocks), strict=True):
        finished = options.work / f"targets_{block}.done"
        if finished.exists():
            continue
        views = options.work / f"views_{block}.npy"
        print(write_views(options.data, views, seed=options.seed, block=block), "views", flush=True)
        write_targets(teacher, views, options.work, block, limit=limit)
        finished.touch()


def run_stages(options: argparse.Namespace) -> None:
    """Run the wanted stages in order, each from the one before."""
    targets = Targets(options.work, options.blocks, options.rows)
    teacher = {name: tensor.float() for name, tensor in load_file(options.data / TEACHER).items()}
    before = None
    for name in options.stages:
        stage = STAGES[name].shortened(options.share)
        target = options.work / f"{name}_{options.seed}.pt"
        train(stage, targets, target, seed=options.seed, before=before, teacher=teacher)
        before = target


def export(options: argparse.Namespace) -> None:
    """Write the moving average of a stage as float16 safetensors, and its description."""
    checkpoint = options.checkpoint or options.work / f"d_{options.seed}.pt"
    state = torch.load(checkpoint)["average"]
    content = save({name: tensor.to(torch.float16).contiguous() for name, tensor in sorted(state.items())})
    made = {
        "checkpoint": checkpoint.name,
        "seed": options.seed,
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
    description = {
        "name": BundledBackbone.name,
        "sha256": hashlib.sha256(content).hexdigest(),
        "parameters": sum(tensor.numel() for tensor in state.values()),
        "licence": LICENCE,
        "transform": BundledBackbone.transform.as_dict(),
        "pooling": BundledBackbone.pooling,
        "provenance": PROVENANCE | made,
    }
    options.out.mkdir(parents=True, exist_ok=True)
    _replace(options.out / "bundled.safetensors", content)
    _replace(options.out / "bundled.json", (json.dumps(description, indent=2) + "\n").encode())
    print(len(content), description["sha256"])


def _replace(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)


def main() -> None:
    """Parse the command and run it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(required=True)
    for name, verb in (("prepare", prepare), ("train", run_stages), ("export", export)):
        sub = verbs.add_parser(name)
        sub.set_defaults(verb=verb)
        sub.add_argument("--work", type=Path, required=True)
        sub.add_argument("--seed", type=int, default=0)
        if name == "export":
            sub.add_argument("--out", type=Path, required=True)
            sub.add_argument("--checkpoint", type=Path)
            continue
        sub.add_argument("--data", type=Path, required=True)
        sub.add_argument("--blocks", type=int, nargs="+", default=[0])
        sub.add_argument(
            "--rows", type=int, nargs="+", help="views of each block that are used (default: all)"
        )
        if name == "train":
            sub.add_argument("--stages", nargs="+", default=["a", "b", "c", "d"], choices=sorted(STAGES))
            sub.add_argument("--share", type=float, default=1.0, help="of every stage's steps (default: all)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.verb(options)


if __name__ == "__main__":
    main()

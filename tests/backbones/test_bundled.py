"""The bundled backbone: any input size, exact internals, hidden patches, intact weights, and its worth."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from conftest import load_module
from fewsight.backbones.backbone import TokenMask
from fewsight.backbones.bundled import WEIGHTS, BundledBackbone, load_bundled
from fewsight.backbones.features import Request, pool
from fewsight.errors import IncompatibleModel, InvalidInput, MissingWeights
from fewsight.seeding import numpy_generator

REPOSITORY = Path(__file__).resolve().parents[2]
EVERYTHING = Request(blocks="all", normed=False, attention=True, keys=True, class_query=True)


@pytest.fixture(scope="module")
def backbone() -> BundledBackbone:
    return load_bundled()


def images(*sizes: int, seed: int = 0) -> Tensor:
    return torch.randn(*sizes, generator=torch.Generator().manual_seed(seed)).clamp(-1, 1)


def plain_blocks(backbone: BundledBackbone, tokens: Tensor) -> tuple[list[Tensor], Tensor, Tensor, Tensor]:
    """Block outputs, and q, k and softmax of the last block, written out."""
    outputs = []
    for block in backbone.blocks:
        B, T, D = tokens.shape
        n, d = backbone.num_heads, D // backbone.num_heads
        q, k, v = block.attn.qkv(block.norm1(tokens)).chunk(3, dim=-1)
        q, k, v = (part.reshape(B, T, n, d).transpose(1, 2) for part in (q, k, v))
        softmax = (q @ k.transpose(2, 3) / d**0.5).softmax(-1)
        tokens = tokens + block.attn.proj((softmax @ v).transpose(1, 2).reshape(B, T, D))
        tokens = tokens + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(tokens))))
        outputs.append(tokens)
    return outputs, q, k, softmax


@torch.no_grad()
def test_internals_equal_the_blocks_written_out(backbone: BundledBackbone) -> None:
    batch = images(2, 3, 96, 128)
    found = backbone.features(batch, EVERYTHING)
    patches = backbone.embed(backbone.trunk(batch)).permute(0, 2, 3, 1) + backbone.position(6, 8)
    tokens = torch.cat([backbone.cls_token.expand(2, 1, -1), patches.reshape(2, 48, -1)], dim=1)
    outputs, q, k, softmax = plain_blocks(backbone, tokens)
    final = backbone.norm(outputs[-1])

    def assert_same(found: Tensor | None, expected: Tensor) -> None:
        # fused attention sums in another order: float32 rounding through four blocks
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)

    assert_same(found.cls, final[:, 0])
    assert_same(found.patches, final[:, 1:].reshape(2, 6, 8, -1))
    assert found.blocks is not None
    assert_same(found.blocks.cls, torch.stack(outputs, 1)[:, :, 0])
    assert_same(found.blocks.patches, torch.stack(outputs, 1)[:, :, 1:].reshape(2, 4, 6, 8, -1))
    assert_same(found.keys, k[:, :, 1:].reshape(2, 4, 6, 8, -1))
    assert_same(found.class_query, q[:, :, 0])
    assert_same(found.attention, softmax[:, :, 0, 1:].reshape(2, 4, 6, 8))


@torch.no_grad()
@pytest.mark.parametrize("size", [(64, 64), (65, 100), (128, 128), (96, 224), (384, 64), (384, 384)], ids=str)
def test_any_size(backbone: BundledBackbone, size: tuple[int, int]) -> None:
    found = backbone.features(images(2, 3, *size), EVERYTHING)
    h, w = (-(-side // 16) for side in size)
    assert found.cls is not None
    assert found.patches is not None
    assert found.attention is not None
    assert found.cls.shape == (2, 256)
    assert found.patches.shape == (2, h, w, 256)
    assert found.keys is not None
    assert found.keys.shape == (2, 4, h, w, 64)
    assert found.class_query is not None
    assert found.class_query.shape == (2, 4, 64)
    assert found.blocks is not None
    assert found.blocks.patches.shape == (2, 4, h, w, 256)
    assert found.attention.shape == (2, 4, h, w)
    assert found.attention.min() >= 0
    assert (found.attention.flatten(2).sum(-1) < 1).all()  # the class token's own column is cut off
    assert torch.isfinite(found.patches).all()


@torch.no_grad()
def test_request_chooses_blocks_and_norm(backbone: BundledBackbone) -> None:
    batch = images(1, 3, 64, 64)
    raw = backbone.features(batch, Request(blocks=(-1, 0), normed=False)).blocks
    normed = backbone.features(batch, Request(blocks=(-1,))).blocks
    final = backbone.features(batch)
    assert raw is not None
    assert normed is not None
    assert raw.cls is not None
    assert final.blocks is None
    assert final.keys is None
    assert final.attention is None
    assert final.class_query is None
    torch.testing.assert_close(backbone.norm(raw.patches[:, 0]), final.patches)
    torch.testing.assert_close(normed.patches[:, 0], final.patches)
    every = backbone.features(batch, Request(blocks="all", normed=False)).blocks
    assert every is not None
    torch.testing.assert_close(raw.patches[:, 1], every.patches[:, 0])


@torch.no_grad()
def test_hidden_patches_do_not_reach_the_blocks(backbone: BundledBackbone) -> None:
    maps = images(2, 320, 4, 6)
    hidden = torch.rand(2, 4, 6, generator=torch.Generator().manual_seed(1)).flatten(1).argsort(1) < 10
    hidden = hidden.reshape(2, 4, 6)
    other = torch.where(hidden[:, None], maps + 5, maps)
    for mode in ("replace", "drop"):
        mask = TokenMask(hidden, mode)  # type: ignore[arg-type]
        one, two = backbone.encode(maps, EVERYTHING, mask), backbone.encode(other, EVERYTHING, mask)
        torch.testing.assert_close(one.cls, two.cls)
        torch.testing.assert_close(one.patches, two.patches)
    dropped = backbone.encode(maps, EVERYTHING, TokenMask(hidden, "drop"))
    assert dropped.patches is not None
    assert dropped.patches.shape == (2, 1, 14, 256)
    assert dropped.keys is not None
    assert dropped.keys.shape == (2, 4, 1, 14, 64)
    nothing = torch.zeros(2, 4, 6, dtype=torch.bool)
    plain = backbone.encode(maps)
    assert plain.patches is not None
    replaced = backbone.encode(maps, mask=TokenMask(nothing))
    torch.testing.assert_close(replaced.patches, plain.patches)
    kept = backbone.encode(maps, mask=TokenMask(nothing, "drop"))
    torch.testing.assert_close(kept.patches, plain.patches.reshape(2, 1, 24, 256))


def test_dropping_keeps_row_major_order_and_gradients(backbone: BundledBackbone) -> None:
    maps = images(1, 320, 2, 2).requires_grad_()
    hidden = torch.tensor([[[False, True], [False, False]]])
    found = backbone.encode(maps, mask=TokenMask(hidden, "drop"))
    assert found.patches is not None
    found.patches.square().sum().backward()
    assert maps.grad is not None
    reached = maps.grad.abs().sum((0, 1)) > 0
    assert reached.tolist() == [[True, False], [True, True]]
    backbone.zero_grad(set_to_none=True)


@torch.no_grad()
def test_images_do_not_depend_on_their_batch(backbone: BundledBackbone) -> None:
    batch = images(3, 3, 80, 80)
    together = backbone.features(batch, EVERYTHING)
    alone = backbone.features(batch[1:2], EVERYTHING)
    # kernels chosen by batch size round differently
    torch.testing.assert_close(together.rows([1]).patches, alone.patches, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(backbone(batch), pool(together, backbone.pooling))


@pytest.mark.parametrize("shape", [(1, 3, 63, 64), (1, 3, 64, 385), (1, 1, 64, 64), (3, 64, 64)], ids=str)
def test_wrong_images(backbone: BundledBackbone, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match="images"):
        backbone.features(torch.zeros(*shape))


def test_wrong_masks(backbone: BundledBackbone) -> None:
    with pytest.raises(InvalidInput, match=r"patches|mask\.hidden"):
        backbone.features(torch.zeros(1, 3, 64, 64), mask=TokenMask(torch.zeros(1, 3, 3, dtype=torch.bool)))
    uneven = torch.zeros(2, 4, 4, dtype=torch.bool)
    uneven[0, 0, 0] = True
    with pytest.raises(InvalidInput, match=r"mask\.hidden keeps 15 to 16"):
        backbone.features(torch.zeros(2, 3, 64, 64), mask=TokenMask(uneven, "drop"))


def test_weights_are_whole_and_small() -> None:
    content = (WEIGHTS / "bundled.safetensors").read_bytes()
    description = json.loads((WEIGHTS / "bundled.json").read_text(encoding="utf-8"))
    assert len(content) <= 12_000_000
    assert hashlib.sha256(content).hexdigest() == description["sha256"]
    assert description["name"] == BundledBackbone.name
    assert (WEIGHTS / "bundled.md").read_text(encoding="utf-8").strip()


def test_loaded_as_described(backbone: BundledBackbone) -> None:
    description = json.loads((WEIGHTS / "bundled.json").read_text(encoding="utf-8"))
    assert backbone.transform.as_dict() == description["transform"]
    assert backbone.pooling == description["pooling"]
    assert backbone.licence.name == description["licence"]["name"]
    assert sum(parameter.numel() for parameter in backbone.parameters()) == description["parameters"]
    assert not backbone.training
    assert all(p.dtype == torch.float32 and p.requires_grad for p in backbone.parameters())


def test_damaged_or_missing_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingWeights, match=r"bundled\.json"):
        load_bundled(tmp_path)
    for name in ("bundled.json", "bundled.safetensors"):
        shutil.copy(WEIGHTS / name, tmp_path / name)
    content = bytearray((tmp_path / "bundled.safetensors").read_bytes())
    content[-1] ^= 1
    (tmp_path / "bundled.safetensors").write_bytes(content)
    with pytest.raises(IncompatibleModel, match="SHA-256"):
        load_bundled(tmp_path)


def test_loads_without_timm() -> None:
    script = (
        "import sys\nfrom fewsight.backbones.bundled import load_bundled\n"
        "load_bundled(); sys.exit('timm' in sys.modules or 'torchvision' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_no_tensor_is_the_teachers_own(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from safetensors.torch import load_file

    monkeypatch.syspath_prepend(str(REPOSITORY / "distil"))
    teacher = load_module(REPOSITORY / "distil" / "teacher.py", "distil_teacher")
    theirs = teacher.Teacher(shared / "data" / "mobilenetv2_imagenet.safetensors").trunk.named_parameters()
    ours = load_file(WEIGHTS / "bundled.safetensors")
    for name, parameter in theirs:
        differs = ours[f"trunk.{name}"] != parameter.to(torch.float16)
        assert differs.float().mean() > 0.5, name  # 0 where a tensor was copied


def five_way_accuracy(vectors: Tensor, labels: list[str], *, shots: int, episodes: int = 60) -> float:
    """Mean accuracy of cosine to the mean prototype, 5 queries a class."""
    names, unit = sorted(set(labels)), F.normalize(vectors, dim=1)
    right = 0.0
    for episode in range(episodes):
        rng = numpy_generator(0, "bundled test", episode)
        rows = torch.stack(
            [
                torch.from_numpy(
                    rng.choice([i for i, label in enumerate(labels) if label == name], shots + 5, False)
                )
                for name in rng.choice(names, 5, replace=False)
            ]
        )
        prototypes = F.normalize(unit[rows[:, :shots]].mean(1), dim=1)
        found = (unit[rows[:, shots:].flatten()] @ prototypes.T).argmax(1)
        right += (found == torch.arange(5).repeat_interleave(5)).float().mean().item()
    return right / episodes


@torch.no_grad()
def test_worth_far_more_than_raw_pixels(backbone: BundledBackbone, data_reader) -> None:  # type: ignore[no-untyped-def]
    numpy = pytest.importorskip("numpy")
    photos, labels = [], []
    for image, info, _ in data_reader.load("resisc12", "test"):
        if info["labels"][0] > "j":  # seven classes are enough
            continue
        photos.append(torch.from_numpy(numpy.array(image.resize((128, 128)))).permute(2, 0, 1) / 127.5 - 1)
        labels.append(info["labels"][0])
    batch = torch.stack(photos)
    pixels = five_way_accuracy(F.interpolate(batch, size=(32, 32), mode="area").flatten(1), labels, shots=5)
    learned = five_way_accuracy(torch.cat([backbone(part) for part in batch.split(32)]), labels, shots=5)
    assert learned > 0.7
    assert learned > pixels + 0.25  # measured: about 0.79 against 0.40

from __future__ import annotations

import numpy
import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from fewsight.backbones import encode as module
from fewsight.backbones.conv4 import Conv4
from fewsight.backbones.encode import Encoder, encode, encode_photos
from fewsight.backbones.feature_cache import FeatureCache
from fewsight.backbones.features import Request
from fewsight.backbones.precision import at_precision
from fewsight.backbones.vit import VisionTransformerBackbone
from fewsight.data.transform import Transform
from fewsight.errors import FewsightError, InvalidInput


@pytest.fixture(scope="module")
def backbone():
    torch.manual_seed(0)
    model = VisionTransformer(img_size=32, patch_size=8, embed_dim=48, depth=2, num_heads=3, num_classes=0)
    return VisionTransformerBackbone(model, name="tiny", transform=Transform(size=(32, 32)))


class Counting:
    """A backbone seen from outside: counts images, fails above a size, or makes numbers that are not finite."""

    def __init__(self, backbone, monkeypatch, most=10**9, error=None, broken=()):
        self.images = 0
        self.sizes = []
        original = VisionTransformerBackbone.features

        def features(network, images, request=Request(), mask=None):
            self.sizes.append(len(images))
            if len(images) > most:
                raise error or RuntimeError(
                    "DefaultCPUAllocator: can't allocate memory: you tried to allocate"
                )
            self.images += len(images)
            given = original(network, images, request, mask)
            return given._replace(cls=given.cls * float("nan")) if images.dtype in broken else given

        monkeypatch.setattr(VisionTransformerBackbone, "features", features)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    generator = numpy.random.default_rng(0)
    files = []
    for n in range(7):
        files.append(folder / f"{n}.png")
        Image.fromarray(generator.integers(0, 255, (40, 50, 3), dtype=numpy.uint8)).save(files[-1])
    files[3].write_bytes(b"no picture")
    return files


def test_equals_one_forward_in_order(backbone):
    images = torch.randn(11, 3, 32, 32)
    request = Request(blocks="all", keys=True, attention=True)
    with torch.no_grad():
        expected = backbone.eval().features(images, request)
    given = encode(backbone, images.split([4, 0, 7]), request, precision="fp32", batch_size=3)
    torch.testing.assert_close(given.patches, expected.patches, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(given.blocks.cls, expected.blocks.cls, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(given.attention, expected.attention, rtol=1e-5, atol=1e-5)
    assert given.cls.dtype == torch.float32
    assert not given.cls.requires_grad


def test_training_mode_is_left_as_it_was(backbone):
    for mode in (True, False):
        backbone.train(mode)
        encode(backbone, [torch.zeros(1, 3, 32, 32)], precision="fp32")
        assert backbone.training is mode


def test_vectors_leave_the_patches_out(backbone):
    images = torch.randn(3, 3, 32, 32)
    given = encode(backbone, [images], precision="fp32", vectors=True)
    assert given.patches is None
    torch.testing.assert_close(given.cls, backbone.eval()(images).detach())


def test_nothing_to_encode(backbone):
    assert encode(backbone, []).cls.shape == (0, 48)
    assert encode(backbone, [torch.empty(0, 3, 32, 32)]).num_images == 0


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_16_bits_are_close_and_given_as_32(backbone, precision):
    images = torch.randn(4, 3, 32, 32)
    exact = encode(backbone, [images], precision="fp32")
    given = encode(backbone, [images], precision=precision)
    assert given.cls.dtype == torch.float32
    similarity = torch.cosine_similarity(given.patches.flatten(0, 2), exact.patches.flatten(0, 2), dim=-1)
    assert similarity.min() > 0.999
    assert next(backbone.parameters()).dtype == torch.float32


def test_auto_goes_by_the_agreement(backbone, monkeypatch):
    monkeypatch.setattr(module, "resolve_precision", lambda *_: torch.bfloat16)
    assert Encoder(backbone).dtype == torch.bfloat16
    monkeypatch.setattr(module, "agrees", lambda *_: False)
    assert Encoder(backbone).dtype == torch.float32
    assert Encoder(backbone, precision="bf16").dtype == torch.bfloat16  # asked for outright


@pytest.mark.parametrize("error", [None, MemoryError(), torch.OutOfMemoryError("CUDA out of memory")])
def test_out_of_memory_halves_the_batch_and_says_so(backbone, monkeypatch, capsys, error):
    images = torch.randn(9, 3, 32, 32)
    expected = encode(backbone, [images], precision="fp32")
    counting = Counting(backbone, monkeypatch, most=3, error=error)
    given = encode(backbone, [images, images], precision="fp32", batch_size=8)
    torch.testing.assert_close(given.cls, torch.cat([expected.cls] * 2), rtol=1e-5, atol=1e-5)
    assert counting.sizes[:3] == [8, 4, 2]
    assert set(counting.sizes[2:]) == {2, 1}
    assert "going on with 2 images" in capsys.readouterr().err


def test_a_single_image_that_does_not_fit(backbone, monkeypatch):
    Counting(backbone, monkeypatch, most=0)
    with pytest.raises(FewsightError, match="--image-size"):
        encode(backbone, [torch.zeros(2, 3, 32, 32)], precision="fp32")


def test_features_that_depend_on_the_batch_are_neither_kept_nor_halved(tmp_path, monkeypatch):
    network = Conv4(8).train()
    assert Encoder(network).caches  # evaluation takes the running moments
    monkeypatch.setattr(Conv4, "couples_images", True)
    encoder = Encoder(network, precision="fp32")
    assert not encoder.caches
    with FeatureCache(tmp_path) as cache:
        encode(network, [torch.zeros(2, 3, 28, 28)], precision="fp32", cache=cache)
        assert cache.usage().entries == 0
    monkeypatch.setattr(Conv4, "features", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(FewsightError, match="2 images of 28 x 28"):
        encoder(torch.zeros(2, 3, 28, 28))


def test_other_errors_are_not_taken_for_lack_of_memory(backbone):
    with pytest.raises(InvalidInput, match="30 x 32"):
        encode(backbone, [torch.zeros(2, 3, 30, 32)], precision="fp32")


def test_overflow_in_16_bits_goes_on_in_32(backbone, monkeypatch, capsys):
    images = torch.randn(4, 3, 32, 32)
    Counting(backbone, monkeypatch, broken=(torch.float16,))
    encoder = Encoder(backbone, precision="fp16")
    before = encoder.key("x")
    assert encoder(images).cls.isfinite().all()
    assert encoder.dtype == torch.float32
    assert encoder.key("x") != before


def test_weights_that_are_not_finite(backbone, monkeypatch):
    Counting(backbone, monkeypatch, broken=(torch.float32,))
    with pytest.raises(FewsightError, match="not finite"):
        encode(backbone, [torch.zeros(1, 3, 32, 32)], precision="fp32")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_second_run_encodes_nothing(backbone, monkeypatch, tmp_path, photos, precision):
    request = Request(blocks=(0,), attention=True)
    runs = []
    for _ in range(2):
        with FeatureCache(tmp_path / "cache") as cache:
            counting = Counting(backbone, monkeypatch)
            encoder = Encoder(backbone, request, precision=precision, batch_size=3)
            runs.append((list(encode_photos(encoder, photos, cache=cache)), counting.images))
    (first, encoded), (second, encoded_again) = runs
    assert (encoded, encoded_again) == (6, 0)
    assert [batch.encoded for batch in first] == [3, 2, 1]
    assert [batch.encoded for batch in second] == [0, 0, 0]
    for one, two in zip(first, second, strict=True):
        assert one.indices.tolist() == two.indices.tolist()
        for a, b in zip(one.outcomes, two.outcomes, strict=True):
            assert (a.status, a.original_size) == (b.status, b.original_size)
        assert torch.equal(one.features.cls, two.features.cls)
        assert torch.equal(one.features.patches, two.features.patches)
        assert torch.equal(one.features.blocks.patches, two.features.blocks.patches)
        assert torch.equal(one.features.attention, two.features.attention)
    assert [o.status for batch in second for o in batch.outcomes].count("unreadable") == 1


def test_old_and_new_photos_keep_their_order(backbone, tmp_path, photos):
    encoder = Encoder(backbone, precision="fp32", batch_size=8, vectors=True)
    expected = torch.cat([batch.features.cls for batch in encode_photos(encoder, photos)])
    with FeatureCache(tmp_path / "cache") as cache:
        list(encode_photos(encoder, photos[1::2], cache=cache))
        (batch,) = encode_photos(encoder, photos, cache=cache)
        assert batch.encoded == 4
        assert torch.equal(batch.features.cls, expected)
        assert batch.indices.tolist() == [0, 1, 2, 4, 5, 6]


def test_an_entry_that_vanishes_in_between_is_made_again(backbone, tmp_path, photos, monkeypatch):
    encoder = Encoder(backbone, precision="fp32", vectors=True)
    with FeatureCache(tmp_path / "cache") as cache:
        (first,) = encode_photos(encoder, photos, cache=cache)
        monkeypatch.setattr(cache, "get", lambda key: None)
        (second,) = encode_photos(encoder, photos, cache=cache)
    torch.testing.assert_close(first.features.cls, second.features.cls, rtol=1e-5, atol=1e-5)


def test_tensors_are_cached_by_content(backbone, tmp_path, monkeypatch):
    images = torch.randn(4, 3, 32, 32)
    with FeatureCache(tmp_path) as cache:
        first = encode(backbone, [images[:3]], precision="fp32", cache=cache)
        counting = Counting(backbone, monkeypatch)
        second = encode(backbone, [images.flip(0)], precision="fp32", cache=cache)
    assert counting.images == 1
    assert torch.equal(second.cls[1:], first.cls.flip(0))


def test_changed_weights_are_encoded_again(backbone, tmp_path, monkeypatch, photos):
    with FeatureCache(tmp_path / "c") as cache:
        list(encode_photos(Encoder(backbone, precision="fp32"), photos, cache=cache))
        changed = at_precision(backbone, torch.float64, torch.device("cpu")).float()
        with torch.no_grad():
            changed.model.norm.bias += 1
        (batch,) = encode_photos(Encoder(changed, precision="fp32"), photos, cache=cache)
    assert batch.encoded == 6

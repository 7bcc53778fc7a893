from dataclasses import replace

import numpy
import pytest
import torch

from fewsight.data.crops import CROP_DRAWS, crop_and_resize, random_boxes
from fewsight.data.pipelines import (
    AUGMENTATIONS,
    FACTORS,
    KINDS,
    ORDER,
    Augmentation,
    augmentation,
    augmented,
    draws_of,
    for_kind,
)
from fewsight.errors import InvalidInput

PLAIN = Augmentation(area=(1.0, 1.0), aspect=(1.0, 1.0), flip=0.0, jittered=0.0, grey=0.0)
IDS = numpy.arange(2000)


def _photos(count: int = 8, side: int = 40) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def _share(only: Augmentation, changed) -> float:
    """Share of 2,000 samples that an augmentation changes, on one small photo."""
    photo = _photos(1, 6).expand(len(IDS), -1, -1, -1)
    views = augmented(photo, only, (6, 6), draws_of(0, 0, IDS))
    return float(changed(views, photo[:1].float() / 255).float().mean())


def _differs(views: torch.Tensor, plain: torch.Tensor) -> torch.Tensor:
    return ((views - plain).abs() > 1e-4).flatten(1).any(1)


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
@pytest.mark.parametrize("operation", ["flip", "jittered", "grey", "blur", "solarise"])
def test_each_operation_is_as_likely_as_published(name, operation):
    published = AUGMENTATIONS[name]
    probability = getattr(published, operation)
    only = replace(PLAIN, jitter=published.jitter, sigma=(1.0, 2.0), **{operation: probability})
    # 2,000 draws: three standard errors of a share are at most 0.034
    assert abs(_share(only, _differs) - probability) < 0.034


def test_the_blur_of_dinov2_has_the_probabilities_that_it_ran_with():
    assert [AUGMENTATIONS[n].blur for n in ("dinov2_1", "dinov2_2", "dinov2_local")] == [0.0, 0.9, 0.5]
    assert [AUGMENTATIONS[n].blur for n in ("dino_1", "dino_2", "dino_local")] == [1.0, 0.1, 0.5]


def test_a_view_depends_on_its_sample_alone():
    photos, chosen = _photos(), AUGMENTATIONS["dino_2"]
    together = augmented(photos, chosen, (24, 24), draws_of(3, 1, numpy.arange(8)))
    for row in range(8):
        alone = augmented(photos[row : row + 1], chosen, (24, 24), draws_of(3, 1, numpy.array([row])))
        # one picture and many take their blur from matrix products of other shapes
        torch.testing.assert_close(alone[0], together[row], rtol=0, atol=1e-5)


def test_large_and_small_chunks_give_the_same(monkeypatch):
    photos, chosen = _photos(), AUGMENTATIONS["simclr"]
    draws = draws_of(0, 0, numpy.arange(8))
    whole = augmented(photos, chosen, (24, 24), draws)
    monkeypatch.setattr("fewsight.data.pipelines.CHUNK_BYTES", 1)
    torch.testing.assert_close(augmented(photos, chosen, (24, 24), draws), whole, rtol=0, atol=1e-5)


def test_draws_differ_by_seed_view_and_sample_and_repeat():
    base = draws_of(0, 0, numpy.arange(3))
    assert numpy.array_equal(base, draws_of(0, 0, numpy.arange(3)))
    assert numpy.array_equal(base[2], draws_of(0, 0, numpy.array([2]))[0])
    others = [
        draws_of(1, 0, numpy.arange(3)),
        draws_of(0, 1, numpy.arange(3)),
        draws_of(0, 0, numpy.arange(3, 6)),
    ]
    assert all((base != other).all() for other in others)
    assert ((base >= 0) & (base < 1)).all()


def test_equals_torchvision_operation_by_operation():
    from torchvision.transforms.v2 import functional as F

    chosen = Augmentation(area=(0.3, 1.0), flip=0.0, jitter=(0.4, 0.4, 0.2, 0.1), jittered=1.0, grey=0.0)
    photos, draws = _photos(6), draws_of(5, 0, numpy.arange(6))
    ours = augmented(photos, chosen, (32, 32), draws)
    boxes = random_boxes(draws[:, :CROP_DRAWS], (40, 40), chosen.area)
    views = crop_and_resize(photos, boxes, (32, 32), "bicubic").float() / 255
    adjust = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)
    for row, view in enumerate(views):
        for number in draws[row, ORDER].argsort():
            strength, share = chosen.jitter[number], draws[row, FACTORS][number]
            factor = -strength + 2 * strength * share if number == 3 else 1 - strength + 2 * strength * share
            view = adjust[number](view, factor)
        # torchvision's grey has weights of four digits (0.2989, 0.587, 0.114)
        torch.testing.assert_close(ours[row], view, rtol=0, atol=2e-3)


def test_results_stay_in_range_and_photos_are_not_changed():
    photos = _photos()
    before = photos.clone()
    for name in AUGMENTATIONS:
        views = augmented(photos, augmentation(name, 64), (64, 64), draws_of(0, 0, numpy.arange(8)))
        assert views.shape == (8, 3, 64, 64)
        assert 0 <= float(views.min()) <= float(views.max()) <= 1
    assert torch.equal(photos, before)


def test_quarter_turns_are_alike_and_only_turns():
    photo = _photos(1, 6).expand(len(IDS), -1, -1, -1)
    views = augmented(photo, replace(PLAIN, turns=True), (6, 6), draws_of(0, 0, IDS))
    plain = photo[0].float() / 255
    shares = [float((views == plain.rot90(k, (1, 2))).flatten(1).all(1).float().mean()) for k in range(4)]
    assert sum(shares) == 1
    assert all(abs(share - 0.25) < 0.03 for share in shares)  # three standard errors


def test_views_that_are_not_square_are_turned_by_halves():
    photo = _photos(1, 6).expand(64, -1, -1, -1)
    views = augmented(photo, replace(PLAIN, turns=True), (4, 6), draws_of(0, 0, numpy.arange(64)))
    plain = crop_and_resize(photo[:1], numpy.array([[0, 0, 6, 6]]), (4, 6)).float() / 255
    upright = (views == plain).flatten(1).all(1)
    turned = (views == plain.rot90(2, (2, 3))).flatten(1).all(1)
    assert bool((upright | turned).all())
    assert 0 < int(turned.sum()) < 64


@pytest.mark.parametrize("name", list(AUGMENTATIONS))
def test_grey_pictures_stay_grey_and_are_never_inverted(name):
    chosen = for_kind(AUGMENTATIONS[name], "greyscale")
    photos = _photos()[:, :1].expand(-1, 3, -1, -1).contiguous()
    views = augmented(photos, chosen, (32, 32), draws_of(0, 0, numpy.arange(8)))
    torch.testing.assert_close(views[:, 0], views[:, 2], rtol=0, atol=1e-6)
    assert chosen.solarise == 0


def test_kinds_leave_out_what_destroys_their_signal():
    texture, overhead = (
        for_kind(AUGMENTATIONS["dino_1"], "texture"),
        for_kind(AUGMENTATIONS["dino_2"], "overhead"),
    )
    assert (texture.blur, texture.grey, texture.jitter[3]) == (0, 0, 0)
    assert texture.area[0] >= 0.2
    assert overhead.turns
    assert overhead.aspect == (1.0, 1.0)
    assert for_kind(AUGMENTATIONS["dino_1"], "photos") == AUGMENTATIONS["dino_1"]
    assert len(KINDS) == 4


def test_small_views_are_not_blurred():
    assert augmentation("dino_1", 32).blur == 0
    assert augmentation("simclr", 32).jitter == (0.4, 0.4, 0.4, 0.1)
    assert augmentation("simclr", 224) == AUGMENTATIONS["simclr"]
    assert augmentation("msn", 96, (0.05, 0.3)).area == (0.05, 0.3)


def test_errors_name_what_is_wrong():
    with pytest.raises(InvalidInput, match="Did you mean dino_1"):
        augmentation("dino_11", 64)
    with pytest.raises(InvalidInput, match="grey is 2"):
        Augmentation(grey=2)
    with pytest.raises(InvalidInput, match="hue at most"):
        Augmentation(jitter=(0.4, 0.4, 0.4, 0.7))
    with pytest.raises(InvalidInput, match="kind is 'xray'"):
        for_kind(PLAIN, "xray")  # type: ignore[arg-type]


def test_photos_of_their_own_sizes_are_as_by_themselves():
    generator = torch.Generator().manual_seed(0)
    photos = [
        torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
        for size in ((40, 56), (31, 90), (40, 56))
    ]
    chosen, draws = AUGMENTATIONS["dino_2"], draws_of(0, 0, numpy.arange(3))
    together = augmented(photos, chosen, (32, 32), draws)
    for row, photo in enumerate(photos):
        alone = augmented(photo[None], chosen, (32, 32), draws[row : row + 1])
        torch.testing.assert_close(together[row], alone[0], rtol=0, atol=1e-5)

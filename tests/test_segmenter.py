"""`FewShotSegmenter`: maps at the original size, absence as an answer, masks used, saved and loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy
import pytest
from PIL import Image
from sklearn.base import clone

from fewsight.data.scenes import Scene, Scenes
from fewsight.errors import IncompatibleModel, InvalidInput, UnreadableImage
from fewsight.segmenter import FewShotSegmenter

SCENES = Scenes(seed=0, size=96, objects=(1, 1))
ONE, TWO = SCENES.classes[:2]


def make(**settings: Any) -> FewShotSegmenter:
    return FewShotSegmenter("fewsight-bundled", **{"image_size": 128, "device": "cpu", **settings})


def support(shots: int = 2) -> tuple[list[Image.Image], list[str], list[numpy.ndarray]]:
    scenes = [SCENES.scene(i, include=(c,)) for c in (ONE, TWO) for i in range(shots)]
    masks = [
        numpy.where(s.mask == c + 1, k + 1, 0)
        for k, c in enumerate((ONE, TWO))
        for s in scenes[k * shots :][:shots]
    ]
    return [Image.fromarray(scene.image) for scene in scenes], ["one"] * shots + ["two"] * shots, masks


def query() -> Scene:
    return SCENES.scene(50, include=(ONE,), exclude=(TWO,))


@pytest.fixture(scope="module")
def fitted() -> FewShotSegmenter:
    photos, labels, masks = support()
    return make().fit(photos, labels, masks)


def test_maps_have_the_size_of_the_photo(fitted: FewShotSegmenter) -> None:
    wide = Image.fromarray(query().image).resize((150, 70))
    maps = fitted.predict([wide, query().image])
    assert [found.shape for found in maps] == [(70, 150), (96, 96)]
    assert all(found.dtype == numpy.int16 and 0 <= found.min() <= found.max() <= 2 for found in maps)


def test_an_absent_class_marks_no_pixel(fitted: FewShotSegmenter) -> None:
    photos = [SCENES.scene(60 + i).image for i in range(4)]
    presence, maps = fitted.predict_presence(photos), fitted.predict(photos)
    assert presence.shape == (4, 2)
    assert ((presence >= 0) & (presence <= 1)).all()
    assert (presence <= 0.5).any()
    for row, found in zip(presence, maps, strict=True):
        assert set(numpy.unique(found)) - {0} <= {k + 1 for k in range(2) if row[k] > 0.5}


def test_a_support_photo_is_found_where_its_mask_is(fitted: FewShotSegmenter) -> None:
    photos, _, masks = support()
    for photo, mask in zip(photos, masks, strict=True):
        presence = fitted.predict_presence([photo])[0]
        (found,) = fitted.predict([photo])
        truth = mask > 0
        assert presence[mask.max() - 1] > 0.5
        assert (truth & (found == mask.max())).sum() > 0.4 * (truth | (found > 0)).sum()


def test_masks_may_be_given_for_some_photos_or_none() -> None:
    photos, labels, masks = support()
    assert make().fit(photos, labels).masked_ == 0
    some = make().fit(photos, labels, [masks[0] > 0, None, masks[2], None])
    assert some.masked_ == 2
    whole = make().fit(photos, labels, masks)
    moved = make().fit(photos, labels, [numpy.roll(mask, 48, axis=1) for mask in masks])
    assert not numpy.array_equal(whole.predict(photos)[0], moved.predict(photos)[0])


def test_wrong_masks_are_named() -> None:
    photos, labels, masks = support(1)
    for wrong, words in (
        ([masks[0]], "1 entries for 2"),
        ([masks[0][:5], None], "photo 1"),
        ([None, masks[1] * 5], "photo 2"),
        ([masks[0] * 0, None], "marks no pixel of 'one'"),
        ([masks[0] * 0.5, None], "float64"),
    ):
        with pytest.raises(InvalidInput, match=words):
            make().fit(photos, labels, wrong)
    with pytest.raises(InvalidInput, match="2 labels"):
        make().fit(photos, [["one", "two"], "two"], [masks[0] > 0, None])


@pytest.mark.parametrize("settings", [{}, {"false_alarms": 0.2}, {"head": "cst"}], ids=str)
def test_a_saved_model_answers_the_same(tmp_path: Path, settings: dict[str, Any]) -> None:
    photos, labels, masks = support()
    segmenter = make(**settings).fit(photos, labels, masks)
    segmenter.save(tmp_path)
    loaded = FewShotSegmenter.load(tmp_path, device="cpu")
    asked = [query().image]
    assert numpy.array_equal(loaded.predict_presence(asked), segmenter.predict_presence(asked))
    assert numpy.array_equal(loaded.predict(asked)[0], segmenter.predict(asked)[0])
    assert loaded.photo_encoder().backbone.transform.mode == "squash"


def test_a_promise_of_false_alarms_is_kept_on_the_support() -> None:
    photos, labels, _ = support(4)
    strict = make(false_alarms=0.15).fit(photos, labels)
    assert strict.presence_ is not None
    assert strict.presence_.rule in ("conformal", "largest")
    usual = make().fit(photos, labels)
    again = make().fit(photos, labels).set_false_alarms(0.15)
    assert numpy.array_equal(again.predict_presence(photos), strict.predict_presence(photos))
    order = numpy.argsort(usual.predict_presence(photos)[:, 0])
    assert (numpy.diff(strict.predict_presence(photos)[order, 0]) >= -1e-6).all()


def test_the_callers_backbone_stays_as_it_is() -> None:
    from fewsight.backbones.loading import load_backbone

    backbone = load_backbone("fewsight-bundled")
    before = backbone.transform
    photos, labels, _ = support(1)
    segmenter = FewShotSegmenter(backbone, device="cpu", image_size=96).fit(photos, labels)
    assert backbone.transform is before
    assert segmenter.photo_encoder().backbone.transform.size == (96, 96)
    assert clone(make(seed=3)).seed == 3


def test_wrong_input_is_refused(fitted: FewShotSegmenter, tmp_path: Path) -> None:
    photos, labels, _ = support(1)
    with pytest.raises(InvalidInput, match="expected a trained Head, the folder of one"):
        make(head="prototypes").fit(photos, labels)
    with pytest.raises(InvalidInput, match="false_alarms"):
        make(false_alarms=1.0).fit(photos, labels)
    with pytest.raises(InvalidInput, match="no photos"):
        make().fit(numpy.zeros((2, 8)), ["one", "two"])
    (tmp_path / "bad.jpg").write_bytes(b"nothing")
    with pytest.raises(UnreadableImage, match=r"bad\.jpg"):
        fitted.predict([tmp_path / "bad.jpg"])
    assert fitted.predict([]) == []
    assert fitted.predict_presence([]).shape == (0, 2)
    fitted.save(tmp_path / "model")
    from fewsight.classifier import FewShotClassifier

    with pytest.raises(IncompatibleModel, match="segmenter"):
        FewShotClassifier.load(tmp_path / "model")


def test_many_classes_on_a_large_photo_stay_within_memory(
    fitted: FewShotSegmenter, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, _, _ = support()
    whole = fitted.predict(photos)
    monkeypatch.setattr("fewsight.photo_maps.MAP_SIDE", 48)
    small = fitted.predict(photos)
    assert [found.shape for found in small] == [found.shape for found in whole]
    assert numpy.mean([(a == b).mean() for a, b in zip(small, whole, strict=True)]) > 0.97


def test_thresholds_need_no_second_look(fitted: FewShotSegmenter) -> None:
    photos, _, _ = support()
    segmenter = FewShotSegmenter.__new__(FewShotSegmenter)
    segmenter.__dict__.update(fitted.__dict__)
    areas = []
    for level in (0.3, 0.5, 0.8):
        segmenter.set_thresholds(presence=0.01, foreground=level)
        areas.append(sum((found > 0).mean() for found in segmenter.predict(photos)))
    assert areas[0] > areas[1] > areas[2]
    presence = segmenter.predict_presence(photos[:1])[0]
    likelier = int(presence.argmax())
    between = (presence.min() + min(presence.max(), 1)) / 2
    (labels,) = segmenter.set_thresholds(presence=between, foreground=0.3).predict(photos[:1])
    assert set(numpy.unique(labels).tolist()) <= {0, likelier + 1}
    with pytest.raises(InvalidInput, match="threshold is 1"):
        segmenter.set_thresholds(foreground=1)
    fitted.set_thresholds(presence=0.5, foreground=0.5)


def test_tiles_find_what_is_small(fitted: FewShotSegmenter) -> None:
    """A support photo as a ninth of a grey picture: parts see it at the size that was learnt."""
    photos, _, _ = support()
    picture = numpy.full((384, 384, 3), 128, dtype=numpy.uint8)
    picture[144:240, 144:240] = numpy.asarray(photos[0])
    whole = next(fitted.answers(*fitted.photo_encoder().features_and_sizes([picture], fitted.head_)))
    parts = fitted.tiled_answer(picture, 7)  # the part in the middle is that photo
    assert parts.labels.shape == (384, 384)
    assert parts.presence[0] >= whole.presence[0] - 1e-6
    assert (parts.labels[144:240, 144:240] == 1).sum() > (whole.labels[144:240, 144:240] == 1).sum()
    with pytest.raises(InvalidInput, match="tiles is 17"):
        fitted.tiled_answer(picture, 17)


def _iou(found: numpy.ndarray, truth: numpy.ndarray) -> float:
    return float((found & truth).sum() / max(1, (found | truth).sum()))


def _gain(found: list[numpy.ndarray], objects: list[numpy.ndarray]) -> float:
    """How much more each map covers the object of its own support than the other one; 0 where both maps are equal."""
    own = _iou(found[0], objects[0]) + _iou(found[1], objects[1])
    return own - _iou(found[0], objects[1]) - _iou(found[1], objects[0])


@pytest.mark.parametrize("head", ["correspondence", "cst"])
def test_the_mask_follows_the_support_and_not_what_is_salient(head: str) -> None:
    """Scenes that show objects of two classes, asked once with the support of each: a map of what stands out is the
    same for both supports and gains nothing."""
    kinds = (6, 12)
    alone, both = (Scenes(seed=0, split="all", size=160, objects=(n, n)) for n in (1, 2))
    segmenters = []
    for kind in kinds:
        scenes = [alone.scene(shot, include=(kind,)) for shot in range(3)]
        segmenter = FewShotSegmenter("fewsight-bundled", head, device="cpu", presence_threshold=0.01)
        photos, masks = [scene.image for scene in scenes], [scene.mask == kind + 1 for scene in scenes]
        segmenters.append(segmenter.fit(photos, ["object"] * 3, masks))
    gains = []
    for index in range(8):
        scene = both.scene(30 + index, include=kinds)
        objects = [scene.mask == kind + 1 for kind in kinds]
        found = [segmenter.predict([scene.image])[0] > 0 for segmenter in segmenters]
        salient = found[0] | found[1]
        assert _gain([salient, salient], objects) == pytest.approx(0, abs=1e-12)
        gains.append(_gain(found, objects))
    assert numpy.mean(gains) > 0.03
    assert sum(gain > 0 for gain in gains) >= 6

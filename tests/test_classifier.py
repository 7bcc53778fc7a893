"""`FewShotClassifier` on features and photos: scikit-learn's contract, promises, changing classes, model folders."""

import pickle

import numpy
import pytest
import torch
from PIL import Image
from sklearn.base import clone
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from fewsight import FewShotClassifier
from fewsight.backbones.backbone import Backbone, Licence
from fewsight.backbones.features import Features, Request
from fewsight.data.collection import Collection
from fewsight.data.transform import Transform
from fewsight.errors import IncompatibleModel, InvalidInput, UnreadableImage
from fewsight.heads.crosstransformer import CrossTransformer
from fewsight.heads.prototypes import Prototypes
from fewsight.model import read_model, write_model

HEADS = ["prototypes", "neighbours", "matching", "logistic"]


class MeanColour(Backbone):
    """The mean colours of a 4 x 4 grid, to test photos without weights."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.name, self.dim, self.depth, self.num_heads, self.stride = "mean colour", 3, 0, 0, 8
        self.licence = Licence("Apache-2.0", True)
        self.transform = Transform(size=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
        self.pooling = "patches"

    def features(self, images, request=Request(), mask=None):
        grid = torch.nn.functional.adaptive_avg_pool2d(images * self.weight, 4)
        return Features(patches=grid.permute(0, 2, 3, 1))


def clouds(shots: int, *, seed: int = 0, spread: float = 0.4, ways: int = 3):
    """Features and labels of points around `ways` centres."""
    generator = numpy.random.default_rng(seed)
    labels = numpy.repeat(["ant", "bee", "cat", "dog"][:ways], shots)
    centres = numpy.random.default_rng(99).normal(size=(ways, 8)).repeat(shots, axis=0)
    return centres + spread * generator.normal(size=centres.shape), labels


def painted(folder, count: int = 4):
    """Photos of three colours, as paths and labels."""
    generator = numpy.random.default_rng(0)
    paths, labels = [], []
    for name, colour in {"red": (200, 40, 40), "green": (40, 200, 40), "blue": (40, 40, 200)}.items():
        for index in range(count):
            pixels = numpy.clip(generator.normal(colour, 30, (40, 48, 3)), 0, 255).astype(numpy.uint8)
            paths.append(folder / f"{name} {index}.png")
            Image.fromarray(pixels).save(paths[-1])
            labels.append(name)
    return paths, labels


@parametrize_with_checks([FewShotClassifier(head=head) for head in HEADS])
@pytest.mark.filterwarnings(
    "ignore:invalid value encountered in cast:RuntimeWarning"
)  # scikit-learn's own data
@pytest.mark.slow
def test_scikit_learns_checks(estimator, check):
    check(estimator)


@pytest.mark.parametrize("head", HEADS)
def test_new_points_are_recognised(head):
    classifier = FewShotClassifier(head=head).fit(*clouds(5))
    X, y = clouds(30, seed=1)
    assert classifier.score(X, y) > 0.95
    assert classifier.classes_.tolist() == ["ant", "bee", "cat"]
    probabilities = classifier.predict_proba(X)
    numpy.testing.assert_allclose(probabilities.sum(1), 1)
    assert (classifier.classes_[probabilities.argmax(1)] == classifier.predict(X)).all()


def test_it_lives_in_scikit_learn():
    X, y = clouds(10)
    pipeline = make_pipeline(StandardScaler(), FewShotClassifier(head=Prototypes(metric="euclidean")))
    assert cross_val_score(pipeline, X, y, cv=3).mean() > 0.9
    classifier = FewShotClassifier(reject=0.2, image_size=64, seed=3)
    assert clone(classifier).get_params() == classifier.get_params()
    assert classifier.set_params(head="logistic").head == "logistic"


@pytest.mark.parametrize(
    "labels", [[3, 1, 3, 1], [("a", 1), ("b", 2)] * 2, ["é", "日本"] * 2, [2.0, 1.0] * 2, [True, False] * 2]
)
def test_labels_of_any_hashable_kind(labels):
    X = numpy.array([[0, 1], [1, 0], [0.1, 1], [1, 0.1]])
    predicted = FewShotClassifier().fit(X, labels).predict(X)
    assert [*predicted] == labels


def test_one_class_one_photo_no_query():
    classifier = FewShotClassifier(reject=0.1).fit(numpy.ones((1, 3)), ["only"])
    assert classifier.predict(numpy.zeros((2, 3))).tolist() == ["only", "only"]
    assert not classifier.rejected(numpy.zeros((2, 3))).any()
    assert "there are 0" in classifier.rejection_.sentence
    assert classifier.explain(numpy.ones(3)).runner_up == ""
    assert FewShotClassifier().fit(numpy.ones((3, 3)), ["only"] * 3).predict_proba(numpy.ones((1, 3))) == 1


def test_unknown_points_are_more_novel_and_rejected():
    X, y = clouds(10)
    classifier = FewShotClassifier(reject=0.1).fit(X, y)
    known, _ = clouds(200, seed=1)
    unknown = -known
    assert classifier.rejected(known).mean() <= 0.15  # 0.1 promised; 30 support points: a deviation of 0.05
    assert classifier.rejected(unknown).mean() > 0.5
    assert set(classifier.predict(unknown)) <= set(classifier.classes_)
    assert not FewShotClassifier().fit(X, y).rejected(unknown).any()


def test_the_rate_can_be_changed_without_fitting():
    X, y = clouds(10)
    classifier = FewShotClassifier(reject=0.05).fit(X, y)
    strict, free = classifier.rejected(X).sum(), classifier.set_reject(0.5).rejected(X).sum()
    assert free > strict
    with pytest.raises(InvalidInput, match="reject"):
        classifier.set_reject(2)


def test_label_sets_hold_the_true_label():
    X, y = clouds(8, spread=1.2)
    classifier = FewShotClassifier().fit(X, y)
    queries, truth = clouds(300, seed=1, spread=1.2)
    sets = classifier.predict_set(queries, 0.8)
    assert sets.dtype == bool
    held = sets[numpy.arange(900), numpy.searchsorted(classifier.classes_, truth)].mean()
    assert held > 0.7  # 0.8 promised; one support of 24: a deviation of 0.08
    assert classifier.predict_set(queries, 0.99).all()
    assert sets[numpy.arange(900), classifier.predict_proba(queries).argmax(1)].all()


@pytest.mark.parametrize("head", HEADS)
def test_several_labels_a_photo(head):
    parts, generator = numpy.eye(6)[:3] * 2, numpy.random.default_rng(0)
    names = [["x"], ["y"], ["z"], ["x", "y"], {"y", "z"}, ["x", "z"]] * 5
    X = numpy.array([sum(parts["xyz".index(n)] for n in row) for row in names])
    X = X + 0.1 * generator.normal(size=X.shape)
    classifier = FewShotClassifier(head=head).fit(X, names)
    assert classifier.predict_proba(X).shape == (30, 3)
    assert classifier.score(X, names) > 0.8
    assert set(classifier.predict(X[3:4])[0]) == {"x", "y"}
    assert all(len(answer) >= 1 for answer in classifier.predict(-X))


def test_adding_and_removing_a_class_is_fitting_anew():
    X, y = clouds(4, ways=4)
    whole = FewShotClassifier(reject=0.2).fit(X, y)
    part = FewShotClassifier(reject=0.2).fit(X[y != "bee"], y[y != "bee"]).add_class("bee", X[y == "bee"])
    queries, _ = clouds(5, seed=1, ways=4)
    assert part.classes_.tolist() == whole.classes_.tolist()
    numpy.testing.assert_allclose(part.predict_proba(queries), whole.predict_proba(queries), rtol=1e-9)
    assert part.rejection_.value == pytest.approx(whole.rejection_.value)
    without = whole.remove_class("bee")
    fresh = FewShotClassifier(reject=0.2).fit(X[y != "bee"], y[y != "bee"])
    numpy.testing.assert_allclose(without.predict_proba(queries), fresh.predict_proba(queries), rtol=1e-9)
    for change in (lambda: fresh.add_class("ant", X[:1]), lambda: fresh.remove_class("bee")):
        with pytest.raises(InvalidInput):
            change()


def test_the_nearest_support_photos_explain():
    X, y = clouds(4)
    classifier = FewShotClassifier().fit(X, y, files=[f"{index}.jpg" for index in range(12)])
    found = classifier.explain(X[5])
    assert (found.label, found.nearest[0].file) == ("bee", "5.jpg")
    assert found.nearest[0].similarity == pytest.approx(1)
    assert {match.label for match in found.nearest_of_runner_up} == {found.runner_up}
    assert classifier.explain(X[5], "cat").label == "cat"
    with pytest.raises(InvalidInput, match="yak"):
        classifier.explain(X[5], "yak")


def test_groups_lower_what_is_expected():
    X, y = clouds(2, spread=3.0)
    X, y = numpy.repeat(X, 2, axis=0) + 0.001, numpy.repeat(y, 2)  # each point twice: a burst
    groups = [index // 2 for index in range(12)]
    assert FewShotClassifier().fit(X, y).expected_.overall.mean == 1
    honest = FewShotClassifier().fit(X, y, groups=groups)
    assert honest.expected_.overall.n == 6
    assert honest.expected_.overall.mean < 1


@pytest.mark.parametrize("head", HEADS)
def test_a_saved_classifier_answers_the_same(tmp_path, head):
    X, y = clouds(5)
    classifier = FewShotClassifier(head=head, reject=0.1).fit(X, y)
    classifier.save(tmp_path / "model")
    loaded = FewShotClassifier.load(tmp_path / "model")
    queries, _ = clouds(7, seed=1)
    for method in ("predict", "predict_proba", "novelty", "rejected"):
        assert (getattr(loaded, method)(queries) == getattr(classifier, method)(queries)).all()
    assert (loaded.predict_set(queries, 0.8) == classifier.predict_set(queries, 0.8)).all()
    assert loaded.explain(X[0]) == classifier.explain(X[0])
    assert loaded.expected_ == classifier.expected_
    assert loaded.rejection_ == classifier.rejection_
    assert loaded.add_class("yak", queries[:2]).remove_class("yak").predict(queries).tolist() == (
        classifier.predict(queries).tolist()
    )


def test_several_labels_come_back(tmp_path):
    classifier = FewShotClassifier().fit(numpy.eye(3), [["a"], ["b", "a"], ["c"]])
    classifier.save(tmp_path)
    loaded = FewShotClassifier.load(tmp_path)
    assert [*loaded.predict(numpy.eye(3))] == [*classifier.predict(numpy.eye(3))]


def test_a_description_that_does_not_fit_its_tensors_is_refused(tmp_path):
    FewShotClassifier().fit(*clouds(2)).save(tmp_path)
    saved = read_model(tmp_path)
    for change in (
        {"classes": ["a"]},
        {"classes": None},
        {"head": {"name": "os:system", "settings": {}}},
        {"head": {"name": "prototypes", "settings": {"metric": "x"}}},
        {"calibration": {}},
        {"support": {"files": [], "groups": None}},
        {"shared_tensors": {"vectors": "nothing"}},
        {"settings": {"reject": 7, "image_size": None, "seed": 0}},
    ):
        write_model(tmp_path / "bad", type(saved)(saved.kind, saved.description | change, saved.tensors))
        with pytest.raises((IncompatibleModel, InvalidInput)):
            FewShotClassifier.load(tmp_path / "bad")


class TestPhotos:
    def test_paths_pictures_and_arrays_say_the_same(self, tmp_path):
        paths, labels = painted(tmp_path)
        forms = [
            paths,
            [str(path) for path in paths],
            [Image.open(path) for path in paths],
            numpy.stack([numpy.asarray(Image.open(path)) for path in paths]),
        ]
        classifiers = [FewShotClassifier(MeanColour()).fit(form, labels) for form in forms]
        assert classifiers[0].predict(paths).tolist() == labels
        for form, classifier in zip(forms, classifiers, strict=True):
            for other in forms:
                numpy.testing.assert_allclose(
                    classifier.predict_proba(other), classifiers[0].predict_proba(form), rtol=1e-5
                )

    def test_reasons_name_the_files(self, tmp_path):
        paths, labels = painted(tmp_path)
        found = FewShotClassifier(MeanColour()).fit(paths, labels).explain(paths[0])
        assert found.label == "red"
        assert found.nearest[0].file == str(paths[0])

    def test_a_head_of_patches_names_the_patches_that_matched(self, tmp_path):
        paths, labels = painted(tmp_path)
        classifier = FewShotClassifier(MeanColour(), CrossTransformer()).fit(paths, labels)
        found = classifier.explain(paths[0])
        assert found.label == "red"
        assert {match.file for match in found.patches} <= {str(path) for path in paths[:4]}
        for match in found.patches:
            assert 0 < match.weight <= 1
            assert all(
                round(8 * place) % 2 == 1 for place in (*match.query, *match.support)
            )  # centres of a 4 x 4 grid
        assert found.runner_up != "red"
        assert len(found.evidence) == len(found.evidence[0]) == 4
        heat = numpy.array(found.evidence)
        assert abs(heat).max() == pytest.approx(1)
        other = classifier.explain(paths[0], found.runner_up)
        numpy.testing.assert_allclose(numpy.array(other.evidence), -heat, atol=1e-6)
        assert other.patches == found.patches_of_runner_up
        places = [match.query for match in found.patches]
        apart = [numpy.hypot(a - c, b - d) for n, (a, b) in enumerate(places) for c, d in places[n + 1 :]]
        assert not apart or min(apart) > 2 / 4
        for one in found.patches:  # and two on one labelled photo are apart there
            for two in found.patches:
                if one is not two and one.file == two.file:
                    assert numpy.hypot(*numpy.subtract(one.support, two.support)) > 2 / 4
        x, y = found.patches[0].query
        assert heat[int(4 * y), int(4 * x)] == heat.max()  # the strongest place comes first

    def test_features_of_photos_serve_in_their_place(self, tmp_path):
        paths, labels = painted(tmp_path)
        classifier = FewShotClassifier(MeanColour()).fit(paths, labels)
        features = classifier.features(paths)
        assert (classifier.predict_proba(features) == classifier.predict_proba(paths)).all()
        again = FewShotClassifier(MeanColour()).fit(features, labels, files=[path.name for path in paths])
        numpy.testing.assert_allclose(again.predict_proba(paths), classifier.predict_proba(paths), rtol=1e-5)

    def test_a_collection_is_encoded_once(self, tmp_path, monkeypatch):
        monkeypatch.setenv("FEWSIGHT_CACHE", str(tmp_path / "cache"))
        (tmp_path / "photos").mkdir()
        paths, labels = painted(tmp_path / "photos")
        collection = Collection.from_paths(paths)
        encoded = []
        backbone = MeanColour()
        plain = backbone.features
        monkeypatch.setattr(
            backbone, "features", lambda images, *rest: encoded.append(len(images)) or plain(images, *rest)
        )
        first = FewShotClassifier(backbone, precision="fp32").fit(collection, labels)
        second = FewShotClassifier(backbone, precision="fp32").fit(collection, labels)
        assert sum(encoded) == len(paths)
        assert first.files_ == second.files_
        assert (first.predict_proba(collection) == second.predict_proba(paths)).all()

    def test_no_photo_gives_no_row(self, tmp_path):
        classifier = FewShotClassifier(MeanColour()).fit(*painted(tmp_path))
        assert classifier.predict([]).shape == (0,)
        assert classifier.predict_proba([]).shape == (0, 3)
        assert classifier.novelty([]).shape == (0,)

    def test_a_bad_support_photo_is_named(self, tmp_path):
        paths, labels = painted(tmp_path)
        paths[4].write_bytes(b"<html>")
        with pytest.raises(UnreadableImage, match=r"green 0\.png"):
            FewShotClassifier(MeanColour()).fit(paths, labels)

    def test_a_model_of_photos_comes_back(self, tmp_path):
        paths, labels = painted(tmp_path)
        classifier = FewShotClassifier(MeanColour()).fit(paths, labels)
        classifier.save(tmp_path / "model")
        loaded = FewShotClassifier.load(tmp_path / "model", backbone=MeanColour())
        assert (loaded.predict_proba(paths) == classifier.predict_proba(paths)).all()
        other = MeanColour()
        torch.nn.init.constant_(other.weight, 2)
        with pytest.raises(IncompatibleModel, match="weights"):
            FewShotClassifier.load(tmp_path / "model", backbone=other).predict(paths)

    def test_the_model_holds_a_backbone_that_fewsight_knows(self, tmp_path):
        paths, labels = painted(tmp_path, 2)
        classifier = FewShotClassifier("conv4").fit(paths, labels)
        classifier.save(tmp_path / "model")
        described = read_model(tmp_path / "model").description
        assert described["licences"]["backbone weights"]["name"]
        loaded = FewShotClassifier.load(tmp_path / "model")
        assert (loaded.predict_proba(paths) == classifier.predict_proba(paths)).all()
        assert loaded.add_class("again", paths[:1]).predict(paths[:1]).shape == (1,)

    def test_pickles_and_clones(self, tmp_path):
        paths, labels = painted(tmp_path, 2)
        classifier = FewShotClassifier(MeanColour()).fit(paths, labels)
        again = pickle.loads(pickle.dumps(classifier))
        assert (again.predict_proba(paths) == classifier.predict_proba(paths)).all()
        assert (
            clone(classifier).fit(paths, labels).predict(paths).tolist() == classifier.predict(paths).tolist()
        )

    def test_cross_validation_over_paths(self, tmp_path):
        paths, labels = painted(tmp_path)
        files = numpy.array([str(path) for path in paths])
        assert cross_val_score(FewShotClassifier(MeanColour()), files, labels, cv=2).mean() == 1

    def test_photos_for_a_classifier_of_features(self, tmp_path):
        classifier = FewShotClassifier().fit(*clouds(2))
        with pytest.raises(InvalidInput, match="fitted on features"):
            classifier.predict(painted(tmp_path)[0])


@pytest.mark.parametrize(
    ("arguments", "X", "y", "named"),
    [
        ({}, numpy.eye(2), ["a"], "inconsistent"),
        ({}, numpy.eye(2), None, "y"),
        ({}, numpy.full((2, 2), numpy.nan), [0, 1], "NaN"),
        ({}, numpy.zeros((2, 4, 4, 3)), [0, 1], "uint8"),
        ({}, numpy.zeros(3), [0, 1, 2], "2D"),
        ({}, "photo.jpg", ["a"], "list of paths"),
        ({}, numpy.eye(2), [0.5, 0.7], "continuous"),
        ({}, numpy.eye(2), ["a", []], "y"),
        ({"head": "prototype"}, numpy.eye(2), [0, 1], "prototypes"),
        ({"head": 3}, numpy.eye(2), [0, 1], "head"),
        ({"reject": 1.5}, numpy.eye(2), [0, 1], "reject"),
    ],
)
def test_wrong_input_is_named(arguments, X, y, named):
    with pytest.raises(InvalidInput, match=named):
        FewShotClassifier(**arguments).fit(X, y)

import pytest
from photo_folders import write_labelled

from fewsight.errors import InvalidInput
from fewsight.workflows.evaluate import evaluate

CONV4 = {"protocol": "rotated-episodes", "backbone": "conv4", "image_size": 28, "quiet": True}


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_labelled(tmp_path_factory.mktemp("photos") / "labelled", shots=6)


def test_turned_photos_are_further_classes(photos):
    found = evaluate(
        photos,
        protocol="rotated-episodes",
        backbone="conv4",
        image_size=28,
        way=10,
        shots=(1,),
        query=3,
        episodes=8,
        quiet=True,
    )
    (result,) = found.results
    assert (result.way, result.shot, result.value.n) == (
        10,
        1,
        8,
    )  # three classes alone would not allow 10 ways
    assert 0 <= result.value.low <= result.value.mean <= result.value.high <= 1
    assert any("12 classes: 3" in remark for remark in found.remarks)


def test_the_same_seed_gives_the_same_figure(photos):
    options = {
        "protocol": "rotated-episodes",
        "backbone": "conv4",
        "image_size": 28,
        "shots": (1,),
        "query": 2,
        "quiet": True,
    }
    values = [evaluate(photos, episodes=6, **options).results[0].value.mean for _ in range(2)]
    assert values[0] == values[1]


@pytest.mark.parametrize(
    "options", [{"against": "logistic"}, {"head": "crosstransformer"}, {"group_by": "folder"}]
)
def test_what_it_cannot_do_is_refused(photos, options):
    with pytest.raises(InvalidInput, match="rotated-episodes"):
        evaluate(photos, **CONV4, **options)

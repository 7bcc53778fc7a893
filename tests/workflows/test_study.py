import csv
import json

import pytest
from photo_folders import write_labelled

from fewsight.errors import InvalidInput
from fewsight.workflows import study as module
from fewsight.workflows.study import StudyRecipe, _usual, study
from fewsight.workflows.study_report import findings_of, write_report

TINY = """
base:
  objective: simclr
  backbone: vit_tiny_patch16_224
  from_scratch: true
  network: {depth: 1, embed_dim: 24, num_heads: 2, patch_size: 8}
  image_size: 32
  batch_size: 6
  held_out: 0.0
  training: {steps: 2, learning_rate: 0.001}
cells:
  untrained:
  simclr: {objective: simclr}
  dino: {objective: dino, objective_settings: {prototypes: 16, local_views: 0}}
reference: simclr
seeds: 2
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    photos = write_labelled(folder / "photos", shots=6)
    (folder / "tiny.yaml").write_text(TINY)
    options = {"recipe": folder / "tiny.yaml", "judge": [("episodes", photos)], "episodes": 20, "quiet": True}
    return study(photos, folder / "run", **options), photos, options


def test_every_cell_and_seed_has_its_figures(finished):
    run, _, _ = finished
    with (run.folder / "study.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    figures = {(row["cell"], row["seed"]) for row in rows if row["what"] == "figure"}
    assert figures == {(cell, seed) for cell in ("untrained", "simclr", "dino") for seed in "01"}
    assert {row["cell"] for row in rows if row["what"] == "difference"} == {"untrained", "dino"}
    table = (run.folder / "study.md").read_text()
    assert "3-way 1-shot accuracy" in table
    assert " with prototypes" not in table  # the reference stands in its own column alone
    assert (run.folder / "study.png").read_bytes().startswith(b"\x89PNG")


def test_every_protocol_judges_in_pairs(finished):
    run, photos, options = finished
    (photos.parent / "labels.csv").write_text(
        "file,labels\n"
        + "".join(
            f"{path.relative_to(photos.parent)},{path.parent.name};{'even' if int(path.stem) % 2 else 'odd'}\n"
            for path in sorted(photos.rglob("*.png"))
        )
    )
    judged = [("multi-label", photos.parent / "labels.csv"), ("knn", photos)]
    again = study(photos, run.folder.parent / "protocols", **{**options, "judge": judged})
    measures = {(row["judged_on"].split(", ")[1], row["what"], row["measure"]) for row in again.rows}
    # 9 photos to learn from: k-NN has no k of 20, so that all there is stands in the table
    assert measures == {
        (protocol, what, measure)
        for protocol, measure in (("multi-label", "mAP (average)"), ("knn", "accuracy, k-NN with k = 9"))
        for what in ("figure", "difference")
    }


def test_the_usual_measure_stands_for_the_others():
    several = {"mAP (average)": "mAP (average)", "CF1 at probability 0.5": "CF1 at probability 0.5"}
    assert _usual(several, "multi-label") == ["mAP (average)"]
    shots = {
        "5-way 1-shot accuracy": "accuracy",
        "5-way 2-shot accuracy, curve over shots": "accuracy, curve",
    }
    assert _usual(shots, "episodes") == ["5-way 1-shot accuracy"]


def test_a_collapse_is_told_in_the_table(finished, tmp_path):
    row = {"cell": "a", "seed": 0, "judged_on": "x", "what": "figure", "measure": "m", "n": 9}
    rows = [{**row, "mean": 0.5, "low": 0.4, "high": 0.6}]
    write_report(tmp_path, rows, "a", ["a, seed 0: At step 9: the run has collapsed: 1 of 64 prototypes."])
    assert "- a, seed 0: At step 9: the run has collapsed" in (tmp_path / "study.md").read_text()
    assert "collapsed" not in (finished[0].folder / "study.md").read_text()


def test_finished_cells_are_never_made_again(finished, monkeypatch):
    run, photos, options = finished

    def never(*arguments, **others):
        raise AssertionError("a finished cell was made again")

    monkeypatch.setattr(module, "pretrain_with", never)
    monkeypatch.setattr(module, "evaluate", never)
    again = study(photos, run.folder, resume=True, **options)
    assert json.dumps(again.summary()["rows"]) == json.dumps(run.summary()["rows"])


def test_an_interruption_names_what_is_left(finished, tmp_path, monkeypatch):
    _, photos, options = finished
    plain = module.pretrain_with

    def stopped(*arguments, **others):
        result = plain(*arguments, **others)
        object.__setattr__(result.result, "finished", False)
        return result

    monkeypatch.setattr(module, "pretrain_with", stopped)
    run = study(photos, tmp_path / "run", **options)
    assert run.unfinished[0] == "simclr, seed 0"
    assert "--resume" in next(iter(run.sentences()))


def test_a_finding_needs_every_seed():
    row = {"cell": "a", "judged_on": "x", "what": "difference", "measure": "m", "n": 9}
    both = [{**row, "seed": s, "mean": -0.02, "low": -0.03, "high": -0.01} for s in range(2)]
    assert findings_of(both, "b") == (
        "a below b on x, m: by 2.0 points (2 of 2 seeds, each interval below 0).",
    )
    mixed = [both[0], {**both[1], "mean": 0.0, "low": -0.01, "high": 0.01}]
    assert findings_of(mixed, "b") == ("No difference shown in 1 comparisons with b.",)


def test_wrong_studies_are_refused_before_any_training(finished, tmp_path):
    _, photos, options = finished
    with pytest.raises(InvalidInput, match="reference is 'moco'"):
        StudyRecipe(cells={"a": None}, reference="moco")
    with pytest.raises(InvalidInput, match="no cells"):
        StudyRecipe()
    with pytest.raises(InvalidInput, match="is not there"):
        study(photos, tmp_path / "run", **{**options, "judge": [("episodes", tmp_path / "missing")]})
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInput, match="0 photos are too few"):
        study(tmp_path / "empty", tmp_path / "run3", **options)
    assert not (tmp_path / "run3").exists()
    with pytest.raises(InvalidInput, match="cell dino"):
        study(photos, tmp_path / "run2", **options, overrides=("cells.dino.objectiv=dino",))

"""Counts of classes, confusions and troubles against plain loops."""

from __future__ import annotations

import numpy as np

from fewsight.predictions import Prediction
from fewsight.report.tables import NONE_OF_THESE, class_counts, confusion, correct, rightly_rejected, troubles
from report.pages import CLASSES, answer


def test_class_counts_cover_every_class_and_every_label() -> None:
    rows = [
        answer("a.jpg", 0.99),
        answer("b.jpg", 0.55),
        answer("c.jpg", 0.75, label="ibis", runner_up="heron", labels=("ibis", "stork")),
        Prediction("d.jpg", "unreadable"),
    ]
    counts = {count.name: count for count in class_counts(rows, CLASSES, [("heron",), ("heron", "ibis")])}
    assert list(counts) == ["heron", "ibis", "stork"]
    heron = counts["heron"]
    assert (heron.found, heron.sure, heron.fairly_sure, heron.in_doubt, heron.support) == (2, 1, 0, 1, 2)
    assert (counts["stork"].found, counts["stork"].support, counts["stork"].index) == (1, 0, 2)


def test_confusion_is_the_plain_count() -> None:
    generator = np.random.default_rng(3)
    pairs = [(str(generator.choice([*CLASSES, "goose"])), str(generator.choice(CLASSES))) for _ in range(80)]
    rows = [answer(f"{i}.jpg", 0.8, label=label, truth=(truth,)) for i, (truth, label) in enumerate(pairs)]
    table = confusion(rows, CLASSES)
    assert table is not None
    assert table.truths == (*CLASSES, "goose")
    for truth, counts in zip(table.truths, table.counts, strict=True):
        assert counts == tuple(sum(pair == (truth, said) for pair in pairs) for said in table.answers)
    assert sum(mix_up.count for mix_up in table.mix_ups) == sum(truth != label for truth, label in pairs)
    assert [mix_up.count for mix_up in table.mix_ups] == sorted(
        (m.count for m in table.mix_ups), reverse=True
    )


def test_a_stranger_called_none_of_these_is_no_mix_up() -> None:
    rows = [
        Prediction("a.jpg", "rejected", truth=("goose",)),
        Prediction("b.jpg", "rejected", truth=("heron",)),
    ]
    table = confusion(rows, CLASSES)
    assert table is not None
    assert table.answers[-1] == NONE_OF_THESE
    assert [(mix_up.truth, mix_up.label) for mix_up in table.mix_ups] == [("heron", NONE_OF_THESE)]
    assert [rightly_rejected(row, CLASSES) for row in rows] == [True, False]
    assert rightly_rejected(answer("c.jpg", 0.9, truth=("goose",)), CLASSES) is None


def test_no_truth_no_confusion() -> None:
    assert (
        confusion([answer("a.jpg", 0.9), Prediction("b.jpg", "unreadable", truth=("ibis",))], CLASSES) is None
    )


def test_correct_knows_several_truths_and_unknown_ones() -> None:
    assert correct(answer("a.jpg", 0.9, truth=("ibis", "heron"))) is True
    assert correct(answer("a.jpg", 0.9, truth=("ibis",))) is False
    assert correct(answer("a.jpg", 0.9)) is None
    assert correct(Prediction("a.jpg", "rejected", truth=("ibis",))) is None


def test_troubles_by_status() -> None:
    rows = [
        Prediction("a", "refused"),
        answer("b", 0.9, status="suspicious"),
        answer("c", 0.9),
        Prediction("d", "refused"),
    ]
    assert {
        status: ([row.file for row in found], count) for status, (found, count) in troubles(rows, 1).items()
    } == {
        "refused": (["a"], 2),
        "suspicious": (["b"], 1),
    }

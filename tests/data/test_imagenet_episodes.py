"""Classes under one node of ImageNet's graph: the published counts, missing classes, other names."""

from __future__ import annotations

import pytest

from fewsight.data.imagenet_episodes import spanned_imagenet_classes
from fewsight.data.splits import meta_dataset_images
from fewsight.errors import InvalidInput


@pytest.mark.parametrize(("split", "nodes", "large"), [("train", 113, 16), ("valid", 18, 4), ("test", 15, 1)])
def test_published_counts(split: str, nodes: int, large: int) -> None:
    names = list(meta_dataset_images("ilsvrc_2012", split))  # type: ignore[arg-type]
    spans = spanned_imagenet_classes(names, split)  # type: ignore[arg-type]
    assert len(spans) == nodes
    assert sum(len(span) > 50 for span in spans) == large
    assert {int(place) for span in spans for place in span} == set(range(len(names)))
    assert all(5 <= len(span) <= 392 for span in spans)


def test_classes_that_are_missing_or_in_another_order() -> None:
    names = list(meta_dataset_images("ilsvrc_2012", "valid"))
    whole = {frozenset(names[place] for place in span) for span in spanned_imagenet_classes(names, "valid")}
    turned = names[::-1]
    again = {frozenset(turned[place] for place in span) for span in spanned_imagenet_classes(turned, "valid")}
    assert again == whole
    few = names[:40]
    spans = spanned_imagenet_classes(few, "valid")
    assert spans
    assert {frozenset(few[place] for place in span) for span in spans} == {
        frozenset(span & set(few)) for span in whole if len(span & set(few)) >= 5
    }


def test_other_names_are_named() -> None:
    with pytest.raises(InvalidInput, match="'cat', 'dog'"):
        spanned_imagenet_classes(["cat", "dog"])

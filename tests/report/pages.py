"""What tests of reports share: small photos, predictions, a reader of pages."""

from __future__ import annotations

import io
from html.parser import HTMLParser

import numpy as np
from PIL import Image

from fewsight.predictions import Prediction, Predictions, SupportMatch
from fewsight.report.facts import SupportPhoto

CLASSES = ("heron", "ibis", "stork")
HOSTILE_NAMES = (
    "<script>document.title='owned'</script>.jpg",
    '"><img src=x onerror="document.title=\'owned\'">.jpg',
    "'; alert(1); '.jpg",
    "</script><style>*{display:none}</style>.jpg",
    "two\nlines\tand {{ 7*7 }} {% raw %}.jpg",
    "\u202egpj.exe",
    "صورة للطائر.jpg",
    "🦩👩‍🔬.jpg",
    "caf\udce9\udcff.jpg",
    "a" * 240 + ".jpg",
    "&lt;b&gt;&amp;.jpg",
)


def photo_bytes(index: int, size: tuple[int, int] = (60, 40)) -> bytes:
    """A PNG whose colours depend on `index`."""
    generator = np.random.default_rng(index)
    pixels = generator.integers(0, 256, (5, 5, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC).save(stream, "PNG")
    return stream.getvalue()


def read_photo(kind: str, file: str) -> bytes:
    """A photo for every name."""
    return photo_bytes(sum(map(ord, kind + file)) % 997)


def support_photos(classes: tuple[str, ...] = CLASSES, shots: int = 3) -> list[SupportPhoto]:
    """`shots` photos of each class."""
    return [SupportPhoto(f"{name}/{shot}.jpg", (name,)) for name in classes for shot in range(shots)]


def answer(
    file: str, score: float, *, label: str = "heron", runner_up: str = "ibis", status: str = "ok", **more
) -> Prediction:
    """A row with an answer, its runner-up sharing what is left, and one support photo for each."""
    rest = 1 - score
    nearest = (SupportMatch(f"{label}/0.jpg", label, 0.9), SupportMatch(f"{runner_up}/1.jpg", runner_up, 0.8))
    return Prediction(
        file=file,
        status=status,
        label=label,
        score=score,
        runner_up=runner_up,
        runner_up_score=rest,
        nearest=more.pop("nearest", nearest),
        probabilities={label: score, runner_up: rest, "stork": 0.0},
        **more,
    )


def predictions_of(*rows: Prediction, classes: tuple[str, ...] = CLASSES) -> Predictions:
    """Rows with the three classes."""
    return Predictions(rows, classes)


class Reading(HTMLParser):
    """A page as lists: every tag with its attributes, and the text outside of style and script."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag in ("style", "script"):
            self._inside.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data):
        if not self._inside:
            self.text += data

    def count(self, tag: str, **wanted: str) -> int:
        """Tags of this name whose attributes hold the wanted words (`class_` for class)."""
        return sum(
            name == tag
            and all(value in (attributes.get(key.rstrip("_")) or "").split() for key, value in wanted.items())
            for name, attributes in self.tags
        )

    def attributes(self, tag: str, name: str) -> list[str]:
        """Every value of one attribute."""
        return [
            value or ""
            for found, attributes in self.tags
            for key, value in attributes.items()
            if found == tag and key == name
        ]

    def shown_cards(self) -> list[str]:
        """Ids of the cards that are not hidden."""
        return [
            attributes["id"] or ""
            for tag, attributes in self.tags
            if tag == "li"
            and "card" in (attributes.get("class") or "").split()
            and "hidden" not in attributes
        ]

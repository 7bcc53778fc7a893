"""Label Studio exports (JSON and JSON-MIN): confirmed annotations only, never predictions.

Choices and the labels of regions are image labels. An upload is named `1a2b3c4d-cat.jpg` by Label Studio; the image is
looked for under that name and under the one it had before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from fewsight.data.formats.json_file import as_list, as_mapping
from fewsight.data.label_table import LabelFile, LabelRow, label_file
from fewsight.errors import InvalidInput

__all__ = ["is_label_studio", "read_label_studio"]

_UPLOAD = re.compile(r"^[0-9a-f]{8}-")
_IMAGE_KEYS = ("image", "img", "photo", "picture", "url", "ocr", "captioning")


def is_label_studio(content: Any) -> bool:
    """Whether JSON content is a list of tasks."""
    first = content[0] if isinstance(content, list) and content else None
    return isinstance(first, dict) and ("data" in first or any(key in first for key in _IMAGE_KEYS))


def read_label_studio(path: Path, content: Any, roots: tuple[Path, ...]) -> LabelFile:
    """Image labels, in the order of the tasks; `roots` are the folders where images are looked for.

    Raises:
        InvalidInput: with the place, for what does not fit the format.
    """
    tasks = as_list(content, path, "the file")
    return label_file(path, (_row(task, number, path, roots) for number, task in enumerate(tasks)))


def _row(entry: Any, number: int, path: Path, roots: tuple[Path, ...]) -> LabelRow:
    where = f"task {number}"
    task = as_mapping(entry, path, where)
    data = task.get("data", task)
    source = next(
        (data[key] for key in _IMAGE_KEYS if isinstance(data, dict) and isinstance(data.get(key), str)), None
    )
    if not source or "\0" in source:
        raise InvalidInput(
            f"{path}, {where}: no image (expected one of {', '.join(_IMAGE_KEYS)} in its data)."
        )
    labels = dict.fromkeys(_labels(task, path, where))
    return LabelRow(where, _found(_file_name(source), roots), tuple(labels))


def _labels(task: dict[str, Any], path: Path, where: str) -> Iterator[str]:
    if "data" not in task:  # JSON-MIN: results stand beside the image
        yield from _texts({key: value for key, value in task.items() if key not in _IMAGE_KEYS})
        return
    for annotation in as_list(task.get("annotations", task.get("completions", [])), path, where):
        if annotation and not annotation.get("was_cancelled"):
            for result in as_list(annotation.get("result", []), path, where):
                yield from _texts(as_mapping(result, path, where).get("value", {}))


def _texts(value: dict[str, Any]) -> Iterator[str]:
    """`choices` and `...labels` of a result; in JSON-MIN also `choice`, `label` and lists of regions."""
    for key, found in value.items():
        if key in ("choices", "choice", "taxonomy", "label") or key.endswith("labels"):
            for one in found if isinstance(found, list) else [found]:
                if isinstance(one, str):
                    yield one
                elif isinstance(one, dict):
                    yield from _texts(one)


def _file_name(source: str) -> str:
    """`/data/local-files/?d=a/1.jpg`, `s3://bucket/a/1.jpg`, `/data/upload/3/1a2b3c4d-1.jpg`: what is the file."""
    parts = urlsplit(source)
    if "d" in (query := parse_qs(parts.query)):
        return query["d"][0]
    return unquote(parts.path if parts.scheme in ("http", "https", "s3", "gs", "azure-blob") else source)


def _found(name: str, roots: tuple[Path, ...]) -> str:
    """The name under which the image exists: whole, without leading folders, without the prefix of an upload."""
    relative = name.replace("\\", "/").lstrip("/")
    last = relative.rpartition("/")[2]
    options = [relative, last, _UPLOAD.sub("", last)]
    if ".." in relative.split("/"):
        return relative  # refused where paths are looked up
    return next((option for option in options for root in roots if (root / option).is_file()), relative)

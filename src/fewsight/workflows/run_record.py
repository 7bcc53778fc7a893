"""`run.yaml`: everything needed to repeat a run, and the check that a resumed run is the same one."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fewsight.errors import InvalidInput
from fewsight.files import write_text

__all__ = ["RunRecord", "read_record", "record_run", "versions"]

NAME = "run.yaml"


@dataclass(frozen=True)
class RunRecord:
    """What was run.

    Attributes:
        verb: of the command line.
        settings: every option as it was resolved, `auto` replaced by what it became.
        data: name of an input -> fingerprint of its content.
    """

    verb: str
    settings: Mapping[str, Any]
    data: Mapping[str, str] = field(default_factory=dict)

    def differences(self, earlier: RunRecord, free: frozenset[str] = frozenset()) -> list[str]:
        """In words, what an earlier run did otherwise; settings whose last name is in `free` may differ."""
        found = [] if self.verb == earlier.verb else [f"the verb was {earlier.verb}, now {self.verb}"]
        for what, new, old in (
            ("--", _flat(self.settings), _flat(earlier.settings)),
            ("content of ", dict(self.data), dict(earlier.data)),
        ):
            for key in sorted({*new, *old}):
                if new.get(key) != old.get(key) and key.rpartition(".")[2] not in free:
                    found.append(f"{what}{key.replace('_', '-')} was {old.get(key)}, now {new.get(key)}")
        return found


def _flat(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Groups of settings as `group.setting`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            found |= _flat(value, f"{before}{key}.")
        else:
            found[f"{before}{key}"] = value
    return found


def versions() -> dict[str, str]:
    """Versions of what decides the numbers."""
    import numpy
    import PIL
    import torch

    import fewsight

    return {
        "fewsight": fewsight.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "pillow": PIL.__version__,
        "machine": platform.machine(),
    }


def record_run(
    folder: Path, record: RunRecord, *, resume: bool = False, free: frozenset[str] = frozenset()
) -> None:
    """Write `run.yaml`, or on resume check that it names the same run, but for settings in `free`.

    Raises:
        InvalidInput: the earlier run had other settings or other data; the message names each difference.
    """
    path = folder / NAME
    if resume and path.exists():
        differences = record.differences(read_record(folder), free)
        if differences:
            raise InvalidInput(
                f"{folder} holds another run: {'; '.join(differences)}. Resume with the same settings and data, or "
                "start anew with --force."
            )
        return
    text = yaml.safe_dump(
        {
            "verb": record.verb,
            "settings": _plain(record.settings),
            "data": _plain(record.data),
            "versions": versions(),
        },
        sort_keys=False,
        allow_unicode=True,
    )
    write_text(path, text)


def read_record(folder: Path) -> RunRecord:
    """The record in a run's folder.

    Raises:
        InvalidInput: it is damaged.
    """
    try:
        held = yaml.safe_load((folder / NAME).read_text(encoding="utf-8"))
        return RunRecord(held["verb"], held["settings"], held["data"])
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise InvalidInput(
            f"{folder / NAME} is damaged ({type(error).__name__}): start anew with --force."
        ) from error


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values that YAML gives back unchanged."""
    return {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}

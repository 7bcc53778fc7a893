"""Recipes: a whole run as one YAML file that becomes frozen dataclasses; unknown keys and wrong types are named.

`--set a.b=c` overrides one value. pydantic checks the types at this border; nothing below sees it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml

from fewsight.errors import InvalidInput
from fewsight.names import closest

__all__ = [
    "as_values",
    "checked",
    "packaged_recipes",
    "read_recipe",
    "recipe_values",
    "recorded_options",
    "with_overrides",
]

Recipe = TypeVar("Recipe")


def packaged_recipes(verb: str | None = None) -> dict[str, Path]:
    """The recipes that come with fewsight, or those of one verb: name -> file.

    A recipe names its verb in the line `verb: adapt`; without one it is `metatrain`'s.
    """
    folder = Path(str(resources.files("fewsight"))) / "recipes"
    found = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return {
        name: path
        for name, path in found.items()
        if verb is None or _parsed(path).get("verb", "metatrain") == verb
    }


def read_recipe(
    kind: type[Recipe], name: str | Path | None, overrides: Sequence[str] = (), *, verb: str | None = None
) -> Recipe:
    """A recipe by the name of a packaged one or by its file, with `--set` overrides; None = all defaults.

    The file may be the `run.yaml` of an earlier run, which it then repeats (`recorded_options` has the rest).

    Raises:
        InvalidInput: there is no such recipe, the YAML is damaged, a key is unknown, or a value is wrong.
    """
    values = {} if name is None else _load(name, verb or _verb_of(kind))
    if _is_record(values):
        values = {key: value for key, value in values["settings"].items() if key in _fields(kind)}
    return checked(kind, with_overrides(values, overrides), str(name or "--set"))


def recipe_values(name: str | Path | None, overrides: Sequence[str] = (), *, verb: str) -> dict[str, Any]:
    """The plain values of a recipe with overrides, unchecked: they tell what kind of recipe it is."""
    values = {} if name is None else _load(name, verb)
    return with_overrides(values["settings"] if _is_record(values) else values, overrides)


def recorded_options(
    kind: type, name: str | Path | None, *, verb: str | None = None
) -> tuple[dict[str, Any], dict[str, str]]:
    """What a `run.yaml` given as a recipe holds besides it: options such as the seed, and fingerprints of the data.

    Raises:
        InvalidInput: as `read_recipe`.
    """
    values = {} if name is None else _load(name, verb or _verb_of(kind))
    if not _is_record(values):
        return {}, {}
    options = {key: value for key, value in values["settings"].items() if key not in _fields(kind)}
    return options, dict(values.get("data") or {})


def _is_record(values: Mapping[str, Any]) -> bool:
    return {"settings", "versions"} <= set(values)


def _fields(kind: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def _verb_of(kind: type) -> str:
    return kind.__name__.removesuffix("Recipe").lower()


def with_overrides(values: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """`values` with each "a.b=c" set; c is read as YAML.

    >>> with_overrides({"training": {"steps": 5}}, ["training.steps=7", "way=3"])
    {'training': {'steps': 7}, 'way': 3}
    """
    result = {key: dict(value) if isinstance(value, Mapping) else value for key, value in values.items()}
    for override in overrides:
        path, separator, text = override.partition("=")
        if not separator or not path.strip():
            raise InvalidInput(
                f"--set {override!r}: expected KEY=VALUE, for example --set training.steps=1000."
            )
        *parents, last = path.strip().split(".")
        place = result
        for parent in parents:
            inner = place.setdefault(parent, {})
            if not isinstance(inner, dict):
                raise InvalidInput(
                    f"--set {override!r}: {parent!r} is a single value, not a group of settings."
                )
            place = inner
        place[last] = yaml.safe_load(text)
    return result


def as_values(recipe: Any) -> dict[str, Any]:
    """A recipe as plain values for `run.yaml`."""
    from pydantic import TypeAdapter

    values: dict[str, Any] = TypeAdapter(type(recipe)).dump_python(recipe, mode="json")
    return values


def _load(name: str | Path, verb: str) -> dict[str, Any]:
    packaged = packaged_recipes()
    path = packaged.get(str(name), Path(name))
    if not path.is_file():
        raise InvalidInput(
            f"recipe {str(name)!r} is neither a file nor a packaged recipe. "
            f"{closest(str(name), list(packaged_recipes(verb)))}"
        )
    values = _parsed(path)
    other = values.pop("verb", verb)
    if other != verb:
        raise InvalidInput(f"{path} is a recipe of `fewsight {other}`, not of `fewsight {verb}`.")
    return values


def _parsed(path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        place = getattr(error, "problem_mark", None)
        line = f", line {place.line + 1}" if place else ""
        raise InvalidInput(f"{path}{line} is not YAML: {getattr(error, 'problem', error)}.") from error
    if not isinstance(values, dict):
        raise InvalidInput(f"{path} holds {type(values).__name__}; expected settings as KEY: VALUE lines.")
    return values


def checked(kind: type[Recipe], values: Mapping[str, Any], where: str) -> Recipe:
    """Values as a frozen dataclass; unknown keys and wrong types are named, with `where` they stood."""
    from pydantic import TypeAdapter, ValidationError

    _check_keys(kind, values, where)
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "the recipe"
        if first["type"] == "value_error":  # from the dataclass's own check, which names the setting
            raise InvalidInput(f"{where}: {first['msg'].removeprefix('Value error, ')}") from error
        raise InvalidInput(f"{where}: {key} is {first.get('input')!r}; {first['msg'].lower()}.") from error


def _check_keys(kind: Any, values: Mapping[str, Any], where: str, prefix: str = "") -> None:
    """Every key names a field, down through nested dataclasses."""
    import typing

    hints = typing.get_type_hints(kind)
    known = [field.name for field in dataclasses.fields(kind)]
    for key, value in values.items():
        if key not in known:
            raise InvalidInput(f"{where}: {prefix}{key} is not a setting. {closest(str(key), known)}")
        if dataclasses.is_dataclass(hints[key]) and isinstance(value, Mapping):
            _check_keys(hints[key], value, where, f"{prefix}{key}.")

"""What all tests share: where the shared data is, small photo folders, and one thread."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]


def shared_folder() -> Path:
    """The folder with `golden/` and `data/`: FEWSIGHT_SHARED, or `../shared` beside the repository."""
    return Path(os.environ.get("FEWSIGHT_SHARED", REPOSITORY.parent / "shared"))


def need(path: Path) -> Path:
    """`path` if it exists; else the test is skipped, or fails on the continuous-integration machine."""
    if path.exists():
        return path
    message = f"{path} is missing: set FEWSIGHT_SHARED to the folder that holds golden/ and data/"
    if os.environ.get("CI") == "true":
        pytest.fail(message)
    pytest.skip(message)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests keep nothing in the cache folder of the person who runs them."""
    os.environ["FEWSIGHT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shared() -> Path:
    """The shared folder, or a skip (a failure where CI=true)."""
    return need(shared_folder())


@pytest.fixture(scope="session")
def data_reader(shared: Path) -> ModuleType:
    """The module `read.py` of the shared data: `load(name)`, `extract(name, folder)`."""
    return load_module(need(shared / "data" / "read.py"), "shared_data_reader")


@pytest.fixture(scope="session")
def data_set(data_reader: ModuleType, tmp_path_factory: pytest.TempPathFactory):
    """A function that unpacks a shared data set once a session and returns its folder."""
    folders: dict[str, Path] = {}

    def unpacked(name: str) -> Path:
        if name not in folders:
            folders[name] = tmp_path_factory.mktemp("data") / name
            data_reader.extract(name, folders[name])
        return folders[name]

    return unpacked


def load_module(path: Path, name: str) -> ModuleType:
    """Import one file by its path."""
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module

"""The browser fixture."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from report.chromium import Chromium


@pytest.fixture
def chromium(tmp_path: Path) -> Chromium:
    """Headless Chromium; skipped where there is none, except on the continuous-integration machine."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        if os.environ.get("CI") == "true":
            pytest.fail("chromium is missing: apt-get install chromium")
        pytest.skip("chromium is missing: apt-get install chromium")
    folder = tmp_path / "chromium"
    folder.mkdir()
    return Chromium(program, folder)

"""A headless Chromium that opens pages from disk."""

from __future__ import annotations

import subprocess
from pathlib import Path

from PIL import Image

from report.pages import Reading


class Chromium:
    """A headless browser that opens a page from disk and gives the document as it stands after its script."""

    def __init__(self, program: str, folder: Path) -> None:
        self.program = program
        self.folder = folder

    def dom(self, page: Path, fragment: str = "") -> Reading:
        """The document after loading."""
        return Reading(self._run(page, fragment, "--dump-dom").stdout.decode("utf-8"))

    def screenshot(
        self, page: Path, fragment: str = "", *, size: tuple[int, int] = (1280, 900)
    ) -> Image.Image:
        """What a person sees in a window of this size."""
        target = self.folder / "screen.png"
        self._run(
            page,
            fragment,
            f"--screenshot={target}",
            f"--window-size={size[0]},{size[1]}",
            "--hide-scrollbars",
        )
        with Image.open(target) as image:
            return image.convert("RGB")

    def _run(self, page: Path, fragment: str, *options: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [
                self.program,
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                f"--user-data-dir={self.folder / 'profile'}",
                "--virtual-time-budget=5000",
                *options,
                page.resolve().as_uri() + fragment,
            ],
            capture_output=True,
            check=True,
            timeout=120,  # a guard against a hang, not a measure
        )

"""`python -m benchmarks` (or `make bench`): every benchmark, one after the other."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main(names: list[str]) -> int:
    """Run all scripts, or those named; the exit code counts the failures."""
    scripts = sorted(path for path in HERE.glob("*.py") if path.stem not in ("__main__", "measure"))
    failures = 0
    for script in scripts:
        if names and script.stem not in names:
            continue
        print(f"== {script.stem}", flush=True)
        failures += subprocess.run([sys.executable, str(script)], check=False).returncode != 0
    return failures


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

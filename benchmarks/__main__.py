"""`python -m benchmarks [NAME ...]` (or `make bench`): every benchmark, one after the other.

Peers come with `pip install '.[bench]'`; a script whose peer is missing fails by itself, and the others go on.
`trained_prototypes` and `meta_dataset_omniglot` judge trained models and are run by hand.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
NOT_RUN = ("__main__", "measure", "trained_prototypes", "meta_dataset_omniglot")


def main(names: list[str]) -> int:
    """Run all scripts, or those named; the exit code counts the failures."""
    scripts = [path for path in sorted(HERE.glob("*.py")) if path.stem not in NOT_RUN]
    chosen = [path for path in scripts if not names or path.stem in names]
    failed = []
    for script in chosen:
        print(f"== {script.stem}", flush=True)
        if subprocess.run([sys.executable, str(script)], check=False).returncode:
            failed.append(script.stem)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return len(failed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

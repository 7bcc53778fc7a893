"""Fails when a golden test or a browser test was skipped, or when none ran: `none_skipped.py JUNIT.xml`."""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

MUST_RUN = {"golden": "tests.golden", "browser": "browser"}


def main(path: str) -> int:
    """0 if each kind ran and none of its tests was skipped."""
    tests = list(ElementTree.parse(Path(path)).iter("testcase"))
    failures = []
    for kind, word in MUST_RUN.items():
        chosen = [test for test in tests if word in f"{test.get('classname')}.{test.get('name')}"]
        skipped = [test for test in chosen if test.find("skipped") is not None]
        if not chosen:
            failures.append(f"no {kind} test ran")
        failures += [f"skipped {kind} test: {test.get('classname')}.{test.get('name')}" for test in skipped]
    print("\n".join(failures) or "No golden or browser test was skipped.")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))

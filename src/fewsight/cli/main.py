"""`fewsight`: the command line. Each verb has a file of its own; this one joins them and words the errors."""

from __future__ import annotations

import importlib
import sys

import typer

from fewsight.errors import FewsightError

__all__ = ["app", "main"]

VERBS = (
    "demo",
    "doctor",
    "predict",
    "segment",
    "embed",
    "evaluate",
    "metatrain",
    "adapt",
    "pretrain",
    "study",
    "geometry",
    "neighbours",
    "export",
    "backbones",
    "cache",
)

INTERRUPTED = 130

app = typer.Typer(
    name="fewsight",
    help="Low-shot computer vision: a few labelled photos and a pile of others in, answers and reasons out.",
    epilog="Start with `fewsight demo`, then `fewsight doctor FOLDER`. Exit codes: 0 done, 1 something to mend, "
    "2 wrong usage, 130 interrupted.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

for verb in VERBS:
    importlib.import_module(f"fewsight.cli.{verb}").register(app)


@app.callback()
def _root() -> None:
    """Low-shot computer vision: a few labelled photos and a pile of others in, answers and reasons out."""


def main(arguments: list[str] | None = None) -> None:
    """Run one command and leave with its exit code."""
    try:
        code = app(arguments, prog_name="fewsight", standalone_mode=False)
        if code == INTERRUPTED:  # the parser turns Ctrl-C into this code
            raise KeyboardInterrupt
        sys.exit(code if isinstance(code, int) else 0)
    except FewsightError as error:
        print(f"fewsight: {' '.join(str(error).split())}", file=sys.stderr)
        sys.exit(1)
    except (typer.Abort, KeyboardInterrupt):
        print("fewsight: interrupted. What was finished is kept; run again with --resume.", file=sys.stderr)
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        show = getattr(error, "show", None)  # wrong usage, which the parser words itself
        if show is None:
            raise
        show()
        sys.exit(getattr(error, "exit_code", 2))


if __name__ == "__main__":
    main()

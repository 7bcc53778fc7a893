"""One self-contained HTML page, assembled from sections.

Nothing is fetched: styles and script stand in the page, pictures are data URIs, and the page forbids itself
everything else (Content-Security-Policy by the hashes of its own style and script, so that not even a hole in
the escaping would let a file name run). It opens from disk, prints, follows light and dark, and reads on a
phone. A verb makes its `Section`s from templates and hands them to `write_page`.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fewsight.files import write_text
from fewsight.report.wording import counted, exact_name, kibibytes, number, percent, shown_name

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

__all__ = ["Page", "Section", "Tile", "render", "render_page", "write_page"]

TEMPLATES = Path(__file__).parent / "templates"
STYLES = ("base.css", "sheet.css", "figures.css")
SCRIPTS = ("pictures.js", "sheet.js", "map.js", "correct.js")


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        anchor: its id, letters and hyphens.
        title: its heading, also in the table of contents.
        body: HTML made by `render`, everything in it escaped.
        lead: a sentence under the heading that says what is seen, for a person new to it.
    """

    anchor: str
    title: str
    body: Markup
    lead: str = ""


@dataclass(frozen=True)
class Tile:
    """One figure at the head of a page: a value, what it counts, where a click leads, and its tone."""

    value: str
    label: str
    link: str = ""
    tone: str = "plain"  # plain, yours, doubt, none, wrong


@dataclass(frozen=True)
class Page:
    """A whole page: title, a sentence, tiles, sections."""

    title: str
    sections: Sequence[Section]
    sentence: str = ""
    tiles: Sequence[Tile] = field(default_factory=tuple)
    footer: str = ""


@cache
def _environment() -> Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        name=shown_name, exact=exact_name, percent=percent, number=number, counted=counted, size=kibibytes
    )
    return environment


def render(template: str, **values: Any) -> Markup:
    """One template of this package with `values` escaped into it."""
    from markupsafe import Markup

    return Markup(_environment().get_template(template).render(**values))


def render_page(page: Page) -> str:
    """The page as text; see the module's docstring for what it promises."""
    style, script = _inline(STYLES), _inline(SCRIPTS)
    policy = _policy(str(style), str(script))
    return str(render("page.html", page=page, style=style, script=script, policy=policy))


def write_page(path: Path | str, page: Page) -> int:
    """Write the page to `path`, whole or not at all; gives its size in bytes."""
    text = render_page(page)
    write_text(path, text)
    return len(text.encode("utf-8"))


def _inline(names: Sequence[str]) -> Markup:
    """Files of this package as they stand; they are ours and hold no value from outside."""
    from markupsafe import Markup

    return Markup("\n".join((TEMPLATES / name).read_text(encoding="utf-8") for name in names))


def _policy(style: str, script: str) -> str:
    """Content-Security-Policy: pictures as data, this style, this script, nothing else."""
    return "; ".join(
        (
            "default-src 'none'",
            "img-src data:",
            f"style-src '{_hash(style)}'",
            f"script-src '{_hash(script)}'",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")

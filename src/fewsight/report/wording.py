"""Names and numbers as a person reads them: file names made safe to show, percentages, counts, durations."""

from __future__ import annotations

import unicodedata

from fewsight.data.file_names import display_name

__all__ = ["counted", "exact_name", "kibibytes", "number", "percent", "shown_name"]

TIE = "\N{NO-BREAK SPACE}"

# marks that join letters and emoji; they change no order and hide nothing
_JOINERS = frozenset("\u200c\u200d")


def shown_name(name: object) -> str:
    r"""A file or class name in which nothing is invisible and nothing turns the reading direction.

    Letters of every script and emoji stay. Bytes that are not UTF-8 stand as `\xNN`, control characters and
    marks of direction as `\n`, `\u202e` and the like. The result can be encoded as UTF-8.

    >>> print(shown_name("stork\n.jpg"), shown_name("caf\udce9.jpg"), shown_name("Störche 🦩.jpg"))
    stork\n.jpg caf\xe9.jpg Störche 🦩.jpg
    """
    return "".join(_shown_character(character) for character in str(name))


def _shown_character(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python keeps a byte that is not UTF-8
        return f"\\x{code - 0xDC00:02x}"
    if character in _JOINERS or unicodedata.category(character)[0] != "C":
        # line and paragraph separators are category Z, yet break a line
        return f"\\u{code:04x}" if character in "\u2028\u2029" else character
    if unicodedata.category(character) in ("Co", "Cn"):  # private use and newer than this Python
        return character
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")


def exact_name(name: object) -> str:
    r"""A name as `predictions.csv` writes it, which a label file names the photo by; always valid text.

    >>> print(exact_name("two\nlines.jpg") == "two\nlines.jpg", exact_name("caf\udce9.jpg"))
    True caf\xe9.jpg
    """
    text = str(name)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        # a lone surrogate that stands for no byte cannot come from a file system
        stands_for_bytes = all(
            0xDC80 <= ord(character) <= 0xDCFF for character in text if _is_lone(character)
        )
        return display_name(text) if stands_for_bytes else shown_name(text)
    return text


def _is_lone(character: str) -> bool:
    return 0xD800 <= ord(character) <= 0xDFFF


def percent(share: float | None) -> str:
    """A share in [0, 1] as whole per cent, the sign tied to the number; never 100 or 0 where something is left.

    >>> [percent(share).replace(TIE, " ") for share in (0.8234, 0.9999, 1.0, 0.0004, None)]
    ['82 %', 'over 99 %', '100 %', 'under 1 %', '–']
    """
    if share is None or share != share:
        return "–"
    if 0.995 <= share < 1:
        return f"over 99{TIE}%"
    if 0 < share < 0.005:
        return f"under 1{TIE}%"
    return f"{100 * share:.0f}{TIE}%"


def number(count: int) -> str:
    """A count with its thousands apart.

    >>> number(10000)
    '10,000'
    """
    return f"{count:,}"


def counted(count: int, one: str, many: str | None = None) -> str:
    """A count with its noun.

    >>> counted(1, "photo"), counted(2400, "photo"), counted(2, "class", "classes")
    ('1 photo', '2,400 photos', '2 classes')
    """
    return f"{number(count)} {one if count == 1 else (many or one + 's')}"


def kibibytes(size: int) -> str:
    """A file size in KiB or MiB.

    >>> kibibytes(2048), kibibytes(3 * 2**20)
    ('2 KiB', '3.0 MiB')
    """
    return f"{size / 2**20:.1f} MiB" if size >= 2**20 else f"{max(1, round(size / 1024))} KiB"

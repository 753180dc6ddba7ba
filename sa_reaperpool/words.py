"""How messages and reports put names and times."""

from __future__ import annotations


def plain(text: object) -> str:
    """The characters of a name, without what its class makes of them.

    That of a template's markup, or of an enumeration, may override what is
    called of a string.
    """
    return str.__str__(text if isinstance(text, str) else str(text))


def one_line(text: str, most: int = 60) -> str:
    """A name that anybody may have given, made harmless and short.

    Line breaks are spaces; what moves a terminal's cursor, or turns what
    comes after it around, is shown as an escape.

    :param most: characters.

    """
    if len(text) <= most and text.isprintable():
        return text
    # what is far beyond is not looked at
    text = " ".join(text[: 2 * most].split())
    if not text.isprintable():
        text = "".join(
            each if each.isprintable() else ascii(each)[1:-1] for each in text
        )
    return text if len(text) <= most else f"{text[: most - 3]}..."


def duration(seconds: float) -> str:
    """A time, as precise as it matters."""
    if 0 < seconds < 0.01:
        return f"{seconds * 1000:.2g} ms"
    if seconds < 10:
        return f"{seconds:.2f} s"
    if seconds < 120:
        return f"{seconds:.1f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


def some(count: int, what: str) -> str:
    """So many of these."""
    return f"{count} {what}{'' if count == 1 else 's'}"

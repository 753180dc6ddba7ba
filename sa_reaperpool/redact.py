"""No password in any message.

A URL that was mistyped, or put in the wrong place, may make any part of it
the value of anything.  What is left out here is left out on suspicion.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import quote
from urllib.parse import quote_plus

from sqlalchemy.engine import URL

# A slip like "?max_age=10?password=..." makes a secret part of a value.
_NAMED = re.compile(
    r"((?:\w*pass\w*|pwd|secret|\w*token)(?:=|%3D))(.*)",
    re.IGNORECASE | re.DOTALL,
)
_NAME = re.compile(r"pass|pwd|secret|token", re.IGNORECASE)

# a word that is a URL, or a piece of one
_ADDRESS = re.compile(r"[^\s'\"]*(?:@|%40|://)\S*", re.IGNORECASE)
_PIECE = re.compile(r"[@/:]|%40")
_AT = re.compile("@|%40")
_NUMBER = re.compile(r"['\"][\d.]+(?=[/:?&;])")


def named(words: str) -> str:
    """These words, up to what is said to be a password."""
    return _NAMED.sub(r"\1***", words)


def text(words: str) -> str:
    """These words, without what looks like an address or a password."""
    return named(_ADDRESS.sub("***", words))


def whole(given: str) -> str:
    """Nothing of what was given, if it looks like an address."""
    return "***" if _ADDRESS.search(given) else named(given)


def arguments(words: str, given: Sequence[str]) -> str:
    """A complaint about the command line, without a password.

    :param given: the command line; a password may have blanks and quotes,
     with which it is quoted again.

    """
    found = set()
    for word in given:
        if _PIECE.search(word) or _NAMED.search(word):
            found.add(word)
            if word.startswith("-"):
                found.add(word.partition("=")[2])
    found.update([repr(word)[1:-1] for word in found])
    return text(without(words, {word for word in found if len(word) > 1}))


def host(given: str) -> str:
    """The host of a URL, unless some of it is of a password."""
    return "***" if _AT.search(given) else named(given)


def address(url: URL) -> str:
    """A URL, without its query, where a password may be, too."""
    url = url.set(
        query={},
        username=url.username and _legible(url.username),
        host=url.host and _legible(url.host),
        database=url.database and _legible(url.database),
    )
    return named(url.render_as_string())


def _bytes(words: str) -> bytes:
    try:
        return words.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return words.encode("utf-8", "replace")


def _legible(words: str) -> str:
    """As it was typed, where the locale has other letters."""
    return _bytes(words).decode("utf-8", "replace")


def value(given: object) -> str:
    """What was given for an option: short, and without a password."""
    try:
        shown = repr(given)
    except Exception:
        # a whole number of 5,000 digits, say, or an object's own fault
        return f"a value of type {type(given).__name__}"
    shown = named(shown)
    if _PIECE.search(shown):
        if not isinstance(given, str):
            return f"a value of type {type(given).__name__}"
        shown = _beginning(shown)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def _beginning(shown: str) -> str:
    """Of a piece of a URL, the number that it was put behind, if any."""
    number = _NUMBER.match(shown)
    return f"{number.group() if number else shown[0]}***{shown[0]}"


def secrets(url: URL) -> set[str]:
    """The passwords in a URL, in all forms in which others may quote them."""
    words = [url.password]
    # where a wrong sign stands before it
    for each in (url.username, url.host, url.database):
        for found in _NAMED.finditer(each or ""):
            words += [found.group(2), *re.split("[&;,? ]", found.group(2))[:1]]
    for name, values in url.query.items():
        if _NAME.search(name):
            words.extend([values] if isinstance(values, str) else values)
    plain = {str(word) for word in words if word}
    return {
        form
        for word in plain
        for form in (
            word,
            _legible(word),
            quote(_bytes(word), safe=""),
            quote_plus(_bytes(word)),
        )
    }


def without(words: str, found: set[str]) -> str:
    """These words, without the secrets."""
    # longest first: one may be part of another
    for secret in sorted(found, key=len, reverse=True):
        words = words.replace(secret, "***")
    return words

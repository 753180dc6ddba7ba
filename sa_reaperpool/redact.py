"""No password in any message.

A URL that was mistyped, or put in the wrong place, may make any part of it
the value of anything.  What is left out here is left out on suspicion.
"""

from __future__ import annotations

import re
from urllib.parse import quote
from urllib.parse import quote_plus

from sqlalchemy.engine import URL

# A slip like "?max_age=10?password=..." makes a secret part of a value.
_NAMED = re.compile(
    r"(\w*pass\w*|pwd|secret|\w*token)=.*", re.IGNORECASE | re.DOTALL
)
_NAME = re.compile(r"pass|pwd|secret|token", re.IGNORECASE)

# a word that is a URL, or a piece of one
_ADDRESS = re.compile(r"[^\s'\"]*(?:@|%40|://)\S*", re.IGNORECASE)
_PIECE = re.compile(r"[@/:]|%40")
_NUMBER = re.compile(r"['\"][\d.]+(?=[/:?&;])")


def text(words: str) -> str:
    """These words, without what looks like an address or a password."""
    return _NAMED.sub(r"\1=***", _ADDRESS.sub("***", words))


def value(given: object) -> str:
    """What was given for an option: short, and without a password."""
    try:
        shown = repr(given)
    except Exception:
        # a whole number of 5,000 digits, say, or an object's own fault
        return f"a value of type {type(given).__name__}"
    shown = _NAMED.sub(r"\1=***", shown)
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
    for name, values in url.query.items():
        if _NAME.search(name):
            words.extend([values] if isinstance(values, str) else values)
    plain = {str(word) for word in words if word}
    return {
        form
        for word in plain
        for form in (word, quote(word, safe=""), quote_plus(word))
    }


def without(words: str, found: set[str]) -> str:
    """These words, without the secrets."""
    # longest first: one may be part of another
    for secret in sorted(found, key=len, reverse=True):
        words = words.replace(secret, "***")
    return words

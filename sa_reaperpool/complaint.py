"""What a failed connect says, in one short line and without secrets.

Drivers repeat what they were given when they can't make sense of it, and a
creator may say anything.  So the text is rid of all that looks like a
password, and of those that the creator was made with, as far as these can
be found without running it: in its closure, its defaults, and the arguments
of a ``functools.partial``.  Nor does it show a statement that failed while
the connection was being made, which may have anything in it.
"""

from __future__ import annotations

import inspect
import re
from typing import AbstractSet
from typing import Any
from typing import Iterator
from typing import Mapping
from urllib.parse import quote
from urllib.parse import quote_plus
from urllib.parse import unquote

LONGEST = 300

_KEY = r"[\w-]*(?:pass(?:word|wd|phrase)?|pwd|secret|token)"
_SECRET_KEY = re.compile(rf"^{_KEY}$", re.IGNORECASE)
# password=x, password='x y', "password": "x", password 'x'
_ASSIGNED = re.compile(
    rf"""(?<![\w-])({_KEY})(["']?\s*(?:=>|=|:)\s*)"""
    r"""("(?:[^"\\]|\\.)*"?|'(?:[^'\\]|\\.)*'?|[^\s,;&)}\]]+)""",
    re.IGNORECASE,
)
# user:x@host, with or without a scheme before it; x may hold an @
_BEFORE_HOST = re.compile(r"""([^\s:/@"'(]*):([^\s/]+)@(?=[\w.\[%-])""")
# what libpq quotes of an address in which it finds no sense: the rest of a
# password, that should have been quoted there
_MISREAD = re.compile(
    r"""(unexpected\ spaces\ found\ in|missing\ "="\ after"""
    r"""|invalid\ integer\ value|percent-encoded\ value:"""
    r"""|URI\ query\ parameter:)\s*"[^"]*"?""",
    re.VERBOSE,
)
# Statements, with what is in them: libpq shows where in one the mistake is
# ("LINE" in the words of the server's or the client's language, and in the
# next line a caret), and SQLAlchemy what it has run.
_STATEMENT = re.compile(
    r"""^[^\S\n]*(?:LINE\s+\d+\s*:|QUERY:|CONTEXT:|\[SQL:|\[parameters:"""
    r"""|[^\n]*\n[^\S\n]*\^[^\S\n]*$)""",
    re.VERBOSE | re.MULTILINE,
)
# MySQL's quotes the rest of it
_NEAR = re.compile(r"(SQL syntax\b.*? near ).*(?= at line \d)", re.DOTALL)


def complaint(error: BaseException, creator: Any = None) -> str:
    """The error, for people.

    :param creator: what raised it.

    """
    try:
        text = f"{type(error).__name__}: {_without_statement(str(error))}"
    except Exception:
        # its own fault
        text = type(error).__name__
    return shorten(redact(text, secrets_of(creator)))


def _without_statement(text: str) -> str:
    """All before the statement that has failed, if it is shown.

    What follows that may be about it, or show the row.
    """
    found = _STATEMENT.search(text)
    if found is not None:
        text = text[: found.start()]
    return _NEAR.sub(r"\1***", text)


def shorten(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def redact(text: str, secrets: AbstractSet[str] = frozenset()) -> str:
    """The text with ``***`` in place of passwords.

    :param secrets: known ones.

    """
    for secret in sorted(_written(secrets), key=len, reverse=True):
        if len(secret) > 3:
            text = text.replace(secret, "***")
        else:
            text = re.sub(rf"(?<!\w){re.escape(secret)}(?!\w)", "***", text)
    text = _MISREAD.sub(r'\1 "***"', text)
    text = _ASSIGNED.sub(r"\1\2***", text)
    return _BEFORE_HOST.sub(r"\1:***@", text)


def _written(secrets: AbstractSet[str]) -> set[str]:
    """In all the ways in which a message may have them."""
    ways = {
        way(secret)
        for secret in secrets
        for way in (str, quote, quote_plus, unquote, lambda s: repr(s)[1:-1])
    }
    return {way for way in ways if way.strip()}


def secrets_of(creator: Any) -> set[str]:
    """The passwords that a creator was made with."""
    found: set[str] = set()
    try:
        for value in _made_of(creator):
            found.update(_secrets_in(value))
    except Exception:
        # an object that cannot be looked into
        pass
    return found


def _made_of(creator: Any) -> Iterator[Any]:
    function = getattr(creator, "func", creator)
    yield from getattr(creator, "args", None) or ()
    yield getattr(creator, "keywords", None)
    for cell in getattr(function, "__closure__", None) or ():
        try:
            yield cell.cell_contents
        except ValueError:
            # not filled yet
            continue
    # fails for some that are built in
    parameters = inspect.signature(function).parameters
    yield {name: each.default for name, each in parameters.items()}


def _secrets_in(value: Any, depth: int = 2) -> Iterator[str]:
    if isinstance(getattr(value, "password", None), str):
        # a URL of SQLAlchemy's
        yield value.password
    elif isinstance(value, str):
        for pattern in (_ASSIGNED, _BEFORE_HOST):
            for found in pattern.finditer(value):
                yield found.group(found.re.groups).strip("\"'")
    elif isinstance(value, Mapping):
        for key, each in value.items():
            if _SECRET_KEY.match(str(key)) and isinstance(each, (str, bytes)):
                yield each if isinstance(each, str) else each.decode()
            elif depth:
                yield from _secrets_in(each, depth - 1)
    elif isinstance(value, (list, tuple)) and depth:
        for each in value:
            yield from _secrets_in(each, depth - 1)

"""What the program is doing, in its own words: a mark on its leases.

A context variable, so that each thread, greenlet and request has its own.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import Iterator

from sqlalchemy.exc import ArgumentError

_label: ContextVar[str | None] = ContextVar("sa_reaperpool", default=None)

current = _label.get
"""The label that a checkout gets now, or None."""


@contextmanager
def label(text: str) -> Iterator[None]:
    """Mark the connections that are checked out inside the block::

        with sa_reaperpool.label("GET /orders"):
            ...

    Reports, errors and warnings show the label beside the connection's
    holder, to the end of its checkout.  Of nested blocks the innermost
    counts.  It is for the code that the block runs: a thread that is
    started there has none.  A function can be decorated with it, too.

    :param text: what is shown, so no secret; on one line, and of a long
     one the beginning.

    :raises sqlalchemy.exc.ArgumentError: it is not a string.

    """
    if not isinstance(text, str):
        raise ArgumentError(
            f"label() takes a string, not a {type(text).__name__}"
        )
    outer = _label.get()
    token = _label.set(text)
    try:
        yield
    finally:
        try:
            _label.reset(token)
        except ValueError:
            # left in another context, as by a generator: not worth an error
            if _label.get() is text:
                _label.set(outer)

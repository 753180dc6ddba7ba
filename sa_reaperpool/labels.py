"""What the program is doing, in its own words: a mark on its leases.

A context variable, so that each thread, greenlet and request has its own.
"""

from __future__ import annotations

import functools
import inspect
from contextvars import ContextVar
from contextvars import Token
from typing import Any
from typing import Callable

from sqlalchemy.exc import ArgumentError

from .words import plain

_label: ContextVar[str | None] = ContextVar("sa_reaperpool", default=None)

current = _label.get
"""The label that a checkout gets now, or None."""

LONGEST = 500
"""Characters that are kept of one."""

Mark = Token["str | None"]


class label:
    """Mark the connections that are checked out inside the block::

        with sa_reaperpool.label("GET /orders"):
            ...

    Reports, errors and warnings show the label beside the connection's
    holder, to the end of its checkout.  Of nested blocks the innermost
    counts.  It is for the code that the block runs: a thread that is
    started there has none.

    Functions can be decorated with it, too, also those of ``async def``;
    generators not, whose code runs in pieces between that of others.

    :param text: what is shown, so no secret; on one line, and of a long
     one the beginning.  More than its first 500 characters are not kept.

    :raises sqlalchemy.exc.ArgumentError: it is not a string, or what is
     decorated is a generator.

    """

    __slots__ = ("_text", "_entered")

    def __init__(self, text: str):
        if not isinstance(text, str):
            raise ArgumentError(
                f"label() takes a string, not a {type(text).__name__}"
            )
        self._text = plain(text)[:LONGEST]
        self._entered: list[tuple[str | None, Mark]] = []

    def __enter__(self) -> None:
        self._entered.append((_label.get(), _label.set(self._text)))

    def __exit__(self, *_: object) -> None:
        outer, token = self._entered.pop()
        try:
            _label.reset(token)
        except ValueError:
            # left in another context, as by a generator: not worth an error
            if _label.get() is self._text:
                _label.set(outer)

    def __call__(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Mark what the function checks out."""
        text = self._text
        if inspect.isgeneratorfunction(function) or (
            inspect.isasyncgenfunction(function)
        ):
            raise ArgumentError(
                "label() decorates no generator; mark its parts by blocks"
            )
        if inspect.iscoroutinefunction(function):

            @functools.wraps(function)
            async def marked(*args: Any, **options: Any) -> Any:
                with label(text):
                    return await function(*args, **options)

            return marked

        @functools.wraps(function)
        def also_marked(*args: Any, **options: Any) -> Any:
            with label(text):
                return function(*args, **options)

        return also_marked

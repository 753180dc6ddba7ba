"""Who calls: the application's line, and what SQLAlchemy is about.

Told by the frames of the calling thread, which cost nothing until somebody
looks; a checkout looks up to the first that is the application's.
"""

from __future__ import annotations

import contextlib
import inspect
import os.path
import sys
from bisect import bisect_right
from operator import itemgetter
from types import CodeType
from types import FrameType
from typing import Any

import sqlalchemy
from sqlalchemy import Connection
from sqlalchemy import Engine
from sqlalchemy.orm import Session

_SQLALCHEMY = os.path.dirname(sqlalchemy.__file__) + os.sep
_HERE = os.path.dirname(__file__) + os.sep
# these are applications that happen to live here
_APPLICATIONS = frozenset(
    _HERE + name for name in ("__main__.py", "demo.py", "compare_work.py")
)

_SESSION_CLOSE = Session.close.__code__
# these end in that, and roll back before
_CLOSERS = frozenset(
    (
        Connection.close.__code__,
        inspect.unwrap(Engine.begin).__code__,
        _SESSION_CLOSE,
    )
)

INNER: dict[str, bool] = {}
"""By the name of a file: does its code call for somebody else?  Of a string
that is not known; :func:`.application_line` adds names."""

STRING = "<string>"
"""The name of every file that is none."""

Line = tuple[CodeType, int]
"""A line, by its place in the code: to tell its number takes as long as a
whole checkout where a function is long, and few are ever asked for."""


def written(line: Line | None) -> str:
    """An application's line for people."""
    if line is None:
        return "an unknown line"
    code, _ = line
    return f"{code.co_filename}:{number_of(line)} in {code.co_name}"


def number_of(line: Line) -> int:
    """The number of an application's line."""
    code, place = line
    for start, end, number in code.co_lines():
        if start <= place < end and number is not None:
            return number
    return code.co_firstlineno


class Writing:
    """Writes many lines, of which most are the same few: each once.

    For one look at a pool, as it keeps what it has written.
    """

    def __init__(self) -> None:
        # by the code's id, as to hash it is to hash all that is in it; with
        # the code, so that the id stays its own
        self._written: dict[tuple[int, int], tuple[Line, str]] = {}
        self._numbers: dict[int, tuple[CodeType, list[Any]]] = {}

    def __call__(self, line: Line | None) -> str:
        """As :func:`.written`."""
        if line is None:
            return written(None)
        code, place = line
        try:
            return self._written[id(code), place][1]
        except KeyError:
            text = f"{code.co_filename}:{self.number(line)} in {code.co_name}"
            self._written[id(code), place] = (line, text)
            return text

    def number(self, line: Line) -> int:
        """As :func:`.number_of`, but for one walk through the code."""
        code, place = line
        try:
            numbers = self._numbers[id(code)][1]
        except KeyError:
            numbers = list(code.co_lines())
            self._numbers[id(code)] = (code, numbers)
        at = bisect_right(numbers, place, key=itemgetter(0)) - 1
        number = numbers[at][2] if at >= 0 else None
        return code.co_firstlineno if number is None else int(number)


def here() -> str:
    """The application's line that is being run, for people."""
    return written(application_line())


def application_line(depth: int = 1) -> Line | None:
    """The first line outside SQLAlchemy and this package, unformatted.

    :param depth: so many calls up is the first that may be it.

    """
    frame: Any = sys._getframe(depth)
    while frame is not None:
        try:
            # ten frames of an ORM session's, so there is little to be done
            while INNER[(code := frame.f_code).co_filename]:
                frame = frame.f_back
        except KeyError as missing:
            [name] = missing.args
            INNER[name] = _is_inner(name)
        except AttributeError:
            # there is none below the last frame
            return None
        else:
            if code.co_filename != STRING or not is_generated(frame):
                return code, frame.f_lasti
            frame = frame.f_back
    return None


def is_generated(frame: FrameType) -> bool:
    """Did SQLAlchemy 2.0 make this function from a string?"""
    # either without a module, or with that of the function it wraps
    module = frame.f_globals.get("__name__", "sqlalchemy")
    return str(module).partition(".")[0] == "sqlalchemy"


def called_by_sqlalchemy(depth: int) -> bool:
    """Is the frame that many calls up one of SQLAlchemy's own?"""
    return sys._getframe(depth).f_code.co_filename.startswith(_SQLALCHEMY)


def about_to_close() -> bool:
    """Is it SQLAlchemy that calls, and will close its Connection next?"""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        code = frame.f_code
        if code in _CLOSERS:
            # the Connection that was given to a session lives on
            return code is not _SESSION_CLOSE or isinstance(
                frame.f_locals["self"].bind, Engine
            )
        if not (
            code.co_filename.startswith(_SQLALCHEMY) or is_generated(frame)
        ):
            return False
        frame = frame.f_back
    return False


def connection_calling() -> Connection | None:
    """The Connection whose method is being run, and has led to this."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        found = frame.f_locals.get("self")
        if isinstance(found, Connection):
            return found
        frame = frame.f_back
    return None


def called_here(depth: int) -> bool:
    """Is the frame that many calls up one of this package's?"""
    return sys._getframe(depth).f_code.co_filename.startswith(_HERE)


def caught_by_sqlalchemy(kind: type[BaseException]) -> bool:
    """Is SQLAlchemy just handling such an error, that it will raise on?

    Unlike one that has reached the application, it was caught by a frame
    which is still being run.
    """
    _, error, trace = sys.exc_info()
    if not isinstance(error, kind):
        return False
    running = set()
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith(_SQLALCHEMY):
            running.add(frame)
        frame = frame.f_back
    while trace is not None and trace.tb_frame not in running:
        trace = trace.tb_next
    return trace is not None


def _is_inner(filename: str) -> bool:
    if filename.startswith(_HERE):
        return filename not in _APPLICATIONS
    # contextlib stands between `with engine.begin()` and its user
    return (
        filename.startswith((_SQLALCHEMY, "<sqlalchemy"))
        or filename == contextlib.__file__
    )

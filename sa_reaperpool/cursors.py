"""Cursors that ask whose turn it is, each time that something is executed.

A cursor may be kept for long, and used when others have joined meanwhile;
even SQLAlchemy takes one, and runs the defaults of columns and listeners of
events, which may do anything, before it executes.  So a reserved connection
gives cursors of classes derived here, on the fly, from the driver's own:
they are these in all respects, and have their level (level.py) look at each
statement before it is sent.

Of a driver whose cursors cannot be changed this way nothing is known after
they are given out: they count as begun from then on.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING
from typing import Any
from typing import Callable

from . import writes
from .writes import Statement

if TYPE_CHECKING:
    from .level import Level

Method = Callable[..., Any]

_levels: weakref.WeakKeyDictionary[Any, Level] = weakref.WeakKeyDictionary()
"""Whose a cursor is, its handle's first level, if it has no slot for that."""

_derived: dict[tuple[type, bool], type] = {}
_classes: set[type] = set()
# those of whose instances the class can't be changed
_fixed: set[type] = set()
# what plain connections, of these classes, make if they are told nothing
_plain: dict[type, tuple[type, str]] = {}


def make(
    connection: Any, level: Level, args: tuple[Any, ...], kw: dict[str, Any]
) -> Any:
    """Have a driver's connection make a cursor, and have it checked."""
    plain = None if args or kw else _plain.get(type(connection))
    if plain and not getattr(connection, "cursor_factory", None):
        kind, name = plain
        cursor: Any = connection.cursor(**{name: kind})
        cursor.reaper_level = level
        return cursor
    made = connection.cursor(*args, **kw)
    if adopt(made, level):
        return made
    place = _place_of_factory(type(made))
    return made if place is None else (
        _make_again(connection, level, made, place, args, kw)
    )


def _make_again(
    connection: Any,
    level: Level,
    made: Any,
    place: tuple[int, str],
    args: tuple[Any, ...],
    kw: dict[str, Any],
) -> Any:
    """One of a class of which this has to be from its beginning."""
    position, name = place
    kind = _derive(type(made), slot=True)
    others = args[:position] + args[position + 1 :]
    try:
        cursor: Any = connection.cursor(*others, **{**kw, name: kind})
    except TypeError:
        # a connection class of the user's, with a cursor() of its own
        return made
    if not checked(cursor):
        return made
    cursor.reaper_level = level
    module = type(connection).__module__
    if not args and not kw and module == type(made).__module__:
        if not getattr(connection, "cursor_factory", None):
            _plain[type(connection)] = kind, name
    return cursor


def adopt(cursor: Any, level: Level) -> bool:
    """Have a cursor checked that is there already.

    :return: False if that cannot be.

    """
    kind = type(cursor)
    if kind in _fixed or not hasattr(cursor, "execute"):
        return False
    if kind not in _classes:
        try:
            cursor.__class__ = _derive(kind, slot=False)
        except TypeError:
            # written in C, or with a metaclass of its own
            _fixed.add(kind)
            return False
    _levels[cursor] = level
    return True


def checked(cursor: Any) -> bool:
    """Does it ask before it executes?"""
    return type(cursor) in _classes


def _place_of_factory(kind: type) -> tuple[int, str] | None:
    """How a driver is told the class of a cursor: position and name."""
    for base in kind.__mro__:
        if base.__module__ == "sqlite3":
            return 0, "factory"
        if base.__module__ == "psycopg2.extensions":
            return 1, "cursor_factory"
    return None


def _derive(kind: type, slot: bool) -> type:
    """A class of cursors that ask.

    :param slot: has it a place for the level?  What is to become one of
     these after it was made cannot get one.

    """
    derived = _derived.get((kind, slot))
    if derived is None:
        # To whoever looks it is the same class.
        body: dict[str, Any] = {
            "__slots__": ("reaper_level",) if slot else (),
            "__module__": kind.__module__,
            "__qualname__": kind.__qualname__,
            "__doc__": kind.__doc__,
        }
        whose = _slot if slot else _levels.get
        for name, wrap in _METHODS.items():
            method = getattr(kind, name, None)
            if method is not None:
                body[name] = wrap(method, whose)
        derived = type(kind)(kind.__name__, (kind,), body)
        _classes.add(derived)
        derived = _derived.setdefault((kind, slot), derived)
    return derived


def _slot(cursor: Any) -> Level | None:
    # it may execute while it is being made
    return getattr(cursor, "reaper_level", None)


# what is asked before


def _text(cursor: Any, args: tuple[Any, ...], kw: dict[str, Any]) -> Any:
    """The statement among a method's arguments."""
    text: Any = args[0] if args else next(iter(kw.values()), None)
    if hasattr(text, "as_string"):
        # psycopg's composed SQL
        try:
            return text.as_string(cursor)
        except Exception:
            return None
    return text


def by_text(cursor: Any, args: Any, kw: Any) -> Sequence[Statement]:
    """What a method does that takes a statement, by that.

    :param cursor: or the connection, whose method it is.

    """
    return sent_through(cursor, _text(cursor, args, kw))


def sent_through(cursor: Any, text: Any) -> Sequence[Statement]:
    """What this text does, in the words of the cursor's driver."""
    return writes.statements(text, _is_mysqls(type(cursor)))


def _is_mysqls(kind: type) -> bool:
    found = _mysqls.get(kind)
    if found is None:
        found = _mysqls[kind] = any(
            base.__module__.partition(".")[0].lower() in _MYSQLS
            for base in kind.__mro__
        )
    return found


_mysqls: dict[type, bool] = {}


# cursors' and connections' modules
_MYSQLS = frozenset("pymysql mysqldb mysql mariadb cymysql".split())


def _by_script(cursor: Any, args: Any, kw: Any) -> Sequence[Statement]:
    found = by_text(cursor, args, kw)
    return found if not commits_before_scripts(cursor) else [
        writes.COMMIT,
        *found,
    ]


def commits_before_scripts(cursor: Any) -> bool:
    """Does sqlite3's executescript() commit first?  By default it does."""
    mode = getattr(cursor.connection, "autocommit", -1)
    return not isinstance(mode, bool)


def _writes(cursor: Any, args: Any, kw: Any) -> Sequence[Statement]:
    return [writes.WRITE]


def _unknown(cursor: Any, args: Any, kw: Any) -> Sequence[Statement]:
    return [writes.OTHER]


Reader = Callable[[Any, Any, Any], Sequence[Statement]]
Whose = Callable[[Any], "Level | None"]


def _asking(read: Reader) -> Callable[[Method, Whose], Method]:
    def wrap(method: Method, whose: Whose) -> Method:
        @functools.wraps(method)
        def call(cursor: Any, *args: Any, **kw: Any) -> Any:
            level = whose(cursor)
            if level is None:
                return method(cursor, *args, **kw)
            level = level.active
            sent = read(cursor, args, kw)
            level.sending(sent)
            try:
                result = method(cursor, *args, **kw)
            except Exception as error:
                level.reservation.ended_by_error(level, error)
                raise
            level.sent(sent)
            return result

        return call

    return wrap


def _streaming(method: Method, whose: Whose) -> Method:
    """A generator function: it executes when the first row is asked for."""

    @functools.wraps(method)
    def stream(cursor: Any, *args: Any, **kw: Any) -> Iterator[Any]:
        level = whose(cursor)
        if level is not None:
            level = level.active
            sent = by_text(cursor, args, kw)
            level.sending(sent)
            level.sent(sent)
        yield from method(cursor, *args, **kw)

    return stream


def _within(method: Method, whose: Whose) -> Method:
    """A context manager: it executes when its block is entered."""

    @contextmanager
    @functools.wraps(method)
    def block(cursor: Any, *args: Any, **kw: Any) -> Iterator[Any]:
        level = whose(cursor)
        if level is None:
            with method(cursor, *args, **kw) as entered:
                yield entered
            return
        level = level.active
        sent = by_text(cursor, args, kw)
        level.sending(sent)
        with method(cursor, *args, **kw) as entered:
            level.sent(sent)
            yield entered

    return block


_METHODS: dict[str, Callable[[Method, Whose], Method]] = {
    "execute": _asking(by_text),
    "executemany": _asking(by_text),
    "executescript": _asking(_by_script),
    # PostgreSQL's drivers make a SELECT of it, MySQL's a CALL
    "callproc": _asking(_unknown),
    "copy_expert": _asking(by_text),
    "copy_from": _asking(_writes),
    "copy_to": _asking(_unknown),
    "stream": _streaming,
    "copy": _within,
}
"""Drivers' methods that execute something."""

"""What an option may be given, and what becomes of it.

Python gives numbers, None and objects; a URL or an ini file gives strings
for all of them.  Either way the pool works with one thing.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from sqlalchemy.pool import reset_commit
from sqlalchemy.pool import reset_none
from sqlalchemy.pool import reset_rollback


class DefaultText(str):
    """A default that can be told from the same text given on purpose."""

    __slots__ = ()


@dataclass(frozen=True)
class Kind:
    """What an option takes: in words, and as a conversion.

    :param allowed: the end of the sentence "allowed is ...".

    :param convert: gives the value that the pool works with, or raises
      ``ValueError``.  It accepts its own results unchanged, since
      ``recreate()`` hands them back.

    """

    allowed: str
    convert: Callable[[object], Any]


def _text(value: object) -> object:
    """Fold what a URL or an ini file gives; leave all else alone."""

    # A default keeps its type, which is how it is known for one.
    if isinstance(value, str) and not isinstance(value, DefaultText):
        return value.strip().lower()
    return value


def _is_none(value: object) -> bool:
    return value is None or _text(value) == "none"


def _whole(value: object) -> int:
    value = _text(value)
    if isinstance(value, str):
        return int(value)
    # True is an int to Python, but nobody means a size of 1 by it
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    raise ValueError


def _number(value: object) -> float:
    """Convert to a finite number; a whole one stays a whole one."""

    try:
        number: float = _whole(value)
    except ValueError:
        number = _float(value)
    try:
        if math.isfinite(number):
            return number
    except OverflowError:
        # more digits than a float holds: no clock can reckon with it
        pass
    raise ValueError


def _float(value: object) -> float:
    value = _text(value)
    if isinstance(value, bool):
        raise ValueError
    if isinstance(value, (numbers.Real, Decimal, str)):
        try:
            return float(value)
        except OverflowError:
            pass
    raise ValueError


def _whole_from(least: int) -> Callable[[object], int]:
    def convert(value: object) -> int:
        number = _whole(value)
        if number < least:
            raise ValueError
        return number

    return convert


def _from_zero(value: object) -> float:
    number = _number(value)
    if number < 0:
        raise ValueError
    return number


def _above_zero(value: object) -> float:
    number = _number(value)
    if number <= 0:
        raise ValueError
    return number


def _fraction(value: object) -> float:
    number = _number(value)
    if not 0 <= number < 1:
        raise ValueError
    return number


def _or_none(convert: Callable[[object], Any]) -> Callable[[object], Any]:
    def convert_or_none(value: object) -> Any:
        return None if _is_none(value) else convert(value)

    return convert_or_none


def _recycle(value: object) -> float:
    if _is_none(value):
        return -1
    number = _number(value)
    if number < 0 and number != -1:
        raise ValueError
    return number


def _round(value: object) -> float | None:
    # "every 0 seconds" is how an ini file switches the rounds off
    return None if _is_none(value) else (_from_zero(value) or None)


# The words that SQLAlchemy takes for a boolean in a configuration file.
_TRUE = {"true", "yes", "on", "y", "t", "1"}
_FALSE = {"false", "no", "off", "n", "f", "0", "none"}


def _flag(value: object) -> bool:
    # None, 0 and 1 too: SQLAlchemy asks only whether it is true
    if value is None or isinstance(value, (int, str)):
        text = str(value).strip().lower()
        if text in _TRUE:
            return True
        if text in _FALSE:
            return False
    raise ValueError


_RESETS = {
    "rollback": reset_rollback,
    "true": reset_rollback,
    "commit": reset_commit,
    "none": reset_none,
    "false": reset_none,
}


def _reset(value: object) -> Any:
    if any(value is style for style in _RESETS.values()):
        return value
    if value is None or isinstance(value, (bool, str)):
        style = _RESETS.get(str(value).strip().lower())
        if style is not None:
            return style
    raise ValueError


def _one_of(*words: str) -> Callable[[object], str]:
    def convert(value: object) -> str:
        value = _text(value)
        if isinstance(value, str) and value in words:
            return value
        raise ValueError

    return convert


COUNT = Kind("a whole number of 0 or more", _whole_from(0))
COUNT_OR_NONE = Kind(
    "a whole number of 1 or more, or none", _or_none(_whole_from(1))
)
ROOM_OR_NONE = Kind(
    "a whole number of 0 or more, or none", _or_none(_whole_from(0))
)
SIZE = Kind("a whole number of 0 or more, 0 for no limit", _whole_from(0))
# Below -1 is for validate() to refuse: SQLAlchemy allows it beside a
# pool_size of 0, since nobody looks at it then.
OVERFLOW = Kind("a whole number of -1 or more, -1 for no limit", _whole)
GRACE = Kind(
    "a number of seconds of 0 or more, or none", _or_none(_from_zero)
)
SECONDS_OR_NONE = Kind(
    "a number of seconds above 0, or none", _or_none(_above_zero)
)
WAIT = Kind(
    "a number of seconds of 0 or more, or none to wait for ever",
    _or_none(_from_zero),
)
RECYCLE = Kind("a number of seconds of 0 or more, or -1 or none", _recycle)
ROUND = Kind(
    "a number of seconds above 0, or 0 or none for no background work",
    _round,
)
FRACTION = Kind("a number from 0 to below 1", _fraction)
FLAG = Kind("true or false", _flag)
RESET = Kind("rollback, commit or none, or true or false", _reset)
LIVENESS = Kind("passive, ping or off", _one_of("passive", "ping", "off"))
RESERVATION = Kind("explicit or thread", _one_of("explicit", "thread"))
DEADLOCK = Kind("warn, raise or off", _one_of("warn", "raise", "off"))

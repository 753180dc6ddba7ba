"""Every option of the pool, once.

:data:`OPTIONS` is the one table that names, types, defaults and explains
them.  The pool's constructor, the URL plugin and the documentation's table
are all served from it, so that they cannot tell different stories.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from dataclasses import fields
from typing import Any
from typing import Literal
from typing import Union

from sqlalchemy.exc import ArgumentError

from . import kinds
from . import redact
from .kinds import DefaultText
from .kinds import Kind

# What a constructor may annotate its parameters with: a URL or an ini file
# gives strings for all of them.
Whole = Union[int, str]
Seconds = Union[float, str, None]
Flag = Union[bool, str]

Liveness = Literal["passive", "ping", "off"]

LIVENESS_DEFAULT = DefaultText("passive")


@dataclass(frozen=True)
class Option:
    """One option.

    :param name: as in a URL, in ``create_engine()`` and in messages.

    :param keyword: the parameter of the pool's constructor.

    :param kind: what it takes.

    :param default: the constructor's default, before conversion.

    :param meaning: one line, with the unit.

    :param alias: another name that a URL may use.

    :param changes: it may change while the pool runs, see
     :meth:`.ReaperPool.configure`.

    """

    name: str
    keyword: str
    kind: Kind
    default: Any
    meaning: str
    alias: str | None = None
    changes: bool = False

    def convert(self, value: object) -> Any:
        """Return ``value`` as the pool works with it.

        Rules between two options are not looked at: see :func:`validate`.

        :raises sqlalchemy.exc.ArgumentError: it is not allowed.

        """
        try:
            return self.kind.convert(value)
        except ValueError:
            # from None: the conversion's own words add nothing
            raise self.refuse(value) from None

    def refuse(self, value: object, allowed: str | None = None) -> Exception:
        """Return the error that says what is allowed instead."""

        return ArgumentError(
            f"Invalid value for option {self.name!r}: {redact.value(value)} "
            f"(allowed: {allowed or self.kind.allowed})"
        )


OPTIONS: tuple[Option, ...] = (
    Option(
        "pool_size",
        "pool_size",
        kinds.SIZE,
        5,
        "connections kept open; 0: no limit to them",
        alias="pool",
        changes=True,
    ),
    Option(
        "max_overflow",
        "max_overflow",
        kinds.OVERFLOW,
        10,
        "connections opened beyond pool_size while all are in use; "
        "-1: no limit to them",
        changes=True,
    ),
    Option(
        "pool_timeout",
        "timeout",
        kinds.WAIT,
        30.0,
        "seconds that a checkout waits for a connection; none: for ever",
        alias="checkout_timeout",
        changes=True,
    ),
    Option(
        "pool_use_lifo",
        "use_lifo",
        kinds.FLAG,
        False,
        "lend the connection that was returned last, not the first",
    ),
    Option(
        "pool_recycle",
        "recycle",
        kinds.RECYCLE,
        -1,
        "seconds after which a checkout replaces the connection; "
        "-1 or none: never",
    ),
    Option(
        "pool_pre_ping",
        "pre_ping",
        kinds.FLAG,
        False,
        "ping at every checkout; the same as liveness ping",
    ),
    Option(
        "pool_reset_on_return",
        "reset_on_return",
        kinds.RESET,
        True,
        "how a returned connection is reset; true: rollback, false: none",
    ),
    Option(
        "reaping_frequency",
        "reaping_frequency",
        kinds.ROUND,
        20,
        "seconds between the reaper's rounds; none or 0: no background "
        "work, checkouts still reap",
        changes=True,
    ),
    Option(
        "dead_connection_timeout",
        "dead_connection_timeout",
        kinds.GRACE,
        5,
        "seconds since a held connection was last used, after which the "
        "reaper may judge it; none: never",
        changes=True,
    ),
    Option(
        "max_age",
        "max_age",
        kinds.SECONDS_OR_NONE,
        None,
        "seconds after which a connection is retired; none: never",
        changes=True,
    ),
    Option(
        "idle_timeout",
        "idle_timeout",
        kinds.SECONDS_OR_NONE,
        None,
        "seconds unused after which an idle connection is closed, beyond "
        "min_idle; none: never",
        changes=True,
    ),
    Option(
        "min_idle",
        "min_idle",
        kinds.COUNT,
        0,
        "idle connections kept open all the same, and opened in the "
        "background when missing; at most pool_size",
        changes=True,
    ),
    Option(
        "keepalive",
        "keepalive",
        kinds.SECONDS_OR_NONE,
        None,
        "seconds without traffic after which an idle connection is pinged "
        "in the background; none: never",
        changes=True,
    ),
    Option(
        "jitter",
        "jitter",
        kinds.FRACTION,
        0.2,
        "largest fraction by which a connection's max_age and keepalive "
        "are shortened at random, so that they do not all end at once",
        changes=True,
    ),
    Option(
        "liveness",
        "liveness",
        kinds.LIVENESS,
        LIVENESS_DEFAULT,
        "what a checkout checks: passive looks at the socket, ping asks "
        "the server, off nothing",
    ),
    Option(
        "reservation",
        "reservation",
        kinds.RESERVATION,
        "explicit",
        "thread: a thread has one connection, and its further checkouts "
        "join it; explicit: only the calls for that reserve one",
    ),
    Option(
        "max_waiting",
        "max_waiting",
        kinds.ROOM_OR_NONE,
        None,
        "threads that may wait for a connection, one more fails at once; "
        "none: any number",
        changes=True,
    ),
    Option(
        "max_connecting",
        "max_connecting",
        kinds.COUNT_OR_NONE,
        None,
        "connections being opened at once, the rest wait their turn; "
        "none: no limit",
        changes=True,
    ),
    Option(
        "leak_timeout",
        "leak_timeout",
        kinds.SECONDS_OR_NONE,
        None,
        "seconds after which a connection still held is reported, once; "
        "none: never",
        changes=True,
    ),
    Option(
        "reclaim_timeout",
        "reclaim_timeout",
        kinds.SECONDS_OR_NONE,
        None,
        "seconds for which its holder has not used a connection that runs "
        "nothing, after which it is taken back; none: never",
        changes=True,
    ),
    Option(
        "on_deadlock",
        "on_deadlock",
        kinds.DEADLOCK,
        "warn",
        "when all connections are held by threads that wait for one: warn "
        "logs it at once, raise fails the last of them, off does nothing",
        changes=True,
    ),
)

_BY_KEYWORD = {option.keyword: option for option in OPTIONS}


def validate(values: Mapping[str, object]) -> dict[str, Any]:
    """Return every option by its keyword, converted.

    What is missing from ``values`` gets its default.  The result may be
    validated again, and comes out the same.

    :param values: by the keywords of the pool's constructor.

    :raises sqlalchemy.exc.ArgumentError: a value is not allowed.

    """
    unknown = values.keys() - _BY_KEYWORD.keys()
    if unknown:
        raise TypeError(f"not options of the pool: {sorted(unknown)}")

    valid = {
        keyword: option.convert(values.get(keyword, option.default))
        for keyword, option in _BY_KEYWORD.items()
    }
    _check_sizes(valid)
    _settle_liveness(valid)
    return valid


def _check_sizes(valid: dict[str, Any]) -> None:
    size = valid["pool_size"]
    if size == 0:
        return
    if valid["max_overflow"] < -1:
        raise _BY_KEYWORD["max_overflow"].refuse(valid["max_overflow"])
    if valid["min_idle"] > size:
        raise _BY_KEYWORD["min_idle"].refuse(
            valid["min_idle"],
            f"a whole number from 0 to pool_size, which is {size}",
        )


def _settle_liveness(valid: dict[str, Any]) -> None:
    """Make pre_ping and liveness two words for one thing."""

    liveness = valid["liveness"]
    if liveness == "ping":
        valid["pre_ping"] = True
    elif valid["pre_ping"]:
        if not isinstance(liveness, DefaultText):
            raise _BY_KEYWORD["liveness"].refuse(
                liveness, "ping, since pool_pre_ping is true"
            )
        valid["liveness"] = "ping"


@dataclass(frozen=True)
class Settings:
    """The options that QueuePool does not have, validated.

    Times are seconds, None is "switched off".

    """

    reaping_frequency: float | None
    dead_connection_timeout: float | None
    max_age: float | None
    idle_timeout: float | None
    min_idle: int
    keepalive: float | None
    jitter: float
    liveness: Liveness
    reservation: Literal["explicit", "thread"]
    max_waiting: int | None
    max_connecting: int | None
    leak_timeout: float | None
    reclaim_timeout: float | None
    on_deadlock: Literal["warn", "raise", "off"]

    @classmethod
    def of(cls, validated: Mapping[str, Any]) -> Settings:
        """Pick them from what :func:`validate` returned."""

        return cls(**{f.name: validated[f.name] for f in fields(cls)})


def options_table() -> str:
    """Render the options as reStructuredText, for the documentation."""

    lines = [
        ".. list-table::",
        "   :header-rows: 1",
        "   :widths: auto",
        "",
    ]
    rows = [("option", "default", "meaning", "allowed")]
    for option in OPTIONS:
        name = f"``{option.name}``"
        if option.alias is not None:
            name += f", in a URL also ``{option.alias}``"
        default = str(option.default).lower()
        allowed = option.kind.allowed
        rows.append((name, f"``{default}``", option.meaning, allowed))
    for row in rows:
        for place, cell in enumerate(row):
            lead = "   * - " if place == 0 else "     - "
            lines.extend(
                textwrap.wrap(
                    cell,
                    79,
                    initial_indent=lead,
                    subsequent_indent=" " * len(lead),
                    break_on_hyphens=False,
                )
            )
    return "\n".join(lines) + "\n"

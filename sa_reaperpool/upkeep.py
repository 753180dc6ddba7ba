"""What to do with whom: decisions, and nothing else.

Plain functions of the entries, the settings and a time that is given to
them.  They do no I/O and take no lock; acting is the pool's part, and since
things move between the decision and the act, the pool claims each entry or
lease before it acts, and leaves it alone if somebody else has it.

All times are seconds on the monotonic clock.
"""

from __future__ import annotations

import enum
from operator import attrgetter
from typing import Iterable
from typing import Protocol
from typing import Sequence
from typing import TypeVar

from .options import Settings


class Aging(Protocol):
    """What a decision wants to know of an entry."""

    opened_at: float
    idle_since: float
    traffic_at: float
    spread: float
    outdated: str | None


class Leased(Protocol):
    """What a decision wants to know of a lease."""

    taken: float
    used: float
    quiet_since: float
    kept: bool
    leak_reported: bool

    @property
    def reserved(self) -> bool: ...

    def abandoned(self) -> bool: ...


_idle_since = attrgetter("idle_since")

E = TypeVar("E", bound=Aging)
L = TypeVar("L", bound=Leased)


class Act(enum.Enum):
    REAP = "reap"
    REPORT = "report"
    LOOK = "look"
    WATCH = "watch"
    RECLAIM = "reclaim"


def outlived(entry: Aging, settings: Settings, now: float) -> str | None:
    """Why this connection may not be kept, or None."""
    if entry.outdated:
        return entry.outdated
    if settings.max_age is not None:
        if now - entry.opened_at >= settings.max_age * (1 - entry.spread):
            return "age"
    return None


def judge_idle(
    entries: Sequence[E], settings: Settings, now: float
) -> list[tuple[E, str | None]]:
    """Which idle entries to close, with the reason, and which to ping.

    :param entries: the idle ones.

    :return: pairs of an entry and the reason to close it, longest idle
     first; None for a reason means that it is to be pinged.

    """
    # all of them floats, for which the interpreter has shorter ways
    max_age = _float(settings.max_age)
    idle_timeout = _float(settings.idle_timeout)
    keepalive = _float(settings.keepalive)
    aged: list[E] = []
    unused: list[E] = []
    quiet: list[E] = []
    # There may be thousands, of which few are due: one pass, in which the
    # rules stand as they are below, but for the cost of calls.
    for entry in entries:
        if entry.outdated or (
            max_age is not None
            and now - entry.opened_at >= max_age * (1.0 - entry.spread)
        ):
            aged.append(entry)
        elif idle_timeout is not None and (
            now - entry.idle_since >= idle_timeout
        ):
            unused.append(entry)
        elif keepalive is not None and (
            now - entry.traffic_at >= keepalive * (1.0 - entry.spread)
        ):
            quiet.append(entry)
    for found in (aged, unused, quiet):
        found.sort(key=_idle_since)

    spare = max(0, len(entries) - len(aged) - settings.min_idle)
    verdicts: list[tuple[E, str | None]] = [
        (entry, outlived(entry, settings, now)) for entry in aged
    ]
    verdicts += [(entry, "idle") for entry in unused[:spare]]
    # what has to stay has been idle for longer than what is quiet only
    verdicts += [
        (entry, None)
        for entry in unused[spare:]
        if _is_quiet(entry, settings, now)
    ]
    verdicts += [(entry, None) for entry in quiet]
    return verdicts


def still_due(
    entry: Aging, reason: str | None, settings: Settings, now: float
) -> bool:
    """Is what :func:`.judge_idle` found of an idle entry true still?"""
    if reason is None:
        return True
    if reason == "idle" and settings.idle_timeout is not None:
        return now - entry.idle_since >= settings.idle_timeout
    return outlived(entry, settings, now) is not None


def _float(seconds: float | None) -> float | None:
    return None if seconds is None else float(seconds)


def _is_quiet(entry: Aging, settings: Settings, now: float) -> bool:
    if settings.keepalive is None:
        return False
    patience = settings.keepalive * (1 - entry.spread)
    return now - entry.traffic_at >= patience


def missing(
    idle: int, live: int, limit: int | None, settings: Settings
) -> int:
    """How many connections to open so that min_idle are idle."""
    wanted = settings.min_idle - idle
    if limit is not None:
        wanted = min(wanted, limit - live)
    return max(0, wanted)


def judge_leases(
    leases: Iterable[L], settings: Settings, now: float
) -> tuple[list[tuple[L, Act]], float | None]:
    """Which leases to act on, and when to judge again at the latest.

    :return: the pairs of lease and what to do: ``REAP`` it, ``REPORT`` it
     as a leak, ``LOOK`` whether its server is still there, ``WATCH``
     whether it is quiet, or ``RECLAIM`` it since it has been quiet for
     long; and the time at which the next one of those may be due, looks at
     the server aside, or None if there is none.

    """
    verdicts: list[tuple[L, Act]] = []
    grace = settings.dead_connection_timeout
    leak = settings.leak_timeout
    patience = settings.reclaim_timeout
    # of leases that begin meanwhile nobody is told
    first_look = None if patience is None else patience / 4
    later = [now + each for each in (leak, first_look) if each is not None]
    for lease in leases:
        if lease.kept:
            continue
        reaped = False
        if grace is None:
            pass
        elif lease.abandoned():
            # a reservation is not handed on
            due = lease.used + (0.0 if lease.reserved else grace)
            reaped = due <= now
            if reaped:
                verdicts.append((lease, Act.REAP))
            else:
                later.append(due)
        elif lease.used + grace <= now:
            verdicts.append((lease, Act.LOOK))
        if leak is not None and not lease.leak_reported:
            due = lease.taken + leak
            if due <= now:
                verdicts.append((lease, Act.REPORT))
            else:
                later.append(due)
        if patience is not None:
            act, due = _next_of_reclaim(lease, patience)
            if due > now:
                later.append(due)
            elif not reaped:
                verdicts.append((lease, act))
    return verdicts, min(later, default=None)


def _next_of_reclaim(lease: Leased, patience: float) -> tuple[Act, float]:
    """What is to be done about a lease that is not used, and when."""
    used, quiet_since = lease.used, lease.quiet_since
    if quiet_since <= used:
        # The end of its last command was not seen.  From this look on
        # there is none that could end, without a use.
        return Act.WATCH, used + patience / 4
    return Act.RECLAIM, quiet_since + patience


def backoff(failures: int, random: float) -> float:
    """Seconds until the next attempt to open a connection.

    :param failures: how many failed in a row, at least 1.

    :param random: from 0 to 1; spreads many processes over the interval.

    """
    return float(min(0.5 * 2 ** min(failures - 1, 16), 30.0)) * (
        0.5 + random / 2
    )

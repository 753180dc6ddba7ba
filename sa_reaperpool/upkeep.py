"""What to do with whom: decisions, and nothing else.

Plain functions of the entries, the settings and a time that is given to
them.  They do no I/O and take no lock; acting is the pool's part, and since
things move between the decision and the act, the pool claims each entry or
lease before it acts, and leaves it alone if somebody else has it.

All times are seconds on the monotonic clock.
"""

from __future__ import annotations

import enum
from typing import Iterable
from typing import Iterator
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
    verdicts: list[tuple[E, str | None]] = []
    kept = []
    for entry in sorted(entries, key=lambda entry: entry.idle_since):
        reason = outlived(entry, settings, now)
        if reason:
            verdicts.append((entry, reason))
        else:
            kept.append(entry)

    if settings.idle_timeout is not None:
        spare = max(0, len(kept) - settings.min_idle)
        for entry in kept[:spare]:
            if now - entry.idle_since < settings.idle_timeout:
                break
            verdicts.append((entry, "idle"))
        kept = kept[sum(reason == "idle" for _, reason in verdicts) :]

    if settings.keepalive is not None:
        for entry in kept:
            patience = settings.keepalive * (1 - entry.spread)
            if now - entry.traffic_at >= patience:
                verdicts.append((entry, None))
    return verdicts


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
    # of leases that begin meanwhile nobody is told
    later = [
        now + seconds
        for seconds in (settings.leak_timeout, _first_look(settings))
        if seconds is not None
    ]
    for lease in leases:
        if lease.kept:
            continue
        reaped = False
        for act, due in _acts(lease, settings):
            if due > now:
                if act is not Act.LOOK:
                    later.append(due)
            elif not (reaped and act in (Act.WATCH, Act.RECLAIM)):
                verdicts.append((lease, act))
                reaped = reaped or act is Act.REAP
    return verdicts, min(later, default=None)


def _first_look(settings: Settings) -> float | None:
    """Seconds after its last use when a lease is looked at first."""
    timeout = settings.reclaim_timeout
    return None if timeout is None else timeout / 4


def _acts(lease: Leased, settings: Settings) -> Iterator[tuple[Act, float]]:
    """What is to be done about a lease as it is, and when."""
    grace = settings.dead_connection_timeout
    if grace is not None:
        if lease.abandoned():
            # a reservation is not handed on
            yield Act.REAP, lease.used + (0.0 if lease.reserved else grace)
        else:
            yield Act.LOOK, lease.used + grace
    if settings.leak_timeout is not None and not lease.leak_reported:
        yield Act.REPORT, lease.taken + settings.leak_timeout
    first_look = _first_look(settings)
    if settings.reclaim_timeout is not None and first_look is not None:
        if lease.quiet_since <= lease.used:
            # The end of its last command was not seen.  From this look on
            # there is none that could end, without a use.
            yield Act.WATCH, lease.used + first_look
        else:
            yield Act.RECLAIM, lease.quiet_since + settings.reclaim_timeout


def backoff(failures: int, random: float) -> float:
    """Seconds until the next attempt to open a connection.

    :param failures: how many failed in a row, at least 1.

    :param random: from 0 to 1; spreads many processes over the interval.

    """
    return float(min(0.5 * 2 ** min(failures - 1, 16), 30.0)) * (
        0.5 + random / 2
    )

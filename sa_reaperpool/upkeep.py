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
     as a leak, or ``LOOK`` whether its server is still there; and the time
     at which the next abandoned lease is due, or None if there is none.

    """
    verdicts: list[tuple[L, Act]] = []
    next_due: float | None = None
    grace = settings.dead_connection_timeout
    for lease in leases:
        if lease.kept:
            continue
        if grace is not None:
            due = lease.used + grace
            if lease.abandoned():
                # a reservation is not handed on
                if due <= now or lease.reserved:
                    verdicts.append((lease, Act.REAP))
                elif next_due is None or due < next_due:
                    next_due = due
            elif due <= now:
                verdicts.append((lease, Act.LOOK))
        if (
            settings.leak_timeout is not None
            and not lease.leak_reported
            and now - lease.taken > settings.leak_timeout
        ):
            verdicts.append((lease, Act.REPORT))
    return verdicts, next_due


def backoff(failures: int, random: float) -> float:
    """Seconds until the next attempt to open a connection.

    :param failures: how many failed in a row, at least 1.

    :param random: from 0 to 1; spreads many processes over the interval.

    """
    return float(min(0.5 * 2 ** min(failures - 1, 16), 30.0)) * (
        0.5 + random / 2
    )

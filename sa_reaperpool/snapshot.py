"""A pool at one moment: what reports, pages and exporters are made of.

It is taken without a lock, and without a step that waits for anybody, so
that a signal's handler may take one in the midst of anything, the pool's
own critical sections included.  Each collection is copied in one step.  An
entry that moves between two of these copies is seen in transit, and never
twice: the live entries say which there are, the other copies only where.

All times are seconds.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from operator import attrgetter
from time import time
from typing import TYPE_CHECKING
from typing import Mapping
from typing import Sequence

from . import fork
from . import liveness
from .adapter import Entry
from .callers import Line
from .callers import Writing
from .lease import Lease
from .lease import LeaseInfo
from .lease import describe
from .place import Place
from .stats import Closed
from .stats import Stats
from .stats import counted
from .stats import seen
from .waiter import Waiter

if TYPE_CHECKING:
    from .pool import ReaperPool


SHOWN = 50
"""So many connections in use, and threads that wait, are shown one by one;
of what is idle or in transit a fifth of that.  The rest is counted."""

_LINES = 10
"""So many lines of the application are shown."""

_Site = tuple[int, int]
"""A place in the application's code: the id of that, and where in it."""


@dataclasses.dataclass(frozen=True)
class ConnectionInfo:
    """A connection as it was."""

    state: str
    """``in use``; ``idle``; ``opening``; or ``in transit``: being checked,
    handed over, reset or closed."""

    seconds: float | None
    """For how long it has been in that state, if that is known."""

    age: float | None
    """How long ago it was opened, if it is open."""

    lease: LeaseInfo | None = None
    """Who has it, if it is in use."""

    reserved: bool = False
    """Is it one thread's alone?"""

    disposed: bool = False
    """Was it out at a ``dispose()``, so that it counts no more?"""


@dataclasses.dataclass(frozen=True)
class WaitingInfo:
    """A thread that waits."""

    thread: str | None
    """Its name, if that is known."""

    seconds: float
    label: str | None
    where: str | None
    """The application's line that asks."""

    connects: bool
    """Has it a place, and waits for its turn to connect?"""


@dataclasses.dataclass(frozen=True)
class LineInfo:
    """A line of the application, and how many connections it has, or how
    many threads wait there."""

    where: str
    label: str | None
    count: int
    seconds: float
    """The longest of these."""


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """A pool as it was."""

    name: str
    at: float
    """When, in seconds since 1970."""

    stats: Stats
    connections: tuple[ConnectionInfo, ...]
    """Those in use, longest held first; those in transit; and the idle
    ones, longest idle first."""

    waiting: tuple[WaitingInfo, ...]
    """Longest waiting first."""

    holding_lines: tuple[LineInfo, ...]
    """Where all that are in use were taken, most first."""

    waiting_lines: tuple[LineInfo, ...]
    """Where all who wait do so, most first."""

    disposed: int = 0
    """Connections that were out at a ``dispose()``; ``stats.in_use`` is
    without them."""

    shut: bool = False
    over: bool = False
    """Was it disposed of, or shut down, and has nothing left?"""

    connect_error: str | None = None
    """The newest, without passwords, if nothing was opened since."""

    failed_ago: float = 0.0


def take(pool: ReaperPool, now: float, shown: int | None = SHOWN) -> Snapshot:
    """The pool as it is now; anywhere, any time.

    :param now: on the monotonic clock.

    :param shown: see :data:`.SHOWN`; None for all.

    """
    leases, live, idle, line = _copies(pool)
    leases.sort(key=attrgetter("taken"))
    entries = [id(lease.entry) for lease in leases]
    leased = set(entries)
    places = {id(entry) for entry in idle}
    moving = [
        entry
        for key, entry in live.items()
        if key not in leased and key not in places
    ]
    resting = [
        entry
        for entry in idle
        if entry.connected and id(entry) in live and id(entry) not in leased
    ]
    resting.sort(key=attrgetter("idle_since"))
    waiters = [waiter for waiter in line if waiter.entry is None]
    waiters.sort(key=attrgetter("since"))
    disposed = len(entries) - sum(map(live.__contains__, entries))
    few = None if shown is None else -(-shown // 5)
    error = pool._exhaustion.connect_error
    stats = statistics(
        pool,
        idle=len(resting),
        in_use=len(leases) - disposed,
        opening=len(moving),
        waiting=len(waiters),
    )
    empty = not (leases or live or waiters)
    write = Writing()
    return Snapshot(
        name=name_of(pool),
        at=time(),
        stats=stats,
        connections=(
            *(
                _in_use(pool, each, now, live, write)
                for each in leases[:shown]
            ),
            *(_in_transit(entry, now) for entry in moving[:few]),
            *(_idle(entry, now) for entry in resting[:few]),
        ),
        waiting=tuple(
            _waits(waiter, now, write) for waiter in waiters[:shown]
        ),
        holding_lines=_lines(
            [(lease.line, lease.label, lease.taken) for lease in leases],
            now,
            write,
        ),
        waiting_lines=_lines(
            [
                (waiter.line, waiter.label, waiter.since)
                for waiter in waiters
                if isinstance(waiter, Place)
            ],
            now,
            write,
        ),
        disposed=disposed,
        shut=pool.queue.closed,
        over=empty
        and not pool.started
        and (stats.opened > 0 or pool.history.is_over_for(pool)),
        connect_error=None if error is None else error[0],
        failed_ago=0.0 if error is None else max(0.0, now - error[1]),
    )


def name_of(pool: ReaperPool) -> str:
    """What a pool is called: its ``logging_name``, or else by its dialect,
    and the number that it has among the process's pools."""
    given = pool.given_name
    if given is not None:
        return given
    kind = pool.dialect_in_use.name if pool.has_dialect else "pool"
    return f"{kind}-{fork.number(pool)}"


def _copies(
    pool: ReaperPool,
) -> tuple[list[Lease], dict[int, Entry], list[Entry], list[Waiter]]:
    """The leases, the live entries by id, the idle ones, and who waits.

    Each is copied in one step, in which neither another thread nor the
    garbage collector, and with that a finaliser, comes between.
    """
    queue = pool.queue
    leases = list(pool._leases.values())
    refs = list(queue._live.values())
    idle = list(queue.queue)
    line = [*queue._waiters.copy(), *queue._makers.copy()]
    live = {id(entry): entry for ref in refs if (entry := ref()) is not None}
    return leases, live, idle, line


def _in_use(
    pool: ReaperPool,
    lease: Lease,
    now: float,
    live: Mapping[int, Entry],
    write: Writing,
) -> ConnectionInfo:
    entry = lease.entry
    connection = entry.driver_connection
    open_one = None
    if pool.may_look_into(connection):
        open_one = liveness.in_transaction(connection)
    info = describe(lease, now, open_one, write)
    return ConnectionInfo(
        "in use",
        info.held_for,
        _age(entry, now),
        info,
        reserved=lease.reserved,
        disposed=id(entry) not in live,
    )


def _in_transit(entry: Entry, now: float) -> ConnectionInfo:
    since = entry.connecting_since
    if since:
        return ConnectionInfo("opening", max(0.0, now - since), None)
    if entry.connected:
        return ConnectionInfo("in transit", None, _age(entry, now))
    return ConnectionInfo("opening", None, None)


def _idle(entry: Entry, now: float) -> ConnectionInfo:
    rested = max(0.0, now - entry.idle_since)
    return ConnectionInfo("idle", rested, _age(entry, now))


def _age(entry: Entry, now: float) -> float | None:
    opened = entry.opened_at
    return max(0.0, now - opened) if opened else None


def _waits(waiter: Waiter, now: float, write: Writing) -> WaitingInfo:
    waited = max(0.0, now - waiter.since)
    connects = waiter.own is not None
    if not isinstance(waiter, Place):
        return WaitingInfo(None, waited, None, None, connects)
    where = write(waiter.line)
    name = waiter.holder.name
    return WaitingInfo(name, waited, waiter.label, where, connects)


def _lines(
    taken: Sequence[tuple[Line | None, str | None, float]],
    now: float,
    write: Writing,
) -> tuple[LineInfo, ...]:
    """Count by line and label, and write those that are shown.

    There may be as many labels as there are leases: what is done for each
    of these is done by functions that are built in, as far as can be.

    :param taken: line, label and since when; oldest first.

    """
    if not taken:
        return ()
    lines, labels, _ = zip(*taken)
    # by the code's id, as to hash it is to hash all that is in it
    sites = [line and (id(line[0]), line[1]) for line in lines]
    known = dict(zip(sites, lines))
    same = _of_one_line(known, write)
    if same:
        sites = [same.get(site, site) for site in sites]
    keys = list(zip(sites, labels))
    oldest = dict(zip(reversed(keys), reversed(taken)))
    return tuple(
        LineInfo(write(known[site]), label, count, max(0.0, now - since))
        # of those with the same count, the oldest first
        for (site, label), count in Counter(keys).most_common(_LINES)
        for _, _, since in [oldest[site, label]]
    )


def _of_one_line(
    known: Mapping[_Site | None, Line | None], write: Writing
) -> dict[_Site | None, _Site]:
    """Which are places of the same line as another one, and as which."""
    functions: dict[tuple[str, str], list[tuple[_Site, Line]]] = {}
    for site, line in known.items():
        if site is not None and line is not None:
            function = (line[0].co_filename, line[0].co_name)
            functions.setdefault(function, []).append((site, line))
    same: dict[_Site | None, _Site] = {}
    for places in functions.values():
        if len(places) > 1:
            first: dict[int, _Site] = {}
            for site, line in places:
                other = first.setdefault(write.number(line), site)
                if other != site:
                    same[site] = other
    return same


def statistics(pool: ReaperPool, **present: int) -> Stats:
    """The statistics, with what is counted since the start.

    :param present: what there is at this moment.

    """
    queue = pool.queue
    totals = seen(pool._tally)
    return Stats(
        size=queue.maxsize,
        limit=queue.limit,
        checkouts=counted(pool.checkouts),
        waits=queue.waits,
        waited=queue.waited,
        longest_wait=queue.longest_wait,
        timeouts=totals.pop("timeouts", 0),
        opened=totals.pop("opened", 0),
        connect_failures=totals.pop("connect_failures", 0),
        closed=Closed(
            {
                event.removeprefix("closed "): count
                for event, count in totals.items()
            }
        ),
        **present,
    )

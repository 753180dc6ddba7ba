"""What the comparison's record says: figures, a table, and sentences.

Plain functions of the logs.  Nothing in here prefers a pool.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import variance
from typing import NamedTuple

from .compare_work import BARE
from .compare_work import FIELDS
from .compare_work import MIXED
from .compare_work import Log
from .words import one_line

POOLS = ("QueuePool", "ReaperPool")

TITLES = {
    MIXED: "Mixed work",
    BARE: "Connections held for no time",
}

# percent; less is not worth a word
_ALIKE = 3

# percent; a difference that may be off by more is none to be told
_VAGUE = 40


@dataclass(frozen=True)
class Figures:
    """One pool's, of one part of the work, over all rounds."""

    rate: float
    """Connections given back in a second: transactions, of mixed work."""

    rates: tuple[float, ...]
    """The same of each round."""

    median: float
    late: float
    """What 99 of a hundred waits do not exceed."""

    longest: float
    shares: float
    """How often the least served thread was served for each time that the
    most served one was: the mean of the rounds."""

    refused: int
    failed: int

    whole: float
    """Seconds of a round."""


def logs_of(logs: Iterable[Log], pool: str, part: str) -> list[Log]:
    return [log for log in logs if (log.pool, log.part) == (pool, part)]


def figures(logs: Sequence[Log]) -> Figures:
    """Of one pool and one part."""

    waits = sorted(
        wait for log in logs for own in waits_by_thread(log) for wait in own
    )
    served = [_served(log) for log in logs]
    rates = tuple(
        sum(counts) / log.seconds for counts, log in zip(served, logs)
    )
    return Figures(
        rate=_mean(rates),
        rates=rates,
        median=quantile(waits, 0.5),
        late=quantile(waits, 0.99),
        longest=waits[-1] if waits else 0,
        shares=_mean([min(counts) / max(max(counts), 1) for counts in served]),
        refused=sum(log.refused.total() for log in logs),
        failed=sum(log.failed.total() for log in logs),
        whole=min((log.seconds for log in logs), default=0),
    )


def waits_by_thread(log: Log) -> list[list[float]]:
    """How long each thread waited; who got nothing has waited, too."""

    return [
        [got - asked for asked, got in zip(own[0::FIELDS], own[1::FIELDS])]
        for own in log.visits
    ]


def _served(log: Log) -> list[int]:
    # what is done beyond the end was not done in the time
    return [
        sum(
            1
            for done, lane in zip(own[2::FIELDS], own[3::FIELDS])
            if lane and done <= log.end
        )
        for own in log.visits
    ]


def quantile(ordered: Sequence[float], part: float) -> float:
    if not ordered:
        return 0
    place = math.ceil(part * len(ordered)) - 1
    return ordered[min(max(place, 0), len(ordered) - 1)]


def _mean(numbers: Sequence[float]) -> float:
    return sum(numbers) / len(numbers) if numbers else 0


# the table


class Section(NamedTuple):
    """A part of the table: its title, and a row for each figure."""

    title: str
    rows: list[tuple[str, ...]]
    """Its name, and a cell for each pool."""


def sections(logs: Sequence[Log]) -> list[Section]:
    return [_section(logs, part) for part in (MIXED, BARE)]


def _section(logs: Sequence[Log], part: str) -> Section:
    found = [figures(logs_of(logs, pool, part)) for pool in POOLS]
    what = "transactions/s" if part == MIXED else "checkouts/s"
    cells: dict[str, Callable[[Figures], str]] = {
        what: lambda f: f"{f.rate:,.0f}",
        "wait, median": lambda f: short(f.median),
        "wait, p99": lambda f: short(f.late),
        "wait, longest": lambda f: short(f.longest),
        "least by most served thread": lambda f: f"{f.shares:.2f}",
        "failed checkouts": lambda f: f"{f.refused:,}",
    }
    if part == MIXED:
        cells["failed transactions"] = lambda f: f"{f.failed:,}"
    return Section(
        TITLES[part],
        [(name, *map(cell, found)) for name, cell in cells.items()],
    )


def short(seconds: float) -> str:
    """A time of three digits at most, with its unit."""

    for unit, size in (("s", 1.0), ("ms", 1e-3), ("\u00b5s", 1e-6)):
        if seconds >= 0.9995 * size or size == 1e-6:
            value = seconds / size
            if value < 9.995:
                return f"{value:.2f} {unit}"
            return f"{value:.{0 if value >= 99.95 else 1}f} {unit}"
    raise AssertionError


# sentences


def verdict(logs: Sequence[Log]) -> Iterator[str]:
    """Say in words what the table does not, for or against either."""

    for part in (MIXED, BARE):
        queue, reaper = (figures(logs_of(logs, p, part)) for p in POOLS)
        yield " ".join(_compared(part, queue, reaper))
    for pool in POOLS:
        reasons: Counter[str] = Counter()
        for log in logs:
            if log.pool == pool:
                reasons += log.failed + log.refused
        for reason, count in reasons.most_common(2):
            times = "once" if count == 1 else f"{count:,} times"
            yield f"{pool} failed {times}: {one_line(reason, 200)}"


def _compared(part: str, queue: Figures, reaper: Figures) -> Iterator[str]:
    title = TITLES[part]
    if not queue.rate or not reaper.rate:
        for pool, own in zip(POOLS, (queue, reaper)):
            if not own.rate:
                yield f"{title}: nothing came through with {pool}."
        return
    more = 100 * (reaper.rate / queue.rate - 1)
    margin = _margin(queue, reaper)
    what = "transactions" if part == MIXED else "checkouts"
    if abs(more) <= margin and margin > _VAGUE:
        yield (
            f"{title}: the rounds were too few, or differed too much, to "
            f"tell which pool did more {what}; a longer run may."
        )
    elif abs(more) < _ALIKE:
        yield (
            f"{title}: ReaperPool and QueuePool did as many {what}, give or "
            f"take {margin:.0f} %."
        )
    else:
        word = "more" if more > 0 else "fewer"
        yield (
            f"{title}: ReaperPool did {abs(more):.0f} % {word} {what} than "
            f"QueuePool, give or take {margin:.0f} %"
        ) + (
            ": that says little, a longer run says more."
            if abs(more) <= margin
            else "."
        )
    yield (
        f"Its longest wait was {_longest(reaper)}, QueuePool's "
        f"{_longest(queue)}; its least served thread got "
        f"{100 * reaper.shares:.0f} % of what its most served one got, "
        f"QueuePool's {100 * queue.shares:.0f} %."
    )


def _margin(queue: Figures, reaper: Figures) -> float:
    """How far off the difference may be, in percent: where the same rounds
    were run again and again, it would mostly be within that.

    The two pools' rounds of one number had the same work, one soon after the
    other, so that these are compared with each other.

    """
    ratios = [
        ours / theirs
        for ours, theirs in zip(reaper.rates, queue.rates)
        if theirs
    ]
    rounds = len(ratios)
    if rounds < 2:
        return 100
    # Student's, for 19 of 20 cases
    factor = {2: 12.7, 3: 4.3, 4: 3.18, 5: 2.78, 6: 2.57}.get(rounds, 2.4)
    return 100 * factor * math.sqrt(variance(ratios) / rounds)


def _longest(own: Figures) -> str:
    if own.longest < 0.9 * own.whole:
        return short(own.longest)
    return f"{short(own.longest)} (all the time that there was)"


# timelines


class Hold(NamedTuple):
    """Who held a connection when, in seconds from a window's beginning."""

    lane: int
    thread: int
    begin: float
    end: float


class Window(NamedTuple):
    """A slice of the midst of a pool's middle round."""

    pool: str
    seconds: float
    lanes: list[int]
    """The connections that the round had."""

    holds: list[Hold]


def windows(
    logs: Sequence[Log], part: str, seconds: float, most: int
) -> list[Window]:
    """Of each pool, of the same length.

    :param seconds: at most.

    :param most: holds in each.

    """
    chosen = []
    for pool in POOLS:
        own = logs_of(logs, pool, part)
        if own:
            chosen.append(own[len(own) // 2])
    seconds = min([seconds, *(log.seconds for log in chosen)])
    while True:
        found = [window(log, seconds) for log in chosen]
        if all(len(each.holds) <= most for each in found):
            return found
        seconds /= 2


def window(log: Log, seconds: float) -> Window:
    begin = log.began + (log.seconds - seconds) / 2
    lanes: set[int] = set()
    holds = []
    for number, own in enumerate(log.visits, 1):
        for place in range(0, len(own), FIELDS):
            _, got, done, lane = own[place : place + FIELDS]
            if not lane:
                continue
            lanes.add(int(lane))
            if done > begin and got < begin + seconds:
                holds.append(
                    Hold(
                        int(lane),
                        number,
                        max(got - begin, 0),
                        min(done - begin, seconds),
                    )
                )
    holds.sort(key=lambda hold: (hold.lane, hold.begin))
    return Window(log.pool, seconds, sorted(lanes), holds)

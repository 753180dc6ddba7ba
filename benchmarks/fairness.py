"""Many threads on few connections: who is served, who waits, how much goes.

::

    python -m benchmarks.fairness            # on a stub driver
    python -m benchmarks.fairness URL        # on a database

QueuePool and ReaperPool take turns, so that whatever else the machine does
meets both; throughput is given as the median of the pairs' ratios.  How late
the machine was meanwhile is told beside the longest waits (machine.py); with
``--late`` only rounds count in which it was no later than that, which is a
sleeping process's word and not a pool's.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from array import array
from collections.abc import Sequence
from typing import Any
from typing import Callable
from typing import Iterator
from typing import NamedTuple

from sqlalchemy import create_engine
from sqlalchemy import make_url
from sqlalchemy.pool import QueuePool

from sa_reaperpool import ReaperPool

from .crowd import crowd
from .machine import Machine


class Result(NamedTuple):
    """A round of a pool."""

    per_second: float
    evenness: float
    """The least served thread's checkouts by the most served one's."""
    longest: float
    """The longest wait, in seconds."""
    served: Sequence[int]
    """Checkouts, by thread."""
    waits: Sequence[Sequence[float]]
    """The seconds that each of them took, by thread."""
    late: float | None
    """By how many seconds the machine was late meanwhile, at most."""
    stolen: float | None
    """The part of its time that its host gave to others."""

    def within(self, late: float | None) -> bool:
        """Was the machine late by so many seconds at most?"""
        return late is None or (self.late is not None and self.late <= late)


class StubConnection:
    def rollback(self) -> None:
        pass

    def close(self) -> None:
        pass


def pool_on(url: str | None, poolclass: type[QueuePool], size: int) -> Any:
    if url is None:
        return poolclass(StubConnection, pool_size=size, max_overflow=0)
    engine = create_engine(
        make_url(url), poolclass=poolclass, pool_size=size, max_overflow=0
    )
    return engine.pool


def measure(
    pool: Any, threads: int, hold: float, seconds: float
) -> Result:
    def step(waited: array[float]) -> None:
        asked = time.perf_counter()
        connection = pool.connect()
        waited.append(time.perf_counter() - asked)
        if hold:
            time.sleep(hold)
        connection.close()

    with Machine() as machine:
        waits, took = crowd(threads, seconds, step)
    served = [len(waited) for waited in waits]
    return Result(
        sum(served) / took,
        min(served) / max(served),
        max(max(waited, default=0.0) for waited in waits),
        served,
        waits,
        machine.late,
        machine.stolen,
    )


def warm(pool: Any, size: int) -> None:
    """Open all connections, so that no round measures connects."""
    for connection in [pool.connect() for _ in range(size)]:
        connection.close()


class Pair(NamedTuple):
    """A round of each."""

    stock: Result
    ours: Result

    @property
    def ratio(self) -> float:
        return self.ours.per_second / self.stock.per_second


def compare(
    make: Callable[[type[QueuePool]], Any], arguments: argparse.Namespace
) -> Iterator[Pair]:
    """Pairs of rounds, for as long as they are asked for."""
    for number in itertools.count():
        results = {}
        pools: list[type[QueuePool]] = [QueuePool, ReaperPool]
        for poolclass in pools[:: -1 if number % 2 else 1]:
            pool = make(poolclass)
            warm(pool, arguments.size)
            results[poolclass] = measure(
                pool,
                arguments.threads,
                arguments.hold / 1000,
                arguments.seconds,
            )
            pool.dispose()
        yield Pair(results[QueuePool], results[ReaperPool])


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fairness", description=__doc__
    )
    parser.add_argument("url", nargs="?", help="default: a stub driver")
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--size", type=int, default=4, help="connections")
    parser.add_argument(
        "--hold", type=float, default=1.0, help="milliseconds"
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="a round")
    parser.add_argument("--rounds", type=int, default=5, help="that count")
    parser.add_argument(
        "--late",
        type=float,
        help="milliseconds that the machine may be late in a round that "
        "counts; without it all do",
    )
    parser.add_argument(
        "--most", type=int, default=100, help="rounds, counting or not"
    )
    arguments = parser.parse_args()

    late = None if arguments.late is None else arguments.late / 1000
    pairs = []
    for pair in compare(
        lambda poolclass: pool_on(arguments.url, poolclass, arguments.size),
        arguments,
    ):
        pairs.append(pair)
        counting = [each for each in pairs if each.ours.within(late)]
        if len(counting) >= arguments.rounds or len(pairs) >= arguments.most:
            break
    ideal = arguments.threads / arguments.size * arguments.hold
    print(
        f"{arguments.threads} threads on {arguments.size} connections, "
        f"{arguments.hold:g} ms hold, rounds of {arguments.seconds:g} s, "
        f"of which {len(counting)} of {len(pairs)} count"
    )
    if counting:
        _print_waits(counting, ideal)
    both = [pair for pair in counting if pair.stock.within(late)]
    if both:
        ratios = [pair.ratio for pair in both]
        print(
            f"throughput: {statistics.median(ratios):.3f} of QueuePool's "
            f"(from {min(ratios):.3f} to {max(ratios):.3f}, {len(both)} "
            "rounds of each)"
        )
    for number, pair in enumerate(pairs, 1):
        print(
            f"  round {number}: {pair.ours.longest * 1000:.1f} ms, the "
            f"machine {_late(pair.ours)}; throughput {pair.ratio:.3f}, "
            f"QueuePool's with the machine {_late(pair.stock)}"
        )


def _late(result: Result) -> str:
    late = "" if result.late is None else f"{result.late * 1000:.1f} ms late"
    stolen = (
        "" if result.stolen is None else f"{result.stolen * 100:.1f} % stolen"
    )
    return ", ".join(filter(None, (late, stolen))) or "unwatched"


def _print_waits(pairs: Sequence[Pair], ideal: float) -> None:
    """Of what counts.

    :param ideal: milliseconds that each waits if all are served in turn.

    """
    stock = [pair.stock for pair in pairs]
    ours = [pair.ours for pair in pairs]
    print(
        f"{'':12}{'checkouts/s':>12}{'least/most':>12}{'longest wait':>16}"
    )
    for name, results in (("QueuePool", stock), ("ReaperPool", ours)):
        longest = [result.longest * 1000 for result in results]
        print(
            f"{name:12}"
            f"{statistics.median(r.per_second for r in results):12.0f}"
            f"{statistics.median(r.evenness for r in results):12.3f}"
            f"{statistics.median(longest):13.1f} ms"
        )
    if ideal:
        waits = [result.longest * 1000 / ideal for result in ours]
        print(
            f"ReaperPool's longest wait: {statistics.median(waits):.1f} "
            f"times threads/connections x hold (from {min(waits):.1f} to "
            f"{max(waits):.1f})"
        )


if __name__ == "__main__":
    main()

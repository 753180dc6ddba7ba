"""What a report costs, in a pool that is as full as one ever is.

    python -m benchmarks.report [CONNECTIONS] [WAITING]

By default 1,000 connections in use and 1,000 threads that wait: the time of
a snapshot, of its text, and of a report of all pools as a signal writes it;
then of one with a line for each.  Best and median of 200, in milliseconds.
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
from typing import Callable

import sa_reaperpool
from sa_reaperpool import ReaperPool
from sa_reaperpool.report import render

from . import stub_driver

TIMES = 200


def full_pool(connections: int, waiting: int) -> ReaperPool:
    pool = ReaperPool(
        stub_driver.connect,
        pool_size=connections,
        max_overflow=0,
        timeout=None,
        reaping_frequency=None,
        on_deadlock="off",
    )
    taken = threading.Barrier(connections + 1)

    def hold() -> None:
        with sa_reaperpool.label("GET /orders"):
            held.append(pool.connect())
        taken.wait()
        end.wait()

    def wait() -> None:
        pool.connect()

    held: list[object] = []
    end = threading.Event()
    threading.stack_size(256 * 1024)
    for number in range(connections):
        threading.Thread(
            target=hold, name=f"web-{number}", daemon=True
        ).start()
    taken.wait()
    for number in range(waiting):
        threading.Thread(
            target=wait, name=f"wait-{number}", daemon=True
        ).start()
    while pool.queue.waiting() < waiting:
        time.sleep(0.01)
    return pool


def timed(what: str, function: Callable[[], object]) -> None:
    times = []
    for _ in range(TIMES):
        began = time.perf_counter()
        function()
        times.append((time.perf_counter() - began) * 1000)
    median = statistics.median(times)
    print(f"{what:<28} best {min(times):6.2f} ms   median {median:6.2f} ms")


def main() -> None:
    given = [int(each) for each in sys.argv[1:3]]
    connections, waiting = (given + [1000, 1000][len(given) :])[:2]
    pool = full_pool(connections, waiting)
    print(f"{connections} connections in use, {waiting} threads wait")
    snapshot = pool.snapshot()
    timed("snapshot", pool.snapshot)
    timed("its text", lambda: render(snapshot))
    timed("pool.report()", pool.report)
    timed("sa_reaperpool.report()", sa_reaperpool.report)
    timed("pool.report(None)", lambda: pool.report(None))
    timed("pool.stats()", pool.stats)


if __name__ == "__main__":
    main()

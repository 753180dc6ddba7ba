"""200 greenlets on 5 connections: who is served, and what the hub waits for.

::

    python -m benchmarks.greenlets           # on a stub driver
    python -m benchmarks.greenlets URL       # on a database, with psycopg2

A greenlet that does not switch keeps all others from running.  Each stretch
without a switch is timed in which the pool runs: in its calls, and in the
greenlets that its reaper and its helpers are.  The longest of them is for
how long the pool has blocked the hub.  Where the thread has not given up the
processor by itself in that time, for a lock, a sleep or I/O, only processor
time counts: a busy machine takes the processor away at any moment.

A greenlet that only sleeps a millisecond at a time says how late it was
woken.  The same work without a pool, on a semaphore and a list, takes turns
with it, and meets whatever else the machine does.
"""

# ruff: noqa: E402
from gevent import monkey

monkey.patch_all()

import argparse
import contextlib
import os
import resource
import statistics
import sys
import time
from collections import deque
from typing import Any
from typing import Callable
from typing import Iterator
from typing import NamedTuple

import gevent
import greenlet
from gevent.lock import BoundedSemaphore
from gevent.socket import wait_read
from gevent.socket import wait_write
from sqlalchemy import create_engine
from sqlalchemy import make_url
from sqlalchemy.pool import QueuePool

from sa_reaperpool import ReaperPool

from .fairness import StubConnection
from .fairness import pool_on

Connect = Callable[[], Any]

POOLS: dict[str, type[QueuePool]] = {
    "QueuePool": QueuePool,
    "ReaperPool": ReaperPool,
}


class Moment(NamedTuple):
    wall: float
    cpu: float
    pauses: int
    """How often the thread has given up the processor by itself."""


class Blocks:
    """The longest stretches without a switch, in seconds.

    :param bystanders: greenlets in which the pool does not run but for its
     calls; in all that are made later, it does.

    """

    def __init__(self) -> None:
        self.longest = 0.0
        self.bystanders: set[Any] = set()
        self._since: dict[Any, Moment] = {}

    def begin(self) -> None:
        self._since[greenlet.getcurrent()] = _now()

    def end(self) -> None:
        self._note(self._since.pop(greenlet.getcurrent()))

    def _note(self, since: Moment) -> None:
        now = _now()
        if now.pauses == since.pauses:
            self.longest = max(self.longest, now.cpu - since.cpu)
        else:
            self.longest = max(self.longest, now.wall - since.wall)

    def trace(self, kind: str, switch: tuple[Any, Any]) -> None:
        origin, target = switch
        if origin in self._since:
            self._note(self._since[origin])
        if origin not in self.bystanders:
            self._since.pop(origin, None)
        if target in self._since or target not in self.bystanders:
            self._since[target] = _now()

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        before = greenlet.settrace(self.trace)
        try:
            yield
        finally:
            greenlet.settrace(before)


def _now() -> Moment:
    usage = resource.getrusage(resource.RUSAGE_THREAD)
    return Moment(time.perf_counter(), time.thread_time(), usage.ru_nvcsw)


class Result(NamedTuple):
    per_second: float
    evenness: float
    longest_wait: float
    late: float
    blocked: float


class NoPool:
    """A semaphore and a list: what there would be without a pool."""

    def __init__(self, connect: Connect, size: int):
        self._places = BoundedSemaphore(size)
        self._idle = deque(connect() for _ in range(size))

    def connect(self) -> Any:
        self._places.acquire()
        return self._idle.popleft()

    def give_back(self, connection: Any) -> None:
        connection.rollback()
        self._idle.append(connection)
        self._places.release()

    def dispose(self) -> None:
        for connection in self._idle:
            connection.close()


def wait_callback(connection: Any) -> None:
    """Let others run while PostgreSQL works; as psycogreen does."""
    from psycopg2 import extensions

    while (state := connection.poll()) != extensions.POLL_OK:
        if state == extensions.POLL_READ:
            wait_read(connection.fileno())
        else:
            wait_write(connection.fileno())


def use(url: str | None, connection: Any, hold: float) -> None:
    if url is None:
        gevent.sleep(hold)
    else:
        with connection.cursor() as cursor:
            cursor.execute("select pg_sleep(%s)", (hold,))


def make(name: str, url: str | None, size: int) -> Any:
    if name == "no pool":
        return NoPool(_connect_to(url), size)
    return pool_on(url, POOLS[name], size)


def _connect_to(url: str | None) -> Connect:
    if url is None:
        return StubConnection
    address = make_url(url)
    dialect = create_engine(address).dialect
    arguments, options = dialect.create_connect_args(address)
    return lambda: dialect.connect(*arguments, **options)


def measure(
    pool: Any, url: str | None, arguments: argparse.Namespace
) -> Result:
    served = [0] * arguments.greenlets
    longest = [0.0] * arguments.greenlets
    late = [0.0]
    blocks = Blocks()
    end = time.monotonic() + arguments.seconds

    def work(number: int) -> None:
        while time.monotonic() < end:
            asked = time.perf_counter()
            blocks.begin()
            connection = pool.connect()
            blocks.end()
            waited = time.perf_counter() - asked
            longest[number] = max(longest[number], waited)
            try:
                use(url, connection, arguments.hold / 1000)
            finally:
                blocks.begin()
                if isinstance(pool, NoPool):
                    pool.give_back(connection)
                else:
                    connection.close()
                blocks.end()
            served[number] += 1

    def monitor() -> None:
        while time.monotonic() < end:
            due = time.perf_counter() + 0.001
            gevent.sleep(0.001)
            late[0] = max(late[0], time.perf_counter() - due)

    workers = [
        gevent.spawn(work, number) for number in range(arguments.greenlets)
    ]
    workers.append(gevent.spawn(monitor))
    blocks.bystanders.update(workers)
    blocks.bystanders.update((gevent.get_hub(), greenlet.getcurrent()))
    began = time.perf_counter()
    with blocks.watching():
        gevent.joinall(workers, raise_error=True)
    took = time.perf_counter() - began
    return Result(
        sum(served) / took,
        min(served) / max(served),
        max(longest),
        late[0],
        blocks.longest,
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.greenlets", description=__doc__
    )
    parser.add_argument("url", nargs="?", help="default: a stub driver")
    parser.add_argument("--greenlets", type=int, default=200)
    parser.add_argument("--size", type=int, default=5, help="connections")
    parser.add_argument("--hold", type=float, default=1.0, help="milliseconds")
    parser.add_argument("--seconds", type=float, default=3.0, help="a round")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.url:
        from psycopg2 import extensions

        extensions.set_wait_callback(wait_callback)

    names = ["no pool", *POOLS]
    results: dict[str, list[Result]] = {name: [] for name in names}
    for number in range(arguments.rounds):
        for name in names[:: -1 if number % 2 else 1]:
            pool = make(name, arguments.url, arguments.size)
            results[name].append(measure(pool, arguments.url, arguments))
            pool.dispose()

    print(
        f"{arguments.greenlets} greenlets on {arguments.size} connections, "
        f"{arguments.hold:g} ms hold, {arguments.rounds} rounds of "
        f"{arguments.seconds:g} s each; medians of the rounds"
    )
    print(
        f"{'':12}{'checkouts/s':>12}{'least/most':>12}{'longest wait':>14}"
        f"{'monitor late':>14}{'hub blocked':>13}"
    )
    for name in names:
        median = Result(*map(statistics.median, zip(*results[name])))
        print(
            f"{name:12}{median.per_second:12.0f}{median.evenness:12.3f}"
            + "".join(
                f"{seconds * 1000:{width}.1f} ms"
                for seconds, width in (
                    (median.longest_wait, 11),
                    (median.late, 11),
                    (median.blocked, 10),
                )
            )
        )
    worst = max(result.blocked for result in results["ReaperPool"])
    print(
        "longest block of the hub by ReaperPool in any round: "
        f"{worst * 1000:.1f} ms"
    )
    return int(worst > 0.01)


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    os._exit(status)

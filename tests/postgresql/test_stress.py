"""Threads that take a connection and die, against all that can meet it."""

from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine
from sqlalchemy import event
from sqlalchemy import text
from waiting import Worker
from waiting import eventually

from postgresql.conftest import Engines
from postgresql.conftest import Observer
from postgresql.conftest import backend_of
from sa_reaperpool import CheckoutTimeout
from sa_reaperpool import ConnectionReclaimed

THREADS = 1000
AT_ONCE = 40
SIZE = 8
LIMIT = 12
# decides what each thread does; given, a run does it again
SEED = int(os.environ.get("REAPERPOOL_TEST_SEED") or random.randrange(10**6))


@pytest.fixture(autouse=True)
def quick_switches() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


class Ledger:
    """Which backends the limit does not count, and why."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.lock = threading.Lock()
        self.open: set[int] = set()
        self.told_to_close: set[int] = set()
        self.detached: set[int] = set()
        self.out_at_dispose: set[int] = set()
        self._disposals = 0
        self._begun = threading.local()
        event.listen(engine, "do_connect", self._connect)
        event.listen(engine, "close", self._close)

    def checkout(self) -> Any:
        self._begun.disposals = self._disposals
        return self.engine.connect()

    def dispose(self) -> None:
        # not the engine's, which goes on with a new pool
        self.engine.pool.dispose()
        with self.lock:
            self._disposals += 1
            self.out_at_dispose |= self.open

    def detach(self, connection: Any) -> None:
        with self.lock:
            self.detached.add(backend_of(connection))
        connection.detach()

    def _connect(self, dialect: Any, record: Any, args: Any, kw: Any) -> Any:
        connection = dialect.connect(*args, **kw)
        pid = connection.info.backend_pid
        with self.lock:
            self.open.add(pid)
            self.told_to_close.discard(pid)
            if self._begun.disposals != self._disposals:
                # a checkout that was under way
                self.out_at_dispose.add(pid)
        return connection

    def _close(self, connection: Any, record: object) -> None:
        pid = connection.info.backend_pid
        with self.lock:
            self.open.discard(pid)
            self.told_to_close.add(pid)


class Sampler:
    """Counts the backends that the server shows, again and again."""

    def __init__(self, observer: Observer, ledger: Ledger) -> None:
        self.observer = observer
        self.ledger = ledger
        self.samples: list[set[int]] = []
        self._over = threading.Event()
        self._worker = Worker(self._sample)

    def _sample(self) -> None:
        while not self._over.is_set():
            shown = self.observer.backends(self.ledger.engine)
            # a server takes its time to notice a close
            with self.ledger.lock:
                self.samples.append(shown - self.ledger.told_to_close)

    def most(self) -> int:
        self._over.set()
        self._worker.result()
        assert len(self.samples) > 20
        # whose they were is known only now, for those just being opened
        uncounted = self.ledger.detached | self.ledger.out_at_dispose
        return max(len(sample - uncounted) for sample in self.samples)


class Exclusive:
    """Notices a DBAPI connection that two hold."""

    def __init__(self) -> None:
        self.held: set[Any] = set()
        self.lock = threading.Lock()
        self.failures: list[str] = []

    def enter(self, connection: Any) -> Any:
        driver_connection = connection.connection.driver_connection
        with self.lock:
            if driver_connection in self.held:
                self.failures.append(f"{driver_connection} is held by two")
            self.held.add(driver_connection)
        return driver_connection

    def leave(self, driver_connection: Any) -> None:
        with self.lock:
            self.held.remove(driver_connection)


class Stress:
    """Runs the threads; those that die leave their connection in a list."""

    def __init__(self, engine: Engine, seed: int) -> None:
        self.engine = engine
        self.random = random.Random(seed)
        self.ledger = Ledger(engine)
        self.exclusive = Exclusive()
        self.left: list[Any] = []
        self.others: list[Worker] = []
        self.ways = (
            self.returns,
            self.invalidates,
            self.detaches,
            self.drops,
            self.dies,
            self.dies,
            self.dies_as_another_returns,
            self.dies_as_another_invalidates,
            self.dies_as_another_uses,
        )

    def run(self) -> None:
        running: list[Worker] = []
        for number in range(THREADS):
            running.append(self.start(random.Random(self.random.random())))
            if number % 250 == 249:
                self.ledger.dispose()
            elif number % 10 == 0:
                self.engine.pool.reap()  # type: ignore[attr-defined]
            if len(running) >= AT_ONCE:
                running.pop(self.random.randrange(AT_ONCE)).result()
        for worker in [*running, *self.others]:
            worker.result()
        for worker in self.others:
            worker.result()

    def start(self, chance: random.Random) -> Worker:
        def work() -> None:
            connection = self.ledger.checkout()
            own = self.exclusive.enter(connection)
            if chance.random() < 0.5:
                connection.execute(text("SELECT 1"))
            chance.choice(self.ways)(connection, own)

        return Worker(work)

    def meanwhile(self, work: Any) -> None:
        self.others.append(Worker(work))

    def returns(self, connection: Any, own: Any) -> None:
        self.exclusive.leave(own)
        connection.close()

    def invalidates(self, connection: Any, own: Any) -> None:
        self.exclusive.leave(own)
        connection.invalidate()
        connection.close()

    def detaches(self, connection: Any, own: Any) -> None:
        self.exclusive.leave(own)
        self.ledger.detach(connection)
        connection.close()

    def drops(self, connection: Any, own: Any) -> None:
        # for the garbage collector, or for the reaper if it is late
        self.exclusive.leave(own)

    def dies(self, connection: Any, own: Any) -> None:
        # no leave(): nobody may ever get this one again
        self.left.append(connection)

    def dies_as_another_returns(self, connection: Any, own: Any) -> None:
        self.exclusive.leave(own)
        self.meanwhile(connection.close)

    def dies_as_another_invalidates(self, connection: Any, own: Any) -> None:
        self.exclusive.leave(own)
        self.meanwhile(connection.connection.invalidate)

    def dies_as_another_uses(self, connection: Any, own: Any) -> None:
        def use() -> None:
            try:
                connection.execute(text("SELECT 1"))
            except ConnectionReclaimed:
                pass
            self.exclusive.leave(own)
            connection.close()

        self.meanwhile(use)


def test_a_thousand_threads(
    engines: Engines, observer: Observer, driver: str
) -> None:
    engine = engines(
        driver,
        pool_size=SIZE,
        max_overflow=LIMIT - SIZE,
        dead_connection_timeout=0.02,
        reaping_frequency=0.05,
        pool_timeout=20,
    )
    stress = Stress(engine, SEED)
    sampler = Sampler(observer, stress.ledger)
    seed = f"REAPERPOOL_TEST_SEED={SEED}"

    try:
        stress.run()
    finally:
        most = sampler.most()

    assert most <= LIMIT, seed
    # the full capacity, and not one more
    connections = [stress.ledger.checkout() for _ in range(LIMIT)]
    for connection in connections:
        stress.exclusive.enter(connection)
        connection.execute(text("SELECT 1"))
    assert stress.exclusive.failures == [], seed
    pids = {backend_of(connection) for connection in connections}
    assert len(pids) == LIMIT, seed
    pool: Any = engine.pool
    with pytest.raises(CheckoutTimeout):
        pool.connect(timeout=0.05)
    eventually(lambda: observer.backends(engine) == pids, what=seed)
    # each one that was left behind was taken back
    assert len(stress.left) > 100, seed
    for connection in stress.left:
        with pytest.raises(ConnectionReclaimed):
            connection.execute(text("SELECT 1"))
        connection.close()
    for connection in connections:
        connection.close()

    def at_rest() -> bool:
        # the reaper may just be looking at one
        stats = pool.stats()
        return (stats.idle, stats.in_use, stats.opening) == (SIZE, 0, 0)

    eventually(at_rest, what=seed)

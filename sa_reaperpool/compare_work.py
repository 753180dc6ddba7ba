"""The work that the comparison gives both pools, and its record.

What is in here is application code as anybody's: it knows an engine, not
which pool is under it, and notes of each checkout when it was asked for,
when it was there, which connection it was, and when it was about to be given
back.  The two clocks are read outside the pool, so that the record is the
same instrument for both, and in the same thread, so that no two holders of
one connection overlap unless a pool lends it twice.
"""

from __future__ import annotations

import threading
import time
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from dataclasses import field
from random import Random
from time import perf_counter
from typing import NoReturn

from sqlalchemy import Connection
from sqlalchemy import Engine
from sqlalchemy import event
from sqlalchemy import exc
from sqlalchemy import func
from sqlalchemy import select
from sqlalchemy import update
from sqlalchemy.orm import Session

from .compare_database import LANE
from .compare_database import ROWS
from .compare_database import Item

MIXED = "mixed"
"""Transactions short and long, with pauses between them."""

BARE = "bare"
"""Connections that are given back at once, again and again."""

FIELDS = 4
"""Of a visit: asked, got, done, and the connection's number, or 0 for a
checkout that failed."""

_JOBS = {"read": 45, "write": 20, "edit": 17, "think": 15, "linger": 3}
"""Of a hundred transactions."""

# what a thread may need beyond its end: the last transaction, and a database
# that takes its time
_PATIENCE = 15


@dataclass
class Log:
    """What was noted while threads worked on one pool."""

    pool: str
    part: str
    seconds: float
    """How long it was to be."""

    began: float = 0.0
    """By ``perf_counter``, as all times in here."""

    visits: list[array[float]] = field(default_factory=list)
    """Of each thread, one after the other, ``FIELDS`` numbers each."""

    failed: Counter[str] = field(default_factory=Counter)
    """What transactions that had a connection failed of."""

    refused: Counter[str] = field(default_factory=Counter)
    """What checkouts failed of."""

    @property
    def end(self) -> float:
        return self.began + self.seconds

    @property
    def checkouts(self) -> int:
        return sum(map(len, self.visits)) // FIELDS


class Stuck(Exception):
    """Threads do not end."""


class Crew:
    """Threads that share an engine.

    :param seed: decides who does what, and how long it takes.

    """

    def __init__(self, engine: Engine, threads: int, seed: str) -> None:
        self._engine = engine
        self._threads = threads
        self._seed = seed
        self._over = False

    def work(self, log: Log, watch: Callable[[Log], bool]) -> None:
        """Work, and note it there.

        :param watch: called now and then; ends the work by returning False.

        :raises Stuck: somebody does not end.

        """
        # the main thread is one of them
        start = threading.Barrier(self._threads + 1)
        workers = []
        for number in range(1, self._threads + 1):
            visits = array("d")
            log.visits.append(visits)
            desk = _Desk(
                self._engine, Random(f"{self._seed}/{number}"), log, visits
            )
            # daemon: should a driver hang, the command ends all the same
            worker = threading.Thread(
                target=self._serve,
                args=(desk, log, start),
                name=f"thread-{number}",
                daemon=True,
            )
            workers.append(worker)
        try:
            for worker in workers:
                worker.start()
            log.began = perf_counter()
            start.wait()
            while perf_counter() < log.end and watch(log):
                time.sleep(max(0, min(0.05, log.end - perf_counter())))
        finally:
            self._over = True
            start.abort()
            deadline = time.monotonic() + _PATIENCE
            for worker in workers:
                if worker.ident is not None:
                    worker.join(max(0, deadline - time.monotonic()))
        if any(worker.is_alive() for worker in workers):
            raise Stuck

    def _serve(self, desk: _Desk, log: Log, start: threading.Barrier) -> None:
        try:
            start.wait()
        except threading.BrokenBarrierError:
            return
        step = desk.mixed if log.part == MIXED else desk.bare
        while perf_counter() < log.end and not self._over:
            step()


class _NoConnection(Exception):
    """A checkout failed; noted already."""


class _Noted(Session):
    """Notes when it has committed, and has its connection still."""


@event.listens_for(_Noted, "after_commit")
def _committed(session: Session) -> None:
    session.info["desk"].done()


class _Desk:
    """One thread's work."""

    def __init__(
        self, engine: Engine, random: Random, log: Log, visits: array[float]
    ) -> None:
        self._engine = engine
        self._random = random
        self._log = log
        self._visits = visits
        self._visit: tuple[float, float, int] | None = None

    # noting

    def _checkout(self) -> Connection:
        asked = perf_counter()
        try:
            connection = self._engine.connect()
        except Exception as err:
            self._refuse(asked, err)
        self._got(asked, perf_counter(), connection)
        return connection

    def _got(self, asked: float, got: float, connection: Connection) -> None:
        self._visit = (asked, got, connection.info[LANE])

    def _refuse(self, asked: float, err: Exception) -> NoReturn:
        now = perf_counter()
        self._visits.extend((asked, now, now, 0))
        self._log.refused[_reason(err)] += 1
        if not isinstance(err, exc.TimeoutError):
            # no tight loop about a database that is away
            time.sleep(0.05)
        raise _NoConnection from err

    def done(self) -> None:
        """Note that the connection is about to be given back."""

        now = perf_counter()
        visit, self._visit = self._visit, None
        if visit is not None:
            asked, got, lane = visit
            self._visits.extend((asked, got, now, lane))

    def _leave(self, connection: Connection) -> None:
        self.done()
        connection.close()

    # the work

    def bare(self) -> None:
        try:
            connection = self._checkout()
        except _NoConnection:
            return
        self._leave(connection)

    def mixed(self) -> None:
        random = self._random
        (job,) = random.choices([*_JOBS], [*_JOBS.values()])
        # drawn whatever becomes of it, so that the next ones are the same
        row = random.randrange(ROWS)
        length = random.random()
        pause = random.uniform(0, 0.016)
        try:
            getattr(self, job)(row, length)
        except _NoConnection:
            pass
        except Exception as err:
            self._log.failed[_reason(err)] += 1
            time.sleep(0.05)
        # what an application does without a connection
        time.sleep(pause)

    def read(self, row: int, length: float) -> None:
        connection = self._checkout()
        try:
            connection.scalar(select(Item.amount).where(Item.id == row))
        finally:
            self._leave(connection)

    def write(self, row: int, length: float) -> None:
        connection = self._checkout()
        try:
            self._change(connection, row)
            connection.commit()
        finally:
            self._leave(connection)

    def edit(self, row: int, length: float) -> None:
        """An ORM session, as most have them."""

        with _Noted(self._engine, info={"desk": self}) as session:
            asked = perf_counter()
            try:
                connection = session.connection()
            except Exception as err:
                self._refuse(asked, err)
            self._got(asked, perf_counter(), connection)
            try:
                session.get_one(Item, row).amount += 1
                session.commit()
            finally:
                # unless it has committed
                self.done()

    def think(self, row: int, length: float) -> None:
        """Something is computed, or asked of others, in a transaction."""

        self._hold(row, 0.002 + 0.016 * length)

    def linger(self, row: int, length: float) -> None:
        """The now and then longer one."""

        self._hold(row, 0.04 + 0.04 * length)

    def _hold(self, row: int, seconds: float) -> None:
        connection = self._checkout()
        try:
            connection.scalar(select(func.sum(Item.amount)))
            time.sleep(seconds)
            self._change(connection, row)
            connection.commit()
        finally:
            self._leave(connection)

    def _change(self, connection: Connection, row: int) -> None:
        connection.execute(
            update(Item).where(Item.id == row).values(amount=Item.amount + 1)
        )


def _reason(err: Exception) -> str:
    # the driver's words without the statement, and SQLAlchemy's without a
    # link to its documentation
    words = str(getattr(err, "orig", None) or (err.args or [""])[0])
    lines = words.strip().splitlines()
    return lines[0] if lines else type(err).__name__

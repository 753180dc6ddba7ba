"""64 threads of ORM sessions on 8 PostgreSQL connections.

Each transaction inserts a row, selects it and commits; the wait is that of
the session's first need of a connection.  The pools take turns, with new
engines each round; ratios are to QueuePool in the same round.
"""

from __future__ import annotations

import random
import threading
import time
from array import array
from typing import Any
from typing import NamedTuple

from sqlalchemy import Engine
from sqlalchemy import create_engine
from sqlalchemy import select
from sqlalchemy.orm import DeclarativeBase
from sqlalchemy.orm import Mapped
from sqlalchemy.orm import Session
from sqlalchemy.orm import mapped_column
from sqlalchemy.pool import QueuePool

from sa_reaperpool import ReaperPool

from .crowd import crowd
from .in_turn import InTurnPool
from .peers import LEAST
from .peers import OURS
from .peers import STOCK
from .rows import Bar
from .rows import Row
from .rows import quantile
from .rows import row_of
from .settings import Settings

THREADS, SIZE = 64, 8
HIGH = 0.999

POOLS: dict[str, Any] = {
    STOCK: QueuePool,
    LEAST: InTurnPool,
    OURS: ReaperPool,
}


class Base(DeclarativeBase):
    pass


class Thing(Base):
    __tablename__ = "reaperpool_bench_things"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]


class Result(NamedTuple):
    per_second: float
    wait: float
    """The p99.9 of all transactions', in seconds."""


def run(settings: Settings) -> list[Row]:
    url = settings.url
    seconds = 5.0 if not settings.quick else 1.5
    results: dict[str, list[Result]] = {name: [] for name in POOLS}
    names = list(POOLS)
    shuffle = random.Random(THREADS).shuffle
    rounds = settings.rounds(5, 1)
    for number in range(rounds):
        settings.say(f"  round {number + 1} of {rounds}")
        shuffle(names)
        for name in names:
            results[name].append(_round(url, POOLS[name], seconds))
    return _rows(results[OURS], results[STOCK], results[LEAST])


def _rows(
    ours: list[Result], stock: list[Result], least: list[Result]
) -> list[Row]:
    scene = f"{THREADS} threads of ORM sessions on {SIZE}"
    transactions = f"{scene}: transactions"
    waits = f"{scene}: p99.9 wait"
    millis = [each.wait * 1000 for each in ours]
    note = f"{quantile(sorted(millis), 0.5):.0f} ms"
    return [
        row_of(
            transactions,
            OURS,
            [a.per_second / b.per_second for a, b in zip(ours, stock)],
            bar=Bar("at least", 1),
        ),
        row_of(transactions, STOCK, [each.per_second for each in stock], "/s"),
        row_of(
            transactions,
            LEAST,
            [a.per_second / b.per_second for a, b in zip(least, stock)],
        ),
        row_of(
            waits,
            OURS,
            [a.wait / b.wait for a, b in zip(ours, stock)],
            bar=Bar("at most", 1 / 20),
            note=note,
        ),
        row_of(waits, STOCK, [each.wait * 1000 for each in stock], "ms"),
        row_of(waits, LEAST, [each.wait * 1000 for each in least], "ms"),
    ]


def _round(url: str, poolclass: type[QueuePool], seconds: float) -> Result:
    engine = create_engine(
        url,
        poolclass=poolclass,
        pool_size=SIZE,
        max_overflow=0,
        # a thread that QueuePool never serves is to be counted, not raised
        pool_timeout=seconds + 60,
    )
    try:
        Base.metadata.drop_all(engine)
        Base.metadata.create_all(engine)
        connections = [engine.connect() for _ in range(SIZE)]
        for connection in connections:
            connection.close()
        return _measure(engine, seconds)
    finally:
        Base.metadata.drop_all(engine)
        engine.dispose()


def _measure(engine: Engine, seconds: float) -> Result:
    def step(waited: array[float]) -> None:
        with Session(engine) as session:
            asked = time.perf_counter()
            session.connection()
            waited.append(time.perf_counter() - asked)
            thing = Thing(name=f"of {threading.current_thread().name}")
            session.add(thing)
            session.flush()
            session.scalars(select(Thing).filter_by(id=thing.id)).one()
            session.commit()

    waits, took = crowd(THREADS, seconds, step)
    together = sorted(wait for some in waits for wait in some)
    return Result(len(together) / took, quantile(together, HIGH))

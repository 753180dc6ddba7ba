"""with_connection() and its kin, when the thread has a reservation already.

Beside connect() and close() of a QueuePool, in turns, on a driver that does
nothing.  The first is measured once more by the room of uncontended.py, with
ActiveRecord's beside it.
"""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator
from contextlib import ExitStack
from contextlib import contextmanager
from itertools import repeat
from time import perf_counter
from typing import Any
from typing import Callable

from sqlalchemy import create_engine
from sqlalchemy.pool import QueuePool

from sa_reaperpool import ReaperPool
from sa_reaperpool import with_connection

from . import stub_driver
from .rows import Bar
from .rows import Row
from .rows import row_of
from .settings import Settings

Batch = Callable[[int], float]

COUNT = 500
"""Uses in a batch: a fraction of a millisecond, or some."""


def run(settings: Settings) -> list[Row]:
    names = {
        _block: "with_connection() when reserved",
        _block_of_thread: "the same, with reservation=thread",
        _call: "connection() when reserved",
        _block_of_engine: "with_connection(engine) within another",
    }
    bars = {_block: Bar("at most", 0.1), _block_of_thread: Bar("at most", 0.1)}
    ratios: dict[Any, list[float]] = {way: [] for way in names}
    with ExitStack() as stack:
        stock = _closes(QueuePool(stub_driver.connect).connect)
        batches = {way: stack.enter_context(way()) for way in names}
        for batch in (stock, *batches.values()):
            batch(COUNT)
        gc.collect()
        order = list(names)
        draw = random.Random(1)
        for _ in range(settings.rounds(200, 20)):
            draw.shuffle(order)
            for way in order:
                taken = batches[way](COUNT)
                ratios[way].append(taken / stock(COUNT))
    return [
        row_of(names[way], "ReaperPool", found, bar=bars.get(way))
        for way, found in ratios.items()
    ]


def _closes(connect: Callable[[], Any]) -> Batch:
    def batch(count: int) -> float:
        began = perf_counter()
        for _ in repeat(None, count):
            connect().close()
        return perf_counter() - began

    return batch


@contextmanager
def _block(**options: Any) -> Iterator[Batch]:
    pool = ReaperPool(stub_driver.connect, **options)

    def batch(count: int) -> float:
        began = perf_counter()
        for _ in repeat(None, count):
            with pool.with_connection():
                pass
        return perf_counter() - began

    with pool.with_connection():
        yield batch


def _block_of_thread() -> Any:
    return _block(reservation="thread")


@contextmanager
def _call() -> Iterator[Batch]:
    pool = ReaperPool(stub_driver.connect)

    def batch(count: int) -> float:
        began = perf_counter()
        for _ in repeat(None, count):
            pool.connection()
        return perf_counter() - began

    with pool.with_connection():
        yield batch


@contextmanager
def _block_of_engine() -> Iterator[Batch]:
    engine = create_engine("stub://", poolclass=ReaperPool)

    def batch(count: int) -> float:
        began = perf_counter()
        for _ in repeat(None, count):
            with with_connection(engine):
                pass
        return perf_counter() - began

    with with_connection(engine):
        yield batch

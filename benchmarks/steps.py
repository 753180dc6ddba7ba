"""Where a checkout's time goes, in steps of the interpreter.

::

    python -m benchmarks.steps
    python -m benchmarks.steps --functions

Counts the instructions of bytecode, and the calls of Python functions, that
a scene takes: the same number each time, whatever else the machine does.
What is written in C counts as one step, a system call too, so that these
tell where Python's part of the time goes, and no more.  In a process whose
threads are busy it is the one that is short.  Python 3.13 does not tell of
all instructions that threads do, so that an older one is needed.

The scenes are: a checkout and its return, on a driver that does nothing; a
checkout that waits, together with the return that serves it; a query through
an engine, and an ORM session's transaction, on SQLite in memory.
"""

from __future__ import annotations

import argparse
import copy
import sys
import threading
import time
from collections import Counter
from operator import attrgetter
from pathlib import Path
from types import FrameType
from typing import Any
from typing import Callable
from typing import Iterator

from sqlalchemy import Engine
from sqlalchemy import create_engine
from sqlalchemy import select
from sqlalchemy import text
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from .fairness import pool_on
from .fairness import warm
from .sessions import POOLS
from .sessions import Base
from .sessions import Thing

WARM_UP, TIMES = 20, 5

Counts = Counter[tuple[str, str]]
"""By file and function."""


class Steps:
    """Counts what the threads do that have it as their tracer."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.steps: Counts = Counter()
        self.number = self.calls = 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if event == "call":
            self.calls += 1
            frame.f_trace_opcodes = True
        elif event == "opcode":
            code = frame.f_code
            path = "/".join(Path(code.co_filename).parts[-2:])
            self.steps[path, code.co_name] += 1
            self.number += 1
        return self

    def of(self, work: Callable[[], object]) -> None:
        sys.settrace(self)
        try:
            work()
        finally:
            sys.settrace(None)


Scene = Callable[[type[QueuePool], Steps], Iterator[None]]
"""Each step of it is the scene once more."""


def checkout(poolclass: type[QueuePool], steps: Steps) -> Iterator[None]:
    """connect() and close()"""
    pool = pool_on(None, poolclass, 1)
    warm(pool, 1)
    while True:
        steps.of(lambda: pool.connect().close())
        yield


def wait(poolclass: type[QueuePool], steps: Steps) -> Iterator[None]:
    """connect() that waits, and the close() that serves it"""
    pool = pool_on(None, poolclass, 1)
    warm(pool, 1)
    asks, served = threading.Semaphore(0), threading.Semaphore(0)
    lent: list[Any] = []

    def waits() -> None:
        while asks.acquire():
            steps.of(lambda: lent.append(pool.connect()))
            served.release()

    # the same each time, as what a pool notes of a thread it notes once
    thread = threading.Thread(target=waits, daemon=True)
    thread.start()
    while True:
        handle = pool.connect()
        asks.release()
        while not _came_to_rest(steps):
            pass
        steps.of(handle.close)
        served.acquire()
        lent.pop().close()
        yield


def _came_to_rest(steps: Steps) -> bool:
    """Has who is counted done something, and does nothing more?"""
    seen = set()
    for _ in range(4):
        time.sleep(0.002)
        seen.add(steps.number)
    return steps.calls > 0 and len(seen) == 1


def query(poolclass: type[QueuePool], steps: Steps) -> Iterator[None]:
    """engine.connect() and SELECT 1"""
    engine, statement = _sqlite(poolclass), text("SELECT 1")

    def work() -> None:
        with engine.connect() as connection:
            connection.execute(statement)

    while True:
        steps.of(work)
        yield


def transaction(poolclass: type[QueuePool], steps: Steps) -> Iterator[None]:
    """an ORM session's insert, select, commit"""
    engine = _sqlite(poolclass)
    Base.metadata.create_all(engine)

    def work() -> None:
        with Session(engine) as session:
            thing = Thing(name="a thing")
            session.add(thing)
            session.flush()
            session.scalars(select(Thing).filter_by(id=thing.id)).one()
            session.commit()

    while True:
        steps.of(work)
        yield


def _sqlite(poolclass: type[QueuePool]) -> Engine:
    return create_engine(
        "sqlite://", poolclass=poolclass, pool_size=1, max_overflow=0
    )


SCENES: list[Scene] = [checkout, wait, query, transaction]


def count(scene: Scene, poolclass: type[QueuePool]) -> Steps:
    """The steps of a scene, in the middle one of a few times."""
    steps = Steps()
    counted = []
    for number, _ in zip(range(WARM_UP + TIMES), scene(poolclass, steps)):
        if number >= WARM_UP:
            counted.append(copy.copy(steps))
        steps.reset()
    return sorted(counted, key=attrgetter("number"))[TIMES // 2]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.steps",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--functions", action="store_true", help="of which function, each"
    )
    given = parser.parse_args(arguments)
    if sys.version_info >= (3, 13):
        parser.error("it needs Python 3.12 or older, see --help")
    for scene in SCENES:
        print(f"\n{scene.__doc__}")
        for name, poolclass in POOLS.items():
            found = count(scene, poolclass)
            print(f"  {name:20}{found.number:7,} steps{found.calls:6} calls")
            if given.functions:
                for (path, function), number in found.steps.most_common():
                    print(f"{'':22}{number:5,} {function}  {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

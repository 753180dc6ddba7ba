"""Forks of a process whose threads are busy: who hangs, fails or meddles.

::

    python -m benchmarks.forks                      # a server of its own
    python -m benchmarks.forks URL --forks 200      # PostgreSQL
    python -m benchmarks.forks --pool queue --forks 5 --patience 5

The parent's threads write rows all the time, each in a transaction that is
kept by a thread-local value alone while the thread thinks; some threads die
with a connection; connections age fast.  Meanwhile the parent forks, and
each child writes rows through the same engine, on four threads.  In the
end: children that hung or failed, server processes that two processes have
spoken to, errors in the parent, rows that were committed and are not there.

``--traces`` shows where the threads of a hung child stand.

Unless ``PGGSSENCMODE`` is set, Kerberos is not asked: libpq does so under
locks of the process, and a child hangs in its first connect, with whatever
pool, where another thread of the parent had one of those at the fork.
"""

from __future__ import annotations

import argparse
import contextlib
import faulthandler
import gc
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass
from dataclasses import field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any
from typing import Iterator

from sqlalchemy import Engine
from sqlalchemy import create_engine
from sqlalchemy import text
from sqlalchemy.pool import NullPool
from sqlalchemy.pool import QueuePool

from sa_reaperpool import ReaperPool

TABLE = "reaperpool_forks"
CHILD_THREADS = 4
CHILD_TRANSACTIONS = 50

# so that forks meet connects, closes and the reaper at work
BUSY = {
    "reaping_frequency": 0.02,
    "max_age": 0.5,
    "min_idle": 2,
    "dead_connection_timeout": 0.05,
    "leak_timeout": 60,
}

BACKEND = (
    "SELECT pid || ' of ' || backend_start FROM pg_stat_activity "
    "WHERE pid = pg_backend_pid()"
)


@dataclass
class Result:
    forks: int = 0
    hung: int = 0
    failed: int = 0
    shared: int = 0
    """Server processes that two processes spoke to."""
    lost: int = 0
    """Rows that were committed and are not there."""
    rows: int = 0
    parent_errors: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    longest: float = 0.0
    """Seconds from a fork to its child's end, at most."""
    traces: list[str] = field(default_factory=list)

    @property
    def clean(self) -> bool:
        return not (
            self.hung
            or self.failed
            or self.shared
            or self.lost
            or self.parent_errors
        )


class Writer:
    """Writes rows, and knows what it has committed, and through whom."""

    def __init__(self, engine: Engine, name: str) -> None:
        self.engine = engine
        self.name = name
        self.committed: list[str] = []
        self.backends: set[str] = set()
        self.mine = threading.local()

    def write(self, number: int, think: float = 0.0) -> None:
        row = f"{self.name}-{number}"
        try:
            self.begin(row)
            # now nothing but the thread-local value refers to it
            time.sleep(think)
            self.mine.connection.commit()
            self.committed.append(row)
        finally:
            self.end()

    def begin(self, row: str) -> None:
        connection = self.mine.connection = self.engine.connect()
        known = connection.info
        if "backend" not in known:
            known["backend"] = connection.scalar(text(BACKEND))
        self.backends.add(known["backend"])
        connection.execute(
            text(f"INSERT INTO {TABLE} VALUES (:row)"), {"row": row}
        )

    def end(self) -> None:
        connection = self.mine.__dict__.pop("connection", None)
        if connection is not None:
            connection.close()


class Parent:
    """Busy threads, until told to stop."""

    def __init__(self, engine: Engine, threads: int, result: Result) -> None:
        self.writers = [
            Writer(engine, f"parent{number}") for number in range(threads)
        ]
        self.stopping = False
        self.result = result
        self.threads = [
            threading.Thread(target=self.work, args=(writer,), daemon=True)
            for writer in self.writers
        ]
        if isinstance(engine.pool, ReaperPool):
            self.threads.append(
                threading.Thread(target=self.die, args=(engine,), daemon=True)
            )

    def start(self) -> None:
        for thread in self.threads:
            thread.start()

    def stop(self, patience: float) -> None:
        self.stopping = True
        deadline = time.monotonic() + patience
        for thread in self.threads:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self.result.parent_errors["a thread hangs"] += 1

    def work(self, writer: Writer) -> None:
        number = 0
        while not self.stopping:
            number += 1
            try:
                writer.write(number, think=0.002)
            except Exception as error:
                self.result.parent_errors[type(error).__name__] += 1

    def die(self, engine: Engine) -> None:
        """Threads that end, and leave a connection that somebody keeps."""
        kept: list[Any] = []

        def leave() -> None:
            with contextlib.suppress(Exception):
                kept.append(engine.pool.connect())

        while not self.stopping:
            thread = threading.Thread(target=leave, daemon=True)
            thread.start()
            thread.join()
            time.sleep(0.1)
            kept.clear()

    def backends(self) -> set[str]:
        return set().union(*(writer.backends for writer in self.writers))

    def committed(self) -> set[str]:
        return {row for writer in self.writers for row in writer.committed}


def child(engine: Engine, number: int) -> dict[str, Any]:
    """What a child does and tells."""
    # which comes sooner or later in any program
    gc.collect()
    writers = [
        Writer(engine, f"child{number}.{thread}")
        for thread in range(CHILD_THREADS)
    ]
    errors: list[str] = []
    turns = iter(range(CHILD_TRANSACTIONS))
    lock = threading.Lock()

    def work(writer: Writer) -> None:
        try:
            while True:
                with lock:
                    turn = next(turns, None)
                if turn is None:
                    return
                writer.write(turn)
        except Exception as error:
            errors.append(type(error).__name__)

    threads = [
        threading.Thread(target=work, args=(writer,)) for writer in writers
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {
        "errors": errors,
        "committed": [row for each in writers for row in each.committed],
        "backends": sorted(set().union(*(e.backends for e in writers))),
    }


def in_a_child(
    engine: Engine, number: int, patience: float
) -> dict[str, Any] | str:
    """What a forked child tells, or where the threads of a hung one stand.

    :raises RuntimeError: it ended and told nothing.

    """
    told, tell = os.pipe()
    traces = tempfile.TemporaryFile()
    pid = os.fork()
    if not pid:
        status = 1
        try:
            faulthandler.register(
                signal.SIGUSR2, file=traces, all_threads=True
            )
            with open(tell, "w") as file:
                json.dump(child(engine, number), file)
            status = 0
        finally:
            os._exit(status)
    os.close(tell)
    hung = False
    deadline = time.monotonic() + patience
    text = b""
    while not hung:
        if not wait([told], max(0.0, deadline - time.monotonic())):
            hung = True
            os.kill(pid, signal.SIGUSR2)
            # it has this long to write its stacks down
            wait([told], 1.0)
            os.kill(pid, signal.SIGKILL)
        else:
            part = os.read(told, 65536)
            text += part
            if not part:
                break
    os.close(told)
    _, status = os.waitpid(pid, 0)
    with traces:
        if hung:
            traces.seek(0)
            return traces.read().decode() or "no stacks were written"
    if status or not text:
        raise RuntimeError(f"status {status}")
    answer: dict[str, Any] = json.loads(text)
    return answer


def measure(url: str, arguments: argparse.Namespace) -> Result:
    reaper = arguments.pool == "reaper"
    engine = create_engine(
        url,
        poolclass=ReaperPool if reaper else QueuePool,
        pool_size=arguments.size,
        max_overflow=0,
        pool_timeout=arguments.patience / 2,
        **(BUSY if reaper else {}),
    )
    observer = create_engine(url, poolclass=NullPool)
    with observer.begin() as connection:
        connection.execute(text(f"DROP TABLE IF EXISTS {TABLE}"))
        connection.execute(text(f"CREATE TABLE {TABLE} (row text)"))
    # all that the pool may have
    for opened in [engine.connect() for _ in range(arguments.size)]:
        opened.close()
    result = Result()
    parent = Parent(engine, arguments.threads, result)
    committed: set[str] = set()
    seen: Counter[str] = Counter()
    began = time.monotonic()
    parent.start()
    try:
        for number in range(arguments.forks):
            result.forks += 1
            since = time.monotonic()
            try:
                told = in_a_child(engine, number, arguments.patience)
            except RuntimeError as error:
                result.failed += 1
                result.failures[str(error)] += 1
                continue
            result.longest = max(result.longest, time.monotonic() - since)
            if isinstance(told, str):
                result.hung += 1
                result.traces.append(told)
                continue
            result.failed += bool(told["errors"])
            result.failures.update(told["errors"])
            committed.update(told["committed"])
            seen.update(told["backends"])
    finally:
        parent.stop(arguments.patience)
    result.seconds = time.monotonic() - began
    seen.update(parent.backends())
    result.shared = sum(count > 1 for count in seen.values())
    committed |= parent.committed()
    with observer.connect() as connection:
        rows = connection.scalars(text(f"SELECT row FROM {TABLE}")).all()
        result.rows = len(rows)
        result.lost = len(committed.difference(rows))
    if result.clean:
        # else somebody may be using them, or have locked it, for ever
        engine.dispose()
        with observer.begin() as connection:
            connection.execute(text(f"DROP TABLE {TABLE}"))
    return result


@contextlib.contextmanager
def database(url: str | None) -> Iterator[str]:
    """The given one, or a temporary one, by the tests' own launcher."""
    if url is not None:
        yield url
        return
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from servers import PostgreSQL

    with PostgreSQL() as server:
        yield server.url()


def report(result: Result, arguments: argparse.Namespace) -> None:
    name = "ReaperPool" if arguments.pool == "reaper" else "QueuePool"
    print(
        f"{name}, {arguments.threads} busy threads on {arguments.size} "
        f"connections, {result.forks} forks in {result.seconds:.0f} s, "
        f"{CHILD_TRANSACTIONS} transactions on {CHILD_THREADS} threads each, "
        f"{result.rows} rows"
    )
    print(f"  children that hung            {result.hung:6}")
    print(f"  children that failed          {result.failed:6}")
    print(f"  server processes shared       {result.shared:6}")
    print(f"  errors in the parent          {result.parent_errors.total():6}")
    print(f"  committed rows lost           {result.lost:6}")
    print(f"  longest life of a child       {result.longest:6.1f} s")
    for what, counts in (
        ("in children", result.failures),
        ("in the parent", result.parent_errors),
    ):
        for error, count in counts.most_common(8):
            print(f"  {what}: {count} x {error}")
    if arguments.traces:
        for trace in result.traces:
            print(f"\na child that hung:\n{trace}")


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.forks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("url", nargs="?", help="default: a temporary server")
    parser.add_argument(
        "--pool", choices=["reaper", "queue"], default="reaper"
    )
    parser.add_argument("--forks", type=int, default=200)
    parser.add_argument("--threads", type=int, default=16)
    parser.add_argument("--size", type=int, default=12, help="connections")
    parser.add_argument(
        "--patience",
        type=float,
        default=30.0,
        help="seconds after which a child counts as hung",
    )
    parser.add_argument("--traces", action="store_true")
    arguments = parser.parse_args()
    # of each connection that is taken back
    logging.getLogger("sqlalchemy.pool").setLevel(logging.ERROR)
    os.environ.setdefault("PGGSSENCMODE", "disable")
    with database(arguments.url) as url:
        result = measure(url, arguments)
    report(result, arguments)
    return 0 if result.clean else 1


if __name__ == "__main__":
    sys.exit(main())

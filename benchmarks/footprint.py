"""What pools cost that nobody uses: memory, and a thousand of them time.

Bytes are those that tracemalloc counts, of Python's objects; the driver's
connections, which are there before, and threads are none of them.  Each
figure is of many, in a process of its own.

``python -m benchmarks.footprint`` is such a process.
"""

from __future__ import annotations

import gc
import json
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from pathlib import Path
from typing import Any
from typing import Callable

from sqlalchemy import create_engine
from sqlalchemy.pool import QueuePool

from sa_reaperpool import ReaperPool

from . import stub_driver
from .rows import Bar
from .rows import Row
from .rows import row_of
from .settings import Settings

MANY = 1000
WAITERS = 100

EVERY = 20.0
"""Seconds between the rounds of a pool, by default."""

OURS = "ReaperPool"
STOCK = "QueuePool"
CLASSES = {OURS: ReaperPool, STOCK: QueuePool}
ROOT = Path(__file__).parents[1]


def memory(settings: Settings) -> list[Row]:
    """Memory for an idle connection, a held one, and a thread that waits."""
    rounds = settings.rounds(7, 1)
    found = {
        (kind, name): [_worker(kind, name) for _ in range(rounds)]
        for kind in ("connections", "waiters")
        for name in CLASSES
    }

    def bytes_of(name: str, kind: str, place: int) -> list[float]:
        return [each[place] for each in found[kind, name]]

    what = "memory of an idle connection, beyond the driver's"
    stock = bytes_of(STOCK, "connections", 0)
    ratios = [
        ours / other
        for ours, other in zip(bytes_of(OURS, "connections", 0), stock)
    ]
    rows = [
        row_of(what, OURS, ratios, bar=Bar("at most", 1.5)),
        row_of(what, STOCK, stock, "bytes"),
    ]
    for what, kind, place, limit in (
        ("the same of a held one, more than that", "connections", 1, 1024),
        ("the same of a thread that waits, without it", "waiters", 0, 4096),
    ):
        for name in CLASSES:
            bar = Bar("at most", limit) if name == OURS else None
            values = bytes_of(name, kind, place)
            rows.append(row_of(what, name, values, "bytes", bar))
    return rows


def thousand(settings: Settings) -> list[Row]:
    """What a thousand idle pools cost: a thread, and of a core so much."""
    # rounds as often as that, in a time in which each has one at least
    every = EVERY / 10 if settings.quick else EVERY
    share, threads = _worker("pools", str(every))
    note = "" if every == EVERY else f"by rounds each {every:g} s"
    return [
        Row(
            f"{MANY:,} idle pools",
            OURS,
            share * every / EVERY * 100,
            "% of a core",
            bar=Bar("at most", 1),
            note=note,
        ),
        Row(
            f"threads for {MANY:,} pools",
            OURS,
            threads,
            "",
            bar=Bar("at most", 1),
        ),
    ]


def _worker(*arguments: str) -> Any:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.footprint", *arguments],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        # Ctrl-C is for this process, which then ends that one
        start_new_session=True,
    )
    return json.loads(done.stdout)


# in a process of its own


class _Connection(stub_driver.Connection):
    """One that has a socket, as most have."""

    socket = socket.socketpair()

    def fileno(self) -> int:
        return self.socket[0].fileno()


def _used() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


def connections(name: str) -> list[float]:
    """Bytes of an idle connection, and what a held one has beyond that."""
    opened = [_Connection() for _ in range(MANY + 1)]
    pool = create_engine(
        "stub://",
        poolclass=CLASSES[name],
        creator=opened.copy().pop,
        pool_size=MANY,
        max_overflow=0,
    ).pool
    # what comes with the first one is the pool's own
    pool.connect().close()
    handles: list[Any] = [None] * MANY
    tracemalloc.start()
    before = _used()
    for _ in range(2):
        for place in range(MANY):
            handles[place] = pool.connect()
        held = _used()
        for handle in handles:
            handle.close()
        handles[:] = [None] * MANY
        handle = None
        idle = _used()
    count = MANY - 1
    return [(idle - before) / count, (held - idle) / MANY]


def waiters(name: str) -> list[float]:
    """Bytes of a thread that waits, beyond one that waits for an event."""
    pool = create_engine(
        "stub://",
        poolclass=CLASSES[name],
        pool_size=1,
        max_overflow=0,
        pool_timeout=600,
    ).pool
    handle = pool.connect()
    come = threading.Event()
    tracemalloc.start()
    plain = _in_threads(come.wait, come.set)
    waiting = _in_threads(lambda: pool.connect().close(), handle.close)
    return [(waiting - plain) / WAITERS]


def _in_threads(
    wait: Callable[[], object], let_go: Callable[[], object]
) -> int:
    before = _used()
    threads = [threading.Thread(target=wait) for _ in range(WAITERS)]
    for thread in threads:
        thread.start()
    # nothing tells when the last one is asleep
    time.sleep(0.5)
    used = _used() - before
    let_go()
    for thread in threads:
        thread.join()
    return used


def pools(every: str) -> list[float]:
    """A thousand pools' share of a core, and how many threads they have."""
    seconds = float(every)
    kept = []
    for _ in range(MANY):
        pool = ReaperPool(stub_driver.connect, reaping_frequency=seconds)
        pool.connect().close()
        kept.append(pool)
    # past what is done at the beginning
    time.sleep(seconds / 10)
    cpu, began = time.process_time(), time.perf_counter()
    time.sleep(seconds)
    cpu = time.process_time() - cpu
    share = cpu / (time.perf_counter() - began)
    return [share, threading.active_count() - 1]


if __name__ == "__main__":
    kind, argument = sys.argv[1:]
    print(json.dumps(globals()[kind](argument)))

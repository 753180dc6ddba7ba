"""What a pool still has, after all that was done to it.

Each question is asked in a thread of its own, since the answer may hang.
"""

from __future__ import annotations

import sys
import threading
import time
import traceback
from contextlib import suppress
from typing import Any
from typing import Callable
from typing import Iterator
from typing import NamedTuple

from sqlalchemy.exc import TimeoutError

from sa_reaperpool import ReaperPool

from . import stub_driver


def stack_of(thread: Any) -> str:
    frame = sys._current_frames().get(thread.ident)
    return "".join(traceback.format_stack(frame)) if frame else ""


def where_it_hangs(thread: Any) -> str | None:
    """The stack of a thread that does not end, and of whom it waits for.

    :return: None if it waits, in join(), for one that has ended.  Up to
     CPython 3.12 that waits for a lock which some lines of Python let go of
     again, unless an exception comes in between; then whoever joins that
     thread waits for ever.

    """
    frames = sys._current_frames()
    frame = frames.get(thread.ident)
    stacks = f"{thread.name}\n{stack_of(thread)}"
    while frame is not None:
        joined = frame.f_locals.get("self")
        if frame.f_code.co_name == "join" and isinstance(
            joined, threading.Thread
        ):
            # not by its number, which may be another one's by now
            if joined not in threading.enumerate():
                return None
            return f"{stacks}which waits for {where_it_hangs(joined)}"
        frame = frame.f_back
    return stacks


class Full(NamedTuple):
    """A pool with as many threads holding connections as possible."""

    slots: int
    open: int
    """Connections that the driver has open."""
    known: int
    """Connections that the pool knows of; -1 if it cannot say."""


def fill(pool: Any, size: int) -> Full:
    connections: list[int] = []
    refused: list[int] = []
    counted = threading.Event()

    def work() -> None:
        try:
            handle = pool.connect()
        except TimeoutError:
            refused.append(1)
        else:
            connections.append(id(handle.dbapi_connection))
            counted.wait(60)
            handle.close()

    threads = [
        threading.Thread(target=work, daemon=True) for _ in range(size + 1)
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 20
    while len(connections) + len(refused) <= size:
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    known = -1
    with suppress(Hang):
        known = in_time(lambda: pool.checkedin() + pool.checkedout())
    full = Full(
        len(set(connections)), len(stub_driver.open_connections()), known
    )
    if full.slots < size and isinstance(pool, ReaperPool):
        for lease in pool.leases():
            print("  ", lease)
    counted.set()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return full


class Hang(Exception):
    """Something has not come back."""


def in_time(call: Callable[[], Any], seconds: float = 10.0) -> Any:
    """What this gives, called in a thread that may hang."""
    results: list[Any] = []
    thread = threading.Thread(
        target=lambda: results.append(outcome(call)), daemon=True
    )
    thread.start()
    thread.join(seconds)
    if not results:
        raise Hang(stack_of(thread))
    if isinstance(results[0], BaseException):
        raise results.pop()
    return results.pop()


def outcome(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:
        return error


LOCKS = (type(threading.Lock()), type(threading.RLock()))
MINE = ("sa_reaperpool", "sqlalchemy.pool", "sqlalchemy.util.queue")


def locks_of(
    thing: Any, name: str, seen: set[int] | None = None
) -> Iterator[tuple[str, Any]]:
    """All locks in a pool's objects, and in those that they refer to."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, LOCKS):
        yield name, thing
    elif isinstance(thing, threading.Condition):
        yield from locks_of(getattr(thing, "_lock"), name, seen)
    elif type(thing).__module__.startswith(MINE):
        for key, value in getattr(thing, "__dict__", {}).items():
            yield from locks_of(value, f"{name}.{key}", seen)


def locks_held(pool: Any) -> list[str]:
    from sa_reaperpool.reaper import reaper

    def held(lock: Any) -> bool:
        if lock.acquire(timeout=5):
            lock.release()
            return False
        return True

    found = [*locks_of(pool, "pool"), *locks_of(reaper, "reaper")]
    # its thread has this one for as long as it runs, and nobody waits for it
    found = [(name, lock) for name, lock in found if name != "reaper._duty"]
    assert len(found) > 1, "a pool has locks"
    # asked in a thread of its own, as a lock may be this one's
    return [
        name for name, lock in found if in_time(lambda lock=lock: held(lock))
    ]


def reaper_lives(pool: Any) -> bool:
    """Does it take back what a thread that ended has left?"""
    keep: list[Any] = []
    before = pool.stats().closed.get("reaped", 0)
    thread = threading.Thread(target=lambda: keep.append(pool.connect()))
    thread.start()
    thread.join(10)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if pool.stats().closed.get("reaped", 0) > before or not keep:
            return bool(keep)
        time.sleep(0.01)
    return False

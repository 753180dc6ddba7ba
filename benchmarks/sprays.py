"""Exceptions out of nowhere, into threads that check connections out.

::

    python -m benchmarks.sprays --checkouts 100000 --seed 1

Threads use more connections than there are, through pools, engines and
sessions, while exceptions are set in them by PyThreadState_SetAsyncExc, a
signal's handler raises KeyboardInterrupt in the main thread, and thread
pools are shut down in the midst of their work.  The driver is a stub, and
threads take turns as often as they can.

Afterwards each pool has to have all its slots, no lock may be held, nobody
may ever have had a connection together with another, and the connections
that are open have to be those that the pool knows of.  The exit status says
whether ReaperPool passed; QueuePool is there for comparison.

The seed settles what each thread draws, not how the threads take turns.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import gc
import itertools
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from typing import Callable
from typing import NoReturn

from sqlalchemy import create_engine
from sqlalchemy import text
from sqlalchemy.exc import StatementError
from sqlalchemy.exc import TimeoutError
from sqlalchemy.orm import Session
from sqlalchemy.pool import QueuePool

from sa_reaperpool import ConnectionReclaimed
from sa_reaperpool import ReaperPool
from sa_reaperpool import with_connection
from sa_reaperpool.errors import JoinError

from .remains import fill
from .remains import locks_held
from .remains import reaper_lives
from .remains import stack_of
from .remains import where_it_hangs

STUCK = 8.0
"""Seconds without a single checkout after which a pool is given up."""


class Ended(BaseException):
    """Set in a thread, as by somebody who wants it to end."""


class TimeLimit(Exception):
    """Set in a thread, as by somebody who limits a task's time."""


SIGNALS = (signal.SIGALRM, signal.SIGUSR1)
SPRAYED = (Ended, TimeLimit, KeyboardInterrupt)


class Targets:
    """The threads into which exceptions are thrown, while they are here."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads: dict[int, threading.Thread] = {}

    def enter(self) -> None:
        with self._lock:
            thread = threading.current_thread()
            self._threads[threading.get_ident()] = thread

    def leave(self) -> None:
        """Its ident may be another thread's as soon as this one has ended."""
        left = False
        while not left:
            try:
                with self._lock:
                    self._threads.pop(threading.get_ident(), None)
                left = True
            except SPRAYED:
                pass

    def hit(self, draw: random.Random) -> bool:
        kind = draw.choice((Ended, TimeLimit))
        with self._lock:
            # one that was hit on its very way out is still in there
            idents = [
                ident
                for ident, thread in self._threads.items()
                if thread.is_alive()
            ]
            return bool(idents) and bool(
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(draw.choice(idents)),
                    ctypes.py_object(kind),
                )
            )


class Spray:
    """One pool under fire.

    :param engine: whose pool.

    :param arguments: those of the command line.

    """

    def __init__(self, engine: Any, arguments: argparse.Namespace):
        self.engine = engine
        self.pool = engine.pool
        self.checkouts = arguments.checkouts
        self.threads = arguments.threads
        self.size = arguments.size
        self.seeds = itertools.count(arguments.seed * 1_000_000)
        self.targets = Targets()
        # each of these is appended to by one atomic step
        self.served: list[float] = []
        self.met: list[str] = []
        self.doubles: list[str] = []
        self.timeouts: list[float] = []
        self.odd: list[str] = []
        self.hanging: list[str] = []
        self.swallowed = itertools.count()
        self.stuck = False
        self.left = threading.Event()
        self.ways: tuple[Callable[[random.Random], None], ...] = (
            self.plainly,
            self.plainly,
            self.dropped,
            self.by_connection,
            self.by_session,
        )
        if isinstance(self.pool, ReaperPool):
            self.ways += (self.reserved, self.by_reserved)

    # what the threads do

    def hold(self, connection: Any, draw: random.Random) -> None:
        """Have it for a moment; nobody else may have it meanwhile."""
        self.served.append(time.monotonic())
        stub = connection.dbapi_connection
        token = stub.user = object()
        connection.cursor().close()
        if draw.random() < 0.3:
            time.sleep(draw.random() * 0.001)
        if stub.user is not token:
            self.doubles.append("held by two")
        if stub.closed:
            self.doubles.append("closed under its holder")

    def plainly(self, draw: random.Random) -> None:
        connection = self.pool.connect()
        try:
            self.hold(connection, draw)
            connection.commit()
        finally:
            connection.close()

    def dropped(self, draw: random.Random) -> None:
        self.hold(self.pool.connect(), draw)

    def by_connection(self, draw: random.Random) -> None:
        with self.engine.connect() as connection:
            connection.execute(text("select 1"))
            self.hold(connection.connection, draw)
            connection.commit()

    def by_session(self, draw: random.Random) -> None:
        with Session(self.engine) as session:
            session.execute(text("select 1"))
            self.hold(session.connection().connection, draw)
            session.commit()

    def reserved(self, draw: random.Random) -> None:
        with self.pool.with_connection() as connection:
            with self.pool.with_connection() as again:
                self.hold(again, draw)
            connection.commit()

    def by_reserved(self, draw: random.Random) -> None:
        with with_connection(self.engine) as connection:
            connection.execute(text("select 1"))
            with with_connection(self.engine) as again:
                self.hold(again.connection, draw)
            connection.commit()

    def once(self, draw: random.Random) -> None:
        try:
            draw.choice(self.ways)(draw)
        except SPRAYED as error:
            self.met.append(place_of(error))
        except TimeoutError:
            self.timeouts.append(time.monotonic())
        except Exception as error:
            if comes_of_it(error):
                self.met.append("what came of one")
            else:
                self.odd.append("".join(traceback.format_exception(error)))

    def on_and_on(self, draw: random.Random) -> None:
        try:
            self.targets.enter()
            while not self.over():
                self.once(draw)
        except SPRAYED as error:
            # between two uses: the thread ends of it
            self.met.append(place_of(error))
        finally:
            self.targets.leave()

    def task(self, draw: random.Random) -> None:
        try:
            self.targets.enter()
            self.once(draw)
        finally:
            self.targets.leave()

    def over(self) -> bool:
        return self.stuck or len(self.served) >= self.checkouts

    # what is done to them

    def throw(self, draw: random.Random) -> None:
        """Throw exceptions at them, and collect garbage."""
        main = threading.main_thread().ident
        while not self.over():
            time.sleep(draw.random() * 0.002)
            for _ in range(draw.choice((1, 1, 1, 1, 5))):
                self.targets.hit(draw)
            if draw.random() < 0.1 and main is not None:
                signal.pthread_kill(main, signal.SIGUSR1)
            if draw.random() < 0.02:
                # in cycles that an exception left there are handles
                gc.collect()

    def watch(self, finish: Callable[[], NoReturn]) -> None:
        """See to it that there is an end, also if the main thread hangs."""
        last, since = 0, time.monotonic()
        while not self.over():
            time.sleep(0.1)
            if len(self.served) > last:
                last, since = len(self.served), time.monotonic()
            self.stuck = time.monotonic() - since > STUCK
        if not self.left.wait(3 * STUCK):
            thread = threading.main_thread()
            self.hanging.append(f"{thread.name}\n{stack_of(thread)}")
            finish()

    def shut_executors_down(self, draw: random.Random) -> None:
        while not self.over():
            executor = ThreadPoolExecutor(3)
            for _ in range(12):
                executor.submit(self.task, self.draw())
            time.sleep(draw.random() * 0.005)
            executor.shutdown(wait=draw.random() < 0.5, cancel_futures=True)

    def draw(self) -> random.Random:
        return random.Random(next(self.seeds))

    def start(self, work: Callable[[random.Random], None]) -> Any:
        thread = threading.Thread(
            target=work, args=(self.draw(),), daemon=True
        )
        thread.start()
        return thread

    def in_main_thread(self) -> None:
        """Work as the others do, interrupted by signals.

        And see to it that there are always as many others: some have ended.
        """
        draw = self.draw()
        helpers = [
            self.start(self.throw),
            self.start(self.shut_executors_down),
        ]
        threads: list[Any] = []
        while not self.over():
            threads = [each for each in threads if each.is_alive()]
            while len(threads) < self.threads:
                threads.append(self.start(self.on_and_on))
            self.use_under_signals(draw)
        deadline = time.monotonic() + STUCK
        for thread in threads + helpers:
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive() and (where := where_it_hangs(thread)):
                self.hanging.append(where)

    def use_under_signals(self, draw: random.Random) -> None:
        """From here on KeyboardInterrupt may come at any moment.

        Of a timer, and of SIGUSR1, which another thread sends.
        """
        global _armed
        try:
            try:
                _armed = True
                for _ in range(100):
                    if not self.over():
                        self.once(draw)
            finally:
                _armed = False
        except SPRAYED as error:
            self.met.append(place_of(error))

    def thread_ended(self, seen: Any) -> None:
        if issubclass(seen.exc_type, SPRAYED):
            self.met.append("a thread's last lines")
        else:
            lines = traceback.format_exception(
                seen.exc_type, seen.exc_value, seen.exc_traceback
            )
            self.odd.append("".join(lines))

    def run(self) -> None:
        for number in SIGNALS:
            signal.signal(number, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
        # What logging learns first under a lock of its own, it knows then;
        # that it may lose that lock is not what is looked at here.
        for way in self.ways:
            way(self.draw())
        for name in list(logging.root.manager.loggerDict):
            for level in (10, 20, 30, 40, 50):
                logging.getLogger(name).isEnabledFor(level)
        interval = sys.getswitchinterval()
        hooks = sys.unraisablehook, threading.excepthook
        sys.setswitchinterval(1e-6)
        # all of it in C, or it would be interrupted itself
        sys.unraisablehook = functools.partial(next, self.swallowed)
        threading.excepthook = self.thread_ended
        try:
            self.in_main_thread()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self.left.set()
            sys.setswitchinterval(interval)
            sys.unraisablehook, threading.excepthook = hooks


_armed = False


def interrupt(number: int, frame: Any) -> None:
    """A signal's handler, as Python's own for Ctrl-C."""
    if _armed:
        raise KeyboardInterrupt


def place_of(error: BaseException) -> str:
    """In whose code it came."""
    trace = error.__traceback__
    name = ""
    while trace is not None:
        module = trace.tb_frame.f_globals.get("__name__", "")
        if trace.tb_frame.f_code is not interrupt.__code__:
            name = module
        trace = trace.tb_next
    for package in ("sa_reaperpool", "sqlalchemy", __package__, "threading"):
        if name.startswith(str(package)) or name == "__main__":
            return str(package if name != "__main__" else __package__)
    return "elsewhere"


def comes_of_it(error: BaseException) -> bool:
    """Is this what SQLAlchemy, or the pool, makes of such an exception?

    It wraps one that came in the midst of a statement, and invalidates the
    connection; and what it has left half done, it asserts to be done.
    """
    if isinstance(error, ConnectionReclaimed):
        return error.reason == "invalidated"
    if isinstance(error, JoinError):
        # what it has left half told, or not yet collected, is in the way
        return True
    if not isinstance(error, (StatementError, AssertionError)):
        return False
    seen = error.__cause__ or error.__context__
    while seen is not None and not isinstance(seen, SPRAYED):
        seen = seen.__cause__ or seen.__context__
    return seen is not None


def report(spray: Spray, name: str, shown: int) -> bool:
    """Say what came of it; was anything lost?"""
    pool = spray.pool
    gc.collect()
    places = Counter(spray.met)
    print(f"{name}: {len(spray.served)} checkouts")
    print(
        f"  exceptions      {len(spray.met)} met by threads, in "
        + ", ".join(f"{where} {n}" for where, n in places.most_common())
        + f"; {next(spray.swallowed)} in finalisers"
    )
    full = fill(pool, spray.size)
    failures = []

    def line(what: str, value: object, good: bool) -> None:
        if not good:
            failures.append(what)
        print(f"  {what:<16}{value}{'' if good else '   <-- lost'}")

    size = spray.size
    line("slots left", f"{full.slots} of {size}", full.slots == size)
    line("open, known", f"{full.open}, {full.known}", full.open == full.known)
    line("came to a stop", spray.stuck, not spray.stuck)
    line("double holders", len(spray.doubles), not spray.doubles)
    held = locks_held(pool)
    line("locks held", ", ".join(held) or "none", not held)
    line("threads hanging", len(spray.hanging), not spray.hanging)
    if isinstance(pool, ReaperPool):
        lives = reaper_lives(pool)
        line("reaper lives", lives, lives)
    print(f"  timeouts        {len(spray.timeouts)}")
    line("other errors", len(spray.odd), not spray.odd)
    for error in list(
        dict.fromkeys(spray.doubles + spray.odd + spray.hanging)
    )[:shown]:
        print(error)
    sys.stdout.flush()
    return not failures


def engine_with(poolclass: type[QueuePool], size: int, **options: Any) -> Any:
    return create_engine(
        "stub://",
        poolclass=poolclass,
        pool_size=size,
        max_overflow=0,
        pool_timeout=2,
        **options,
    )


POOLS: dict[str, Callable[[int], Any]] = {
    "QueuePool": lambda size: engine_with(QueuePool, size),
    "ReaperPool": lambda size: engine_with(
        ReaperPool,
        size,
        dead_connection_timeout=0.5,
        reaping_frequency=0.5,
        max_age=1,
        min_idle=1,
        max_connecting=2,
        leak_timeout=0.2,
    ),
    "ReaperPool, reservation=thread": lambda size: engine_with(
        ReaperPool,
        size,
        reservation="thread",
        dead_connection_timeout=0.5,
        reaping_frequency=0.5,
        max_age=1,
    ),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.sprays", description=__doc__
    )
    parser.add_argument("--checkouts", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=12)
    parser.add_argument("--size", type=int, default=4, help="connections")
    parser.add_argument("--pool", choices=POOLS)
    parser.add_argument(
        "--show", type=int, default=0, help="errors to show in full"
    )
    arguments = parser.parse_args()

    if arguments.pool is None:
        # a process for each: what one leaves behind is not the next one's
        statuses = [
            subprocess.call(
                [sys.executable, "-m", __spec__.name, "--pool", name]
                + sys.argv[1:]
            )
            for name in POOLS
        ]
        return int(any(statuses[1:]))
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    spray = Spray(POOLS[arguments.pool](arguments.size), arguments)

    def finish() -> NoReturn:
        good = report(spray, arguments.pool, arguments.show)
        sys.stdout.flush()
        # past the threads that a pool may have left hanging
        os._exit(not good)

    threading.Thread(target=spray.watch, args=(finish,), daemon=True).start()
    spray.run()
    finish()


if __name__ == "__main__":
    sys.exit(main())

"""``python -m sa_reaperpool demo``: the same work on two pools, and a table.

How long somebody waited, what failed and what came through is measured by
the bank (``demo.py``) for both pools alike.  Asked of the pools is only how
many connections are out, and of ours, how many it took back.
"""

from __future__ import annotations

import signal
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from contextlib import ExitStack
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import cast

from sqlalchemy import Engine
from sqlalchemy.pool import QueuePool

from . import demo
from .demo_database import ACCOUNTS
from .demo_database import Database
from .demo_screen import Screen
from .demo_screen import pool_log
from .demo_screen import table
from .demo_url import Unusable
from .pool import ReaperPool

CONNECTIONS = 4

CLEAN_UP = 5
"""Seconds; tables are dropped in one, unless the server does not answer."""


def run(url: str | None, *, seed: int, threads: int, seconds: float) -> int:
    """Run the demo, and return the exit status."""

    screen = Screen(sys.stdout)
    try:
        with ExitStack() as stack:
            interrupt = stack.enter_context(Interrupt.caught(CLEAN_UP))
            with interrupt.at_once():
                database = stack.enter_context(Database.opened(url))
            stack.enter_context(pool_log(screen))
            show = Show(database, seed, threads, seconds, screen, interrupt)
            show.run()
    except Unusable as err:
        screen.status("")
        print(f"python -m sa_reaperpool demo: error: {err}", file=sys.stderr)
        return 2

    if any(result.wrong for result in show.results):
        return 1
    return ended_by(screen, interrupt)


def ended_by(screen: Screen, interrupt: Interrupt) -> int:
    """The exit status of a command that has found nothing wrong."""

    if screen.gone:
        # what a shell gives for a program that ended by a closed pipe
        return 128 + 13
    return 128 + interrupt.received if interrupt.received else 0


class Interrupt:
    """Ctrl-C, a polite kill, or the terminal's end: noted at first, and looked
    for in between, so that no line of the clean-up is cut short.  A further
    one raises, but for those of who is impatient with the clean-up; and so
    does the first :meth:`at_once`.

    :param clean_up: seconds that this is given, after each that was heard.

    """

    def __init__(self, clean_up: float = 0) -> None:
        self.received = 0
        self.clock = time.monotonic
        self._clean_up = clean_up
        self._deaf_until = 0.0
        self._at_once = False

    @classmethod
    @contextmanager
    def caught(cls, clean_up: float = 0) -> Iterator[Interrupt]:
        interrupt = cls(clean_up)
        if threading.current_thread() is not threading.main_thread():
            # elsewhere Python does not let us
            yield interrupt
            return
        numbers = [signal.SIGINT, signal.SIGTERM]
        # not on Windows; and not where it is to go on, as under nohup
        hangup = getattr(signal, "SIGHUP", None)
        if hangup and signal.getsignal(hangup) is not signal.SIG_IGN:
            numbers.append(hangup)
        before = {
            number: signal.signal(number, interrupt.note) for number in numbers
        }
        try:
            yield interrupt
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Nothing in here is to be cleaned up, and all of it may take long."""

        self._at_once = True
        try:
            yield
        finally:
            self._at_once = False

    def note(self, number: int, frame: FrameType | None) -> None:
        now = self.clock()
        if self.received and now < self._deaf_until:
            return
        self._deaf_until = now + self._clean_up
        again, self.received = self.received, self.received or number
        if again or self._at_once:
            raise KeyboardInterrupt


@dataclass
class Result:
    """What became of the work on one pool."""

    pool: str
    tally: demo.Tally
    seconds: float
    #: not given back when the work was over
    held: int
    #: connections that the pool closed, by its reasons
    closed: Mapping[str, int]
    #: None if nobody looked
    wrong: list[str] | None
    connections: int = CONNECTIONS


class Show:
    def __init__(
        self,
        database: Database,
        seed: int,
        threads: int,
        seconds: float,
        screen: Screen,
        interrupt: Interrupt,
    ) -> None:
        self._database = database
        self._seed = seed
        self._threads = threads
        self._share = share = seconds / 2
        self._screen = screen
        self._interrupt = interrupt
        self._accidents = demo.accidents(
            seed, share, CONNECTIONS, database.backend
        )
        self._outages = outages(database, share)
        # in a short run all of it is sooner
        self._grace = min(0.2, share / 20)
        self._timeout = min(2, max(1, share / 5))
        self._options = {
            "pool_size": f"{CONNECTIONS}",
            "max_overflow": "0",
            "pool_timeout": f"{self._timeout:g}",
            "reaping_frequency": f"{min(1, share / 10):g}",
            "dead_connection_timeout": f"{self._grace:g}",
            "leak_timeout": f"{min(2, share / 5):g}",
        }
        self.results: list[Result] = []

    def run(self) -> None:
        engines = {
            "QueuePool": self._database.queue_pool(CONNECTIONS, self._timeout),
            "ReaperPool": self._database.reaper_pool(self._options),
        }
        self._introduce()
        for pool, engine in engines.items():
            if not self._ended:
                self._screen.line(f"\n{pool}")
                self._perform(pool, engine)

        self._screen.line()
        if self._interrupt.received:
            self._screen.line("Ended early.")
        if not self.results:
            return
        for line in [*summary(self.results), "", *verdict(self.results)]:
            self._screen.line(line)

    @property
    def _ended(self) -> bool:
        return bool(self._interrupt.received or self._screen.gone)

    def _introduce(self) -> None:
        deaths = len(self._accidents) - 1
        outages = ", and twice the server ends every connection"
        story = (
            f"A bank: {self._threads} threads, {ACCOUNTS} accounts and "
            f"{CONNECTIONS} database connections, for {self._share:g} s on "
            "QueuePool and then the same on ReaperPool.  On the way 1 thread "
            f"forgets a connection, {deaths} die holding one and are replaced"
            f"{outages * bool(self._outages)}."
        )
        options = " &".join(f"{k}={v}" for k, v in self._options.items())
        self._screen.line(textwrap.fill(story, 79))
        self._screen.line()
        self._screen.line(f"seed        {self._seed}")
        self._screen.line(f"database    {self._database.name}")
        self._screen.line(
            textwrap.fill(
                f"?plugin=reaperpool &{options}",
                79,
                initial_indent="ReaperPool  ",
                subsequent_indent=" " * 12,
                break_on_hyphens=False,
            ).replace(" &", "&")
        )

    def _perform(self, pool: str, engine: Engine) -> None:
        """Let the bank work on this pool, then look at its ledger."""

        bank = demo.Bank(
            engine, self._seed, self._accidents, self._screen.event
        )
        tally = bank.tally
        self._screen.clock = lambda: tally.elapsed
        with self._database.tables():
            try:
                bank.open(self._threads)
                try:
                    self._watch(bank, pool)
                    seconds = tally.elapsed
                finally:
                    ended = bank.close()
                    self._screen.status("")
                if not ended:
                    self._screen.event("some threads do not end")
                # who died just now is given that time to hand it on
                time.sleep(3 * self._grace)
                result = Result(
                    pool,
                    tally,
                    seconds,
                    held=cast(QueuePool, engine.pool).checkedout(),
                    closed=_closed(engine),
                    wrong=None,
                )
                self.results.append(result)
                bank.give_back()
                result.wrong = self._database.audit(tally.transfers)
            finally:
                bank.give_back()
                engine.dispose()

    def _watch(self, bank: demo.Bank, pool: str) -> None:
        tally = bank.tally
        outages = list(self._outages)
        every = max(0.5, self._share / 5)
        report = every
        while tally.elapsed < self._share and not self._ended:
            time.sleep(0.05)
            progress = (
                f"{tally.transfers} transfers, "
                f"{tally.failed_checkouts} failed checkouts, "
                f"longest wait {tally.longest_wait:.2f} s"
            )
            if self._screen.is_terminal:
                self._screen.status(progress)
            elif tally.elapsed >= report:
                self._screen.event(progress)
                report += every
            if outages and tally.elapsed >= outages[0]:
                del outages[0]
                self._screen.event(outage(bank, self._database, pool))


def outages(database: Database, seconds: float) -> list[float]:
    """At these times all of the pool's connections break."""

    if database.backend == "postgresql":
        return [0.3 * seconds, 0.7 * seconds]
    return []


def outage(bank: demo.Bank, database: Database, pool: str) -> str:
    """Break them, and tell."""

    with bank.break_time():
        ended = database.end_backends(pool)
    return f"in a short break the server ends every connection ({ended})"


def _closed(engine: Engine) -> Mapping[str, int]:
    if isinstance(engine.pool, ReaperPool):
        return engine.pool.stats().closed
    # QueuePool keeps no books of it, and never reaps
    return {}


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def summary(results: Sequence[Result]) -> list[str]:
    """Make the table."""

    rows = [["", *(result.pool for result in results)]]
    cells: dict[str, Callable[[Result], str]] = {
        "transfers done": lambda r: str(r.tally.transfers),
        "failed transfers": lambda r: str(r.tally.failed_transfers),
        "failed checkouts": lambda r: str(r.tally.failed_checkouts),
        "longest wait": lambda r: f"{r.tally.longest_wait:.2f} s",
        "last transfer at": lambda r: f"{r.tally.last_transfer:.1f} s",
        "threads died": lambda r: str(r.tally.deaths),
        "connections reaped": lambda r: str(r.closed.get("reaped", 0)),
        "still held at the end": lambda r: f"{r.held} of {r.connections}",
        "ledger balances": lambda r: (
            "not checked" if r.wrong is None else "NO" if r.wrong else "yes"
        ),
    }
    for title, cell in cells.items():
        rows.append([title, *map(cell, results)])
    return table(rows)


def verdict(results: Sequence[Result]) -> Iterator[str]:
    """Say in words what the table does not."""

    for result in results:
        for reason, count in result.tally.reasons.most_common(3):
            yield from textwrap.wrap(
                f"{result.pool} failed {_times(count)}: {reason}",
                79,
                subsequent_indent="  ",
            )
    if len(results) == 2:
        yield from textwrap.wrap(" ".join(_comparison(*results)), 79)
    for result in results:
        if result.wrong:
            yield f"{result.pool}: THE LEDGER DOES NOT BALANCE"
            yield from (f"  {complaint}" for complaint in result.wrong[:5])


def _comparison(queue: Result, reaper: Result) -> Iterator[str]:
    if queue.held:
        yield (
            f"At the end {queue.held} of QueuePool's {CONNECTIONS} "
            "connections were out of use, with threads that had died or "
            "forgotten them."
        )
    if queue.tally.last_transfer < 0.9 * queue.seconds:
        when = f"{queue.tally.last_transfer:.1f} s"
        yield f"It got nothing done after {when}."
    reaped, dead = (reaper.closed.get(why, 0) for why in ("reaped", "dead"))
    if reaped:
        closed = f" and {dead} that the server had closed" if dead else ""
        yield f"ReaperPool replaced {reaped} of dead threads{closed}."
    if reaper.held == 1:
        yield (
            "One was still out: its holder lives, so it was reported as a "
            "possible leak, and left alone."
        )

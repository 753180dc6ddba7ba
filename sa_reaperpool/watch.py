"""``python -m sa_reaperpool watch``: the demo's work, looked at live.

All that is shown is what any program can ask of its own pool: snapshots
(``pool.snapshot()``) and the pool's event ``reap``.
"""

from __future__ import annotations

import sys
import textwrap
import time
from collections.abc import Iterator
from contextlib import ExitStack
from typing import cast

from sqlalchemy import event

from . import demo
from .demo_database import Database
from .demo_screen import Screen
from .demo_screen import pool_log
from .demo_show import CLEAN_UP
from .demo_show import Interrupt
from .demo_show import Result
from .demo_show import ended_by
from .demo_show import outage
from .demo_show import outages
from .demo_show import summary
from .demo_show import verdict
from .demo_url import Unusable
from .pool import ReaperPool
from .snapshot import Snapshot
from .watch_parts import Feed
from .watch_parts import Frame
from .watch_parts import View
from .watch_plain import PlainView
from .watch_plain import holding
from .words import one_line

CONNECTIONS = 6

EVERY = 0.2
"""Seconds between two frames."""


def run(url: str | None, *, seed: int, threads: int, seconds: float) -> int:
    """Run it, and return the exit status."""

    screen = Screen(sys.stdout)
    try:
        with ExitStack() as stack:
            interrupt = stack.enter_context(Interrupt.caught(CLEAN_UP))
            with interrupt.at_once():
                database = stack.enter_context(Database.opened(url))
            # it would say again what is to be seen
            stack.enter_context(pool_log(None))
            watch = Watch(database, seed, threads, seconds, screen, interrupt)
            result = watch.run()
    except Unusable as err:
        print(f"python -m sa_reaperpool watch: error: {err}", file=sys.stderr)
        return 2

    return 1 if result.wrong else ended_by(screen, interrupt)


class Watch:
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
        self._seconds = seconds
        self._screen = screen
        self._interrupt = interrupt
        self._long = min(2, seconds / 10)
        # so that what a dead thread holds can be seen before it is reaped
        self._grace = min(1, seconds / 10)
        self._engine = database.reaper_pool(
            {
                "pool_size": f"{CONNECTIONS}",
                "max_overflow": "0",
                "pool_timeout": "10",
                "reaping_frequency": "1",
                "dead_connection_timeout": f"{self._grace:g}",
            }
        )
        self._pool = cast(ReaperPool, self._engine.pool)

    def run(self) -> Result:
        """Have the bank work, and show its pool; then look at its ledger."""

        feed = Feed()
        event.listen(self._pool, "reap", feed.reaped)
        accidents = [
            demo.Accident(self._seconds * 0.03, "listen"),
            *demo.accidents(
                self._seed, self._seconds, CONNECTIONS, self._database.backend
            ),
        ]
        bank = demo.Bank(self._engine, self._seed, accidents, feed.tell)
        tally = bank.tally
        self._screen.clock = lambda: tally.elapsed
        view = self._view()
        with self._database.tables():
            try:
                bank.open(self._threads)
                try:
                    with view:
                        self._show(view, bank, feed)
                    seconds = tally.elapsed
                    if self._interrupt.received:
                        self._screen.line("Ended early.")
                finally:
                    ended = bank.close()
                if not ended:
                    self._screen.event("some threads do not end")
                if not self._interrupt.received:
                    # for what threads held that died just now
                    time.sleep(1.5 * self._grace)
                last = self._pool.snapshot()
                result = Result(
                    "ReaperPool",
                    tally,
                    seconds,
                    held=last.stats.in_use,
                    closed=last.stats.closed,
                    wrong=None,
                    connections=CONNECTIONS,
                )
                bank.give_back()
                result.wrong = self._database.audit(tally.transfers)
            finally:
                bank.give_back()
                self._engine.dispose()
        self._conclude(result, feed, last)
        return result

    def _view(self) -> View:
        try:
            from .watch_view import live
        except ImportError:
            if self._screen.is_terminal:
                self._screen.line(
                    "For a live view: pip install 'sa-reaperpool[watch]'\n"
                )
        else:
            view = live(self._screen)
            if view is not None:
                return view
        self._screen.line(f"database  {self._database.name}")
        self._screen.line(
            f"{self._threads} threads, {CONNECTIONS} connections, "
            f"{self._seconds:g} s\n"
        )
        return PlainView(self._screen)

    def _show(self, view: View, bank: demo.Bank, feed: Feed) -> None:
        breaks = outages(self._database, self._seconds)
        next_frame = 0.0
        while not (self._interrupt.received or self._screen.gone):
            elapsed = bank.tally.elapsed
            if elapsed >= self._seconds:
                break
            if breaks and elapsed >= breaks[0]:
                del breaks[0]
                feed.tell(outage(bank, self._database, "ReaperPool"))
            if elapsed >= next_frame:
                next_frame = elapsed + EVERY
                view.show(self._frame(feed, elapsed))
            time.sleep(0.05)

    def _frame(self, feed: Feed, elapsed: float) -> Frame:
        events, reaped = feed.events()
        return Frame(
            self._pool.snapshot(),
            events,
            reaped,
            elapsed,
            self._seconds,
            self._database.name,
            self._long,
        )

    def _conclude(self, result: Result, feed: Feed, last: Snapshot) -> None:
        self._screen.line()
        for line in [*summary([result]), "", *_by_line(feed, last)]:
            self._screen.line(line)
        for line in verdict([result]):
            self._screen.line(line)


def _by_line(feed: Feed, last: Snapshot) -> Iterator[str]:
    """Say which lines of the program had the connections."""

    if feed.lines:
        yield "taken back, by the line that had taken it:"
        for where, count in feed.lines.most_common(10):
            yield f"{count:4}  {one_line(where, 200)}"
    held = list(holding(last))
    if held:
        yield "still held at the end:"
        for words in held:
            yield from textwrap.wrap(
                words,
                79,
                initial_indent="      ",
                subsequent_indent="      ",
                break_long_words=False,
                break_on_hyphens=False,
            )

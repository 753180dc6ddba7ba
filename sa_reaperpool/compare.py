"""``python -m sa_reaperpool compare URL``: two pools on the user's database.

Runs the same work (``compare_work.py``) on both in turns, prints a table and
what it comes to, and writes a picture.
"""

from __future__ import annotations

import gc
import platform
import sys
import textwrap
import time
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import ExitStack
from contextlib import contextmanager
from contextlib import suppress
from pathlib import Path

import sqlalchemy
from sqlalchemy import Engine

from . import __version__
from . import compare_figures as figures
from . import redact
from .compare_database import TABLE
from .compare_database import Database
from .compare_picture import page
from .compare_work import BARE
from .compare_work import MIXED
from .compare_work import Crew
from .compare_work import Log
from .compare_work import Stuck
from .demo_screen import Screen
from .demo_screen import pool_log
from .demo_screen import table
from .demo_show import Interrupt
from .demo_show import ended_by
from .demo_url import Unusable
from .demo_url import parsed
from .demo_url import sqlite_file

_BLOCK = "QueuePool", "ReaperPool", "ReaperPool", "QueuePool"
"""In this order the machine's mood meets both."""

_BLOCK_SECONDS = 10
_PARTS = {MIXED: 0.7, BARE: 0.3}
"""How much of a round is for which part."""

_TIMEOUT = 2
"""Seconds; no round is as long as the default's 30."""

_SQLITE = b"SQLite format 3\0"
"""With this begins each database of SQLite's."""


def run(
    url: str,
    *,
    seconds: float,
    threads: int,
    connections: int,
    seed: int,
    out: str,
) -> int:
    """Run the comparison, and return the exit status."""

    screen = Screen(sys.stdout)
    try:
        path = _writable(out, sqlite_file(parsed(url)))
        with ExitStack() as stack:
            interrupt = stack.enter_context(Interrupt.caught())
            with interrupt.at_once():
                database = stack.enter_context(Database.opened(url))
            stack.callback(database.leave)
            stack.enter_context(pool_log(screen))
            comparison = Comparison(
                database, seconds, threads, connections, seed, screen
            )
            comparison.introduce(path)
            comparison.run(lambda: bool(interrupt.received or screen.gone))
        if not interrupt.received and not screen.gone:
            comparison.conclude(path)
    except Unusable as err:
        screen.status("")
        words = f"python -m sa_reaperpool compare: error: {err}"
        print(words, file=sys.stderr)
        return 2

    if interrupt.received:
        screen.line("\nEnded early, before there was something to compare.")
    return ended_by(screen, interrupt)


class Comparison:
    def __init__(
        self,
        database: Database,
        seconds: float,
        threads: int,
        connections: int,
        seed: int,
        screen: Screen,
    ) -> None:
        self._database = database
        self._seconds = seconds
        self._threads = threads
        self._connections = connections
        self._seed = seed
        self._screen = screen
        blocks = max(1, round(seconds / _BLOCK_SECONDS))
        self._rounds = _BLOCK * blocks
        self._logs: list[Log] = []

    def introduce(self, path: Path) -> None:
        story = (
            f"{self._threads} threads share {self._connections} connections "
            f"for {self._seconds:g} s: in turns of "
            f"{self._seconds / len(self._rounds):g} s on QueuePool and on "
            "ReaperPool, with all options as they come but pool_size="
            f"{self._connections}, max_overflow=0 and pool_timeout="
            f"{_TIMEOUT}.  There are never more than {self._connections} "
            "connections.  Each makes a temporary table of its own, "
            f"{TABLE}, which the database drops with the connection; "
            "nothing else is read or changed.  Ctrl-C ends it."
        )
        if self._threads <= self._connections:
            story += "  With a connection for each thread, hardly any waits."
        for line in textwrap.wrap(story, 79, break_on_hyphens=False):
            self._screen.line(line)
        self._screen.line()
        for name, value in {
            "database": self._database.name,
            "seed": f"{self._seed}",
            "picture": redact.whole(f"{path}"),
        }.items():
            self._screen.line(f"{name:10}  {value}")
        self._screen.line()

    def run(self, ended: Callable[[], bool]) -> None:
        began = time.monotonic()
        self._screen.clock = lambda: time.monotonic() - began
        done = dict.fromkeys(figures.POOLS, 0)
        for pool in self._rounds:
            if ended():
                return
            done[pool] += 1
            # the same for both, and another one in each of a pool's rounds
            self._round(pool, f"{self._seed}/{done[pool]}", ended)

    def _round(self, pool: str, seed: str, ended: Callable[[], bool]) -> None:
        def watch(log: Log) -> bool:
            self._screen.status(
                f"{pool}, {figures.TITLES[log.part].lower()}: "
                f"{log.checkouts:,} checkouts"
            )
            return not ended()

        logs = []
        with self._engine(pool) as engine:
            for part, share in _PARTS.items():
                seconds = share * self._seconds / len(self._rounds)
                log = Log(pool, part, seconds)
                logs.append(log)
                # what one round left behind is not the next one's matter
                gc.collect()
                try:
                    Crew(engine, self._threads, seed).work(log, watch)
                except Stuck:
                    raise Unusable(
                        "some threads do not end: the database does not answer"
                    ) from None
                except RuntimeError as err:
                    raise Unusable(
                        f"cannot start {self._threads} threads: {err}"
                    ) from err
                if ended():
                    return
        self._logs += logs
        mixed, bare = (figures.figures([log]) for log in logs)
        self._screen.event(
            f"{pool + ':':11} {mixed.rate:,.0f}/s, longest wait "
            f"{figures.short(mixed.longest)}; no hold {bare.rate:,.0f}/s, "
            f"{figures.short(bare.longest)}"
        )

    @contextmanager
    def _engine(self, pool: str) -> Iterator[Engine]:
        if pool == "QueuePool":
            engine = self._database.queue_pool(self._connections, _TIMEOUT)
        else:
            engine = self._database.reaper_pool(
                {
                    "pool_size": f"{self._connections}",
                    "max_overflow": "0",
                    "pool_timeout": f"{_TIMEOUT}",
                }
            )
        try:
            self._database.open_all(engine, self._connections)
            yield engine
        finally:
            engine.dispose()

    def conclude(self, path: Path) -> None:
        """Print the table and its meaning, and draw it."""

        for log in self._logs:
            for reasons in (log.failed, log.refused):
                for reason in list(reasons):
                    count = reasons.pop(reason)
                    reasons[self._database.shown(reason)] += count

        sections = figures.sections(self._logs)
        verdict = list(figures.verdict(self._logs))
        rows: list[tuple[str, ...]] = [("", *figures.POOLS)]
        for section in sections:
            rows += [("", "", ""), (section.title, "", ""), *section.rows]
        self._screen.line()
        for line in table(rows):
            self._screen.line(line.rstrip())
        self._screen.line()
        for words in verdict:
            for line in textwrap.wrap(words, 79, subsequent_indent="  "):
                self._screen.line(line)

        if not any(
            figures.figures(figures.logs_of(self._logs, pool, MIXED)).rate
            for pool in figures.POOLS
        ):
            raise Unusable("no transaction came through, on neither pool")
        picture = page(self._facts(), sections, verdict, self._logs)
        try:
            path.write_text(picture, "utf-8", "backslashreplace")
        except OSError as err:
            raise Unusable(_unwritable(path, err)) from err
        self._screen.line("\npicture: " + redact.whole(f"{path}"))

    def _facts(self) -> list[tuple[str, str]]:
        return [
            ("database", self._database.dialect),
            ("threads", f"{self._threads}"),
            ("connections", f"{self._connections}"),
            ("rounds", f"{len(self._rounds)}, in turns"),
            ("in all", f"{self._seconds:g} s"),
            ("seed", f"{self._seed}"),
            ("sa-reaperpool", __version__),
            ("SQLAlchemy", sqlalchemy.__version__),
            ("Python", platform.python_version()),
        ]


def _writable(out: str, database: Path | None) -> Path:
    """Find out before the run whether the picture can be written.

    :param database: the file that is to be compared on.

    """
    path = Path(out)
    try:
        if _is_of(path, database) or _is_sqlite(path):
            raise Unusable(
                f"cannot write {redact.whole(str(path))}: it is a database"
            )
        try:
            # no harm to one that is there
            open(path, "xb").close()
        except FileExistsError:
            open(path, "ab").close()
        else:
            with suppress(OSError):
                path.unlink()
    except (OSError, ValueError) as err:
        raise Unusable(_unwritable(path, err)) from err
    return path


def _is_of(path: Path, database: Path | None) -> bool:
    """Whether this is a file of the database, or will be."""

    if database is None:
        return False
    if path.exists() and database.exists() and path.samefile(database):
        return True
    found = database.resolve()
    # what was committed last may be beside it
    beside = [found.name + end for end in ("", "-wal", "-shm", "-journal")]
    return path.resolve() in [found.with_name(name) for name in beside]


def _is_sqlite(path: Path) -> bool:
    # to read from what is no file, as a pipe, could take for ever
    if not path.is_file():
        return False
    try:
        with open(path, "rb") as file:
            return file.read(len(_SQLITE)) == _SQLITE
    except PermissionError:
        return False


def _unwritable(path: Path, err: Exception) -> str:
    reason = getattr(err, "strerror", None) or err
    return f"cannot write {redact.whole(str(path))}: {reason}"

"""What the demo writes: lines, one status line on a terminal, a table."""

from __future__ import annotations

import logging
import shutil
import textwrap
import threading
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TextIO


class Screen:
    """Writes lines from several threads.

    :param stream: where to.

    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        # Re-entrant: a line may be written by the pool's log from within
        # the garbage collector, in the midst of another line.
        self._lock = threading.RLock()
        self._status = ""
        self.is_terminal = stream.isatty()
        #: nobody reads any more, as with ``| head``
        self.gone = False
        #: seconds since something began, shown before each event
        self.clock: Callable[[], float] = lambda: 0

    def line(self, words: str = "") -> None:
        with self._lock:
            self.status("")
            self._write(words + "\n")

    def event(self, words: str) -> None:
        """Write what just happened, with its time."""

        self.line(
            textwrap.fill(
                " ".join(words.split()),
                79,
                initial_indent=f"{self.clock():7.1f} s  ",
                subsequent_indent=" " * 11,
                break_long_words=False,
                break_on_hyphens=False,
            )
        )

    def status(self, words: str) -> None:
        """Show a line that the next one replaces; only on a terminal."""

        if not self.is_terminal:
            return
        width = shutil.get_terminal_size().columns - 1
        with self._lock:
            if words:
                words = f"{self.clock():7.1f} s  {words}"[:width]
            if words != self._status:
                self._write(f"\r{words:{len(self._status)}}\r{words}")
                self._status = words

    def _write(self, words: str) -> None:
        if self.gone:
            return
        try:
            self._stream.write(words)
            self._stream.flush()
        except UnicodeEncodeError:
            plain = words.encode("ascii", "backslashreplace")
            self._write(plain.decode())
        except OSError:
            self.gone = True


class _PoolLog(logging.Handler):
    def __init__(self, screen: Screen) -> None:
        super().__init__(logging.WARNING)
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        # QueuePool logs the errors of connections that the demo broke.
        if "ReaperPool" in record.name:
            self._screen.event(f"{record.levelname} {record.getMessage()}")


@contextmanager
def pool_log(screen: Screen | None) -> Iterator[None]:
    """Show there what the pool logs, and nowhere else.

    :param screen: None for nowhere at all.

    """
    logger = logging.getLogger("sqlalchemy.pool")
    handler = _PoolLog(screen) if screen else logging.NullHandler()
    propagate, logger.propagate = logger.propagate, False
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagate


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Align the columns: the first to the left, the others to the right."""

    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        row[0].ljust(widths[0])
        + "".join(
            "   " + cell.rjust(width)
            for cell, width in zip(row[1:], widths[1:])
        )
        for row in rows
    ]

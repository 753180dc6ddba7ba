"""A real terminal, without a window: a program that is run in it, what it
has on its screen, and the keys that are typed."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from contextlib import suppress

from waiting import PATIENCE

ENTERED = "\x1b[?1049h"
LEFT = "\x1b[?1049l"
HOME = "\x1b[H"
HIDDEN = "\x1b[?25l"
SHOWN = "\x1b[?25h"

_COLOURS = re.compile(r"\x1b\[[\d;]*m")

# what would have a program think that its terminal is another one
_TOLD = re.compile("TERM|COLORTERM|NO_COLOR|FORCE_COLOR|COLUMNS|LINES|TTY_.*")


def environment(**given: str) -> dict[str, str]:
    """This process's, but for what tells about the terminal."""

    kept = {k: v for k, v in os.environ.items() if not _TOLD.fullmatch(k)}
    return {**kept, "TERM": "xterm-256color", "PYTHONUTF8": "1", **given}


class Terminal:
    """Reads what the program writes, as far as it is asked to."""

    def __init__(self, master: int, program: subprocess.Popen[bytes]) -> None:
        self._master = master
        self.program = program
        self.columns = self.rows = 0
        self._bytes = b""

    @property
    def written(self) -> str:
        """All of it, colours and all."""

        return self._bytes.decode(errors="replace")

    def resize(self, columns: int, rows: int) -> None:
        """The program is told so, as by any terminal."""

        self.columns, self.rows = columns, rows
        size = struct.pack("HHHH", rows, columns, 0, 0)
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, size)

    def type(self, keys: bytes) -> None:
        os.write(self._master, keys)

    def modes(self) -> list[object]:
        """Echo and the like."""

        return termios.tcgetattr(self._master)

    def hang_up(self) -> None:
        os.close(self._master)
        self._master = -1

    def frames(self) -> list[list[str]]:
        """What was on its other screen, one time after another: lines
        without colours, of those that were drawn whole and in its size."""

        drawn = self.written.split(LEFT)[0].split(HOME)
        frames = [_COLOURS.sub("", each).split("\r\n") for each in drawn]
        return [
            frame
            for frame in frames
            if len(frame) == self.rows
            and all(len(line) == self.columns for line in frame)
        ]

    def until(self, look: Callable[[list[str]], object]) -> list[str]:
        """Wait for a frame of which this is true, and return it."""

        seen = 0

        def found() -> list[str] | None:
            nonlocal seen
            frames = self.frames()
            new = [frame for frame in frames[seen:] if look(frame)]
            seen = len(frames)
            return new[0] if new else None

        return self.wait_for(found)

    def end(self) -> int:
        """Wait for the program's end, and return its status."""

        self.wait_for(lambda: self.program.poll() is not None)
        self._more(0)
        return self.program.returncode

    def wait_for(self, found: Callable[[], object]) -> list[str]:
        """Read until this gives something, and return that."""

        deadline = time.monotonic() + 2 * PATIENCE
        while not (result := found()):
            assert time.monotonic() < deadline, f"not found: {self.written}"
            self._more(0.05)
        return result  # type: ignore[return-value]

    def _more(self, patience: float) -> None:
        while select.select([self._master], [], [], patience)[0]:
            more = b""
            # Linux's way to say that nobody has the other end any more
            with suppress(OSError):
                more = os.read(self._master, 65536)
            if not more:
                return
            self._bytes += more
            patience = 0

    def close(self) -> None:
        self.program.kill()
        self.program.wait()
        if self._master >= 0:
            self.hang_up()


@contextmanager
def terminal(
    *arguments: str, columns: int = 80, rows: int = 24, **given: str
) -> Iterator[Terminal]:
    """Run this with Python in a terminal of its own.

    :param given: for its environment.

    """
    master, slave = pty.openpty()
    # the leader of a session gets the first terminal that it opens
    program = subprocess.Popen(
        [
            "sh",
            "-c",
            'exec "$0" "$@" <"$TERMINAL" >"$TERMINAL" 2>&1',
            sys.executable,
            *arguments,
        ],
        env=environment(TERMINAL=os.ttyname(slave), **given),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    there = Terminal(master, program)
    try:
        # before the program has come so far as to look
        there.resize(columns, rows)
        yield there
    finally:
        os.close(slave)
        there.close()

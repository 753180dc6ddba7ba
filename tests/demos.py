"""Runs the commands as a user would: each as a process of its own."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

COMMAND = [sys.executable, "-m", "sa_reaperpool"]


@dataclass
class Ended:
    """What a command wrote, and how it ended."""

    status: int
    out: str
    err: str

    def table(self) -> dict[str, list[str]]:
        """The rows by their titles, a cell for each pool."""

        rows = {}
        for line in self.out.splitlines():
            cells = re.split(r" {3,}", line.strip())
            if len(cells) > 1 and not line.startswith(" "):
                rows[cells[0]] = cells[1:]
        return rows

    def part(self, pool: str) -> str:
        """What was written while the work was done on this pool."""

        return self.out.split(f"\n{pool}\n")[1].split("\n\n")[0]


def demo(*arguments: str, command: str = "demo") -> Ended:
    """Run it to its end."""

    done = subprocess.run(
        [*COMMAND, command, *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


class Running:
    """A command under way."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._out = ""

    def read_until(self, pattern: str) -> str:
        """Read its lines up to the first that matches; return that."""

        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._out += line
            if re.search(pattern, line):
                return line
        raise AssertionError(f"no {pattern!r} in:\n{self._out}")

    def interrupt_until_it_ends(self) -> Ended:
        """As who is very impatient."""

        for _ in range(600):
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(0.05)
                break
            except subprocess.TimeoutExpired:
                pass
        return self.end()

    def end(self) -> Ended:
        out, err = self.process.communicate(timeout=30)
        return Ended(self.process.returncode, self._out + out, err)


@contextmanager
def running(*arguments: str, command: str = "demo") -> Iterator[Running]:
    with subprocess.Popen(
        [*COMMAND, command, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    ) as process:
        try:
            yield Running(process)
        finally:
            # nothing if it ended
            process.kill()

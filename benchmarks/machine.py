"""What the machine itself adds: how late it runs who should run.

A wait of milliseconds says something of a pool only where the machine lets
threads run when they can.  A virtual one may not: its host runs something
else meanwhile, which Linux counts as stolen time.  Beside a measurement, a
process that only sleeps tells by how much it woke up late.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import suppress
from types import TracebackType

_SLEEPER = """
import select, sys, time
late, before, told = 0.0, time.perf_counter(), []
while not told:
    told = select.select([sys.stdin], [], [], 0.001)[0]
    # from one to the next, so that no moment is left out
    now = time.perf_counter()
    late, before = max(late, now - before - 0.001), now
print(late)
"""


class Machine:
    """Watches it for as long as this is open."""

    late: float | None = None
    """By how many seconds a sleeping process woke up late, at most."""

    stolen: float | None = None
    """The part of the processors' time that the host gave to others; None
    where the system does not tell."""

    def __enter__(self) -> Machine:
        self._sleeper = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _SLEEPER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._before = _times()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        before, after = self._before, _times()
        if before is not None and after is not None:
            spent = [b - a for a, b in zip(before, after)]
            self.stolen = spent[7] / max(1, sum(spent))
        told, _ = self._sleeper.communicate("\n")
        # an interruption ends it as well
        with suppress(ValueError):
            self.late = float(told)


def _times() -> list[int] | None:
    """User, nice, system, idle, waiting, interrupts, soft ones, stolen."""
    try:
        with open("/proc/stat") as file:
            return [int(each) for each in file.readline().split()[1:9]]
    except (OSError, ValueError):
        return None

"""Waiting for what other threads and servers do, without guessing."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Long enough for any machine: reached only by a test that fails.
PATIENCE = 20.0


def eventually(
    condition: Callable[[], T], within: float = PATIENCE, what: str = ""
) -> T:
    """Wait until this is true, and return it; fail when the time is up."""

    deadline = time.monotonic() + within
    pause = threading.Event()
    while True:
        late = time.monotonic() > deadline
        result = condition()
        if result:
            return result
        if late:
            raise AssertionError(
                f"not within {within} s: {what or 'condition'}, it is "
                f"{result!r}"
            )
        pause.wait(0.005)


def throughout(condition: Callable[[], object], seconds: float) -> None:
    """Fail as soon as this is not true, at any time during so long."""

    deadline = time.monotonic() + seconds
    pause = threading.Event()
    while time.monotonic() < deadline:
        assert condition()
        pause.wait(0.01)


class Worker(threading.Thread):
    """A thread whose result, or exception, :meth:`result` passes on."""

    def __init__(self, work: Callable[[], object], name: str | None = None):
        super().__init__(name=name, daemon=True)
        self._work: Callable[[], object] | None = work
        self._value: object = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        assert self._work is not None
        try:
            self._value = self._work()
        except BaseException as error:
            self._error = error
        finally:
            # nothing here may keep alive what the work referred to
            self._work = None

    def result(self, within: float = PATIENCE) -> object:
        """Wait for the thread's end."""

        self.join(within)
        assert not self.is_alive(), f"{self.name} does not end"
        if self._error is not None:
            raise self._error
        return self._value


def in_a_thread_that_ends(
    work: Callable[[], object], name: str | None = None
) -> object:
    """What the work returned; its thread has ended."""

    return Worker(work, name).result()

"""Threads for what may block: short-lived, and few for each pool.

A task that hangs on a frozen peer delays what else its own pool has to do,
once as many hang as a pool may use threads, and nothing of any other pool.

No task is lost.  One whose like is being run runs after it, since what that
has looked at may have changed meanwhile; and one for which no thread could
be started waits for the next attempt.
"""

from __future__ import annotations

import logging
import threading
from typing import Any
from typing import Callable
from typing import Hashable

log = logging.getLogger("sqlalchemy.pool.impl.ReaperPool")

Task = Callable[[], object]


class Crew:
    """Runs tasks in threads that end when there are no more.

    Tasks are handed in by one thread, the reaper's, which no signal
    interrupts.

    :param each: how many threads one owner may have at a time.

    :param lock: one that knows its owner, as a ``threading.RLock``.

    """

    def __init__(self, each: int = 3, lock: Any = None):
        self._each = each
        self._lock: Any = lock or threading.RLock()
        # by owner and key, in the order in which they came
        self._waiting: dict[int, dict[Hashable, Task]] = {}
        # by owner, how many
        self._threads: dict[int, int] = {}
        # what is being run, and what is to be run again after it
        self._running: dict[tuple[int, Hashable], Task | None] = {}

    def submit(self, owner: int, key: Hashable, task: Task) -> None:
        """Run a task soon, unless one with this key waits to be run.

        If one with this key is being run, this runs after it.

        :param owner: who has a right to so many threads.

        """
        with self._lock:
            if (owner, key) in self._running:
                self._running[owner, key] = task
                return
            self._waiting.setdefault(owner, {})[key] = task
        self._start_one(owner)

    @property
    def understaffed(self) -> bool:
        """Do tasks wait for threads that could not be started?"""
        with self._lock:
            return bool(self._owners_short_of_threads())

    def staff(self) -> None:
        """Try again to start the threads that are missing."""
        with self._lock:
            owners = self._owners_short_of_threads()
        for owner in owners:
            self._start_one(owner)

    def _owners_short_of_threads(self) -> list[int]:
        # a thread leaves only when there is nothing left for it
        return [
            owner
            for owner in self._waiting
            if self._threads.get(owner, 0) < self._each
        ]

    def _start_one(self, owner: int) -> None:
        with self._lock:
            if self._threads.get(owner, 0) >= self._each:
                return
            self._threads[owner] = self._threads.get(owner, 0) + 1
        try:
            threading.Thread(
                target=self._work,
                args=(owner,),
                name="sa_reaperpool helper",
                daemon=True,
            ).start()
        except Exception as error:
            # no more threads or memory to be had, or the interpreter ends
            log.debug("No thread for upkeep: %s", error)
            with self._lock:
                self._leave(owner)

    def _work(self, owner: int) -> None:
        while True:
            with self._lock:
                tasks = self._waiting.get(owner)
                if tasks is None:
                    self._leave(owner)
                    return
                key = next(iter(tasks))
                task = tasks.pop(key)
                if not tasks:
                    del self._waiting[owner]
                self._running[owner, key] = None
            try:
                task()
            except BaseException:
                # whatever it is, it ends the task and not the thread
                log.error("Exception during upkeep", exc_info=True)
            finally:
                with self._lock:
                    again = self._running.pop((owner, key))
                    if again is not None:
                        self._waiting.setdefault(owner, {})[key] = again
            # the pool must not live on because this thread waits
            del task, again, tasks, key

    def _leave(self, owner: int) -> None:
        left = self._threads[owner] - 1
        if left:
            self._threads[owner] = left
        else:
            del self._threads[owner]

"""Threads for what may block: short-lived, and few for each pool.

A task that hangs on a frozen peer delays what else its own pool has to do,
once as many hang as a pool may use threads, and nothing of any other pool.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Callable
from typing import Hashable

log = logging.getLogger("sqlalchemy.pool.impl.ReaperPool")

Task = Callable[[], object]


class Crew:
    """Runs tasks in threads that end when there are no more.

    :param each: how many threads one owner may have at a time.

    """

    def __init__(self, each: int = 3):
        self._each = each
        self._lock = threading.Lock()
        self._waiting: dict[int, deque[tuple[Hashable, Task]]] = {}
        self._threads: dict[int, int] = {}
        self._known: set[Hashable] = set()

    def submit(self, owner: int, key: Hashable, task: Task) -> bool:
        """Run a task soon, unless one with this key is to be run already.

        :param owner: who has a right to so many threads.

        """
        with self._lock:
            if (owner, key) in self._known:
                return False
            self._known.add((owner, key))
            self._waiting.setdefault(owner, deque()).append((key, task))
            if self._threads.get(owner, 0) >= self._each:
                return True
            self._threads[owner] = self._threads.get(owner, 0) + 1
        try:
            threading.Thread(
                target=self._work,
                args=(owner,),
                name="sa_reaperpool helper",
                daemon=True,
            ).start()
        except RuntimeError as error:
            # no more threads, or the interpreter ends: the next round
            # finds again what is to be done
            log.debug("No thread for upkeep: %s", error)
            with self._lock:
                self._leave(owner)
                self._known.discard((owner, key))
                self._waiting.pop(owner, None)
            return False
        return True

    def _work(self, owner: int) -> None:
        while True:
            with self._lock:
                try:
                    key, task = self._waiting[owner].popleft()
                except (KeyError, IndexError):
                    self._leave(owner)
                    return
            try:
                task()
            except BaseException:
                # whatever it is, it ends the task and not the thread
                log.error("Exception during upkeep", exc_info=True)
            finally:
                with self._lock:
                    self._known.discard((owner, key))
            # the pool must not live on because this thread waits
            del task

    def _leave(self, owner: int) -> None:
        left = self._threads[owner] - 1
        if left:
            self._threads[owner] = left
        else:
            del self._threads[owner]
            if not self._waiting.get(owner):
                self._waiting.pop(owner, None)

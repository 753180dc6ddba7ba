"""Many threads that do one thing again and again, all at the same time."""

from __future__ import annotations

import threading
import time
from array import array
from typing import Callable
from typing import NamedTuple


class Crowd(NamedTuple):
    waits: list[array[float]]
    """What each thread has noted."""

    took: float
    """Seconds from the first one's start to the last one's end."""


def crowd(
    threads: int, seconds: float, step: Callable[[array[float]], object]
) -> Crowd:
    """Have so many threads do a step for so long.

    :param step: one of them, given where to note how long it waited.  It
     must not wait for longer once the others come back no more.

    """
    waits = [array("d") for _ in range(threads)]
    start = threading.Barrier(threads)
    goes_on = [True]

    def work(waited: array[float]) -> None:
        try:
            start.wait()
        except threading.BrokenBarrierError:
            return
        end = time.monotonic() + seconds
        while time.monotonic() < end and goes_on:
            step(waited)

    workers = [
        threading.Thread(target=work, args=(waited,)) for waited in waits
    ]
    began = time.perf_counter()
    try:
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    except BaseException:
        # Ctrl-C: those who wait are soon served, as nobody comes back
        goes_on.clear()
        start.abort()
        for worker in workers:
            if worker.ident is not None:
                worker.join()
        raise
    return Crowd(waits, time.perf_counter() - began)

"""A stand-in for ``pool.with_connection()`` until pools have that.

To be deleted then, with the one line in wrapper.py that names it.
"""

from __future__ import annotations

import threading
import weakref
from contextlib import contextmanager
from typing import Any
from typing import Iterator

from .checkout import UNSET


class _Here(threading.local):
    def __init__(self) -> None:
        self.handles: weakref.WeakKeyDictionary[Any, Any] = (
            weakref.WeakKeyDictionary()
        )


_here = _Here()


@contextmanager
def with_connection(pool: Any, timeout: float | None = UNSET) -> Iterator[Any]:
    handle = _here.handles.get(pool)
    if handle is not None:
        yield handle
        return
    handle = _here.handles[pool] = pool.connect(timeout)
    try:
        yield handle
    finally:
        del _here.handles[pool]
        handle.close()

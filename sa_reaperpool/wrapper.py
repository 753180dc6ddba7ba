"""Wrapper: a pool that looks like the one object it took the place of.

For a program with a global client that is to become a pool of clients.  It
can first put a Wrapper in the global's place, and then, one by one, turn
the places that use it into ``with pool.connect() as client:``.
"""

from __future__ import annotations

import operator
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING
from typing import Any
from typing import Callable

from sqlalchemy.exc import ArgumentError
from sqlalchemy.exc import InvalidRequestError

from .adapter import AdaptedQueuePool
from .guards import level_of

if TYPE_CHECKING:
    from .pool import ReaperPool

_UNKNOWN = object()


class Wrapper:
    """Stands in for one object, and uses any of a pool's.

    Each method call checks an object out, calls its method and gives it
    back; attributes are read likewise, and so are ``wrapper[key]`` and
    ``key in wrapper``.  Two calls in a row may therefore meet different
    objects.  Where that matters (a transaction, a lock, a pipeline, what
    one call leaves for the next) keep one for a block::

        with wrapper.with_connection():
            wrapper.watch("stock")
            wrapper.decr("stock")

    The same goes for what a call returns, if it needs the object still: a
    cursor, a generator, a pipeline.  It is to be used up within such a
    block.

    Attributes cannot be set, as there is no one object to set them on: the
    pool's creator is the place.  ``close()`` or ``quit()`` is a call like
    any other, and closes one of the objects, not the pool.

    How long a call may wait for an object is the pool's ``timeout``, or
    what :meth:`.ReaperPool.checkout_timeout` says around it.

    :param pool: whose objects to use; ``wrapper.pool`` from then on.

    :raises sqlalchemy.exc.ArgumentError: that is no pool.

    """

    pool: ReaperPool
    _methods: dict[str, object]

    def __init__(self, pool: ReaperPool):
        if not isinstance(pool, AdaptedQueuePool):
            # not shown: it may be a URL, with a password
            raise ArgumentError(
                "Wrapper() takes a ReaperPool, and was given a "
                f"{type(pool).__name__}"
            )
        # where __setattr__() does not refuse
        vars(self).update(pool=pool, _methods={})

    def with_connection(
        self, timeout: float | None = None
    ) -> AbstractContextManager[Any]:
        """Keep one object in this thread, until the block ends.

        All that this thread does through the wrapper inside the block is
        done with this object, and ``as client`` gives a handle to it.  It
        is the pool's :meth:`.ReaperPool.with_connection`: a block inside of
        another keeps the same object, the outermost one gives it back.

        :param timeout: seconds that the checkout may take; None: what
         :meth:`.ReaperPool.checkout_timeout` says, or the pool's
         ``timeout``.

        :raises CheckoutTimeout: none came free within the time limit.

        """
        return self.pool.with_connection(timeout)

    def _use(
        self,
        function: Callable[..., Any],
        /,
        *args: Any,
        in_turn: bool = False,
    ) -> Any:
        """Call this with an object of the pool's.

        :param in_turn: where that is a DBAPI connection, with one that minds
         what else is done on it.

        """
        with self.with_connection() as handle:
            # Not by way of the handle, whose own names hide the object's.
            # Nobody keeps it longer than the handle.
            client = handle.dbapi_connection
            if client is None:
                raise InvalidRequestError(
                    "The object that this block keeps was given back, or "
                    "invalidated, before its end"
                )
            if in_turn and hasattr(type(client), "cursor"):
                result = function(_InTurn(handle, client), *args)
            else:
                result = function(client, *args)
            # one of those methods that end in `return self`
            return self if result is client else result

    def _call(self, name: str, /, *args: Any, **kwargs: Any) -> Any:
        return self._use(
            lambda client: getattr(client, name)(*args, **kwargs), in_turn=True
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            # copy, pickle and the like ask for what may be missing
            raise AttributeError(name)
        # What is known to be a method needs no look at an object, for which
        # a thread might have to wait in line one time more.
        if self._methods.get(name, _UNKNOWN) is not self.pool.creator:
            value, is_method = self._use(_look, name)
            if is_method:
                self._methods[name] = self.pool.creator
            elif not callable(value) or isinstance(value, type):
                # A class, such as a driver's errors, is not to be called
                # only: `except wrapper.Error`
                return value
        return partial(self._call, name)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(
            f"{name!r} cannot be set on a wrapper, which stands for all "
            "objects of its pool: set it on each, in the pool's creator"
        )

    def __getitem__(self, key: Any) -> Any:
        return self._use(operator.getitem, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._use(operator.setitem, key, value)

    def __delitem__(self, key: Any) -> None:
        self._use(operator.delitem, key)

    def __contains__(self, key: Any) -> bool:
        return bool(self._use(operator.contains, key))

    # an iterator would outlive its checkout
    __iter__ = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self.pool!r}>"


class _InTurn:
    """A DBAPI connection that may be joined to others' work.

    Its commit is not to be theirs.
    """

    __slots__ = ("_handle", "_client")

    def __init__(self, handle: Any, client: Any):
        self._handle = handle
        self._client = client

    def __getattr__(self, name: str) -> Any:
        if name in ("cursor", "commit", "rollback"):
            return getattr(self._handle, name)
        found = getattr(self._client, name)
        level = level_of(self._handle)
        return found if level is None else level.attribute(name, found)


def _look(client: Any, name: str) -> tuple[Any, bool]:
    """An attribute, and whether all of the object's kind have it to call."""
    value = getattr(client, name)
    kind = getattr(type(client), name, None)
    if isinstance(value, type):
        return value, False
    return value, callable(value) and callable(kind)

"""The one room where private parts of SQLAlchemy are met.

The package relies on the following names, each guarded by a test in
tests/test_adapter.py which fails when it changes.

``Pool._do_get()``, ``Pool._do_return_conn()``
    What a checkout takes its record from and a return gives it to;
    ``QueuePool`` itself overrides the same two.

``Pool._creator``, ``Pool._should_wrap_creator()``
    What opens a connection, as it was given, and what makes of it the
    function through which every connect goes, the first and each reconnect;
    wrapped here so that the pool knows the moment.

``Pool._close_connection()``
    Through which every close goes.

``Pool._invalidate()``
    Called by ``Connection`` when an error is a disconnect, to mark all
    connections of the pool as suspect.

``Pool._dialect``, ``_timeout``, ``_max_overflow``, ``_pool``, ``_overflow``,
``_recycle``, ``_pre_ping``, ``_reset_on_return``, ``_orig_logging_name``
    A pool's state under the names that SQLAlchemy and its tests use.

``Pool._invalidate_time``, ``_ConnectionRecord._soft_invalidate_time``
    Connections that are older are replaced at their next checkout; where
    none is to be, a checkout goes the short way.

``_clslevel`` of a class's events, ``_listen()`` of a class of events
    Who listens to all pools' checkouts and returns, in collections that
    stay the same; and the moment when somebody begins to listen to one's.

``Pool._should_log_debug()``, and ``_dispatch`` as an argument of ``Pool``
    What a finaliser is told of logging; how ``recreate()`` hands on events.

``_ConnDialect``
    The dialect of a pool that belongs to no engine; derived from, for its
    ``_do_ping_w_event()`` raises.

``Dialect._do_ping_w_event()``
    Asks the server, in the way of ``pre_ping``.

``_ConnectionRecord`` (``connect=False``, ``fairy_ref``, ``starttime``,
``get_connection()``, ``_checkin_failed()``,
``_is_hard_or_soft_invalidated()``, ``finalize_callback``)
    The entry of a pool.  Made unconnected, so that a slot can be taken
    before the connect begins.

``_ConnectionFairy`` (``_pool``, ``_connection_record``, ``_counter``,
``_echo``, ``_checkin()``, ``_close_special()``, ``_checkout_existing()``,
and ``dbapi_connection`` as a slot)
    The handle.  Its class is changed once SQLAlchemy's own checkout is
    done with it, so that this is exactly SQLAlchemy's own.

``_dispatch_target`` of a class of events
    Whose events they are; that is how the pool has one more.

``_exec_once_mutex``, ``_exec_w_sync_once`` of an event's listeners
    What SQLAlchemy holds during a pool's first connect; is that done.

``only_once()``: ``once``, ``fn`` and ``retry_on_exception`` inside of it
    What it has still to call once.  It is empty while that is called.

``_finalize_fairy()``, ``_ConnectionFairy._finalizer`` (2.1),
``_strong_ref_connection_records`` (2.0)
    What returns a handle that was garbage collected.  It is replaced by
    ``Handle.__del__()``, so that this return too has to win the lease
    before it touches the connection.
"""

from __future__ import annotations

from .ended import ReclaimedHandle
from .ended import fence
from .ended import finish_joins
from .ended import is_inherited
from .ended import return_collected
from .ended import return_fenced
from .entry import Entry
from .handles import Handle
from .handles import attach
from .handles import lend
from .joins import Join
from .no_dialect import NoDialect
from .pool import AdaptedQueuePool
from .pool import ReaperPoolEvents

__all__ = [
    "AdaptedQueuePool",
    "Entry",
    "Handle",
    "Join",
    "NoDialect",
    "ReaperPoolEvents",
    "ReclaimedHandle",
    "attach",
    "fence",
    "finish_joins",
    "is_inherited",
    "lend",
    "return_collected",
    "return_fenced",
]

"""The private parts of SQLAlchemy that adapter/ relies on.

A test that fails here says that a new SQLAlchemy has changed one of them.
Each says what to look at then; SQLAlchemy's own tests of its pools, run with
ReaperPool, say whether it still works.  That no other file relies on one,
and that none is left out, is tested in test_adapter_alone.py.
"""

from __future__ import annotations

import inspect
import time
import weakref

import pytest
from sqlalchemy import create_engine
from sqlalchemy import event
from sqlalchemy.engine import Dialect
from sqlalchemy.pool import Pool
from sqlalchemy.pool import QueuePool
from sqlalchemy.pool import base
from sqlalchemy.pool.events import PoolEvents
from stub import Driver
from stub import StubDialect

from sa_reaperpool import ReaperPool
from sa_reaperpool import adapter
from sa_reaperpool.adapter import dialects

FINALIZER = not hasattr(base, "_strong_ref_connection_records")


@pytest.fixture
def pool():
    return QueuePool(Driver().connect, pool_size=3, max_overflow=4, timeout=5)


def parameters(function):
    return list(inspect.signature(function).parameters)


def look_at(what, where):
    return f"SQLAlchemy changed {what}: see {where} in adapter/__init__.py"


# Pool


@pytest.mark.parametrize(
    "name, expected",
    [
        ("_do_get", ["self"]),
        ("_do_return_conn", ["self", "record"]),
        ("_should_wrap_creator", ["self", "creator"]),
        ("_close_connection", ["self", "connection", "terminate"]),
        ("_invalidate", ["self", "connection", "exception", "_checkin"]),
        ("_should_log_debug", ["self"]),
    ],
)
def test_the_hooks_of_a_pool(name, expected):
    assert parameters(getattr(QueuePool, name)) == expected, look_at(
        f"Pool.{name}()", "AdaptedQueuePool's hooks"
    )
    if name != "_should_log_debug":
        assert parameters(getattr(ReaperPool, name)) == expected


def test_a_checkout_gets_its_record_from_the_pool(monkeypatch, pool):
    calls = []
    for name in ("_do_get", "_do_return_conn"):
        original = getattr(pool, name)

        def noted(*args, _name=name, _original=original):
            calls.append(_name)
            return _original(*args)

        monkeypatch.setattr(pool, name, noted)
    pool.connect().close()
    pool.connect().invalidate()
    pool.connect().detach()
    assert calls == ["_do_get", "_do_return_conn"] * 3, look_at(
        "what a checkout and a return call", "_do_get() and _do_return_conn()"
    )


def test_every_connect_and_close_passes_the_hooks():
    calls = []

    class Noting(QueuePool):
        def _should_wrap_creator(self, creator):
            connect = super()._should_wrap_creator(creator)

            def noted(record):
                calls.append("connect")
                return connect(record)

            return noted

        def _close_connection(self, connection, *, terminate=False):
            calls.append(f"close {terminate}")
            super()._close_connection(connection, terminate=terminate)

    pool = Noting(Driver().connect)
    pool.connect().invalidate()
    handle = pool.connect()
    handle.detach()
    handle.close()
    pool.connect().close()
    pool.dispose()
    assert calls == [
        "connect",
        "close True",
        "connect",
        "close False",
        "connect",
        "close False",
    ], look_at("opening and closing", "_connect() and _closed()")


def test_every_connect_goes_through_what_was_wrapped():
    class Wrapping(QueuePool):
        def _should_wrap_creator(self, creator):
            given.append(creator)
            return invoke

    def invoke(record):
        records.append(record)
        return driver.connect()

    driver, given, records = Driver(), [], []
    creator = driver.connect
    pool = Wrapping(creator)
    message = look_at("Pool._creator", "creator and _should_wrap_creator()")
    assert given == [creator], message
    assert pool._creator is creator, message
    assert pool._invoke_creator is invoke, message
    assert records == [pool.connect()._connection_record], message


def test_an_isolation_level_is_noted_for_its_reset(tmp_path):
    engine = create_engine(f"sqlite:///{tmp_path}/a.db", poolclass=QueuePool)
    with engine.connect() as connection:
        record = connection.connection._connection_record
        message = look_at("finalize_callback", "Entry.has_rules_of_user")
        assert not record.finalize_callback, message
        connection.execution_options(isolation_level="AUTOCOMMIT")
        assert record.finalize_callback, message
    assert not record.finalize_callback, message


def test_connection_marks_the_pool_suspect_through_the_hook(pool):
    handle = pool.connect()
    record = handle._connection_record
    assert not record._is_hard_or_soft_invalidated()
    before = time.time()
    pool._invalidate(handle, None)
    assert pool._invalidate_time >= before
    assert record._is_hard_or_soft_invalidated(), look_at(
        "what makes a record invalid", "suspect()"
    )


class Listened(QueuePool):
    pass


def test_a_soft_invalidation_is_noted_at_the_record(pool):
    handle = pool.connect()
    record = handle._connection_record
    message = look_at("_soft_invalidate_time", "Entry and connect()")
    assert record._soft_invalidate_time == 0, message
    handle.invalidate(soft=True)
    assert record._soft_invalidate_time > record.starttime, message


def test_who_listens_to_all_pools_is_in_one_collection():
    message = look_at("_clslevel", "look_whether_usual()")
    listeners = QueuePool.dispatch.checkout._clslevel[QueuePool]
    assert not listeners, message

    def listener(*args):
        pass

    event.listen(Pool, "checkout", listener)
    try:
        assert QueuePool.dispatch.checkout._clslevel[QueuePool] is listeners
        assert len(listeners) == 1, message
    finally:
        event.remove(Pool, "checkout", listener)
    assert not listeners, message


def test_who_listens_to_a_pool_passes_its_class_of_events(monkeypatch):
    class Events(PoolEvents):
        _dispatch_target = Listened

        @classmethod
        def _listen(cls, event_key, **kw):
            super()._listen(event_key, **kw)
            keys.append(event_key)

    keys = []
    pool = Listened(Driver().connect)
    event.listen(pool, "checkin", lambda *args: None)
    message = look_at("PoolEvents._listen()", "ReaperPoolEvents")
    assert [key.dispatch_target for key in keys] == [pool], message
    assert pool.dispatch.checkin, message


def test_the_state_of_a_pool(pool):
    state = {
        "_max_overflow": 4,
        "_timeout": 5,
        "_overflow": -3,
        "_recycle": -1,
        "_pre_ping": False,
        "_reset_on_return": base.reset_rollback,
        "_orig_logging_name": None,
    }
    for name, expected in state.items():
        assert getattr(pool, name) == expected, look_at(
            f"Pool.{name}", "_init_base() and _base_arguments()"
        )
    assert pool._pool.maxsize == 3
    assert type(pool._dialect) is base._ConnDialect, look_at(
        "a pool without a dialect", "has_dialect"
    )
    named = QueuePool(Driver().connect, logging_name="books")
    assert named._orig_logging_name == "books"


def test_a_pool_is_made_of_these_arguments():
    missing = {
        "creator",
        "recycle",
        "echo",
        "logging_name",
        "reset_on_return",
        "events",
        "dialect",
        "pre_ping",
        "_dispatch",
    } - set(parameters(Pool.__init__))
    assert not missing, look_at("Pool's arguments", "_init_base()")


def test_a_dialect_pings_by_this_name():
    for dialect in (Dialect, base._ConnDialect):
        assert parameters(dialect._do_ping_w_event) == [
            "self",
            "dbapi_connection",
        ], look_at(f"{dialect.__name__}._do_ping_w_event()", "ping()")


def test_pre_ping_asks_by_this_name():
    driver, dialect = Driver(), StubDialect()
    pool = QueuePool(driver.connect, dialect=dialect, pre_ping=True)
    asked = []
    dialect._do_ping_w_event = lambda each: not asked.append(each)
    pool.connect().close()
    pool.connect().close()
    assert asked == driver.connections, look_at(
        "Dialect._do_ping_w_event()", "ping()"
    )


def test_first_connect_is_made_under_this_mutex():
    engine = create_engine(
        "sqlite://", poolclass=QueuePool, creator=Driver().connect
    )
    held = []

    @event.listens_for(engine.pool, "connect", insert=True)
    def connect(*args):
        mutex = engine.pool.dispatch.connect._exec_once_mutex
        held.append(mutex.locked())

    # what the dialect does with a stub is no matter here
    with pytest.raises(Exception):
        engine.connect()
    assert held == [True], look_at(
        "_exec_once_mutex", "unlock_first_connect()"
    )


def test_the_mutex_is_made_anew_where_there_is_none(pool):
    event.listen(pool, "connect", lambda *args: None)
    events = pool.dispatch.connect
    message = look_at("_exec_once_mutex", "unlock_first_connect()")
    assert events._exec_once_mutex is None, message
    assert events._exec_w_sync_once is False, message
    pool.connect()
    assert not events._exec_once_mutex.locked(), message
    assert events._exec_w_sync_once is True, message


def test_what_is_called_once_is_taken_out_while_it_is_called(pool):
    calls = []

    def initialise(*args):
        names = listener.__code__.co_freevars
        cells = dict(zip(names, listener.__closure__))
        calls.append(cells["once"].cell_contents.copy())
        assert cells["fn"].cell_contents is initialise
        assert cells["retry_on_exception"].cell_contents is True

    event.listen(pool, "connect", initialise, _once_unless_exception=True)
    (listener,) = pool.dispatch.connect
    pool.connect()
    message = look_at("only_once()", "_rearm()")
    assert calls == [[]], message
    dialects._rearm(listener)
    listener()
    assert calls == [[], []], message


# records


def test_a_record_is_made_unconnected():
    driver = Driver()
    record = base._ConnectionRecord(QueuePool(driver.connect), connect=False)
    message = look_at("_ConnectionRecord", "Entry")
    assert driver.connects == 0, message
    assert record.dbapi_connection is None, message
    assert record.fairy_ref is None, message
    before = time.time()
    connection = record.get_connection()
    assert record.dbapi_connection is connection, message
    assert before <= record.starttime <= time.time(), message
    record.close()
    assert record.dbapi_connection is None and connection.closed, message


def test_a_record_gives_itself_back_after_a_failure(pool):
    handle = pool.connect()
    record = handle._connection_record
    connection = record.dbapi_connection
    record._checkin_failed(ValueError("gone"))
    message = look_at("_checkin_failed()", "Entry.discard()")
    assert connection.closed, message
    assert list(pool._pool.queue) == [record], message
    assert record.fairy_ref is None, message


def test_an_entry_adds_names_and_hides_none():
    added = vars(adapter.Entry).keys() - {
        "__init__",
        "__del__",
        "__doc__",
        "__slots__",
        "__module__",
        "__annotations__",
        # to have it in a slot
        "_soft_invalidate_time",
        # a public name, with what it is called for as before
        "invalidate",
        "__static_attributes__",
        "__firstlineno__",
    }
    record = QueuePool(Driver().connect).connect()._connection_record
    hidden = {name for name in added if hasattr(record, name)}
    assert not hidden, look_at(f"_ConnectionRecord: {hidden}", "Entry")


# events


def test_whose_events_a_class_of_events_has():
    assert PoolEvents._dispatch_target is Pool, look_at(
        "PoolEvents._dispatch_target", "ReaperPoolEvents"
    )


# handles


def test_a_handle_has_these_fields(pool):
    handle = pool.connect()
    message = look_at("_ConnectionFairy", "Handle and attach()")
    assert type(handle) is base._ConnectionFairy, message
    record = handle._connection_record
    assert record.fairy_ref() is handle, message
    assert handle._pool is pool, message
    assert handle._counter == 1, message
    assert hasattr(handle, "_echo"), message
    assert handle.dbapi_connection is record.dbapi_connection, message
    # set past the class of a handle that was taken back
    slot = vars(base._ConnectionFairy)["dbapi_connection"]
    slot.__set__(handle, None)
    assert handle.dbapi_connection is None, message
    # where the lease is kept, and what refers to it
    assert handle.__dict__ is not None, message
    assert weakref.ref(handle)() is handle, message


def test_a_handles_class_can_be_changed():
    for kind in (adapter.Handle, adapter.ReclaimedHandle):
        handle = QueuePool(Driver().connect).connect()
        handle.__class__ = kind
        assert type(handle) is kind
        handle.__class__ = base._ConnectionFairy


@pytest.mark.parametrize(
    "name, expected",
    [
        ("_checkin", ["self", "transaction_was_reset"]),
        ("_close_special", ["self", "transaction_reset"]),
        ("_checkout_existing", ["self"]),
        ("close", ["self"]),
        ("detach", ["self"]),
        ("invalidate", ["self", "e", "soft"]),
    ],
)
def test_the_ends_of_a_handle(name, expected):
    assert parameters(getattr(base._ConnectionFairy, name)) == expected, (
        look_at(f"_ConnectionFairy.{name}()", "Handle")
    )
    ours = set(parameters(getattr(adapter.Handle, name)))
    # one function is both
    assert ours - {"transaction_reset"} == set(expected) - {
        "transaction_reset"
    }


@pytest.mark.parametrize("way", ["close", "_close_special", "invalidate"])
def test_each_end_but_detach_passes_checkin(monkeypatch, pool, way):
    calls = []
    checkin = base._ConnectionFairy._checkin

    def noted(handle, *args, **kwargs):
        calls.append(1)
        return checkin(handle, *args, **kwargs)

    monkeypatch.setattr(base._ConnectionFairy, "_checkin", noted)
    getattr(pool.connect(), way)()
    assert calls == [1], look_at(f"{way}()", "Handle._checkin()")


def test_whatever_a_handle_may_do_is_fenced():
    """A new public name of a handle's has to be refused as well."""
    known = {
        "close",
        "commit",
        "cursor",
        "connection",
        "dbapi_connection",
        "detach",
        "driver_connection",
        "info",
        "invalidate",
        "is_detached",
        "is_valid",
        "record_info",
        "rollback",
    }
    names = {name for name in dir(base._ConnectionFairy) if name[0] != "_"}
    assert names <= known, look_at(
        f"_ConnectionFairy: {names - known}", "ReclaimedHandle"
    )


def test_the_finaliser_of_a_handle(pool):
    handle = pool.connect()
    message = look_at("a handle's finaliser", "attach()")
    if FINALIZER:
        assert isinstance(handle._finalizer, weakref.finalize), message
        assert handle._finalizer.detach() is not None, message
    else:
        key = weakref.ref(handle)
        records = base._strong_ref_connection_records
        assert records.pop(key) is handle._connection_record, message
    expected = ["dbapi_connection", "connection_record", "pool"]
    given = parameters(base._finalize_fairy)
    assert given[:3] == expected, message
    if FINALIZER:
        assert "is_gc_cleanup" in given and given[3] == "echo", message
    else:
        assert given[3:5] == ["ref", "echo"], message


def test_a_pooled_handle_has_no_finaliser_of_sqlalchemys_left():
    pool = ReaperPool(Driver().connect, reaping_frequency=None)
    handle = pool.connect()
    if FINALIZER:
        assert not handle._finalizer.alive
    else:
        key = weakref.ref(handle)
        assert key not in base._strong_ref_connection_records
    assert [lease() for lease in pool._leases] == [handle]
    assert handle._connection_record.in_use

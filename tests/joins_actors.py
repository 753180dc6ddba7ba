"""Who uses a reserved connection in the random programs of joins.

Each actor does a thing twice: ``expect_...`` does it to the model, and says
what SQLAlchemy's own rules make of it; ``do_...`` does it to the real pool.
What SQLAlchemy's rules add:

* A Connection begins by itself at its first statement, or savepoint.  After a commit
  that failed, it refuses everything until its rollback().
* A Session takes its connection at its first statement, and gives it back
  at the end of its transaction.  What fails in a flush rolls back at once,
  and then, as after a commit that failed, it refuses all until rollback().
* A savepoint whose release failed refuses likewise.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any

from joins_model import Handle
from joins_model import JoinEnded
from joins_model import JoinOrder
from joins_model import Layer
from sqlalchemy.orm import Session


class Refused(Exception):
    """SQLAlchemy refuses this by rules of its own."""


@dataclass
class Savepoint:
    """What ``begin_nested()`` gave."""

    layer: Layer | None = None
    real: Any = None
    failed: bool = False


class Actor:
    """One user of the connection.

    :param world: the program's world, see joins_programs.py.

    :param name: what the account of a program calls it.

    """

    VERBS = "insert read commit rollback close drop"

    def __init__(self, world: Any, name: str) -> None:
        self.world = world
        self.model = world.model
        self.name = name
        self.real: Any = None

    def can(self, verb: str) -> bool:
        import os
        if verb == "drop" and "nobasedrop" in os.environ.get("KNOWN", ""):
            h = self.handles[0] if hasattr(self, "handles") else self.handle
            if h and self.model.handles[:1] == [h] and len(self.model.handles) > 1: return False
        return verb in self.VERBS.split()

    def gone(self) -> None:
        """It is closed; nothing uses it any more."""
        self.world.actors.remove(self)
        self.savepoints: list[Savepoint] = []
        self.savepoint: Savepoint | None = None

    def do_insert(self, row: int) -> None:
        self.real.execute(self.world.bench.insert, {"x": row})

    def do_read(self) -> list[int]:
        return list(self.real.scalars(self.world.bench.select))

    def do_commit(self) -> None:
        self.real.commit()

    def do_rollback(self) -> None:
        self.real.rollback()

    def do_close(self) -> None:
        self.real.close()

    def do_drop(self) -> None:
        self.real = None
        # a Connection and its transaction refer to each other
        gc.collect()
        if self.model.handles:
            # whatever is done next on the connection notices it
            self.world.pool.connect().close()


class RawActor(Actor):
    """A handle of the pool's own: cursors, and nothing begun by itself."""

    def __init__(self, world: Any, name: str, checked_out: str) -> None:
        super().__init__(world, name)
        # the newest is that of the innermost block inside newer work
        self.handles: list[Handle] = []
        self.checked_out = checked_out

    VERBS = "insert read commit rollback close checkin drop"

    def can(self, verb: str) -> bool:
        # the pool itself keeps what is reserved
        return super().can(verb) and (
            verb != "drop" or self.checked_out == "connect"
        )

    def expect_open(self) -> None:
        self.handles.append(self.model.open())

    def do_open(self) -> None:
        self.real = getattr(self.world.pool, self.checked_out)()

    def expect_insert(self, row: int) -> None:
        self.model.insert(self.handles[-1], row)

    def do_insert(self, row: int) -> None:
        cursor = self.real.cursor()
        cursor.execute(f"INSERT INTO {self.world.bench.table} VALUES ({row})")
        cursor.close()

    def expect_read(self) -> list[int]:
        return self.model.read(self.handles[-1])

    def do_read(self) -> list[int]:
        cursor = self.real.cursor()
        cursor.execute(self.world.bench.select.text)
        rows = [row for (row,) in cursor.fetchall()]
        cursor.close()
        return rows

    def expect_commit(self) -> None:
        self.model.commit(self.handles[-1])

    def expect_rollback(self) -> None:
        if self.handles[-1].ended:
            # a use of what has ended, and nothing to roll back: either way
            self.world.accept = "ok", "JoinEnded"
        self.model.rollback(self.handles[-1])

    def expect_close(self) -> None:
        self.model.close(self.handles[0])
        self.gone()

    def expect_checkin(self) -> None:
        ended = self.handles[0].ended
        self.expect_close()
        if ended:
            raise Refused

    def do_checkin(self) -> None:
        self.world.pool.checkin(self.real)

    expect_drop = expect_close


class ConnectionActor(Actor):
    """``engine.connect()``"""

    VERBS = Actor.VERBS + " begin nested nested_commit nested_rollback"

    def __init__(self, world: Any, name: str) -> None:
        super().__init__(world, name)
        self.begun = False
        self.failed = False
        self.savepoints: list[Savepoint] = []

    def can(self, verb: str) -> bool:
        if verb == "begin":
            return not self.begun
        if verb == "nested":
            return bool(self.world.can_nest())
        if verb.startswith("nested_"):
            return bool(self.savepoints)
        return super().can(verb)

    def expect_open(self) -> None:
        self.handle = self.model.open()

    def do_open(self) -> None:
        self.real = self.world.engine.connect()

    def expect_begin(self) -> None:
        self.model.begin(self.handle)
        self.begun = True

    def do_begin(self) -> None:
        self.real.begin()

    def _may_execute(self) -> None:
        if self.failed or self.savepoints and self.savepoints[-1].failed:
            # it takes a cursor first, and looks then
            self.model.read(self.handle)
            raise Refused

    def expect_insert(self, row: int) -> None:
        self._may_execute()
        self.model.insert(self.handle, row)
        self.expect_begin()

    def expect_read(self) -> list[int]:
        self._may_execute()
        rows = self.model.read(self.handle)
        self.expect_begin()
        return rows

    def expect_commit(self) -> None:
        if self.failed:
            raise Refused
        if self.begun:
            self.failed = True
            self.savepoints = []
            self.model.commit(self.handle)
            self.begun = self.failed = False

    def expect_rollback(self) -> None:
        if self.begun:
            self.model.rollback(self.handle)
        self.begun = self.failed = False
        self.savepoints = []

    def expect_close(self) -> None:
        self.model.close(self.handle)
        self.gone()

    expect_drop = expect_close

    def expect_nested(self) -> None:
        self._may_execute()
        self.expect_begin()
        layer = self.model.savepoint(self.handle)
        self.savepoints.append(Savepoint(layer))

    def do_nested(self) -> None:
        real = self.real.begin_nested()
        if self.savepoints:
            self.savepoints[-1].real = real

    def expect_nested_commit(self) -> None:
        self.savepoint = savepoint = self.savepoints[-1]
        if savepoint.failed:
            raise Refused
        savepoint.failed = True
        self.model.release(self.handle, savepoint.layer)
        self.savepoints.pop()

    def do_nested_commit(self) -> None:
        self.savepoint.real.commit()

    def expect_nested_rollback(self) -> None:
        self.savepoint = self.savepoints.pop()
        self.model.rollback_to(self.handle, self.savepoint.layer)

    def do_nested_rollback(self) -> None:
        self.savepoint.real.rollback()


class SessionActor(Actor):
    """``Session(engine)``"""

    VERBS = ConnectionActor.VERBS + " add flush"

    def __init__(self, world: Any, name: str) -> None:
        super().__init__(world, name)
        self.handle: Handle | None = None
        self.failed = False
        self.pending: list[int] = []
        self.savepoints: list[Savepoint] = []

    def can(self, verb: str) -> bool:
        if verb == "begin":
            return False
        if verb == "add":
            return not self.failed
        if verb == "nested":
            # its savepoint comes with its next statement
            begun = any(
                layer.owner is self.handle for layer in self.model.layers
            )
            return begun and bool(self.world.can_nest())
        if verb.startswith("nested_"):
            return bool(self.savepoints)
        return super().can(verb)

    def expect_open(self) -> None:
        pass

    def do_open(self) -> None:
        self.real = Session(self.world.engine, autoflush=False)

    # statements

    def _will_execute(self) -> None:
        if self.failed:
            raise Refused
        if self.handle is None:
            self.handle = self.model.open()
            self.model.begin(self.handle)
        for savepoint in self.savepoints:
            if savepoint.layer is None:
                savepoint.layer = self.model.savepoint(self.handle)

    def expect_insert(self, row: int) -> None:
        self._will_execute()
        assert self.handle is not None
        self.model.insert(self.handle, row)

    def expect_read(self) -> list[int]:
        self._will_execute()
        assert self.handle is not None
        return self.model.read(self.handle)

    def expect_add(self, row: int) -> None:
        self.pending.append(row)

    def do_add(self, row: int) -> None:
        self.real.add(self.world.bench.Row(x=row))

    def expect_flush(self) -> None:
        if not self.pending:
            return
        if self.failed:
            raise Refused
        rows, self.pending = self.pending, []
        try:
            self._will_execute()
            assert self.handle is not None
            for row in rows:
                self.model.insert(self.handle, row)
        except (JoinOrder, JoinEnded):
            # the flush has rolled back, and wants to be told so
            self.failed = True
            if self.savepoints:
                self._undo(self.savepoints[-1])
            elif self.handle is not None:
                self.model.rollback(self.handle)
            raise

    def do_flush(self) -> None:
        self.real.flush()

    # ends

    def expect_commit(self) -> None:
        if self.failed:
            raise Refused
        while self.savepoints:
            self.expect_nested_commit()
        self.expect_flush()
        if self.handle is not None:
            self.failed = True
            self.model.commit(self.handle)
        self._end()

    def _end(self) -> None:
        if self.handle is not None:
            self.model.close(self.handle)
        self.handle = None
        self.failed = False
        self.pending = []
        self.savepoints = []

    expect_rollback = _end

    def expect_close(self) -> None:
        self._end()
        self.gone()

    expect_drop = expect_close

    # savepoints

    def expect_nested(self) -> None:
        if self.failed:
            raise Refused
        self.expect_flush()
        self.savepoints.append(Savepoint())

    def do_nested(self) -> None:
        real = self.real.begin_nested()
        if self.savepoints:
            self.savepoints[-1].real = real

    def expect_nested_commit(self) -> None:
        self.savepoint = savepoint = self.savepoints[-1]
        if self.failed:
            raise Refused
        self.expect_flush()
        if savepoint.layer is not None:
            assert self.handle is not None
            self.failed = True
            self.model.release(self.handle, savepoint.layer)
            self.failed = False
        self.savepoints.pop()

    def do_nested_commit(self) -> None:
        self.savepoint.real.commit()

    def expect_nested_rollback(self) -> None:
        self.savepoint = self.savepoints.pop()
        self._undo(self.savepoint)
        self.failed = False
        self.pending = []

    def _undo(self, savepoint: Savepoint) -> None:
        if savepoint.layer is not None:
            assert self.handle is not None
            self.model.rollback_to(self.handle, savepoint.layer)

    def do_nested_rollback(self) -> None:
        self.savepoint.real.rollback()

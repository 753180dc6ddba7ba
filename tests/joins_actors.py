"""Who uses a reserved connection in the random programs of joins.

Each actor does a thing twice: ``expect_...`` does it to the model, and says
what SQLAlchemy's own rules make of it; ``do_...`` does it to the real pool.
What SQLAlchemy's rules add:

* A Connection begins by itself at its first statement, or savepoint.  After
  a commit that failed, it refuses everything until its rollback(), and
  does not pass that on.
* A savepoint whose release failed refuses likewise.
* A Session is in joins_sessions.py.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from typing import Any

from joins_model import Handle
from joins_model import Layer


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

    :param world: the program's world, see joins_world.py.

    :param name: what the account of a program calls it.

    """

    VERBS = "insert read commit rollback close drop"

    def __init__(self, world: Any, name: str) -> None:
        self.world = world
        self.model = world.model
        self.name = name
        self.real: Any = None
        # does the pool itself keep it, so that it can't be dropped?
        self.kept = False

    def can(self, verb: str) -> bool:
        if verb == "drop" and (self.kept or self._joined()):
            return False
        return verb in self.VERBS.split()

    def _joined(self) -> bool:
        """Do others keep the base alive, which this is?"""
        own = getattr(self, "handles", None) or [getattr(self, "handle", None)]
        open_ones = self.model.handles
        return len(open_ones) > 1 and own[0] is open_ones[0]

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
        self.be_noticed()

    def be_noticed(self) -> None:
        """Whatever is done next on the connection notices what is over."""
        if self.model.handles:
            self.world.pool.connect().close()


class RawActor(Actor):
    """A handle of the pool's own: cursors, and nothing begun by itself."""

    VERBS = (
        Actor.VERBS + " checkin prepare late_insert invalidate"
        " detach_commit detach_close"
    )

    def __init__(self, world: Any, name: str) -> None:
        super().__init__(world, name)
        # the newest is that of the innermost block inside newer work
        self.handles: list[Handle] = []
        self.cursor: Any = None
        # one that is kept, and used later
        self.prepared: Any = None
        self.has_prepared = False

    def can(self, verb: str) -> bool:
        if verb == "late_insert":
            return self.has_prepared
        if verb == "invalidate":
            # by a join it is another error for the base, see the tests
            return self.handles[0] in self.model.handles[:1]
        if verb.startswith("detach"):
            return self.handles == self.model.handles
        return super().can(verb)

    def expect_open(self) -> None:
        self.handles.append(self.model.open())

    def do_open(self) -> None:
        self.real = self.world.pool.connect()

    def expect_insert(self, row: int) -> None:
        self.model.insert(self.handles[-1], row)

    def do_insert(self, row: int) -> None:
        # kept: PostgreSQL's drivers tell by it that something was written
        self.cursor = cursor = self.real.cursor()
        cursor.execute(f"INSERT INTO {self.world.bench.table} VALUES ({row})")
        cursor.close()

    def expect_prepare(self) -> None:
        self.model.look(self.handles[-1])
        self.has_prepared = True
        if self.world.bench.cursors_stay_open:
            self.handles[-1].cursors_live = True

    def do_prepare(self) -> None:
        # the one before goes on living, where one is
        self.prepared = self.prepared or []
        self.prepared.append(self.real.cursor())

    def expect_late_insert(self, row: int) -> None:
        self.expect_insert(row)

    def do_late_insert(self, row: int) -> None:
        self.prepared[0].execute(
            f"INSERT INTO {self.world.bench.table} VALUES ({row})"
        )

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
        if self.handles[0].ended:
            self.gone()
            raise Refused
        if self is self.world.reserved:
            self.world.expect_release()
        else:
            self.expect_close()

    def do_checkin(self) -> None:
        self.world.pool.checkin(self.real)

    expect_drop = expect_close

    # what takes the connection away from all

    expect_invalidate = expect_close

    def do_invalidate(self) -> None:
        self.real.invalidate()

    expect_detach_close = expect_close

    def do_detach_close(self) -> None:
        self.real.detach()
        self.real.close()

    def expect_detach_commit(self) -> None:
        self.model.look(self.handles[-1])
        self.model.commit(self.handles[-1])
        self.expect_close()

    def do_detach_commit(self) -> None:
        self.real.detach()
        self.real.commit()
        self.real.close()


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
        self.unseen = self.failed
        if self.begun:
            self.model.rollback(self.handle)
        self.begun = self.failed = False
        self.savepoints = []

    def do_rollback(self) -> None:
        self.real.rollback()
        if self.unseen:
            # SQLAlchemy thinks that there is nothing to roll back
            self.be_noticed()

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
        self.unseen = self.savepoint.failed
        self.model.rollback_to(self.handle, self.savepoint.layer)

    def do_nested_rollback(self) -> None:
        self.savepoint.real.rollback()
        if self.unseen:
            self.be_noticed()

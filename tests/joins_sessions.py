"""A Session among the users of a reserved connection, see joins_actors.py.

It takes its connection at its first statement, and gives it back at the end
of its transaction.  What fails in a flush rolls back at once; then, as after
a commit that failed, the Session refuses all until its rollback().
"""

from __future__ import annotations

from typing import Any

from joins_actors import Actor
from joins_actors import Refused
from joins_actors import Savepoint
from joins_model import Handle
from joins_model import JoinEnded
from joins_model import JoinOrder
from sqlalchemy.orm import Session


class SessionActor(Actor):
    """``Session(engine)``"""

    VERBS = Actor.VERBS + " add flush"

    def __init__(self, world: Any, name: str) -> None:
        super().__init__(world, name)
        self.handle: Handle | None = None
        self.failed = False
        self.pending: list[int] = []
        self.savepoints: list[Savepoint] = []

    def can(self, verb: str) -> bool:
        if verb == "add":
            return not self.failed
        if verb == "nested":
            # Of two, SQLAlchemy's Session can't close the outer one if the
            # inner one's release failed.  The real one comes with the next
            # statement only.
            if self.savepoints:
                return False
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
        self.unseen = self.failed
        self._undo(self.savepoint)
        self.failed = False
        self.pending = []

    def _undo(self, savepoint: Savepoint) -> None:
        if savepoint.layer is not None:
            assert self.handle is not None
            self.model.rollback_to(self.handle, savepoint.layer)

    def do_nested_rollback(self) -> None:
        self.savepoint.real.rollback()
        if self.unseen:
            self.be_noticed()

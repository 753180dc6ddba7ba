"""One random program, step by step, in the model and in the real pool."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable
from typing import Any

import joins_model
from joins_actors import Actor
from joins_actors import ConnectionActor
from joins_actors import RawActor
from joins_actors import Refused
from joins_bench import Bench
from joins_sessions import SessionActor
from sqlalchemy.exc import InvalidRequestError

import sa_reaperpool
from sa_reaperpool import ProvisionalCommitLost

Program = list[tuple[str, int]]
"""Steps ``(verb, number)``; see joins_programs.py."""

MOST_ACTORS = 6


class Mismatch(AssertionError):
    """The pool did what the model does not."""


class Block:
    """A ``with pool.with_connection()`` that was entered."""

    def __init__(self, real: Any) -> None:
        self.real = real
        # whom its end releases
        self.made: Actor | None = None
        # and what else, for the one on an engine
        self.reserved: Actor | None = None
        # within another, on the same engine, which its end brings back
        self.outer: ConnectionActor | None = None
        # inside newer work: its handle there, and whose it is
        self.inner: joins_model.Handle | None = None
        self.actor: RawActor | None = None


class World:
    """One program.

    :param bench: where it runs.

    :param counts: of the steps, and of what came of them.

    """

    def __init__(self, bench: Bench, counts: Counter[str]) -> None:
        self.bench = bench
        self.engine = bench.engine
        self.pool: Any = bench.engine.pool
        self.model = joins_model.Model()
        self.actors: list[Actor] = []
        self.blocks: list[Block] = []
        # what the thread has reserved, of the pool and of the engine
        self.reserved: RawActor | None = None
        self.connection: ConnectionActor | None = None
        self.account: list[str] = []
        # outcomes that are all as good, in place of what the model says
        self.accept: tuple[str, ...] = ()
        self._counts = counts
        self._rows = 0
        self._names = 0
        self._begun = False

    def run(self, program: Program) -> None:
        """
        :raises Mismatch: the pool did what the model does not, or something
         is left in the end.
        """
        for verb, number in program:
            self.step(verb, number)
        while self.actors:
            self._tell(self.actors[0], "close")
        while self.blocks:
            self.step("leave", 0)
        self.step("release", 0)
        wrong = self.bench.left()
        self._check(not wrong, wrong)

    def can_nest(self) -> bool:
        """Has the driver begun?

        sqlite3 begins with the first row that is written.  A savepoint that
        comes before is the transaction then, and its release a commit: with
        any pool.
        """
        return self._begun or not self.bench.begins_late

    # steps

    def step(self, verb: str, number: int) -> None:
        own = getattr(self, "_step_" + verb, None)
        if own is not None:
            own()
            return
        # 0 is the newest: who is used most, in programs as in life
        able = [actor for actor in self.actors[::-1] if actor.can(verb)]
        if able:
            self._tell(able[number % len(able)], verb)

    def _step_connect(self) -> None:
        self._open(ConnectionActor(self, self._name("c")))

    def _step_session(self) -> None:
        self._open(SessionActor(self, self._name("s")))

    def _step_raw(self) -> None:
        self._open(RawActor(self, self._name("r")))

    def _name(self, letter: str) -> str:
        self._names += 1
        return f"{letter}{self._names}"

    def _open(self, actor: Actor) -> None:
        if len(self.actors) < MOST_ACTORS:
            self.actors.append(actor)
            self._tell(actor, "open")

    def _tell(self, actor: Actor, verb: str) -> None:
        arguments: tuple[int, ...] = ()
        if verb in ("insert", "late_insert", "add"):
            self._rows += 1
            arguments = (self._rows,)
        self._compare(
            f"{actor.name}.{verb}({', '.join(map(str, arguments))})",
            lambda: getattr(actor, "expect_" + verb)(*arguments),
            lambda: getattr(actor, "do_" + verb)(*arguments),
        )

    # what the pool reserves

    def _expect_reserved(self) -> RawActor:
        """The same as before, or a new one.

        One that has ended stays until it has said what was undone with it.
        """
        actor = self.reserved
        if actor is None or (
            actor.handles[0].ended and not actor.handles[0].undone
        ):
            actor = RawActor(self, self._name("p"))
            actor.expect_open()
            actor.kept = True
            self.actors.append(actor)
            self.reserved = actor
        return actor

    def _whose(self, real: Any, actor: Actor | None) -> str:
        """Whose is what the pool has given?"""
        assert actor is not None
        if actor.real is None:
            actor.real = real
        return actor.name if actor.real is real else "another"

    def _step_reserve(self) -> None:
        self._compare(
            "connection()",
            lambda: self._expect_reserved().name,
            lambda: self._whose(self.pool.connection(), self.reserved),
        )

    def _step_with(self) -> None:
        block = Block(self.pool.with_connection())

        def expect() -> str:
            before = self.reserved
            actor = self._expect_reserved()
            if actor is not before:
                block.made = actor
            elif not actor.handles[0].ended:
                top = self.model.top()
                if top and top.number > actor.handles[-1].number:
                    block.inner = self.model.open()
                    block.inner.home = actor.handles[0]
                    block.actor = actor
                    actor.handles.append(block.inner)
            self.blocks.append(block)
            return actor.name

        self._compare(
            "with_connection()",
            expect,
            lambda: self._whose(block.real.__enter__(), self.reserved),
        )

    def _step_with_engine(self) -> None:
        block = Block(sa_reaperpool.with_connection(self.engine))

        def expect() -> str:
            known = self.connection
            if known not in self.actors or self._inside(known):
                if known in self.actors:
                    block.outer = known
                before = self.reserved
                reserved = self._expect_reserved()
                actor = ConnectionActor(self, self._name("e"))
                actor.kept = True
                actor.handle = reserved.handles[0]
                if not actor.handle.ended:
                    actor.handle = self.model.open()
                if reserved is not before:
                    block.reserved = reserved
                self.actors.append(actor)
                self.connection = block.made = actor
            self.blocks.append(block)
            assert self.connection is not None
            return self.connection.name

        def do() -> str:
            real = block.real.__enter__()
            if self.reserved is not None and self.reserved.real is None:
                self.reserved.real = self.pool.connection()
            return self._whose(real, self.connection)

        self._compare("with_connection(engine)", expect, do)

    def _inside(self, actor: ConnectionActor | None) -> bool:
        """Would its work be inside of newer handles', or is it over?"""
        top = self.model.top()
        assert actor is not None
        handle = actor.handle
        return handle.ended or bool(top and top.number > handle.number)

    def _step_leave(self) -> None:
        if not self.blocks:
            return
        block = self.blocks.pop()

        def expect() -> None:
            if block.inner is not None:
                assert block.actor is not None
                self.model.close(block.inner)
                block.actor.handles.remove(block.inner)
            if block.made is None:
                return
            if block.made is self.reserved:
                self.expect_release()
            elif block.made in self.actors:
                block.made.expect_close()
            if block.made is self.connection:
                self.connection = block.outer
            if block.reserved is not None and block.reserved is self.reserved:
                self.expect_release()

        self._compare(
            "leave()",
            expect,
            lambda: block.real.__exit__(None, None, None) and None,
        )

    def _step_release(self) -> None:
        self._compare(
            "release_connection()",
            self.expect_release,
            self.pool.release_connection,
        )

    def expect_release(self) -> bool:
        actor, self.reserved = self.reserved, None
        had_one = actor is not None and not actor.handles[0].ended
        if self.connection in self.actors:
            # what with_connection(engine) gave is closed with it
            assert self.connection is not None
            self.connection.expect_close()
        if actor is not None and not actor.handles[0].ended:
            self.model.close(actor.handles[0])
        if had_one and actor in self.actors:
            assert actor is not None
            actor.gone()
        return had_one

    # comparing

    def _compare(
        self,
        what: str,
        expect: Callable[[], Any],
        do: Callable[[], Any],
    ) -> None:
        """Do it in the model and in the pool."""
        before = self.model.warnings
        expected = _outcome(expect)
        due = self.model.warnings - before
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            actual = _outcome(do)
        lost = [w for w in caught if w.category is ProvisionalCommitLost]
        self.account.append(f"{what} -> {_told(actual, len(lost))}")
        self._counts["steps"] += 1
        self._counts[expected[0]] += 1
        self._counts["ProvisionalCommitLost"] += due
        accepted = [(kind, None) for kind in self.accept] or [expected]
        self.accept = ()
        self._check(
            actual in accepted and len(lost) == due,
            f"the model says {_told(expected, due)}",
        )
        other = [str(w.message) for w in caught if w not in lost]
        self._check(not other, f"warnings: {other}")
        self._check_rows()

    def _check_rows(self) -> None:
        rows = self.bench.rows()
        committed = sorted(self.model.database)
        self._check(
            rows == committed,
            f"the rows are {rows}, in the model {committed}",
        )
        if not self.model.layers:
            self._begun = False
        elif any(handle.wrote for handle in self.model.handles):
            self._begun = True
        active = self.pool.active_connection()
        self._check(
            active is bool(self.model.handles),
            f"active_connection() is {active}",
        )

    def _check(self, fine: bool, why: str) -> None:
        if not fine:
            steps = "\n".join("  " + line for line in self.account)
            raise Mismatch(f"{why}, after\n{steps}")


def _outcome(call: Callable[[], Any]) -> tuple[str, Any]:
    """What came of it: a word, and what it returned."""
    try:
        return "ok", call()
    except (joins_model.JoinOrder, sa_reaperpool.JoinOrder):
        return "JoinOrder", None
    except (joins_model.JoinEnded, sa_reaperpool.JoinEnded):
        return "JoinEnded", None
    except (Refused, sa_reaperpool.NotCheckedOut):
        return "refused", None
    except sa_reaperpool.JoinError as error:
        return repr(error), None
    except InvalidRequestError:
        # SQLAlchemy's own
        return "refused", None
    except Exception as error:
        return repr(error), None


def _told(outcome: tuple[str, Any], lost: int) -> str:
    kind, value = outcome
    told = kind if value is None else f"{kind} {value}"
    return told + " and ProvisionalCommitLost" * lost

"""Random programs in one thread, held against the model of joins.

By hand::

    python -m tests.joins_programs --database sqlite --programs 2000 --seed 1
    python -m tests.joins_programs --database postgresql --replay '[...]'

A program is a list of steps ``(verb, number)``; the number chooses among
those whom the verb can be said to, so that what is left of a program when
some of its steps are dropped is a program as well.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import random
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

if __name__ == "__main__":
    # as pytest does
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import joins_model
from joins_actors import Actor
from joins_actors import ConnectionActor
from joins_actors import RawActor
from joins_actors import Refused
from joins_actors import SessionActor
from joins_bench import Bench
from joins_bench import postgresql
from joins_bench import sqlite
from sqlalchemy.exc import InvalidRequestError

import sa_reaperpool
from sa_reaperpool import ProvisionalCommitLost

Step = tuple[str, int]
Program = list[Step]

# as often as they stand here
STEPS = (
    "connect session raw reserve with leave release "
    "insert insert insert insert read read add flush "
    "commit commit commit rollback rollback close close checkin drop "
    "begin nested nested nested_commit nested_rollback"
).split()
MOST_ACTORS = 6

CREATES = {"connect": "c", "session": "s", "raw": "r"}


class Mismatch(AssertionError):
    """The pool did what the model does not."""


class Block:
    """A ``with pool.with_connection()`` that was entered."""

    def __init__(self, real: Any) -> None:
        self.real = real
        # whom its end releases
        self.made: RawActor | None = None
        # what it does inside newer work, and whose it is
        self.inner: joins_model.Handle | None = None
        self.actor: RawActor | None = None


class World:
    """One program, step by step, in the model and in the real pool."""

    def __init__(self, bench: Bench, counts: Counter[str]) -> None:
        self.bench = bench
        self.engine = bench.engine
        self.pool: Any = bench.engine.pool
        self.model = joins_model.Model()
        self.actors: list[Actor] = []
        self.blocks: list[Block] = []
        self.reserved: RawActor | None = None
        self.counts = counts
        self.account: list[str] = []
        self.accept: tuple[str, ...] = ()
        self._rows = 0
        self._names = 0
        self._begun = False

    def run(self, program: Program) -> None:
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
        """Where the driver begins late, a first savepoint would be one."""
        return self._begun or not self.bench.begins_late

    # steps

    def step(self, verb: str, number: int) -> None:
        if verb in CREATES:
            if len(self.actors) < MOST_ACTORS:
                self._tell(self._new(verb), "open")
        elif verb in ("reserve", "with", "leave", "release"):
            getattr(self, "_" + verb)()
        else:
            able = [actor for actor in self.actors if actor.can(verb)]
            if able:
                self._tell(able[number % len(able)], verb)

    def _new(self, verb: str) -> Actor:
        name = f"{CREATES.get(verb, 'p')}{self._names}"
        self._names += 1
        actor: Actor
        if verb == "connect":
            actor = ConnectionActor(self, name)
        elif verb == "session":
            actor = SessionActor(self, name)
        else:
            method = "connect" if verb == "raw" else "connection"
            actor = RawActor(self, name, method)
        self.actors.append(actor)
        return actor

    def _tell(self, actor: Actor, verb: str) -> None:
        arguments: tuple[int, ...] = ()
        if verb in ("insert", "add"):
            self._rows += 1
            arguments = (self._rows,)
        self._compare(
            f"{actor.name}.{verb}({', '.join(map(str, arguments))})",
            lambda: getattr(actor, "expect_" + verb)(*arguments),
            lambda: getattr(actor, "do_" + verb)(*arguments),
        )

    # what the pool reserves

    def _expect_reserve(self) -> RawActor:
        """The same as before, or a new one."""
        if self.reserved is None or self.reserved.handles[0].ended:
            actor = self._new("reserve")
            assert isinstance(actor, RawActor)
            actor.expect_open()
            self.reserved = actor
        return self.reserved

    def _reserve(self) -> None:
        self._compare(
            "connection()",
            lambda: self._expect_reserve().name,
            lambda: self._whose(self.pool.connection()),
        )

    def _whose(self, real: Any) -> str:
        """Whose is what the pool has given?"""
        actor = self.reserved
        assert actor is not None
        if actor.real is None:
            actor.real = real
        return actor.name if actor.real is real else "another"

    def _with(self) -> None:
        block = Block(self.pool.with_connection())

        def expect() -> str:
            before = self.reserved
            actor = self._expect_reserve()
            if actor is not before:
                block.made = actor
            else:
                top = self.model.top()
                if top and top.number > actor.handles[-1].number:
                    block.inner = self.model.open()
                    block.actor = actor
                    actor.handles.append(block.inner)
            self.blocks.append(block)
            return actor.name

        self._compare(
            "with_connection()",
            expect,
            lambda: self._whose(block.real.__enter__()),
        )

    def _leave(self) -> None:
        if not self.blocks:
            return
        block = self.blocks.pop()

        def expect() -> None:
            if block.inner is not None:
                assert block.actor is not None
                self.model.close(block.inner)
                block.actor.handles.remove(block.inner)
            if block.made is not None and block.made is self.reserved:
                self._expect_release()

        self._compare(
            "leave()",
            expect,
            lambda: block.real.__exit__(None, None, None) and None,
        )

    def _expect_release(self) -> bool:
        actor, self.reserved = self.reserved, None
        if actor is None or actor.handles[0].ended:
            return False
        self.model.close(actor.handles[0])
        if actor in self.actors:
            actor.gone()
        return True

    def _release(self) -> None:
        self._compare(
            "release_connection()",
            self._expect_release,
            self.pool.release_connection,
        )

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
        self.counts["steps"] += 1
        self.counts[expected[0]] += 1
        self.counts["ProvisionalCommitLost"] += due
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
        elif any(layer.wrote for layer in self.model.layers):
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
    except Refused:
        return "refused by SQLAlchemy", None
    except (joins_model.JoinOrder, sa_reaperpool.JoinOrder):
        return "JoinOrder", None
    except (joins_model.JoinEnded, sa_reaperpool.JoinEnded):
        return "JoinEnded", None
    except sa_reaperpool.NotCheckedOut:
        return "refused by SQLAlchemy", None
    except sa_reaperpool.JoinError as error:
        return repr(error), None
    except InvalidRequestError:
        return "refused by SQLAlchemy", None
    except Exception as error:
        return repr(error), None


def _told(outcome: tuple[str, Any], lost: int) -> str:
    kind, value = outcome
    told = kind if value is None else f"{kind} {value}"
    return told + " and ProvisionalCommitLost" * lost


# running


def run_program(
    bench: Bench, program: Program, counts: Counter[str] | None = None
) -> None:
    """Run one, and look that nothing is left of it.

    :raises Mismatch: the pool did what the model does not.

    """
    bench.begin()
    world = World(bench, Counter() if counts is None else counts)
    try:
        world.run([(verb, number) for verb, number in program])
    except BaseException:
        # whatever is left is not to disturb the next
        bench.renew()
        raise


def random_program(source: random.Random, longest: int) -> Program:
    return [
        (source.choice(STEPS), source.randrange(MOST_ACTORS))
        for _ in range(source.randint(1, longest))
    ]


def smaller(bench: Bench, program: Program) -> Program:
    """A part of it that still does not do as the model does."""

    def fails(candidate: Program) -> bool:
        try:
            run_program(bench, candidate)
        except Mismatch:
            return True
        return False

    size = len(program)
    while size:
        start = 0
        while start < len(program):
            candidate = program[:start] + program[start + size :]
            if fails(candidate):
                program = candidate
            else:
                start += size
        size = size // 2 if size > 1 else 0
    for position, (verb, number) in enumerate(program):
        for lower in range(number):
            candidate = program[:]
            candidate[position] = (verb, lower)
            if fails(candidate):
                program = candidate
                break
    return program


@contextmanager
def bench_for(database: str) -> Iterator[Bench]:
    if database == "sqlite":
        with TemporaryDirectory() as folder, sqlite(folder) as bench:
            yield bench
    else:
        from servers import PostgreSQL

        with PostgreSQL() as server:
            with postgresql(server.url("psycopg2")) as bench:
                yield bench


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--database", choices=["sqlite", "postgresql"])
    parser.add_argument("--programs", type=int, default=2000)
    parser.add_argument("--longest", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--replay", type=json.loads)
    parser.add_argument("--mismatches", type=int, default=1)
    options = parser.parse_args()
    counts: Counter[str] = Counter()
    found: dict[str, int] = Counter()
    started = time.monotonic()
    gc.freeze()
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    with bench_for(options.database or "sqlite") as bench:
        if options.replay is not None:
            run_program(bench, options.replay, counts)
            print("as in the model")
            return 0
        for index in range(options.programs):
            # each by a seed of its own, so that it can be had alone
            source = random.Random(f"{options.seed}/{index}")
            program = random_program(source, options.longest)
            counts["programs"] += 1
            try:
                run_program(bench, program, counts)
            except Mismatch:
                small = smaller(bench, program)
                text = _account(bench, small)
                found[text] += 1
                if found[text] == 1:
                    print(f"program {index}: {text}", flush=True)
                if len(found) >= options.mismatches:
                    break
    print(f"seed {options.seed}, {time.monotonic() - started:.1f} s:")
    for kind, count in sorted(counts.items()):
        print(f"{count:8} {kind}")
    return 1 if found else 0


def _account(bench: Bench, program: Program) -> str:
    try:
        run_program(bench, program)
    except Mismatch as error:
        return f"{error}\nto be had by --replay '{json.dumps(program)}'\n"
    return "it did not come again\n"


if __name__ == "__main__":
    sys.exit(main())

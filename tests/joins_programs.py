"""Random programs in one thread, held against the model of joins.

By hand::

    python -m tests.joins_programs --database sqlite --programs 2000 --seed 1
    python -m tests.joins_programs --database postgresql --replay '[...]'
    python -m tests.joins_programs --mutant no_order

A program is a list of steps ``(verb, number)``; the number chooses among
those whom the verb can be said to, so that what is left of a program when
some of its steps are dropped is a program as well.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Callable
from collections.abc import Iterator
from contextlib import ExitStack
from contextlib import contextmanager
from tempfile import TemporaryDirectory

if __name__ == "__main__":
    # as pytest does
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from hypothesis import strategies
from joins_bench import Bench
from joins_bench import postgresql
from joins_bench import sqlite
from joins_mutants import MUTANTS
from joins_mutants import broken
from joins_world import Mismatch
from joins_world import Program
from joins_world import World
from servers import PostgreSQL

VERBS = (
    "connect connect session session raw raw "
    "reserve with with_engine leave release "
    "insert insert insert insert insert read read read read read add flush "
    "commit commit commit commit rollback rollback close close checkin drop "
    "begin nested nested nested_commit nested_rollback "
    "prepare prepare late_insert late_insert late_insert "
    "invalidate detach_commit detach_close"
).split()
"""Each as often as it is to come."""

NUMBERS = 0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 4, 5

PROGRAMS = strategies.lists(
    strategies.tuples(
        strategies.sampled_from(VERBS), strategies.sampled_from(NUMBERS)
    ),
    min_size=20,
    max_size=30,
)
"""For hypothesis.  Left to itself it makes them short, and they find little;
smallest() is who makes them smaller.
"""


def run_program(
    bench: Bench, program: Program, counts: Counter[str] | None = None
) -> None:
    """Run one, and look that nothing is left of it.

    :raises Mismatch: the pool did what the model does not.

    """
    bench.begin()
    world = World(bench, Counter() if counts is None else counts)
    try:
        world.run(program)
    except BaseException:
        # whatever is left is not to disturb the next
        bench.renew()
        raise


def random_program(
    source: random.Random, longest: int, without: frozenset[str] = frozenset()
) -> Program:
    verbs = [verb for verb in VERBS if verb not in without]
    return [
        (source.choice(verbs), source.choice(NUMBERS))
        for _ in range(source.randint(1, longest))
    ]


def random_programs(
    seed: int,
    programs: int,
    longest: int = 30,
    without: frozenset[str] = frozenset(),
) -> Iterator[Program]:
    """The same ones for the same seed."""
    for number in range(programs):
        yield random_program(
            random.Random(f"{seed}/{number}"), longest, without
        )


def smaller(program: Program, fails: Callable[[Program], bool]) -> Program:
    """What is left of a program, when steps that don't matter are dropped."""
    size = len(program)
    while size:
        start = 0
        while start < len(program):
            candidate = program[:start] + program[start + size :]
            if fails(candidate):
                program = candidate
            else:
                start += size
        size //= 2
    for position, (verb, number) in enumerate(program):
        for lower in range(number):
            candidate = program[:]
            candidate[position] = (verb, lower)
            if fails(candidate):
                program = candidate
                break
    return program


def smallest(bench: Bench, program: Program) -> str:
    """What goes wrong in what is left of a program, if anything does."""
    if not mismatch(bench, program):
        return ""
    part = smaller(program, lambda part: bool(mismatch(bench, part)))
    return mismatch(bench, part)


def mismatch(bench: Bench, program: Program) -> str:
    """What goes wrong in a program, and how to see it again, or nothing."""
    try:
        run_program(bench, program)
    except Mismatch as error:
        return f"{error}\nto be had by --replay '{json.dumps(program)}'\n"
    return ""


@contextmanager
def bench_for(database: str) -> Iterator[Bench]:
    with ExitStack() as stack:
        if database == "sqlite":
            folder = stack.enter_context(TemporaryDirectory())
            yield stack.enter_context(sqlite(folder))
        else:
            server = stack.enter_context(PostgreSQL())
            yield stack.enter_context(postgresql(server.url("psycopg2")))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--database", choices=["sqlite", "postgresql"], default="sqlite"
    )
    parser.add_argument("--programs", type=int, default=2000)
    parser.add_argument("--longest", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--without", default="", help="verbs that are not to come: a,b"
    )
    parser.add_argument(
        "--mismatches", type=int, default=1, help="after how many to stop"
    )
    parser.add_argument("--mutant", choices=sorted(MUTANTS))
    parser.add_argument("--replay", type=json.loads, metavar="PROGRAM")
    options = parser.parse_args()
    # it reports, as it should, what is left of programs that went wrong
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    with ExitStack() as stack:
        bench = stack.enter_context(bench_for(options.database))
        if options.mutant:
            stack.enter_context(broken(bench, options.mutant))
        if options.replay is not None:
            wrong = mismatch(bench, options.replay)
            print(wrong or "as in the model")
            return bool(wrong)
        return _run_many(bench, options)


def _run_many(bench: Bench, options: argparse.Namespace) -> int:
    without = frozenset(options.without.split(","))
    counts: Counter[str] = Counter()
    found: set[str] = set()
    started = time.monotonic()
    for program in random_programs(
        options.seed, options.programs, options.longest, without
    ):
        counts["programs"] += 1
        try:
            run_program(bench, program, counts)
        except Mismatch:
            wrong = smallest(bench, program)
            if wrong not in found:
                print(f"program {counts['programs']}: {wrong}", flush=True)
            found.add(wrong)
            if len(found) == options.mismatches:
                break
    seconds = time.monotonic() - started
    print(f"{options.database}, seed {options.seed}, {seconds:.1f} s:")
    for kind, count in sorted(counts.items()):
        print(f"{count:8} {kind}")
    return bool(found)


if __name__ == "__main__":
    sys.exit(main())

"""Random programs of reservation="thread", held against a model.

On SQLite here, on PostgreSQL in postgresql/test_joins_property.py.  By hand
there can be more of them: see joins_programs.py.
"""

from __future__ import annotations

import pytest
from hypothesis import Phase
from hypothesis import given
from hypothesis import settings
from joins_bench import sqlite
from joins_mutants import MUTANTS
from joins_mutants import broken
from joins_programs import PROGRAMS
from joins_programs import mismatch
from joins_programs import random_programs
from joins_programs import smallest

SEED = 20

ONCE_WRONG = {
    "a cursor of a join that ended, after detach()": (
        "raw connect raw reserve prepare raw drop:2 detach_close "
        "late_insert"
    ),
    "told of what was lost, once": (
        "raw raw with_engine prepare late_insert rollback:3 late_insert "
        "drop detach_commit with_engine"
    ),
    "a block left after its reservation was closed": (
        "session insert with connect insert with drop close raw reserve "
        "insert leave read"
    ),
    "told within a block of what was lost around it": (
        "session raw insert:1 with raw insert:1 insert with drop:1 read:1 "
        "with"
    ),
    "a block in one whose work was undone": (
        "raw with_engine insert:1 invalidate with"
    ),
    "a block on the engine likewise": (
        "connect raw with_engine insert:1 close:2 with_engine insert"
    ),
}
"""Programs; each step with its number, if that is not 0."""


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    with sqlite(tmp_path_factory.mktemp("joins")) as bench:
        yield bench


@settings(
    max_examples=100,
    derandomize=True,
    deadline=None,
    database=None,
    phases=[Phase.generate],
)
@given(program=PROGRAMS)
def test_any_program(bench, program):
    wrong = smallest(bench, program)
    assert not wrong, wrong


def test_long_programs(bench):
    for number, program in enumerate(random_programs(SEED, 300)):
        wrong = smallest(bench, program)
        assert not wrong, f"seed {SEED}, program {number}: {wrong}"


@pytest.mark.parametrize("steps", ONCE_WRONG.values(), ids=ONCE_WRONG)
def test_programs_that_came_out_otherwise(bench, steps):
    program = []
    for step in steps.split():
        verb, _, number = step.partition(":")
        program.append((verb, int(number or 0)))
    wrong = mismatch(bench, program)
    assert not wrong, wrong


@pytest.mark.parametrize("mutant", MUTANTS)
def test_broken_joins_are_found(bench, mutant):
    with broken(bench, mutant):
        found = next(
            program
            for program in random_programs(SEED, 2000)
            if mismatch(bench, program)
        )
    assert not mismatch(bench, found)

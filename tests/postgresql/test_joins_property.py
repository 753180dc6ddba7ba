"""Random programs of reservation="thread", as in ../test_joins_property.py."""

from __future__ import annotations

import pytest
from hypothesis import Phase
from hypothesis import given
from hypothesis import settings
from joins_bench import postgresql
from joins_programs import PROGRAMS
from joins_programs import random_programs
from joins_programs import smallest

SEED = 30


@pytest.fixture(scope="module")
def bench(postgres_url):
    with postgresql(postgres_url) as bench:
        yield bench


@settings(
    max_examples=30,
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
    for number, program in enumerate(random_programs(SEED, 30)):
        wrong = smallest(bench, program)
        assert not wrong, f"seed {SEED}, program {number}: {wrong}"

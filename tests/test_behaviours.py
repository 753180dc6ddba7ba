"""The table of what Ruby's pools test for: it is whole, and it is so."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest
from docutils import nodes
from docutils.core import publish_doctree

TESTS = Path(__file__).parent
TABLE = (TESTS / "behaviours.rst").read_text()

# as many tests as there are in each suite
ROWS = {
    "ActiveRecord, connection_pool_test": 77,
    "ActiveRecord 4.0, what has gone since": 7,
    "ActiveRecord, reaper_test": 12,
    "ActiveRecord, connection_management_test": 11,
    "ActiveRecord, pooled_connections_test": 3,
    "EzPool": 44,
    "connection_pool": 86,
    "Pond": 28,
    "Que": 38,
}
REFUSAL = "does not fit: "
TEST = re.compile(r"[\w/]+\.py::\w+")


@functools.cache
def sections() -> dict[str, tuple[int, list[tuple[str, nodes.entry]]]]:
    """The number in each heading, and the rows below it."""

    settings = {"halt_level": 1, "report_level": 1, "_disable_config": True}
    document = publish_doctree(TABLE, settings_overrides=settings)
    found = {}
    for section in document.findall(nodes.section):
        project, _, number = section[0].astext().rpartition(": ")
        [body] = section.findall(nodes.tbody)
        found[project] = (
            int(number),
            [(row[0].astext(), row[1]) for row in body.findall(nodes.row)],
        )
    return found


def rows() -> list[tuple[str, str, nodes.entry]]:
    return [
        (project, behaviour, shown_by)
        for project, (_, rows) in sections().items()
        for behaviour, shown_by in rows
    ]


def named(cell: nodes.entry) -> list[str]:
    """The tests that are named in a cell."""

    texts = [literal.astext() for literal in cell.findall(nodes.literal)]
    return [text for text in texts if TEST.fullmatch(text)]


@functools.cache
def names_in(file: str) -> frozenset[str]:
    """The names of the tests that a file has, outside of classes."""

    tree = ast.parse((TESTS / file).read_text())
    return frozenset(
        node.name
        for node in tree.body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
        and node.name.startswith("test_")
    )


@pytest.mark.parametrize("project", ROWS)
def test_number_of_rows(project: str) -> None:
    number, found = sections()[project]
    assert len(found) == number == ROWS[project]


def test_no_other_projects() -> None:
    assert list(sections()) == list(ROWS)


def test_each_row_has_a_test_or_a_reason() -> None:
    neither = []
    for project, behaviour, cell in rows():
        text = cell.astext()
        reason = text.startswith(REFUSAL) and len(text) > len(REFUSAL) + 10
        shown = bool(named(cell)) and not text.startswith(REFUSAL)
        if not behaviour or not (reason or shown):
            neither.append(f"{project}: {behaviour}: {text}")
    assert neither == []


def test_each_test_exists() -> None:
    missing = set()
    for _, _, cell in rows():
        for name in named(cell):
            file, _, function = name.partition("::")
            if not (TESTS / file).is_file():
                missing.add(name)
            elif function not in names_in(file):
                missing.add(name)
    assert missing == set()


def test_each_name_is_marked_as_one() -> None:
    """Or it would not be looked for."""

    for _, behaviour, cell in rows():
        assert len(TEST.findall(cell.astext())) == len(named(cell)), behaviour

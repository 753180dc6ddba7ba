"""Private parts of SQLAlchemy are met in adapter/, and nowhere else."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path

import pytest
from sqlalchemy import event
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.pool import QueuePool
from sqlalchemy.pool import base
from sqlalchemy.pool.events import PoolEvents
from stub import Driver

import sa_reaperpool
from sa_reaperpool import ReaperPool
from sa_reaperpool import adapter

FOLDER = Path(sa_reaperpool.__file__).parent

PRIVATE = [
    "_ConnDialect",
    "_ConnectionFairy",
    "_ConnectionRecord",
    "_checkin",
    "_checkin_failed",
    "_checkout_existing",
    "_close_connection",
    "_close_special",
    "_clslevel",
    "_connection_record",
    "_counter",
    "_creator",
    "_dialect",
    "_dispatch_target",
    "_do_get",
    "_do_ping_w_event",
    "_do_return_conn",
    "_echo",
    "_exec_once_mutex",
    "_exec_w_sync_once",
    "_finalize_fairy",
    "_finalizer",
    "_invalidate",
    "_invalidate_time",
    "_invoke_creator",
    "_is_hard_or_soft_invalidated",
    "_listen",
    "_max_overflow",
    "_orig_logging_name",
    "_overflow",
    "_pool",
    "_pre_ping",
    "_recycle",
    "_reset_on_return",
    "_should_log_debug",
    "_should_wrap_creator",
    "_soft_invalidate_time",
    "_strong_ref_connection_records",
    "_timeout",
    # documented nowhere either
    "fairy_ref",
    "starttime",
]

# Whatever is mixed into a class of SQLAlchemy's has its names as well.
ADAPTED = {
    each
    for kind in (
        ReaperPool,
        adapter.Entry,
        adapter.Handle,
        adapter.Join,
        adapter.ReclaimedHandle,
    )
    for each in kind.__mro__
}


def sources():
    for path in sorted(FOLDER.glob("*.py")):
        yield path.stem, ast.parse(path.read_text())


def adapts(module, name):
    """Does what this class calls self have names of SQLAlchemy's?"""
    kind = getattr(importlib.import_module(module), name, None)
    if kind is None:
        # not to be had from outside: suppose so
        return True
    return kind in ADAPTED or any(
        each.__module__.partition(".")[0] == "sqlalchemy"
        for each in kind.__mro__
    )


class Finder(ast.NodeVisitor):
    """The lines on which a private name of SQLAlchemy's is used.

    A class that is no relative of SQLAlchemy's may call an attribute of its
    own as it likes, as Caretaker does.
    """

    def __init__(self, private, module):
        self.private = private
        self.module = module
        self.kinds = []
        self.lines = []

    def found(self, node, name):
        if name == self.private:
            self.lines.append(node.lineno)

    def visit_ClassDef(self, node):
        self.kinds.append(node.name)
        self.generic_visit(node)
        self.kinds.pop()

    def visit_FunctionDef(self, node):
        if self.kinds and adapts(self.module, self.kinds[-1]):
            # overrides it
            self.found(node, node.name)
        self.generic_visit(node)

    def visit_Name(self, node):
        storing = isinstance(node.ctx, ast.Store)
        if storing and self.kinds and adapts(self.module, self.kinds[-1]):
            self.found(node, node.id)

    def visit_Attribute(self, node):
        of_self = isinstance(node.value, ast.Name) and node.value.id == "self"
        if node.attr == self.private and not (
            of_self and self.kinds and not adapts(self.module, self.kinds[-1])
        ):
            self.lines.append(node.lineno)
        self.generic_visit(node)

    def visit_Constant(self, node):
        # for getattr()
        self.found(node, node.value)

    def visit_alias(self, node):
        self.found(node, node.name)


def uses(private, tree, module):
    finder = Finder(private, module)
    finder.visit(tree)
    return finder.lines


@pytest.mark.parametrize("private", PRIVATE)
def test_nobody_else_uses_a_private_name(private):
    found = [
        f"{module}.py:{line}"
        for module, tree in sources()
        for line in uses(private, tree, f"sa_reaperpool.{module}")
    ]
    assert found == [], "private SQLAlchemy is met in adapter/ alone"


def test_nobody_else_imports_private_names():
    found = []
    for name, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                modules = [each.name for each in node.names]
            elif isinstance(node, ast.ImportFrom) and not node.level:
                modules = [f"{node.module}.{n.name}" for n in node.names]
            else:
                continue
            found += [
                f"{name}.py:{node.lineno} {module}"
                for module in modules
                if re.match(r"sqlalchemy\b.*\._", module)
            ]
    assert found == [], "private SQLAlchemy is met in adapter/ alone"


@pytest.mark.parametrize(
    "module, code",
    [
        ("pool", "pool._pool"),
        ("pool", "self._care._pool"),
        ("pool", "getattr(pool, '_pool')"),
        ("pool", "from .adapter import _pool"),
        ("pool", "class Unknown: x = lambda self: self._pool"),
        ("caretaker", "class Caretaker: x = lambda self: self._pool._pool"),
        ("stock", "class StockedPool: x = lambda self: self._pool"),
        ("stock", "class StockedPool: _pool = None"),
        ("stock", "class StockedPool:\n def _pool(self): pass"),
        ("handle", "class Noting: x = lambda self: self._pool"),
        ("plugin", "class ReaperPoolPlugin: x = lambda self: self._pool"),
    ],
)
def test_uses_that_are_found(module, code):
    assert uses("_pool", ast.parse(code), f"sa_reaperpool.{module}")


@pytest.mark.parametrize(
    "code",
    [
        "pool.queue",
        "def _pool(): pass",
        "class Caretaker: x = lambda self: self._pool",
        "class Caretaker: _pool = None",
        "class Caretaker:\n def _pool(self): pass",
    ],
)
def test_uses_that_are_its_own(code):
    assert not uses("_pool", ast.parse(code), "sa_reaperpool.caretaker")


# none is left out


def names_in(tree):
    for node in ast.walk(tree):
        for field in ("attr", "id", "name", "arg", "value"):
            name = getattr(node, field, None)
            if isinstance(name, str):
                yield name


def used_in_adapter():
    """The names of SQLAlchemy's with one underscore that it has."""
    pool = QueuePool(Driver().connect)
    event.listen(pool, "connect", lambda *args: None)
    theirs = set()
    for each in (
        base,
        pool,
        pool.dispatch.connect,
        type(pool).dispatch.connect,
        PoolEvents,
        base._ConnectionRecord,
        base._ConnectionFairy,
        DefaultDialect,
    ):
        theirs |= set(dir(each))
    used = set()
    for path in FOLDER.glob("adapter/*.py"):
        used |= set(names_in(ast.parse(path.read_text()))) & theirs
    return {name for name in used if re.match("_[^_]", name)}


def test_every_private_name_is_looked_for():
    used = used_in_adapter()
    assert "_do_get" in used
    assert used <= set(PRIVATE)


def test_every_private_name_is_listed_in_adapter():
    listed = set(re.findall(r"\b_\w+", adapter.__doc__))
    assert used_in_adapter() <= listed


@pytest.mark.parametrize("private", PRIVATE)
def test_every_private_name_is_guarded(private):
    guards = Path(__file__).with_name("test_adapter.py").read_text()
    assert re.search(rf"\b{private}\b", guards), "test it in test_adapter.py"

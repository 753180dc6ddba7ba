"""Where the ORM's tests rightly come out otherwise than with QueuePool.

Each table is for a value of the option ``reservation``; it has the node ids
of tests, ``*`` standing for any text, and why their outcome is right.
"""

from __future__ import annotations

EXPLICIT: dict[str, str] = {}

_TURNS = (
    "two sessions of one thread take turns in transactions of their own; on "
    "one connection the older may not go on before the newer has ended"
)
_UNDONE = (
    "a session that only read stays open while another one commits, and is "
    "rolled back when the test is over: that undoes the commit, and the "
    "warning, which SQLAlchemy's tests turn into an error, says so"
)
_NEXT = "the warning in the test before it kept that from being torn down"

THREAD: dict[str, str] = {
    "test/orm/inheritance/test_basic.py::VersioningTest::test_save_update": (
        _TURNS
    ),
    "test/orm/test_session.py::SessionStateTest::test_add_delete": _TURNS,
    "test/orm/test_versioning.py::AlternateGeneratorTest*"
    "::test_child_row_switch_two": _TURNS,
    "test/orm/test_versioning.py::VersioningTest*::test_versioncheck": _UNDONE,
    "test/orm/test_composites.py::MappedSelectTest"
    "::test_set_composite_attrs_via_selectable": _UNDONE,
    "test/orm/test_events.py::MapperEventsTest::test_merge": _UNDONE,
    "test/orm/test_merge.py::MergeTest::test_attribute_cascade": _UNDONE,
    "test/orm/test_events.py::ORMExecuteTest"
    "::test_all_mappers_accessor_one": _NEXT,
    "test/orm/test_merge.py::MergeTest"
    "::test_cascade_doesnt_blowaway_manytoone": _NEXT,
}

KNOWN = {"explicit": EXPLICIT, "thread": THREAD}

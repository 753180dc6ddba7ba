"""The model of joins says what the promises of reservation="thread" say.

Each test is a sentence of these.  The model is what the random programs of
test_joins_property.py are held against.
"""

from __future__ import annotations

import pytest
from joins_model import JoinEnded
from joins_model import JoinOrder
from joins_model import Model


@pytest.fixture
def model():
    return Model()


@pytest.fixture
def outer(model):
    """The base, which has written 1."""
    handle = model.open()
    model.insert(handle, 1)
    return handle


@pytest.fixture
def inner(model, outer):
    """A join on it, which has written 2."""
    handle = model.open()
    model.insert(handle, 2)
    return handle


def test_a_join_is_undone_by_its_rollback(model, outer, inner):
    model.rollback(inner)
    model.commit(outer)
    assert model.database == [1]


def test_a_join_is_undone_by_its_close(model, outer, inner):
    model.close(inner)
    model.commit(outer)
    assert model.database == [1]


def test_a_joins_commit_is_kept_by_its_outers(model, outer, inner):
    model.commit(inner)
    assert model.database == []
    model.commit(outer)
    assert model.database == [1, 2]


def test_a_joins_commit_is_undone_by_its_outers_rollback(model, outer, inner):
    model.commit(inner)
    model.rollback(outer)
    assert model.database == model.layers == []
    # it wrote itself: that is what its rollback is for
    assert model.warnings == 0


def test_a_bare_reservation_is_no_outer_transaction(model):
    outer, inner = model.open(), model.open()
    model.insert(inner, 1)
    model.commit(inner)
    assert model.database == [1]
    model.close(outer)
    assert model.database == [1]
    assert model.warnings == 0


def test_what_sqlalchemy_began_is_an_outer_transaction(model):
    outer, inner = model.open(), model.open()
    model.begin(outer)
    model.insert(inner, 1)
    model.commit(inner)
    assert model.database == []
    model.commit(outer)
    assert model.database == [1]


@pytest.mark.parametrize("end", [Model.rollback, Model.close])
def test_an_outer_that_only_read_warns(model, end):
    outer, inner = model.open(), model.open()
    assert model.read(outer) == []
    model.insert(inner, 1)
    model.commit(inner)
    assert model.database == []
    assert model.read(outer) == [1]
    end(model, outer)
    assert model.database == []
    assert model.warnings == 1


def test_an_outer_that_only_read_and_commits_does_not_warn(model):
    outer, inner = model.open(), model.open()
    model.read(outer)
    model.insert(inner, 1)
    model.commit(inner)
    model.commit(outer)
    model.close(outer)
    assert model.database == [1]
    assert model.warnings == 0


def test_an_inner_one_that_did_not_commit_is_not_warned_of(model):
    outer, inner = model.open(), model.open()
    model.read(outer)
    model.insert(inner, 1)
    model.close(outer)
    assert model.warnings == 0


def test_only_the_innermost_executes(model, outer, inner):
    for refused in [model.read, model.commit]:
        with pytest.raises(JoinOrder):
            refused(outer)
    with pytest.raises(JoinOrder):
        model.insert(outer, 3)
    assert model.visible() == [1, 2]
    model.commit(inner)
    model.insert(outer, 3)
    model.commit(outer)
    assert model.database == [1, 2, 3]


def test_one_that_has_not_begun_neither(model):
    base, middle, inner = model.open(), model.open(), model.open()
    model.insert(inner, 1)
    for older in [base, middle]:
        with pytest.raises(JoinOrder):
            model.insert(older, 2)
        with pytest.raises(JoinOrder):
            model.commit(older)
    model.commit(inner)
    assert model.database == [1]
    model.insert(middle, 2)
    model.commit(middle)
    assert model.database == [1, 2]


def test_who_waits_for_its_turn_is_not_begun_above_newer_work(model):
    _, older, newer, newest = [model.open() for _ in range(4)]
    model.insert(newer, 1)
    model.begin(older)
    model.insert(newest, 2)
    assert [layer.owner for layer in model.layers] == [newer, newest]
    model.commit(newest)
    model.commit(newer)
    assert model.database == [1, 2]
    # and now it is its turn
    model.insert(newest, 3)
    assert [layer.owner for layer in model.layers] == [older, newest]


def test_joins_whose_outer_ended_say_so(model, outer, inner):
    model.close(outer)
    for refused in [model.read, model.commit]:
        with pytest.raises(JoinEnded):
            refused(inner)
    model.rollback(inner)
    model.close(inner)
    with pytest.raises(JoinEnded):
        model.read(inner)
    assert model.database == model.handles == []


def test_joins_of_an_outer_that_never_began_end_with_it(model):
    base, outer, inner = model.open(), model.open(), model.open()
    model.insert(inner, 1)
    model.close(outer)
    assert model.layers == []
    assert model.handles == [base]
    with pytest.raises(JoinEnded):
        model.commit(inner)


def test_lost_work_is_told_until_its_own_rollback(model, outer, inner):
    model.rollback(outer)
    for refused in [model.read, model.commit]:
        with pytest.raises(JoinEnded):
            refused(inner)
    model.rollback(inner)
    model.insert(inner, 3)
    model.commit(inner)
    assert model.database == [3]


def test_the_base_clears_everything_away_though_it_has_not_begun(model):
    base, inner = model.open(), model.open()
    model.insert(inner, 1)
    model.rollback(base)
    assert model.visible() == []
    with pytest.raises(JoinEnded):
        model.commit(inner)


def test_a_join_that_has_not_begun_undoes_nothing(model, outer):
    idle = model.open()
    newest = model.open()
    model.insert(newest, 2)
    model.rollback(idle)
    model.commit(newest)
    model.commit(outer)
    assert model.database == [1, 2]


def test_three_deep(model, outer, inner):
    innermost = model.open()
    model.insert(innermost, 3)
    model.commit(innermost)
    model.rollback(inner)
    model.commit(outer)
    assert model.database == [1]
    assert model.warnings == 0


def test_the_one_in_the_middle_only_read(model, outer):
    middle, inner = model.open(), model.open()
    model.read(middle)
    model.insert(inner, 2)
    model.commit(inner)
    model.close(middle)
    model.commit(outer)
    assert model.database == [1]
    assert model.warnings == 1


def test_a_savepoint_of_ones_own(model, outer):
    savepoint = model.savepoint(outer)
    model.insert(outer, 2)
    inner = model.open()
    model.insert(inner, 3)
    with pytest.raises(JoinOrder):
        model.release(outer, savepoint)
    model.commit(inner)
    model.rollback_to(outer, savepoint)
    model.insert(outer, 4)
    model.commit(outer)
    assert model.database == [1, 4]


def test_rolling_back_to_it_undoes_what_newer_ones_do_there(model, outer):
    savepoint = model.savepoint(outer)
    inner = model.open()
    model.insert(inner, 2)
    model.rollback_to(outer, savepoint)
    with pytest.raises(JoinEnded):
        model.commit(inner)
    model.commit(outer)
    assert model.database == [1]


def test_a_released_savepoint_is_the_outers_own_work(model):
    outer = model.open()
    savepoint = model.savepoint(outer)
    model.insert(outer, 1)
    model.release(outer, savepoint)
    inner = model.open()
    model.insert(inner, 2)
    model.commit(inner)
    model.rollback(outer)
    assert model.database == []
    assert model.warnings == 0


def test_a_savepoint_that_undoes_an_inner_commit_warns(model):
    outer, inner = model.open(), model.open()
    savepoint = model.savepoint(outer)
    model.insert(inner, 1)
    model.commit(inner)
    model.rollback_to(outer, savepoint)
    assert model.warnings == 1
    model.rollback(outer)
    assert model.warnings == 1


def test_who_wrote_has_not_only_read_though_it_took_that_back(model):
    outer, inner = model.open(), model.open()
    savepoint = model.savepoint(outer)
    model.insert(outer, 1)
    model.rollback_to(outer, savepoint)
    model.insert(inner, 2)
    model.commit(inner)
    model.rollback(outer)
    assert model.warnings == 0


def test_a_new_base_starts_anew(model, outer, inner):
    model.close(outer)
    fresh = model.open()
    with pytest.raises(JoinEnded):
        model.read(inner)
    model.insert(fresh, 5)
    model.commit(fresh)
    assert model.database == [5]

"""Joins that are broken on purpose, each in one way.

The random programs are to find each of these; else they prove nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from contextlib import ExitStack
from contextlib import contextmanager
from typing import Any
from unittest import mock

from joins_bench import Bench

from sa_reaperpool import cursors
from sa_reaperpool import guards
from sa_reaperpool import transactions
from sa_reaperpool import writes
from sa_reaperpool.joins import Reservation
from sa_reaperpool.level import Level

Patch = Callable[[], Any]
MUTANTS: dict[str, Patch] = {}


def mutant(make: Patch) -> Patch:
    MUTANTS[make.__name__] = make
    return make


@contextmanager
def broken(bench: Bench, name: str) -> Iterator[None]:
    """Break them, for a block."""
    with MUTANTS[name]():
        # on an engine of its own, since the guards are put on its dialect
        bench.renew()
        yield
    bench.renew()


def _nothing(*args: Any, **kwargs: Any) -> None:
    pass


@mutant
def no_order() -> Any:
    """Whoever executes, executes."""
    return mock.patch.object(Reservation, "_check_turn", _nothing)


@mutant
def commit_at_release() -> Any:
    """A join's commit is a real one."""
    return mock.patch.object(
        transactions, "release", lambda connection, name: connection.commit()
    )


@mutant
def no_commit() -> Any:
    """A commit is forgotten."""
    return mock.patch.object(Level, "commit", _nothing)


@mutant
def rollback_all() -> Any:
    """A join's rollback is a real one."""
    return mock.patch.object(
        transactions,
        "roll_back_to",
        lambda connection, name: connection.rollback(),
    )


@mutant
def no_rollback() -> Any:
    """A join's rollback keeps what it did."""
    return mock.patch.object(
        transactions,
        "roll_back_to",
        lambda connection, name: transactions.release(connection, name),
    )


@mutant
def no_rollback_at_close() -> Any:
    """A join's close commits."""
    end = Level.end

    def commit_and_end(level: Level) -> None:
        if not level.ended and not level.lost:
            level.commit()
        end(level)

    return mock.patch.object(Level, "end", commit_and_end)


@mutant
def late_begin() -> Any:
    """A savepoint is made outside of a transaction, as sqlite3 would."""

    def savepoint(connection: Any, name: str) -> None:
        transactions.execute(connection, f"SAVEPOINT {name}")

    return mock.patch.object(transactions, "savepoint", savepoint)


@mutant
def begun_is_forgotten() -> Any:
    """A transaction that SQLAlchemy began is none before it executes."""
    guarded = {**guards._GUARDS}
    guarded["do_begin"] = lambda begin, handle: begin(handle)
    return mock.patch.object(guards, "_GUARDS", guarded)


@mutant
def loss_is_not_told() -> Any:
    """Whose work was rolled back by an outer goes on as if nothing was."""
    undo = Reservation._undo

    def and_forget(reservation: Any, levels: Any, *args: Any) -> Any:
        lines = undo(reservation, levels, *args)
        for level in levels:
            level.lost = None
        return lines

    return mock.patch.object(Reservation, "_undo", and_forget)


@mutant
def end_is_not_told() -> Any:
    """Whose outer was closed goes on as if it was not."""

    def only_itself(reservation: Any, level: Level) -> None:
        level.ended = "closed"
        reservation._levels.remove(level)

    return mock.patch.object(Reservation, "_end_from", only_itself)


@mutant
def no_warning() -> Any:
    """Nobody is told that a provisional commit is lost."""
    return mock.patch("warnings.warn_explicit", _nothing)


@mutant
def warns_always() -> Any:
    """Whoever undoes an inner commit is taken for one that only read."""
    return mock.patch.object(
        Level,
        "wrote",
        property(lambda level: False, lambda level, wrote: None),
    )


@mutant
def warns_of_late_writes() -> Any:
    """What an outer writes after an inner commit is not counted as such."""
    stack = ExitStack()
    stack.enter_context(
        mock.patch.object(Reservation, "_note_writes", _nothing)
    )
    stack.enter_context(mock.patch.object(writes, "WRITE", writes.OTHER))
    return stack


@mutant
def kept_cursors_just_execute() -> Any:
    """Whose turn it is, is asked when a cursor is taken, and not again."""
    stack = ExitStack()
    stack.enter_context(
        mock.patch.object(
            cursors, "make", lambda connection, *args: connection.cursor()
        )
    )
    stack.enter_context(
        mock.patch.object(cursors, "checked", lambda cursor: False)
    )
    return stack


@mutant
def invalidated_in_silence() -> Any:
    """What is invalidated loses what joins have committed, in silence."""
    drop = Reservation.drop

    def and_forget(*args: Any) -> list[str]:
        drop(*args)
        return []

    return mock.patch.object(Reservation, "drop", and_forget)

"""What reservation="thread" promises, as nested lists.

No database and no SQLAlchemy here.  A thread's open handles are numbered in
the order of their making; the oldest is the base.  What they have executed
and not committed is a pile of *layers*, each with the rows that one handle
put there.  Whoever executes works in the uppermost layer or on top of it:

* commit pours a handle's layers into the one below, or, where there is none
  below, into the database;
* rollback throws a handle's layers away, and all above them;
* a savepoint of SQLAlchemy's own (``begin_nested()``) is one more layer of
  the same handle.

That is all.  The rest here says whose turn it is.
"""

from __future__ import annotations


class JoinOrder(Exception):
    """It is not this handle's turn."""


class JoinEnded(Exception):
    """What this handle worked in is gone."""


class Handle:
    """What one checkout gave."""

    def __init__(self, number: int) -> None:
        self.number = number
        # has SQLAlchemy begun a transaction on it, maybe not yet executed?
        self.wanted = False
        # has it written since its last commit or rollback?
        self.wrote = False
        # has an older one rolled back what this one did?
        self.lost = False
        # has it, or an older one, been closed?
        self.ended = False
        # was something of its own undone by others, and it does not know?
        self.undone = False
        # whom it tells, when it says so: the first of one user's
        self.home = self
        # has it given out cursors that are open still?
        self.cursors_live = False


class Layer:
    """Uncommitted rows, and by whom."""

    def __init__(self, owner: Handle) -> None:
        self.owner = owner
        self.rows: list[int] = []
        # commits of newer handles that were poured into this
        self.commits = 0


class Model:
    """One thread, its handles and the database."""

    def __init__(self) -> None:
        self.database: list[int] = []
        self.handles: list[Handle] = []
        self.layers: list[Layer] = []
        self.warnings = 0
        """How often ProvisionalCommitLost was due."""
        self._made = 0

    def visible(self) -> list[int]:
        """The rows that a statement on the connection sees."""
        uncommitted = [row for layer in self.layers for row in layer.rows]
        return sorted(self.database + uncommitted)

    def top(self) -> Handle | None:
        """Who has done the newest uncommitted work?"""
        return self.layers[-1].owner if self.layers else None

    # what handles do

    def open(self) -> Handle:
        handle = Handle(self._made)
        self._made += 1
        self.handles.append(handle)
        return handle

    def begin(self, handle: Handle) -> None:
        """SQLAlchemy begins a transaction on it, and sends nothing."""
        handle.wanted = True

    def read(self, handle: Handle) -> list[int]:
        self._statement(handle)
        return self.visible()

    def insert(self, handle: Handle, row: int) -> None:
        self._statement(handle)
        self.layers[-1].rows.append(row)
        handle.wrote = True

    def look(self, handle: Handle) -> None:
        """Take a cursor, and execute nothing."""
        if handle.ended or handle.lost:
            handle.home.undone = False
            raise JoinEnded

    def commit(self, handle: Handle) -> None:
        self._may_go_on(handle)
        mine = self._layers_of(handle)
        if mine:
            self._pour(mine)
            if self.layers:
                self.layers[-1].commits += 1
        handle.wanted = handle.wrote = False
        if mine:
            self._go_on(handle)

    def rollback(self, handle: Handle) -> None:
        if handle.ended:
            handle.undone = False
            return
        mine = self._layers_of(handle)
        if mine:
            self._throw_away(mine[0])
        elif handle is self.handles[0] and self.layers:
            self._throw_away(self.layers[0])
        handle.lost = handle.wanted = handle.wrote = handle.undone = False
        if mine:
            self._go_on(handle)

    def close(self, handle: Handle) -> None:
        """Give it back, or lose the last reference to it."""
        if handle.ended:
            handle.undone = False
            return
        ending = self.handles[self.handles.index(handle) :]
        for layer in self.layers:
            if layer.owner in ending:
                self._throw_away(layer)
                break
        for each in ending:
            each.ended = True
            self.handles.remove(each)
        handle.undone = False

    # SQLAlchemy's own savepoints

    def savepoint(self, handle: Handle) -> Layer:
        self._statement(handle)
        self.layers.append(Layer(handle))
        return self.layers[-1]

    def release(self, handle: Handle, savepoint: Layer) -> None:
        self._may_go_on(handle)
        mine = self.layers[self.layers.index(savepoint) :]
        self._pour(mine)
        self.layers[-1].commits += sum(layer.commits for layer in mine)

    def rollback_to(self, handle: Handle, savepoint: Layer) -> None:
        if savepoint in self.layers:
            self._throw_away(savepoint)
            # what it did before is still there
            handle.lost = handle.undone = False

    # within

    def _may_go_on(self, handle: Handle) -> None:
        if handle.ended or handle.lost:
            handle.home.undone = False
            raise JoinEnded
        top = self.top()
        if top is not None and top.number > handle.number:
            raise JoinOrder

    def _statement(self, handle: Handle) -> None:
        """Begin, and with it what older ones have begun in SQLAlchemy."""
        self._may_go_on(handle)
        top = self.top()
        for each in self.handles:
            begins = each is handle or each.wanted and not each.lost
            on_top = top is None or each.number > top.number
            if begins and on_top and each.number <= handle.number:
                self.layers.append(Layer(each))

    def _go_on(self, handle: Handle) -> None:
        """Who is in a savepoint, and has cursors, gets the next at once."""
        if self.layers and handle.cursors_live:
            self.layers.append(Layer(handle))

    def _layers_of(self, handle: Handle) -> list[Layer]:
        return [layer for layer in self.layers if layer.owner is handle]

    def _pour(self, layers: list[Layer]) -> None:
        """The uppermost layers' rows now belong to what is below."""
        del self.layers[-len(layers) :]
        below = self.layers[-1].rows if self.layers else self.database
        for layer in layers:
            below.extend(layer.rows)

    def _throw_away(self, lowest: Layer) -> None:
        """This layer and all above it are undone."""
        first = self.layers.index(lowest)
        undone = self.layers[first:]
        del self.layers[first:]
        # who wrote himself rolls back what he wrote, and means it
        if any(layer.commits and not layer.owner.wrote for layer in undone):
            self.warnings += 1
        for layer in undone:
            layer.owner.lost = True
            if layer.owner.wrote or layer.commits:
                layer.owner.undone = True

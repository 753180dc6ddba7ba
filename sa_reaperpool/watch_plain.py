"""The plain view: lines, for pipes, log files and terminals that can't more.

Once a second it tells how many connections there are in which state;
reaps, and who holds a connection for long, as they come.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

from . import tables
from .demo_screen import Screen
from .lease import LeaseInfo
from .snapshot import Snapshot
from .watch_parts import Event
from .watch_parts import Frame
from .words import duration
from .words import one_line

EVERY = 1.0
"""Seconds between two lines of counts."""


class PlainView:
    """Writes lines.

    :param screen: where to.

    """

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._next = EVERY
        self._newest: Event | None = None
        self._long: set[tuple[str, str, str | None]] = set()

    def __enter__(self) -> PlainView:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass

    def show(self, frame: Frame) -> None:
        for event in self._new(frame):
            self._screen.event(event_line(event))
        held = dict(_held_long(frame.snapshot, frame.long))
        for key, lease in held.items():
            if key not in self._long:
                self._screen.event(f"still held by {_lease_words(lease)}")
        self._long = set(held)
        if frame.elapsed >= self._next:
            self._next = frame.elapsed + EVERY
            self._screen.event(tables.now(frame.snapshot))

    def _new(self, frame: Frame) -> list[Event]:
        new: list[Event] = []
        for event in reversed(frame.events):
            if event is self._newest:
                break
            new.insert(0, event)
        if new:
            self._newest = new[-1]
        return new


def event_line(event: Event) -> str:
    """What happened, in a sentence."""

    if event.lease is None:
        return one_line(event.words, 200)
    reason = one_line(event.words)
    return f"taken back ({reason}) from {_lease_words(event.lease)}"


def holding(snapshot: Snapshot) -> Iterator[str]:
    """Who holds a connection, a sentence each."""

    for each in snapshot.connections:
        if each.lease is not None:
            kept = ", kept on purpose" if each.lease.kept else ""
            yield f"{_lease_words(each.lease)}{kept}"


def _held_long(
    snapshot: Snapshot, long: float
) -> Iterator[tuple[tuple[str, str, str | None], LeaseInfo]]:
    for each in snapshot.connections:
        lease = each.lease
        if lease and not lease.kept and lease.held_for >= long:
            yield (tables.holders(lease), lease.where, lease.label), lease


def _lease_words(lease: LeaseInfo) -> str:
    label = ""
    if lease.label is not None:
        label = f", label {one_line(lease.label, 40)!r}"
    return (
        f"{tables.holders(lease)}, held {duration(lease.held_for)}, last "
        f"used {duration(lease.unused_for)} ago{label}, taken at "
        f"{one_line(lease.where, 200)}"
    )

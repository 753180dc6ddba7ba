"""Why the pool ran dry: one verdict, and the report for who is paged.

Plain functions of a :class:`.Scene`, which is all that they know, so that
they can be tested without a pool that runs dry.  All times are seconds.
"""

from __future__ import annotations

import dataclasses
from typing import Iterable
from typing import NamedTuple
from typing import Sequence

from .lease import LeaseInfo
from .words import duration
from .words import one_line
from .words import some

FAR = 10
"""So many times as long as usual is far longer than usual."""

BRIEF = 0.1
"""Shorter than this is no sign of anything."""

FRESH = 60.0
"""Seconds for which a failed connect tells something of the present."""

LINES = 18
"""So many holders have a line of their own in a report."""


@dataclasses.dataclass(frozen=True)
class Held:
    """A lease, as a diagnosis wants to know it."""

    info: LeaseInfo

    own: bool = False
    """Is the one who asks the last who used it?"""

    waits: bool = False
    """Do all who could give it back wait for a connection of this pool?"""

    busy: bool = False
    """Does it run a command?"""

    reads: bool = False
    """Is a cursor of it open?"""

    @property
    def ended(self) -> bool:
        """Have all its holders ended?"""
        return not any(holder.alive for holder in self.info.holders)


@dataclasses.dataclass(frozen=True)
class Scene:
    """The pool at the moment when a checkout got nothing."""

    leases: tuple[Held, ...]
    """Longest held first."""

    waited: float
    limit: float | None
    size: int
    overflow: int

    waiting: int = 0
    """How many others wait."""

    deadlock: bool = False
    """Did all holders wait for this pool, for most of the time waited?"""

    opening: int = 0
    """Connections that are being opened, or are free to be."""

    opening_for: float = 0.0
    """For how long the oldest of those connects has been under way."""

    connect_error: str | None = None
    """The newest, if nothing has been opened since."""

    failed_ago: float = 0.0
    """How long ago that was."""

    usual: float | None = None
    """How long a connection is held at most, as a rule."""

    wanted: int = 0
    """How many connections the present demand would need."""

    permits: int | None = None
    """``max_connecting``, if it is this that was waited for."""

    name: str | None = None

    within: int = 0
    """Connections of the checkouts that this one is in the midst of."""


class Verdict(NamedTuple):
    """Why nothing came free."""

    reason: str
    """One word, that stays: ``nested``, ``deadlock``, ``leak``,
    ``unreachable`` or ``small``."""

    sentence: str


def verdict(scene: Scene) -> Verdict:
    """Why nothing came free; exactly one reason, and that in a sentence.

    Looked at in this order, since each of them would also look like those
    that come after it: slots are there and no connection comes into being;
    this thread, or all threads, wait for themselves; connections are held
    far longer than usual.  What is left is a pool that is too small.
    """
    if _is_unreachable(scene):
        return Verdict("unreachable", _unreachable(scene))
    if scene.within:
        return Verdict("nested", _within(scene))
    leases = [held for held in scene.leases if not held.info.kept]
    own = [held for held in leases if held.own]
    if own and (len(own) == len(scene.leases) or not scene.deadlock):
        return Verdict("nested", _nested(scene, own))
    if scene.deadlock:
        return Verdict("deadlock", _deadlock(scene))
    leaked = [held for held in leases if _is_leaked(held, scene)]
    if leaked:
        return Verdict("leak", _leak(scene, leaked))
    return Verdict("small", _small(scene))


def _is_unreachable(scene: Scene) -> bool:
    if not scene.opening:
        return False
    if _fails(scene):
        return True
    return scene.opening_for >= _long(scene)


def _fails(scene: Scene) -> bool:
    """Did a connect fail of late, or while this waited?"""
    if scene.connect_error is None:
        return False
    return scene.failed_ago < max(scene.waited, FRESH)


def _long(scene: Scene) -> float:
    """What is long where nothing is usual: all of what was waited, or, if
    that was nothing, a second."""
    return scene.waited if scene.waited >= BRIEF else 1.0


def _unreachable(scene: Scene) -> str:
    what = (
        f"Database unreachable: {some(scene.opening, 'connection')} could "
        "be opened, and none comes about"
    )
    if scene.opening_for:
        what += f"; a connect is under way for {duration(scene.opening_for)}"
    if _fails(scene):
        what += "; the newest connect failed (see below)"
    return what + "."


def _nested(scene: Scene, own: Sequence[Held]) -> str:
    what = (
        f"Nested checkout: this thread itself holds {len(own)} of "
        f"{len(scene.leases)} connections in use, taken at "
        f"{_places(own)}"
    )
    if len(own) == len(scene.leases):
        what += "; a deadlock, since it waits for itself"
    others = [
        held
        for held in scene.leases
        if not (held.own or held.info.kept) and _is_leaked(held, scene)
    ]
    if others:
        what += f"; and a leak, maybe: {_longest(others)}"
    return what + ".  See reservation='thread'."


def _within(scene: Scene) -> str:
    return (
        f"Nested checkout: this thread itself holds {scene.within} of "
        f"{len(scene.leases) + scene.within} connections in use, whose "
        "checkout is not over: a listener of the pool's events asks for "
        "another one."
    )


def _longest(leases: Sequence[Held]) -> str:
    longest = max(leases, key=lambda held: held.info.held_for)
    return (
        f"{len(leases)} held far longer than usual, the longest for "
        f"{duration(longest.info.held_for)}, taken at {longest.info.where}"
    )


def _deadlock(scene: Scene) -> str:
    return (
        f"Deadlock suspected: all {len(scene.leases)} connections are held "
        "by threads that wait for another one of this pool, and nobody can "
        "go on.  Let a thread hold one at a time, see reservation='thread'."
    )


def _is_leaked(held: Held, scene: Scene) -> bool:
    info = held.info
    if held.ended:
        return True
    if held.waits:
        # which is why it is held for so long
        return False
    if scene.usual is not None:
        least = max(scene.waited, BRIEF)
        return info.held_for > max(least, FAR * scene.usual)
    # Nothing is known to be usual; not used at all for so long is not.
    return not held.busy and info.unused_for >= _long(scene)


def _leak(scene: Scene, leaked: Sequence[Held]) -> str:
    ended = sum(held.ended for held in leaked)
    busy = sum(held.busy for held in leaked)
    what = (
        f"Leak: {len(leaked)} of {len(scene.leases)} connections in use "
        f"{'is' if len(leaked) == 1 else 'are'} held far longer than usual"
    )
    if scene.usual is not None:
        what += f", where 19 of 20 are back within {duration(scene.usual)}"
    longest = max(leaked, key=lambda held: held.info.held_for)
    what += (
        f"; the longest for {duration(longest.info.held_for)}, taken at "
        f"{longest.info.where}"
    )
    if ended:
        what += f"; of {ended} all holders have ended"
    if busy:
        what += f"; {busy} run a statement, which may be slow or blocked"
    reading = sum(held.reads and not held.busy for held in leaked)
    if reading:
        what += f"; {reading} have an open cursor, and may run a statement"
    return what + "."


def _small(scene: Scene) -> str:
    if scene.permits is not None:
        return (
            f"Too small: max_connecting lets {scene.permits} connect at a "
            "time, and this one's turn did not come."
        )
    count = len(scene.leases)
    kept = sum(held.info.kept for held in scene.leases)
    nesting = sum(held.waits for held in scene.leases)
    what = f"Too small: all {count} connections are in brisk use"
    if count == 0:
        what = "Too small: nothing came free in time"
    elif kept == count:
        what = f"Too small: all {count} connections are kept, by pool.keep()"
    if scene.usual is not None:
        what += f", 19 of 20 are back within {duration(scene.usual)}"
    what += f"; today's demand would need about {scene.wanted}"
    if 0 < kept < count:
        what += f"; {kept} of them are kept, by pool.keep()"
    if nesting:
        what += f"; who holds {nesting} of them waits for another one"
    return what + "."


# the report


def report(scene: Scene, sentence: str, outcome: str) -> str:
    """The whole message: verdict, figures, and a line for each holder.

    :param outcome: how the checkout ended, in SQLAlchemy's words where it
     has some, since people look for those in their logs.

    """
    others = f"{scene.waiting} others wait"
    if scene.waiting == 1:
        others = "1 other waits"
    name = "" if scene.name is None else f", pool {scene.name!r}"
    lines = [
        sentence,
        f"QueuePool limit of size {scene.size} overflow {scene.overflow} "
        f"reached, {outcome} "
        f"(waited {duration(scene.waited)}, {others}{name})",
    ]
    if scene.connect_error is not None:
        when = "" if _fails(scene) else f", {duration(scene.failed_ago)} ago"
        lines.append(f"Newest connect error{when}: {scene.connect_error}")
    lines += [f"  {_line(held)}" for held in scene.leases[:LINES]]
    left = len(scene.leases) - LINES
    if left > 0:
        lines.append(f"  ... and {left} more")
    return "\n".join(lines)


def _line(held: Held) -> str:
    info = held.info
    parts = [
        _names(held),
        f"held {duration(info.held_for)}",
        f"last used {duration(info.unused_for)} ago",
    ]
    if info.in_transaction is not None:
        negation = "" if info.in_transaction else "not "
        parts.append(f"{negation}in a transaction")
    if held.busy:
        parts.append("runs a statement")
    elif held.reads:
        parts.append("a cursor is open")
    if held.waits:
        parts.append("waits for this pool")
    if info.kept:
        parts.append("kept")
    if info.label is not None:
        parts.append(f"label {one_line(info.label)!r}")
    return ", ".join(parts) + f", at {info.where}"


def _names(held: Held) -> str:
    names = [
        f"{one_line(holder.name)} {'alive' if holder.alive else 'ended'}"
        for holder in held.info.holders
    ]
    return _listed(names, "; ")


def _places(leases: Iterable[Held]) -> str:
    return _listed([held.info.where for held in leases], ", ")


def _listed(items: Sequence[str], between: str) -> str:
    shown = between.join(items[:3])
    return shown if len(items) <= 3 else f"{shown} and {len(items) - 3} more"

"""Why the pool ran dry: a verdict in one sentence.

A plain function of the leases and of who asks, so that it can be tested
without a pool that runs dry.
"""

from __future__ import annotations

from typing import Protocol
from typing import Sequence

from .holder import Holder


class Held(Protocol):
    """What a verdict wants to know of a lease."""

    @property
    def holders(self) -> Sequence[Holder]: ...

    @property
    def where(self) -> str: ...


def verdict(leases: Sequence[Held], asking: Holder) -> str | None:
    """Return why nothing came free, or None where it can't be told.

    :param leases: all that are out.

    :param asking: who waited.

    """
    own = [lease for lease in leases if asking in list(lease.holders)]
    if not own:
        return None
    lines = ", ".join(lease.where for lease in own)
    nested = (
        f"Nested checkout: this thread itself holds {len(own)} of "
        f"{len(leases)} connections in use, taken at {lines}"
    )
    if len(own) == len(leases):
        nested += "; a deadlock, since it waits for itself"
    return f"{nested}.  See reservation='thread'."

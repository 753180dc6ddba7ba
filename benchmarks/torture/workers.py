"""Who uses the pool: threads that go on, threads that die, children."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import sys
import threading
import time
from collections import deque

from sqlalchemy import Engine
from sqlalchemy import event
from sqlalchemy import update
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from . import journal
from .journal import Journal
from .ledger import ACCOUNTS
from .ledger import Account
from .ledger import Transfer
from .pools import Connections

LEFT = 5
"""Connections of dead threads that somebody still refers to."""

CHILD_THREADS = 4
CHILD_TRANSFERS = 5
PATIENCE = 30.0
"""Seconds after which a thread or a child counts as hung."""


class Clerk:
    """Makes transfers on one engine, and writes down what became of them."""

    def __init__(
        self, engine: Engine, connections: Connections, journal: Journal
    ) -> None:
        self.engine = engine
        self.connections = connections
        self.journal = journal
        self.confirmed = 0
        """About how many; it grows with each."""

    def transfer(self, number: str, chance: random.Random) -> bool:
        """Try this one.

        :return: False if it failed before its COMMIT was sent: then it may
         be tried again.

        """
        self.journal.write(journal.BEGUN, number)
        with Session(self.engine) as session:
            hold = self._hold(session)
            try:
                hold.take()
                self._write(session, number, chance)
            except SQLAlchemyError:
                hold.leave()
                self.journal.write(journal.FAILED, number)
                return False
            except BaseException:
                hold.leave()
                raise
            self.journal.write(journal.ASKED, number)
            try:
                session.commit()
            except SQLAlchemyError:
                hold.leave()
                self.journal.write(journal.UNKNOWN, number)
            else:
                self.journal.write(journal.DONE, number)
                self.confirmed += 1
        return True

    def leave_undone(self, number: str) -> tuple[Session, Hold]:
        """Write this one, and do not commit it."""
        session = Session(self.engine)
        hold = self._hold(session)
        hold.take()
        # no account: its lock would stop the others with any pool
        session.add(Transfer(number=number, source=0, target=1, amount=1))
        session.flush()
        return session, hold

    def _hold(self, session: Session) -> Hold:
        self.connections.begin()
        return Hold(session, self.journal)

    def _write(
        self, session: Session, number: str, chance: random.Random
    ) -> None:
        # in this order, so that no two wait for each other
        one, other = sorted(chance.sample(range(ACCOUNTS), 2))
        amount = chance.randint(-100, 100)
        session.add(
            Transfer(number=number, source=one, target=other, amount=amount)
        )
        session.flush()
        for account, change in ((one, -amount), (other, amount)):
            session.execute(
                update(Account)
                .where(Account.id == account)
                .values(balance=Account.balance + change)
                .execution_options(synchronize_session=False)
            )


class Hold:
    """That a session has a connection, written down at both ends."""

    def __init__(self, session: Session, journal: Journal) -> None:
        self._session = session
        self._journal = journal
        self._name: str | None = None
        # committed, and not yet returned
        event.listen(session, "after_commit", lambda _: self.leave())

    def take(self) -> None:
        self._name = self._session.connection().info["torture"]
        self._journal.write(journal.TAKE, self._name)

    def leave(self) -> None:
        if self._name is not None:
            self._journal.write(journal.LEAVE, self._name)
            self._name = None


class Crowd:
    """The threads, living and dead, and the children."""

    def __init__(self, clerk: Clerk, threads: int, seed: int) -> None:
        self.clerk = clerk
        self._stop = threading.Event()
        self._go = threading.Event()
        self._go.set()
        self._seed = seed
        self._children = 0
        self._mortals = 0
        self._dying: list[threading.Thread] = []
        # what dead threads had in hand, with something that refers to it
        self._left: deque[tuple[Session, Hold]] = deque()
        self.hung = 0
        self._threads = [
            threading.Thread(target=self._work, args=(n,), daemon=True)
            for n in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def _work(self, number: int) -> None:
        chance = random.Random(f"{self._seed} {number}")
        count = 0
        while not self._stop.is_set():
            self._go.wait()
            count += 1
            while not self.clerk.transfer(f"t{number}.{count}", chance):
                if self._stop.wait(0.01):
                    break

    def die(self) -> None:
        """A thread takes a connection and ends, and does not return it."""
        self._mortals += 1
        number = f"dead{self._mortals}"

        def work() -> None:
            try:
                self._left.append(self.clerk.leave_undone(number))
            except SQLAlchemyError:
                # it is not a good time to die
                pass

        while len(self._left) >= LEFT:
            _, hold = self._left.popleft()
            # the garbage collector returns it, if the pool did not
            hold.leave()
        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        self._dying.append(thread)

    def fork(self, kill_after: float | None, lull: float) -> None:
        """A child makes some transfers, with the pool that it inherited.

        :param kill_after: seconds after which it is killed in the midst of
         them; None if it is not.

        :param lull: seconds for which nobody begins anything before the
         fork, so that the child inherits idle connections; 0 for a fork in
         the midst of everything.

        """
        self._children += 1
        sys.stdout.flush()
        if lull:
            self._go.clear()
            time.sleep(lull)
        pid = os.fork()
        if pid == 0:
            self._be_child(f"c{self._children}")
        self._go.set()
        deadline = time.monotonic() + PATIENCE
        if kill_after is not None:
            self._ended(pid, time.monotonic() + kill_after)
            _kill(pid)
        if not self._ended(pid, deadline):
            self.hung += 1
            _kill(pid)
            self._ended(pid, deadline + PATIENCE)

    def _ended(self, pid: int, deadline: float) -> bool:
        while time.monotonic() < deadline:
            try:
                if os.waitpid(pid, os.WNOHANG)[0] == pid:
                    return True
            except ChildProcessError:
                return True
            time.sleep(0.005)
        return False

    def _be_child(self, name: str) -> None:
        """Never returns."""
        try:
            self.clerk.connections.in_child()

            def work(number: int) -> None:
                chance = random.Random(f"{self._seed} {name} {number}")
                for count in range(CHILD_TRANSFERS):
                    what = f"{name}.{number}.{count}"
                    # not again: there may be nothing to be had at all
                    if not self.clerk.transfer(what, chance):
                        break

            threads = [
                threading.Thread(target=work, args=(n,), daemon=True)
                for n in range(CHILD_THREADS)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        finally:
            # nothing of the parent's is finished or flushed here
            os._exit(0)

    def stop(self) -> None:
        """Let each finish what it does."""
        self._stop.set()
        self._go.set()
        deadline = time.monotonic() + PATIENCE
        for thread in [*self._threads, *self._dying]:
            thread.join(max(0.0, deadline - time.monotonic()))
            self.hung += thread.is_alive()
        self._threads.clear()
        self._dying.clear()

    def bury(self) -> None:
        """Let go of what the dead had in hand."""
        while self._left:
            session, hold = self._left.popleft()
            hold.leave()
            # its connection may have been cut; stock pools leave that to us
            with contextlib.suppress(SQLAlchemyError):
                session.close()


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass

"""A relay between client and server that can cut, hold back and delay.

It is a process of its own, so that the pool's forked children do not hold
its sockets open, and its work is not the measured process's.  Commands come
in as lines; each is answered by one line::

    cut 0.3          close this fraction of the connections
    hold 0.5         pass nothing on for this fraction, until "go"
    hold all         the same for all, those that come meanwhile included
    go               pass on again; what was held back follows
    delay 0.05       seconds that each piece of data waits; 0 for none
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import threading


class Relay:
    """The process, from outside.

    :param host: of the server, as is ``port``.
    :param seed: decides which connections are met.

    """

    def __init__(self, host: str, port: int, seed: int) -> None:
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, __file__, host, str(port), str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C is for the bench, which then closes this
            start_new_session=True,
        )
        self.port = int(self._answer())

    def tell(self, command: str) -> None:
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(command + "\n")
            self._process.stdin.flush()
            self._answer()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError("the relay has ended")
        return answer

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


class _Pair:
    """A client's connection and the server's."""

    def __init__(self, one: asyncio.StreamWriter) -> None:
        self.writers = [one]
        self.flows = asyncio.Event()
        self.flows.set()

    def cut(self) -> None:
        self.flows.set()
        for writer in self.writers:
            writer.transport.abort()


class _Server:
    def __init__(self, host: str, port: int, seed: int) -> None:
        self._target = (host, port)
        self._random = random.Random(seed)
        self._pairs: set[_Pair] = set()
        self._delay = 0.0
        self._holding = False

    async def main(self) -> None:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        commands = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(commands), sys.stdin
        )
        async for line in commands:
            self._obey(*line.decode().split())
            print("done", flush=True)
        # with all connections, however far they are
        os._exit(0)

    def _obey(self, verb: str, argument: str = "") -> None:
        if verb == "cut":
            for pair in self._some(argument):
                pair.cut()
        elif verb == "hold":
            self._holding = argument == "all"
            for pair in self._some("1" if self._holding else argument):
                pair.flows.clear()
        elif verb == "go":
            self._holding = False
            for pair in self._pairs:
                pair.flows.set()
        elif verb == "delay":
            self._delay = float(argument)

    def _some(self, fraction: str) -> list[_Pair]:
        pairs = list(self._pairs)
        return self._random.sample(pairs, round(len(pairs) * float(fraction)))

    async def _accept(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        pair = _Pair(writer)
        if self._holding:
            pair.flows.clear()
        self._pairs.add(pair)
        try:
            there, back = await asyncio.open_connection(*self._target)
            pair.writers.append(back)
            await asyncio.gather(
                self._pass_on(pair, reader, back),
                self._pass_on(pair, there, writer),
            )
        except OSError:
            pass
        finally:
            pair.cut()
            self._pairs.discard(pair)

    async def _pass_on(
        self,
        pair: _Pair,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        while data := await reader.read(65536):
            if self._delay:
                await asyncio.sleep(self._delay)
            await pair.flows.wait()
            writer.write(data)
            await writer.drain()
        # the other side hears of it once it has what was sent before
        await pair.flows.wait()
        writer.close()


if __name__ == "__main__":
    _, host, port, seed = sys.argv
    asyncio.run(_Server(host, int(port), int(seed)).main())

"""Requests as an ASGI server makes them, without a server."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor

from stub import PATIENCE

from sa_reaperpool import ReleaseConnections

SCOPE = {"type": "http", "method": "GET", "path": "/"}


async def receive():
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message):
    pass


def serve(app, scope=SCOPE):
    """One request, in a task of its own as with uvicorn."""
    return asyncio.create_task(ReleaseConnections(app)(scope, receive, send))


def answer(app, scope=SCOPE):
    """One request, from beginning to end."""

    async def run():
        await asyncio.wait_for(serve(app, scope), PATIENCE)

    asyncio.run(run())


class Workers:
    """Threads that serve the parts of requests, as anyio's do."""

    def __init__(self, number=1):
        self._executor = ThreadPoolExecutor(number)

    async def run(self, function, *args):
        # this context is gone once the call is: usually here, in the loop
        call = contextvars.copy_context().run
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            self._executor, call, function, *args
        )

    def result(self, function, *args):
        """Have it called outside of any request."""
        return self._executor.submit(function, *args).result(PATIENCE)

    def __enter__(self):
        return self

    def __exit__(self, *args):
        self._executor.shutdown()


class Step:
    """Where a thread of a request waits until the test lets it go on."""

    def __init__(self):
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __call__(self):
        self.reached.set()
        assert self.opened.wait(PATIENCE)

    async def wait(self):
        assert await asyncio.to_thread(self.reached.wait, PATIENCE)

    def open(self):
        self.opened.set()

"""What gives connections back at the end of each web request.

Around a WSGI application, where a request is one thread's, that is a call
of :func:`.release_connections` when the response has been closed, as with
Rack's middleware: its last lines may still need what its first ones
reserved.

Around an ASGI application it is the end of a :class:`.Request`, which knows
what the threads that served it have reserved; how that works, and what
happens to those that are still running, is written down in request.py.
"""

from __future__ import annotations

import inspect
import logging
import threading
import traceback
from typing import TYPE_CHECKING
from typing import Any
from typing import Callable
from typing import Iterable
from typing import Iterator

from .request import REQUEST
from .request import Request
from .reservation import release_connections

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger("sqlalchemy.pool.impl.ReaperPool")

Call = Callable[..., Any]


class ReleaseConnections:
    """WSGI and ASGI middleware: releases what a request has reserved.

    ``app.wsgi_app = ReleaseConnections(app.wsgi_app)`` with Flask,
    ``app.add_middleware(ReleaseConnections)`` with Starlette or FastAPI,
    ``application = ReleaseConnections(application)`` with any other.

    What is released is what ``pool.connection()`` and the like reserved,
    of all pools.  Plain checkouts, ``engine.connect()`` and sessions have
    ends of their own.  An error while releasing is logged.

    With WSGI that is when the server closes the response.  With ASGI it is
    when the application is done with the request or the web socket, and in
    whatever threads the connections were reserved.  If something started
    within the request outlives it, and goes on with a connection that the
    request had reserved, it gets :class:`.ConnectionReclaimed`.

    :param app: the application.  Whether that is a WSGI or an ASGI one
     shows in how the server calls it.

    """

    def __init__(self, app: Call):
        self.app = app
        if _is_asgi(app):
            # To be looked at: servers take what is no coroutine function
            # for WSGI.  What is called is the method below, as ever.
            self.__dict__["__call__"] = self._serve

    def __call__(self, *args: Any) -> Any:
        if len(args) == 2:
            return self._respond(*args)
        return self._serve(*args)

    # WSGI

    def _respond(self, environ: dict[str, Any], start_response: Call) -> Any:
        try:
            body = self.app(environ, start_response)
        except BaseException:
            _release()
            raise
        if _is_sent_by_server(body, environ):
            _release()
            return body
        return _SizedBody(body) if hasattr(body, "__len__") else _Body(body)

    # ASGI

    async def _serve(self, scope: Any, receive: Call, send: Call) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        request = Request()
        token = REQUEST.set(request)
        try:
            await self.app(scope, receive, send)
        except GeneratorExit:
            # The loop is gone, and with it whoever would wait here.
            _end_aside(request)
            raise
        except BaseException:
            REQUEST.reset(token)
            await _end(request)
            raise
        REQUEST.reset(token)
        await _end(request)


def _is_asgi(app: Any) -> bool:
    if inspect.isclass(app):
        return hasattr(app, "__await__")
    return inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(
        getattr(app, "__call__", None)
    )


# WSGI


class _Body:
    """A response: what it was, and what is to be done after its end.

    :param body: the application's.

    """

    def __init__(self, body: Iterable[bytes]):
        self._body: Any = body
        self._closed = False

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._body)

    def __next__(self) -> bytes:
        return next(self._body)  # type: ignore[no-any-return]

    def close(self) -> None:
        try:
            if hasattr(self._body, "close"):
                self._body.close()
        finally:
            # once: by the second time, this may be another request's thread
            if not self._closed:
                self._closed = True
                _release()


class _SizedBody(_Body):
    """One whose number of parts servers may rely on."""

    def __len__(self) -> int:
        return len(self._body)


def _is_sent_by_server(body: Any, environ: dict[str, Any]) -> bool:
    """Is this a file that the server itself sends?

    It knows such a response by its class, so that this cannot be wrapped.
    It may close it in another thread, but needs nobody's connection for it.
    """
    wrapper = environ.get("wsgi.file_wrapper")
    if not (isinstance(wrapper, type) and isinstance(body, wrapper)):
        return False
    file = getattr(body, "filelike", None) or getattr(body, "file", None)
    return hasattr(file, "fileno")


def _release() -> None:
    try:
        release_connections()
    except Exception:
        log.error(
            "Exception while connections were released\n%s",
            traceback.format_exc(),
        )


# ASGI


async def _end(request: Request) -> None:
    """End a request, in another thread, and wait for that.

    Where the loop is not asyncio's, do not wait: the thread is enough.
    """
    if not request.holds():
        return
    done = _future()
    if done is None:
        _end_aside(request)
        return
    loop = done.get_loop()

    def tell() -> None:
        try:
            loop.call_soon_threadsafe(_set, done)
        except RuntimeError:
            # the loop was closed meanwhile
            pass

    _end_aside(request, tell)
    await done


def _end_aside(
    request: Request, then: Callable[[], None] | None = None
) -> None:
    # A thread of its own: those of the loop's executor may all be waiting
    # for just the connections that are to be given back.
    def end() -> None:
        try:
            request.end()
        finally:
            if then is not None:
                then()

    try:
        threading.Thread(
            target=end, name="sa_reaperpool request's end", daemon=True
        ).start()
    except RuntimeError:
        # no more threads, or the interpreter ends
        end()


def _future() -> asyncio.Future[None] | None:
    """One to wait for, if this is a task of asyncio's."""
    # here, since WSGI applications have no use for it
    import asyncio

    try:
        if asyncio.current_task() is not None:
            return asyncio.get_running_loop().create_future()
    except RuntimeError:
        # no loop of asyncio's runs in this thread
        pass
    return None


def _set(future: asyncio.Future[None]) -> None:
    # unless who waited was cancelled
    if not future.done():
        future.set_result(None)

"""Serving an ASGI application with hypercorn, on the event loop that runs, for a while.

hypercorn knows asyncio and Trio but no cancellation: it ends when it is asked to, after its
connections have ended. So it runs shielded, and connections are ended from here.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from anyio import CancelScope, Event, move_on_after
from anyio.lowlevel import current_token
from attrs import define, field
from hypercorn.config import Config
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ._context import background_tasks
from .errors import ConnectionDropped

logger = logging.getLogger(__name__)

GRACE = 1.0
"""Seconds that connections have to end by themselves before they are cut."""

BACKLOG = 512


@asynccontextmanager
async def listening(app: ASGIApp, host: str, port: int) -> AsyncGenerator[int]:
    """Serve `app` while the body runs; connections are accepted from its first line on.

    Requests that are still being served at the end are cancelled, their connections closed.

    Args:
        app: what to serve, by HTTP/1.1.
        host: a name or an address of this machine.
        port: 0: one that is free.

    Yields:
        The port.

    Raises:
        OSError: if the address cannot be used.
    """
    listener = _bind(host, port)
    address = listener.getsockname()
    gate, stop, stopped = Gate(app), Event(), Event()
    async with background_tasks() as group:
        group.start_soon(_serve, gate, listener, stop, stopped, name=f"hypercorn at {address}")
        try:
            yield address[1]
        finally:
            gate.close()
            stop.set()
            with move_on_after(GRACE, shield=True) as patience:
                await stopped.wait()
            if patience.cancelled_caught:
                _cut_connections(address)


def _bind(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    listener = socket.socket(family, kind, protocol)
    try:
        # Elsewhere it would let two servers share a port.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(os.name == "posix"))
        listener.bind(address)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


async def _serve(gate: Gate, listener: socket.socket, stop: Event, stopped: Event) -> None:
    config = Config()
    config.bind = [f"fd://{listener.detach()}"]  # hypercorn's from here on
    config.backlog = BACKLOG
    config.errorlog = logger
    config.include_server_header = False
    # A connection that a client keeps may be used at any time; only leaving ends it.
    config.keep_alive_timeout = 86_400
    config.keep_alive_max_requests = 2**63
    config.graceful_timeout = 2 * GRACE
    on_trio = type(current_token().native_token).__module__.startswith("trio.")
    # Late: each of the two imports its event loop. And hypercorn's types are not quite Starlette's.
    serve: Any = import_module("hypercorn.trio" if on_trio else "hypercorn.asyncio").serve
    try:
        with CancelScope(shield=True):
            await serve(gate, config, shutdown_trigger=stop.wait, mode="asgi")
    finally:
        stopped.set()


class Gate:
    """The application as hypercorn calls it; can end all calls, and connections without answer.

    Args:
        app: may raise `ConnectionDropped`.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._calls: set[CancelScope] = set()
        self._closed = False

    def close(self) -> None:
        """Cancel all calls, and each that comes later."""
        self._closed = True
        for call in self._calls:
            call.cancel()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection's next call, or hypercorn's lifespan."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        reply = _Reply(send)
        if not await self._ended(scope, receive, reply) and not reply.begun:
            # An interim answer, which every client passes over, is an answer for hypercorn: when
            # nothing follows, it closes the connection instead of sending a status of its own.
            await send({"type": "http.response.start", "status": 100, "headers": []})

    async def _ended(self, scope: Scope, receive: Receive, send: Send) -> bool:
        """Call the application; say whether it came to its end."""
        with CancelScope() as call:
            if self._closed:
                call.cancel()
            self._calls.add(call)
            try:
                await self._app(scope, receive, send)
            except ConnectionDropped:
                return False
            finally:
                self._calls.discard(call)
            return True
        return False


@define(eq=False)
class _Reply:
    """Sends, and knows whether an answer has begun."""

    _send: Send
    begun: bool = field(init=False, default=False)

    async def __call__(self, message: Message) -> None:
        self.begun = True
        await self._send(message)


async def _lifespan(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


def _cut_connections(address: object) -> None:
    """Shut down the connections of this process that were accepted at `address`.

    A client that reads no more keeps hypercorn in a send that it shields from cancellation, and
    hypercorn names no connection's socket; so they are found among the open files.
    """
    for number in _open_files():
        with suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(number).st_mode):
                continue
            with socket.socket(fileno=os.dup(number)) as connection:
                if connection.getsockname() == address:
                    connection.shutdown(socket.SHUT_RDWR)


def _open_files() -> list[int]:
    directory = Path("/dev/fd")
    return [int(path.name) for path in directory.iterdir()] if directory.is_dir() else []

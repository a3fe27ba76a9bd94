"""What a call passes before it reaches an endpoint: counting, the key, the fault plan."""

from __future__ import annotations

from collections.abc import Sequence
from secrets import token_hex

import anyio
from anyio import CancelScope
from anyio.lowlevel import checkpoint
from attrs import define, field, frozen
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.routing import Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ._context import Context
from ._pages import json_response
from .errors import ApiError, ConnectionDropped
from .faults import CallFault

PRIVATE = "/_anybatch/"
"""Paths that are not OpenAI's: neither counted nor guarded nor faulty."""


@frozen(eq=False)
class Front:
    """The ASGI application around the endpoints.

    Args:
        app: the endpoints.
        routes: of `app`; their names are what the fault plan and the statistics call routes.
        context: has the fault plan.
        api_key: what a call must bring as its bearer token; None: calls need none.
    """

    app: ASGIApp
    routes: Sequence[Route]
    context: Context
    api_key: str | None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one call.

        Raises:
            ConnectionDropped: if the fault plan wants the connection to end.
        """
        if scope["type"] != "http" or scope["path"].startswith(PRIVATE):
            await self.app(scope, receive, send)
            return
        route = self._route(scope)
        self.context.store.note(route=route, path=scope["path"])
        body = _Body(receive)
        reply = _Reply(send, body)
        fault = self.context.faults.for_call(route)
        if fault is not None:
            await self._serve_badly(fault, scope, body, reply)
        elif self._is_allowed(scope):
            await self.app(scope, body.receive, reply)
        else:
            await _REFUSED(scope, body.receive, reply)

    def _route(self, scope: Scope) -> str:
        for route in self.routes:
            if route.matches(scope)[0] is Match.FULL:
                return route.name
        return "unknown"

    def _is_allowed(self, scope: Scope) -> bool:
        header = Headers(scope=scope).get("authorization")
        return self.api_key is None or header == f"Bearer {self.api_key}"

    async def _serve_badly(self, fault: CallFault, scope: Scope, body: _Body, send: Send) -> None:
        if fault.kind in ("status", "reset"):
            await anyio.sleep(fault.seconds)
            await self._refuse(fault, scope, body, send)
        elif fault.kind in ("accept_and_drop", "accept_and_status"):
            await self.app(scope, body.receive, _discard)
            await anyio.sleep(fault.seconds)
            await self._refuse(fault, scope, body, send)
        elif fault.kind == "torn":
            await self._serve_torn(fault, scope, body, send)
        elif fault.kind == "late":
            await self.app(scope, body.receive, _Late(send, fault.seconds))
        else:
            await anyio.sleep(fault.seconds)
            await self.app(scope, body.receive, send)

    async def _refuse(self, fault: CallFault, scope: Scope, body: _Body, send: Send) -> None:
        if fault.kind in ("reset", "accept_and_drop"):
            await body.drain()
            raise ConnectionDropped(f"the fault plan drops this call of {scope['path']}")
        await _refusal(fault)(scope, body.receive, send)

    async def _serve_torn(self, fault: CallFault, scope: Scope, body: _Body, send: Send) -> None:
        with CancelScope() as cut:
            await self.app(scope, body.receive, _Torn(send, fault.after_bytes, cut))
        raise ConnectionDropped(f"the fault plan tears this answer to {scope['path']}")


@define(eq=False)
class _Body:
    """A request's body, of which it is known whether it was read to its end."""

    _receive: Receive
    _ended: bool = field(init=False, default=False)

    async def receive(self) -> Message:
        message = await self._receive()
        self._ended = not message.get("more_body", False)
        return message

    async def drain(self) -> None:
        """Read what is left."""
        while not self._ended:
            await self.receive()


@define(eq=False)
class _Reply:
    """Sends an answer, with an id, when the request's body was read to its end.

    An earlier answer would be lost: a client that is still sending does not look for one, and
    finds the connection closed.
    """

    _send: Send
    _body: _Body

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._body.drain()
            MutableHeaders(scope=message)["x-request-id"] = f"req_{token_hex(16)}"
        await self._send(message)


@define(eq=False)
class _Late:
    """Sends an answer some seconds after it was ready."""

    _send: Send
    _seconds: float

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await anyio.sleep(self._seconds)
        await self._send(message)


@define(eq=False)
class _Torn:
    """Sends so many bytes of a body and cancels whoever would send more."""

    _send: Send
    _left: int
    _cut: CancelScope

    async def __call__(self, message: Message) -> None:
        body: bytes = message.get("body", b"")
        if message["type"] == "http.response.body":
            message = {**message, "body": body[: self._left], "more_body": True}
            self._left -= len(body)
        await self._send(message)
        if self._left <= 0 and message["type"] == "http.response.body":
            self._cut.cancel()
            await checkpoint()


async def _discard(_message: Message) -> None:
    """Send nothing: the work is done, and nobody learns of it."""


def _refusal(fault: CallFault) -> Response:
    kind = "server_error" if fault.status >= 500 else "invalid_request_error"
    error = ApiError(fault.status, fault.message, code=fault.code, type=kind)
    headers = {} if fault.retry_after is None else {"retry-after": f"{fault.retry_after:g}"}
    return json_response(error.body(), fault.status, headers)


_KEY_ERROR = ApiError(401, "Incorrect API key provided.", code="invalid_api_key")
_REFUSED = json_response(_KEY_ERROR.body(), 401)

"""Calling the provider without sockets, so that time can be virtual."""

from __future__ import annotations

import anyio
import anyio.from_thread
import httpx2
from attrs import frozen
from starlette.types import ASGIApp

from .errors import ConnectionDropped


@frozen(eq=False)
class InProcessTransport(httpx2.AsyncBaseTransport, httpx2.BaseTransport):
    """A transport for httpx2's clients that calls an ASGI application in this process.

    What a client would see on a socket it sees here: dropped connections and read time-outs are
    httpx2's errors. But an answer is whole before the client has its first byte, so one that is
    torn fails as a whole; and a call that times out is cancelled, where a server would go on.

    A synchronous client works in worker threads that AnyIO started; the application then runs on
    the event loop, which must not wait for that thread.

    Args:
        app: `LocalProvider.app`, or any other.
    """

    app: ASGIApp

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        seconds = request.extensions.get("timeout", {}).get("read")
        try:
            with anyio.fail_after(seconds):
                return await httpx2.ASGITransport(self.app).handle_async_request(request)
        except ConnectionDropped as error:
            message = "Server disconnected without sending a response."
            raise httpx2.RemoteProtocolError(message, request=request) from error
        except TimeoutError as error:
            raise httpx2.ReadTimeout("The read operation timed out", request=request) from error

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Serve a synchronous client, from a worker thread."""
        return anyio.from_thread.run(self._whole, request, request.read())

    async def _whole(self, request: httpx2.Request, content: bytes) -> httpx2.Response:
        copy = httpx2.Request(
            request.method,
            request.url,
            headers=request.headers,
            content=content,
            extensions=request.extensions,
        )
        answer = await self.handle_async_request(copy)
        return httpx2.Response(
            answer.status_code, headers=answer.headers, content=await answer.aread()
        )

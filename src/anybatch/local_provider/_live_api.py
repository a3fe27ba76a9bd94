"""The live endpoints: one request, answered at once by the same engine; and the models."""

from __future__ import annotations

import time

from attrs import frozen
from starlette.requests import Request
from starlette.responses import Response

from ._context import Context
from ._pages import json_object, json_response
from .errors import ApiError


@frozen(eq=False)
class LiveApi:
    """Endpoints that answer without a batch.

    Args:
        context: has the engine.
    """

    context: Context

    async def create(self, request: Request) -> Response:
        """`POST` to one of the endpoints that batches can be for. Streams are not supported."""
        body = await json_object(request)
        if body.get("stream"):
            raise ApiError(400, "The local provider does not stream.", param="stream")
        answer = await self.context.engine.respond(request.url.path, body)
        self.context.store.note(event="live_requests")
        return json_response(answer)

    async def models(self, _request: Request) -> Response:
        """`GET /v1/models`: the engine is the one model; any model's name is taken."""
        model = {
            "id": self.context.engine.name,
            "object": "model",
            "created": int(time.time()),
            "owned_by": "anybatch",
        }
        return json_response({"object": "list", "data": [model]})

    async def statistics(self, _request: Request) -> Response:
        """`GET /_anybatch/statistics`: ours, for a test in another process."""
        return json_response(self.context.store.ledger.statistics().to_json())

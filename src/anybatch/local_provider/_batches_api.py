"""The Batch API: create, list, retrieve, cancel."""

from __future__ import annotations

from typing import Any

from attrs import frozen
from starlette.requests import Request
from starlette.responses import Response

from ._backend import Backend
from ._files_api import check_lifetime
from ._json import is_object
from ._pages import json_object, json_response, page
from .engines import check_endpoint
from .errors import invalid, missing


@frozen(eq=False)
class BatchesApi:
    """Endpoints about batches.

    Args:
        backend: where they live.
    """

    backend: Backend

    async def create(self, request: Request) -> Response:
        """`POST /v1/batches`. What is wrong with the input file shows later, as at OpenAI."""
        body = await json_object(request)
        for param in ("input_file_id", "completion_window"):
            if not isinstance(body.get(param), str):
                raise missing(param)
        endpoint = check_endpoint(body.get("endpoint"))
        if body["completion_window"] != "24h":
            message = f"Invalid value: '{body['completion_window']}'. Value must be '24h'."
            raise invalid("completion_window", message)
        metadata = _metadata(body.get("metadata"))
        expiry = body.get("output_expires_after")
        seconds = None if expiry is None else check_lifetime(expiry, "output_expires_after")
        record = await self.backend.create(endpoint, body["input_file_id"], metadata, seconds)
        return json_response(record.to_api())

    async def browse(self, request: Request) -> Response:
        """`GET /v1/batches`."""
        return json_response(page(request, self.backend.listed(), default=20, largest=100))

    async def retrieve(self, request: Request) -> Response:
        """`GET /v1/batches/{batch_id}`."""
        return json_response(self.backend.get(request.path_params["batch_id"]).to_api())

    async def cancel(self, request: Request) -> Response:
        """`POST /v1/batches/{batch_id}/cancel`."""
        record = await self.backend.cancel(request.path_params["batch_id"])
        return json_response(record.to_api())


def _metadata(value: Any) -> dict[str, str] | None:
    """Return a batch's metadata: at most 16 pairs of short texts.

    Raises:
        ApiError: if it is something else.
    """
    if value is None:
        return None
    if not is_object(value):
        raise invalid("metadata", "Invalid type for 'metadata': expected an object.")
    if len(value) > 16:
        raise invalid("metadata", f"Invalid 'metadata': {len(value)} pairs; 16 are allowed.")
    for key, text in value.items():
        if not isinstance(text, str):
            raise invalid(f"metadata.{key}", f"Invalid type for 'metadata.{key}': a string.")
        if len(key) > 64 or len(text) > 512:
            message = "Invalid 'metadata': keys have at most 64 characters, values 512."
            raise invalid(f"metadata.{key}", message)
    return value

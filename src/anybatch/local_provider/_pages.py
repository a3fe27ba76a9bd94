"""Reading a request's parameters, and answering with JSON, as OpenAI does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import orjson
from starlette.requests import Request
from starlette.responses import Response

from ._json import is_object
from .errors import ApiError, invalid


class Numbered(Protocol):
    """A file or a batch: has an id, a number that only grows, and a form for the API."""

    @property
    def id(self) -> str: ...

    def to_api(self) -> dict[str, Any]: ...


NumberedT = TypeVar("NumberedT", bound=Numbered)


def json_response(
    value: object, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """Return a value as an answer of JSON."""
    content = orjson.dumps(value)
    return Response(content, status, headers=headers, media_type="application/json")


async def json_object(request: Request) -> dict[str, Any]:
    """Return the JSON object in a request's body.

    Raises:
        ApiError: if there is none.
    """
    try:
        body = orjson.loads(await request.body())
    except orjson.JSONDecodeError as error:
        message = f"We could not parse the JSON body of your request: {error}."
        raise ApiError(400, message) from error
    if not is_object(body):
        raise ApiError(400, "The body of your request must be a JSON object.")
    return body


def page(
    request: Request, records: Sequence[NumberedT], *, default: int, largest: int
) -> dict[str, Any]:
    """Return the page of a list that `limit`, `after` and `order` ask for, newest first.

    Args:
        request: has the parameters in its query.
        records: all of them, oldest first.
        default: entries of a page where the request does not say.
        largest: entries that it may ask for.

    Raises:
        ApiError: for a limit out of range, a cursor or an order that does not exist.
    """
    query = request.query_params
    limit = _limit(query.get("limit"), default, largest)
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise invalid("order", f"Invalid value: '{order}'. Supported values are: 'asc', 'desc'.")
    ordered = records if order == "asc" else records[::-1]
    begin = _after(query.get("after"), ordered)
    data = ordered[begin : begin + limit]
    return {
        "object": "list",
        "data": [record.to_api() for record in data],
        "first_id": data[0].id if data else None,
        "last_id": data[-1].id if data else None,
        "has_more": begin + limit < len(ordered),
    }


def _limit(text: str | None, default: int, largest: int) -> int:
    if text is None:
        return default
    if not text.isdecimal() or not 1 <= int(text) <= largest:
        raise invalid("limit", f"Invalid 'limit': {text!r} is not between 1 and {largest}.")
    return int(text)


def _after(cursor: str | None, records: Sequence[Numbered]) -> int:
    if cursor is None:
        return 0
    for position, record in enumerate(records):
        if record.id == cursor:
            return position + 1
    raise ApiError(404, f"No object found with id '{cursor}'.", param="after")

"""What an HTTP exchange with a provider means: which failures are whose, and what is worth a retry.

Pure functions over httpx2's values; no call is made here.
"""

from __future__ import annotations

import email.utils
import math
import time
from collections.abc import Mapping
from typing import Any, Final, cast

import httpx2
import orjson

from .._exceptions import NotSent, OutcomeUnknown, ProviderError, Refused
from .._models import LineError, RemoteBatch

LONGEST_TEXT: Final = 2_000
"""Characters of a provider's own words that are kept."""

_UNSENT: Final = (
    httpx2.ConnectError,  # name look-up, connect, TLS
    httpx2.ConnectTimeout,
    httpx2.PoolTimeout,
    httpx2.ProxyError,
    httpx2.UnsupportedProtocol,
    httpx2.InvalidURL,
)
_WORTH_A_RETRY: Final = frozenset({408, 409, 425, 429})
_MAYBE_DONE: Final = frozenset({408, 409})


def failed_call(what: str, exc: Exception) -> ProviderError:
    """The error for a call without a reply; the same call may succeed later."""
    passing = not isinstance(exc, (httpx2.UnsupportedProtocol, httpx2.InvalidURL))
    return ProviderError(f"{what}: {describe(exc)}", transient=passing)


def failed_create(exc: Exception) -> ProviderError:
    """The error for a create without a reply: whether it left this machine."""
    if isinstance(exc, _UNSENT):
        return NotSent(f"creating the batch: {describe(exc)}", transient=True)
    return OutcomeUnknown(f"creating the batch: {describe(exc)}; it may exist")


def bad_status(
    what: str, response: httpx2.Response, secret: str = "", *, not_yet: bool = False
) -> ProviderError:
    """The error for a reply other than 2xx.

    Args:
        secret: what the error must not show, even where the provider repeats it.
        not_yet: whether a 404 may pass, as just after a create.
    """
    status = response.status_code
    transient = status in _WORTH_A_RETRY or status >= 500 or (status == 404 and not_yet)
    return ProviderError(
        f"{what}: {status}: {words(response, secret)}", **_facts(response, transient)
    )


def bad_create(response: httpx2.Response, secret: str = "") -> ProviderError:
    """The error for a reply to a create other than 2xx: whether it was refused for certain."""
    status, said = response.status_code, words(response, secret)
    if 400 <= status < 500 and status not in _MAYBE_DONE:
        return Refused(said, **_facts(response, transient=status in _WORTH_A_RETRY))
    message = f"creating the batch: {status}: {said}; it may exist"
    return OutcomeUnknown(message, **_facts(response, transient=False))


def describe(exc: BaseException) -> str:
    """An exception on one line; many of httpx2's time-outs say nothing themselves."""
    return f"{type(exc).__name__}: {exc}"[:LONGEST_TEXT].rstrip(": ")


def json_object(text: bytes) -> dict[str, Any]:
    """A reply's JSON object; empty where it is none."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def remote_batch(data: Mapping[str, Any]) -> RemoteBatch | None:
    """A batch object of OpenAI's API, as far as it can be read; None where it has no id."""
    batch_id = _text(data.get("id"))
    if batch_id is None:
        return None
    created_at = data.get("created_at")
    counts = _mapping(data.get("request_counts"))
    return RemoteBatch(
        id=batch_id,
        status=str(data.get("status") or ""),
        errors=_line_errors(_mapping(data.get("errors")).get("data")),
        output_file_id=_text(data.get("output_file_id")),
        error_file_id=_text(data.get("error_file_id")),
        input_file_id=_text(data.get("input_file_id")),
        metadata={str(key): str(value) for key, value in _mapping(data.get("metadata")).items()},
        created_at=float(created_at) if isinstance(created_at, (int, float)) else None,
        counts={key: value for key, value in counts.items() if isinstance(value, int)},
    )


def _line_errors(data: Any) -> tuple[LineError, ...]:
    items = cast("list[object]", data) if isinstance(data, list) else ()
    return tuple(_line_error(_mapping(item)) for item in items)


def _line_error(item: Mapping[str, Any]) -> LineError:
    line = item.get("line")
    message = str(item.get("message") or "")[:LONGEST_TEXT]
    return LineError(str(item.get("code") or ""), message, line if isinstance(line, int) else None)


def _text(value: Any) -> str | None:
    """A non-empty string: some servers say `""` where there is no file."""
    return value if isinstance(value, str) and value else None


def _mapping(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _facts(response: httpx2.Response, transient: bool) -> dict[str, Any]:
    code = _mapping(json_object(response.content).get("error")).get("code")
    return {
        "status": response.status_code,
        "code": None if code is None else str(code)[:LONGEST_TEXT],
        "retry_after": retry_after(response.headers),
        "transient": transient,
    }


def words(response: httpx2.Response, secret: str = "") -> str:
    """The provider's own words, cut, and without the secret."""
    data = json_object(response.content)
    error = data.get("error")
    found = _mapping(error).get("message") or error or data.get("detail") or data.get("message")
    text = found if isinstance(found, str) else response.text
    text = text.replace(secret, "(key)") if secret else text
    return text[:LONGEST_TEXT].strip() or response.reason_phrase


def retry_after(headers: Mapping[str, str]) -> float | None:
    """The seconds that a reply asks to wait, or None."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return milliseconds / 1000
    value = headers.get("retry-after")
    seconds = _number(value)
    return seconds if seconds is not None or value is None else _until(value)


def _number(value: str | None) -> float | None:
    try:
        number = float(value or "")
    except ValueError:
        return None
    return max(number, 0.0) if math.isfinite(number) else None


def _until(date: str) -> float | None:
    try:
        moment = email.utils.parsedate_to_datetime(date)
    except ValueError:
        return None
    return max(moment.timestamp() - time.time(), 0.0)

"""Rows: what a provider says about one request. Pure, but for the batch that reads them back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import attrs
import orjson

from ._batch_states import Record, State
from ._exceptions import RequestCancelled, RequestExpired, RequestFailed
from ._models import Answer, LineError

EXPIRED = "batch_expired"
CANCELLED = "batch_cancelled"
MISSING = "missing_row"

_KINDS: Mapping[str | None, type[RequestFailed]] = {
    EXPIRED: RequestExpired,
    CANCELLED: RequestCancelled,
}
_WORDS = {
    "expired": (EXPIRED, "the provider's window ended before the request was answered"),
    "cancelled": (CANCELLED, "the batch was cancelled before the request was answered"),
    "completed": (MISSING, "the provider finished the batch without a row for this request"),
}


def read_row(line: bytes) -> dict[str, Any] | None:
    """A row of an output or error file; None where it is none."""
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    found = _mapping(row)
    if not isinstance(found.get("custom_id"), str):
        return None
    told = isinstance(found.get("response"), dict) or found.get("error") is not None
    return found if told else None


def custom_id_of(line: bytes) -> str:
    """The custom id of a line of a batch file, or of a row that was read before."""
    return cast("str", orjson.loads(line)["custom_id"])


def outcome_of(row: Mapping[str, Any]) -> Answer | RequestFailed:
    """What the request gets: its answer, or why there is none, in the provider's words."""
    custom_id: str = row["custom_id"]
    response = _mapping(row.get("response"))
    body = response.get("body")
    if response.get("status_code") == 200 and not row.get("error"):
        if isinstance(body, dict):
            return Answer(cast("dict[str, Any]", body), custom_id=custom_id)
        return RequestFailed(
            "the provider's row has no body", code="malformed_row", custom_id=custom_id
        )
    error = row.get("error") or _mapping(body).get("error")
    code, message = _words(error, response.get("status_code"))
    return _KINDS.get(code, RequestFailed)(message, code=code, custom_id=custom_id)


def _words(error: Any, status: Any) -> tuple[str | None, str]:
    if not isinstance(error, dict):
        return None, str(error) if error else f"the provider answered with status {status}"
    found = cast("dict[str, Any]", error)
    code = found.get("code") or found.get("type")
    message = found.get("message") or f"the provider answered with status {status}"
    return (None if code is None else str(code)), str(message)


def _mapping(value: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def ends(record: Record, missing: Mapping[str, int]) -> Iterator[bytes]:
    """Rows for the requests that the provider has none for, saying why.

    :param record: of the batch, ended or refused
    :param missing: custom id → line of the batch file, from 1
    """
    by_line, whole = _complaints(record)
    for custom_id, line in missing.items():
        code, message = by_line.get(line, whole)
        error = {"code": code, "message": message}
        yield orjson.dumps({"custom_id": custom_id, "response": None, "error": error})


def _complaints(record: Record) -> tuple[dict[int, tuple[str, str]], tuple[str, str]]:
    """What the provider says against single lines, and against all the others."""
    if record.state is State.REFUSED or record.remote is None:
        return {}, (record.code or "batch_refused", record.message)
    errors = record.remote.errors
    by_line = {error.line: (error.code, error.message) for error in errors if error.line}
    words = _WORDS.get(record.remote.status)
    return by_line, words or _failed(errors)


def _failed(errors: Iterable[LineError]) -> tuple[str, str]:
    told = sorted(errors, key=lambda error: error.line or 0)
    if not told:
        return "batch_failed", "the provider failed the batch without saying why"
    first = told[0]
    if first.line:
        return "batch_failed", f"the batch failed because of line {first.line}: {first.message}"
    return first.code, first.message


@attrs.frozen
class FinishedBatch:
    """What `batch_process_func` gets: langbatch's view of a batch, read from our safe copy.

    The methods read files and make no network call. `id` is the key for idempotence: the function
    may be called again for the same batch.

    Args:
        id: the batch's id.
        platform_batch_id: the provider's id; None where the batch was never created.
        requests_path: the batch file.
        rows_path: one row for each request, resubmissions included.
    """

    id: str
    platform_batch_id: str | None
    requests_path: Path
    rows_path: Path

    def get_results(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """Successful and unsuccessful results, in langbatch's shapes.

        A successful one has `custom_id` and, by endpoint, `choices`, `embedding`, or the whole
        `body`; an unsuccessful one `custom_id` and `error`.
        """
        successful: list[dict[str, Any]] = []
        unsuccessful: list[dict[str, Any]] = []
        with self.rows_path.open("rb") as rows:
            for line in rows:
                outcome = outcome_of(orjson.loads(line))
                if isinstance(outcome, Answer):
                    successful.append({"custom_id": outcome.custom_id, **_shape(outcome)})
                else:
                    unsuccessful.append(_error(outcome))
        return successful, unsuccessful

    def get_unsuccessful_requests(self) -> list[dict[str, Any]]:
        """The requests that have no answer, as they were sent."""
        failed = {error["custom_id"] for error in self.get_results()[1]}
        return self.get_requests_by_custom_ids(failed)

    def get_requests_by_custom_ids(self, custom_ids: Iterable[str]) -> list[dict[str, Any]]:
        """The requests with these ids, as they were sent, in the order of the file."""
        wanted = set(custom_ids)
        with self.requests_path.open("rb") as lines:
            requests = (orjson.loads(line) for line in lines)
            return [request for request in requests if request["custom_id"] in wanted]


def _error(failure: RequestFailed) -> dict[str, Any]:
    error = {"code": failure.code, "message": failure.message}
    return {"custom_id": failure.custom_id, "error": error}


def _shape(body: Answer) -> dict[str, Any]:
    if "choices" in body:
        return {"choices": body["choices"]}
    data = body.get("data")
    if data and "embedding" in data[0]:
        return {"embedding": data[0]["embedding"]}
    return {"body": dict(body)}

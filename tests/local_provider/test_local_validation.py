"""What the local provider refuses, with OpenAI's codes, and where it says so."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from anybatch.local_provider import BatchFault, FaultPlan, Limits, LocalProvider
from anybatch.local_provider.validation import MAX_ERRORS, Validator
from tests.local_provider.client import Client, chat, chats, client_of, jsonl, request

pytestmark = [pytest.mark.anyio, pytest.mark.real_time]

URL = "/v1/chat/completions"


def verdict(content: bytes, endpoint: str = URL, limits: Limits | None = None) -> Validator:
    validator = Validator(endpoint, limits or Limits())
    for line in content.splitlines(keepends=True):
        validator.feed(line)
    validator.finish()
    return validator


def found(content: bytes, **options: Any) -> list[tuple[str, int | None, str | None]]:
    return [(e.code, e.line, e.param) for e in verdict(content, **options).errors]


def without(key: str) -> bytes:
    return orjson.dumps({k: v for k, v in chat("a").items() if k != key})


def test_good_lines_pass_with_crlf_and_blank_lines_too() -> None:
    lines = jsonl(chats(3)).replace(b"\n", b"\r\n") + b"\r\n"
    assert found(lines) == []
    assert verdict(lines).total == 3
    assert verdict(lines).model == "m"


@pytest.mark.parametrize("line", [b"{", b"[]", b'"text"', b"NaN", b'{"a": NaN}', b"\xff"])
def test_a_line_that_is_no_json_object_is_named(line: bytes) -> None:
    assert found(jsonl(chats(2)) + line + b"\n") == [("invalid_json_line", 3, None)]


def test_lines_are_counted_from_1_blank_ones_included() -> None:
    assert found(b"\n\n{\n") == [("invalid_json_line", 3, None)]


@pytest.mark.parametrize("key", ["custom_id", "method", "url", "body"])
def test_a_missing_key_is_named(key: str) -> None:
    assert found(without(key)) == [("missing_required_parameter", 1, key)]


@pytest.mark.parametrize("custom_id", [7, None, ""])
def test_a_custom_id_is_a_text(custom_id: object) -> None:
    line = orjson.dumps({**chat("a"), "custom_id": custom_id})
    assert found(line) == [("missing_required_parameter", 1, "custom_id")]


def test_a_second_custom_id_is_a_duplicate() -> None:
    lines = jsonl([chat("a"), chat("b"), chat("a")])
    assert found(lines) == [("duplicate_custom_id", 3, "custom_id")]


def test_a_line_for_another_endpoint_does_not_match() -> None:
    lines = jsonl([chat("a"), request("b", "/v1/embeddings", {"model": "m", "input": "x"})])
    assert found(lines) == [("url_mismatch", 2, "url")]


def test_a_line_for_another_model_does_not_match() -> None:
    lines = jsonl([chat("a"), chat("b", model="other"), chat("c")])
    assert found(lines) == [("model_mismatch", 2, "body.model")]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"method": "GET"}, ("invalid_value", 1, "method")),
        ({"body": "text"}, ("invalid_type", 1, "body")),
        ({"body": {}}, ("missing_required_parameter", 1, "body.model")),
    ],
)
def test_method_body_and_model_are_checked(change: dict[str, Any], error: tuple[Any, ...]) -> None:
    assert found(orjson.dumps({**chat("a"), **change})) == [error]


@pytest.mark.parametrize("content", [b"", b"\n\n"])
def test_an_empty_file_fails_as_a_whole(content: bytes) -> None:
    assert found(content) == [("empty_file", None, None)]


def test_too_many_requests_fail_as_a_whole() -> None:
    limits = Limits(max_requests=3)
    assert found(jsonl(chats(3)), limits=limits) == []
    assert found(jsonl(chats(4)), limits=limits) == [("too_many_tasks", None, None)]


def test_too_many_embedding_inputs_in_all_fail_as_a_whole() -> None:
    limits = Limits(max_embedding_inputs=4)
    lines = jsonl(
        request(name, "/v1/embeddings", {"model": "m", "input": given})
        for name, given in [("a", ["x", "y"]), ("b", "z"), ("c", [1, 2, 3]), ("d", None)]
    )
    assert found(lines, endpoint="/v1/embeddings", limits=limits) == []
    more = lines + jsonl([request("e", "/v1/embeddings", {"model": "m", "input": ["x"]})])
    errors = found(more, endpoint="/v1/embeddings", limits=limits)
    assert errors == [("too_many_tasks", None, None)]


def test_errors_beyond_a_thousand_are_not_kept() -> None:
    assert len(found(b"{\n" * (MAX_ERRORS + 5))) == MAX_ERRORS


async def test_a_batch_with_bad_lines_fails_and_buys_nothing(
    client: Client, provider: LocalProvider
) -> None:
    batch = await client.ended(jsonl(chats(2)) + b"{\n")
    assert batch["status"] == "failed"
    assert batch["errors"]["object"] == "list"
    assert [(e["code"], e["line"]) for e in batch["errors"]["data"]] == [("invalid_json_line", 3)]
    assert batch["output_file_id"] is batch["error_file_id"] is None
    assert provider.statistics().rows_executed == 0


async def test_a_batch_of_a_file_that_does_not_exist_is_created_and_fails(client: Client) -> None:
    batch = await client.until((await client.create("file-none"))["id"])
    assert batch["status"] == "failed"
    assert batch["errors"]["data"][0]["param"] == "input_file_id"


async def test_too_many_enqueued_tokens_fail_a_batch_until_others_have_ended() -> None:
    limits = Limits(max_enqueued_tokens=100)
    faults = FaultPlan(batches=(BatchFault(nth=(1,), stuck_in="in_progress"),))
    requests = [chat("a", "x" * 4 * 80)]
    provider = LocalProvider(limits=limits, faults=faults)
    async with provider, client_of(provider) as client:
        first = await client.until((await client.batch(requests))["id"], "in_progress")
        second = await client.ended(requests)
        assert second["status"] == "failed"
        assert second["errors"]["data"][0]["code"] == "token_limit_exceeded"
        await client.post(f"batches/{first['id']}/cancel")
        await client.until(first["id"])
        assert (await client.ended(requests))["status"] == "completed"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"input_file_id": None}, "input_file_id"),
        ({"endpoint": None}, "endpoint"),
        ({"endpoint": "/v1/videos"}, "endpoint"),
        ({"completion_window": None}, "completion_window"),
        ({"completion_window": "1h"}, "completion_window"),
        ({"metadata": "text"}, "metadata"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata"),
        ({"metadata": {"k": 1}}, "metadata.k"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k"),
        ({"metadata": {"k" * 65: "v"}}, "metadata." + "k" * 65),
        ({"output_expires_after": {"anchor": "created_at", "seconds": 1}}, "output_expires_after"),
        ({"output_expires_after": 7_200}, "output_expires_after"),
    ],
)
async def test_a_create_with_a_bad_parameter_is_refused(
    client: Client, provider: LocalProvider, change: dict[str, Any], param: str
) -> None:
    body = {"input_file_id": "file-x", "endpoint": URL, "completion_window": "24h", **change}
    answer = await client.post("batches", json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert provider.batches() == []


@pytest.mark.parametrize("content", [b"{", b"[]"])
async def test_a_create_without_a_json_object_is_refused(client: Client, content: bytes) -> None:
    answer = await client.post("batches", content=content)
    assert answer.status_code == 400
    assert "JSON" in answer.json()["error"]["message"]


async def test_output_files_expire_as_asked(client: Client) -> None:
    expiry = {"anchor": "created_at", "seconds": 7_200}
    batch = await client.ended(chats(1), output_expires_after=expiry)
    file = (await client.get(f"files/{batch['output_file_id']}")).json()
    assert file["expires_at"] == file["created_at"] + 7_200


async def test_what_does_not_exist_answers_404_in_openai_s_form(client: Client) -> None:
    for method, path in [
        ("GET", "batches/batch_none"),
        ("POST", "batches/batch_none/cancel"),
        ("GET", "files/file-none"),
        ("GET", "unicorns"),
    ]:
        answer = await client.request(method, path)
        assert answer.status_code == 404
        assert set(answer.json()["error"]) == {"message", "type", "param", "code"}
    assert (await client.delete("batches")).status_code == 405


async def test_a_batch_that_has_ended_cannot_be_cancelled(client: Client) -> None:
    batch = await client.ended(chats(1))
    answer = await client.post(f"batches/{batch['id']}/cancel")
    assert answer.status_code == 409
    assert "completed" in answer.json()["error"]["message"]


async def test_a_cancel_is_repeated_without_harm() -> None:
    async with LocalProvider(delay=2) as provider, client_of(provider) as client:
        batch = await client.batch(chats(1))
        answers = [(await client.post(f"batches/{batch['id']}/cancel")).json() for _ in "ab"]
        assert answers[0] == answers[1]
        assert (await client.until(batch["id"]))["status"] == "cancelled"


async def test_a_key_is_asked_for_where_one_is_set() -> None:
    async with LocalProvider(api_key="secret") as provider, client_of(provider) as client:
        answer = await client.get("models")
        assert answer.status_code == 401
        assert answer.json()["error"]["code"] == "invalid_api_key"
        right = {"authorization": "Bearer secret"}
        assert (await client.get("models", headers=right)).status_code == 200
        wrong = {"authorization": "Bearer other"}
        assert (await client.get("models", headers=wrong)).status_code == 401
        big = await client.post("files", files={"file": ("a.jsonl", b"x" * 8_000_000)})
        assert big.status_code == 401

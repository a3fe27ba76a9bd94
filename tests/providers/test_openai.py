from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import httpx2
import pytest

from anybatch import _encoding
from anybatch._exceptions import (
    NotSent,
    OutcomeUnknown,
    ProviderError,
    Refused,
    RequestRejected,
)
from anybatch._models import Limits, LineError, RawRequest, RemoteBatch
from anybatch.abc import Provider
from anybatch.local_provider import LocalProvider
from anybatch.providers import OpenAI, _http, _streams, as_provider

pytestmark = pytest.mark.anyio
CHAT = "/v1/chat/completions"
MODEL = {"model": "m"}
Handler = Callable[[httpx2.Request], httpx2.Response]


def provider(handler: Handler, **settings: Any) -> OpenAI:
    transport = httpx2.MockTransport(handler)
    settings = {"base_url": "http://host/v1/", "api_key": "sk-secret", **settings}
    return OpenAI(transport=transport, create_transport=transport, **settings)


def reply(status: int = 200, **options: Any) -> Handler:
    return lambda request: httpx2.Response(status, **options)


def failing(error: Exception) -> Handler:
    def handler(request: httpx2.Request) -> httpx2.Response:
        raise error

    return handler


async def rows(of: OpenAI, **files: Any) -> list[bytes]:
    return [row async for row in of.results(RemoteBatch("b", "completed", **files))]


class TestConstruction:
    @pytest.fixture(autouse=True)
    def no_environment(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("API_KEY", "BASE_URL", "ORG_ID", "PROJECT_ID"):
            monkeypatch.delenv(f"OPENAI_{name}", raising=False)

    def test_without_a_key_it_names_the_remedy(self) -> None:
        with pytest.raises(ValueError, match="OPENAI_API_KEY"):
            OpenAI()

    def test_a_server_of_ones_own_needs_no_key(self) -> None:
        assert "Authorization" not in OpenAI(base_url="http://localhost:1/v1")._headers

    def test_the_environment_names_key_address_organization_and_project(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("API_KEY", "ORG_ID", "PROJECT_ID"):
            monkeypatch.setenv(f"OPENAI_{name}", name.lower())
        monkeypatch.setenv("OPENAI_BASE_URL", "http://there/v1/")
        made = OpenAI(headers={"X-Mine": "1"})
        assert made.address == "http://there/v1"
        assert made._headers == {
            "Authorization": "Bearer api_key",
            "OpenAI-Organization": "org_id",
            "OpenAI-Project": "project_id",
            "X-Mine": "1",
        }

    @pytest.mark.parametrize("key", ["sk-a\nb", "sk-ü", "sk a", "sk-\x00"])
    def test_a_key_that_no_header_carries_is_refused_and_not_shown(self, key: str) -> None:
        with pytest.raises(ValueError, match="copy it again") as caught:
            OpenAI(api_key=key)
        assert "sk" not in str(caught.value)

    def test_unknown_endpoints_and_addresses_without_a_scheme_are_refused(self) -> None:
        with pytest.raises(ValueError, match="unknown endpoint '/v1/completions'"):
            OpenAI("/v1/completions", api_key="k")
        with pytest.raises(ValueError, match="'localhost:8000' has no scheme"):
            OpenAI(base_url="localhost:8000")

    def test_it_shows_neither_the_key_nor_credentials_in_the_address(self) -> None:
        made = OpenAI(base_url="https://user:word@host:81/v1?key=1", api_key="sk-secret")
        assert repr(made) == "<OpenAI '/v1/chat/completions' at 'https://host:81/v1'>"

    def test_the_account_is_a_digest_of_address_and_key(self) -> None:
        one, two = OpenAI(api_key="sk-one"), OpenAI(api_key="sk-two")
        assert one.account == OpenAI(api_key="sk-one").account
        elsewhere = OpenAI(api_key="sk-one", base_url="http://there")
        assert len({one.account, two.account, elsewhere.account}) == 3
        assert "sk-" not in one.account

    def test_it_is_of_one_profile_and_has_openais_limits_unless_told(self) -> None:
        assert OpenAI(api_key="k").profile == "openai"
        assert OpenAI(api_key="k").limits == Limits(50_000, 200_000_000, inputs=50_000)
        assert OpenAI(api_key="k", limits=Limits(7)).limits.requests == 7


class TestAsProvider:
    def test_a_provider_passes_and_has_its_own_settings(self) -> None:
        made: Provider = OpenAI(api_key="k")
        assert as_provider(made) is made
        with pytest.raises(ValueError, match="'client'"):
            as_provider(made, {"client": 1})

    def test_anything_else_is_refused_with_the_remedy(self) -> None:
        with pytest.raises(TypeError, match=r"batch_type=OpenAI\(\)"):
            as_provider(OpenAI)
        with pytest.raises(TypeError, match=r"anybatch\.providers\.OpenAI\(\)"):
            as_provider("gpt")


class TestComplete:
    @pytest.mark.parametrize(
        ("endpoint", "partial", "body"),
        [
            (CHAT, "hi", {"messages": [{"role": "user", "content": "hi"}]}),
            (CHAT, [{"role": "user"}], {"messages": [{"role": "user"}]}),
            (CHAT, {"messages": [1], "n": 2}, {"messages": [1], "n": 2}),
            (CHAT, RawRequest(b'"hi"'), {"messages": [{"role": "user", "content": "hi"}]}),
            ("/v1/responses", "hi", {"input": "hi"}),
            ("/v1/responses", [{"role": "user"}], {"input": [{"role": "user"}]}),
            ("/v1/responses", {"prompt": {"id": "p"}}, {"prompt": {"id": "p"}}),
            ("/v1/embeddings", "hi", {"input": "hi"}),
            ("/v1/embeddings", ["a", "b"], {"input": ["a", "b"]}),
            ("/v1/moderations", "hi", {"input": "hi"}),
        ],
    )
    def test_every_form_of_a_partial_request_becomes_a_body(
        self, endpoint: str, partial: Any, body: Any
    ) -> None:
        made = OpenAI(endpoint, api_key="k").complete(partial, MODEL)
        assert made == {"method": "POST", "url": endpoint, "body": {"model": "m", **body}}
        assert next(iter(made["body"])) == "model"

    def test_the_requests_own_fields_win_and_the_kwargs_stay_as_they_are(self) -> None:
        kwargs = {"model": "m", "n": 1}
        made = OpenAI(api_key="k").complete({"messages": [], "model": "mine"}, kwargs)
        assert made["body"] == {"model": "mine", "n": 1, "messages": []}
        assert kwargs == {"model": "m", "n": 1}

    @pytest.mark.parametrize(
        ("text", "line"),
        [
            (b'{"messages": [], "t": 0.10}', b'"body":{"model":"m","messages":[],"t":0.10}'),
            (b'[{"x": 1E+2}]', b'"body":{"model":"m","messages":[{"x": 1E+2}]}'),
        ],
    )
    def test_raw_text_keeps_its_spelling_in_the_line(self, text: bytes, line: bytes) -> None:
        made = OpenAI(api_key="k").complete(RawRequest(text), MODEL)
        assert line in _encoding.with_id(made, "a")

    @pytest.mark.parametrize(
        ("partial", "words"),
        [
            ({"role": "user", "content": "x"}, "without 'messages'"),
            ({"custom_id": "a", "body": {}}, 'requests_type="full"'),
            (7, "that is a int: 7"),
            (None, "NoneType"),
            (RawRequest(b"7"), "that is a int"),
            (RawRequest(b"{"), "not JSON"),
        ],
    )
    def test_what_has_no_known_form_is_rejected(self, partial: Any, words: str) -> None:
        with pytest.raises(RequestRejected, match=words):
            OpenAI(api_key="k").complete(partial, MODEL)

    def test_an_input_is_needed_where_there_are_no_messages(self) -> None:
        with pytest.raises(RequestRejected, match='dict with "input"'):
            OpenAI("/v1/embeddings", api_key="k").complete({"messages": []}, MODEL)

    def test_without_a_model_the_remedy_is_named_except_for_moderations(self) -> None:
        with pytest.raises(RequestRejected, match=r'request_kwargs=\{"model": "…"\}'):
            OpenAI(api_key="k").complete("hi", {})
        made = OpenAI("/v1/moderations", api_key="k").complete("hi", {})
        assert made["body"] == {"input": "hi"}


USER = {"role": "user", "content": "hi"}


class TestCheck:
    @pytest.mark.parametrize(
        "request_",
        [
            {"body": {"model": "m", "messages": [USER]}},
            {"custom_id": "a", "method": "POST", "url": CHAT,
             "body": {"model": "m", "messages": [{"role": "assistant"}, USER], "x": None}},
            {"body": {"model": "m", "messages": [{"role": "user", "content": [{}]}]}},
            {"url": "/v1/responses", "body": {"model": "m", "input": "hi"}},
            {"url": "/v1/responses", "body": {"model": "m", "prompt": {"id": "p"}}},
            {"url": "/v1/embeddings", "body": {"model": "m", "input": ["a"]}},
            {"url": "/v1/moderations", "body": {"input": "a"}},
            {"body": RawRequest(b'{"model": "m", "messages": [{"role": "user"}]}')},
            {"body": {"model": "m", "messages": RawRequest(b'[{"role": "user"}]')}},
        ],
    )  # fmt: skip
    def test_what_the_provider_takes_passes(self, request_: Any) -> None:
        OpenAI(api_key="k").check(request_)

    @pytest.mark.parametrize(
        ("request_", "words"),
        [
            ({}, "without a body"),
            ({"body": [1]}, r"\[1\]; add it"),
            ({"method": "GET"}, "'GET'"),
            ({"url": "/chat"}, "unknown url '/chat'"),
            ({"url": ["/v1"]}, "unknown url"),
            ({"custom_id": ""}, "custom_id ''"),
            ({"custom_id": 7}, "custom_id 7"),
            ({"custom_id": "x" * 513}, "1 to 512"),
            ({"body": {"messages": [USER]}}, "request_kwargs"),
            ({"body": {"model": "", "messages": [USER]}}, "model ''"),
            ({"body": {"model": 7, "messages": [USER]}}, "model 7"),
            ({"body": {"model": "m"}}, "messages None"),
            ({"body": {"model": "m", "messages": []}}, r"messages \[\]"),
            ({"body": {"model": "m", "messages": "hi"}}, "messages 'hi'"),
            ({"body": {"model": "m", "messages": ["hi"]}}, "no object: 'hi'"),
            ({"body": {"model": "m", "messages": [{"role": 1}]}}, "role 1"),
            ({"body": {"model": "m", "messages": [{"content": "hi"}]}}, "role None"),
            ({"body": {"model": "m", "messages": [{"role": "u", "content": 7}]}}, "content 7"),
            ({"url": "/v1/embeddings", "body": {"model": "m", "input": ""}}, "input ''"),
            ({"url": "/v1/responses", "body": {"model": "m"}}, "input None"),
            ({"url": "/v1/moderations", "body": {"input": {}}}, "input {}"),
            ({"url": "/v1/moderations", "body": {"model": 7, "input": "x"}}, "model 7"),
        ],
    )
    def test_what_the_provider_would_refuse_is_rejected_by_name(
        self, request_: Any, words: str
    ) -> None:
        with pytest.raises(RequestRejected, match=words):
            OpenAI(api_key="k").check(request_)

    def test_a_long_value_is_shown_by_its_beginning(self) -> None:
        with pytest.raises(RequestRejected) as caught:
            OpenAI(api_key="k").check({"body": {"model": "m", "messages": "x" * 10_000}})
        assert len(str(caught.value)) < 400


class TestUpload:
    async def test_the_file_goes_out_as_a_form_with_purpose_name_and_expiry(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "stored"
        path.write_bytes(b'{"custom_id":"a"}\n')
        seen: list[httpx2.Request] = []

        def handler(request: httpx2.Request) -> httpx2.Response:
            seen.append(request)
            return httpx2.Response(200, json={"id": "file-1"})

        async with provider(handler) as p:
            assert await p.upload(path, "batch-1.jsonl") == "file-1"
        assert str(seen[0].url) == "http://host/v1/files"
        assert seen[0].headers["authorization"] == "Bearer sk-secret"
        assert seen[0].headers["content-length"] == str(len(seen[0].content))
        body = seen[0].content.decode()
        assert 'name="purpose"\r\n\r\nbatch\r\n' in body
        assert 'name="expires_after[seconds]"\r\n\r\n2592000\r\n' in body
        assert 'name="file"; filename="batch-1.jsonl"\r\n' in body
        assert '\r\n\r\n{"custom_id":"a"}\n\r\n--' in body

    async def test_the_expiry_is_left_out_for_servers_that_refuse_it(self, tmp_path: Path) -> None:
        def handler(request: httpx2.Request) -> httpx2.Response:
            assert b"expires_after" not in request.content
            return httpx2.Response(200, json={"id": "file-1"})

        (tmp_path / "f").write_bytes(b"x")
        async with provider(handler, input_expiry=None) as p:
            assert await p.upload(tmp_path / "f", "f.jsonl") == "file-1"

    async def test_only_pieces_of_a_large_file_are_in_memory(self, tmp_path: Path) -> None:
        class Sink(httpx2.AsyncBaseTransport):
            size = 0

            async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
                async for chunk in request.stream:  # type: ignore[union-attr]
                    self.size += len(chunk)
                return httpx2.Response(200, json={"id": "file-1"})

        path, sink = tmp_path / "f", Sink()
        path.write_bytes(b"x" * 30_000_000)
        async with OpenAI(base_url="http://host", transport=sink) as p:
            tracemalloc.start()
            await p.upload(path, "f.jsonl")
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert sink.size > 30_000_000
        assert peak < 6_000_000

    async def test_a_reply_without_an_id_may_be_better_next_time(self, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"x")
        async with provider(reply(json={"object": "file"})) as p:
            with pytest.raises(ProviderError, match="no id") as caught:
                await p.upload(tmp_path / "f", "f.jsonl")
        assert caught.value.transient


class TestCreate:
    def test_it_orders_a_day_with_our_trace_on_a_connection_of_its_own(self) -> None:
        seen: list[httpx2.Request] = []

        def handler(request: httpx2.Request) -> httpx2.Response:
            seen.append(request)
            return httpx2.Response(200, json={"id": "b1", "status": "validating"})

        batch = provider(handler).create("file-1", CHAT, "trace-1")
        assert batch == RemoteBatch("b1", "validating")
        assert str(seen[0].url) == "http://host/v1/batches"
        assert json.loads(seen[0].content) == {
            "input_file_id": "file-1",
            "endpoint": CHAT,
            "completion_window": "24h",
            "metadata": {"anybatch": "trace-1"},
        }

    @pytest.mark.parametrize(
        "error",
        [
            httpx2.ConnectError("no such name"),
            httpx2.ConnectTimeout(""),
            httpx2.PoolTimeout(""),
            httpx2.ProxyError("no"),
        ],
    )
    def test_what_never_left_this_machine_was_not_sent(self, error: Exception) -> None:
        with pytest.raises(NotSent, match=type(error).__name__):
            provider(failing(error)).create("f", CHAT, "t")

    @pytest.mark.parametrize(
        "error",
        [
            httpx2.ReadTimeout(""),
            httpx2.WriteTimeout(""),
            httpx2.ReadError("reset"),
            httpx2.WriteError("reset"),
            httpx2.RemoteProtocolError("gone"),
            ValueError("a bug"),
        ],
    )
    def test_a_lost_reply_leaves_the_outcome_unknown(self, error: Exception) -> None:
        with pytest.raises(OutcomeUnknown, match="may exist") as caught:
            provider(failing(error)).create("f", CHAT, "t")
        assert caught.value.__cause__ is error

    @pytest.mark.parametrize("status", [301, 307, 408, 409, 500, 502, 503])
    def test_so_does_a_status_that_does_not_say_that_it_was_not_done(self, status: int) -> None:
        with pytest.raises(OutcomeUnknown) as caught:
            provider(reply(status, text="busy")).create("f", CHAT, "t")
        assert caught.value.status == status

    @pytest.mark.parametrize("body", [{}, {"id": ""}, {"id": 7}, []])
    def test_so_does_a_success_without_an_id(self, body: Any) -> None:
        with pytest.raises(OutcomeUnknown, match="names no batch"):
            provider(reply(json=body)).create("f", CHAT, "t")

    @pytest.mark.parametrize(
        ("status", "transient"), [(400, False), (401, False), (403, False), (429, True)]
    )
    def test_a_refusal_carries_the_providers_words(self, status: int, transient: bool) -> None:
        error = {"message": "no, sk-secret!", "code": "limit"}
        handler = reply(status, json={"error": error}, headers={"retry-after": "7"})
        with pytest.raises(Refused) as caught:
            provider(handler).create("f", CHAT, "t")
        refused = caught.value
        assert (refused.status, refused.code, refused.retry_after) == (status, "limit", 7.0)
        assert refused.message == "no, (key)!"
        assert refused.transient is transient


class TestErrors:
    @pytest.mark.parametrize(
        ("status", "transient"),
        [(400, False), (401, False), (404, False), (408, True), (409, True), (425, True),
         (429, True), (500, True), (503, True), (302, False)],
    )  # fmt: skip
    async def test_a_status_says_whether_a_retry_may_help(
        self, status: int, transient: bool, tmp_path: Path
    ) -> None:
        (tmp_path / "f").write_bytes(b"x")
        async with provider(reply(status, json={"detail": "words"})) as p:
            with pytest.raises(ProviderError, match=f"POST files: {status}: words") as caught:
                await p.upload(tmp_path / "f", "f.jsonl")
        assert caught.value.transient is transient

    @pytest.mark.parametrize(
        "error", [httpx2.ConnectError("x"), httpx2.ReadTimeout("x"), httpx2.ReadError("x")]
    )
    async def test_a_broken_connection_may_work_next_time(self, error: Exception) -> None:
        async with provider(failing(error)) as p:
            with pytest.raises(ProviderError, match="GET batches/b") as caught:
                await p.status(["b"])
        assert caught.value.transient
        assert caught.value.__cause__ is error

    async def test_a_success_that_is_no_json_may_be_better_next_time(self) -> None:
        async with provider(reply(text="<html> sk-secret")) as p:
            with pytest.raises(ProviderError, match=r"in it: '<html> \(key\)'") as caught:
                await p.status(["b"])
        assert caught.value.transient

    async def test_the_providers_words_are_cut(self) -> None:
        async with provider(reply(500, text="x" * 10_000)) as p:
            with pytest.raises(ProviderError) as caught:
                await p.status(["b"])
        assert len(caught.value.message) < 2_100

    async def test_outside_of_its_block_a_call_says_how(self) -> None:
        with pytest.raises(RuntimeError, match="async with provider"):
            await provider(reply()).status(["b"])

    async def test_it_may_be_entered_by_several_and_is_open_until_the_last_leaves(self) -> None:
        p = provider(reply(json={"id": "b", "status": "completed"}))
        async with p:
            async with p:
                pass
            assert await p.status(["b"]) == {"b": RemoteBatch("b", "completed")}
        with pytest.raises(RuntimeError):
            await p.status(["b"])

    @pytest.mark.parametrize(
        ("headers", "seconds"),
        [
            ({}, None),
            ({"retry-after": "2.5"}, 2.5),
            ({"retry-after": "-3"}, 0.0),
            ({"retry-after": "inf"}, None),
            ({"retry-after": "soon"}, None),
            ({"retry-after": "Wed, 01 Jan 2020 00:00:00 GMT"}, 0.0),
            ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ],
    )
    def test_every_form_of_retry_after_is_read(
        self, headers: dict[str, str], seconds: float | None
    ) -> None:
        assert _http.retry_after(httpx2.Headers(headers)) == seconds


def test_a_batch_is_read_as_far_as_it_can_be() -> None:
    data = {
        "id": "b",
        "status": "failed",
        "output_file_id": "",
        "error_file_id": None,
        "input_file_id": "f",
        "metadata": None,
        "created_at": 7,
        "request_counts": {"total": 2, "failed": None},
        "errors": {"data": [{"code": "bad", "message": "no", "line": 3}, {"line": "x"}, 7]},
    }
    assert _http.remote_batch(data) == RemoteBatch(
        "b",
        "failed",
        (LineError("bad", "no", 3), LineError("", ""), LineError("", "")),
        input_file_id="f",
        created_at=7.0,
        counts={"total": 2},
    )
    assert _http.remote_batch({"id": "b", "errors": {"data": 7}}) == RemoteBatch("b", "")


def listing(batches: list[dict[str, Any]], calls: list[str]) -> Handler:
    """A server with pages of two, newest first."""

    def handler(request: httpx2.Request) -> httpx2.Response:
        calls.append(str(request.url.copy_with(query=None)).removeprefix("http://host/v1"))
        if request.url.path != "/v1/batches":
            one = [b for b in batches if request.url.path.endswith("/" + b["id"])]
            return httpx2.Response(200, json=one[0]) if one else httpx2.Response(404)
        ids = [b["id"] for b in batches]
        after = request.url.params.get("after")
        start = 0 if after is None else ids.index(after) + 1
        page = {"data": batches[start : start + 2], "has_more": start + 2 < len(ids)}
        return httpx2.Response(200, json=page)

    return handler


class TestStatus:
    async def test_a_few_batches_are_asked_for_one_by_one_and_unknown_ones_left_out(self) -> None:
        calls: list[str] = []
        async with provider(listing([{"id": "a"}, {"id": "b"}], calls)) as p:
            assert set(await p.status(["a", "gone", "b"])) == {"a", "b"}
            assert await p.status([]) == {}
        assert calls == ["/batches/a", "/batches/gone", "/batches/b"]

    async def test_many_batches_are_listed_and_only_the_rest_asked_for(self) -> None:
        calls: list[str] = []
        batches = [{"id": f"b{n}"} for n in range(30)]
        async with provider(listing(batches, calls)) as p:
            wanted = [f"b{n}" for n in range(5)] + ["b29"] + [f"x{n}" for n in range(15)]
            assert set(await p.status(wanted)) == {"b0", "b1", "b2", "b3", "b4", "b29"}
        assert calls.count("/batches") == 2
        assert "/batches/b29" in calls
        assert "/batches/b1" not in calls

    async def test_any_other_failure_is_the_callers(self) -> None:
        async with provider(reply(503)) as p:
            with pytest.raises(ProviderError):
                await p.status(["a"])


class TestFind:
    async def test_it_is_found_by_its_trace_and_where_none_is_echoed_by_its_file(self) -> None:
        batches = [
            {
                "id": "a",
                "created_at": 9000,
                "metadata": {"anybatch": "other"},
                "input_file_id": "f",
            },
            {"id": "b", "created_at": 9000, "metadata": {"anybatch": "t"}, "input_file_id": "x"},
            {"id": "c", "created_at": 9000, "input_file_id": "f"},
            {"id": "d", "created_at": 9000, "metadata": {}, "input_file_id": "g"},
        ]
        async with provider(listing(batches, [])) as p:
            found = await p.find("t", file_id="f", since=5000)
        assert [batch.id for batch in found] == ["b", "c"]

    async def test_it_reads_on_until_a_page_is_an_hour_older(self) -> None:
        calls: list[str] = []
        times = [9000, 8000, 5000, 1401, 1399, 1398, 10, 9]
        batches = [{"id": f"b{n}", "created_at": time} for n, time in enumerate(times)]
        async with provider(listing(batches, calls)) as p:
            assert await p.find("t", file_id="f", since=5000) == []
        assert len(calls) == 3

    async def test_a_page_that_does_not_say_how_old_it_is_counts_as_new(self) -> None:
        calls: list[str] = []
        batches = [{"id": f"b{n}"} for n in range(5)] + [{"id": "z", "input_file_id": "f"}]
        async with provider(listing(batches, calls)) as p:
            assert [batch.id for batch in await p.find("t", file_id="f", since=5e8)] == ["z"]
        assert len(calls) == 3

    async def test_nothing_is_found_where_there_are_no_batches(self) -> None:
        async with provider(reply(json={"data": [], "has_more": True})) as p:
            assert await p.find("t", file_id="f", since=0) == []

    async def test_a_server_that_does_not_page_proves_no_absence(self) -> None:
        page = {"data": [{"id": "a"}], "has_more": True}
        async with provider(reply(json=page)) as p:
            with pytest.raises(ProviderError, match="repeats") as caught:
                await p.find("t", file_id="f", since=0)
        assert not caught.value.transient

    async def test_a_reply_that_is_no_list_proves_none_either(self) -> None:
        async with provider(reply(json={"object": "list"})) as p:
            with pytest.raises(ProviderError, match="no list"):
                await p.find("t", file_id="f", since=0)

    async def test_a_server_that_cannot_list_proves_none_either(self) -> None:
        async with provider(reply(404)) as p:
            with pytest.raises(ProviderError) as caught:
                await p.find("t", file_id="f", since=0)
        assert not caught.value.transient


class Torn(httpx2.AsyncByteStream):
    async def __aiter__(self) -> Any:
        yield b'{"n":1}\n{"n":'
        raise httpx2.RemoteProtocolError("peer closed connection")


class TestResults:
    def files(self, **texts: bytes) -> Handler:
        def handler(request: httpx2.Request) -> httpx2.Response:
            name = request.url.path.removeprefix("/v1/files/").removesuffix("/content")
            return httpx2.Response(200, content=texts[name]) if name in texts else (
                httpx2.Response(404, json={"error": {"message": "No such File"}})
            )  # fmt: skip

        return handler

    async def test_output_rows_come_first_then_error_rows_newline_or_not(self) -> None:
        handler = self.files(out=b'{"n":1}\r\n\n{"n":2}', err=b'{"n":3}\n')
        async with provider(handler) as p:
            got = await rows(p, output_file_id="out", error_file_id="err")
        assert got == [b'{"n":1}', b'{"n":2}', b'{"n":3}']

    async def test_a_file_that_is_not_there_is_no_rows(self) -> None:
        async with provider(self.files(err=b"1\n")) as p:
            assert await rows(p) == []
            assert await rows(p, output_file_id="", error_file_id="err") == [b"1"]

    async def test_a_404_may_pass_just_after_the_batch_ended(self) -> None:
        async with provider(self.files()) as p:
            with pytest.raises(ProviderError, match="downloading out: 404: No such") as caught:
                await rows(p, output_file_id="out")
        assert caught.value.transient

    async def test_a_torn_download_gives_the_rows_so_far_and_may_be_tried_again(self) -> None:
        async with provider(lambda request: httpx2.Response(200, stream=Torn())) as p:
            got: list[bytes] = []
            with pytest.raises(ProviderError, match="peer closed") as caught:
                async for row in p.results(RemoteBatch("b", "completed", output_file_id="o")):
                    got.append(row)  # noqa: PERF401
        assert got == [b'{"n":1}']
        assert caught.value.transient

    async def test_a_row_over_many_chunks_is_one_row(self) -> None:
        long = b'"' + b"x" * 1_000_000 + b'"'
        async with provider(self.files(out=b"1\n" + long + b"\n2")) as p:
            assert await rows(p, output_file_id="out") == [b"1", long, b"2"]

    async def test_an_endless_row_is_an_error_before_it_fills_the_memory(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_streams, "LONGEST_ROW", 100)
        async with provider(self.files(out=b"1\n" + b"x" * 101)) as p:
            with pytest.raises(ProviderError, match="more than 100 bytes") as caught:
                await rows(p, output_file_id="out")
        assert not caught.value.transient


class Stuck(httpx2.AsyncBaseTransport):
    """A server that says nothing more; it counts the calls that were ended."""

    ended = 0

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.method == "GET":
            return httpx2.Response(200, stream=StuckStream(self))
        try:
            async for _ in request.stream:  # type: ignore[union-attr]
                await anyio.sleep_forever()
        finally:
            self.ended += 1
        raise AssertionError


class StuckStream(httpx2.AsyncByteStream):
    def __init__(self, transport: Stuck) -> None:
        self.transport = transport

    async def __aiter__(self) -> Any:
        yield b"1\n2\n"
        await anyio.sleep_forever()

    async def aclose(self) -> None:
        self.transport.ended += 1


class TestCancelled:
    async def test_an_upload_ends_and_closes_its_file(self, tmp_path: Path) -> None:
        (tmp_path / "f").write_bytes(b"x" * 3_000_000)
        async with OpenAI(base_url="http://host", transport=(server := Stuck())) as p:
            with anyio.move_on_after(1) as scope:
                await p.upload(tmp_path / "f", "f.jsonl")
        assert scope.cancelled_caught
        assert server.ended == 1

    async def test_a_download_ends_when_its_reader_is_cancelled_or_leaves(self) -> None:
        batch = RemoteBatch("b", "completed", output_file_id="o")
        async with OpenAI(base_url="http://host", transport=(server := Stuck())) as p:
            got: list[bytes] = []
            with anyio.move_on_after(1) as scope:
                async for row in p.results(batch):
                    got.append(row)  # noqa: PERF401
            async with aclosing(p.results(batch)) as rows_:
                async for row in rows_:
                    got.append(row)
                    break
        assert scope.cancelled_caught
        assert got == [b"1", b"2", b"1"]
        assert server.ended == 2

    async def test_leaving_it_while_cancelled_closes_its_connections(self) -> None:
        p = provider(reply())
        with anyio.CancelScope() as scope:
            async with p:
                scope.cancel()
        with pytest.raises(RuntimeError, match="not open"):
            await p.status(["b"])


class TestCancelAndDelete:
    async def test_cancel_posts_and_a_batch_that_has_ended_is_not_tried_again(self) -> None:
        seen: list[str] = []

        def handler(request: httpx2.Request) -> httpx2.Response:
            seen.append(f"{request.method} {request.url.path}")
            return httpx2.Response(200 if len(seen) == 1 else 409, json={"id": "b/1"})

        async with provider(handler) as p:
            await p.cancel("b")
            with pytest.raises(ProviderError) as caught:
                await p.cancel("b")
        assert seen == ["POST /v1/batches/b/cancel"] * 2
        assert not caught.value.transient

    async def test_cancels_other_failures_keep_their_meaning(self) -> None:
        async with provider(reply(503)) as p:
            with pytest.raises(ProviderError) as caught:
                await p.cancel("b")
        assert caught.value.transient

    async def test_a_file_that_is_gone_is_deleted(self) -> None:
        async with provider(reply(404)) as p:
            await p.delete("f")
        async with provider(reply(json={"deleted": True})) as p:
            await p.delete("f")
        async with provider(reply(500)) as p:
            with pytest.raises(ProviderError):
                await p.delete("f")

    async def test_an_id_is_one_piece_of_the_path_whatever_is_in_it(self) -> None:
        seen: list[bytes] = []

        def handler(request: httpx2.Request) -> httpx2.Response:
            seen.append(request.url.raw_path)
            return httpx2.Response(200, json={})

        async with provider(handler) as p:
            await p.delete("../../x?y")
        assert seen == [b"/v1/files/..%2F..%2Fx%3Fy"]


@pytest.mark.real_time
async def test_a_batch_goes_around_over_real_http(tmp_path: Path) -> None:
    from anyio import sleep
    from anyio.to_thread import run_sync

    path = tmp_path / "batch.jsonl"
    async with (
        LocalProvider(api_key="sk-local") as server,
        OpenAI(base_url=server.base_url, api_key="sk-local") as p,
    ):
        lines = [_encoding.with_id(p.complete(f"hi {n}", MODEL), f"r{n}") for n in range(20)]
        path.write_bytes(b"".join(line + b"\n" for line in lines))
        file_id = await p.upload(path, "batch.jsonl")
        made = await run_sync(p.create, file_id, CHAT, "trace-1")
        batch = made
        while batch.status != "completed":
            await sleep(0.02)  # the server has no other way to say that it is done
            batch = (await p.status([made.id]))[made.id]
        got = [json.loads(row) async for row in p.results(batch)]
        found = await p.find("trace-1", file_id=file_id, since=batch.created_at or 0.0)
        await p.delete(file_id)
        await p.delete(file_id)
    assert {row["custom_id"] for row in got} == {f"r{n}" for n in range(20)}
    assert {row["response"]["status_code"] for row in got} == {200}
    assert [batch.id for batch in found] == [made.id]


def test_where_nobody_listens_nothing_was_sent() -> None:
    with pytest.raises(NotSent):
        OpenAI(base_url="http://127.0.0.1:9/v1").create("f", CHAT, "t")

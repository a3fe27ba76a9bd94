from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import textwrap
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx  # what langbatch's SDK uses  # noqa: ASYNC127
import pytest
from openai import AzureOpenAI
from openai import OpenAI as Client

from anybatch import _encoding
from anybatch._exceptions import (
    NotSent,
    OutcomeUnknown,
    ProviderError,
    Refused,
    RequestRejected,
    ResultUnavailable,
    StorageDamaged,
)
from anybatch._langbatch import LangbatchProvider, provider_for
from anybatch._langbatch_handler import LangbatchHandler
from anybatch._models import Accepted, Part, RawRequest, RemoteBatch
from anybatch._receipts import Receipt
from anybatch.local_provider import LocalProvider
from anybatch.providers import as_provider
from anybatch.providers.langbatch import is_langbatch_batch, is_langbatch_handler
from tests.langbatch_types import (
    Batch,
    BatchHandler,
    FileBatchQueue,
    FileBatchStorage,
    OpenAIBatch,
    OpenAIChatCompletionBatch,
    OpenAIEmbeddingBatch,
)

pytestmark = pytest.mark.anyio
CHAT = "/v1/chat/completions"
MODEL = {"model": "m"}
USER = {"role": "user", "content": "hi"}


def client(**settings: Any) -> Client:
    return Client(**{"api_key": "sk-secret", "base_url": "http://host/v1", **settings})


def made(cls: type = OpenAIChatCompletionBatch, **settings: Any) -> LangbatchProvider:
    return provider_for(cls, {"client": client(**settings)})


class TestNamingAClass:
    def test_langbatchs_classes_are_known_without_importing_it(self) -> None:
        assert is_langbatch_batch(OpenAIChatCompletionBatch)
        assert not is_langbatch_batch(OpenAIChatCompletionBatch.__new__)
        assert not is_langbatch_batch(dict)
        assert not is_langbatch_handler(BatchHandler)

    def test_an_unmodified_class_gives_endpoint_address_key_and_headers(self) -> None:
        p = as_provider(
            OpenAIEmbeddingBatch,
            {"client": client(organization="o", project="p", default_headers={"X-Mine": "1"})},
        )
        assert isinstance(p, LangbatchProvider)
        assert (p.endpoint, p.address, p.profile) == ("/v1/embeddings", "http://host/v1", "openai")
        assert p._headers == {
            "Authorization": "Bearer sk-secret",
            "OpenAI-Organization": "o",
            "OpenAI-Project": "p",
            "X-Mine": "1",
        }
        assert not p.builds_partial
        assert not p.builds_full

    def test_without_a_key_the_remedy_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        with pytest.raises(ValueError, match="OPENAI_API_KEY"):
            as_provider(OpenAIChatCompletionBatch)
        monkeypatch.setenv("OPENAI_API_KEY", "sk-env")
        assert as_provider(OpenAIChatCompletionBatch).profile == "openai"

    def test_other_providers_say_what_is_supported(self) -> None:
        class Anthropic(Batch):
            pass

        with pytest.raises(TypeError, match="Anthropic is not supported yet; supported are"):
            as_provider(Anthropic)
        azure = AzureOpenAI(api_key="k", azure_endpoint="http://a", api_version="1")
        with pytest.raises(TypeError, match="AzureOpenAI clients are not supported yet"):
            as_provider(OpenAIChatCompletionBatch, {"client": azure})

    @pytest.mark.parametrize(
        "settings",
        [
            {"http_client": httpx.Client()},
            {"default_query": {"a": "1"}},
            {"api_key": lambda: "sk"},
        ],
    )
    def test_a_client_whose_settings_would_be_lost_is_refused(
        self, settings: dict[str, Any]
    ) -> None:
        with pytest.raises(ValueError, match=r"providers\.OpenAI\(transport="):
            made(**settings)

    def test_start_is_never_called_and_a_class_that_overrides_it_is_told(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        class Starting(OpenAIChatCompletionBatch):
            def start(self) -> None:
                raise AssertionError

        made(Starting)
        assert "Starting.start() and retry() are never called" in caplog.text


class TestCheck:
    def test_a_request_passes_our_check_and_the_classs_own(self) -> None:
        made().check({"custom_id": "a", "url": CHAT, "body": {**MODEL, "messages": [USER]}})
        raw = RawRequest(json.dumps({**MODEL, "messages": [USER]}).encode())
        made().check({"body": raw})

    @pytest.mark.parametrize(
        ("request_", "words"),
        [
            ({"url": "/v1/embeddings"}, "has one endpoint, /v1/chat/completions"),
            ({"body": {**MODEL, "messages": "just a string"}}, "just a string"),
            ({"body": {**MODEL, "messages": [USER], "n": "many"}}, "refuses the request"),
            ({}, "without a body"),
        ],
    )
    def test_what_either_refuses_is_rejected(self, request_: Any, words: str) -> None:
        with pytest.raises(RequestRejected, match=words):
            made().check(request_)

    def test_a_class_that_validates_for_itself_is_asked_alone(self) -> None:
        class Mine(OpenAIChatCompletionBatch):
            def _validate_request(self, request: Any) -> None:
                if request["prompt"] != "ok":
                    raise ValueError("no such prompt")

        made(Mine).check({"body": {"prompt": "ok"}})
        with pytest.raises(RequestRejected, match="Mine refuses the request: no such prompt"):
            made(Mine).check({"body": {"prompt": "other"}})


class Building(OpenAIChatCompletionBatch):
    """A user's class that makes its own requests."""

    @classmethod
    def create(cls, data: Any, request_kwargs: Any = {}, batch_kwargs: Any = {}) -> Any:  # noqa: B006
        messages = [[{"role": "system", "content": "Be short."}, *item] for item in data]
        return super().create(messages, request_kwargs, batch_kwargs)

    @classmethod
    def create_from_requests(cls, requests: Any, batch_kwargs: Any = {}) -> Any:  # noqa: B006
        kept = [request for request in requests if request["custom_id"] != "drop"]
        return super().create_from_requests(kept, batch_kwargs)


class TestBuild:
    def test_an_override_makes_the_lines_in_order_and_the_profile_is_its_own(self) -> None:
        p = made(Building)
        assert p.builds_partial
        assert p.builds_full
        assert p.profile == f"{__name__}:Building"
        lines = p.build([[USER], RawRequest(b'[{"role":"user"}]')], MODEL, partial=True)
        bodies = [json.loads(line)["body"] for line in lines]
        assert [len(body["messages"]) for body in bodies] == [2, 2]
        assert bodies[0] == {
            **MODEL,
            "messages": [{"role": "system", "content": "Be short."}, USER],
        }

    def test_full_requests_keep_their_ids(self) -> None:
        requests = [
            {"custom_id": f"r{n}", "method": "POST", "url": CHAT,
             "body": {**MODEL, "messages": [USER]}}
            for n in range(3)
        ]  # fmt: skip
        lines = made(Building).build(requests, {}, partial=False)
        assert [_encoding.read_head(0, line).custom_id for line in lines] == ["r0", "r1", "r2"]

    def test_a_request_that_gets_no_line_is_no_silent_loss(self) -> None:
        requests = [{"custom_id": "drop", "url": CHAT, "body": {}}]
        with pytest.raises(RequestRejected, match="0 lines with 0 ids were made of 1 requests"):
            made(Building).build(requests, {}, partial=False)

    @pytest.mark.parametrize("bad", [[{"role": float("nan")}], 7])
    def test_what_it_refuses_is_rejected(self, bad: Any) -> None:
        with pytest.raises(RequestRejected, match="Building refuses"):
            made(Building).build([bad], MODEL, partial=True)

    def test_a_refused_prompt_is_not_logged(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        with pytest.raises(RequestRejected):
            made(Building).build([[{"content": "secret"}]], {"model": 7}, partial=True)
        assert "secret" not in caplog.text

    def test_a_class_that_writes_and_validates_its_own_file_is_honoured(
        self, tmp_path: Path
    ) -> None:
        class Writing(OpenAIChatCompletionBatch):
            @classmethod
            def _create_batch_file_from_requests(cls, requests: Any) -> Path:
                path = tmp_path / "mine.jsonl"
                path.write_text("".join(json.dumps(r) + "\n" for r in requests))
                return path

            def _validate_requests(self) -> None:
                validated.append(self._file)

        validated: list[Any] = []
        line = made(Writing).build([[USER]], MODEL, partial=True)[0]
        assert json.loads(line)["body"]["messages"] == [USER]
        assert validated == [tmp_path / "mine.jsonl"]


ROWS = [
    {"custom_id": "a", "response": {"status_code": 200, "body": {"choices": [1]}}, "error": None},
    {"custom_id": "b", "response": None, "error": {"code": "expired"}},
    {"custom_id": "c", "response": {"status_code": 400, "body": {"error": {"code": "bad"}}},
     "error": None},
    {"custom_id": "d", "response": {"status_code": 200, "body": {}}},
    {"nobody": 1},
]  # fmt: skip


class TestFinished:
    def batch(self, tmp_path: Path, cls: type = OpenAIChatCompletionBatch) -> Any:
        requests, rows = tmp_path / "requests.jsonl", tmp_path / "rows.jsonl"
        ids = [{"custom_id": name} for name in "abcd"]
        requests.write_text("".join(json.dumps(line) + "\n" for line in ids))
        rows.write_text("{torn\n" + "\n".join(json.dumps(row) for row in ROWS))
        return made(cls).finished("part-1", "batch-1", requests, rows)

    def test_it_is_an_instance_of_the_class_with_its_ids_and_files(self, tmp_path: Path) -> None:
        batch = self.batch(tmp_path)
        assert isinstance(batch, OpenAIChatCompletionBatch)
        assert type(batch).__qualname__ == "OpenAIChatCompletionBatch"
        assert (batch.id, batch.platform_batch_id) == ("part-1", "batch-1")
        assert batch._file == str(tmp_path / "requests.jsonl")
        assert batch.get_results_file() == tmp_path / "rows.jsonl"

    def test_its_results_are_the_collected_rows_and_a_bad_one_spoils_no_other(
        self, tmp_path: Path
    ) -> None:
        good, bad = self.batch(tmp_path).get_results()
        assert good == [{"custom_id": "a", "choices": [1]}]
        assert bad == [
            {"custom_id": "b", "error": {"code": "expired"}},
            {"custom_id": "c", "error": {"code": "bad"}},
            {"custom_id": "d", "error": "No response from the API"},
        ]

    def test_its_unsuccessful_requests_are_found(self, tmp_path: Path) -> None:
        found = self.batch(tmp_path).get_unsuccessful_requests()
        assert [request["custom_id"] for request in found] == ["b", "c", "d"]

    def test_a_users_own_reading_of_results_is_honoured(self, tmp_path: Path) -> None:
        class Mine(OpenAIChatCompletionBatch):
            def _prepare_results(self, process_func: Any) -> Any:
                return [self._download_results_file().name], []

        assert self.batch(tmp_path, Mine).get_results() == (["rows.jsonl"], [])


class Own(OpenAIChatCompletionBatch):
    """A user's class that makes all the calls of a batch's life itself."""

    log: list[Any]
    error: Exception | None = None
    answer: Any = "id-1"
    directory: Path

    def _say(self, *words: Any) -> Any:
        self.log.append(words)
        assert self._client.max_retries == 0 if "create" not in words else True
        if self.error is not None:
            raise self.error
        return self.answer

    def _upload_batch_file(self) -> Any:
        text = Path(self._file).read_text()
        Path(self._file).write_text("rewritten in place, as langbatch does for Azure")
        return self._say("upload", Path(self._file).name, text)

    def _create_batch(self, input_file_id: str) -> None:
        self.platform_batch_id = self._say("create", input_file_id)

    def get_status(self) -> Any:
        return self._say("status", self.platform_batch_id)

    def _download_results_file(self) -> Any:
        return self._say("results", self.platform_batch_id)

    def cancel(self) -> Any:
        return self._say("cancel", self.platform_batch_id)


@pytest.fixture
def own() -> type[Own]:
    return type("Own", (Own,), {"log": [], "__module__": __name__})


def status_error(status: int) -> Exception:
    import openai

    request = httpx.Request("POST", "http://host")
    response = httpx.Response(status, json={"error": {"message": "no"}}, request=request)
    return openai.APIStatusError("no", response=response, body=None)


def connection_error(cause: Exception) -> Exception:
    import openai

    error = openai.APIConnectionError(request=httpx.Request("POST", "http://host"))
    error.__cause__ = cause
    return error


class TestOwnCalls:
    async def test_each_half_runs_apart_on_a_copy_and_without_retries(
        self, own: type[Own], tmp_path: Path
    ) -> None:
        path, rows = tmp_path / "stored", tmp_path / "rows"
        path.write_text("line\n")
        rows.write_text("1\n\n2")
        p = made(own)
        assert await p.upload(path, "part-1.jsonl") == "id-1"
        assert path.read_text() == "line\n"
        assert p.create("file-1", CHAT, "t") == RemoteBatch(
            "id-1", "validating", input_file_id="file-1"
        )
        own.answer = "completed"
        assert await p.status(["b"]) == {"b": RemoteBatch("b", "completed")}
        own.answer = str(rows)
        batch = RemoteBatch("b", "completed")
        assert [row async for row in p.results(batch)] == [b"1", b"2"]
        own.answer = None
        assert [row async for row in p.results(batch)] == []
        await p.cancel("b")
        assert own.log == [
            ("upload", "part-1.jsonl", "line\n"),
            ("create", "file-1"),
            ("status", "b"),
            ("results", "b"),
            ("results", "b"),
            ("cancel", "b"),
        ]

    @pytest.mark.parametrize(
        ("error", "kind"),
        [
            (status_error(400), Refused),
            (status_error(500), OutcomeUnknown),
            (status_error(409), OutcomeUnknown),
            (connection_error(httpx.ConnectError("x")), NotSent),
            (connection_error(httpx.ReadTimeout("x")), OutcomeUnknown),
            (RuntimeError("a bug"), OutcomeUnknown),
        ],
    )
    def test_the_outcome_of_a_create_is_told_apart(
        self, own: type[Own], error: Exception, kind: type[Exception]
    ) -> None:
        own.error = error
        with pytest.raises(kind):
            made(own).create("file-1", CHAT, "t")

    def test_a_create_that_names_no_batch_may_have_made_one(self, own: type[Own]) -> None:
        own.answer = None
        with pytest.raises(OutcomeUnknown, match="set no platform_batch_id"):
            made(own).create("file-1", CHAT, "t")

    async def test_an_upload_that_names_no_file_is_an_error(
        self, own: type[Own], tmp_path: Path
    ) -> None:
        (tmp_path / "f").write_text("")
        own.answer = None
        with pytest.raises(ProviderError, match="returned None"):
            await made(own).upload(tmp_path / "f", "f.jsonl")

    @pytest.mark.parametrize(
        ("error", "transient"),
        [
            (status_error(503), True),
            (status_error(401), False),
            (connection_error(httpx.ReadTimeout("x")), True),
            (ConnectionResetError("x"), True),
            (KeyError("a bug"), False),
            (ProviderError("mine", transient=True), True),
        ],
    )
    async def test_other_failures_say_whether_a_retry_may_help(
        self, own: type[Own], error: Exception, transient: bool
    ) -> None:
        own.error = error
        with pytest.raises(ProviderError) as caught:
            await made(own).status(["b"])
        assert caught.value.transient is transient

    async def test_a_batch_that_is_not_known_is_left_out(self, own: type[Own]) -> None:
        own.error = status_error(404)
        assert await made(own).status(["b"]) == {}


class Labelled(OpenAIChatCompletionBatch):
    """Overrides the create and the status alone, calling langbatch's own."""

    def _create_batch(self, input_file_id: str) -> None:
        assert self._client.base_url  # what is not `batches` is the client's
        assert self._client.batches.list
        self.platform_batch_id = self._client.batches.create(
            input_file_id=input_file_id,
            endpoint=self._url,
            completion_window="24h",
            metadata={"team": "blue"},
        ).id

    def get_status(self) -> Any:
        return super().get_status()


async def around(p: Any, tmp_path: Path) -> tuple[RemoteBatch, list[RemoteBatch], list[Any]]:
    from anyio import sleep
    from anyio.to_thread import run_sync

    path = tmp_path / "stored"
    lines = [_encoding.with_id(p.complete(f"hi {n}", MODEL), f"r{n}") for n in range(5)]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    async with p:
        file_id = await p.upload(path, "part-1.jsonl")
        batch = await run_sync(p.create, file_id, CHAT, "trace-1")
        while batch.status != "completed":
            await sleep(0.02)  # the server has no other way to say that it is done
            batch = (await p.status([batch.id]))[batch.id]
        found = await p.find("trace-1", file_id=file_id, since=0.0)
        return batch, found, [json.loads(row) async for row in p.results(batch)]


@pytest.mark.real_time
async def test_an_unmodified_class_cancels_by_our_call() -> None:
    async with LocalProvider(api_key="sk-secret") as server, made(base_url=server.base_url) as p:
        with pytest.raises(ProviderError, match="404"):
            await p.cancel("batch_unknown")


@pytest.mark.real_time
@pytest.mark.parametrize("cls", [OpenAIChatCompletionBatch, Labelled])
async def test_a_batch_goes_around_over_real_http(cls: type, tmp_path: Path) -> None:
    async with LocalProvider(api_key="sk-secret") as server:
        p = made(cls, base_url=server.base_url)
        batch, found, rows = await around(p, tmp_path)
    assert [one.id for one in found] == [batch.id]
    assert found[0].metadata["anybatch"] == "trace-1"
    assert found[0].metadata.get("team") == ("blue" if cls is Labelled else None)
    assert sorted(row["custom_id"] for row in rows) == [f"r{n}" for n in range(5)]


def part(batch_id: str = "part-1", lines: Sequence[bytes] = (b"1", b"2"), **options: Any) -> Part:
    async def chunks() -> AsyncIterator[Sequence[bytes]]:  # noqa: ASYNC124
        yield lines[:1]
        yield lines[1:]

    return Part(
        batch_id, batch_id, "queue", ((0, 2),), CHAT, 2, ["a", "b"], options.pop("chunks", chunks),
        **options,
    )  # fmt: skip


class Once:
    """An iteration that is no generator."""

    def __init__(self) -> None:
        self.chunks = [[b"1", b"2"]]

    def __aiter__(self) -> Once:
        return self

    async def __anext__(self) -> list[bytes]:  # noqa: ASYNC124
        if not self.chunks:
            raise StopAsyncIteration
        return self.chunks.pop()


class TestHandler:
    @pytest.fixture
    def theirs(self, tmp_path: Path) -> BatchHandler:
        return BatchHandler(
            batch_process_func=print,
            batch_type=OpenAIChatCompletionBatch,
            batch_queue=FileBatchQueue(str(tmp_path / "queue.json")),
            batch_storage=FileBatchStorage(str(tmp_path)),
            batch_kwargs={"client": client()},
        )

    async def test_a_part_is_saved_under_its_id_and_added(
        self, theirs: BatchHandler, tmp_path: Path
    ) -> None:
        assert is_langbatch_handler(theirs)
        handler = LangbatchHandler(theirs, 2)
        assert (handler.store_id, handler.live_batches, handler.room()) == ("langbatch-2", 0, None)
        assert handler.provider.endpoint == CHAT
        async with handler.entered_for(self):
            await handler.wait_room()
            assert await handler.accept(part()) is Accepted.NEW
        assert (tmp_path / "saved_batches" / "part-1.jsonl").read_bytes() == b"1\n2\n"
        saved = json.loads((tmp_path / "queue.json").read_text())
        assert saved == {"pending": ["part-1"], "processing": []}
        assert handler.live_batches == 1

    async def test_accepted_again_it_is_in_the_lists_once(self, theirs: BatchHandler) -> None:
        handler = LangbatchHandler(theirs)
        await handler.accept(part())
        assert await handler.accept(part(chunks=Once)) is Accepted.KNOWN
        assert theirs.queues["pending"] == ["part-1"]

    async def test_saved_but_not_added_by_a_killed_process_it_is_added(
        self, theirs: BatchHandler
    ) -> None:
        handler = LangbatchHandler(theirs)
        await handler.accept(part())
        theirs.queues["pending"].clear()
        assert await handler.accept(part()) is Accepted.KNOWN
        assert theirs.queues["pending"] == ["part-1"]

    async def test_started_and_gone_from_the_lists_it_is_not_added_again(
        self, theirs: BatchHandler, tmp_path: Path
    ) -> None:
        handler = LangbatchHandler(theirs)
        await handler.accept(part())
        theirs.queues["pending"].clear()
        metadata = tmp_path / "saved_batches" / "part-1.json"
        metadata.write_text('{"platform_batch_id": "b"}')
        assert await handler.accept(part()) is Accepted.KNOWN
        assert handler.live_batches == 0
        metadata.unlink()
        (metadata.parent / "part-1.pkl").write_bytes(b"\x80\x05N.")
        with pytest.raises(StorageDamaged, match=r"part-1\.pkl cannot be read as JSON"):
            await handler.accept(part())

    async def test_a_copy_cut_short_is_damage(self, theirs: BatchHandler, tmp_path: Path) -> None:
        handler = LangbatchHandler(theirs)
        await handler.accept(part())
        (tmp_path / "saved_batches" / "part-1.jsonl").write_bytes(b"1\n")
        with pytest.raises(StorageDamaged, match="part-1: the storage FileBatchStorage"):
            await handler.accept(part())

    async def test_a_storage_that_keeps_nothing_is_damage_and_its_failure_its_own(
        self, theirs: BatchHandler
    ) -> None:
        class Forgetful:
            error: Exception = KeyError("part-1")

            def save(self, id: str, data_file: Path, meta_data: Any) -> None:
                assert meta_data == {"platform_batch_id": None}

            def load(self, id: str) -> Any:
                raise self.error

        theirs.batch_storage = Forgetful()
        with pytest.raises(StorageDamaged):
            await LangbatchHandler(theirs).accept(part())
        Forgetful.error = PermissionError("no")
        with pytest.raises(PermissionError):
            await LangbatchHandler(theirs).accept(part())

    async def test_receipts_say_at_once_where_their_answers_go(self, theirs: BatchHandler) -> None:
        receipts: dict[str, Receipt[Any]] = {name: Receipt(name, None) for name in ("a", "b")}
        receipts["b"].abandon("before")
        await LangbatchHandler(theirs).accept(part(receipts=receipts))
        with pytest.raises(ResultUnavailable, match=r"batch part-1: use anybatch\.BatchHandler"):
            await receipts["a"]


def run(code: str, **environment: str) -> str:
    """What a process of its own prints."""
    names = {key: value for key, value in os.environ.items() if key != "LANGBATCH_DATA_PATH"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**names, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


class TestImport:
    def test_it_leaves_logging_environment_and_file_system_as_they_were(
        self, tmp_path: Path
    ) -> None:
        code = """
            import logging, os, sys
            before = dict(os.environ)
            from anybatch._langbatch import load
            assert "langbatch" not in sys.modules
            storages = load("langbatch.batch_storages")
            assert load("langbatch.openai").OpenAIChatCompletionBatch
            assert dict(os.environ) == before
            assert logging.root.handlers == [] and logging.root.level == logging.WARNING
            print(storages.DATA_PATH)
        """
        directory = run(code, TMPDIR=str(tmp_path))
        assert Path(directory).parent == tmp_path
        assert list(tmp_path.iterdir()) == []

    def test_a_directory_that_was_chosen_is_used_and_kept(self, tmp_path: Path) -> None:
        code = """
            from anybatch._langbatch import load
            print(load("langbatch.batch_storages").DATA_PATH)
        """
        assert run(code, LANGBATCH_DATA_PATH=str(tmp_path / "x")) == str(tmp_path / "x")
        assert (tmp_path / "x").is_dir()

    def test_naming_our_provider_imports_neither_langbatch_nor_openai(self) -> None:
        code = """
            import sys
            from anybatch.providers import OpenAI, as_provider
            as_provider(OpenAI(api_key="k"))
            print([name for name in ("langbatch", "openai") if name in sys.modules])
        """
        assert run(code) == "[]"


def test_langbatchs_abstract_class_is_no_batch_type() -> None:
    with pytest.raises(TypeError, match="abstract"):
        made(OpenAIBatch)

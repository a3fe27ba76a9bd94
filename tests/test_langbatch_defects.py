"""Each workaround of ours, and that the defect it works around is still there.

A test that fails here is good news: the workaround it names can go.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx  # what langbatch's SDK uses  # noqa: ASYNC127
import pytest
from openai import AzureOpenAI, InternalServerError, OpenAI

from tests.langbatch_types import (
    BatchHandler,
    FileBatchQueue,
    FileBatchStorage,
    OpenAIChatCompletionBatch,
)

GOOD = {"custom_id": "a", "body": {"model": "m", "messages": [{"role": "user", "content": "hi"}]}}


@pytest.fixture(autouse=True)
def private_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("langbatch.Batch.DATA_PATH", tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def batch_file(tmp_path: Path, *requests: Any) -> str:
    path = tmp_path / "batch.jsonl"
    path.write_text("".join(json.dumps(request) + "\n" for request in requests or (GOOD,)))
    return str(path)


def client(**settings: Any) -> OpenAI:
    return OpenAI(api_key="k", base_url="http://host/v1", **settings)


class Files:
    """A client that gives files and counts its calls."""

    def __init__(self, output: bytes | None, errors: bytes | None) -> None:
        self.calls = 0
        texts = {"out": output, "err": errors}
        ids = {name: name if text is not None else None for name, text in texts.items()}

        def retrieve(batch_id: str) -> Any:
            self.calls += 1
            return SimpleNamespace(output_file_id=ids["out"], error_file_id=ids["err"])

        self.batches = SimpleNamespace(retrieve=retrieve)
        self.files = SimpleNamespace(content=lambda name: SimpleNamespace(content=texts[name]))


def results(tmp_path: Path, files: Files) -> Any:
    batch = OpenAIChatCompletionBatch(batch_file(tmp_path), files)
    batch.platform_batch_id = "b"
    return batch, batch.get_results()


ROW = json.dumps(
    {"custom_id": "a", "error": None, "response": {"status_code": 200, "body": {"choices": []}}}
).encode()
ERROR = {"message": "no"}
FAILED = json.dumps(
    {"custom_id": "b", "error": None, "response": {"status_code": 400, "body": {"error": ERROR}}}
).encode()


def test_load_because_importing_langbatch_touches_logging_and_the_file_system(
    tmp_path: Path,
) -> None:
    code = "import logging, langbatch; print(logging.root.level, len(logging.root.handlers))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        env={**os.environ, "LANGBATCH_DATA_PATH": str(tmp_path / "data")},
    )  # fmt: skip
    assert done.stdout.split() == ["20", "1"]
    assert (tmp_path / "data" / "saved_batches").is_dir()


def test_do_nothing_because_constructing_a_batch_reads_its_file_twice(tmp_path: Path) -> None:
    class Counting(OpenAIChatCompletionBatch):
        reads = 0

        def _get_requests(self) -> Any:
            Counting.reads += 1
            return super()._get_requests()

    Counting(batch_file(tmp_path), client())
    assert Counting.reads == 2


def test_validate_quietly_because_a_refused_prompt_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    bad = {"custom_id": "a", "body": {"messages": [{"role": "user", "content": "my secret"}]}}
    with pytest.raises(Exception, match="Invalid requests"):
        OpenAIChatCompletionBatch(batch_file(tmp_path, bad), client())
    assert "my secret" in caplog.text


def test_check_because_the_schemas_do_not_look_into_the_messages() -> None:
    batch = object.__new__(OpenAIChatCompletionBatch)
    batch._validate_request({"model": "m", "messages": "just a string"})


def test_writer_because_an_unserialisable_request_is_refused_without_a_name() -> None:
    with pytest.raises(Exception, match=r"Failed to create batch\. Check the input data\."):
        OpenAIChatCompletionBatch.create_from_requests([{"custom_id": "a", "body": {1, 2}}])


def test_started_because_the_sdk_posts_a_create_three_times(tmp_path: Path) -> None:
    posts: list[str] = []

    def handler(request: httpx.Request) -> httpx.Response:
        posts.append(request.url.path)
        return httpx.Response(503, headers={"retry-after-ms": "1"})

    http_client = httpx.Client(transport=httpx.MockTransport(handler))
    batch = OpenAIChatCompletionBatch(batch_file(tmp_path), client(http_client=http_client))
    with pytest.raises(InternalServerError):
        batch._create_batch("file-1")
    assert posts == ["/v1/batches"] * 3


def test_the_private_copy_because_an_upload_for_azure_rewrites_the_file(tmp_path: Path) -> None:
    azure = AzureOpenAI(api_key="k", azure_endpoint="http://a", api_version="1")
    azure.files = SimpleNamespace(create=lambda **_: SimpleNamespace(id="f"))
    path = batch_file(tmp_path, {"custom_id": "a", "body": {
        "model": "m", "messages": [{"role": "assistant", "content": None}]}})  # fmt: skip
    OpenAIChatCompletionBatch(path, azure)._upload_batch_file()
    assert json.loads(Path(path).read_text())["body"]["messages"][0]["content"] == ""


class TestFinishedAndPrepareResultsBecause:
    def test_results_are_downloaded_again_each_time(self, tmp_path: Path) -> None:
        files = Files(ROW + b"\n", None)
        batch, _ = results(tmp_path, files)
        batch.get_results()
        assert files.calls == 2

    def test_one_malformed_row_loses_all(self, tmp_path: Path) -> None:
        assert results(tmp_path, Files(ROW + b"\n{torn\n", None))[1] == (None, None)

    def test_an_error_file_alone_is_no_results(self, tmp_path: Path) -> None:
        assert results(tmp_path, Files(None, FAILED + b"\n"))[1] == (None, None)

    def test_an_output_without_a_final_newline_swallows_the_first_error(
        self, tmp_path: Path
    ) -> None:
        assert results(tmp_path, Files(ROW, FAILED + b"\n"))[1] == (None, None)

    def test_the_reason_of_a_failed_row_is_dropped(self, tmp_path: Path) -> None:
        _, (good, bad) = results(tmp_path, Files(ROW + b"\n", FAILED + b"\n"))
        assert len(good) == 1
        assert bad == [{"custom_id": "b", "error": None}]


def test_the_comparison_because_a_copy_cut_short_is_kept_and_loaded(tmp_path: Path) -> None:
    storage = FileBatchStorage(str(tmp_path))
    (tmp_path / "saved_batches" / "b.jsonl").write_text("")
    storage.save("b", Path(batch_file(tmp_path)), {})
    assert storage.load("b")[0].read_text() == ""


def test_loading_first_because_a_late_save_forgets_that_the_batch_runs(tmp_path: Path) -> None:
    storage = FileBatchStorage(str(tmp_path))
    batch = OpenAIChatCompletionBatch(batch_file(tmp_path), client())
    batch.platform_batch_id = "running"
    batch.save(storage)
    batch.platform_batch_id = None
    batch.save(storage)
    assert json.loads(storage.load(batch.id)[1].read_text()) == {"platform_batch_id": None}


@pytest.mark.anyio
async def test_listed_because_adding_a_batch_again_adds_it_twice(tmp_path: Path) -> None:
    handler = BatchHandler(
        print, OpenAIChatCompletionBatch, FileBatchQueue(str(tmp_path / "queue.json"))
    )
    await handler.add_batch("b")
    await handler.add_batch("b")
    assert handler.queues["pending"] == ["b", "b"]

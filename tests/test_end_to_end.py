"""The main job over real HTTP: our OpenAI provider, the local one, both event loops."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

from anybatch import Answer, BatchDispatcher, BatchHandler, RawRequest, RequestFailed, StoreInUse
from anybatch.local_provider import FaultPlan, LocalProvider, RowFault
from anybatch.providers import OpenAI

pytestmark = [pytest.mark.anyio, pytest.mark.real_time]
MODEL = {"model": "local"}


def openai(provider: LocalProvider, **options: Any) -> OpenAI:
    return OpenAI(base_url=provider.base_url, api_key="none", **options)


def handler_for(provider: LocalProvider, **options: Any) -> BatchHandler:
    return BatchHandler(batch_type=openai(provider), wait_time=0.05, **options)


async def test_a_stream_of_questions_in_and_every_answer_back() -> None:
    async with LocalProvider() as provider:
        handler = handler_for(provider)
        async with BatchDispatcher(handler, queue_threshold=40, request_kwargs=MODEL) as d:
            questions = [f"question {n}" for n in range(100)]
            answers = [a async for a in d.process(questions, ordered=True)]
        bought = provider.statistics()
    texts = [a.text for a in answers if isinstance(a, Answer)]
    assert len(texts) == 100
    assert all(f"question {n}" in text for n, text in enumerate(texts))
    assert not bought.bought_twice
    assert d.statistics().batches_dispatched == 3


async def test_three_lines_answer_with_the_default_thresholds() -> None:
    async with LocalProvider() as provider:
        handler = BatchHandler(batch_type=openai(provider))
        with anyio.fail_after(30):
            async with BatchDispatcher(handler, request_kwargs=MODEL, idle_threshold=0.2) as d:
                answer = await d.ask("How many eggs?")
    assert "How many eggs?" in answer.text
    assert answer.usage


async def test_receipts_may_be_awaited_inside_the_block_or_after_it() -> None:
    async with LocalProvider() as provider:
        handler = handler_for(provider)
        async with BatchDispatcher(handler, request_kwargs=MODEL, idle_threshold=0.1) as d:
            inside = [await d.submit(f"in {n}") for n in range(5)]
            texts = [(await receipt).text for receipt in inside]
            after = [await d.submit(f"after {n}") for n in range(5)]
        texts += [(await receipt).text for receipt in after]
    assert [t for n in range(5) for t in texts if f"in {n}" in t or f"after {n}" in t]
    assert len(texts) == 10


async def test_full_requests_of_different_models_or_endpoints_never_share_a_file() -> None:
    def full(custom_id: str, url: str, **body: Any) -> dict[str, Any]:
        return {"custom_id": custom_id, "method": "POST", "url": url, "body": body}

    chat: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
    requests: list[Any] = [
        full("a", "/v1/chat/completions", model="m1", **chat),
        full("b", "/v1/chat/completions", model="m2", **chat),
        full("c", "/v1/embeddings", model="m1", input="text"),
        full("d", "/v1/responses", model="m1", input="text"),
        full("e", "/v1/moderations", model="m1", input="text"),
        full("f", "/v1/chat/completions", model="m1", **chat),
    ]
    async with LocalProvider() as provider:
        async with BatchDispatcher(handler_for(provider), requests_type="full") as d:
            receipts = await d.submit_many(requests)
            await d.flush()
            answers = [await receipt for receipt in receipts]
        assert d.statistics().batches_dispatched == 5
    assert [a.custom_id for a in answers] == list("abcdef")


async def test_the_same_custom_id_twice_in_the_queue_goes_into_two_files() -> None:
    request = {
        "custom_id": "same",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "m", "messages": [{"role": "user", "content": "x"}]},
    }
    async with LocalProvider() as provider:
        async with BatchDispatcher(handler_for(provider), requests_type="full") as d:
            await d.queue.add_requests([request, request])  # type: ignore[misc]
            await d.flush()
            with anyio.fail_after(20):
                while provider.statistics().asked.get("same", 0) < 2:
                    await anyio.sleep(0.02)
        assert d.statistics().batches_dispatched == 2
        assert provider.statistics().batches_created == 2


async def test_elements_that_others_push_are_completed_and_bad_ones_buried() -> None:
    async with LocalProvider() as provider:
        results: list[Any] = []
        done = threading.Event()

        def keep(batch: Any) -> None:
            results.extend(batch.get_results()[0])
            done.set()

        handler = handler_for(provider, batch_process_func=keep)
        async with BatchDispatcher(handler, request_kwargs=MODEL) as d:
            bare = [[{"role": "user", "content": "one"}], "two", {"wrong": 1}, 17]
            await d.queue.add_requests(bare)  # type: ignore[misc]
            await d.flush()
            dead = await d.queue.dead_letters()
            assert await anyio.to_thread.run_sync(done.wait, 20)
        assert [letter.request for letter in dead] == [{"wrong": 1}, 17]
        assert all(letter.reason for letter in dead)
    assert len(results) == 2


async def test_numbers_are_sent_as_they_were_written(tmp_path: Path) -> None:
    raw = (
        b'{"custom_id": "raw", "method": "POST", "url": "/v1/chat/completions", "body": {"model":'
        b' "m", "temperature": 0.10, "seed": 1E+2, "messages": [{"role": "user", "content": "x"}]}}'
    )
    store = tmp_path / "s"
    async with LocalProvider() as provider:
        from anybatch.batch_stores import SQLiteBatchStore

        handler = handler_for(provider, batch_storage=SQLiteBatchStore(store / "store.db"))
        async with BatchDispatcher(handler, requests_type="full") as d:
            assert (await (await _flushed(d, RawRequest(raw)))).custom_id == "raw"
    files = [path.read_bytes() for path in store.rglob("*.jsonl")]
    assert any(raw in content for content in files)


async def _flushed(d: Any, request: Any) -> Any:
    receipt = await d.submit(request)
    await d.flush()
    return receipt


async def test_each_batch_goes_to_the_handler_with_more_room() -> None:
    async with LocalProvider(delay=0.3) as provider:
        first = handler_for(provider, max_active_batches=4)
        second = handler_for(provider, max_active_batches=2)
        async with BatchDispatcher([first, second], queue_threshold=1, request_kwargs=MODEL) as d:
            receipts = await d.submit_many([f"q{n}" for n in range(6)])
            await d.flush()
            assert (first.live_batches, second.live_batches) == (4, 2)
            assert d.statistics().requests_dispatched == 6
            for receipt in receipts:
                await receipt
        assert provider.statistics().batches_created == 6


async def test_two_programs_of_one_name_are_told_apart() -> None:
    async with LocalProvider() as provider, handler_for(provider):
        with pytest.raises(StoreInUse, match="name="):
            async with handler_for(provider):
                raise AssertionError


async def test_a_failed_row_reaches_its_receipt_with_the_providers_words() -> None:
    plan = FaultPlan(rows=(RowFault(custom_id="bad", status=400, message="too rude"),))
    async with LocalProvider(faults=plan) as provider:
        async with BatchDispatcher(handler_for(provider), request_kwargs=MODEL) as d:
            good, bad = await d.submit("fine"), await d.submit("rude", custom_id="bad")
            await d.flush()
            assert isinstance(await good, Answer)
            with pytest.raises(RequestFailed, match="too rude") as caught:
                await bad
    assert caught.value.custom_id == "bad"

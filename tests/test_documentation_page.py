"""What langbatch's page of documentation shows works here with the imports changed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import anyio
import anyio.lowlevel
import httpx2
import pytest

from anybatch import BatchDispatcher, BatchHandler
from anybatch.local_provider import LocalProvider
from anybatch.request_queues import InMemoryRequestQueue, RequestQueue

pytestmark = [pytest.mark.anyio, pytest.mark.real_time]
MESSAGES = [[{"role": "user", "content": f"question {n}"}] for n in range(5)]


@pytest.fixture
def batch_kwargs_of() -> Iterator[Any]:
    import openai

    clients: list[Any] = []

    def make(provider: LocalProvider) -> dict[str, Any]:
        clients.append(openai.OpenAI(base_url=provider.base_url, api_key="none"))
        return {"client": clients[-1]}

    yield make
    for client in clients:
        client.close()


def chat_class() -> Any:
    from langbatch.openai import OpenAIChatCompletionBatch

    return OpenAIChatCompletionBatch


class Seen:
    """A process function that keeps what it is given."""

    def __init__(self) -> None:
        self.batches: list[Any] = []
        self.results: list[Any] = []

    def __call__(self, batch: Any) -> None:
        self.batches.append(batch)
        successful, _ = batch.get_results()
        self.results.extend(successful)


async def until(condition: Any) -> None:
    with anyio.fail_after(20):
        while not condition():
            await anyio.sleep(0.02)


async def test_the_page_from_constructor_to_processed_batch(batch_kwargs_of: Any) -> None:
    seen = Seen()
    async with LocalProvider() as provider:
        batch_handler = BatchHandler(
            batch_process_func=seen,
            batch_type=chat_class(),
            wait_time=0.05,
            batch_kwargs=batch_kwargs_of(provider),
        )
        request_queue = InMemoryRequestQueue()
        batch_dispatcher = BatchDispatcher(
            batch_handler=batch_handler,
            queue=request_queue,
            queue_threshold=50000,
            time_threshold=0.2,
            time_interval=600,
            requests_type="partial",
            request_kwargs={"model": "local", "temperature": 0.5},
        )
        async with anyio.create_task_group() as tasks:
            await tasks.start(batch_dispatcher.run)
            await request_queue.add_requests(MESSAGES)
            await until(lambda: len(seen.results) == 5)
            tasks.cancel_scope.cancel()
    texts = [row["choices"][0]["message"]["content"] for row in seen.results]
    assert sorted(text for text in texts) == sorted(texts)
    assert all(any(f"question {n}" in text for text in texts) for n in range(5))
    assert isinstance(seen.batches[0], chat_class())


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])
async def test_both_runs_as_tasks_of_asyncio_in_either_order(
    anyio_backend: Any, batch_kwargs_of: Any
) -> None:
    for handler_first in (True, False):
        seen = Seen()
        async with LocalProvider() as provider:
            handler = BatchHandler(
                seen, chat_class(), wait_time=0.05, batch_kwargs=batch_kwargs_of(provider)
            )
            queue = InMemoryRequestQueue()
            dispatcher = BatchDispatcher(
                handler, queue, time_threshold=0.1, request_kwargs={"model": "m"}
            )
            runs = [handler.run, dispatcher.run] if handler_first else [dispatcher.run, handler.run]
            tasks = [asyncio.create_task(run()) for run in runs]
            await queue.add_requests(MESSAGES)
            await until(lambda seen=seen: len(seen.results) == 5)
            for task in tasks:
                task.cancel()
            assert all(
                isinstance(e, asyncio.CancelledError)
                for e in await asyncio.gather(*tasks, return_exceptions=True)
            )


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])
async def test_the_handler_may_be_langbatchs_own(
    anyio_backend: Any, batch_kwargs_of: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seen = Seen()
    chat = chat_class()
    import langbatch
    from langbatch.batch_storages import FileBatchStorage

    async with LocalProvider() as provider:
        handler = langbatch.BatchHandler(
            seen,
            chat,
            batch_storage=FileBatchStorage(str(tmp_path / "storage")),
            wait_time=0.05,  # type: ignore[arg-type]
            batch_kwargs=batch_kwargs_of(provider),
        )
        async with BatchDispatcher(handler, request_kwargs={"model": "m"}) as d:
            await d.submit_many(MESSAGES)
            await d.flush()
            run = asyncio.create_task(handler.run())
            await until(lambda: len(seen.results) == 5)
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)


class CustomRequestQueue(RequestQueue):
    """The page's: a queue of one's own."""

    def __init__(self) -> None:
        self.requests: list[Any] = []

    def add_requests(self, requests: list[Any]) -> None:
        self.requests.extend(requests)

    def get_requests(self, count: int) -> list[Any]:
        taken, self.requests = self.requests[:count], self.requests[count:]
        return taken

    def __len__(self) -> int:
        return len(self.requests)


class AsyncRequestQueue(RequestQueue):
    """The same with async methods."""

    def __init__(self) -> None:
        self.plain = CustomRequestQueue()

    async def add_requests(self, requests: list[Any]) -> None:
        await anyio.lowlevel.checkpoint()
        self.plain.add_requests(requests)

    async def get_requests(self, count: int) -> list[Any]:
        await anyio.lowlevel.checkpoint()
        return self.plain.get_requests(count)

    async def size(self) -> int:
        return len(self.plain)


@pytest.mark.parametrize("queue_class", [CustomRequestQueue, AsyncRequestQueue])
async def test_a_queue_of_ones_own(queue_class: Any) -> None:
    from anybatch.providers import OpenAI

    async with LocalProvider() as provider:
        handler = BatchHandler(
            batch_type=OpenAI(base_url=provider.base_url, api_key="x"), wait_time=0.05
        )
        async with BatchDispatcher(handler, queue_class(), request_kwargs={"model": "m"}) as d:
            receipts = [await d.submit(messages) for messages in MESSAGES]
            await d.flush()
            texts = [(await receipt).text for receipt in receipts]
    assert all(f"question {n}" in text for n, text in enumerate(texts))


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])
async def test_a_fastapi_service_in_the_manner_of_the_how_to(
    anyio_backend: Any, batch_kwargs_of: Any
) -> None:
    from contextlib import asynccontextmanager

    from fastapi import FastAPI

    seen = Seen()
    async with LocalProvider() as provider:
        handler = BatchHandler(
            seen, chat_class(), wait_time=0.05, batch_kwargs=batch_kwargs_of(provider)
        )
        dispatcher = BatchDispatcher(
            handler, InMemoryRequestQueue(), 3, 3600, request_kwargs={"model": "m"}
        )

        @asynccontextmanager
        async def lifespan(_: Any) -> Any:
            task = asyncio.create_task(dispatcher.run())
            yield
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        app = FastAPI(lifespan=lifespan)

        @app.post("/requests")
        async def add(data: list[Any]) -> dict[str, str]:
            await asyncio.to_thread(dispatcher.queue.add_requests, data)
            return {"status": "queued"}

        async with (
            app.router.lifespan_context(app),
            httpx2.AsyncClient(
                transport=httpx2.ASGITransport(app), base_url="http://service"
            ) as client,
        ):
            await asyncio.sleep(0.05)
            for n in range(3):
                reply = await client.post("/requests", json=[MESSAGES[n]])
                assert reply.json() == {"status": "queued"}
            await until(lambda: len(seen.results) == 3)

"""A queue of your own: three methods, plain or async, and the dead letters of what it holds."""

from typing import Any

import anyio

from anybatch import BatchDispatcher, BatchHandler
from anybatch.local_provider import LocalProvider
from anybatch.providers import OpenAI
from anybatch.request_queues import RequestQueue


class ListQueue(RequestQueue):
    def __init__(self) -> None:
        self.requests: list[object] = []

    async def add_requests(self, requests: list[object]) -> None:
        self.requests += requests

    async def get_requests(self, count: int) -> list[object]:
        taken, self.requests = self.requests[:count], self.requests[count:]
        return taken

    async def size(self) -> int:
        return len(self.requests)


async def main() -> None:
    processed = anyio.Event()

    async def process_batch(batch: Any) -> None:
        print(batch.get_results())
        processed.set()

    queue = ListQueue()
    await queue.add_requests(["a text", [{"role": "user", "content": "messages"}], 7])
    async with LocalProvider("echo") as local:
        provider = OpenAI(base_url=local.base_url, api_key="none")
        handler = BatchHandler(process_batch, provider, name="own-queue")
        async with BatchDispatcher(handler, queue, request_kwargs={"model": "gpt-4o-mini"}) as d:
            await d.flush()  # handed over: in the handler's store, on disk
            await processed.wait()
            for letter in await d.queue.dead_letters():
                print(letter.request, letter.reason)
            await d.queue.drop([letter.id for letter in await d.queue.dead_letters()])


if __name__ == "__main__":
    anyio.run(main)

"""langbatch's dispatcher as its documentation shows it, with two imports changed."""

import asyncio

from langbatch.openai import OpenAIChatCompletionBatch
from openai import OpenAI

from anybatch import BatchDispatcher, BatchHandler
from anybatch.local_provider import LocalProvider
from anybatch.request_queues import InMemoryRequestQueue


async def main() -> None:
    processed = asyncio.Event()

    async def process_batch(batch: OpenAIChatCompletionBatch) -> None:
        successful, _ = batch.get_results()
        print([result["choices"][0]["message"]["content"] for result in successful])
        processed.set()

    async with LocalProvider("echo") as local:
        batch_handler = BatchHandler(
            batch_process_func=process_batch,
            batch_type=OpenAIChatCompletionBatch,
            batch_kwargs={"client": OpenAI(base_url=local.base_url, api_key="none")},
        )
        request_queue = InMemoryRequestQueue()
        batch_dispatcher = BatchDispatcher(
            batch_handler=batch_handler,
            queue=request_queue,
            queue_threshold=2,
            time_threshold=3600 * 2,
            time_interval=600,
            requests_type="partial",
            request_kwargs={"model": "gpt-4o-mini"},
        )
        running = asyncio.create_task(batch_dispatcher.run())
        await request_queue.add_requests(
            [[{"role": "user", "content": "One?"}], [{"role": "user", "content": "Two?"}]]
        )
        await processed.wait()
        running.cancel()
        await asyncio.wait([running])


if __name__ == "__main__":
    asyncio.run(main())

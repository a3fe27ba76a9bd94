"""A function for finished batches, and a restart between the purchase and the answers."""

from typing import Any

import anyio

from anybatch import BatchDispatcher, BatchHandler
from anybatch.local_provider import LocalProvider
from anybatch.providers import OpenAI


async def main() -> None:
    processed = anyio.Event()

    async def process_batch(batch: Any) -> None:
        """Called at least once for each batch, so keep `batch.id` with what you do."""
        answered, failed = batch.get_results()
        print(f"{len(answered)} answered, {len(failed)} failed")
        processed.set()

    async with LocalProvider("echo", delay=0.2) as local:
        provider = OpenAI(base_url=local.base_url, api_key="none")

        first = BatchHandler(process_batch, provider, name="example", on_exit="leave")
        async with BatchDispatcher(first, request_kwargs={"model": "gpt-4o-mini"}) as d:
            await d.submit_many(f"question {number}" for number in range(100))
        assert not processed.is_set()  # the batch was handed over, and is on the disk

        # Another process, another day: the same name is the same store.
        async with BatchHandler(process_batch, provider, name="example", wait_time=1):
            await processed.wait()


if __name__ == "__main__":
    anyio.run(main)

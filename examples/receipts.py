"""Receipts: keep them, and await them when it suits you; one that fails says why."""

import anyio

from anybatch import BatchDispatcher, BatchHandler, RequestFailed
from anybatch.local_provider import FaultPlan, LocalProvider, RowFault
from anybatch.providers import OpenAI

PLAN = FaultPlan(rows=(RowFault(index=(1,), code="content_filter", message="Not this one."),))


async def main() -> None:
    async with LocalProvider("echo", faults=PLAN) as local:
        handler = BatchHandler(batch_type=OpenAI(base_url=local.base_url, api_key="none"))
        async with BatchDispatcher(handler, request_kwargs={"model": "gpt-4o-mini"}) as d:
            receipts = await d.submit_many(["one", "two", "three"])
            named = await d.submit("four", custom_id="question-4")
            await d.flush()  # not needed: leaving flushes too
        # The dispatcher has been left, and the handler with it: it waited for these.
        for receipt in [*receipts, named]:
            try:
                print((await receipt).text)
            except RequestFailed as error:
                print(error)


if __name__ == "__main__":
    anyio.run(main)

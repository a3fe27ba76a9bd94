"""A create whose reply is lost: the batch is held, and a person decides."""

import anyio

from anybatch import BatchDispatcher, BatchHandler, RequestAbandoned
from anybatch.local_provider import CallFault, FaultPlan, LocalProvider
from anybatch.providers import OpenAI

PLAN = FaultPlan(calls=(CallFault("batches.create", "accept_and_drop"),))


async def main() -> None:
    async with LocalProvider("echo", faults=PLAN) as local:
        provider = OpenAI(base_url=local.base_url, api_key="none")
        async with BatchHandler(batch_type=provider, name="held") as handler:
            async with BatchDispatcher(handler, request_kwargs={"model": "gpt-4o-mini"}) as d:
                receipt = await d.submit("Were you bought?")
            try:
                await receipt
            except RequestAbandoned as error:
                print(error)

            # It can be seen at the provider, by its metadata, so it was bought.
            [held] = handler.statistics().held
            [bought] = [b for b in local.batches() if b["metadata"]["anybatch"] == held]
            await handler.resolve(held, platform_id=bought["id"])
            async for answer in handler.results(held):
                print(answer)


if __name__ == "__main__":
    anyio.run(main)

import anyio

from anybatch import Answer, BatchDispatcher, BatchHandler
from anybatch.local_provider import LocalProvider
from anybatch.providers import OpenAI


async def main() -> None:
    async with LocalProvider("echo") as local:  # with a key, OpenAI() is all it takes
        handler = BatchHandler(batch_type=OpenAI(base_url=local.base_url, api_key="none"))
        async with BatchDispatcher(handler, request_kwargs={"model": "gpt-4o-mini"}) as d:
            async for answer in d.process(["What is a batch?", "What is a receipt?"]):
                print(answer.custom_id, answer.text if isinstance(answer, Answer) else answer)


if __name__ == "__main__":
    anyio.run(main)

"""A function as handler: many tasks ask for one thing each, and the function gets them together."""

import anyio

from anybatch import BatchDispatcher


async def look_up(words: list[str]) -> list[int | Exception]:
    """One query for all of them; an exception in the list fails that one request."""
    print(f"{len(words)} words at once")
    return [len(word) if word else ValueError("an empty word") for word in words]


async def main() -> None:
    async with BatchDispatcher(look_up, queue_threshold=100, time_threshold=0.005) as d:

        async def ask(word: str) -> None:
            assert await d.ask(word) == len(word)

        async with anyio.create_task_group() as tasks:
            for number in range(250):
                tasks.start_soon(ask, "x" * (number + 1))


if __name__ == "__main__":
    anyio.run(main)

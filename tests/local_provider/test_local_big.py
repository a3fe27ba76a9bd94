"""Batches as large as OpenAI takes them."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from anybatch.local_provider import LocalProvider
from tests.local_provider.client import Client, chats, jsonl

pytestmark = [pytest.mark.anyio, pytest.mark.real_time]


async def test_fifty_thousand_requests_are_answered_and_one_more_is_too_many(
    client: Client, provider: LocalProvider
) -> None:
    requests = chats(50_001)
    batch = await client.ended(requests)
    assert [error["code"] for error in batch["errors"]["data"]] == ["too_many_tasks"]
    batch = await client.ended(requests[:-1])
    assert batch["request_counts"] == {"total": 50_000, "completed": 50_000, "failed": 0}
    seen: set[bytes] = set()
    async with client.stream("GET", f"files/{batch['output_file_id']}/content") as answer:
        async for line in answer.aiter_lines():
            seen.add(line.partition('"custom_id":')[2].partition(",")[0].encode())
    assert len(seen) == 50_000
    assert provider.statistics().rows_billed == 50_000
    assert provider.statistics().bought_twice == {}


async def test_others_get_their_turn_all_the_while(client: Client) -> None:
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    file = await client.upload(jsonl(chats(10_000)))
    async with anyio.create_task_group() as group:
        group.start_soon(count_turns)
        await client.until((await client.create(file["id"]))["id"])
        group.cancel_scope.cancel()
    assert turns > 50  # a slice ends after 3 ms, and this takes a machine some 300 ms

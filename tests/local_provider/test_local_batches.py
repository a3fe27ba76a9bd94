"""A batch at the local provider, from upload to its rows, over real HTTP on both event loops."""

from __future__ import annotations

import pytest

from anybatch.local_provider import BatchFault, FaultPlan, LocalProvider, body_digest
from tests.local_provider.client import Client, chat, chats, client_of

pytestmark = [pytest.mark.anyio, pytest.mark.real_time]


async def test_a_batch_ends_with_one_row_for_each_request(client: Client) -> None:
    batch = await client.ended(chats(25), metadata={"anybatch": "trace"})
    assert batch["status"] == "completed"
    assert batch["metadata"] == {"anybatch": "trace"}
    assert batch["request_counts"] == {"total": 25, "completed": 25, "failed": 0}
    rows = await client.output(batch)
    assert sorted(row["custom_id"] for row in rows) == sorted(f"r{i}" for i in range(25))
    assert batch["error_file_id"] is None


async def test_the_echo_answers_with_the_question(client: Client) -> None:
    batch = await client.ended([chat("a", "why?")])
    (row,) = await client.output(batch)
    assert row["response"]["status_code"] == 200
    assert row["response"]["body"]["choices"][0]["message"]["content"] == "why?"
    assert row["error"] is None


async def test_rows_leave_in_another_order_than_they_came_in(client: Client) -> None:
    rows = await client.output(await client.ended(chats(25)))
    assert [row["custom_id"] for row in rows] != [f"r{i}" for i in range(25)]


async def test_rows_keep_their_order_where_that_is_asked_for() -> None:
    async with LocalProvider(shuffle=False) as provider, client_of(provider) as client:
        rows = await client.output(await client.ended(chats(25)))
    assert [row["custom_id"] for row in rows] == [f"r{i}" for i in range(25)]


async def test_a_batch_walks_through_the_real_statuses_with_their_times() -> None:
    order = ["validating", "in_progress", "finalizing", "completed"]
    seen: list[str] = []
    async with LocalProvider(delay=0.2) as provider, client_of(provider) as client:
        batch = await client.batch(chats(1))
        while batch["status"] != "completed":
            seen.append(batch["status"])
            batch = await client.retrieve(batch["id"])
    assert sorted(seen, key=order.index) == seen
    times = [batch[f"{status}_at"] for status in ("created", *order[1:])]
    assert times == sorted(times)
    assert batch["expires_at"] == batch["created_at"] + 86_400


async def test_a_cancelled_batch_gives_what_it_had_done_and_names_the_rest() -> None:
    faults = FaultPlan(batches=(BatchFault(stuck_in="in_progress", stuck_after=6),))
    async with LocalProvider(faults=faults) as provider, client_of(provider) as client:
        batch = await client.batch(chats(10))
        while batch["request_counts"]["completed"] < 6:
            batch = await client.retrieve(batch["id"])
        cancelling = (await client.post(f"batches/{batch['id']}/cancel")).json()
        assert cancelling["status"] == "cancelling"
        batch = await client.until(batch["id"])
        done = {row["custom_id"] for row in await client.output(batch)}
        rest = await client.errors(batch)
    assert batch["status"] == "cancelled"
    assert done == {f"r{i}" for i in range(6)}
    assert {row["custom_id"] for row in rest} == {f"r{i}" for i in range(6, 10)}
    assert {row["error"]["code"] for row in rest} == {"batch_cancelled"}
    assert all(row["response"] is None for row in rest)
    assert provider.statistics().rows_billed == 6


async def test_a_batch_whose_window_is_over_expires() -> None:
    async with LocalProvider(delay=0.2, window=0.1) as provider, client_of(provider) as client:
        batch = await client.ended(chats(3))
        rest = await client.errors(batch)
    assert batch["status"] == "expired"
    assert batch["output_file_id"] is None
    assert {row["error"]["code"] for row in rest} == {"batch_expired"}
    assert provider.statistics().rows_executed == 0


async def test_statistics_count_what_was_bought(client: Client, provider: LocalProvider) -> None:
    await client.ended([chat("a", "one"), chat("b", "two")])
    await client.ended([chat("a", "one")])
    statistics = provider.statistics()
    assert statistics.batches_created == statistics.uploads == 2
    assert statistics.bought == {"a": 2, "b": 1}
    assert statistics.bought_twice == {"a": 2}
    assert statistics.bodies[body_digest(chat("a", "one")["body"])] == 2
    assert statistics.calls["batches.create"] == 2
    over_http = (await client.get(f"{provider.url}/_anybatch/statistics")).json()
    assert over_http["bought"] == {"a": 2, "b": 1}

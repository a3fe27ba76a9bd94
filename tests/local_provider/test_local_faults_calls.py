"""Calls to the local provider that go wrong as the fault plan has it, seen by an HTTP client."""

from __future__ import annotations

import anyio
import httpx2
import pytest

from anybatch.local_provider import CallFault, FaultPlan, LocalProvider
from tests.local_provider.client import Client, chats, client_of, jsonl

pytestmark = [pytest.mark.anyio, pytest.mark.real_time]

BIG = b"x" * 8_000_000  # more than any buffer between client and server


def faulty(*calls: CallFault) -> LocalProvider:
    return LocalProvider(faults=FaultPlan(calls=calls))


async def test_a_status_is_answered_and_nothing_is_done() -> None:
    rule = CallFault("files.create", status=429, retry_after=1.5, code="rate_limit_exceeded")
    async with faulty(rule) as provider, client_of(provider) as client:
        answer = await client.post("files", files={"file": ("a.jsonl", BIG)})
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "1.5"
        assert answer.json()["error"]["code"] == "rate_limit_exceeded"
        assert (await client.get("files")).json()["data"] == []
        await client.upload(chats(1))
    assert provider.statistics().uploads == 1


@pytest.mark.parametrize("route", ["files.create", "batches.create"])
async def test_a_reset_connection_answers_nothing_and_nothing_is_done(route: str) -> None:
    async with faulty(CallFault(route, "reset")) as provider, client_of(provider) as client:
        with pytest.raises(httpx2.TransportError):
            await client.batch(chats(1))
    statistics = provider.statistics()
    assert statistics.batches_created == 0
    assert statistics.uploads == (route == "batches.create")


async def test_an_accepted_create_whose_reply_is_dropped_makes_a_batch() -> None:
    rule = CallFault("batches.create", "accept_and_drop")
    async with faulty(rule) as provider, client_of(provider) as client:
        with pytest.raises(httpx2.RemoteProtocolError, match="disconnected"):
            await client.batch(chats(2))
        (batch,) = (await client.get("batches")).json()["data"]
        assert (await client.until(batch["id"]))["status"] == "completed"
    assert provider.statistics().batches_created == 1


async def test_an_accepted_create_answered_with_503_makes_a_batch() -> None:
    rule = CallFault("batches.create", "accept_and_status", retry_after=2)
    async with faulty(rule) as provider, client_of(provider) as client:
        with pytest.raises(httpx2.HTTPStatusError, match="503"):
            await client.batch(chats(2))
        assert len((await client.get("batches")).json()["data"]) == 1
    assert provider.statistics().batches_created == 1


async def test_a_late_answer_is_one_of_work_done_in_time() -> None:
    rule = CallFault("batches.create", "late", seconds=60)
    async with faulty(rule) as provider, client_of(provider) as client:
        file = await client.upload(chats(1))
        with pytest.raises(httpx2.ReadTimeout):
            await client.post(
                "batches",
                json={
                    "input_file_id": file["id"],
                    "endpoint": "/v1/chat/completions",
                    "completion_window": "24h",
                },
                timeout=0.3,
            )
        await created(provider)


async def created(provider: LocalProvider) -> None:
    with anyio.fail_after(10):
        while not provider.statistics().batches_created:  # noqa: ASYNC110 - by a server
            await anyio.sleep(0.01)


async def test_a_slow_call_is_done_later_even_if_the_client_is_gone() -> None:
    rule = CallFault("batches.create", "slow", seconds=1)
    async with (
        faulty(rule) as provider,
        client_of(
            provider,
        ) as client,
    ):
        file = await client.upload(chats(1))
        with anyio.move_on_after(0.1):
            await client.create(file["id"])
        assert provider.statistics().batches_created == 0
        await created(provider)


async def test_a_torn_download_ends_early_and_its_rest_can_be_fetched() -> None:
    rule = CallFault("files.content", "torn", after_bytes=1_000)
    async with faulty(rule) as provider, client_of(provider) as client:
        file_id = (await client.ended(chats(50)))["output_file_id"]
        got = bytearray()
        with pytest.raises(httpx2.RemoteProtocolError, match="without sending complete"):
            async with client.stream("GET", f"files/{file_id}/content") as answer:
                async for chunk in answer.aiter_raw():
                    got += chunk
        assert len(got) == 1_000
        rest = await client.get(f"files/{file_id}/content", headers={"range": f"bytes={len(got)}-"})
        assert rest.status_code == 206
        assert bytes(got) + rest.content == await client.content(file_id)


async def test_a_rule_skips_calls_strikes_so_many_times_and_then_rests() -> None:
    rule = CallFault("models.list", skip=1, times=2)
    async with faulty(rule) as provider, client_of(provider) as client:
        statuses = [(await client.get("models")).status_code for _ in range(5)]
    assert statuses == [200, 503, 503, 200, 200]


async def test_rules_name_routes_by_pattern_and_the_first_that_applies_is_used() -> None:
    rules = (CallFault("batches.*", status=404), CallFault("*", status=500, times=None))
    async with faulty(*rules) as provider, client_of(provider) as client:
        statuses = [(await client.get("batches")).status_code for _ in range(3)]
        statuses.append((await client.get("files")).status_code)
    assert statuses == [404, 500, 500, 500]


async def test_chance_is_drawn_from_the_seed() -> None:
    async def statuses(seed: int) -> list[int]:
        plan = FaultPlan(calls=(CallFault("*", times=None, chance=0.5),), seed=seed)
        async with LocalProvider(faults=plan) as provider, client_of(provider) as client:
            return [(await client.get("models")).status_code for _ in range(20)]

    assert await statuses(1) == await statuses(1)
    assert set(await statuses(1)) == {200, 503}


async def test_a_new_plan_can_be_set_while_the_provider_runs() -> None:
    async with LocalProvider() as provider, client_of(provider) as client:
        await client.upload(chats(1))
        provider.faults = FaultPlan(calls=(CallFault("files.create", status=500),))
        with pytest.raises(httpx2.HTTPStatusError, match="500"):
            await client.upload(chats(1))
        assert provider.faults.calls[0].status == 500


async def test_leaving_ends_calls_that_wait_for_their_late_answer() -> None:
    async def call(client: Client) -> None:
        with pytest.raises(httpx2.RemoteProtocolError):
            await client.get("models")

    rule = CallFault("models.list", "slow", seconds=60)
    with anyio.fail_after(10):
        async with anyio.create_task_group() as group, faulty(rule) as provider:
            client = client_of(provider)
            group.start_soon(call, client)
            while not provider.statistics().calls:  # noqa: ASYNC110 - a call on a socket
                await anyio.sleep(0.01)
        await client.aclose()


async def test_leaving_does_not_wait_for_a_client_that_has_stopped_reading() -> None:
    with anyio.fail_after(10):
        async with LocalProvider() as provider:
            file = await big_upload(provider)
            stream = await anyio.connect_tcp("127.0.0.1", int(provider.url.rpartition(":")[2]))
            await stream.send(f"GET /v1/files/{file}/content HTTP/1.1\r\nhost: x\r\n\r\n".encode())
            assert (await stream.receive()).startswith(b"HTTP/1.1 200")
            await anyio.sleep(0.3)  # until all buffers between the two are full
        await stream.aclose()


async def test_leaving_does_not_wait_for_an_upload_that_never_ends() -> None:
    with anyio.fail_after(10):
        async with LocalProvider() as provider:
            stream = await anyio.connect_tcp("127.0.0.1", int(provider.url.rpartition(":")[2]))
            await stream.send(
                b"POST /v1/files HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n"
                b"content-type: multipart/form-data; boundary=b\r\n\r\n--b\r\n"
            )
            await anyio.sleep(0.1)
        await stream.aclose()


async def big_upload(provider: LocalProvider) -> str:
    async with client_of(provider) as client:
        line = jsonl(chats(1))
        return (await client.upload(line * (30_000_000 // len(line))))["id"]

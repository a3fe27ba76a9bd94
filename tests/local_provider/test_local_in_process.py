"""The local provider called in this process, without sockets: in virtual time."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx2
import orjson
import pytest
from anyio import to_thread
from starlette.types import ASGIApp, Message

from anybatch.local_provider import (
    BatchFault,
    CallFault,
    ConnectionDropped,
    EchoEngine,
    FaultPlan,
    InProcessTransport,
    LocalProvider,
    Settings,
    create_app,
)
from tests.local_provider.client import Client, chat, chats, client_of

pytestmark = pytest.mark.anyio

HOUR = 3_600


@asynccontextmanager
async def in_process(
    *, delay: float = 0.0, faults: FaultPlan | None = None
) -> AsyncIterator[tuple[LocalProvider, Client]]:
    async with (
        LocalProvider(port=None, delay=delay, faults=faults) as provider,
        client_of(provider, transport=provider.transport) as client,
    ):
        yield provider, client


async def test_most_of_a_day_passes_in_no_time() -> None:
    async with in_process(delay=6 * HOUR) as (_, client):
        batch = await client.batch(chats(3))
        seen = [batch["status"]]
        for _ in range(3):
            await anyio.sleep(6 * HOUR + 1)
            seen.append((await client.retrieve(batch["id"]))["status"])
    assert seen == ["validating", "in_progress", "finalizing", "completed"]


async def test_a_batch_expires_when_its_day_is_over_and_not_a_minute_earlier() -> None:
    async with in_process(delay=25 * HOUR) as (_, client):
        batch = await client.batch(chats(3))
        await anyio.sleep(24 * HOUR - 60)
        assert (await client.retrieve(batch["id"]))["status"] == "validating"
        await anyio.sleep(62)
        assert (await client.until(batch["id"]))["status"] == "expired"


async def test_a_hidden_batch_is_seen_after_its_time() -> None:
    fault = BatchFault(hidden_for=10, unlisted_for=HOUR)
    async with in_process(faults=FaultPlan(batches=(fault,))) as (_, client):
        batch = await client.batch(chats(1))
        assert (await client.get(f"batches/{batch['id']}")).status_code == 404
        assert (await client.post(f"batches/{batch['id']}/cancel")).status_code == 404
        await anyio.sleep(11)
        assert (await client.retrieve(batch["id"]))["status"] == "completed"
        assert (await client.get("batches")).json()["data"] == []
        await anyio.sleep(HOUR)
        assert len((await client.get("batches")).json()["data"]) == 1


async def test_a_dropped_reply_is_the_same_error_as_on_a_socket() -> None:
    plan = FaultPlan(calls=(CallFault("batches.create", "accept_and_drop"),))
    async with in_process(faults=plan) as (provider, client):
        with pytest.raises(httpx2.RemoteProtocolError, match="disconnected"):
            await client.batch(chats(1))
    assert provider.statistics().batches_created == 1


async def test_a_late_answer_is_a_read_timeout_after_virtual_seconds() -> None:
    plan = FaultPlan(calls=(CallFault("batches.create", "late", seconds=HOUR),))
    async with in_process(faults=plan) as (provider, client):
        before = anyio.current_time()
        with pytest.raises(httpx2.ReadTimeout):
            await client.batch(chats(1))
        assert anyio.current_time() - before == pytest.approx(30)
    assert provider.statistics().batches_created == 1


async def test_an_answer_that_is_late_comes_whole() -> None:
    plan = FaultPlan(calls=(CallFault("models.list", "late", seconds=20),))
    async with in_process(faults=plan) as (_, client):
        before = anyio.current_time()
        assert (await client.get("models")).json()["object"] == "list"
        assert anyio.current_time() - before == pytest.approx(20)


async def test_a_synchronous_client_works_in_a_worker_thread() -> None:
    async with LocalProvider(port=None) as provider:
        transport = provider.transport

        def upload() -> str:
            with httpx2.Client(base_url=provider.base_url, transport=transport) as client:
                file = ("a.jsonl", b'{"a": 1}\n')
                answer = client.post("files", data={"purpose": "batch"}, files={"file": file})
                content = client.get(f"files/{answer.json()['id']}/content")
                return content.text

        assert await to_thread.run_sync(upload) == '{"a": 1}\n'


async def test_the_application_itself_raises_where_a_connection_is_dropped() -> None:
    plan = FaultPlan(calls=(CallFault("models.list", "reset"),))
    async with LocalProvider(port=None, faults=plan) as provider:
        transport = httpx2.ASGITransport(provider.app)
        async with client_of(provider, transport=transport) as client:
            with pytest.raises(ConnectionDropped, match="/v1/models"):
                await client.get("models")


@asynccontextmanager
async def lifespan(app: ASGIApp) -> AsyncIterator[None]:
    """Do what a server does with an application's lifespan."""
    to_app, from_server = anyio.create_memory_object_stream[Message](1)
    from_app, to_server = anyio.create_memory_object_stream[Message](1)
    async with to_app, from_server, from_app, to_server, anyio.create_task_group() as group:
        group.start_soon(app, {"type": "lifespan"}, from_server.receive, from_app.send)
        await to_app.send({"type": "lifespan.startup"})
        assert (await to_server.receive())["type"] == "lifespan.startup.complete"
        yield
        await to_app.send({"type": "lifespan.shutdown"})
        assert (await to_server.receive())["type"] == "lifespan.shutdown.complete"


async def test_any_server_with_a_lifespan_can_serve_the_application() -> None:
    app = create_app(Settings(delay=1))
    async with Client(base_url="http://x/v1", transport=InProcessTransport(app)) as client:
        with pytest.raises(RuntimeError, match="lifespan"):
            await client.get("models")
        async with lifespan(app):
            assert (await client.ended(chats(2)))["status"] == "completed"


async def test_a_body_error_comes_out_as_it_is() -> None:
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught:
        async with LocalProvider(port=None):
            raise error
    assert caught.value is error


async def test_it_is_entered_once_and_not_used_before() -> None:
    provider = LocalProvider(port=None)
    for use in (provider.statistics, provider.batches, lambda: provider.app):
        with pytest.raises(RuntimeError, match="enter the LocalProvider first"):
            use()
    async with provider:
        pass
    assert provider.statistics().calls == {}
    with pytest.raises(RuntimeError, match="entered before"):
        async with provider:
            pass


class Slow(EchoEngine):
    """Takes an hour for each answer."""

    async def respond(self, endpoint: str, body: Mapping[str, Any]) -> dict[str, Any]:
        await anyio.sleep(HOUR)
        return await super().respond(endpoint, body)


async def test_a_cancel_lets_the_row_at_hand_end_and_begins_no_other() -> None:
    async with (
        LocalProvider(Slow(), port=None) as provider,
        client_of(provider, transport=provider.transport) as client,
    ):
        batch = await client.batch(chats(10))
        await anyio.sleep(2.5 * HOUR)
        await client.post(f"batches/{batch['id']}/cancel")
        assert (await client.retrieve(batch["id"]))["status"] == "cancelling"
        await anyio.sleep(HOUR)
        batch = await client.retrieve(batch["id"])
    assert batch["status"] == "cancelled"
    assert batch["request_counts"] == {"total": 10, "completed": 3, "failed": 0}


async def test_a_batch_that_is_not_done_in_its_day_keeps_what_it_has() -> None:
    async with (
        LocalProvider(Slow(), port=None) as provider,
        client_of(provider, transport=provider.transport) as client,
    ):
        batch = await client.batch(chats(30))
        await anyio.sleep(26 * HOUR)
        batch = await client.retrieve(batch["id"])
        assert batch["status"] == "expired"
        assert len(await client.errors(batch)) == 30 - len(await client.output(batch))
    assert batch["request_counts"]["completed"] in (24, 25)


async def test_a_batch_that_expires_unread_names_the_requests_that_can_be_read() -> None:
    lines = [b"{", orjson.dumps(chat("a")), b"[]", b'{"body": {}}', b"", orjson.dumps(chat("b"))]
    async with in_process(delay=25 * HOUR) as (_, client):
        batch = await client.batch(b"\n".join(lines))
        await anyio.sleep(50 * HOUR)
        rest = await client.errors(await client.retrieve(batch["id"]))
    assert [row["custom_id"] for row in rest] == ["a", "b"]


async def test_leaving_by_cancellation_leaves_nothing_running() -> None:
    with anyio.move_on_after(60) as scope:
        async with in_process(delay=HOUR) as (_, client):
            await client.batch(chats(1))
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert anyio.current_time() < HOUR


async def test_a_plan_can_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "faults.json"
    path.write_text('{"calls": [{"route": "models.list", "status": 418}]}')
    async with in_process(faults=FaultPlan.from_file(path)) as (_, client):
        assert (await client.get("models")).status_code == 418

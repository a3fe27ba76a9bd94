"""A local provider with a directory goes on after kill -9: nothing lost, no row executed twice."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.streams.text import TextReceiveStream

from anybatch.local_provider import BatchFault, EchoEngine, FaultPlan, LocalProvider, Statistics
from tests.local_provider.client import Client, chat, chats, client_of

pytestmark = [pytest.mark.anyio, pytest.mark.real_time]

PROGRAM = """
import sys
import anyio
from anybatch.local_provider import EchoEngine, LocalProvider

class Slow(EchoEngine):
    concurrency = 3
    async def respond(self, endpoint, body):
        await anyio.sleep(0.002)
        return await super().respond(endpoint, body)

async def main():
    async with LocalProvider(Slow(), directory=sys.argv[1], delay=0.02) as provider:
        print(provider.base_url, flush=True)
        await anyio.sleep_forever()

anyio.run(main, backend=sys.argv[2])
"""


@asynccontextmanager
async def server(directory: Path, backend: str) -> AsyncIterator[Client]:
    command = [sys.executable, "-c", PROGRAM, str(directory), backend]
    async with await anyio.open_process(command, stderr=None) as process:
        assert process.stdout is not None
        base_url = (await TextReceiveStream(process.stdout).receive()).strip()
        async with Client(base_url=base_url, timeout=30) as client:
            try:
                yield client
            finally:
                process.kill()


async def statistics(client: Client) -> Statistics:
    answer = await client.get(client.base_url.join("/_anybatch/statistics"))
    return Statistics.from_json(answer.json())


async def done(client: Client, batch: dict[str, Any], status: str, rows: int) -> None:
    """Wait until the batch is in this status, or past it, with so many rows done."""
    order = ("validating", "in_progress", "finalizing", "completed")
    with anyio.fail_after(30):
        while True:  # another process has nothing to wait for but its answers
            now = await client.retrieve(batch["id"])
            reached = order.index(now["status"]) >= order.index(status)
            if reached and now["request_counts"]["completed"] >= rows:
                return
            await anyio.sleep(0.002)


async def test_killed_at_any_stage_it_executes_each_row_once(
    tmp_path: Path, anyio_backend_name: str
) -> None:
    async with server(tmp_path, anyio_backend_name) as client:
        batch = await client.batch(chats(300))
    for status, rows in [("in_progress", 40), ("in_progress", 170), ("finalizing", 300)]:
        async with server(tmp_path, anyio_backend_name) as client:
            await done(client, batch, status, rows)
    async with server(tmp_path, anyio_backend_name) as client:
        batch = await client.until(batch["id"])
        found = await client.output(batch)
        counted = await statistics(client)
    assert batch["status"] == "completed"
    assert batch["request_counts"] == {"total": 300, "completed": 300, "failed": 0}
    assert sorted(row["custom_id"] for row in found) == sorted(f"r{i}" for i in range(300))
    assert counted.bought == {f"r{i}": 1 for i in range(300)}
    assert counted.batches_created == counted.uploads == counted.calls["batches.create"] == 1


async def test_what_was_deleted_or_cancelled_stays_so(tmp_path: Path) -> None:
    async with LocalProvider(directory=tmp_path, delay=60) as provider, client_of(provider) as one:
        batch = await one.batch(chats(2))
        file = await one.upload(chats(1))
        await one.delete(f"files/{file['id']}")
        await one.post(f"batches/{batch['id']}/cancel")
    async with LocalProvider(directory=tmp_path) as provider, client_of(provider) as two:
        assert (await two.until(batch["id"]))["status"] == "cancelled"
        assert (await two.get(f"files/{file['id']}")).status_code == 404
        names = [one["filename"] for one in (await two.get("files")).json()["data"]]
    assert names == [f"{batch['id']}_error.jsonl", "input.jsonl"]
    assert provider.statistics().deletes == 1


async def test_the_fault_of_a_batch_outlives_a_restart(tmp_path: Path) -> None:
    plan = FaultPlan(batches=(BatchFault(expire_after=1),))
    first = LocalProvider(directory=tmp_path, delay=60, faults=plan)
    async with first, client_of(first) as client:
        batch = await client.batch(chats(3))
    async with LocalProvider(directory=tmp_path) as provider, client_of(provider) as client:
        batch = await client.until(batch["id"])
    assert batch["status"] == "expired"
    assert batch["request_counts"]["completed"] == 1


async def test_torn_last_lines_and_what_was_on_its_way_are_cleared_away(tmp_path: Path) -> None:
    async with LocalProvider(directory=tmp_path, delay=60) as first, client_of(first) as client:
        batch = await client.batch(chats(2))
    (tmp_path / "incoming" / "file-x.part").write_bytes(b"half")
    (tmp_path / "files" / "file-x.data").write_bytes(b"no record")
    (tmp_path / "batches" / "batch_x.input").write_bytes(b"no record")
    (tmp_path / "batches" / f"{batch['id']}.rows").write_bytes(b"0\to\t1\tabc")
    with (tmp_path / "journal.jsonl").open("ab") as journal:
        journal.write(b'{"route": "batches.cr')
    async with LocalProvider(directory=tmp_path) as provider, client_of(provider) as client:
        assert (await client.until(batch["id"]))["status"] == "completed"
        statistics = provider.statistics()
        await client.get("models")
    assert statistics.bought == {"r0": 1, "r1": 1}
    assert statistics.calls["batches.create"] == 1
    assert list((tmp_path / "incoming").iterdir()) == []
    assert not (tmp_path / "files" / "file-x.data").exists()
    assert list((tmp_path / "batches").glob("*.input")) == []
    assert (tmp_path / "journal.jsonl").read_bytes().endswith(b"}\n")


async def test_a_directory_has_one_provider_at_a_time(tmp_path: Path) -> None:
    async with LocalProvider(directory=tmp_path):
        with pytest.raises(RuntimeError, match="another local provider uses"):
            async with LocalProvider(directory=tmp_path):
                pass
    async with LocalProvider(directory=tmp_path):
        pass


async def test_rows_of_an_earlier_life_are_kept_and_not_executed_again(tmp_path: Path) -> None:
    plan = FaultPlan(batches=(BatchFault(stuck_in="in_progress", stuck_after=4, nth=(1,)),))
    first = LocalProvider(directory=tmp_path, faults=plan)
    async with first, client_of(first) as client:
        stuck, ended = await client.batch(chats(6)), await client.ended([chat("other")])
        await done(client, stuck, "in_progress", 4)
    async with LocalProvider(directory=tmp_path) as second, client_of(second) as client:
        await client.post(f"batches/{stuck['id']}/cancel")
        stuck = await client.until(stuck["id"])
        found = await client.output(stuck)
        assert await client.retrieve(ended["id"]) == ended
    assert {row["custom_id"] for row in found} == {f"r{i}" for i in range(4)}
    assert second.statistics().asked == {**{f"r{i}": 1 for i in range(4)}, "other": 1}
    assert stuck["usage"]["output_tokens"] > 0


async def test_where_there_are_no_hard_links_a_batch_has_a_copy_of_its_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise OSError("not supported")

    monkeypatch.setattr(Path, "hardlink_to", no_links)
    async with LocalProvider(directory=tmp_path) as provider, client_of(provider) as client:
        assert (await client.ended(chats(2)))["status"] == "completed"
    assert list((tmp_path / "batches").glob("*.input")) == []


class Halting(EchoEngine):
    """Answers so many requests and then none."""

    left = 2_500

    async def respond(self, endpoint: str, body: Mapping[str, Any]) -> dict[str, Any]:
        if not self.left:
            await anyio.sleep_forever()
        self.left -= 1
        return await super().respond(endpoint, body)


async def test_a_batch_left_in_the_middle_goes_on_with_the_next_row(tmp_path: Path) -> None:
    first = LocalProvider(Halting(), directory=tmp_path)
    async with first, client_of(first) as client:
        batch = await client.batch(chats(3_000))
        while first.statistics().rows_billed < 2_500:
            await anyio.sleep(0.01)
    async with LocalProvider(directory=tmp_path) as second, client_of(second) as client:
        batch = await client.until(batch["id"])
        assert len(await client.output(batch)) == 3_000
    assert batch["request_counts"] == {"total": 3_000, "completed": 3_000, "failed": 0}
    assert second.statistics().bought == {f"r{i}": 1 for i in range(3_000)}

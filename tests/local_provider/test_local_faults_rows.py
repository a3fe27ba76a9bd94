"""Rows and batches that go wrong as the fault plan has it."""

from __future__ import annotations

import orjson
import pytest

from anybatch.local_provider import BatchFault, FaultPlan, LocalProvider, RowFault
from tests.local_provider.client import chats, client_of, rows

pytestmark = [pytest.mark.anyio, pytest.mark.real_time]


def with_rows(*faults: RowFault) -> LocalProvider:
    return LocalProvider(faults=FaultPlan(rows=faults))


def with_batch(**fault: object) -> LocalProvider:
    return LocalProvider(faults=FaultPlan(batches=(BatchFault(**fault),)))  # type: ignore[arg-type]


async def test_a_refused_row_is_in_the_error_file_with_its_status_and_is_not_billed() -> None:
    fault = RowFault(custom_id="r[13]", status=429, code="rate_limit_exceeded", message="Slow.")
    async with with_rows(fault) as provider, client_of(provider) as client:
        batch = await client.ended(chats(5))
        refused = await client.errors(batch)
        assert {row["custom_id"] for row in await client.output(batch)} == {"r0", "r2", "r4"}
    assert batch["request_counts"] == {"total": 5, "completed": 3, "failed": 2}
    assert {row["custom_id"] for row in refused} == {"r1", "r3"}
    assert all(row["error"] is None for row in refused)
    assert all(row["response"]["status_code"] == 429 for row in refused)
    assert refused[0]["response"]["body"]["error"]["message"] == "Slow."
    assert provider.statistics().bought == {"r0": 1, "r2": 1, "r4": 1}
    assert provider.statistics().asked == {f"r{i}": 1 for i in range(5)}


async def test_a_batch_whose_rows_all_fail_has_no_output_file() -> None:
    async with with_rows(RowFault()) as provider, client_of(provider) as client:
        batch = await client.ended(chats(3))
        assert len(await client.errors(batch)) == 3
    assert batch["status"] == "completed"
    assert batch["output_file_id"] is None


async def test_a_row_goes_wrong_so_many_times_and_then_well() -> None:
    async with with_rows(RowFault(times=1, index=(0,))) as provider, client_of(provider) as client:
        first, second = await client.ended(chats(1)), await client.ended(chats(1))
    assert first["request_counts"]["failed"] == 1
    assert second["request_counts"]["failed"] == 0


async def test_a_rule_can_mean_each_third_row_of_the_second_batch() -> None:
    rule = RowFault(every=3, batch=(2,))
    async with with_rows(rule) as provider, client_of(provider) as client:
        first, second = await client.ended(chats(7)), await client.ended(chats(7))
        failed = {row["custom_id"] for row in await client.errors(second)}
    assert first["request_counts"]["failed"] == 0
    assert failed == {"r0", "r3", "r6"}


async def test_a_missing_row_is_billed_and_in_neither_file() -> None:
    rule = RowFault("missing", index=(1,))
    async with with_rows(rule) as provider, client_of(provider) as client:
        batch = await client.ended(chats(3))
        assert {row["custom_id"] for row in await client.output(batch)} == {"r0", "r2"}
    assert batch["error_file_id"] is None
    assert provider.statistics().bought["r1"] == 1


async def test_a_row_of_status_zero_has_an_empty_body() -> None:
    rule = RowFault("zero", index=(1,))
    async with with_rows(rule) as provider, client_of(provider) as client:
        (row,) = await client.errors(await client.ended(chats(3)))
    assert row["response"]["status_code"] == 0
    assert row["response"]["body"] == {}
    assert "r1" not in provider.statistics().bought


async def test_a_malformed_row_is_a_line_that_is_no_json() -> None:
    rule = RowFault("malformed", index=(1,))
    async with with_rows(rule) as provider, client_of(provider) as client:
        batch = await client.ended(chats(3))
        lines = (await client.content(batch["output_file_id"])).splitlines()
    broken = [line for line in lines if b'"r1"' in line]
    assert len(lines) == 3
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(broken[0])


async def test_an_oversized_row_is_longer_by_so_many_bytes() -> None:
    rule = RowFault("oversized", index=(1,), bytes=100_000)
    async with with_rows(rule) as provider, client_of(provider) as client:
        batch = await client.ended(chats(3))
        lines = (await client.content(batch["output_file_id"])).splitlines()
    lengths = sorted(len(line) for line in lines)
    assert lengths[-1] > lengths[0] + 100_000


async def test_a_stranger_has_another_id_and_a_row_may_come_twice() -> None:
    rules = (RowFault("stranger", index=(0,), as_id=7), RowFault("twice", index=(1,)))
    async with with_rows(*rules) as provider, client_of(provider) as client:
        found = [row["custom_id"] for row in await client.output(await client.ended(chats(2)))]
    assert sorted(found, key=str) == [7, "r1", "r1"]
    assert provider.statistics().bought == {"r0": 1, "r1": 1}


async def test_a_batch_expires_after_so_many_rows_and_bills_them() -> None:
    async with with_batch(expire_after=6) as provider, client_of(provider) as client:
        batch = await client.ended(chats(10))
        assert len(await client.output(batch)) == 6
        rest = await client.errors(batch)
    assert batch["status"] == "expired"
    assert {row["error"]["code"] for row in rest} == {"batch_expired"}
    assert len(rest) == 4
    assert provider.statistics().rows_billed == 6


async def test_the_rest_of_an_expired_batch_need_not_be_listed() -> None:
    fault = {"expire_after": 6, "list_rest": False}
    async with with_batch(**fault) as provider, client_of(provider) as client:
        batch = await client.ended(chats(10))
        assert len(await client.output(batch)) == 6
    assert batch["error_file_id"] is None


async def test_a_batch_that_the_provider_cancels_may_have_no_files() -> None:
    fault = {"cancel_after": 3, "keep_rows": False}
    async with with_batch(**fault) as provider, client_of(provider) as client:
        batch = await client.ended(chats(10))
    assert batch["status"] == "cancelled"
    assert batch["output_file_id"] is batch["error_file_id"] is None
    assert batch["request_counts"]["completed"] == 3


async def test_a_batch_fails_with_the_code_of_its_fault() -> None:
    fault = {"fail_code": "token_limit_exceeded", "fail_message": "Too many.", "fail_line": 2}
    async with with_batch(**fault) as provider, client_of(provider) as client:
        batch = await client.ended(chats(3))
    assert batch["status"] == "failed"
    assert batch["failed_at"] is not None
    assert batch["errors"]["data"] == [
        {"code": "token_limit_exceeded", "message": "Too many.", "line": 2, "param": None}
    ]
    assert provider.statistics().rows_executed == 0


@pytest.mark.parametrize("status", ["validating", "in_progress", "finalizing"])
async def test_a_stuck_batch_neither_ends_nor_expires_and_can_be_cancelled(status: str) -> None:
    plan = FaultPlan(batches=(BatchFault(stuck_in=status),))  # type: ignore[arg-type]
    provider = LocalProvider(faults=plan, window=0.01)
    async with provider, client_of(provider) as client:
        batch = await client.until((await client.batch(chats(2)))["id"], status)
        await client.post(f"batches/{batch['id']}/cancel")
        assert (await client.until(batch["id"]))["status"] == "cancelled"


async def test_files_may_lack_the_last_newline_ids_be_empty_and_counts_lie() -> None:
    counts = {"total": 1000, "completed": 1000, "failed": 0}
    fault = {"final_newline": False, "empty_ids": True, "counts": counts}
    async with with_batch(**fault) as provider, client_of(provider) as client:
        batch = await client.ended(chats(3))
        content = await client.content(batch["output_file_id"])
    assert batch["error_file_id"] == ""
    assert batch["request_counts"] == counts
    assert not content.endswith(b"\n")
    assert len(rows(content)) == 3


async def test_a_fault_can_be_that_of_the_second_batch_only() -> None:
    async with with_batch(nth=(2,), expire_after=0) as provider, client_of(provider) as client:
        ends = [(await client.ended(chats(1)))["status"] for _ in range(3)]
    assert ends == ["completed", "expired", "completed"]


def test_a_plan_is_json_and_back() -> None:
    text = b"""{
        "calls": [["batches.create", "accept_and_drop"]],
        "rows": [],
        "batches": []
    }"""
    with pytest.raises(ValueError, match=r"this is no fault plan: .*calls"):
        FaultPlan.from_json(text)
    plan = FaultPlan.from_json(
        b'{"calls": [{"route": "batches.create", "kind": "accept_and_drop"}],'
        b' "rows": [{"kind": "error", "index": [1, 2]}], "batches": [{"nth": [1]}]}'
    )
    assert plan.rows[0].index == (1, 2)
    assert FaultPlan.from_json(plan.to_json()) == plan


def test_a_plan_with_a_word_that_is_none_names_the_word(tmp_path: object) -> None:
    with pytest.raises(ValueError, match="unknown field `roads`"):
        FaultPlan.from_json('{"roads": []}')
    with pytest.raises(ValueError, match=r"Invalid enum value 'explode' - at `\$.calls\[0\].kind`"):
        FaultPlan.from_json('{"calls": [{"route": "*", "kind": "explode"}]}')

"""One batch at a provider that has good days and bad ones, on every event loop, in virtual time."""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import sqlite3
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import attrs
import orjson
import pytest

from anybatch._batch_rows import FinishedBatch, outcome_of, read_row
from anybatch._batch_states import Event, Record, State
from anybatch._exceptions import (
    NotSent,
    OutcomeUnknown,
    ProviderError,
    Refused,
    RequestAbandoned,
    RequestCancelled,
    RequestExpired,
    RequestFailed,
)
from anybatch._models import Accepted, Answer, LineError, RemoteBatch
from anybatch._receipts import Receipt
from anybatch.batch_stores import SQLiteBatchStore
from anybatch.batch_stores.files import Draft, WriteOnceFiles
from anybatch.testing.provider import FakeProvider
from tests.batches import all_answered, default_store, handler_on, make_part, outcomes, until

pytestmark = pytest.mark.anyio
BUSY = ProviderError("busy", status=503, transient=True)


async def live_through(provider: FakeProvider, count: int = 3, **arguments: Any) -> dict[Any, str]:
    """Accept a batch, wait for its end, and tell what became of its requests."""
    handler = handler_on(provider, **arguments)
    part = make_part(count=count)
    async with handler:
        assert await handler.accept(part) is Accepted.NEW
        found = await outcomes(handler)
        for receipt in part.receipts.values():
            await receipt.wait()
    return found


async def test_every_request_has_its_answer_and_the_batch_is_bought_once() -> None:
    provider = FakeProvider()
    assert await live_through(provider) == all_answered()
    assert provider.created == ["q-1-0"]
    assert list(provider.files.values()) == ["q-1-0.jsonl"]


async def test_a_batch_of_several_slices_is_answered_whole() -> None:
    assert await live_through(FakeProvider(), 4500) == all_answered(4500)


async def test_looks_come_soon_and_then_every_wait_time() -> None:
    provider = FakeProvider(duration=3600)
    start = anyio.current_time()
    await live_through(provider, wait_time=600)
    assert 3600 <= anyio.current_time() - start <= 4300
    assert provider.calls["status"] < 20


@pytest.mark.parametrize("call", ["upload", "status", "results"])
@pytest.mark.parametrize(
    "error",
    [BUSY, NotSent("no route"), Refused("slow", status=429), OutcomeUnknown("reset"), OSError(5)],
    ids=["503", "not-sent", "429", "reset", "os"],
)
async def test_what_passes_is_tried_again(call: str, error: Exception) -> None:
    provider = FakeProvider()
    provider.fail(call, error, 5)
    assert await live_through(provider) == all_answered()
    assert provider.calls[call] >= 6
    assert provider.created == ["q-1-0"]


async def test_a_download_that_breaks_off_begins_again() -> None:
    provider = FakeProvider()
    provider.fail("results", BUSY, 2, done=True)
    assert await live_through(provider) == all_answered()
    assert provider.calls["results"] == 3


async def test_a_batch_that_the_provider_does_not_list_yet_is_waited_for() -> None:
    provider = FakeProvider()
    provider.hidden = 5
    assert await live_through(provider) == all_answered()


async def test_the_provider_says_how_long_to_wait() -> None:
    provider = FakeProvider()
    provider.fail("create", Refused("slow", status=429, retry_after=500))
    start = anyio.current_time()
    assert await live_through(provider) == all_answered()
    assert anyio.current_time() - start >= 500


@pytest.mark.parametrize(
    "error", [NotSent("no route"), Refused("slow", status=429)], ids=["not-sent", "429"]
)
async def test_a_create_that_was_surely_not_done_goes_again(error: ProviderError) -> None:
    provider = FakeProvider()
    provider.fail("create", error, 4)
    assert await live_through(provider) == all_answered()
    assert (provider.calls["create"], provider.created) == (5, ["q-1-0"])


@pytest.mark.parametrize("status", [401, 402, 403])
@pytest.mark.parametrize("call", ["upload", "create"])
async def test_who_waits_learns_of_a_refused_account_at_once_and_nothing_is_lost(
    call: str, status: int
) -> None:
    provider = FakeProvider()
    provider.fail(call, Refused("wrong key, friend", status=status), 3)
    handler, part = handler_on(provider), make_part()
    start = anyio.current_time()
    async with handler:
        await handler.accept(part)
        for receipt in part.receipts.values():
            with pytest.raises(RequestAbandoned, match="wrong key, friend"):
                await receipt
        assert anyio.current_time() - start < 1
        assert await outcomes(handler) == all_answered()
    assert provider.created == ["q-1-0"]


@pytest.mark.parametrize("call", ["upload", "create"])
async def test_a_refused_batch_fails_its_requests_with_the_providers_words(call: str) -> None:
    provider = FakeProvider()
    provider.fail(call, Refused("too many dogs", status=400, code="dogs"))
    handler, part = handler_on(provider), make_part()
    async with handler:
        await handler.accept(part)
        with pytest.raises(RequestFailed, match="dogs: too many dogs") as caught:
            await part.receipts["r1"]
        assert (caught.value.custom_id, caught.value.code) == ("r1", "dogs")
        assert await outcomes(handler) == dict.fromkeys(part.receipts, "dogs")
    assert provider.created == []


UNKNOWN = {
    "lost-reply": OutcomeUnknown("the reply was lost"),
    "503-all-the-same": OutcomeUnknown("bad gateway", status=503, transient=True),
    "defect": ZeroDivisionError("in the provider"),
}


@pytest.mark.parametrize("error", UNKNOWN.values(), ids=UNKNOWN)
async def test_a_create_of_unknown_outcome_is_held_and_never_bought_again(
    error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    provider = FakeProvider()
    provider.fail("create", error, done=True)
    for _ in range(3):
        handler, part = handler_on(provider), make_part()
        async with handler:
            answer = await handler.accept(part)
            with pytest.raises(RequestAbandoned, match="resolve"):
                await part.receipts["r0"]
            assert handler.statistics().held == ("q-1-0",)
            assert handler.statistics().batches == {"held": 1}
            assert handler.live_batches == 0
            with pytest.raises(RequestAbandoned, match="resolve"):
                await outcomes(handler)
            with pytest.raises(ValueError, match="resolve"):
                await handler.cancel_batch("q-1-0")
    assert answer is Accepted.KNOWN
    assert (provider.calls["create"], provider.created) == (1, ["q-1-0"])
    assert any(r.levelno == logging.ERROR and "resolve" in r.message for r in caplog.records)


@pytest.mark.parametrize("bought", [True, False])
async def test_a_held_batch_goes_on_as_it_is_decided(bought: bool) -> None:
    provider = FakeProvider()
    provider.fail("create", OutcomeUnknown("reset"), done=bought)
    handler = handler_on(provider)
    async with handler:
        await handler.accept(make_part())
        await until(lambda: bool(handler.statistics().held))
        if bought:
            await handler.resolve("q-1-0", platform_id=next(iter(provider.batches)))
        else:
            await handler.resolve("q-1-0", not_created=True)
        assert handler.statistics().held == ()
        assert await outcomes(handler) == all_answered()
        with pytest.raises(ValueError, match="not held but"):
            await handler.resolve("q-1-0", not_created=True)
        with pytest.raises(ValueError, match="either"):
            await handler.resolve("q-1-0")
        with pytest.raises(ValueError, match="either"):
            await handler.resolve("q-1-0", platform_id="b", not_created=True)
    assert provider.created == (["q-1-0"] if bought else ["q-1-0-r2"])


class Killed(BaseException):
    pass


@pytest.mark.parametrize("bought", [True, False])
async def test_a_create_intent_without_its_outcome_is_held_at_the_next_start(bought: bool) -> None:
    provider = FakeProvider()
    provider.fail("create", Killed(), done=bought)
    handler = handler_on(provider)
    with pytest.RaisesGroup(Killed):
        async with handler:
            await handler.accept(make_part())
            await anyio.sleep_forever()
    again = handler_on(provider)
    async with again:
        await anyio.sleep(100)
        assert again.statistics().held == ("q-1-0",)
    assert provider.calls["create"] == 1


@pytest.mark.parametrize("dropped_after", range(1, 8))
async def test_a_handler_dropped_after_any_record_is_taken_up_and_buys_once(
    dropped_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The records: upload, uploaded, create, created, ended, collected, processed."""
    provider, scope, written, called = FakeProvider(), anyio.CancelScope(), 0, list[Any]()
    append = SQLiteBatchStore.append

    def dropping(*arguments: Any) -> Record:
        nonlocal written
        record = append(*arguments)
        written += 1
        if written == dropped_after:
            anyio.from_thread.run_sync(scope.cancel)
        return record

    monkeypatch.setattr(SQLiteBatchStore, "append", dropping)
    part = make_part()
    with scope:
        async with handler_on(provider, batch_process_func=called.append) as handler:
            await handler.accept(part)
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert written >= dropped_after
    assert all(receipt.settled for receipt in part.receipts.values())

    handler = handler_on(provider, batch_process_func=called.append)
    async with handler:
        assert await outcomes(handler) == all_answered()
    assert provider.created == ["q-1-0"]
    assert handler.statistics().batches == {"done": 1}
    assert [batch.id for batch in called] == ["q-1-0"]


async def test_a_cancelled_create_on_the_wire_is_waited_for_and_recorded(
    anybatch_home: Path,
) -> None:
    provider = FakeProvider()
    with anyio.CancelScope() as scope:
        provider.on_create = lambda: (anyio.from_thread.run_sync(scope.cancel), time.sleep(0.05))
        async with handler_on(provider) as handler:
            await handler.accept(make_part())
            await anyio.sleep_forever()
    record = default_store(anybatch_home).record("q-1-0")
    assert record is not None
    assert (record.state, record.platform_id) == (State.CREATED, next(iter(provider.batches)))


async def test_asyncios_own_cancellation_does_not_lose_a_create_either(
    anybatch_home: Path, anyio_backend_name: str
) -> None:
    if anyio_backend_name != "asyncio":
        return  # only asyncio has it
    provider, loop, entered = FakeProvider(), asyncio.get_running_loop(), threading.Event()

    async def live() -> None:
        async with handler_on(provider) as handler:
            await handler.accept(make_part())
            await anyio.sleep_forever()

    task = asyncio.create_task(live())

    def on_create() -> None:
        for _ in range(3):
            loop.call_soon_threadsafe(task.cancel)
            time.sleep(0.02)
        entered.set()

    provider.on_create = on_create
    with pytest.raises(asyncio.CancelledError):
        await task
    assert entered.is_set()
    record = default_store(anybatch_home).record("q-1-0")
    assert record is not None
    assert record.state is State.CREATED
    assert provider.created == ["q-1-0"]


@pytest.mark.parametrize("event", [Event.CREATE, Event.CREATED, Event.ENDED, Event.COLLECTED])
@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "full"), sqlite3.OperationalError("database or disk is full")],
    ids=["os", "sqlite"],
)
async def test_a_disk_that_refuses_a_record_is_tried_again_and_nothing_is_bought_twice(
    event: Event, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider, append, failures = FakeProvider(), SQLiteBatchStore.append, 0

    def failing(*arguments: Any) -> Record:
        nonlocal failures
        if arguments[2] is event and failures < 3:
            failures += 1
            raise error
        return append(*arguments)

    monkeypatch.setattr(SQLiteBatchStore, "append", failing)
    assert await live_through(provider) == all_answered()
    assert failures == 3
    assert provider.created == ["q-1-0"]


async def test_a_function_that_returned_is_not_called_again_for_a_disk_that_is_full(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    append, failures, called = SQLiteBatchStore.append, 0, list[str]()

    def failing(*arguments: Any) -> Record:
        nonlocal failures
        if arguments[2] is Event.PROCESSED and failures < 6:
            failures += 1
            raise OSError(errno.ENOSPC, "full")
        return append(*arguments)

    monkeypatch.setattr(SQLiteBatchStore, "append", failing)
    handler = handler_on(FakeProvider(), batch_process_func=lambda batch: called.append(batch.id))
    async with handler:
        await handler.accept(make_part())
        await until(lambda: handler.statistics().batches == {"done": 1})
    assert (failures, called) == (6, ["q-1-0"])


class Test_rows:
    async def test_a_row_with_an_error_fails_its_request_alone(self) -> None:
        provider = FakeProvider()
        provider.row_errors = {"r1": ("content_filter", "not nice")}
        assert await live_through(provider) == {**all_answered(), "r1": "content_filter"}

    async def test_a_missing_row_has_a_reason(self) -> None:
        provider = FakeProvider()
        provider.dropped = {"r2"}
        assert await live_through(provider) == {**all_answered(), "r2": "missing_row"}

    @pytest.mark.parametrize(
        ("ending", "kind", "code"),
        [
            ("expired", RequestExpired, "batch_expired"),
            ("cancelled", RequestCancelled, "batch_cancelled"),
        ],
    )
    async def test_what_was_finished_before_the_end_is_delivered(
        self, ending: str, kind: type[RequestFailed], code: str
    ) -> None:
        provider = FakeProvider()
        provider.ending, provider.answered = ending, 1
        handler, part = handler_on(provider), make_part()
        async with handler:
            await handler.accept(part)
            assert (await part.receipts["r0"]).text == "hello r0"
            with pytest.raises(kind) as caught:
                await part.receipts["r2"]
        assert caught.value.code == code
        assert await outcomes(handler) == {"r0": "hello r0", "r1": code, "r2": code}

    @pytest.mark.parametrize(
        ("errors", "expected"),
        [
            ((), ["batch_failed"] * 3),
            ((LineError("too_big", "no"),), ["too_big"] * 3),
            ((LineError("bad_line", "no", 2),), ["batch_failed", "bad_line", "batch_failed"]),
        ],
    )
    async def test_a_failed_batch_fails_its_requests_with_the_providers_words(
        self, errors: tuple[LineError, ...], expected: list[str]
    ) -> None:
        provider = FakeProvider()
        provider.ending, provider.errors = "failed", errors
        found = await live_through(provider)
        assert [found[custom_id] for custom_id in sorted(found, key=str)] == expected

    async def test_rows_of_strangers_and_no_rows_at_all_are_dropped_and_said(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        provider = FakeProvider()
        ok = {"response": {"status_code": 200, "body": {}}}
        provider.extra_rows = [
            b"{torn",
            b"[1]",
            b'{"custom_id": 7}',
            b'{"custom_id": "r0"}',
            b"",
            orjson.dumps({"custom_id": "stranger", **ok}),
        ]
        assert await live_through(provider) == all_answered()
        assert "dropped 4 malformed rows and 1 rows" in caplog.text

    @pytest.mark.parametrize(
        ("row", "code", "message"),
        [
            (
                {
                    "response": {
                        "status_code": 400,
                        "body": {"error": {"code": "x", "message": "y"}},
                    }
                },
                "x",
                "y",
            ),
            ({"response": {"status_code": 500, "body": None}}, None, "status 500"),
            ({"response": {"status_code": 200, "body": 7}}, "malformed_row", "no body"),
            ({"response": None, "error": "plain words"}, None, "plain words"),
            ({"response": None, "error": {"type": "t"}}, "t", "status None"),
        ],
    )
    def test_a_failed_row_says_why(
        self, row: dict[str, Any], code: str | None, message: str
    ) -> None:
        outcome = outcome_of({"custom_id": "r", **row})
        assert isinstance(outcome, RequestFailed)
        assert (outcome.code, outcome.custom_id) == (code, "r")
        assert message in outcome.message

    def test_a_row_is_known_by_its_id_and_its_end(self) -> None:
        assert read_row(b'{"custom_id":"r","response":null,"error":{"code":"x"}}') is not None
        assert read_row(b'{"custom_id":"r","response":null,"error":null}') is None


class Test_the_function:
    async def test_it_gets_the_batch_in_langbatchs_shapes(self) -> None:
        provider, called = FakeProvider(), list[FinishedBatch]()
        provider.row_errors = {"r1": ("x", "y")}
        await live_through(provider, batch_process_func=called.append)
        [batch] = called
        assert batch.id == "q-1-0"
        assert batch.platform_batch_id == next(iter(provider.batches))
        successful, unsuccessful = batch.get_results()
        assert [result["custom_id"] for result in successful] == ["r0", "r2"]
        assert successful[0]["choices"][0]["message"]["content"] == "hello r0"
        assert unsuccessful == [{"custom_id": "r1", "error": {"code": "x", "message": "y"}}]
        assert [r["custom_id"] for r in batch.get_unsuccessful_requests()] == ["r1"]

    @pytest.mark.parametrize(
        ("body", "shape"),
        [
            ({"data": [{"embedding": [1.0]}]}, {"embedding": [1.0]}),
            ({"output": []}, {"body": {"output": []}}),
        ],
    )
    async def test_other_endpoints_have_shapes_of_their_own(
        self, body: dict[str, Any], shape: dict[str, Any]
    ) -> None:
        called = list[FinishedBatch]()
        await live_through(FakeProvider(lambda _: body), 1, batch_process_func=called.append)
        assert called[0].get_results() == ([{"custom_id": "r0", **shape}], [])

    async def test_an_async_one_is_awaited_on_the_event_loop(self) -> None:
        called = list[str]()

        async def process(batch: FinishedBatch) -> None:
            await anyio.sleep(1)
            called.append(batch.id)

        class Callable:
            async def __call__(self, batch: FinishedBatch) -> None:
                await process(batch)

        def plain(batch: FinishedBatch) -> object:
            return process(batch)  # not marked as async, and awaited all the same

        for number, function in enumerate((process, Callable(), plain)):
            name = f"handler-{number}"
            await live_through(FakeProvider(), name=name, batch_process_func=function)
        assert called == ["q-1-0"] * 3

    async def test_one_that_raises_is_called_again(self, caplog: pytest.LogCaptureFixture) -> None:
        called = list[str]()

        def process(batch: FinishedBatch) -> None:
            called.append(batch.id)
            if len(called) < 4:
                raise ZeroDivisionError

        async with handler_on(FakeProvider(), batch_process_func=process) as handler:
            await handler.accept(make_part())
            await anyio.sleep(600)
            assert handler.statistics().batches == {"done": 1}
        assert called == ["q-1-0"] * 4
        assert "batch_process_func raised" in caplog.text

    async def test_one_that_never_returned_is_called_by_the_next_handler(self) -> None:
        provider, called = FakeProvider(), list[str]()

        def process(batch: FinishedBatch) -> None:
            called.append(batch.id)
            if len(called) == 1:
                raise ZeroDivisionError

        async with handler_on(provider, batch_process_func=process) as handler:
            await handler.accept(make_part())
            await until(lambda: bool(called))
        async with handler_on(provider, batch_process_func=process) as handler:
            pass
        assert called == ["q-1-0"] * 2
        assert handler.statistics().batches == {"done": 1}

    async def test_a_provider_may_make_the_batch_that_it_gets(self) -> None:
        class Provider(FakeProvider):
            def finished(self, batch_id: str, platform_id: str, *paths: Path) -> object:
                return batch_id, platform_id, [path.name for path in paths]

        provider, called = Provider(), list[object]()
        await live_through(provider, batch_process_func=called.append)
        names = ["q-1-0.jsonl", "q-1-0.rows.jsonl"]
        assert called == [("q-1-0", next(iter(provider.batches)), names)]


class Test_cancelling:
    async def test_what_was_finished_is_delivered(self) -> None:
        provider = FakeProvider(duration=10_000)
        provider.answered = 1
        handler, part = handler_on(provider, wait_time=1000), make_part()
        async with handler:
            await handler.accept(part)
            await anyio.sleep(500)
            await handler.cancel_batch("q-1-0")
            assert provider.calls["cancel"] == 1
            assert (await part.receipts["r0"]).text == "hello r0"
            with pytest.raises(RequestCancelled):
                await part.receipts["r1"]
            assert part.receipts["r1"].status == "cancelled"
            await handler.cancel_batch("q-1-0")

    @pytest.mark.parametrize("call", ["upload", "create"])
    async def test_before_the_purchase_nothing_is_bought(self, call: str) -> None:
        provider = FakeProvider()
        provider.fail(call, NotSent("no route"), 1000)
        handler, part = handler_on(provider), make_part()
        async with handler:
            await handler.accept(part)
            await anyio.sleep(100)
            await handler.cancel_batch("q-1-0")
            with pytest.raises(RequestCancelled):
                await part.receipts["r0"]
        assert provider.created == []

    async def test_an_end_that_came_first_stands(self) -> None:
        provider = FakeProvider(duration=2)
        provider.fail("cancel", Refused("already completed", status=400))
        handler = handler_on(provider)
        async with handler:
            await handler.accept(make_part())
            await until(lambda: handler.queues["processing"] == ["q-1-0"])
            await handler.cancel_batch("q-1-0")
            assert await outcomes(handler) == all_answered()

    async def test_a_batch_that_never_ends_is_cancelled_at_its_age(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        provider = FakeProvider(duration=float("inf"))
        start = anyio.current_time()
        async with handler_on(provider, max_batch_age=7200) as handler:
            await handler.accept(make_part())
            await anyio.sleep(100)
            real = time.time
            monkeypatch.setattr(time, "time", lambda: real() + anyio_elapsed(start))
            assert set((await outcomes(handler)).values()) == set(all_answered().values())
        assert provider.calls["cancel"] == 1


def anyio_elapsed(start: float) -> float:
    """Virtual seconds, for code that reads the system's clock on the event loop's thread."""
    try:
        return anyio.current_time() - start
    except anyio.NoEventLoopError:
        return 0.0


async def test_one_batch_s_failure_touches_no_other() -> None:
    provider = FakeProvider()
    provider.fail("create", OutcomeUnknown("reset"))
    async with handler_on(provider) as handler:
        await handler.accept(make_part("q-1-0"))
        await until(lambda: bool(handler.statistics().held))
        for number in (2, 3):
            part = make_part(f"q-{number}-0", start=number * 10)
            await handler.accept(part)
            assert (await part.receipts[f"r{number * 10}"]).text
    assert provider.created == ["q-2-0", "q-3-0"]


async def test_a_dropped_receipt_is_not_waited_for_and_no_error() -> None:
    provider = FakeProvider(duration=10_000)
    part = make_part()
    async with handler_on(provider) as handler:
        await handler.accept(part)
        receipts: dict[str, Any] = part.receipts  # type: ignore[assignment]
        receipts.clear()
        del part
        gc.collect()
    assert handler.statistics().batches in ({"created": 1}, {"accepted": 1}, {"uploading": 1})


async def test_receipts_of_a_batch_with_rows_are_settled_from_them() -> None:
    provider = FakeProvider()
    await live_through(provider)
    part = make_part()
    async with handler_on(provider) as handler:
        assert await handler.accept(part) is Accepted.KNOWN
        answer = await part.receipts["r1"]
        assert isinstance(answer, Answer)
    assert provider.created == ["q-1-0"]


async def test_rows_that_are_on_the_disk_are_not_fetched_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    provider, scope, link = FakeProvider(), anyio.CancelScope(), WriteOnceFiles.link

    def dropping(files: WriteOnceFiles, draft: Draft, name: str) -> Path:
        if name.endswith(".raw.jsonl"):
            anyio.from_thread.run_sync(scope.cancel)
        return link(files, draft, name)

    monkeypatch.setattr(WriteOnceFiles, "link", dropping)
    with scope:
        async with handler_on(provider) as handler:
            await handler.accept(make_part())
            await anyio.sleep_forever()
    async with handler_on(provider) as handler:
        assert await outcomes(handler) == all_answered()
    assert provider.calls["results"] == 1


async def test_a_batch_whose_bytes_are_gone_waits_until_they_are_back(anybatch_home: Path) -> None:
    provider = FakeProvider()
    provider.fail("upload", BUSY)
    files = default_store(anybatch_home).files
    async with handler_on(provider) as handler:
        await handler.accept(make_part())
        path = files.path("q-1-0")
        assert path is not None
        elsewhere = path.rename(anybatch_home / "elsewhere")
        await anyio.sleep(300)
        assert handler.statistics().batches == {"uploading": 1}
        elsewhere.rename(path)
        assert await outcomes(handler) == all_answered()


async def test_a_receipt_that_comes_while_its_batch_ends_is_settled_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accept, done = SQLiteBatchStore.accept, threading.Event()

    def late(*arguments: Any) -> Any:
        answer = accept(*arguments)
        if answer[0] is Accepted.KNOWN:
            assert done.wait(10)
        return answer

    monkeypatch.setattr(SQLiteBatchStore, "accept", late)
    part = make_part()
    async with handler_on(FakeProvider(duration=0.2), wait_time=0.1) as handler:
        await handler.accept(make_part())
        async with anyio.create_task_group() as group:
            group.start_soon(handler.accept, part)
            await until(lambda: handler.statistics().batches == {"done": 1})
            done.set()
        assert (await part.receipts["r1"]).text == "hello r1"
        assert handler.statistics().batches == {"done": 1}


async def test_a_dropped_receipt_drops_its_answer_alone() -> None:
    part = make_part()
    async with handler_on(FakeProvider()) as handler:
        await handler.accept(part)
        receipts: dict[str, Any] = part.receipts  # type: ignore[assignment]
        del receipts["r1"]
        gc.collect()
    assert [receipt.status for receipt in receipts.values()] == ["done", "done"]


async def test_a_provider_s_rows_may_come_from_any_iterator() -> None:
    class Rows:
        def __init__(self, rows: AsyncIterator[bytes]) -> None:
            self.rows = rows

        def __aiter__(self) -> Rows:
            return self

        async def __anext__(self) -> bytes:
            return await anext(self.rows)

    class Provider(FakeProvider):
        def results(self, batch: RemoteBatch) -> AsyncIterator[bytes]:
            return Rows(super().results(batch))

    assert await live_through(Provider()) == all_answered()


async def test_cancelling_a_batch_that_has_ended_changes_nothing() -> None:
    async with handler_on(FakeProvider()) as handler:
        await handler.accept(make_part())
        await until(lambda: handler.statistics().batches == {"done": 1})
        await handler.cancel_batch("q-1-0")
        assert await outcomes(handler) == all_answered()


async def test_a_receipt_without_any_row_is_abandoned_and_not_waited_for() -> None:
    part = make_part()
    part = attrs.evolve(part, receipts={**part.receipts, "r9": Receipt("r9", b"")})
    async with handler_on(FakeProvider()) as handler:
        await handler.accept(part)
    with pytest.raises(RequestAbandoned, match="no row"):
        await part.receipts["r9"]
    assert part.receipts["r0"].status == "done"


async def test_who_prefers_twice_to_late_buys_again(caplog: pytest.LogCaptureFixture) -> None:
    provider = FakeProvider()
    provider.fail("create", OutcomeUnknown("reset"), done=True)
    assert await live_through(provider, on_uncertain="resubmit") == all_answered()
    assert provider.created == ["q-1-0", "q-1-0-r2"]
    assert "perhaps twice" in caplog.text


async def test_of_two_decisions_about_a_held_batch_one_counts(
    monkeypatch: pytest.MonkeyPatch, anybatch_home: Path
) -> None:
    provider = FakeProvider()
    provider.fail("create", OutcomeUnknown("reset"))
    async with handler_on(provider) as handler:
        await handler.accept(make_part())
        await until(lambda: bool(handler.statistics().held))
        append, store = SQLiteBatchStore.append, default_store(anybatch_home)

        def outrun(*arguments: Any) -> Record:
            append(store, *arguments[1:])
            return append(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(SQLiteBatchStore, "append", outrun)
            with pytest.raises(ValueError, match="somebody else"):
                await handler.resolve("q-1-0", not_created=True)

"""The queue in memory: how requests come in, whose thread it is, and who takes it up."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from anybatch import BatchDispatcher, RawRequest, Receipt, RequestAbandoned, RequestRejected
from anybatch._exceptions import QueueMismatch
from anybatch._models import Plan, Terms
from anybatch._threads import run_sync
from anybatch.request_queues import InMemoryRequestQueue, memory
from anybatch.request_queues._line import ThreadPlace
from tests.queues.outside import until
from tests.support import Doubler

pytestmark = pytest.mark.anyio

Add = Callable[[InMemoryRequestQueue, list[Any]], Any]


async def awaited(queue: InMemoryRequestQueue, requests: list[Any]) -> None:
    await queue.add_requests(requests)


async def plainly(queue: InMemoryRequestQueue, requests: list[Any]) -> None:
    queue.add_requests(requests)


async def in_a_worker_thread(queue: InMemoryRequestQueue, requests: list[Any]) -> None:
    await anyio.to_thread.run_sync(queue.add_requests, requests)


async def in_a_thread_of_its_own(queue: InMemoryRequestQueue, requests: list[Any]) -> None:
    thread = threading.Thread(target=queue.add_requests, args=(requests,))
    thread.start()
    await run_sync(thread.join)


ways = pytest.mark.parametrize(
    "add", [awaited, plainly, in_a_worker_thread, in_a_thread_of_its_own]
)


@ways
async def test_requests_are_in_whichever_way_they_came(add: Add) -> None:
    queue = InMemoryRequestQueue()
    await add(queue, ["before"])
    async with queue:
        await add(queue, ["inside", "again"])
    await add(queue, ["after"])
    assert await queue.size() == 4
    assert await queue.get_requests(9) == ["before", "inside", "again", "after"]


@ways
async def test_a_dispatcher_answers_what_was_added(add: Add) -> None:
    doubler = Doubler()
    async with BatchDispatcher(doubler) as d:
        assert isinstance(d.queue, InMemoryRequestQueue)
        await add(d.queue, [1, 2, 3])
        await d.flush()
    assert doubler.batches == [[1, 2, 3]]


def test_the_how_to_of_langbatch_adds_from_asyncio_to_thread() -> None:
    async def main() -> None:
        doubler = Doubler()
        async with BatchDispatcher(doubler) as d:
            await asyncio.to_thread(d.queue.add_requests, [1, 2])
            await d.flush()
        queue = InMemoryRequestQueue()
        await asyncio.to_thread(queue.add_requests, [3])
        assert (doubler.batches, await queue.size()) == ([[1, 2]], 1)

    asyncio.run(main())
    anyio.run(main)  # AnyIO's marks of the event loop are copied into the thread


async def test_on_a_full_queue_the_awaitable_stands_in_line() -> None:
    queue = InMemoryRequestQueue(max_pending=2)
    async with queue, anyio.create_task_group() as tasks:
        queue.add_requests([1, 2])

        async def add() -> None:
            await queue.add_requests([3, 4])

        tasks.start_soon(add)
        await anyio.sleep(1)
        assert (await queue.size(), queue.submitters_waiting) == (2, 1)
        assert await queue.get_requests(2) == [1, 2]
        await anyio.sleep(1)
        assert await queue.get_requests(2) == [3, 4]


async def test_dropped_unawaited_a_full_queue_has_none_of_it_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    queue = InMemoryRequestQueue(max_pending=2)
    queue.add_requests([1])
    with caplog.at_level(logging.ERROR, "anybatch"):
        queue.add_requests(["text", "of a user"])
    (record,) = caplog.records
    assert (record.levelname, "2 requests" in record.message) == ("ERROR", True)
    assert "user" not in caplog.text
    assert await queue.get_requests(9) == [1]


async def test_an_empty_list_is_added_to_a_full_queue(caplog: pytest.LogCaptureFixture) -> None:
    queue = InMemoryRequestQueue(max_pending=1)
    queue.add_requests([1])
    await queue.add_requests([])
    assert await queue.add([], bound=1) == 1
    assert caplog.records == []


async def test_the_awaitable_of_a_full_queue_is_awaited_once() -> None:
    queue = InMemoryRequestQueue(max_pending=1)
    queue.add_requests([1])
    adding = queue.add_requests([2])
    with anyio.move_on_after(1):
        await adding
    with pytest.raises(RuntimeError, match="awaited already"):
        await adding
    assert await queue.get_requests(9) == [1], "cancelled in line: not added"


async def test_more_than_max_pending_is_refused_whole() -> None:
    queue = InMemoryRequestQueue(max_pending=2)
    with pytest.raises(ValueError, match=r"3 requests at once.*max_pending is 2.*smaller lists"):
        queue.add_requests([1, 2, 3])
    with pytest.raises(ValueError, match="max_pending is 0"):
        InMemoryRequestQueue(max_pending=0)
    assert await queue.size() == 0


async def test_of_a_list_with_a_bad_request_none_is_in() -> None:
    queue = InMemoryRequestQueue()
    with pytest.raises(RequestRejected, match="nan"):
        queue.add_requests(["good", float("nan")])
    assert await queue.size() == 0


async def test_a_raw_request_is_kept_as_it_is_spelled() -> None:
    queue = InMemoryRequestQueue()
    queue.add_requests([RawRequest(b'{"n": 1.50}')])
    async with queue:
        lease = await queue.lease(Terms(1))
        assert lease is not None
        assert [m.element async for c in queue.read(lease) for m in c] == [b'{"n": 1.50}']


@pytest.mark.parametrize("entered", [False, True])
async def test_a_thread_blocks_on_a_full_queue_until_there_is_room(entered: bool) -> None:
    queue = InMemoryRequestQueue(max_pending=1)
    if entered:
        await queue.__aenter__()
    queue.add_requests(["first"])
    done: list[float] = []

    def add() -> None:
        queue.add_requests(["second"])
        done.append(time.monotonic())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run_sync, add)
        await until(lambda: queue.submitters_waiting == 1)
        assert done == []
        assert await queue.get_requests(9) == ["first"]
    assert len(done) == 1
    assert await queue.get_requests(9) == ["second"]
    if entered:
        await queue.__aexit__()


async def test_a_dispatcher_that_comes_later_lets_a_blocked_thread_in() -> None:
    queue = InMemoryRequestQueue(max_pending=2)
    queue.add_requests([1, 2])
    doubler = Doubler()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(run_sync, queue.add_requests, [3, 4])
        await until(lambda: queue.submitters_waiting == 1)
        async with BatchDispatcher(doubler, queue, time_threshold=3_600) as d:
            await until(lambda: len(doubler.batches) == 1 and not queue.submitters_waiting)
            await d.flush()
    assert doubler.batches == [[1, 2], [3, 4]]


def test_a_thread_that_is_interrupted_leaves_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            raise KeyboardInterrupt

    monkeypatch.setattr(
        memory, "ThreadPlace", lambda *args: ThreadPlace(*args, event=Interrupted())
    )
    queue = InMemoryRequestQueue(max_pending=1)
    queue.add_requests([1])
    with pytest.raises(KeyboardInterrupt):
        queue.add_requests([2])
    assert queue.submitters_waiting == 0
    assert anyio.run(queue.get_requests, 9) == [1]


def test_a_thread_that_is_interrupted_when_its_requests_are_in_leaves_them_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Late(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            assert anyio.run(queue.get_requests, 9) == [1]
            raise KeyboardInterrupt

    monkeypatch.setattr(memory, "ThreadPlace", lambda *args: ThreadPlace(*args, event=Late()))
    queue = InMemoryRequestQueue(max_pending=1)
    queue.add_requests([1])
    with pytest.raises(KeyboardInterrupt):
        queue.add_requests([2])
    assert anyio.run(queue.get_requests, 9) == [2]


async def test_it_belongs_to_one_event_loop_at_a_time() -> None:
    async def add() -> None:
        with pytest.raises(RuntimeError, match="another event loop"):
            queue.add_requests([1])
        with pytest.raises(RuntimeError, match="another event loop"):
            await queue.__aenter__()

    async with InMemoryRequestQueue() as queue:
        await run_sync(anyio.run, add)
        assert await queue.size() == 0
    async with anyio.create_task_group() as tasks:  # left, it is free for any other
        tasks.start_soon(run_sync, anyio.run, queue.size)


async def test_entering_is_counted() -> None:
    queue = InMemoryRequestQueue()
    async with queue:
        async with queue:
            queue.add_requests([1])
        assert (await queue.lease(Terms(1))) is not None


# Clocks


def test_an_age_goes_on_from_clock_to_clock() -> None:
    async def look() -> float:
        async with queue:
            age = (await queue.statistics()).oldest_age
            lease = await queue.lease(Terms(9, age=0.05))
            assert lease is not None
            await queue.release(lease, delay=0.01)
        return age

    queue = InMemoryRequestQueue()
    queue.add_requests([1])
    time.sleep(0.06)
    ages = []
    for backend in ("asyncio", "trio", "asyncio"):  # whose clocks start anywhere
        ages.append(anyio.run(look, backend=backend))
        queue.add_requests([len(ages)])
        time.sleep(0.06)
    assert all(0.05 <= age < 60 for age in ages)


def test_a_pause_before_leasing_again_survives_a_change_of_clocks() -> None:
    async def lease(delay: float) -> None:
        async with queue:
            with anyio.fail_after(20):
                while (lease := await queue.lease(Terms(1))) is None:
                    await queue.wait_due(Terms(1))
            await queue.release(lease, delay)

    queue = InMemoryRequestQueue()
    queue.add_requests([1])
    for backend in ("asyncio", "trio", "asyncio"):
        started = time.monotonic()
        anyio.run(lease, 0.2, backend=backend)
        assert time.monotonic() - started < 10
    started = time.monotonic()
    anyio.run(lease, 0.0, backend="trio")
    assert time.monotonic() - started > 0.1


# One dispatcher after another


async def test_requests_of_another_format_are_refused_on_entering() -> None:
    queue = InMemoryRequestQueue()
    await queue.keep_profile("openai")
    queue.add_requests(["a request"])
    with pytest.raises(QueueMismatch, match="1 requests in the format 'openai', not 'function'"):
        async with BatchDispatcher(Doubler(), queue):
            pytest.fail("entered")
    assert await queue.get_requests(9) == ["a request"]
    async with BatchDispatcher(Doubler(), queue):
        pass  # empty, it takes any format


async def test_what_one_dispatcher_leaves_the_next_one_takes_up_in_order() -> None:
    queue = InMemoryRequestQueue()
    async with BatchDispatcher(Doubler(), queue, time_threshold=3_600, on_exit="leave") as d:
        receipts = await d.submit_many([1, 2])
        queue.add_requests([3])
    for receipt in receipts:
        with pytest.raises(RequestAbandoned):
            await receipt
    doubler = Doubler()
    async with BatchDispatcher(doubler, queue):
        pass
    assert doubler.batches == [[1, 2, 3]]


async def test_what_was_leased_when_a_dispatcher_was_cancelled_comes_first() -> None:
    queue = InMemoryRequestQueue()
    slow = Doubler(takes=3_600)
    with anyio.CancelScope() as scope:
        async with BatchDispatcher(slow, queue, queue_threshold=2, time_threshold=3_600) as d:
            await d.submit_many([1, 2])
            queue.add_requests([3])
            await slow.started.wait()
            scope.cancel()
            await anyio.sleep(1)
    doubler = Doubler()
    async with BatchDispatcher(doubler, queue):
        pass
    assert doubler.batches == [[1, 2], [3]]


async def test_bytes_for_a_function_stay_bytes() -> None:
    async def lengths(requests: list[bytes]) -> list[int]:
        return [len(request) for request in requests]

    queue = InMemoryRequestQueue()
    with pytest.raises(ZeroDivisionError):
        async with BatchDispatcher(lengths, queue, time_threshold=3_600) as d:
            await d.submit(b"\xff not JSON")
            raise ZeroDivisionError
    assert await queue.get_requests(9) == [b"\xff not JSON"]


async def test_only_who_has_asked_knows_what_is_held() -> None:
    queue = InMemoryRequestQueue()
    queue.add_requests([1])
    async with queue:
        lease = await queue.lease(Terms(1))
        assert lease is not None
        await queue.plan(lease, Plan("theirs", ()))
        await queue.release(lease)
        assert await queue.lease(Terms(1, stores=frozenset({"ours"}))) is None
        assert dict((await queue.statistics()).held) == {lease.id: "theirs"}
    async with queue:
        assert dict((await queue.statistics()).held) == {}
        with anyio.move_on_after(1) as scope:
            await queue.wait_passed(1)  # waits: whoever comes may have that store
        assert scope.cancelled_caught
        assert await queue.lease(Terms(1, stores=frozenset({"theirs"}))) is not None


async def test_replanning_is_for_what_nobody_has() -> None:
    async with InMemoryRequestQueue() as queue:
        queue.add_requests([1])
        lease = await queue.lease(Terms(1))
        assert lease is not None
        for interval_id in (lease.id, "unknown"):
            with pytest.raises(ValueError, match="is not an interval that nobody holds"):
                await queue.replan(interval_id)


async def test_a_buried_receipt_lets_go_of_its_line_and_the_dead_letter_keeps_it() -> None:
    queue = InMemoryRequestQueue()
    receipt: Receipt[Any] = Receipt("mine", b'{"custom_id":"mine"}')
    async with queue:
        assert queue.add_nowait(receipt, bound=1)
        lease = await queue.lease(Terms(1))
        assert lease is not None
        await queue.bury(lease, receipt.number, "no good")
        await queue.ack(lease)
        assert receipt.element is None
        (letter,) = await queue.dead_letters()
        assert (letter.custom_id, letter.request) == ("mine", {"custom_id": "mine"})
        assert await queue.requeue([letter.id]) == 1
        assert await queue.get_requests(1) == [{"custom_id": "mine"}]


async def test_a_dead_letter_that_is_no_json_shows_its_text() -> None:
    async with InMemoryRequestQueue() as queue:
        await queue.add([b"\xff{"], bound=1)
        lease = await queue.lease(Terms(1))
        assert lease is not None
        await queue.bury(lease, lease.start, "not JSON")
        (letter,) = await queue.dead_letters()
        assert (letter.request, letter.custom_id) == ("\ufffd{", None)


async def test_freed_room_is_filled_in_the_order_of_the_line_before_a_batch_is_cut() -> None:
    doubler = Doubler()
    doubler.gate = anyio.Event()
    options = {"queue_threshold": 10, "time_threshold": 3_600.0, "max_pending": 10}
    async with BatchDispatcher(doubler, **options) as d, anyio.create_task_group() as tasks:
        for number in range(40):
            tasks.start_soon(d.submit, number)
            await anyio.sleep(0.001)
        assert d.statistics().submitters_waiting == 30
        doubler.gate.set()
    assert doubler.batches == [list(range(start, start + 10)) for start in (0, 10, 20, 30)]

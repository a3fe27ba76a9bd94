"""What happens between two steps, and arguments of the rarer kinds."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from anybatch import (
    BatchDispatcher,
    BatchHandler,
    DispatcherCrashed,
    RequestFailed,
    RequestRejected,
)
from anybatch._dispatcher import _crash
from anybatch._models import Accepted, CutReason, Limits, Terms
from anybatch._watcher import Cutter, Waiters
from anybatch.abc import Provider, RequestQueue
from anybatch.local_provider import LocalProvider, serve
from anybatch.request_queues import InMemoryRequestQueue
from anybatch.testing.provider import FakeProvider
from tests.support import Doubler

pytestmark = pytest.mark.anyio
MODEL = {"model": "m"}


class Plain(RequestQueue):
    """A queue of one's own whose adds fail while it is told to."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.broken = False

    def add_requests(self, requests: list[Any]) -> None:
        if self.broken:
            raise ConnectionError("the queue is gone")
        self.requests.extend(requests)

    def get_requests(self, count: int) -> list[Any]:
        taken, self.requests = self.requests[:count], self.requests[count:]
        return taken

    def __len__(self) -> int:
        return len(self.requests)


async def _expect_closed(call: Any) -> None:
    with pytest.raises(anyio.ClosedResourceError):
        await call()


async def test_submits_under_way_when_the_dispatcher_is_left_are_not_queued() -> None:
    async with anyio.create_task_group() as tasks:
        async with BatchDispatcher(Doubler()) as d:
            tasks.start_soon(_expect_closed, lambda: d.submit(1))
            tasks.start_soon(_expect_closed, lambda: d.submit_many([1, 2]))
            d._entered().admission.close_intake(anyio.ClosedResourceError)
            await anyio.wait_all_tasks_blocked()
    assert d.statistics().requests_submitted == 0


async def test_process_that_begins_as_the_dispatcher_is_left_ends() -> None:
    ended = anyio.Event()

    async def consume() -> None:
        with pytest.raises(anyio.ClosedResourceError):
            await anext(answers)
        ended.set()

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            async with BatchDispatcher(Doubler()) as d:
                answers = d.process(range(3))
                answers._start, start = None, answers._start
                assert start is not None
                start()
                d._entered().admission.close_intake(anyio.ClosedResourceError)
                tasks.start_soon(consume)
                await ended.wait()


async def test_a_submit_to_a_queue_that_fails_raises_and_forgets_the_receipt() -> None:
    queue = Plain()
    handler = BatchHandler(batch_type=FakeProvider())
    async with BatchDispatcher(handler, queue, request_kwargs=MODEL) as d:
        queue.broken = True
        with pytest.raises(ConnectionError, match="gone"):
            await d.submit("x", custom_id="again")
        queue.broken = False
        receipt = await d.submit("x", custom_id="again")
        assert receipt.cancel() is False  # what is not in this process's memory stays
        with pytest.raises(TypeError, match="AdaptedQueue is not in memory"):
            d.submit_nowait("y")
        await d.flush()
        assert (await receipt).text == "x"


async def test_thousands_of_requests_pass_in_slices() -> None:
    double = Doubler()
    async with BatchDispatcher(double, queue_threshold=4_500) as d:
        receipts = await d.submit_many(range(4_500))
        assert await receipts[-1] == 8_998
    assert [len(batch) for batch in double.batches] == [4_500]


async def test_only_the_leased_of_those_waited_for_are_forgotten() -> None:
    double = Doubler()
    double.gate = anyio.Event()
    async with BatchDispatcher(double, queue_threshold=1, idle_threshold=5) as d:
        first, second = await d.submit_many([1, 2])
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first.wait)
            tasks.start_soon(second.wait)
            await double.started.wait()
            double.gate.set()


@pytest.mark.parametrize("answer", [Accepted.OVERLAP, Accepted.VOID])
async def test_a_part_that_the_store_does_not_take_stays_in_the_queue(
    answer: Accepted, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept, answers = BatchHandler.accept, [answer]

    async def once(self: BatchHandler, part: Any) -> Accepted:
        return answers.pop() if answers else await accept(self, part)

    monkeypatch.setattr(BatchHandler, "accept", once)
    handler = BatchHandler(batch_type=FakeProvider())
    async with BatchDispatcher(handler, request_kwargs=MODEL, idle_threshold=1) as d:
        assert (await d.ask("x")).text == "x"
        assert d.statistics().dispatch_failures == 1


class Miscounting(FakeProvider):
    """A `Batch` subclass that writes too few lines."""

    builds_partial = True

    def build(self, requests: list[Any], kwargs: Any, *, partial: bool) -> list[bytes]:
        return []


async def test_a_subclass_that_writes_too_few_lines_fails_its_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ack, errors = InMemoryRequestQueue.ack, [OSError("not now")]

    async def flaky(self: InMemoryRequestQueue, lease: Any) -> None:
        if errors:
            raise errors.pop()
        await ack(self, lease)

    monkeypatch.setattr(InMemoryRequestQueue, "ack", flaky)
    handler = BatchHandler(batch_type=Miscounting())
    async with BatchDispatcher(handler, request_kwargs=MODEL) as d:
        receipt = await d.submit("x")
        await d.flush()  # leased twice, the second time without a member
        with pytest.raises(RequestFailed, match="wrote 0 lines for 1 requests"):
            await receipt


async def test_handlers_and_queues_that_do_not_go_together_are_named() -> None:
    async def function(requests: list[Any]) -> Sequence[Any]:
        return requests

    class Foreign:
        """What langbatch's handler looks like to us, once adapted."""

        provider = FakeProvider()

        async def add_batch(self, batch_id: str) -> None: ...

        def entered_for(self, dispatcher: object) -> None: ...

    with pytest.raises(TypeError, match="from a queue in memory, not from Plain"):
        BatchDispatcher(function, Plain())
    with pytest.raises(TypeError, match="not a batch handler"):
        BatchDispatcher([function])  # type: ignore[list-item]
    ours: Any = BatchHandler(batch_type=FakeProvider())
    with pytest.raises(ValueError, match="do not mix"):
        BatchDispatcher([ours, Foreign()])
    BatchDispatcher([Foreign(), Foreign()])  # type: ignore[list-item]


async def test_a_flush_never_takes_back_what_an_earlier_one_made_due() -> None:
    async def room() -> None: ...

    cutter = Cutter(InMemoryRequestQueue(), lambda: Terms(1), Waiters(None, None), room)
    cutter.cut_up_to(5, CutReason.CLOSE)
    cutter.cut_up_to(3, CutReason.FLUSH)
    assert (cutter.position, cutter.reason) == (5, CutReason.CLOSE)


def test_an_interrupt_is_found_in_nested_groups() -> None:
    interrupt = KeyboardInterrupt()
    nested = BaseExceptionGroup("outer", [BaseExceptionGroup("inner", [interrupt])])
    assert _crash(nested) is interrupt
    assert isinstance(_crash(ExceptionGroup("", [ValueError()])), DispatcherCrashed)


async def test_a_provider_need_not_tell_its_account() -> None:
    class Bare(FakeProvider):
        account = Provider.account

    assert Bare().account == ""
    assert Bare(limits=Limits(requests=3)).limits.requests == 3


@pytest.mark.real_time
async def test_the_local_provider_serves_as_a_task() -> None:
    async with anyio.create_task_group() as tasks:
        provider: LocalProvider = await tasks.start(serve)
        assert provider.base_url.endswith("/v1")
        tasks.cancel_scope.cancel()


async def test_process_says_so_when_the_dispatcher_is_left_before_the_sources_end() -> None:
    async def source() -> Any:
        for n in range(1_000):
            yield n
            await anyio.sleep(1)

    seen: list[int] = []

    async def consume() -> None:
        with pytest.raises(anyio.ClosedResourceError):
            async for answer in d.process(source()):
                seen.append(answer)  # noqa: PERF401

    async with anyio.create_task_group() as tasks:
        async with BatchDispatcher(Doubler()) as d:
            tasks.start_soon(consume)
            await anyio.sleep(5.5)
    assert seen == [0, 2, 4, 6, 8, 10]


async def test_the_same_id_is_rejected_while_another_stands_in_line_or_is_in_the_function() -> None:
    double = Doubler()
    double.gate = anyio.Event()
    async with BatchDispatcher(double, queue_threshold=1, max_pending=1) as d:
        await d.submit(1, custom_id="leased")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(lambda: d.submit(2, custom_id="waits"))
            await double.started.wait()
            await anyio.wait_all_tasks_blocked()
            for name in ("leased", "waits"):
                with pytest.raises(RequestRejected, match=f"'{name}' is in use"):
                    await d.submit(3, custom_id=name)
            double.gate.set()
        assert await d.ask(4, custom_id="leased") == 8


async def test_leaving_abandons_no_receipt_of_another_dispatcher_on_the_same_queue() -> None:
    queue = InMemoryRequestQueue()
    async with BatchDispatcher(Doubler(), queue, time_threshold=50) as stays:
        receipt = await stays.submit(1)
        async with BatchDispatcher(Doubler(), queue, time_threshold=1e6, on_exit="leave"):
            pass
        assert receipt.status == "queued"
        assert await receipt == 2


async def test_one_waiter_that_gives_up_does_not_forget_the_others() -> None:
    async with BatchDispatcher(Doubler(), time_threshold=7_200, idle_threshold=5) as d:
        receipt = await d.submit(1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receipt.wait)
            await anyio.wait_all_tasks_blocked()
            with anyio.move_on_after(1):
                await receipt
            with anyio.fail_after(10):
                await receipt


async def test_what_a_function_answered_is_delivered_whole_even_when_cancelled() -> None:
    d: BatchDispatcher[int, int]

    async def function(requests: list[int]) -> list[int]:
        scope.cancel()
        return requests

    with anyio.CancelScope() as scope:
        async with BatchDispatcher(function, queue_threshold=5_000) as d:
            receipts = await d.submit_many(range(5_000))
            await anyio.sleep_forever()
    assert {receipt.status for receipt in receipts} <= {"done", "abandoned"}
    assert len({receipt.status for receipt in receipts}) == 1


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])
async def test_a_function_whose_own_future_was_cancelled_fails_its_call_and_nothing_else(
    anyio_backend: Any,
) -> None:
    async def awaits_a_corpse(requests: list[int]) -> list[int]:
        if requests == [1]:
            future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            future.cancel()
            await future
        return requests

    async with BatchDispatcher(awaits_a_corpse) as d:
        with pytest.raises(RequestFailed, match="awaited something that was cancelled"):
            await d.ask(1)
        assert await d.ask(2) == 2


async def test_receipts_are_settled_even_where_releasing_is_broken_off() -> None:
    class Broken(InMemoryRequestQueue):
        async def release(self, lease: Any, delay: float = 0.0) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        async with BatchDispatcher(Doubler(takes=1e6), Broken()) as d:
            receipt = await d.submit(1)
            await anyio.sleep(1)
            raise ValueError
    assert receipt.settled

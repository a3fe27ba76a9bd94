"""Every way a dispatcher is left, and cancelled: who has the requests afterwards."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from anybatch import (
    BatchDispatcher,
    DispatcherCrashed,
    DrainTimeout,
    RequestAbandoned,
    RequestCancelled,
    ResultUnavailable,
)
from anybatch.request_queues import InMemoryRequestQueue
from tests.support import Doubler, each_once, queued_in

pytestmark = pytest.mark.anyio


class Failing(InMemoryRequestQueue):
    """A queue one of whose operations raises."""

    error: BaseException | None = None

    async def ack(self, lease: Any) -> None:
        if self.error is not None:
            raise self.error
        await super().ack(lease)


async def test_the_end_of_the_body_hands_over_everything_and_raises_nothing() -> None:
    double = Doubler(takes=1)
    async with BatchDispatcher(double, queue_threshold=2, time_threshold=1e6) as d:
        receipts = await d.submit_many(range(5))
    assert [await receipt for receipt in receipts] == [0, 2, 4, 6, 8]
    assert queued_in(d.queue) == []


async def test_draining_that_takes_too_long_says_how_many_remain() -> None:
    double = Doubler(takes=1e6)
    d = BatchDispatcher(double, queue_threshold=2, drain_timeout=3)
    start = anyio.current_time()
    with pytest.raises(
        DrainTimeout, match="after 3 s 3 requests are queued and 2 leased"
    ) as caught:
        async with d:
            receipts = await d.submit_many(range(5))
    assert isinstance(caught.value, TimeoutError)
    assert anyio.current_time() == pytest.approx(start + 3, abs=1e-6)
    assert queued_in(d.queue) == [0, 1, 2, 3, 4]
    with pytest.raises(RequestAbandoned):
        await receipts[4]


async def test_on_exit_leave_finishes_what_is_leased_and_keeps_the_rest() -> None:
    double = Doubler(takes=1)
    async with BatchDispatcher(double, queue_threshold=2, time_threshold=1e6, on_exit="leave") as d:
        receipts = await d.submit_many(range(5))
        await double.started.wait()
    assert double.batches == [[0, 1]]
    assert queued_in(d.queue) == [2, 3, 4]
    assert [r.status for r in receipts] == ["done", "done"] + ["abandoned"] * 3


async def test_an_exception_in_the_body_comes_out_as_that_very_object() -> None:
    for error in (KeyError("x"), ExceptionGroup("several", [ValueError(), KeyError()])):
        double = Doubler()
        d = BatchDispatcher(double, time_threshold=1e6)
        with pytest.raises(type(error)) as caught:
            async with d:
                receipt = await d.submit(1)
                raise error
        assert caught.value is error
        assert queued_in(d.queue) == [1]
        with pytest.raises(RequestAbandoned, match="stays in the queue"):
            await receipt


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_an_interrupt_in_the_body_comes_out_as_it_came(error: type[BaseException]) -> None:
    interrupt = error()
    d = BatchDispatcher(Doubler(), time_threshold=1e6)
    with pytest.raises(error) as caught:
        async with d:
            await d.submit(1)
            raise interrupt
    assert caught.value is interrupt
    assert queued_in(d.queue) == [1]


async def test_cancellation_keeps_what_is_queued_and_releases_what_is_leased() -> None:
    double = Doubler(takes=1e6)
    d = BatchDispatcher(double, queue_threshold=2, time_threshold=1e6)
    with anyio.move_on_after(5) as scope:
        async with d:
            await d.submit_many(range(3))
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert len(queued_in(d.queue)) == 3
    assert (d.statistics().requests_queued, d.statistics().requests_leased) == (3, 0)
    assert await d.queue.size() == 3  # type: ignore[misc]
    assert await d.queue.lease(attrs_terms()) is not None  # free to be leased again


def attrs_terms() -> Any:
    from anybatch._models import Terms

    return Terms(count=10)


async def test_run_ends_by_cancellation_and_says_what_memory_loses(
    caplog: pytest.LogCaptureFixture,
) -> None:
    d = BatchDispatcher(Doubler(), time_threshold=1e6)
    async with anyio.create_task_group() as tasks:
        await tasks.start(d.run)
        await d.submit(1)
        with caplog.at_level(logging.WARNING, "anybatch"):
            tasks.cancel_scope.cancel()
    assert "1 requests stay in the queue in memory" in caplog.text
    with pytest.raises(anyio.ClosedResourceError):
        await d.submit(2)


async def test_a_defect_in_the_queue_ends_the_dispatcher_with_one_error_of_ours() -> None:
    queue = Failing()
    d = BatchDispatcher(Doubler(), queue)
    with pytest.raises(DispatcherCrashed, match="AttributeError: no such") as caught:
        async with d:
            await d.submit(1)
            queue.error = AttributeError("no such")
            await anyio.sleep_forever()
    cause = caught.value.__cause__
    assert isinstance(cause, ExceptionGroup)
    assert pytest.RaisesGroup(AttributeError).matches(cause)
    with pytest.raises(anyio.BrokenResourceError):
        await d.submit(2)


async def test_a_body_error_is_the_last_member_of_the_crash() -> None:
    queue = Failing()
    d = BatchDispatcher(Doubler(), queue)
    with pytest.raises(DispatcherCrashed) as caught:
        async with d:
            await d.submit(1)
            queue.error = NameError("ours")
            try:
                await anyio.sleep_forever()
            finally:
                raise ValueError("the body's")
    cause = caught.value.__cause__
    assert isinstance(cause, BaseExceptionGroup)
    assert [type(e) for e in cause.exceptions] == [NameError, ValueError]


async def test_a_dispatch_that_fails_is_tried_again_with_back_off_for_ever() -> None:
    queue, double = Failing(), Doubler()
    async with BatchDispatcher(double, queue) as d:
        await d.submit(1)
        queue.error = OSError("disk full")
        await anyio.sleep(600)
        assert 10 <= d.statistics().dispatch_failures <= 25
        queue.error = None
        await d.flush()
        assert d.statistics().requests_dispatched == 1


async def test_leaving_wakes_blocked_submitters_and_flushers() -> None:
    double = Doubler(takes=10)
    errors: list[str] = []
    d = BatchDispatcher(double, queue_threshold=1, max_pending=1)

    async def expect_closed(call: Any) -> None:
        try:
            await call()
        except anyio.ClosedResourceError:
            errors.append("closed")

    async with anyio.create_task_group() as tasks:
        async with d:
            receipt = await d.submit(1)
            tasks.start_soon(expect_closed, lambda: d.submit(2))
            tasks.start_soon(expect_closed, d.flush)
            await anyio.wait_all_tasks_blocked()
    assert errors == ["closed", "closed"]
    assert await receipt == 2


async def test_it_is_entered_once_even_by_two_tasks_at_the_same_time() -> None:
    d = BatchDispatcher(Doubler())
    async with d:
        with pytest.raises(RuntimeError, match="already been entered"):
            async with d:
                raise AssertionError
    with pytest.raises(RuntimeError, match="entered once"):
        await d.run()


async def test_submitting_before_entering_names_the_remedy() -> None:
    d = BatchDispatcher(Doubler())
    with pytest.raises(RuntimeError, match=r"tg\.start\(dispatcher\.run\)"):
        await d.submit(1)


async def test_a_direct_call_from_another_thread_is_refused_and_from_thread_works() -> None:
    async with BatchDispatcher(Doubler()) as d:

        def direct() -> None:
            with pytest.raises(RuntimeError, match=r"anyio\.from_thread\.run"):
                d.submit_nowait(1)

        await anyio.to_thread.run_sync(direct)
        receipt: Any = await anyio.to_thread.run_sync(lambda: anyio.from_thread.run(d.submit, 4))
        assert await receipt == 8


async def test_the_next_dispatcher_takes_up_what_a_queue_in_memory_kept() -> None:
    queue, double = InMemoryRequestQueue(), Doubler()
    async with BatchDispatcher(double, queue, time_threshold=1e6, on_exit="leave") as d:
        await d.submit_many([1, 2])
    async with BatchDispatcher(double, queue):
        pass
    assert double.batches == [[1, 2]]


# Cancellation: before, during and after each await of the data path


@pytest.mark.parametrize("delay", [0.0, 0.5, 1.0, 1.5, 2.5, 3.5])
async def test_cancelled_at_any_moment_each_request_is_somewhere_once(delay: float) -> None:
    double = Doubler(takes=1)
    receipts: list[Any] = []
    submitted: list[int] = []

    async def producer(d: Any) -> None:
        for n in range(20):
            submitted.append(n)
            try:
                receipts.append(await d.submit(n))
            except BaseException:
                submitted.remove(n)
                raise

    d = BatchDispatcher(double, queue_threshold=3, max_pending=5)
    with anyio.move_on_after(delay):
        async with d, anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(producer, d)
    each_once(submitted, receipts, d)


async def test_a_submit_that_is_cancelled_was_not_queued() -> None:
    async with BatchDispatcher(Doubler(), time_threshold=1e6) as d:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await d.submit(1)
        assert d.statistics().requests_submitted == 0


async def test_a_blocked_submit_that_is_cancelled_gives_its_place_up() -> None:
    double = Doubler()
    double.gate = anyio.Event()
    async with BatchDispatcher(double, queue_threshold=1, max_pending=1) as d:
        await d.submit(1)
        with anyio.move_on_after(1):
            await d.submit(2)
        assert d.statistics().submitters_waiting == 0
        double.gate.set()
        assert await d.ask(3) == 6
    assert double.batches == [[1], [3]]


async def test_ask_that_is_cancelled_while_queued_takes_its_request_back() -> None:
    double = Doubler()
    async with BatchDispatcher(double, time_threshold=10, max_pending=1) as d:
        with anyio.move_on_after(1):
            await d.ask(1)
        assert d.statistics().requests_queued == 0
        assert await d.ask(2) == 4
    assert double.batches == [[2]]


async def test_one_waiter_cancelled_hangs_no_other_of_its_batch() -> None:
    double = Doubler(takes=2)
    async with BatchDispatcher(double, queue_threshold=2) as d:
        first, second = await d.submit_many([1, 2])
        await double.started.wait()
        with anyio.move_on_after(1) as scope:
            await first
        assert scope.cancelled_caught
        assert first.cancel() is False  # too late: it was handed over
        assert await second == 4
        assert await first == 2


async def test_a_receipt_taken_back_raises_and_gives_its_room_back() -> None:
    async with BatchDispatcher(Doubler(), time_threshold=1e6, max_pending=1) as d:
        receipt = await d.submit(1, custom_id="a")
        assert receipt.cancel() is True
        assert receipt.cancel() is False
        assert receipt.status == "cancelled"
        with pytest.raises(RequestCancelled):
            await receipt
        await d.submit(2, custom_id="a")


async def test_a_receipt_may_be_awaited_by_several_and_later_and_raises_anew_each_time() -> None:
    async def refuse(requests: list[int]) -> Sequence[Exception]:
        return [ValueError("no")] * len(requests)

    async with BatchDispatcher(refuse) as d:
        receipt = await d.submit(1)
    errors: list[Exception] = []
    for _ in range(2):
        try:
            await receipt
        except Exception as error:
            errors.append(error)
    assert errors[0] is not errors[1]
    await receipt.wait()
    assert receipt.status == "failed"


async def test_a_dropped_receipt_is_no_error() -> None:
    async with BatchDispatcher(Doubler()) as d:
        await d.submit(1)
        gc.collect()
        await d.flush()


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio-native"])
@pytest.mark.parametrize("times", [1, 2, 3])
async def test_native_cancellation_loses_nothing_even_when_repeated(
    anyio_backend: Any, times: int
) -> None:
    double = Doubler(takes=30)
    d = BatchDispatcher(double, queue_threshold=2, time_threshold=1e6)
    task = asyncio.create_task(d.run())
    await anyio.wait_all_tasks_blocked()
    receipts = [await d.submit(n) for n in range(5)]
    await double.started.wait()
    for _ in range(times):
        task.cancel()
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await task
    each_once(range(5), receipts, d)
    assert len(queued_in(d.queue)) == 5


async def test_what_is_left_can_be_taken_out_of_the_queue_in_order_released_ones_first() -> None:
    with pytest.raises(KeyError):
        async with BatchDispatcher(Doubler(takes=1e6), queue_threshold=3, time_threshold=1e6) as d:
            await d.submit_many(range(5))
            await anyio.sleep(1)
            raise KeyError
    taken = [await d.queue.get_requests(2) for _ in range(4)]  # type: ignore[misc]
    assert taken == [[0, 1], [2, 3], [4], []]
    assert d.statistics().requests_queued == 0


async def test_a_receipt_whose_request_is_taken_out_says_that_its_answer_goes_elsewhere() -> None:
    async with BatchDispatcher(Doubler(), time_threshold=1e6) as d:
        receipt = await d.submit(1)
        assert await d.queue.get_requests(5) == [1]  # type: ignore[misc]
        with pytest.raises(ResultUnavailable):
            await receipt

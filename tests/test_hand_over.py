"""From a lease to a handler's store: planned once, accepted part by part, repeated safely."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import anyio
import attrs
import pytest

from anybatch import (
    Answer,
    BatchDispatcher,
    BatchHandler,
    FlushHeld,
    QueueMismatch,
    RequestAbandoned,
    RequestFailed,
    RequestRejected,
)
from anybatch._models import Limits, Plan, PlanPart, Terms
from anybatch.request_queues import InMemoryRequestQueue
from anybatch.testing.provider import FakeProvider
from tests.support import queued_in

pytestmark = pytest.mark.anyio
MODEL = {"model": "m"}


def dispatcher(provider: FakeProvider | None = None, **options: Any) -> BatchDispatcher[Any, Any]:
    handler = BatchHandler(batch_type=provider or FakeProvider())
    return BatchDispatcher(handler, **{"request_kwargs": MODEL, **options})


async def test_each_request_gets_its_own_answer_and_is_bought_once() -> None:
    provider = FakeProvider()
    async with dispatcher(provider, queue_threshold=10) as d:
        answers = [a async for a in d.process([f"q{n}" for n in range(35)], ordered=True)]
    assert [a.text for a in answers] == [f"q{n}" for n in range(35)]
    assert len(provider.created) == 4
    assert all(isinstance(a, Answer) for a in answers)


async def test_the_intervals_id_is_the_batchs_id_all_the_way() -> None:
    provider = FakeProvider()
    async with dispatcher(provider) as d:
        uid = d.queue.uid
        await d.ask("x")
    (trace,) = provider.created
    assert trace.startswith(f"{uid}-")
    assert list(provider.files.values()) == [f"{trace}.jsonl"]


async def test_a_batch_never_holds_more_bytes_than_the_threshold_newlines_counted() -> None:
    provider = FakeProvider()
    async with dispatcher(provider, size_threshold=400) as d:
        async for _ in d.process(["x" * (17 * n % 60) for n in range(30)]):
            pass
        with pytest.raises(RequestRejected, match="may have 400"):
            await d.submit("x" * 400)
    sizes = [sum(len(line) + 1 for line in lines) for lines in provider._lines.values()]
    assert max(sizes) <= 400
    assert d.statistics().requests_dispatched == 30


async def test_below_the_providers_minimum_only_flush_cuts_and_then_fails_without_a_call(
    caplog: pytest.LogCaptureFixture,
) -> None:
    provider = FakeProvider(limits=Limits(minimum=3))
    async with dispatcher(provider, time_threshold=10, idle_threshold=2) as d:
        with caplog.at_level(logging.WARNING, "anybatch"):
            few = [await d.submit("a"), await d.submit("b")]
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(few[0].wait)
                await anyio.sleep(100)
                assert d.statistics().requests_queued == 2
                assert "no batch below 3" in caplog.text
                await d.flush()
        with pytest.raises(RequestFailed, match="below 3") as caught:
            await few[1]
        assert caught.value.code == "below_minimum"
        assert provider.calls["upload"] == 0
        enough = await d.submit_many(["a", "b", "c"])
        assert [(await receipt).text for receipt in enough] == ["a", "b", "c"]


async def test_a_handler_that_is_down_is_tried_again_and_nothing_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    accept, failures = BatchHandler.accept, [OSError(28, "No space left on device")] * 3

    async def flaky(self: BatchHandler, part: Any) -> Any:
        if failures:
            raise failures.pop()
        return await accept(self, part)

    monkeypatch.setattr(BatchHandler, "accept", flaky)
    async with dispatcher(idle_threshold=1) as d:
        assert (await d.ask("x")).text == "x"
        assert d.statistics().dispatch_failures == 3


async def test_a_second_delivery_of_an_accepted_part_is_a_no_op(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    provider, acks = FakeProvider(), [ConnectionError("the ack was lost")] * 2
    ack = InMemoryRequestQueue.ack

    async def flaky(self: InMemoryRequestQueue, lease: Any) -> None:
        if acks:
            raise acks.pop()
        await ack(self, lease)

    monkeypatch.setattr(InMemoryRequestQueue, "ack", flaky)
    async with dispatcher(provider, idle_threshold=1) as d:
        assert (await d.ask("x")).text == "x"
        await d.flush()
    assert len(provider.created) == 1


async def test_cancelled_between_accept_and_ack_the_next_dispatcher_buys_nothing_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    provider, queue = FakeProvider(duration=1e5), InMemoryRequestQueue()
    reached = anyio.Event()
    ack = InMemoryRequestQueue.ack

    async def stuck(self: InMemoryRequestQueue, lease: Any) -> None:
        reached.set()
        await anyio.sleep_forever()

    monkeypatch.setattr(InMemoryRequestQueue, "ack", stuck)
    async with anyio.create_task_group() as tasks:
        first = dispatcher(provider, queue=queue, queue_threshold=2)
        await tasks.start(first.run)
        await first.submit_many(["a", "b"])
        await reached.wait()
        tasks.cancel_scope.cancel()
    monkeypatch.setattr(InMemoryRequestQueue, "ack", ack)
    assert len(queued_in(queue)) == 2
    with anyio.move_on_after(10):
        async with dispatcher(provider, queue=queue) as second:
            await second.flush()
            await anyio.sleep_forever()
    assert queued_in(queue) == []
    assert len(provider.created) == 1


async def test_an_interval_whose_plan_names_an_unknown_store_is_held_and_flush_says_so() -> None:
    queue = InMemoryRequestQueue()
    queue.add_requests(["x"])
    lease = await queue.lease(Terms(count=5, position=1))
    assert lease is not None
    await queue.plan(lease, Plan("another-store", (PlanPart(lease.id, ((0, 1),)),)))
    await queue.release(lease)
    async with dispatcher(queue=queue) as d:
        with pytest.raises(FlushHeld, match="another-store"):
            await d.flush()
        assert (await d.queue.statistics()).held == {lease.id: "another-store"}
        await queue.replan(lease.id)
        await d.flush()
    assert d.statistics().requests_dispatched == 1


async def test_a_queue_keeps_the_profile_of_what_it_holds() -> None:
    queue = InMemoryRequestQueue()
    async with dispatcher(queue=queue, time_threshold=1e6, on_exit="leave") as d:
        await d.submit("x")

    async def function(requests: list[Any]) -> list[Any]:
        return requests

    with pytest.raises(QueueMismatch, match="'fake', not 'function'"):
        async with BatchDispatcher(function, queue):
            raise AssertionError
    assert len(queued_in(queue)) == 1


async def test_several_handlers_share_the_work_by_their_room() -> None:
    provider = FakeProvider(duration=1000)
    large = BatchHandler(batch_type=provider, max_active_batches=4)
    small = BatchHandler(batch_type=FakeProvider(duration=1000), max_active_batches=2)
    async with BatchDispatcher([large, small], queue_threshold=1, request_kwargs=MODEL) as d:
        assert small.name == "default-2"
        for n in range(6):
            await d.submit(f"q{n}")
            await d.flush()
            assert large.live_batches + small.live_batches == n + 1
        assert (large.live_batches, small.live_batches) == (4, 2)
        await d.submit("one too many")
        await anyio.sleep(10)
        assert d.statistics().requests_queued == 1  # stays in the queue until there is room
        assert d.statistics().requests_leased == 0
        await d.flush()
        assert large.live_batches + small.live_batches <= 6


@pytest.mark.parametrize(
    ("handlers", "words"),
    [
        (lambda a, b: [a, a], "stands twice"),
        (lambda a, b: [a, b], "different batch types: fake, other"),
    ],
)
async def test_handlers_that_do_not_go_together_are_refused(handlers: Any, words: str) -> None:
    first = BatchHandler(batch_type=FakeProvider())
    second = BatchHandler(batch_type=FakeProvider(profile="other"))
    with pytest.raises(ValueError, match=words):
        BatchDispatcher(handlers(first, second))


async def test_a_second_dispatcher_on_an_entered_handler_is_told_to_enter_it_around_both() -> None:
    handler = BatchHandler(batch_type=FakeProvider())
    async with BatchDispatcher(handler):
        with pytest.raises(RuntimeError, match="enter the handler yourself, around both"):
            async with BatchDispatcher(handler):
                raise AssertionError


async def test_two_dispatchers_share_a_handler_that_was_entered_around_both() -> None:
    async with BatchHandler(batch_type=FakeProvider()) as handler:
        async with (
            BatchDispatcher(handler, request_kwargs=MODEL, idle_threshold=1) as first,
            BatchDispatcher(handler, request_kwargs=MODEL, idle_threshold=1) as second,
        ):
            assert (await first.ask("1")).text == "1"
            assert (await second.ask("2")).text == "2"


async def test_receipts_of_what_was_handed_over_are_the_handlers_at_leaving_by_an_error() -> None:
    with pytest.raises(KeyError):
        async with dispatcher(FakeProvider(duration=1e6)) as d:
            receipt = await d.submit("x")
            await d.flush()
            assert receipt.status == "dispatched"
            raise KeyError
    with pytest.raises(RequestAbandoned, match="go on at the provider"):
        await receipt


class Building(FakeProvider):
    """A provider whose lines a user's `Batch` subclass writes."""

    builds_partial = True
    builds_full = False

    def __init__(self) -> None:
        super().__init__()
        self.built: list[int] = []

    def build(self, requests: list[Any], kwargs: Any, *, partial: bool) -> list[bytes]:
        from anybatch._encoding import with_id

        assert partial
        self.built.append(len(requests))
        if any("poison" in str(request) for request in requests):
            raise RequestRejected("the subclass refuses poison")
        return [
            with_id(self.complete(f"built {request}", kwargs), f"own-{request}")
            for request in requests
        ]


async def test_a_subclass_writes_the_lines_and_what_it_refuses_fails_alone() -> None:
    provider = Building()
    async with dispatcher(provider) as d:
        receipts = [await d.submit(text) for text in ["a", "b", "poison", "c"]]
        await d.flush()
        with pytest.raises(RequestFailed, match="refuses poison"):
            await receipts[2]
        texts = [(await receipts[n]).text for n in (0, 1, 3)]
    assert texts == ["built a", "built b", "built c"]
    assert receipts[0].custom_id == "own-a"
    assert provider.built == [4, 2, 2, 1, 1]


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio-native"])
@pytest.mark.parametrize("pause", [0.0, 0.001, 0.003, 0.01, 0.03])
async def test_native_cancellation_anywhere_in_the_hand_over_buys_nothing_twice(
    anyio_backend: Any, pause: float
) -> None:
    provider, queue = FakeProvider(duration=0), InMemoryRequestQueue()
    first = dispatcher(provider, queue=queue, queue_threshold=5)
    task = asyncio.create_task(first.run())
    while first._life is None:
        await asyncio.sleep(0.002)
    receipts = await first.submit_many([f"q{n}" for n in range(12)])
    await asyncio.sleep(pause)
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert all(receipt.settled for receipt in receipts)
    async with dispatcher(provider, queue=queue) as second:
        await second.flush()
    asked = [line for batch in provider.batches.values() for line in provider._lines[batch.file_id]]
    assert len(asked) == len(set(asked))
    assert queued_in(queue) == []


def test_limits_are_frozen() -> None:
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        Limits().requests = 3  # type: ignore[misc]

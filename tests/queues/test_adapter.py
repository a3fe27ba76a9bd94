"""A queue that pops, with leases: looked at, cut, given back."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import anyio
import anyio.to_thread
import pytest
from langbatch.request_queues import InMemoryRequestQueue as LangbatchQueue

from anybatch import BatchDispatcher, RawRequest, RequestRejected
from anybatch._models import Lease, Plan, Terms
from anybatch._threads import run_sync
from anybatch.request_queues import RequestQueue, adapter
from anybatch.request_queues._sightings import Sightings
from tests.queues.handlers import KeepingHandler
from tests.queues.outside import AsyncQueue, PlainQueue, adapted

pytestmark = pytest.mark.anyio

KWARGS = {"model": "a model"}
DAY = 86_400.0


def dispatcher(handler: Any, queue: Any, **options: Any) -> BatchDispatcher[Any, Any]:
    options = {"time_threshold": DAY, "idle_threshold": None, **options}
    return BatchDispatcher(handler, queue, request_kwargs=KWARGS, **options)


@asynccontextmanager
async def running(handler: Any, queue: Any, **options: Any) -> AsyncIterator[Any]:
    """A dispatcher that is cancelled at the end of the body, as `run()` is."""
    async with anyio.create_task_group() as tasks:
        d = dispatcher(handler, queue, **options)
        await tasks.start(d.run)
        yield d
        tasks.cancel_scope.cancel()


# Looks


async def test_a_queue_fed_by_someone_else_is_looked_at_each_time_interval_and_cut() -> None:
    queue, handler = LangbatchQueue(), KeepingHandler()
    async with running(handler, queue, queue_threshold=2, time_interval=600):
        start = anyio.current_time()
        await anyio.sleep(10)
        queue.add_requests(["one", "two", "three"])
        await anyio.sleep(580)
        assert handler.parts == []
        await anyio.sleep(20)
        assert handler.texts == ["one", "two"]
        assert [t - start for t in handler.times] == [pytest.approx(600, abs=1)]
        queue.add_requests(["four"])
        await anyio.sleep(610)
        assert handler.texts == ["one", "two", "three", "four"]
    assert len(queue) == 0


async def test_age_counts_from_when_a_request_was_first_seen() -> None:
    queue, handler = LangbatchQueue(), KeepingHandler()
    async with running(handler, queue, time_threshold=1_000, time_interval=600):
        start = anyio.current_time()
        await anyio.sleep(10)
        queue.add_requests(["one"])  # seen at 600
        await anyio.sleep(1_300)
        queue.add_requests(["two"])  # travels along
        await anyio.sleep(700)
        assert handler.texts == ["one", "two"]
        assert [t - start for t in handler.times] == [pytest.approx(1_600, abs=1)]


async def test_what_is_submitted_here_needs_no_look() -> None:
    queue, handler = LangbatchQueue(), KeepingHandler()
    async with running(handler, queue, queue_threshold=2) as d:
        with anyio.fail_after(5):
            await d.submit("one")
            await d.submit("two")
            await handler.asked.wait()
        await anyio.sleep(1)
        assert handler.texts == ["one", "two"]


async def test_a_queue_that_promises_more_than_it_gives_is_not_asked_without_end() -> None:
    class Promising(PlainQueue):
        looks = 0

        def __len__(self) -> int:
            self.looks += 1
            return 5

    queue = Promising()
    async with running(KeepingHandler(), queue, queue_threshold=2, time_interval=600):
        await anyio.sleep(3_000)
    assert queue.looks < 20


async def test_a_queue_that_cannot_say_its_size_is_refused_on_entering() -> None:
    class Sizeless(RequestQueue):
        def add_requests(self, requests: list[Any]) -> None: ...

        def get_requests(self, count: int) -> list[Any]:
            return []

    class Foreign:
        add_requests = Sizeless.add_requests
        get_requests = Sizeless.get_requests

    for queue in (Sizeless(), Foreign()):
        wrapped = adapted(queue)
        with pytest.raises(NotImplementedError, match=r"neither size\(\) nor __len__\(\); give it"):
            await wrapped.__aenter__()


def test_sightings_keep_the_age_of_what_others_left() -> None:
    sightings = Sightings()
    assert sightings.oldest(0, 5.0) == 5.0
    sightings.see(10, 0, 1.0)
    sightings.see(15, 0, 2.0)
    assert (sightings.oldest(9, 9.0), sightings.oldest(10, 9.0)) == (1.0, 2.0)
    sightings.see(13, 10, 3.0)  # two were taken
    assert sightings.oldest(10, 9.0) == 2.0
    sightings.see(10, 10, 4.0)  # and the rest
    sightings.see(11, 10, 5.0)
    assert sightings.oldest(10, 9.0) == 5.0


# Leaving


async def test_what_is_left_over_goes_back_at_the_tail() -> None:
    queue, handler = LangbatchQueue(), KeepingHandler(refusals=1)
    queue.add_requests(["one", "two", "three"])
    async with running(handler, queue, queue_threshold=2):
        await handler.asked.wait()  # refused, and released with its plan
        await anyio.sleep(0.5)
        assert len(queue) == 1
    assert list(queue.queue) == ["three", "one", "two"]


async def test_what_was_cut_by_size_and_not_leased_goes_back_too() -> None:
    queue = LangbatchQueue()
    queue.add_requests(["one", "two", "three"])
    async with adapted(queue) as wrapped:
        lease = await wrapped.lease(Terms(3, size=6))
        assert lease is not None
        assert (lease.count, await wrapped.size()) == (1, 2)
        await wrapped.ack(lease)
    assert list(queue.queue) == ["two", "three"]


async def test_a_batch_that_was_refused_is_dispatched_again_under_its_id() -> None:
    queue, handler = PlainQueue(), KeepingHandler(refusals=2)
    async with running(handler, queue, queue_threshold=2) as d:
        await d.submit_many(["one", "two"])
        await anyio.sleep(60)
        assert handler.texts == ["one", "two"]
    assert handler.ids == [handler.parts[0].id] * 3


async def test_what_cannot_be_given_back_is_kept_and_told(caplog: pytest.LogCaptureFixture) -> None:
    class Closed(AsyncQueue):
        closed = False

        async def add_requests(self, requests: list[Any]) -> None:
            if self.closed:
                raise OSError("closed")
            await super().add_requests(requests)

    queue = Closed()
    wrapped = adapted(queue)
    async with wrapped:
        await wrapped.add_requests(["one", "two"])
        lease = await wrapped.lease(Terms(2))
        assert lease is not None
        await wrapped.release(lease)
        queue.closed = True
    assert "2 requests could not be given back to Closed" in caplog.text
    queue.closed = False
    async with wrapped:
        again = await wrapped.lease(Terms(2))
        assert again is not None
        assert again.id == lease.id


async def test_a_queue_that_hangs_does_not_hold_up_leaving(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Hanging(AsyncQueue):
        async def add_requests(self, requests: list[Any]) -> None:
            await anyio.sleep_forever()

    queue = Hanging()
    queue.values.append("one")
    start = anyio.current_time()
    async with adapted(queue) as wrapped:
        lease = await wrapped.lease(Terms(1))
        assert lease is not None
        await wrapped.release(lease)
    assert anyio.current_time() - start == pytest.approx(adapter.GIVE_BACK, abs=1)
    assert "1 requests could not be given back" in caplog.text


def test_what_a_thread_popped_while_its_task_was_cancelled_is_not_lost() -> None:
    popping, go_on = threading.Event(), threading.Event()

    class Slow(PlainQueue):
        def get_requests(self, count: int) -> list[Any]:
            popping.set()
            go_on.wait(10)
            return super().get_requests(count)

    async def main() -> None:
        queue = Slow()
        queue.add_requests(["one", "two"])
        async with adapted(queue) as wrapped:
            task = asyncio.create_task(wrapped.lease(Terms(2)))
            await run_sync(popping.wait)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            go_on.set()
            while len(queue):  # noqa: ASYNC110
                await anyio.sleep(0.01)
            await anyio.sleep(0.01)
            lease = await wrapped.lease(Terms(2))
            assert lease is not None
            assert [m.element async for c in wrapped.read(lease) for m in c] == [b'"one"', b'"two"']
            await wrapped.release(lease)
        assert list(queue.values) == ["one", "two"]

    asyncio.run(main())


# Back-pressure


async def test_submitters_stand_in_line_before_a_full_queue() -> None:
    queue, handler = PlainQueue(), KeepingHandler()
    handler.gate = anyio.Event()
    receipts = []
    async with running(handler, queue, queue_threshold=2, max_pending=3) as d:
        async with anyio.create_task_group() as tasks:

            async def submit(text: str) -> None:
                receipts.append(await d.submit(text))

            for text in ("one", "two", "three", "four", "five"):
                tasks.start_soon(submit, text)
                await anyio.sleep(1)
            stats = await d.queue.statistics()
            assert stats.requests_queued + stats.requests_leased == len(receipts) == 3
            assert d.statistics().submitters_waiting == 2
            handler.gate.set()
        await d.flush()
    assert handler.texts == ["one", "two", "three", "four", "five"]


async def test_room_that_somebody_else_made_is_seen_at_the_next_look() -> None:
    queue = PlainQueue()
    async with adapted(queue) as wrapped, anyio.create_task_group() as tasks:
        await wrapped.add([b"1", b"2"], bound=2)
        tasks.start_soon(lambda: wrapped.add([b"3"], bound=2))
        await anyio.sleep(1)
        assert queue.get_requests(1) == [1]
        assert await wrapped.size() == 1
        await anyio.sleep(1)
        assert list(queue.values) == [2, 3]


async def test_two_adders_never_share_the_last_room() -> None:
    queue = PlainQueue()
    async with adapted(queue) as wrapped, anyio.create_task_group() as tasks:
        for number in (b"1", b"2", b"3"):
            tasks.start_soon(lambda n=number: wrapped.add([n], bound=1))
        await anyio.sleep(1)
        assert len(queue) == 1
        for _ in range(3):
            lease = await wrapped.lease(Terms(1))
            assert lease is not None
            await wrapped.ack(lease)
            await anyio.sleep(1)
            assert len(queue) <= 1


async def test_a_barrier_is_passed_when_somebody_else_took_the_rest() -> None:
    queue = PlainQueue()
    async with adapted(queue, time_interval=600) as wrapped, anyio.create_task_group() as tasks:
        await wrapped.add_requests(["one", "two"])
        position = await wrapped.position()
        start = anyio.current_time()
        tasks.start_soon(wrapped.wait_passed, position)
        await anyio.sleep(1)
        assert await wrapped.get_requests(5) == ["one", "two"]
    assert anyio.current_time() - start == pytest.approx(600, abs=1)


# Dead letters


async def test_what_is_no_json_value_is_a_dead_letter_and_its_neighbours_travel_on() -> None:
    queue, handler = LangbatchQueue(), KeepingHandler()
    odd = object()
    queue.add_requests(["one", odd, float("nan"), {"no": "messages"}, "two"])
    async with running(handler, queue, queue_threshold=5) as d:
        await handler.asked.wait()
        await anyio.sleep(1)
        letters = await d.queue.dead_letters()
        assert handler.texts == ["one", "two"]
        assert [letter.request for letter in letters] == [
            f"<{odd!r}>",
            "<nan>",
            {"no": "messages"},
        ]
        assert all(letter.reason for letter in letters)
        assert d.statistics().requests_dead == 3
        assert await d.queue.requeue([letters[0].id, letters[2].id, "unknown"]) == 2
        assert list(queue.queue) == [odd, {"no": "messages"}], "the very value, to be looked at"
        assert await d.queue.drop([letters[1].id]) == 1
        assert await d.queue.dead_letters() == []


async def test_what_is_no_json_value_goes_back_as_it_was() -> None:
    queue, odd = LangbatchQueue(), object()
    queue.add_requests([odd])
    async with adapted(queue) as wrapped:
        lease = await wrapped.lease(Terms(1))
        assert lease is not None
        await wrapped.release(lease)
    assert list(queue.queue) == [odd]


# add_requests, whichever way


Add = Callable[[Any, list[Any]], Awaitable[Any]]


async def awaited(queue: Any, requests: list[Any]) -> None:
    await queue.add_requests(requests)


async def in_a_thread(queue: Any, requests: list[Any]) -> None:
    await anyio.to_thread.run_sync(queue.add_requests, requests)


@pytest.mark.parametrize("add", [awaited, in_a_thread])
@pytest.mark.parametrize("kind", [PlainQueue, AsyncQueue, LangbatchQueue])
async def test_requests_are_in_whichever_way_they_came(add: Add, kind: type[Any]) -> None:
    handler = KeepingHandler()
    async with running(handler, kind(), queue_threshold=2) as d:
        await add(d.queue, [])
        await add(d.queue, ["one", RawRequest(b'"two"')])
        with anyio.fail_after(5):
            await handler.asked.wait()
        await anyio.sleep(1)
        assert handler.texts == ["one", "two"]


class Later(PlainQueue):
    """Returns an awaitable that is no coroutine."""

    def add_requests(self, requests: list[Any]) -> Any:
        return Later()

    def __await__(self) -> Any:
        yield from ()


async def test_a_producers_thread_needs_no_dispatcher() -> None:
    queue = PlainQueue()
    await run_sync(adapted(queue).add_requests, ["one"])
    assert list(queue.values) == ["one"]
    for of_a_users in (AsyncQueue(), Later()):
        with pytest.raises(RuntimeError, match="is async and no dispatcher has entered"):
            await run_sync(adapted(of_a_users).add_requests, ["one"])


async def test_dropped_unawaited_nothing_is_in_and_it_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    queue = PlainQueue()
    with caplog.at_level(logging.ERROR, "anybatch"):
        adapted(queue).add_requests(["one", "two"])
    assert "2 requests were not added" in caplog.text
    assert len(queue) == 0


async def test_of_a_list_with_a_bad_request_none_is_in() -> None:
    queue = PlainQueue()
    with pytest.raises(RequestRejected, match="bytes"):
        await adapted(queue).add_requests(["one", b"two"])
    assert len(queue) == 0


async def test_statistics_of_the_queue_outside_have_ages() -> None:
    queue = PlainQueue()
    async with adapted(queue) as wrapped:
        assert (await wrapped.statistics()).oldest_age == 0.0
        await wrapped.add_requests(["one"])
        await anyio.sleep(30)
        stats = await wrapped.statistics()
        assert (stats.requests_queued, stats.oldest_age) == (1, pytest.approx(30, abs=1))


async def test_two_who_entered_leave_the_leased_to_their_owner() -> None:
    queue = PlainQueue()
    queue.add_requests(["one", "two"])
    wrapped = adapted(queue)
    async with wrapped:
        lease: Lease | None
        async with wrapped:
            lease = await wrapped.lease(Terms(1))
        assert lease is not None
        await wrapped.plan(lease, Plan("store", ()))
        assert [m.element async for c in wrapped.read(lease) for m in c] == [b'"one"']
        await wrapped.ack(lease)
    assert list(queue.values) == ["two"]

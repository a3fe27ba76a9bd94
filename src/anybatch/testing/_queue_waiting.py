"""The queue contract: room, the line, and the waits for what is due and what is passed."""

from __future__ import annotations

import anyio

from .._exceptions import FlushHeld
from .._models import CutReason, Terms
from ..abc import LeasingQueue
from ._queue_leasing import MakeQueue
from ._queue_tools import (
    BOUND,
    LONG,
    MOMENT,
    beside,
    drained,
    elements,
    everything,
    fill,
    must_lease,
    numbers_of,
    refused,
    whole,
)


class WaitingChecks:
    """Checks of everything that waits."""

    async def test_more_than_the_bound_is_refused(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            await refused(lambda: queue.add(elements(1, 2, 3), bound=2), ValueError, "3", "2")
            assert (await queue.statistics()).requests_queued == 0

    async def test_a_full_queue_makes_adders_wait_in_line(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            await queue.add(elements(1, 2), bound=2)
            async with beside(
                lambda: queue.add(elements(3, 4), bound=2),
                lambda: queue.add(elements(5), bound=3),  # would fit, but may not overtake
            ) as (third, fifth):
                assert await third.waits()
                assert await fifth.waits()
                await queue.ack(await must_lease(queue, Terms(2)))
                await third.done()
                await fifth.done()
            assert await drained(queue) == [3, 4, 5]

    async def test_leased_requests_fill_the_bound_too(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            await queue.add(elements(1, 2), bound=2)
            lease = await must_lease(queue, Terms(2))
            async with beside(lambda: queue.add(elements(3), bound=2)) as (adder,):
                assert await adder.waits()
                await queue.bury(lease, lease.start, "no good")
                await adder.done()

    async def test_a_blocked_adder_makes_what_is_open_due(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            await queue.add(elements(1), bound=1)
            terms = Terms(BOUND)
            async with beside(
                lambda: queue.wait_due(terms), lambda: queue.add(elements(2), bound=1)
            ) as (watcher, adder):
                await watcher.done()
                lease = await must_lease(queue, terms)
                assert lease.reason is CutReason.BLOCKED
                await queue.ack(lease)
                await adder.done()
            assert await drained(queue) == [2]

    async def test_a_cancelled_adder_added_nothing(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            await queue.add(elements(1), bound=1)
            async with beside(
                lambda: queue.add(elements(2), bound=1), lambda: queue.add(elements(3), bound=1)
            ) as (cancelled, waiting):
                cancelled.scope.cancel()
                assert await waiting.waits()
                await queue.ack(await must_lease(queue, Terms(1)))
                await waiting.done()
            assert await drained(queue) == [3]

    async def test_room_is_waited_for_in_order(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            await queue.wait_room(2, bound=2)
            await queue.add(elements(1, 2), bound=2)
            async with beside(
                lambda: queue.wait_room(2, bound=2), lambda: queue.wait_room(1, bound=2)
            ) as (two, one):
                lease = await must_lease(queue, Terms(2))
                await queue.bury(lease, lease.start, "no good")
                assert await one.waits(), "it may not overtake the one who needs more room"
                await queue.ack(lease)
                await two.done()
                await one.done()

    async def test_waiting_for_what_is_due_is_level_triggered(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            await fill(queue, 1, 2)
            with anyio.fail_after(LONG):
                await queue.wait_due(Terms(2))
                await queue.wait_due(await everything(queue))
            lease = await must_lease(queue)
            await queue.release(lease)
            with anyio.fail_after(LONG):
                await queue.wait_due(Terms(BOUND))

    async def test_crossing_the_count_wakes_the_watcher(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue, anyio.create_task_group() as tasks:
            tasks.start_soon(_add_slowly, queue, name="slow producer")
            assert (await _when_due(queue, Terms(3))) == [1, 2, 3]

    async def test_age_wakes_the_watcher(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue, anyio.create_task_group() as tasks:
            tasks.start_soon(fill, queue, 1, name="producer")
            assert (await _when_due(queue, Terms(BOUND, age=2 * MOMENT))) == [1]

    async def test_a_release_wakes_the_watcher_when_it_is_time(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            await fill(queue, 1)
            lease = await must_lease(queue)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(queue.release, lease, 3 * MOMENT, name="releases")
                assert (await _when_due(queue, Terms(BOUND))) == [1]

    async def test_replanning_wakes_the_watcher(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            await fill(queue, 1)
            lease = await must_lease(queue)
            await queue.plan(lease, whole(lease, "elsewhere"))
            await queue.release(lease)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(queue.replan, lease.id, name="replans")
                assert (await _when_due(queue, Terms(BOUND))) == [1]

    async def test_an_empty_queue_has_passed_every_position(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            with anyio.fail_after(LONG):
                await queue.wait_passed(await queue.position())
                await fill(queue, 1)
                await queue.ack(await must_lease(queue))
                await queue.wait_passed(await queue.position())

    async def test_a_barrier_waits_for_all_below_it(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            await fill(queue, 1, 2)
            position = await queue.position()
            await fill(queue, 3)
            async with beside(lambda: queue.wait_passed(position)) as (barrier,):
                first = await must_lease(queue, Terms(1))
                await queue.ack(first)
                second = await must_lease(queue, Terms(1))
                assert await barrier.waits(), "one below it is leased"
                await queue.release(second)
                assert await barrier.waits(), "and given back"
                await queue.ack(await must_lease(queue, Terms(1)))
                await barrier.done()
            assert await drained(queue) == [3]

    async def test_the_buried_do_not_hold_a_barrier(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            start = await fill(queue, 1)
            position = await queue.position()
            async with beside(lambda: queue.wait_passed(position)) as (barrier,):
                lease = await must_lease(queue)
                await queue.bury(lease, start, "no good")
                await queue.ack(lease)
                await barrier.done()

    async def test_a_barrier_says_what_is_held(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            await fill(queue, 1)
            position = await queue.position()
            lease = await must_lease(queue)
            await queue.plan(lease, whole(lease, "elsewhere"))
            async with beside(lambda: queue.wait_passed(position)) as (barrier,):
                assert await barrier.waits()
                await queue.release(lease)
                assert await queue.lease(await everything(queue, BOUND, "here")) is None
                await barrier.done()
                assert isinstance(barrier.error, FlushHeld)
                assert "elsewhere" in str(barrier.error)

    async def test_each_request_is_leased_once_whoever_leases(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            found: list[int] = []

            async def consume() -> None:
                found.extend(await drained(queue))

            await fill(queue, *range(50))
            async with beside(consume, consume, consume) as consumers:
                for consumer in consumers:
                    await consumer.done()
            assert sorted(found) == list(range(50))


async def _add_slowly(queue: LeasingQueue) -> None:
    for number in (1, 2, 3):
        await anyio.sleep(MOMENT)
        await fill(queue, number)


async def _when_due(queue: LeasingQueue, terms: Terms) -> list[int]:
    """Do as a dispatcher does: ask, and wait for a better moment."""
    with anyio.fail_after(LONG):
        while (lease := await queue.lease(terms)) is None:
            await queue.wait_due(terms)
        return await numbers_of(queue, lease)

"""The queue contract: what is cut, leased, read, planned, given back and buried."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from .._exceptions import LeaseLost, QueueMismatch
from .._models import CutReason, Lease, Terms
from ..abc import LeasingQueue
from ._queue_tools import (
    BOUND,
    MOMENT,
    drained,
    elements,
    everything,
    fill,
    members_of,
    must_lease,
    numbers_of,
    refused,
    whole,
)

MakeQueue = Callable[[], LeasingQueue]


class LeasingChecks:
    """Checks of the log and its intervals."""

    withdraws = True  # whether a queued request can be taken back

    async def test_log_numbers_count_what_is_added(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            start = await queue.position()
            assert await fill(queue, 1, 2) == start
            assert await queue.position() == start + 2
            assert await fill(queue, 3) == start + 2

    async def test_an_empty_queue_leases_nothing(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            assert await queue.lease(Terms(1, age=0.0)) is None
            assert await queue.lease(await everything(queue)) is None

    async def test_below_the_thresholds_nothing_is_due(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            await fill(queue, 1, 2)
            assert await queue.lease(Terms(3, size=BOUND, age=3_600.0)) is None

    async def test_a_lease_holds_the_oldest_in_their_order(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            start = await fill(queue, 1, 2, 3, 4, 5)
            first = await must_lease(queue, Terms(2))
            second = await must_lease(queue, Terms(2))
            assert first.reason is CutReason.COUNT
            assert (first.start, first.stop, first.count) == (start, start + 2, 2)
            assert [m.number for m in await members_of(queue, second)] == [start + 2, start + 3]
            assert await numbers_of(queue, first) == [1, 2]
            assert await queue.lease(Terms(2)) is None

    async def test_interval_ids_tell_the_queue_and_each_other(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            await fill(queue, 1, 2)
            ids = [(await must_lease(queue, Terms(1))).id for _ in range(2)]
            assert len(set(ids)) == 2
            assert all(interval_id.startswith(queue.uid) for interval_id in ids)

    async def test_no_lease_exceeds_its_bytes(self, make_queue: MakeQueue) -> None:
        line = len(elements(1)[0]) + 1  # newlines are counted
        async with make_queue() as queue:
            await fill(queue, 1, 2, 3, 4, 5)
            terms = Terms(BOUND, size=2 * line, position=await queue.position())
            leases = [await must_lease(queue, terms) for _ in range(3)]
            assert [lease.size for lease in leases] == [2 * line, 2 * line, line]
            assert [await numbers_of(queue, lease) for lease in leases] == [[1, 2], [3, 4], [5]]

    async def test_one_request_above_the_bytes_goes_alone(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            await fill(queue, 1_000_000, 2)
            terms = Terms(BOUND, size=10, position=await queue.position())
            assert await numbers_of(queue, await must_lease(queue, terms)) == [1_000_000]
            assert await numbers_of(queue, await must_lease(queue, terms)) == [2]

    async def test_age_makes_the_oldest_due(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            await fill(queue, 1)
            terms = Terms(BOUND, age=2 * MOMENT)
            assert await queue.lease(terms) is None
            await anyio.sleep(3 * MOMENT)
            assert (await must_lease(queue, terms)).reason is CutReason.AGE

    async def test_below_the_minimum_only_a_position_cuts(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            await fill(queue, 1, 2)
            await anyio.sleep(MOMENT)
            assert await queue.lease(Terms(1, size=1, age=0.0, minimum=3)) is None
            terms = Terms(BOUND, minimum=3, position=await queue.position())
            assert (await must_lease(queue, terms)).count == 2

    async def test_late_comers_travel_along(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            await fill(queue, 1, 2)
            terms = Terms(3, position=await queue.position(), reason=CutReason.CLOSE)
            await fill(queue, 3, 4)
            lease = await must_lease(queue, terms)
            assert lease.reason is CutReason.CLOSE
            assert await numbers_of(queue, lease) == [1, 2, 3]
            assert await queue.lease(terms) is None, "the position is passed, and 4 is not due"

    async def test_reading_goes_in_chunks_and_by_ranges(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            start = await queue.add(elements(*range(4_100)), bound=10_000)
            lease = await must_lease(queue, await everything(queue, 10_000))
            assert await numbers_of(queue, lease) == list(range(4_100))
            ranges = ((start + 1, start + 3), (start + 4_099, start + 4_100))
            assert await numbers_of(queue, lease, ranges) == [1, 2, 4_099]
            assert await numbers_of(queue, lease, ()) == []

    async def test_what_is_released_is_leased_again_first(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            await fill(queue, 1, 2, 3)
            first = await must_lease(queue, Terms(2))
            await queue.release(first)
            again = await must_lease(queue, Terms(1))
            assert (again.id, again.start, again.stop) == (first.id, first.start, first.stop)
            assert again.reason is CutReason.AGAIN
            assert again.token != first.token
            assert await numbers_of(queue, again) == [1, 2]

    async def test_what_is_released_with_a_delay_is_left_alone(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            await fill(queue, 1)
            await queue.release(await must_lease(queue), delay=3 * MOMENT)
            assert await queue.lease(await everything(queue)) is None
            await anyio.sleep(4 * MOMENT)
            assert await numbers_of(queue, await must_lease(queue)) == [1]

    async def test_an_old_lease_counts_no_more(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            await fill(queue, 1)
            old = await must_lease(queue)
            await queue.release(old)
            new = await must_lease(queue)
            for call in _calls(queue, old):
                await refused(call, LeaseLost)
            assert await numbers_of(queue, new) == [1]

    async def test_acknowledging_twice_does_nothing(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            await fill(queue, 1)
            lease = await must_lease(queue)
            await queue.renew(lease)
            await queue.ack(lease)
            await queue.ack(lease)
            assert await queue.lease(await everything(queue)) is None

    async def test_the_first_plan_stands(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            await fill(queue, 1, 2)
            lease = await must_lease(queue)
            assert lease.plan is None
            plan = whole(lease, "ours")
            assert (await queue.plan(lease, plan)).plan == plan
            assert (await queue.plan(lease, whole(lease, "late"))).plan == plan
            await queue.release(lease)
            assert (await must_lease(queue, await everything(queue, BOUND, "ours"))).plan == plan

    async def test_a_plan_waits_for_its_store_until_replanned(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            await fill(queue, 1)
            lease = await must_lease(queue)
            await queue.plan(lease, whole(lease, "elsewhere"))
            await queue.release(lease)
            assert await queue.lease(await everything(queue, BOUND, "here")) is None
            assert dict((await queue.statistics()).held) == {lease.id: "elsewhere"}
            await queue.replan(lease.id)
            again = await must_lease(queue, await everything(queue, BOUND, "here"))
            assert (again.id, again.plan) == (lease.id, None)

    async def test_the_buried_is_a_dead_letter(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            start = await queue.add([b'{"n":1,"custom_id":"x"}', *elements(2)], bound=BOUND)
            lease = await must_lease(queue)
            await queue.bury(lease, start, "no good")
            await queue.bury(lease, start, "twice is nothing")
            assert await numbers_of(queue, lease) == [2]
            (letter,) = await queue.dead_letters()
            assert (letter.custom_id, letter.reason) == ("x", "no good")
            assert letter.request == {"n": 1, "custom_id": "x"}
            assert (await queue.statistics()).requests_dead == 1

    async def test_dead_letters_are_requeued_or_dropped(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            start = await fill(queue, 1, 2, 3)
            lease = await must_lease(queue)
            for number in (start, start + 1):
                await queue.bury(lease, number, "no good")
            await queue.ack(lease)
            first, second = [letter.id for letter in await queue.dead_letters()]
            assert await queue.drop([second, "unknown"]) == 1
            assert await queue.requeue([first, second, "unknown"]) == 1
            assert await queue.dead_letters() == []
            assert await drained(queue) == [1]

    async def test_taking_back_ends_with_the_cut(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            start = await fill(queue, 1, 2, 3)
            assert await queue.withdraw(start + 1) is self.withdraws
            assert await queue.withdraw(start + 3) is False, "nobody has that number"
            lease = await must_lease(queue)
            assert await queue.withdraw(start) is False
            assert await numbers_of(queue, lease) == ([1, 3] if self.withdraws else [1, 2, 3])

    async def test_statistics_count_each_request_once(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            await fill(queue, 1, 2, 3)
            lease = await must_lease(queue, Terms(2))
            stats = await queue.statistics()
            assert (stats.requests_queued, stats.requests_leased) == (1, 2)
            await queue.release(lease)
            await queue.ack(await must_lease(queue))
            stats = await queue.statistics()
            assert (stats.requests_queued, stats.requests_leased) == (1, 0)

    async def test_one_queue_keeps_one_format(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            await queue.keep_profile("openai")
            await fill(queue, 1)
            await queue.ack(await must_lease(queue))
            await queue.keep_profile("other")
            await fill(queue, 2)
            await queue.ack(await must_lease(queue, Terms(1)))
            await fill(queue, 3)
            await must_lease(queue, Terms(1))
            await queue.keep_profile("other")
            await refused(lambda: queue.keep_profile("openai"), QueueMismatch, "openai", "other")

    async def test_what_is_left_behind_is_there_again(self, make_queue: MakeQueue) -> None:
        queue = make_queue()
        async with queue:
            await fill(queue, 1, 2, 3, 4)
            lease = await must_lease(queue, Terms(2))
            await queue.release(lease)
        async with queue:
            assert sorted(await drained(queue)) == [1, 2, 3, 4]

    async def test_it_is_a_request_queue_too(self, make_queue: MakeQueue) -> None:
        async with make_queue() as queue:
            await _awaited(queue.add_requests([{"n": 1}, {"n": 2}, {"n": 3}]))
            assert await _awaited(queue.size()) == 3
            assert await _awaited(queue.get_requests(2)) == [{"n": 1}, {"n": 2}]
            assert await _awaited(queue.get_requests(2)) == [{"n": 3}]
            assert await _awaited(queue.get_requests(2)) == []
            assert await queue.last_sequence("nobody") is None


async def _awaited(value: Any) -> Any:
    assert isinstance(value, Awaitable), "the methods of a leasing queue may be awaited"
    return await value  # pyright: ignore[reportUnknownVariableType]


def _calls(queue: LeasingQueue, lease: Lease) -> list[Callable[[], Awaitable[object]]]:
    return [
        lambda: members_of(queue, lease),
        lambda: queue.plan(lease, whole(lease, "ours")),
        lambda: queue.renew(lease),
        lambda: queue.ack(lease),
        lambda: queue.release(lease),
        lambda: queue.bury(lease, lease.start, "no good"),
    ]

"""When batches are cut, in what order, and how many requests they hold; with a function."""

from __future__ import annotations

import gc
import logging
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from anybatch import BatchDispatcher, RequestFailed, RequestRejected
from anybatch.request_queues import InMemoryRequestQueue
from tests.support import Doubler

pytestmark = pytest.mark.anyio


async def test_an_answer_comes_back_to_each_who_asked() -> None:
    async with BatchDispatcher(Doubler()) as d:
        receipts = [await d.submit(n) for n in range(10)]
        assert [await receipt for receipt in receipts] == [2 * n for n in range(10)]


async def test_count_makes_a_batch_due_at_once() -> None:
    double = Doubler()
    async with BatchDispatcher(double, queue_threshold=3, time_threshold=100) as d:
        start = anyio.current_time()
        receipts = await d.submit_many(range(3))
        await receipts[0]
    assert double.times == [start]
    assert double.batches == [[0, 1, 2]]


async def test_age_counts_from_the_oldest_request_and_later_ones_do_not_restart_it() -> None:
    double = Doubler()
    async with BatchDispatcher(double, time_threshold=10) as d:
        await anyio.sleep(7)  # an idle time before does not count
        start = anyio.current_time()
        first = await d.submit(1)
        await anyio.sleep(6)
        await d.submit(2)
        await first
    assert double.times == [pytest.approx(start + 10, abs=1e-6)]
    assert double.batches == [[1, 2]]


async def test_a_day_passes_until_an_old_request_is_due() -> None:
    double = Doubler()
    async with BatchDispatcher(double, time_threshold=86_400) as d:
        await (await d.submit(1))
        assert d.statistics().cuts == {"age": 1}


async def test_a_batch_stays_open_until_a_worker_takes_it() -> None:
    double = Doubler()
    double.gate = anyio.Event()
    async with BatchDispatcher(double, queue_threshold=10, time_threshold=1) as d:
        await d.submit_many(range(10))
        await double.started.wait()
        for n in range(7):
            await d.submit(n)
            await anyio.sleep(2)  # each of them alone is due, and nobody there to take it
        double.gate.set()
    assert [len(batch) for batch in double.batches] == [10, 7]


async def test_no_batch_exceeds_the_threshold_and_order_is_kept() -> None:
    double = Doubler(takes=0.1)
    async with BatchDispatcher(double, queue_threshold=7) as d:
        await d.submit_many(range(100))
    assert [n for batch in double.batches for n in batch] == list(range(100))
    assert max(map(len, double.batches)) == 7


async def test_workers_dispatch_side_by_side() -> None:
    double = Doubler(takes=5)
    async with BatchDispatcher(double, queue_threshold=2, dispatch_workers=3) as d:
        start = anyio.current_time()
        await d.submit_many(range(6))
        await d.flush()
        assert anyio.current_time() == pytest.approx(start + 5, abs=1e-6)


async def test_a_blocked_submitter_makes_what_is_open_due() -> None:
    double = Doubler()
    async with BatchDispatcher(double, time_threshold=1e6, max_pending=3) as d:
        for n in range(4):
            await d.submit(n)
        assert d.statistics().cuts == {"blocked": 1}
        await d.flush()


async def test_blocked_submitters_are_served_in_the_order_they_came() -> None:
    double = Doubler(takes=1)
    order: list[int] = []

    async def submit(n: int) -> None:
        await d.submit(n)
        order.append(n)

    async with BatchDispatcher(double, queue_threshold=2, time_threshold=1e6, max_pending=2) as d:
        async with anyio.create_task_group() as tasks:
            for n in range(9):
                tasks.start_soon(submit, n)
                await anyio.wait_all_tasks_blocked()
            assert d.statistics().submitters_waiting == 7
    # Two at a time are granted room; Trio wakes those two in any order.
    assert [sorted(batch) for batch in double.batches[:4]] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    assert sorted(order) == list(range(9))


async def test_submit_nowait_would_block_when_full_or_while_anyone_stands_in_line() -> None:
    double = Doubler()
    double.gate = anyio.Event()
    async with BatchDispatcher(double, queue_threshold=2, max_pending=2) as d:
        d.submit_nowait(1)
        d.submit_nowait(2)
        with pytest.raises(anyio.WouldBlock):
            d.submit_nowait(3)
        double.gate.set()


async def test_submit_many_of_more_than_max_pending_is_refused() -> None:
    async with BatchDispatcher(Doubler(), max_pending=3) as d:
        with pytest.raises(ValueError, match="max_pending is 3"):
            await d.submit_many(range(4))
        assert await d.submit_many([]) == []
        assert d.statistics().requests_submitted == 0


async def test_a_waited_for_request_leaves_once_nothing_has_come_for_a_while() -> None:
    double = Doubler()
    async with BatchDispatcher(double, time_threshold=7_200, idle_threshold=5) as d:
        start = anyio.current_time()
        assert await d.ask(4) == 8
        assert anyio.current_time() == pytest.approx(start + 5, abs=1e-6)
        assert d.statistics().cuts == {"idle": 1}


async def test_requests_that_nobody_waits_for_keep_the_other_thresholds() -> None:
    double = Doubler()
    async with BatchDispatcher(double, time_threshold=7_200, idle_threshold=5) as d:
        await d.submit(4)
        await anyio.sleep(7_000)
        assert double.batches == []


async def test_idleness_is_counted_from_the_last_request() -> None:
    double = Doubler()
    async with BatchDispatcher(double, time_threshold=7_200, idle_threshold=5) as d:
        async with anyio.create_task_group() as tasks:
            start = anyio.current_time()
            tasks.start_soon(d.ask, 0)
            for n in range(5):  # a stream that pauses for less than the threshold is not idle
                await anyio.sleep(4)
                await d.submit(n)
    assert double.times == [pytest.approx(start + 25, abs=1e-6)]


async def test_idleness_cuts_at_most_once_a_minute() -> None:
    double = Doubler()
    async with BatchDispatcher(double, time_threshold=7_200, idle_threshold=5) as d:
        for n in range(3):
            await d.ask(n)
    assert [round(b - a) for a, b in zip(double.times, double.times[1:], strict=False)] == [60, 60]


async def test_a_waiter_that_would_wait_for_long_is_warned_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with BatchDispatcher(Doubler(), time_threshold=7_200) as d:
        with caplog.at_level(logging.WARNING, "anybatch"):
            assert await d.ask(1) == 2
            assert await d.ask(1) == 2
    assert [r.levelname for r in caplog.records] == ["WARNING"]
    assert "flush()" in caplog.text


async def test_flush_hands_over_all_that_was_accepted_before_it() -> None:
    double = Doubler(takes=3)
    async with BatchDispatcher(double, queue_threshold=2, time_threshold=1e6) as d:
        receipts = await d.submit_many(range(5))
        await d.flush()
        assert [receipt.status for receipt in receipts] == ["done"] * 5
        late = await d.submit(9)
        await anyio.sleep(1000)
        assert late.status == "queued"


async def test_cancelling_flush_changes_nothing() -> None:
    double = Doubler(takes=3)
    async with BatchDispatcher(double, time_threshold=1e6) as d:
        receipt = await d.submit(1)
        with anyio.move_on_after(1):
            await d.flush()
        assert await receipt == 2


async def test_process_yields_answers_as_they_come_and_flushes_at_the_end() -> None:
    async with BatchDispatcher(Doubler(), time_threshold=1e6) as d:
        answers = [answer async for answer in d.process(range(1000))]
    assert sorted(answers) == [2 * n for n in range(1000)]


async def test_process_keeps_the_order_on_demand() -> None:
    async def uneven(requests: list[int]) -> list[int]:
        await anyio.sleep(10 - len(batches))
        batches.append(requests)
        return requests

    batches: list[list[int]] = []
    async with BatchDispatcher(uneven, queue_threshold=3, dispatch_workers=4) as d:
        assert [a async for a in d.process(range(20), ordered=True)] == list(range(20))


async def test_process_takes_no_more_than_max_pending_ahead_of_its_consumer() -> None:
    taken: list[int] = []

    async def source() -> Any:
        for n in range(20):
            taken.append(n)
            yield n

    async with BatchDispatcher(Doubler(), max_pending=4, time_threshold=1e6) as d:
        seen = 0
        async for _ in d.process(source()):
            await anyio.sleep(10)
            assert len(taken) <= seen + 4 + 2
            seen += 1
    assert seen == 20


async def test_process_left_early_takes_no_more_from_the_source() -> None:
    taken: list[int] = []

    def source() -> Any:
        for n in range(1000):
            taken.append(n)
            yield n

    async with BatchDispatcher(Doubler(), max_pending=5) as d:
        answers = d.process(source())
        async for _ in answers:
            break
        del answers
        count = len(taken)
        await anyio.sleep(100)
        assert len(taken) == count
    assert d.statistics().requests_dispatched == d.statistics().requests_submitted


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
def test_answers_dropped_when_the_event_loop_is_gone_are_no_error(anyio_backend: str) -> None:
    async def main() -> Any:
        async with BatchDispatcher(Doubler()) as d:
            answers = d.process(range(5))
            async for _ in answers:
                return answers

    answers = anyio.run(main, backend=anyio_backend)
    del answers
    gc.collect()


async def test_process_delivers_what_was_submitted_before_it_raises_what_the_source_raised() -> (
    None
):
    async def source() -> Any:
        yield 1
        yield 2
        raise LookupError("no more")

    answers: list[Any] = []
    async with BatchDispatcher(Doubler(), time_threshold=1e6) as d:
        with pytest.raises(LookupError, match="no more"):
            async for answer in d.process(source()):
                answers += [answer]
    assert sorted(answers) == [2, 4]


async def test_an_exception_in_the_list_fails_that_one_request() -> None:
    async def picky(requests: list[int]) -> Sequence[int | Exception]:
        return [ValueError("odd") if n % 2 else n for n in requests]

    async with BatchDispatcher(picky) as d:
        results = [r async for r in d.process(range(4), ordered=True)]
    assert [r for r in results if not isinstance(r, RequestFailed)] == [0, 2]
    failed = [r for r in results if isinstance(r, RequestFailed)]
    assert [f.message for f in failed] == ["odd", "odd"]
    assert failed[0].code == "ValueError"
    assert isinstance(failed[0].__cause__, ValueError)


@pytest.mark.parametrize("returned", [[1], [1, 2, 3], None, "ab"])
async def test_a_list_of_another_length_fails_that_call_and_nothing_else(returned: Any) -> None:
    calls: list[int] = []

    async def wrong_once(requests: list[int]) -> Any:
        calls.append(len(requests))
        return returned if len(calls) == 1 else requests

    async with BatchDispatcher(wrong_once, queue_threshold=2) as d:
        first = await d.submit_many([1, 2])
        for receipt in first:
            with pytest.raises(RequestFailed, match="the function returned"):
                await receipt
        assert await d.ask(5) == 5


async def test_whatever_the_function_raises_fails_that_call_and_nothing_else() -> None:
    async def fails_once(requests: list[int]) -> list[int]:
        if 1 in requests:
            raise TypeError("no")
        return requests

    async with BatchDispatcher(fails_once) as d:
        with pytest.raises(RequestFailed, match="no"):
            await d.ask(1)
        assert await d.ask(2) == 2


async def test_requests_reach_the_function_as_they_were_submitted() -> None:
    seen: list[object] = []

    async def keep(requests: list[object]) -> list[object]:
        seen.extend(requests)
        return requests

    thing, text = object(), b"bytes"
    async with BatchDispatcher(keep) as d:
        await d.ask(thing)
        await d.ask(text)
        await d.queue.add_requests([thing])  # type: ignore[misc]
        await d.flush()
    assert [s is t for s, t in zip(seen, [thing, text, thing], strict=True)] == [True] * 3


async def test_what_was_added_to_the_queue_before_reaches_the_function_too() -> None:
    queue, double = InMemoryRequestQueue(), Doubler()
    queue.add_requests([1, 2])
    async with BatchDispatcher(double, queue):
        pass
    assert double.batches == [[1, 2]]


async def test_a_failing_request_that_nobody_holds_goes_to_the_dead_letters() -> None:
    async def refuse(requests: list[int]) -> list[int]:
        raise ValueError("never")

    queue = InMemoryRequestQueue()
    async with BatchDispatcher(refuse, queue) as d:
        await queue.add_requests([7])
        await d.flush()
        (letter,) = await d.queue.dead_letters()
        assert (letter.request, letter.reason) == (7, "ValueError: never")
        assert d.statistics().requests_dead == 1
        assert await d.queue.drop([letter.id]) == 1


async def test_the_same_custom_id_twice_is_rejected_until_it_is_handed_over() -> None:
    async with BatchDispatcher(Doubler(), time_threshold=10) as d:
        receipt = await d.submit(1, custom_id="a")
        with pytest.raises(RequestRejected, match="'a' is in use"):
            await d.submit(2, custom_id="a")
        assert await receipt == 2
        assert await d.ask(3, custom_id="a") == 6
        with pytest.raises(RequestRejected, match="not empty"):
            await d.submit(2, custom_id="")


async def test_statistics_equal_an_outside_count_at_each_step() -> None:
    double = Doubler()
    double.gate = anyio.Event()
    async with BatchDispatcher(double, queue_threshold=3, time_threshold=1e6) as d:
        await d.submit_many(range(4))
        await double.started.wait()
        now = d.statistics()
        assert (now.requests_queued, now.requests_leased, now.requests_submitted) == (1, 3, 4)
        assert (now.requests_dispatched, now.batches_dispatched) == (0, 0)
        await anyio.sleep(7)
        assert d.statistics().oldest_age == pytest.approx(7, abs=1e-6)
        double.gate.set()
        await anyio.sleep(1)
        now = d.statistics()
        assert (now.requests_queued, now.requests_leased, now.requests_dispatched) == (1, 0, 3)
        assert (now.batches_dispatched, now.cuts) == (1, {"count": 1})


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"queue_threshold": 0}, ValueError, "queue_threshold is 0"),
        ({"size_threshold": 100}, ValueError, "no size"),
        ({"requests_type": "whole"}, ValueError, "requests_type is 'whole'; give 'partial' or"),
        ({"on_exit": "stop"}, ValueError, "on_exit is 'stop'"),
        ({"max_pending": -1}, ValueError, "max_pending is -1"),
        ({"dispatch_workers": 1.5}, ValueError, r"dispatch_workers is 1\.5"),
        ({"time_threshold": -1}, ValueError, "time_threshold is -1"),
        ({"time_threshold": "1"}, TypeError, "time_threshold is '1'"),
        ({"idle_threshold": float("nan")}, ValueError, "idle_threshold is nan"),
        ({"queue": object()}, TypeError, "queue is <object"),
        ({"batch_handler": 3}, TypeError, "batch_handler is 3"),
        ({"batch_handler": []}, ValueError, "empty sequence"),
    ],
)
async def test_arguments_that_make_no_sense_are_named(
    arguments: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        BatchDispatcher(**{"batch_handler": Doubler(), **arguments})

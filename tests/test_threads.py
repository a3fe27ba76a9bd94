"""Blocking calls go through one door, which counts them until their threads are done."""

import asyncio
import threading
import time

import anyio
import anyio.lowlevel
import pytest
from anyio import to_thread

from anybatch._threads import MAX_THREADS, calls_in_flight, run_sync
from anybatch.testing.clocks import VirtualClockLoop

pytestmark = pytest.mark.anyio


class Gate:
    """A blocking call that a test holds open."""

    def __init__(self) -> None:
        self.inside = 0
        self.opened = threading.Event()
        self._lock = threading.Lock()

    def pass_through(self) -> str:
        with self._lock:
            self.inside += 1
        assert self.opened.wait(10)
        return "through"

    async def wait_entered(self, calls: int = 1) -> None:
        with anyio.fail_after(10):
            while self.inside < calls:  # noqa: ASYNC110 - set in a thread
                await anyio.sleep(0.001)


async def wait_queued(limiter: anyio.CapacityLimiter) -> None:
    while not limiter.statistics().tasks_waiting:
        await anyio.lowlevel.checkpoint()


async def settle() -> None:
    """Wait for threads that no task waits for any more."""
    with anyio.fail_after(10):
        while calls_in_flight():  # noqa: ASYNC110 - counted in a thread
            await anyio.sleep(0.001)


async def test_a_call_returns_what_the_function_returns() -> None:
    assert await run_sync(divmod, 17, 5) == (3, 2)


async def test_a_call_runs_in_another_thread() -> None:
    assert await run_sync(threading.get_ident) != threading.get_ident()


async def test_a_call_raises_what_the_function_raises_and_is_no_longer_counted() -> None:
    error = OSError("disk full")

    def fail() -> None:
        raise error

    with pytest.raises(OSError, match="disk full") as caught:
        await run_sync(fail)
    assert caught.value is error
    assert calls_in_flight() == 0


async def test_each_call_is_counted_until_it_has_returned() -> None:
    gate = Gate()
    assert calls_in_flight() == 0
    async with anyio.create_task_group() as tg:
        for _ in range(3):
            tg.start_soon(run_sync, gate.pass_through)
        await gate.wait_entered(3)
        assert calls_in_flight() == 3
        gate.opened.set()
    assert calls_in_flight() == 0


async def test_a_call_is_never_abandoned_to_a_cancelled_scope() -> None:
    gate = Gate()
    answers = list[str]()

    async def call() -> None:
        answers.append(await run_sync(gate.pass_through))

    async with anyio.create_task_group() as tg:
        tg.start_soon(call)
        await gate.wait_entered()
        tg.cancel_scope.cancel()
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.01)
        assert calls_in_flight() == 1
        gate.opened.set()
    assert answers == ["through"]
    assert calls_in_flight() == 0


async def test_a_call_cancelled_beforehand_does_not_happen() -> None:
    calls = list[None]()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await run_sync(calls.append, None)
    assert scope.cancelled_caught
    assert calls == []
    assert calls_in_flight() == 0


async def test_a_call_cancelled_while_it_waits_for_room_does_not_happen() -> None:
    calls = list[None]()
    limiter = anyio.CapacityLimiter(1)
    await limiter.acquire_on_behalf_of("somebody else")
    async with anyio.create_task_group() as tg:
        tg.start_soon(lambda: run_sync(calls.append, None, limiter=limiter))
        await wait_queued(limiter)
        tg.cancel_scope.cancel()
    assert calls == []
    assert calls_in_flight() == 0


async def test_calls_beyond_the_bound_wait_without_taking_anyios_own_threads() -> None:
    gate = Gate()
    async with anyio.create_task_group() as tg:
        for _ in range(MAX_THREADS + 2):
            tg.start_soon(run_sync, gate.pass_through)
        await gate.wait_entered(MAX_THREADS)
        await anyio.sleep(0.01)
        assert gate.inside == MAX_THREADS
        assert to_thread.current_default_thread_limiter().borrowed_tokens == 0
        gate.opened.set()
    assert gate.inside == MAX_THREADS + 2


async def test_a_limiter_that_is_given_is_the_one_that_counts() -> None:
    gate = Gate()
    limiter = anyio.CapacityLimiter(2)
    async with anyio.create_task_group() as tg:
        for _ in range(3):
            tg.start_soon(lambda: run_sync(gate.pass_through, limiter=limiter))
        await gate.wait_entered(2)
        assert limiter.borrowed_tokens == 2
        gate.opened.set()


async def test_event_loops_are_counted_apart() -> None:
    gate = Gate()

    async def count() -> int:
        return calls_in_flight()

    async with anyio.create_task_group() as tg:
        tg.start_soon(run_sync, gate.pass_through)
        await gate.wait_entered()
        assert await to_thread.run_sync(anyio.run, count) == 0
        assert calls_in_flight() == 1
        gate.opened.set()


def test_without_an_event_loop_there_is_nothing_to_count() -> None:
    with pytest.raises(anyio.NoEventLoopError):
        calls_in_flight()


def test_a_call_whose_task_is_cancelled_natively_counts_until_its_thread_ends() -> None:
    gate = Gate()

    async def main() -> None:
        task = asyncio.create_task(run_sync(gate.pass_through))
        await gate.wait_entered()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert calls_in_flight() == 1
        gate.opened.set()
        await settle()

    asyncio.run(main())


def test_a_call_cancelled_natively_before_its_thread_began_is_not_counted() -> None:
    calls = list[None]()

    async def main() -> None:
        limiter = anyio.CapacityLimiter(1)
        await limiter.acquire_on_behalf_of("somebody else")
        task = asyncio.create_task(run_sync(calls.append, None, limiter=limiter))
        await wait_queued(limiter)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert calls_in_flight() == 0

    asyncio.run(main())
    assert calls == []


def test_a_thread_outlives_asyncio_run_and_is_counted_to_its_end() -> None:
    gate = Gate()

    async def main() -> tuple[asyncio.AbstractEventLoop, asyncio.Task[str]]:
        task = asyncio.create_task(run_sync(gate.pass_through))
        await gate.wait_entered()
        return asyncio.get_running_loop(), task

    loop, task = asyncio.run(main())
    assert loop.is_closed()
    assert task.cancelled()
    assert calls_in_flight(loop) == 1
    gate.opened.set()
    deadline = time.monotonic() + 10
    while calls_in_flight(loop) and time.monotonic() < deadline:
        time.sleep(0.001)
    assert calls_in_flight(loop) == 0


def test_a_loop_can_be_asked_for_its_count_from_outside_of_any_task() -> None:
    gate = Gate()
    counts = list[int]()

    async def main(loop: asyncio.AbstractEventLoop) -> None:
        async with anyio.create_task_group() as tg:
            tg.start_soon(run_sync, gate.pass_through)
            await gate.wait_entered()
            loop.call_soon(lambda: counts.append(calls_in_flight(loop)))
            loop.call_soon(gate.opened.set)

    with asyncio.Runner(loop_factory=VirtualClockLoop) as runner:
        runner.run(main(runner.get_loop()))
    assert counts == [1]

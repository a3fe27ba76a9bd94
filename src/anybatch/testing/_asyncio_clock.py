"""An asyncio event loop whose time jumps to the next timer when nothing else can happen."""

from __future__ import annotations

# The event loop of a test is asyncio's business by nature: AnyIO has no loops of its own.
import asyncio
import math
import selectors
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from types import CoroutineType, FrameType
from typing import TypeVar, TypeVarTuple

import anyio.to_thread
from anyio import NoEventLoopError

from .._threads import calls_in_flight
from ._deadlock import GRACE, NOTHING_LEFT, PATIENCE, TOO_BUSY, TOO_LONG, deadlock

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
MOST_CANCELLATIONS = 100
"""How often the tasks of a run that was given up are cancelled, until they really end."""

Ready = list[tuple[selectors.SelectorKey, int]]


class _Clock:
    """Seconds since the loop was made: standing still, jumping, or following real time."""

    def __init__(self) -> None:
        self._now = 0.0
        self._real_since: float | None = None

    def time(self) -> float:
        return self._now + self.real_seconds()

    def real_seconds(self) -> float:
        """For how long it has been following real time; 0 if it is not."""
        return 0.0 if self._real_since is None else time.perf_counter() - self._real_since

    def follow_real_time(self, follow: bool) -> bool:
        """Return whether that changes anything."""
        if follow == (self._real_since is not None):
            return False
        self._now = self.time()
        self._real_since = time.perf_counter() if follow else None
        return True

    def jump(self, seconds: float) -> None:
        self._now += seconds


class _JumpingSelector(selectors.DefaultSelector):
    """Where another selector sleeps until the next timer, this one makes the clock jump there."""

    def __init__(
        self, clock: _Clock, threads: Callable[[], int], give_up: Callable[[str], None]
    ) -> None:
        super().__init__()
        self._clock = clock
        self._threads = threads
        self._give_up = give_up
        self._cpu_limit = time.thread_time() + PATIENCE

    def select(self, timeout: float | None = None) -> Ready:
        self._check_limits()
        threads = self._threads()
        # After a change the time-out is another one, which the loop works out in its next turn.
        changed = self._clock.follow_real_time(threads > 0)
        ready = super().select(0)
        if ready or changed or (timeout is not None and timeout <= 0):
            return ready
        if threads:
            return super().select(PATIENCE if timeout is None else min(timeout, PATIENCE))
        if timeout is None:
            return self._wait_for_strangers()
        self._clock.jump(timeout)
        return ready

    def _check_limits(self) -> None:
        if self._clock.real_seconds() > PATIENCE:
            self._clock.follow_real_time(False)  # it begins anew, for the cancellation that follows
            self._give_up(TOO_LONG)
        if time.thread_time() > self._cpu_limit:
            self._cpu_limit += PATIENCE
            self._give_up(TOO_BUSY)

    def _wait_for_strangers(self) -> Ready:
        # The loop's own wake-up pipe is always in the map.
        has_sockets = len(self.get_map()) > 1
        ready = super().select(PATIENCE if has_sockets else GRACE)
        if not ready:
            self._give_up(TOO_LONG if has_sockets else NOTHING_LEFT)
        return ready


class VirtualClockLoop(asyncio.SelectorEventLoop):
    """An asyncio event loop in virtual time: 24 hours of sleeping pass in no time.

    Time starts at 0 and stands still while tasks run. When all of them wait, it jumps to the next
    timer. While a worker thread runs (AnyIO's, or asyncio's executors') it follows real time
    instead, as a thread takes real seconds, and a jump would let every time-out expire. Sockets do
    not hold it back: a test that talks to a real server belongs in real time.

    The call that runs the loop raises `Deadlock` where it can never end.
    """

    def __init__(self) -> None:
        self._virtual_clock = _Clock()
        self._executor_calls = set[object]()
        self._given_up = 0
        super().__init__(
            _JumpingSelector(self._virtual_clock, self._threads_running, self._give_up)
        )

    def time(self) -> float:
        now = self._virtual_clock.time()
        # A timer is due below time() plus this: beyond 194 days, asyncio's nanosecond would vanish
        # in the sum, and the timer that the clock has jumped to would never be due.
        self._clock_resolution = max(1e-9, math.ulp(now))
        return now

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Ts], T], *args: *Ts
    ) -> asyncio.Future[T]:
        future = super().run_in_executor(executor, func, *args)
        self._executor_calls.add(future)
        future.add_done_callback(self._executor_calls.discard)
        return future

    async def shutdown_default_executor(self, *args: float | None) -> None:
        """Join the executor's threads, at their pace: `asyncio.run` puts a time-out on it."""
        self._executor_calls.add(self)
        try:
            await super().shutdown_default_executor(*args)
        finally:
            self._executor_calls.discard(self)

    def _threads_running(self) -> int:
        return calls_in_flight(self) + len(self._executor_calls) + _borrowed_threads()

    def _give_up(self, reason: str) -> None:
        """Raise; and where whoever runs the loop then waits for cancelled tasks, help them end."""
        tasks = asyncio.all_tasks(self)
        self._given_up += 1
        if self._given_up == 1 or self._given_up > MOST_CANCELLATIONS or not tasks:
            waiting = [(task.get_name(), list(_frames(task.get_coro()))) for task in tasks]
            raise deadlock(reason, waiting)
        for task in tasks:
            task.cancel(reason)


def eager_virtual_clock_loop() -> VirtualClockLoop:
    """Make a `VirtualClockLoop` whose tasks start at once, within the call that creates them.

    Raises:
        RuntimeError: before Python 3.12.
    """
    # Coverage is measured on one Python, which has only one of the two.
    if sys.version_info >= (3, 12):  # pragma: no cover
        loop = VirtualClockLoop()
        loop.set_task_factory(asyncio.eager_task_factory)
        return loop
    raise RuntimeError(  # pragma: no cover
        "asyncio has eager tasks from Python 3.12 on; use VirtualClockLoop"
    )


def _borrowed_threads() -> int:
    """Return how many threads run that were started past `_threads`, on AnyIO's own limiter."""
    try:
        return int(anyio.to_thread.current_default_thread_limiter().borrowed_tokens)
    except NoEventLoopError:
        # With sniffio, AnyIO knows a loop in a selector only if AnyIO itself has started it.
        return 0


def _frames(awaitable: object) -> Iterator[FrameType]:
    """The stack of a suspended coroutine, outermost frame first."""
    while isinstance(awaitable, CoroutineType) and awaitable.cr_frame is not None:
        yield awaitable.cr_frame
        awaitable = awaitable.cr_await

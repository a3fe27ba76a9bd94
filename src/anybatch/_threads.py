"""The one door to worker threads: blocking code runs through `run_sync`, which counts it."""

from __future__ import annotations

from collections.abc import Callable, MutableMapping
from typing import Generic, TypeVar, TypeVarTuple
from weakref import WeakKeyDictionary

import anyio.lowlevel
import anyio.to_thread
from anyio import CapacityLimiter
from anyio.lowlevel import RunVar
from attrs import field, frozen

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

MAX_THREADS = 40
"""How many calls of one event loop run at a time: AnyIO's own number, not shared with its users."""


@frozen(eq=False)
class _Calls:
    """What one event loop has in flight: the calls that tasks await, and those that threads run.

    A call is in both from its thread's start to its end, unless asyncio's `task.cancel()` breaks
    AnyIO's shield: then the task goes at once and the thread goes on. Each side keeps its own
    set, because adding to and discarding from a set need no lock.
    """

    awaited: set[object] = field(factory=set[object])
    running: set[object] = field(factory=set[object])


@frozen(eq=False)
class _Call(Generic[T]):
    """A function on its way through a thread, which is counted until that thread is done."""

    func: Callable[[], T]
    calls: _Calls

    def __call__(self) -> T:
        self.calls.running.add(self)
        try:
            return self.func()
        finally:
            self.calls.running.discard(self)


_limiter: RunVar[CapacityLimiter] = RunVar("anybatch_thread_limiter")

# Not a RunVar: the selector of an event loop, which asks for the count, runs in no task, where
# AnyIO cannot always tell which event loop is running.
_calls: MutableMapping[object, _Calls] = WeakKeyDictionary()


async def run_sync(
    func: Callable[[*Ts], T], *args: *Ts, limiter: CapacityLimiter | None = None
) -> T:
    """Call a blocking function in a worker thread and return what it returns.

    The call is never abandoned to a cancel scope: a scope that is cancelled while the thread runs
    is obeyed at the next checkpoint, after the result is known. Only asyncio's own
    `task.cancel()` (which is also the last act of `asyncio.run`) breaks through; the thread
    then goes on to its end and stays counted. So `func` itself must record what it did.

    Args:
        func: a synchronous function.
        args: its positional arguments.
        limiter: bounds the calls that run at a time; by default `MAX_THREADS` per event loop.

    Raises:
        BaseException: whatever `func` raises.
    """
    calls = _calls_of(_running_loop())
    call = _Call(lambda: func(*args), calls)
    calls.awaited.add(call)
    try:
        return await anyio.to_thread.run_sync(call, limiter=limiter or _own_limiter())
    finally:
        calls.awaited.discard(call)


def calls_in_flight(loop: object | None = None) -> int:
    """Return how many calls of `run_sync` have not ended: awaited by a task, or in a thread.

    Args:
        loop: an asyncio event loop or a Trio token; by default the one that is running here.

    Raises:
        NoEventLoopError: no event loop is given, and none is running in this thread.
    """
    calls = _calls_of(_running_loop() if loop is None else loop)
    return len(calls.awaited | calls.running)


def _running_loop() -> object:
    return anyio.lowlevel.current_token().native_token


def _calls_of(loop: object) -> _Calls:
    return _calls.setdefault(loop, _Calls())


def _own_limiter() -> CapacityLimiter:
    limiter = _limiter.get(None)
    if limiter is None:
        limiter = CapacityLimiter(MAX_THREADS)
        _limiter.set(limiter)
    return limiter

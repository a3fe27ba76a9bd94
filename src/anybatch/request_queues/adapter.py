"""A plain queue (three methods) or a langbatch one, with leases that live in this process.

What such a queue gave out is lost if this process dies before it is handed over (at most once).
What is left over when a dispatcher leaves goes back at the queue's tail.
"""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, Self

import anyio
import anyio.lowlevel
import attrs

from .._encoding import decode, encode
from .._exceptions import RequestRejected
from .._models import (
    CutReason,
    DeadLetter,
    Lease,
    Member,
    Plan,
    QueueStatistics,
    Ranges,
    Terms,
)
from .._threads import run_sync
from ..abc import LeasingQueue, RequestQueueLike
from .memory import Element, InMemoryRequestQueue


class AdaptedQueue(LeasingQueue):
    """Wraps a queue that pops. Leases are kept here, so delivery is at most once after a crash.

    Log numbers count what was ever taken out of the queue, and then what is seen in it. Age
    counts from when a request was first seen here.

    Args:
        queue: a `RequestQueue` of your own, its methods plain (called in a worker thread) or
            async; or a langbatch `RequestQueue`.
        time_interval: seconds between two looks for what somebody else has added.
    """

    def __init__(self, queue: RequestQueueLike, *, time_interval: float = 600) -> None:
        self.queue = queue
        self.durable = bool(getattr(queue, "durable", False))  # type: ignore[misc]
        self.time_interval = time_interval
        self._inner = InMemoryRequestQueue()
        self.uid = self._inner.uid
        self._taken: list[Any] = []  # written by the thread that popped, before anything awaits
        self._outside = 0  # requests in the queue at the last look
        self._marks: deque[tuple[int, float]] = deque()  # (log number seen up to, when)
        self._looked_at = float("-inf")
        self._changed = anyio.Event()
        self._calls = anyio.Lock()
        self._line: deque[anyio.Event] = deque()

    async def __aenter__(self) -> Self:
        await self._inner.__aenter__()
        await self._look()
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            with anyio.move_on_after(5, shield=True):
                await self._give_back()
        finally:
            await self._inner.__aexit__(*exc_info)

    async def _give_back(self) -> None:
        values = [decode(m.element) for m in await self._left_over()]
        if values:
            await self._call(self.queue.add_requests, values)

    async def _left_over(self) -> list[Member]:
        members: list[Member] = []
        terms = Terms(count=2**62, position=2**62)
        while (lease := await self._inner.lease(terms)) is not None:
            async for chunk in self._inner.read(lease):
                members.extend(chunk)
            await self._inner.ack(lease)
        return members

    async def keep_profile(self, profile: str) -> None:
        await self._inner.keep_profile(profile)

    # The queue outside

    async def _call(self, method: Callable[..., Any], *args: Any) -> Any:
        """Call one of its methods, one at a time; in a worker thread unless it is async."""
        async with self._calls:
            if inspect.iscoroutinefunction(method):
                return await method(*args)
            result = await run_sync(method, *args)
            return await result if inspect.isawaitable(result) else result

    async def _look(self) -> int:
        size = getattr(self.queue, "size", None) or getattr(self.queue, "__len__", None)
        if size is None:
            raise NotImplementedError(f"{type(self.queue).__name__} has neither size() nor len()")
        self._outside = int(await self._call(size))
        self._looked_at = anyio.current_time()
        self._mark()
        return self._outside

    def _mark(self) -> None:
        seen = self._seen()
        while self._marks and self._marks[-1][0] > seen:
            self._marks.pop()  # somebody else took some
        if seen > (self._marks[-1][0] if self._marks else self._inner_tail()):
            self._marks.append((seen, anyio.current_time()))

    def _inner_tail(self) -> int:
        return self._inner._log.tail  # pyright: ignore[reportPrivateUsage]

    def _seen(self) -> int:
        return self._inner_tail() + self._outside

    async def _take(self, count: int) -> None:
        """Pop, and record what was popped before the next await."""
        get = self.queue.get_requests
        if inspect.iscoroutinefunction(get):
            async with self._calls:
                self._taken.extend(await get(count))
        else:
            async with self._calls:
                await run_sync(self._take_in_thread, get, count)
        self._append_taken()

    def _take_in_thread(self, get: Callable[[int], Any], count: int) -> None:
        self._taken.extend(get(count) or ())

    def _append_taken(self) -> None:
        taken, self._taken = self._taken, []
        records = [_element(value) for value in taken]
        self._outside = max(0, self._outside - len(records))
        self._inner.add_all_nowait(records, bound=2**62)

    # Adding

    async def add(self, elements: Sequence[bytes], *, bound: int) -> int:
        if len(elements) > bound:
            raise ValueError(f"{len(elements)} requests at once, but the bound is {bound}")
        await self.wait_room(len(elements), bound=bound)
        first = self._seen()
        await self._call(self.queue.add_requests, [decode(element) for element in elements])
        self._outside += len(elements)
        self._mark()
        self._wake()
        return first

    async def wait_room(self, count: int, *, bound: int) -> None:
        await anyio.lowlevel.checkpoint()
        if not self._line and self._has_room(count, bound):
            return
        turn = anyio.Event()
        self._line.append(turn)
        self._wake()  # a blocked submitter makes what is open due
        try:
            while self._line[0] is not turn or not self._has_room(count, bound):
                await turn.wait()
                turn = self._line[self._line.index(turn)] = anyio.Event()
        finally:
            self._line.remove(turn)
            self._next_in_line()

    def _has_room(self, count: int, bound: int) -> bool:
        return self._outside + self._inner.snapshot().requests_leased + count <= bound

    def _next_in_line(self) -> None:
        if self._line:
            self._line[0].set()

    async def add_requests(self, requests: list[Any]) -> None:
        """Append requests to the queue outside."""
        for request in requests:
            encode(request)
        await self._call(self.queue.add_requests, list(requests))
        self._outside += len(requests)
        self._mark()
        self._wake()

    async def get_requests(self, count: int) -> list[Any]:
        """Take requests out of the queue outside."""
        values: list[Any] = list(await self._call(self.queue.get_requests, count))
        await self._look()
        return values

    async def size(self) -> int:
        """How many requests the queue outside has now, with those taken and not leased."""
        return await self._look() + self._inner.snapshot().requests_queued

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    # Leasing

    async def lease(self, terms: Terms) -> Lease | None:
        self._append_taken()
        if self._inner._log.again(terms.stores, anyio.current_time()):  # pyright: ignore[reportPrivateUsage]
            return await self._inner.lease(terms)
        await self._look()
        reason = self._due(terms)
        if reason is None:
            return None
        missing = min(terms.count, self._queued()) - self._inner.snapshot().requests_queued
        if missing > 0:
            await self._take(missing)
        return await self._inner.lease(
            attrs.evolve(terms, minimum=1, position=2**62, reason=reason)
        )

    def _queued(self) -> int:
        return self._outside + self._inner.snapshot().requests_queued

    def _due(self, terms: Terms) -> CutReason | None:
        backlog = self._inner._backlog()  # pyright: ignore[reportPrivateUsage]
        return terms.due(
            attrs.evolve(
                backlog, count=self._queued(), oldest=self._oldest(), blocked=bool(self._line)
            )
        )

    def _oldest(self) -> float:
        head = self._inner._log.head  # pyright: ignore[reportPrivateUsage]
        while self._marks and self._marks[0][0] <= head:
            self._marks.popleft()
        return self._marks[0][1] if self._marks else anyio.current_time()

    async def wait_due(self, terms: Terms) -> None:
        changed = self._changed
        deadline = self._looked_at + self.time_interval
        if self._queued() >= terms.minimum and terms.age is not None:
            deadline = min(deadline, self._oldest() + terms.age)
        log = self._inner._log  # pyright: ignore[reportPrivateUsage]
        released = [interval.ready for interval in log.waiting(terms.stores)]
        await anyio.lowlevel.checkpoint()
        with anyio.CancelScope(deadline=min([deadline, *released])):
            await changed.wait()

    async def read(
        self, lease: Lease, ranges: Ranges | None = None
    ) -> AsyncIterator[Sequence[Member]]:
        async for chunk in self._inner.read(lease, ranges):
            yield chunk

    async def plan(self, lease: Lease, plan: Plan) -> Lease:
        return await self._inner.plan(lease, plan)

    async def renew(self, lease: Lease) -> None:
        await self._inner.renew(lease)

    async def ack(self, lease: Lease) -> None:
        await self._inner.ack(lease)
        self._next_in_line()
        self._wake()

    async def release(self, lease: Lease, delay: float = 0.0) -> None:
        await self._inner.release(lease, delay)
        self._wake()

    async def bury(self, lease: Lease, number: int, reason: str) -> None:
        await self._inner.bury(lease, number, reason)

    async def withdraw(self, number: int) -> bool:
        return False

    async def replan(self, interval_id: str) -> None:
        await self._inner.replan(interval_id)
        self._wake()

    # Waiting, dead letters, statistics

    async def position(self) -> int:
        await self._look()
        return self._seen()

    async def wait_passed(self, position: int) -> None:
        while True:
            tail = self._inner_tail()
            await self._inner.wait_passed(min(position, tail))
            # What is gone from outside without having come here was taken by somebody else.
            if tail >= position or not await self._look():
                return
            changed = self._changed
            with anyio.move_on_after(self.time_interval):
                await changed.wait()

    async def dead_letters(self) -> list[DeadLetter]:
        return await self._inner.dead_letters()

    async def requeue(self, ids: Sequence[str]) -> int:
        wanted = [letter for letter in await self.dead_letters() if letter.id in set(ids)]
        await self.add_requests([letter.request for letter in wanted])
        return await self._inner.drop([letter.id for letter in wanted])

    async def drop(self, ids: Sequence[str]) -> int:
        return await self._inner.drop(ids)

    async def last_sequence(self, producer: str) -> int | None:
        return None

    async def statistics(self) -> QueueStatistics:
        await self._look()
        return self.snapshot()

    def snapshot(self) -> QueueStatistics:
        """The statistics of the last look, without waiting."""
        queued = self._queued()
        oldest_age = max(0.0, anyio.current_time() - self._oldest()) if queued else 0.0
        return attrs.evolve(
            self._inner.snapshot(), requests_queued=queued, oldest_age=oldest_age
        )


def _element(value: Any) -> Element:
    """What came out of the queue; what is no JSON value is buried with its reason when leased."""
    try:
        return Element(encode(value))
    except RequestRejected:
        return Element(repr(value).encode("utf-8", "replace"))

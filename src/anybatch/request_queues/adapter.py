"""A plain queue (three methods) or a langbatch one, with leases that live in this process.

What such a queue gave out is lost if this process dies before it is handed over (at most once).
What is left over when a dispatcher leaves goes back at the queue's tail.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any, Self

import anyio
import anyio.from_thread
import anyio.lowlevel
import attrs

from .._encoding import decode, encode
from .._exceptions import RequestRejected
from .._models import CutReason, DeadLetter, Lease, Member, Plan, QueueStatistics, Ranges, Terms
from ..abc import LeasingQueue, RequestQueueLike
from ._adding import Added, Adding, running_loop
from ._line import Line
from ._outside import Outside, values_of
from ._sightings import Sightings
from .memory import Element, InMemoryRequestQueue

logger: logging.Logger = logging.getLogger(__name__)

GIVE_BACK = 5.0  # seconds that giving back what is left over may take
_UNBOUNDED = 2**62


@attrs.define(eq=False)
class Oddity(Element):
    """What came out of the queue and is no JSON value: given back as it is, else buried."""

    value: Any = None


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
        self.durable: bool = bool(getattr(queue, "durable", False))  # type: ignore[misc]  # the class's word, taken from the queue
        self.time_interval = time_interval
        self._outside = Outside(queue)
        self._inner = InMemoryRequestQueue()  # what was taken, its intervals, the dead letters
        self._log = self._inner.log
        self.uid: str = self._inner.uid
        self._seen_since = Sightings()
        self._looked_at = float("-inf")
        self._changed = anyio.Event()
        self._line = Line(lambda: self._queued() + self._log.leased, self._wake, threading.RLock())
        self._token: anyio.lowlevel.EventLoopToken | None = None
        self._entered = 0

    async def __aenter__(self) -> Self:
        self._inner.bind()
        try:
            await self._look()
        except BaseException:
            self._inner.unbind()
            raise
        self._token = anyio.lowlevel.current_token()
        self._entered += 1
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        try:
            with anyio.CancelScope(deadline=anyio.current_time() + GIVE_BACK, shield=True):
                await self._give_back()
        finally:
            self._entered -= 1
            if not self._entered:
                self._token = None
            self._inner.unbind()

    async def _give_back(self) -> None:
        """Put what nobody has leased at the queue's tail; where that fails, keep it here."""
        self._append_taken()
        leases = [interval.lease() for interval in self._log.take_all()]
        members = [member for lease in leases for member in self._log.members(lease, None)]
        if not members:
            return
        given = False
        try:
            await self._outside.add([_given_back(member.record) for member in members])
            given = True
        except Exception:
            logger.exception("the queue takes nothing back")
        finally:
            for lease in leases:
                (self._inner.ack_nowait if given else self._inner.release_nowait)(lease)
            if not given:
                logger.error(
                    "%d requests could not be given back to %s; they are in dispatcher.queue, and "
                    "lost with this process",
                    len(members),
                    type(self.queue).__name__,
                )

    async def keep_profile(self, profile: str) -> None:
        await self._inner.keep_profile(profile)

    # The queue outside

    async def _look(self) -> None:
        await self._outside.look()
        self._looked_at = anyio.current_time()
        self._see()
        self._line.grant()  # somebody else may have taken some

    def _see(self) -> None:
        self._seen_since.see(self._tail(), self._log.head, anyio.current_time())

    def _tail(self) -> int:
        return self._log.tail + self._outside.count

    def _queued(self) -> int:
        return self._outside.count + self._log.queued

    def _oldest(self) -> float:
        return self._seen_since.oldest(self._log.head, anyio.current_time())

    async def _take(self, count: int) -> None:
        await self._outside.take(count)
        # Fewer than asked for: there are no more, whatever its size says.
        if len(self._outside.taken) < count:
            self._outside.count = len(self._outside.taken)
        self._append_taken()

    def _append_taken(self) -> None:
        """Record what was popped: no await lies between the pop and this, but a cancellation may."""
        taken, self._outside.taken = self._outside.taken, []
        self._outside.count = max(0, self._outside.count - len(taken))
        self._inner.add_all_nowait([_element(value) for value in taken], bound=_UNBOUNDED)

    # Adding

    async def add(self, elements: Sequence[bytes], *, bound: int) -> int:
        if len(elements) > bound:
            raise ValueError(f"{len(elements)} requests at once, but the queue's bound is {bound}")
        await self._reserve(len(elements), bound)
        try:
            first = self._tail()
            await self._outside.add([decode(element) for element in elements])
        finally:
            self._line.reserved -= len(elements)
            self._line.grant()
        self._added()
        return first

    def _added(self) -> None:
        self._see()
        self._wake()

    async def _reserve(self, count: int, bound: int) -> None:
        await anyio.lowlevel.checkpoint()
        if self._line.has_room(count, bound):
            self._line.reserved += count
            return
        place = await self._line.stand(count, bound)
        self._line.reserved += count
        self._line.leave(place)

    async def wait_room(self, count: int, *, bound: int) -> None:
        await self._reserve(count, bound)
        self._line.reserved -= count
        self._line.grant()  # nothing was put in: the room is the next one's too

    def add_requests(self, requests: list[Any]) -> Awaitable[None]:
        """Append requests to the queue outside: they are in when this has been awaited.

        In a thread without an event loop it blocks until they are in. Dropped un-awaited on an
        event loop's thread, none of them is in, and an ERROR says how many.

        Raises:
            RequestRejected: one of them is no JSON value; none of them is in.
        """
        for request in requests:
            encode(request)
        values = values_of(requests)
        if not values:
            return Added()
        if running_loop() is not None:
            return Adding(len(values), lambda: self._add_values(values), "the queue is not ours")
        if self._token is not None:
            anyio.from_thread.run(self._add_values, values, token=self._token)
        else:
            self._outside.add_from_thread(values)
        return Added()

    async def _add_values(self, values: list[Any]) -> None:
        await self._outside.add(values)
        self._added()

    async def get_requests(self, count: int) -> list[Any]:
        """Take requests out of the queue outside."""
        values = await self._outside.get(count)
        await self._look()
        return values

    async def size(self) -> int:
        """How many requests the queue outside has now, with those taken and not leased."""
        await self._look()
        return self._queued()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    # Leasing

    async def lease(self, terms: Terms) -> Lease | None:
        self._append_taken()
        if self._log.again(terms.stores, anyio.current_time()):
            return await self._inner.lease(terms)
        await self._look()
        reason = self._due(terms)
        if reason is None:
            return None
        missing = min(terms.count, self._queued()) - self._log.queued
        if missing > 0:
            await self._take(missing)
        return await self._inner.lease(
            attrs.evolve(terms, minimum=1, position=_UNBOUNDED, reason=reason)
        )

    def _due(self, terms: Terms) -> CutReason | None:
        backlog = self._log.backlog(
            oldest=self._oldest(), now=anyio.current_time(), blocked=self._line.blocked
        )
        return terms.due(attrs.evolve(backlog, count=self._queued()))

    async def wait_due(self, terms: Terms) -> None:
        changed = self._changed
        await anyio.lowlevel.checkpoint()
        if self._log.again(terms.stores, anyio.current_time()) or self._due(terms):
            return
        with anyio.CancelScope(deadline=self._next_chance(terms)):
            await changed.wait()

    def _next_chance(self, terms: Terms) -> float:
        chances = [interval.ready for interval in self._log.waiting(terms.stores)]
        chances.append(self._looked_at + self.time_interval)
        if terms.age is not None and self._queued() >= terms.minimum:
            chances.append(self._oldest() + terms.age)
        return min(chances)

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
        self._freed()

    async def release(self, lease: Lease, delay: float = 0.0) -> None:
        await self._inner.release(lease, delay)
        self._wake()

    async def bury(self, lease: Lease, number: int, reason: str) -> None:
        await self._inner.bury(lease, number, reason)
        self._freed()

    def _freed(self) -> None:
        self._line.grant()
        self._wake()

    async def withdraw(self, number: int) -> bool:  # noqa: ARG002 - it may be anywhere
        """Too late: whoever keeps the queue may have given it out."""
        return False

    async def replan(self, interval_id: str) -> None:
        await self._inner.replan(interval_id)
        self._wake()

    # Waiting, dead letters, statistics

    async def position(self) -> int:
        await self._look()
        return self._tail()

    async def wait_passed(self, position: int) -> None:
        while True:
            changed = self._changed
            tail = self._log.tail
            await self._inner.wait_passed(min(position, tail))
            if tail >= position:
                return
            await self._look()
            # What is gone from outside without having come here was taken by somebody else.
            if not self._outside.count and tail == self._log.tail:
                return
            with anyio.move_on_after(self.time_interval):
                await changed.wait()

    async def dead_letters(self) -> list[DeadLetter]:
        return await self._inner.dead_letters()

    async def requeue(self, ids: Sequence[str]) -> int:
        bodies = {i: body for i in ids if (body := self._inner.dead_body(i)) is not None}
        await self._outside.add([_given_back(body) for body in bodies.values()])
        self._added()
        return await self._inner.drop(list(bodies))

    async def drop(self, ids: Sequence[str]) -> int:
        return await self._inner.drop(ids)

    async def last_sequence(self, producer: str) -> int | None:  # noqa: ARG002
        """Nobody has numbered anything here."""
        return None

    async def statistics(self) -> QueueStatistics:
        await self._look()
        return self.snapshot()

    def snapshot(self) -> QueueStatistics:
        """The statistics of the last look, without waiting."""
        queued = self._queued()
        oldest_age = max(0.0, anyio.current_time() - self._oldest()) if queued else 0.0
        return attrs.evolve(
            self._inner.snapshot(),
            requests_queued=queued + self._inner.log.released,
            oldest_age=oldest_age,
        )


def _element(value: Any) -> Element:
    """What came out of the queue; what is no JSON value is buried with its reason when leased."""
    try:
        return Element(encode(value))
    except RequestRejected:
        # In angle brackets no text is JSON, so nothing is sent that nobody meant.
        return Oddity(f"<{value!r}>".encode("utf-8", "replace"), value=value)


def _given_back(record: Any) -> Any:
    return record.value if isinstance(record, Oddity) else decode(record.element)

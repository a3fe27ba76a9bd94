"""The queue in memory: the same log and intervals as the durable ones, lost with the process."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Self, cast

import anyio
import anyio.from_thread
import anyio.lowlevel
import attrs

from .._encoding import decode, encode
from .._exceptions import FlushHeld, QueueMismatch, ResultUnavailable
from .._models import (
    Backlog,
    DeadLetter,
    Lease,
    Member,
    Plan,
    QueueStatistics,
    Ranges,
    Terms,
)
from ..abc import LeasingQueue
from ._adding import Added, Adding, running_loop
from ._line import Line, ThreadPlace
from ._log import IntervalLog, Record

SLICE = 2_000  # members a chunk: 50,000 in one step would stop the event loop for 40 ms
_NEVER = float("inf")


@attrs.define(eq=False)
class Element:
    """A request that came by `add_requests`: JSON text, or a function's request as it is."""

    element: Any
    encoded: bool = True
    number: int = -1
    time: float = 0.0


@attrs.define(eq=False)
class _Watch:
    """Somebody who waits until a batch may be due."""

    count: int
    size: float
    event: anyio.Event = attrs.field(factory=anyio.Event)


@attrs.define(eq=False)
class _Barrier:
    """Somebody who waits until the log is empty below a position."""

    position: int
    event: anyio.Event = attrs.field(factory=anyio.Event)


class InMemoryRequestQueue(LeasingQueue):
    """A queue that lives in this process, and loses what it holds with it.

    It runs the protocol of the durable queues with leases that never run out. What a dispatcher
    leaves behind in it can be taken up by the next one.

    Args:
        max_pending: the bound of `add_requests`, in requests queued or leased. A dispatcher brings
            its own.
    """

    def __init__(self, *, max_pending: int = 1_000_000) -> None:
        if max_pending < 1:
            raise ValueError(f"max_pending is {max_pending}; give at least 1")
        self.uid: str = secrets.token_hex(8)
        self.max_pending = max_pending
        self.log: IntervalLog = IntervalLog(self.uid)  # the adapter decides upon it too
        # Until it is entered, threads add to it with no event loop to order them.
        self._lock = threading.RLock()
        self._line = Line(lambda: self.log.held, self._wake_watches, self._lock)
        self._watches: list[_Watch] = []
        self._barriers: list[_Barrier] = []
        self._wake_count: float = _NEVER
        self._wake_size: float = _NEVER
        self._dead: dict[str, tuple[DeadLetter, Element]] = {}
        self._profile: str | None = None
        self._stores: frozenset[str] | None = None  # whose plans can be executed; None: unknown
        self._entered = 0
        self._token: anyio.lowlevel.EventLoopToken | None = None
        self._clock: Callable[[], float] = time.monotonic
        self._shifts: list[tuple[int, float]] = []

    # Entering

    async def __aenter__(self) -> Self:
        """Bind the queue to the running event loop; entering is counted."""
        self.bind()
        return self

    def bind(self) -> None:
        """Enter, without an `await`.

        Raises:
            RuntimeError: it is in use on another event loop.
        """
        token = anyio.lowlevel.current_token()
        if self._token is not None and self._token != token:
            raise RuntimeError("this queue is in use on another event loop; make one for each")
        with self._lock:
            if not self._entered:
                self._token = token
                self._change_clock(getattr(token.native_token, "time", None) or anyio.current_time)
            self._entered += 1

    async def __aexit__(self, *exc_info: object) -> None:
        """The last to leave unbinds it; its requests stay."""
        self.unbind()

    def unbind(self) -> None:
        """Leave, without an `await`."""
        with self._lock:
            self._entered -= 1
            if not self._entered:
                self._change_clock(time.monotonic)
                self._token = None
                self._stores = None

    def _change_clock(self, clock: Callable[[], float]) -> None:
        shift = clock() - self._clock()
        self._shifts.append((self.log.tail, shift))
        self.log.shift(shift)
        self._clock = clock

    async def keep_profile(self, profile: str) -> None:
        if self.log.held and self._profile not in (None, profile):
            raise QueueMismatch(
                f"the queue holds {self.log.held} requests in the format {self._profile!r}, not "
                f"{profile!r}; let a dispatcher of that kind finish them, or use another queue"
            )
        self._profile = profile

    # Adding

    def add_nowait(self, record: Record, *, bound: int) -> bool:
        """Append one record unless that needs standing in line; says whether it is in."""
        log = self.log
        line = self._line
        if line.places or log.queued + log.leased + line.reserved >= bound:
            return False
        log.append(record, self._clock())
        if log.queued >= self._wake_count or log.size >= self._wake_size:
            self._wake_watches()
        return True

    def add_all_nowait(self, records: Sequence[Record], *, bound: int) -> bool:
        """Append all records in one step, or none where that needs standing in line."""
        if not self._line.has_room(len(records), bound):
            return False
        self._append(records)
        return True

    async def add_records(self, records: Sequence[Record], *, bound: int) -> None:
        """Append all records in one step, as soon as it is their turn and there is room."""
        if self._line.has_room(len(records), bound):
            await anyio.lowlevel.checkpoint()
        if not self.add_all_nowait(records, bound=bound):
            place = await self._line.stand(len(records), bound)
            self._append(records)
            self._line.leave(place)

    async def add(self, elements: Sequence[bytes], *, bound: int) -> int:
        if len(elements) > bound:
            raise ValueError(f"{len(elements)} requests at once, but the queue's bound is {bound}")
        records = [Element(element) for element in elements]
        await self.add_records(records, bound=bound)
        return records[0].number if records else self.log.tail

    def _append(self, records: Sequence[Record]) -> None:
        now = self._clock()
        for record in records:
            self.log.append(record, now)
        if self.log.queued >= self._wake_count or self.log.size >= self._wake_size:
            self._wake_watches()

    async def wait_room(self, count: int, *, bound: int) -> None:
        if self._line.has_room(count, bound):
            await anyio.lowlevel.checkpoint()
            return
        self._line.leave(await self._line.stand(count, bound))

    @property
    def submitters_waiting(self) -> int:
        """How many stand in line."""
        return len(self._line.places)

    def add_requests(self, requests: list[Any]) -> Awaitable[None]:
        """Append requests: JSON values, full Batch API requests or bare partial ones.

        They are in when it returns; on a full queue, when what it returns has been awaited
        (dropped un-awaited, none of them is in, and an ERROR says how many). In a thread
        without an event loop it blocks until they are in.

        Args:
            requests: JSON values, or `RawRequest`s; while a dispatcher with a function has
                entered the queue, anything.

        Raises:
            RequestRejected: one of them is no JSON value; none of them is in.
            ValueError: more than the queue's `max_pending`.
        """
        records = [self._element(request) for request in requests]
        if len(records) > self.max_pending:
            raise ValueError(
                f"{len(records)} requests at once, but the queue's max_pending is "
                f"{self.max_pending}; add them in smaller lists"
            )
        here = running_loop()
        if here is None:
            self._add_from_thread(records)
            return Added()
        with self._lock:  # while nobody has entered, threads add too
            if self._token is not None and here != self._token:
                raise RuntimeError(
                    "the queue belongs to another event loop; add by anyio.from_thread there, or "
                    "from a worker thread"
                )
            if not records or self.add_all_nowait(records, bound=self.max_pending):
                return Added()
        return Adding(len(records), lambda: self._add_bounded(records), "the queue was full")

    def _element(self, request: Any) -> Element:
        if self._profile == "function" and self._entered:
            return Element(request, encoded=False)
        return Element(encode(request))

    def _add_from_thread(self, records: list[Element]) -> None:
        place = ThreadPlace(len(records), self.max_pending, lambda: self._append(records))
        with self._lock:
            token = self._token
            if token is None:
                if self.add_all_nowait(records, bound=self.max_pending):
                    return
                self._line.join(place)
        if token is not None:
            anyio.from_thread.run(self._add_bounded, records, token=token)
            return
        try:
            place.event.wait()
        except BaseException:  # Ctrl-C in the main thread
            self._line.leave(place)
            raise

    async def _add_bounded(self, records: list[Element]) -> None:
        await self.add_records(records, bound=self.max_pending)

    async def get_requests(self, count: int) -> list[Any]:
        """Lease up to `count` requests and acknowledge them: they are yours alone now.

        Whoever waits for one of their receipts learns that its answer goes somewhere else.
        """
        await anyio.lowlevel.checkpoint()
        with self._lock:
            records = self.log.take_out(count) if count > 0 else []
            self._freed()
        for record in records:
            abandon = getattr(record, "abandon", None)  # a receipt's
            if abandon is not None:
                abandon("the request was taken out of the queue", ResultUnavailable)
        return [decode(r.element) if self._is_text(r) else r.element for r in records]

    def _is_text(self, record: Record) -> bool:
        """Whether a record's element is JSON text, and not what a function takes as it is."""
        return record.encoded if isinstance(record, Element) else self._profile != "function"

    async def size(self) -> int:
        """How many requests are queued, those leased not counted."""
        await anyio.lowlevel.checkpoint()
        return self.log.queued + self.log.released

    # Leasing

    async def lease(self, terms: Terms) -> Lease | None:
        self._know(terms.stores)
        interval = self.log.again(terms.stores, self._clock())
        if interval is None:
            reason = terms.due(self._backlog())
            if reason is None:
                return None
            interval = self.log.cut(terms, reason)
        return self.log.take(interval)

    def _know(self, stores: frozenset[str]) -> None:
        """Note whose plans can be executed; only now it can be told which intervals are held."""
        if stores != self._stores:
            self._stores = stores
            self._wake_barriers(held=True)

    async def wait_due(self, terms: Terms) -> None:
        self._know(terms.stores)
        if self._may_lease(terms):
            await anyio.lowlevel.checkpoint()
            return
        log = self.log
        # From empty, the first request starts the clock; then only crossing the terms matters.
        count = max(terms.count, terms.minimum) if log.queued >= terms.minimum else terms.minimum
        if not log.queued:
            count = 1
        watch = _Watch(count, _NEVER if terms.size is None else terms.size)
        self._watches.append(watch)
        self._set_wake()
        try:
            with anyio.CancelScope(deadline=self._next_chance(terms)):
                await watch.event.wait()
        finally:
            self._watches.remove(watch)
            self._set_wake()

    def _may_lease(self, terms: Terms) -> bool:
        return (
            self.log.again(terms.stores, self._clock()) is not None
            or terms.due(self._backlog()) is not None
        )

    def _next_chance(self, terms: Terms) -> float:
        chances = [interval.ready for interval in self.log.waiting(terms.stores)]
        if terms.age is not None and terms.minimum <= self.log.queued:
            chances.append(self._oldest_time() + terms.age)
        return min(chances, default=_NEVER)

    def _backlog(self) -> Backlog:
        return self.log.backlog(
            oldest=self._oldest_time(), now=self._clock(), blocked=self._line.blocked
        )

    def _oldest_time(self) -> float:
        """When the oldest queued request was accepted, on today's clock."""
        record = self.log.oldest()
        if record is None:
            self._shifts.clear()  # none of them is about a request to come
            return self._clock()
        while self._shifts and self._shifts[0][0] <= record.number:
            del self._shifts[0]
        return record.time + sum(shift for _, shift in self._shifts)

    def _set_wake(self) -> None:
        self._wake_count = min((watch.count for watch in self._watches), default=_NEVER)
        self._wake_size = min((watch.size for watch in self._watches), default=_NEVER)

    def _wake_watches(self) -> None:
        for watch in self._watches:
            watch.event.set()
        self._wake_count = self._wake_size = _NEVER

    async def read(
        self, lease: Lease, ranges: Ranges | None = None
    ) -> AsyncIterator[Sequence[Member]]:
        members = self.log.members(lease, ranges)
        for start in range(0, len(members), SLICE):
            await anyio.lowlevel.checkpoint()
            yield members[start : start + SLICE]

    async def plan(self, lease: Lease, plan: Plan) -> Lease:
        interval = self.log.owned(lease)
        if interval.plan is None:
            interval.plan = plan
        return interval.lease()

    async def renew(self, lease: Lease) -> None:
        self.log.owned(lease)

    async def ack(self, lease: Lease) -> None:
        self.ack_nowait(lease)

    def ack_nowait(self, lease: Lease) -> None:
        """Forget the interval, without an `await`."""
        self.log.forget(lease)
        self._freed()

    async def release(self, lease: Lease, delay: float = 0.0) -> None:
        self.release_nowait(lease, delay)

    def release_nowait(self, lease: Lease, delay: float = 0.0) -> None:
        """Give the interval back, without an `await`."""
        self.log.release(lease, self._clock() + delay)
        self._wake_watches()
        self._wake_barriers(held=True)

    async def bury(self, lease: Lease, number: int, reason: str) -> None:
        record = self.log.bury(lease, number)
        if record is None:
            return
        element, encoded = record.element, self._is_text(record)
        request = _readable(element) if encoded else element
        letter = DeadLetter(
            f"{self.uid}-{number}", _custom_id(record, request), request, reason, time.time()
        )
        # A receipt has had its end: what may be requeued is a record of its own.
        body = record if isinstance(record, Element) else Element(element, encoded)
        self._dead[letter.id] = (letter, body)
        if body is not record:
            record.element = None
        self._freed()

    async def withdraw(self, number: int) -> bool:
        return self.withdraw_nowait(number)

    def withdraw_nowait(self, number: int) -> bool:
        """Take back a request that was not cut yet; its room goes to whoever is next in line."""
        withdrawn = self.log.withdraw(number)
        if withdrawn:
            self._freed()
        return withdrawn

    def _freed(self) -> None:
        self._line.grant()
        self._wake_barriers()

    async def replan(self, interval_id: str) -> None:
        interval = self.log.intervals.get(interval_id)
        if interval is None or interval.token:
            raise ValueError(f"{interval_id} is not an interval that nobody holds")
        interval.plan = None
        self._wake_watches()

    # Waiting for the log to empty

    async def position(self) -> int:
        return self.log.tail

    async def wait_passed(self, position: int) -> None:
        await anyio.lowlevel.checkpoint()
        while not self.log.passed(position):
            self._raise_if_held(position)
            barrier = _Barrier(position)
            self._barriers.append(barrier)
            try:
                await barrier.event.wait()
            finally:
                self._barriers.remove(barrier)

    def _raise_if_held(self, position: int) -> None:
        held = {
            interval_id: store
            for interval_id, store in self._held().items()
            if self.log.intervals[interval_id].start < position
        }
        if held:
            raise FlushHeld(
                "intervals are held because the handler of their plan is not known here: "
                + ", ".join(f"{i} (store {s})" for i, s in held.items())
                + "; start a dispatcher with that handler, or `await queue.replan(interval_id)`"
            )

    def _held(self) -> dict[str, str]:
        return {} if self._stores is None else self.log.out_of_reach(self._stores)

    def _wake_barriers(self, *, held: bool = False) -> None:
        for barrier in self._barriers:
            if held or self.log.passed(barrier.position):
                barrier.event.set()

    # Dead letters, statistics

    async def dead_letters(self) -> list[DeadLetter]:
        return [letter for letter, _ in self._dead.values()]

    async def requeue(self, ids: Sequence[str]) -> int:
        records = [self._dead.pop(i)[1] for i in ids if i in self._dead]
        self._append(records)
        return len(records)

    def dead_body(self, letter_id: str) -> Element | None:
        """What `requeue` would append for this dead letter."""
        found = self._dead.get(letter_id)
        return None if found is None else found[1]

    async def drop(self, ids: Sequence[str]) -> int:
        return sum(self._dead.pop(i, None) is not None for i in ids)

    async def last_sequence(self, producer: str) -> int | None:  # noqa: ARG002
        return None

    async def statistics(self) -> QueueStatistics:
        return self.snapshot()

    def snapshot(self) -> QueueStatistics:
        """The statistics, without waiting."""
        log, released = self.log, self.log.released
        return QueueStatistics(
            requests_queued=log.queued + released,
            bytes_queued=log.size,
            oldest_age=max(0.0, self._clock() - self._oldest_time()) if log.queued else 0.0,
            requests_leased=log.leased - released,
            requests_dead=len(self._dead),
            held=self._held(),
            capacity=self.max_pending,
        )

    def records(self) -> list[Record]:
        """Everything queued or leased, in order."""
        return list(self.log.records())


def _readable(element: bytes) -> Any:
    try:
        return decode(element)
    except ValueError:
        return element.decode("utf-8", "replace")


def _custom_id(record: Record, request: Any) -> str | None:
    """A receipt has the id; otherwise the request may say it."""
    custom_id: Any = getattr(record, "custom_id", None)
    if custom_id is None and isinstance(request, dict):
        custom_id = cast(dict[str, Any], request).get("custom_id")
    return custom_id if isinstance(custom_id, str) else None


__all__ = ["Element", "InMemoryRequestQueue"]

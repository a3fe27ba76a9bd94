"""When a batch is cut: an idle worker, a handler with room, and a queue that is due."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import attrs

from ._backoff import DEFECTS, Backoff
from ._models import CutReason, Lease, Terms
from ._receipts import Receipt
from .abc import LeasingQueue

logger = logging.getLogger(__name__)

IDLE_PAUSE = 60.0  # seconds between two cuts for idleness, and how long a waiter is kept unwarned
_NEVER = float("inf")


class Waiters:
    """Who waits for the receipt of a queued request, and since when nothing has come.

    Args:
        idle_threshold: seconds without a new request after which a waited-for one makes a batch
            due; None: never.
        age: the time threshold in seconds, for the warning.
    """

    def __init__(self, idle_threshold: float | None, age: float | None) -> None:
        self.idle_threshold = idle_threshold
        self.last_submit = -_NEVER
        self._last_cut = -_NEVER
        self._waited: dict[int, tuple[Receipt[Any], int]] = {}  # and how many tasks wait for it
        slowest = min(idle_threshold or _NEVER, age or _NEVER)
        self._warns = slowest > IDLE_PAUSE
        self._age = age
        self.tracked = idle_threshold is not None or self._warns
        self.changed: Callable[[], None] = lambda: None

    def waiting(self, receipt: Receipt[Any]) -> None:
        """A task waits for a queued receipt."""
        first = not self._waited
        count = self._waited.get(id(receipt), (receipt, 0))[1]
        self._waited[id(receipt)] = (receipt, count + 1)
        if self._warns:
            self._warn(receipt)
        if first and self.idle_threshold is not None:
            self.changed()

    def not_waiting(self, receipt: Receipt[Any]) -> None:
        """One of the tasks that waited for it waits no more."""
        count = self._waited.pop(id(receipt), (receipt, 0))[1]
        if count > 1:
            self._waited[id(receipt)] = (receipt, count - 1)

    def leased(self, lease: Lease) -> None:
        """These requests have left the queue."""
        for key, (receipt, _) in list(self._waited.items()):
            if lease.start <= receipt.number < lease.stop or receipt.status != "queued":
                del self._waited[key]

    def idle_cut(self, now: float) -> None:
        """A batch was cut because nothing had come."""
        self._last_cut = now

    def deadline(self) -> float:
        """When what is queued becomes due for idleness, on the event loop's clock."""
        if not self._waited or self.idle_threshold is None:
            return _NEVER
        return max(self.last_submit + self.idle_threshold, self._last_cut + IDLE_PAUSE)

    def _warn(self, receipt: Receipt[Any]) -> None:
        self._warns = False
        due = "no age makes it due" if self._age is None else f"at the latest {self._age:g} s old"
        logger.warning(
            "a task waits for request %s, which may stay queued for more than a minute (%s); "
            "`await dispatcher.flush()`, a smaller time_threshold or an idle_threshold hurries it",
            receipt.custom_id,
            due,
        )


@attrs.define(eq=False)
class Cutter:
    """Decides on what terms the queue is asked, and waits between the questions.

    Args:
        terms: gives the terms of the thresholds alone.
        wait_room: returns when a handler has room.
    """

    queue: LeasingQueue
    terms: Callable[[], Terms]
    waiters: Waiters
    wait_room: Callable[[], Awaitable[None]]
    position: int = 0
    reason: CutReason = CutReason.FLUSH
    _scope: anyio.CancelScope | None = None
    _stale: bool = False
    _warned_minimum: bool = False

    def cut_up_to(self, position: int, reason: CutReason) -> None:
        """All that the queue accepted below this position is due from now on."""
        if position >= self.position:
            self.position, self.reason = position, reason
        self.ask_again()

    def ask_again(self) -> None:
        """The terms have changed: whoever waits on the old ones has to look again."""
        self._stale = True
        if self._scope is not None:
            self._scope.cancel()

    async def next_lease(self) -> Lease:
        """Return the next batch to dispatch, cut as late as it can be."""
        backoff = Backoff()
        while True:
            await self.wait_room()
            try:
                lease = await self._ask()
            except DEFECTS:
                raise
            except Exception:
                pause = backoff.next()
                logger.warning("the queue does not answer; again in %.1f s", pause, exc_info=True)
                await anyio.sleep(pause)
                continue
            if lease is not None:
                return lease

    async def _ask(self) -> Lease | None:
        """Ask the queue once; wait for a better moment where it has nothing."""
        self._stale = False
        terms = await self._current_terms()
        lease = await self.queue.lease(terms)
        if lease is not None:
            if lease.reason is CutReason.IDLE:
                self.waiters.idle_cut(anyio.current_time())
            self.waiters.leased(lease)
            return lease
        await self._warn_of_minimum(terms)
        if not self._stale:
            await self._wait(terms)
        return None

    async def _current_terms(self) -> Terms:
        terms = self.terms()
        if anyio.current_time() >= self.waiters.deadline():
            # A minimum of records is the provider's: idleness, like the thresholds, keeps it.
            if terms.minimum <= (await self.queue.statistics()).requests_queued:
                position = await self.queue.position()
                return attrs.evolve(terms, position=position, reason=CutReason.IDLE)
            self.waiters.idle_cut(anyio.current_time())
        return attrs.evolve(terms, position=self.position, reason=self.reason)

    async def _wait(self, terms: Terms) -> None:
        deadline = self.waiters.deadline()
        if terms.minimum > 1 and terms.age is not None and not self._warned_minimum:
            deadline = min(deadline, anyio.current_time() + terms.age)
        with anyio.CancelScope(deadline=deadline) as self._scope:
            await self.queue.wait_due(terms)
        self._scope = None

    async def _warn_of_minimum(self, terms: Terms) -> None:
        if terms.minimum <= 1 or terms.age is None or self._warned_minimum:
            return
        queued = await self.queue.statistics()
        if 0 < queued.requests_queued < terms.minimum and queued.oldest_age >= terms.age:
            self._warned_minimum = True
            logger.warning(
                "%d requests are queued, and the provider takes no batch below %d: no threshold "
                "makes them due until more come; flush() would fail them",
                queued.requests_queued,
                terms.minimum,
            )

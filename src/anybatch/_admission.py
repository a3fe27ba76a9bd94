"""The submit path after the intake: from a checked request to a record in the queue."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import anyio

from ._exceptions import RequestRejected
from ._intake import Intake
from ._receipts import Receipt, as_receipt
from ._watcher import Waiters
from .abc import LeasingQueue
from .request_queues.memory import InMemoryRequestQueue


class Admission:
    """Lets requests into the queue while the dispatcher is open, and knows their receipts.

    Args:
        queue: owns the requests from here on.
        intake: checks and encodes them.
        waiters: told when a request comes, and who waits for one.
        max_pending: requests queued or leased, above which submitters stand in line.
        until_settled: whether requests are the dispatcher's until they have their answer (a
            function's), not just until a handler has accepted them.
    """

    def __init__(
        self,
        queue: LeasingQueue,
        intake: Intake,
        waiters: Waiters,
        max_pending: int,
        *,
        until_settled: bool,
    ) -> None:
        self._until_settled = until_settled
        self.queue = queue
        # The queue whose records are the receipts: no task switch between check and append.
        self.memory = queue if isinstance(queue, InMemoryRequestQueue) else None
        self.intake = intake
        self.waiters = waiters
        self.max_pending = max_pending
        self.submitted = 0
        self.submitters_waiting = 0
        self.closed: Callable[[], Exception] | None = None
        self.thread = threading.get_ident()
        self._given: dict[str, Receipt[Any]] = {}  # ids given by users, of queued and leased
        self._elsewhere: dict[str, Receipt[Any]] = {}  # receipts that are not the queue's records
        self._visitors: set[anyio.CancelScope] = set()  # callers who wait in here

    def receipt(self, request: Any, custom_id: str | None) -> tuple[Receipt[Any], bool]:
        """Check and encode a request; says whether its id is the user's."""
        line_id, element, given = self.intake.prepare(request, custom_id)
        return Receipt(line_id, element, self), given

    def admit_nowait(self, receipt: Receipt[Any], given: bool) -> bool:
        """Append one request to the queue in memory, unless it has to stand in line."""
        if self.closed is not None:
            raise self.closed()
        if given:
            self._check_unique([receipt])
        if self.memory is None or not self.memory.add_nowait(receipt, bound=self.max_pending):
            return False
        # As `_admitted`, without its tuples: this is the way of every single request.
        self.submitted += 1
        self.waiters.last_submit = receipt.time
        if given:
            self._given[receipt.custom_id] = receipt
        return True

    def admit_all_nowait(
        self, receipts: Sequence[Receipt[Any]], given: Sequence[Receipt[Any]]
    ) -> bool:
        """Append all requests in one step, or none."""
        if self.closed is not None:
            raise self.closed()
        self._check_unique(given)
        if self.memory is None or not self.memory.add_all_nowait(receipts, bound=self.max_pending):
            return False
        self._admitted(receipts, given)
        return True

    async def admit(self, receipts: Sequence[Receipt[Any]], given: Sequence[Receipt[Any]]) -> None:
        """Append all requests in one step, when it is their turn and there is room."""
        self.submitters_waiting += 1
        named = {receipt.custom_id: receipt for receipt in given}
        self._given.update(named)  # at once: who comes while we wait must not take the same
        try:
            with self.until_left():
                if self.memory is not None:
                    await self.memory.add_records(receipts, bound=self.max_pending)
                else:
                    await self._admit_elsewhere(receipts)
        except BaseException:
            for custom_id in named:
                self._given.pop(custom_id, None)
            raise
        finally:
            self.submitters_waiting -= 1
        self._admitted(receipts, given)

    async def _admit_elsewhere(self, receipts: Sequence[Receipt[Any]]) -> None:
        # In the book before they are in the queue: they may be leased before the add returns.
        ids = {receipt.custom_id: receipt for receipt in receipts}
        self._elsewhere.update(ids)
        try:
            await self.queue.add([r.element for r in receipts], bound=self.max_pending)
        except BaseException:
            for custom_id in ids:
                self._elsewhere.pop(custom_id, None)
            raise

    def _admitted(self, receipts: Sequence[Receipt[Any]], given: Sequence[Receipt[Any]]) -> None:
        self.submitted += len(receipts)
        self.waiters.last_submit = receipts[-1].time or anyio.current_time()
        for receipt in given:
            self._given[receipt.custom_id] = receipt

    def _check_unique(self, given: Sequence[Receipt[Any]]) -> None:
        seen: set[str] = set()
        for receipt in given:
            known = self._given.get(receipt.custom_id)
            if receipt.custom_id in seen or (known is not None and self._is_here(known)):
                raise RequestRejected(
                    f"custom_id {receipt.custom_id!r} is in use by a request that is not handed "
                    "over yet; give each request its own"
                )
            seen.add(receipt.custom_id)

    def _is_here(self, receipt: Receipt[Any]) -> bool:
        """Whether the request is still queued or leased here."""
        if self._until_settled:
            return not receipt.settled
        return receipt.status == "queued"

    def find_receipt(self, custom_id: str) -> Receipt[Any] | None:
        """The receipt of a request whose record is elsewhere."""
        return self._elsewhere.get(custom_id)

    # The desk of queued receipts

    def withdraw(self, receipt: Receipt[Any]) -> bool:
        """Take a request back while it is queued in memory."""
        if self.memory is None or not self.memory.withdraw_nowait(receipt.number):
            return False
        self._given.pop(receipt.custom_id, None)
        return True

    def waiting(self, receipt: Receipt[Any]) -> None:
        """A task waits for a receipt."""
        if self.waiters.tracked:
            self.waiters.waiting(receipt)

    def not_waiting(self, receipt: Receipt[Any]) -> None:
        """It waits no more."""
        if self.waiters.tracked:
            self.waiters.not_waiting(receipt)

    # Closing

    def closed_error(self) -> Exception:
        """What whoever still calls is told."""
        return self.closed() if self.closed is not None else anyio.ClosedResourceError()

    @contextmanager
    def until_left(self) -> Generator[None]:
        """Whoever waits in here is woken when the dispatcher is left, and told so."""
        if self.closed is not None:
            raise self.closed()
        with anyio.CancelScope() as scope:
            self._visitors.add(scope)
            try:
                yield
            finally:
                self._visitors.discard(scope)
        if scope.cancelled_caught:
            raise self.closed_error()

    def close_intake(self, error: Callable[[], Exception]) -> None:
        """Take no more requests; wake those who wait to submit, and those who wait for a flush."""
        if self.closed is None:
            self.closed = error
            for scope in list(self._visitors):
                scope.cancel()

    def forget_dispatched(self) -> None:
        """Forget the ids of requests that are queued or leased no more."""
        for book in (self._given, self._elsewhere):
            for custom_id in [i for i, r in book.items() if not self._is_here(r)]:
                del book[custom_id]

    def abandon_all(self) -> None:
        """Settle the receipts of what stays in the queue: nobody here will learn of the answers."""
        stays = list(self._elsewhere.values())
        if self.memory is not None:
            stays += [r for r in map(as_receipt, self.memory.records()) if r is not None]
        # Another dispatcher's on the same queue are not ours, nor are those a handler has accepted.
        for receipt in (r for r in stays if r.desk is self and self._is_here(r)):
            receipt.abandon(
                f"the dispatcher was left before request {receipt.custom_id} was handed over; it "
                "stays in the queue: do not submit it again"
            )

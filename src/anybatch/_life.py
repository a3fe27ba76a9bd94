"""One entering of a dispatcher: its tasks, its leases, and the ways it ends."""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import anyio
from anyio.abc import TaskGroup

from ._exceptions import DrainTimeout, FlushHeld, RequestRejected
from ._intake import Intake
from ._models import CutReason, Lease, Terms
from ._receipts import Receipt
from ._watcher import Cutter, Waiters
from ._worker import Leases, work
from .abc import LeasingQueue
from .request_queues.memory import InMemoryRequestQueue

logger = logging.getLogger(__name__)

Deliver = Callable[[Lease], Awaitable[int]]


class Life:
    """What a dispatcher has while it is entered.

    Args:
        queue: owns the requests.
        intake: checks and encodes them.
        deliver: hands a lease over.
        terms: the thresholds.
        waiters: who waits for receipts.
        workers: how many leases are dispatched at a time.
        max_pending: the bound of the queue.
        wait_room: returns when a handler has room.
    """

    def __init__(
        self,
        queue: LeasingQueue,
        intake: Intake,
        deliver: Deliver,
        terms: Callable[[], Terms],
        waiters: Waiters,
        *,
        workers: int,
        max_pending: int,
        wait_room: Callable[[], Awaitable[None]],
    ) -> None:
        self.queue = queue
        # The queue whose records are the receipts: no task switch between check and append.
        self.memory = queue if isinstance(queue, InMemoryRequestQueue) else None
        self.intake = intake
        self.waiters = waiters
        self.cutter = Cutter(queue, terms, waiters, wait_room)
        waiters.changed = self.cutter.ask_again
        self.leases = Leases(queue)
        self.max_pending = max_pending
        self.submitted = 0
        self.submitters_waiting = 0
        self.cuts: dict[str, int] = {}
        self.closed: Callable[[], Exception] | None = None
        self.thread = threading.get_ident()
        self.tasks: TaskGroup | None = None
        self._deliver = deliver
        self._workers = workers
        self._given: dict[str, Receipt[Any]] = {}  # ids given by users, of queued and leased
        self._elsewhere: dict[str, Receipt[Any]] = {}  # receipts that are not the queue's records
        self._visitors: set[anyio.CancelScope] = set()  # callers who wait in here
        self._watching = anyio.CancelScope()

    # Tasks

    def start_task(self, visit: Callable[[], Awaitable[None]], name: str) -> None:
        """Run a caller's business in our task group, until it ends or the dispatcher is left."""
        if self.tasks is None or self.closed is not None:
            raise self.closed_error()
        self.tasks.start_soon(self._visit, visit, name=f"anybatch {name}")

    async def _visit(self, visit: Callable[[], Awaitable[None]]) -> None:
        with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError), self.until_left():
            await visit()

    def start(self, tasks: TaskGroup) -> None:
        """Start the watcher and the workers."""
        self.tasks = tasks
        idle = anyio.Semaphore(self._workers)
        send, receive = anyio.create_memory_object_stream[Lease](self._workers)
        for number in range(self._workers):
            tasks.start_soon(
                self._work, receive.clone(), idle, name=f"anybatch dispatch worker {number + 1}"
            )
        receive.close()
        tasks.start_soon(self._watch, send, idle, name="anybatch threshold watcher")

    async def _watch(self, leases: Any, idle: anyio.Semaphore) -> None:
        with leases, self._watching:
            while True:
                await idle.acquire()  # a worker gives it back after ack or release
                lease = await self.cutter.next_lease()
                self.leases.take(lease)  # recorded before the next await
                reason = lease.reason.value
                self.cuts[reason] = self.cuts.get(reason, 0) + 1
                leases.send_nowait(lease)  # the buffer is the number of workers

    async def _work(self, leases: Any, idle: anyio.Semaphore) -> None:
        with leases:
            await work(leases, self.leases, self._deliver_and_forget, idle)

    async def _deliver_and_forget(self, lease: Lease) -> int:
        batches = await self._deliver(lease)
        if self._given or self._elsewhere:
            self._forget_dispatched()
        return batches

    def _forget_dispatched(self) -> None:
        for book in (self._given, self._elsewhere):
            for custom_id in [i for i, r in book.items() if r.status != "queued"]:
                del book[custom_id]

    # Submitting

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
        self._admitted((receipt,), (receipt,) if given else ())
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

    async def admit(
        self, receipts: Sequence[Receipt[Any]], given: Sequence[Receipt[Any]]
    ) -> None:
        """Append all requests in one step, when it is their turn and there is room."""
        self.submitters_waiting += 1
        try:
            with self.until_left():
                if self.memory is not None:
                    await self.memory.add_records(receipts, bound=self.max_pending)
                else:
                    await self._admit_elsewhere(receipts)
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

    def _admitted(
        self, receipts: Sequence[Receipt[Any]], given: Sequence[Receipt[Any]]
    ) -> None:
        self.submitted += len(receipts)
        self.waiters.last_submit = receipts[-1].time or anyio.current_time()
        for receipt in given:
            self._given[receipt.custom_id] = receipt

    def _check_unique(self, given: Sequence[Receipt[Any]]) -> None:
        seen: set[str] = set()
        for receipt in given:
            known = self._given.get(receipt.custom_id)
            if receipt.custom_id in seen or (known is not None and known.status == "queued"):
                raise RequestRejected(
                    f"custom_id {receipt.custom_id!r} is in use by a request that is not handed "
                    "over yet; give each request its own"
                )
            seen.add(receipt.custom_id)

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

    # Ending

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

    async def flush(self) -> None:
        """All that the queue has accepted by now is handed over when this returns."""
        position = await self.queue.position()
        self.cutter.cut_up_to(position, CutReason.FLUSH)
        await self.queue.wait_passed(position)

    async def flush_soon(self) -> None:
        """Make all that the queue has accepted by now due, without waiting for it."""
        self.cutter.cut_up_to(await self.queue.position(), CutReason.FLUSH)

    async def drain(self, seconds: float) -> None:
        """Hand over everything that can be; raises `DrainTimeout` if that takes too long."""
        with anyio.move_on_after(seconds) as scope:
            position = await self.queue.position()
            self.cutter.cut_up_to(position, CutReason.CLOSE)
            try:
                await self.queue.wait_passed(position)
            except FlushHeld as error:
                logger.warning("%s", error)
            await self.leases.wait_empty()
        if scope.cancelled_caught:
            left = await self.queue.statistics()
            raise DrainTimeout(
                f"after {seconds:g} s {left.requests_queued} requests are queued and "
                f"{left.requests_leased} leased; they are still in dispatcher.queue. Give a longer "
                "drain_timeout, or look why the handler does not take them"
            )

    async def finish_leased(self, seconds: float) -> None:
        """Cut nothing more; let what is leased be handed over, if it takes no longer."""
        self._watching.cancel()
        with anyio.move_on_after(seconds):
            await self.leases.wait_empty()

    async def end(self) -> None:
        """Release what is leased and settle the receipts of what stays; the tasks are gone."""
        await self.leases.release_all()
        stays = list(self._elsewhere.values())
        if self.memory is not None:
            stays += [r for r in self.memory.records() if isinstance(r, Receipt)]
        for receipt in stays:
            receipt.abandon(
                f"the dispatcher was left before request {receipt.custom_id} was handed over; it "
                "stays in the queue: do not submit it again"
            )
        if self.memory is not None and (kept := self.memory.snapshot().requests_queued):
            logger.warning(
                "%d requests stay in the queue in memory; they are lost with this process unless a "
                "dispatcher takes up the queue again",
                kept,
            )

"""One entering of a dispatcher: its tasks, its leases, and the ways it ends."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import anyio
from anyio.abc import TaskGroup

from ._admission import Admission
from ._exceptions import DrainTimeout, FlushHeld
from ._models import CutReason, Lease, Terms
from ._watcher import Cutter
from ._worker import Leases, work
from .abc import LeasingQueue

logger = logging.getLogger(__name__)

Deliver = Callable[[Lease], Awaitable[int]]


class Life:
    """What a dispatcher has while it is entered.

    Args:
        queue: owns the requests.
        admission: lets requests in.
        deliver: hands a lease over.
        terms: the thresholds.
        workers: how many leases are dispatched at a time.
        wait_room: returns when a handler has room.
    """

    def __init__(
        self,
        queue: LeasingQueue,
        admission: Admission,
        deliver: Deliver,
        terms: Callable[[], Terms],
        *,
        workers: int,
        wait_room: Callable[[], Awaitable[None]],
    ) -> None:
        self.queue = queue
        self.admission = admission
        self.cutter = Cutter(queue, terms, admission.waiters, wait_room)
        admission.waiters.changed = self.cutter.ask_again
        self.leases = Leases(queue)
        self.cuts: dict[str, int] = {}
        self._tasks: TaskGroup | None = None
        self._deliver = deliver
        self._workers = workers
        self._watching = anyio.CancelScope()

    # Tasks

    def start_task(
        self, visit: Callable[[], Awaitable[None]], ended: Callable[[], None], name: str
    ) -> None:
        """Run a caller's business in our task group, until it ends or the dispatcher is left.

        Args:
            visit: the business.
            ended: called at its end in any case, even where it never began.
            name: the task's.
        """
        if self._tasks is None or self.admission.closed is not None:
            raise self.admission.closed_error()
        self._tasks.start_soon(self._visit, visit, ended, name=f"anybatch {name}")

    async def _visit(self, visit: Callable[[], Awaitable[None]], ended: Callable[[], None]) -> None:
        left = (anyio.ClosedResourceError, anyio.BrokenResourceError)
        try:
            with suppress(*left), self.admission.until_left():
                await visit()
        finally:
            ended()

    def start(self, tasks: TaskGroup) -> None:
        """Start the watcher and the workers."""
        self._tasks = tasks
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
        self.admission.forget_dispatched()
        return batches

    # Ending

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
                await self._drain_beside_held()
            await self.leases.wait_empty()
        if scope.cancelled_caught:
            left = await self.queue.statistics()
            raise DrainTimeout(
                f"after {seconds:g} s {left.requests_queued} requests are queued and "
                f"{left.requests_leased} leased; they are still in dispatcher.queue. Give a longer "
                "drain_timeout, or look why the handler does not take them"
            )

    async def _drain_beside_held(self) -> None:
        """Held intervals stay; what is queued beside them is handed over all the same."""
        while self.leases.open or (await self.queue.statistics()).requests_queued:
            await self.leases.wait_change()

    async def finish_leased(self, seconds: float) -> None:
        """Cut nothing more; let what is leased be handed over, if it takes no longer."""
        self._watching.cancel()
        with anyio.move_on_after(seconds):
            await self.leases.wait_empty()

    async def end(self) -> None:
        """Release what is leased and settle the receipts of what stays; the tasks are gone."""
        try:
            await self.leases.release_all()
        finally:  # even where a native cancellation breaks the shield
            self.admission.abandon_all()
        memory = self.admission.memory
        if memory is not None and (kept := memory.log.held):
            logger.warning(
                "%d requests stay in the queue in memory; they are lost with this process unless a "
                "dispatcher takes up the queue again",
                kept,
            )

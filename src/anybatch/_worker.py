"""How a leased batch is dispatched: delivered, then acknowledged; else released and tried again."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, Awaitable, Callable

import anyio
import attrs

from ._backoff import DEFECTS, Backoff
from ._exceptions import LeaseLost
from ._models import Lease
from .abc import LeasingQueue

logger = logging.getLogger(__name__)

RELEASE_TRY = 2.0  # seconds for one shielded try; a lease that is not released expires


@attrs.define(eq=False)
class Leases:
    """The leases of one dispatcher that are neither acknowledged nor released, and what became."""

    queue: LeasingQueue
    open: dict[str, Lease] = attrs.field(factory=dict[str, Lease])
    requests_dispatched: int = 0
    batches_dispatched: int = 0
    failures: int = 0
    _backoffs: dict[str, Backoff] = attrs.field(factory=dict[str, Backoff])
    _changed: anyio.Event | None = None

    def take(self, lease: Lease) -> None:
        """Record a lease: before the next await, so that leaving finds it."""
        self.open[lease.id] = lease
        self._ring()

    def forget(self, lease: Lease) -> None:
        """The lease is over."""
        self.open.pop(lease.id, None)
        self._ring()

    def _ring(self) -> None:
        if self._changed is not None:
            self._changed.set()

    async def wait_change(self) -> None:
        """Return when a lease was taken, or is over."""
        self._changed = anyio.Event()
        await self._changed.wait()

    async def wait_empty(self) -> None:
        """Return when no lease is open."""
        while self.open:
            await self.wait_change()

    async def ack(self, lease: Lease, batches: int) -> None:
        """All members were delivered."""
        await self.queue.ack(lease)
        self.requests_dispatched += lease.count
        self.batches_dispatched += batches
        self._backoffs.pop(lease.id, None)
        self.forget(lease)

    async def release_later(self, lease: Lease, error: Exception) -> None:
        """The delivery failed: the interval waits for its back-off, the same members again."""
        self.failures += 1
        delay = self._backoffs.setdefault(lease.id, Backoff()).next()
        logger.warning(
            "batch %s (%d requests) could not be handed over; again in %.1f s: %s: %s",
            lease.id,
            lease.count,
            delay,
            type(error).__name__,
            error,
            exc_info=logger.isEnabledFor(logging.DEBUG),
        )
        await self._release(lease, delay)

    async def release_all(self) -> None:
        """Give back what is open: one shielded try each; in memory it cannot fail."""
        for lease in list(self.open.values()):
            await self._release(lease, 0.0)

    async def _release(self, lease: Lease, delay: float) -> None:
        try:
            with anyio.move_on_after(RELEASE_TRY, shield=True):
                await self.queue.release(lease, delay)
        except Exception as error:  # noqa: BLE001 - leaving goes on; the lease expires
            logger.warning("lease %s could not be released; it will expire: %s", lease.id, error)
        finally:
            self.forget(lease)


async def work(
    leases: AsyncIterable[Lease],
    book: Leases,
    deliver: Callable[[Lease], Awaitable[int]],
    idle: anyio.Semaphore,
) -> None:
    """Dispatch leases, one after the other, each in a cancel scope of its own.

    Args:
        leases: where they come from.
        book: where they are accounted for.
        deliver: hands one over, and says as how many batches.
        idle: told whenever this worker can take another.
    """
    async for lease in leases:
        with anyio.CancelScope():
            await _dispatch(lease, book, deliver)
        idle.release()


async def _dispatch(lease: Lease, book: Leases, deliver: Callable[[Lease], Awaitable[int]]) -> None:
    try:
        batches = await deliver(lease)
        await book.ack(lease, batches)
    except LeaseLost as error:
        logger.warning("batch %s: %s", lease.id, error)
        book.forget(lease)
    except DEFECTS:
        raise
    except Exception as error:  # noqa: BLE001 - storage or handler down: tried again, for ever
        await book.release_later(lease, error)

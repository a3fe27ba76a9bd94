"""A lease → the user's function → receipts: the dispatcher as a general micro-batcher."""

from __future__ import annotations

import logging
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
import anyio.lowlevel
import attrs

from ._encoding import decode
from ._exceptions import RequestFailed
from ._models import Lease, Member
from ._receipts import Failure, Receipt, as_receipt
from .abc import LeasingQueue

logger = logging.getLogger(__name__)

SLICE = 2_000

Function = Callable[[list[Any]], Awaitable[Sequence[Any]]]


@attrs.frozen(eq=False)
class FunctionDelivery:
    """Calls the user's function with the requests of a lease and settles their receipts."""

    queue: LeasingQueue
    function: Function

    async def __call__(self, lease: Lease) -> int:
        """Deliver one lease; whatever the function raises stays with these requests."""
        members = [member async for chunk in self.queue.read(lease) for member in chunk]
        for member in members:
            receipt = as_receipt(member.record)
            if receipt is not None:
                receipt.dispatched()
        requests = [_request(member) for member in members]
        try:
            results = await self.function(requests)
            _check_length(results, len(requests))
        except anyio.get_cancelled_exc_class() as cancelled:  # noqa: ASYNC103 - its own, where we are not
            if _is_cancelled():
                raise
            # It awaited something of its own that was cancelled: not us.
            error = RuntimeError("the function awaited something that was cancelled")
            error.__cause__ = cancelled
            results = [error] * len(requests)
        except Exception as error:
            logger.debug("the function failed for batch %s", lease.id, exc_info=True)
            results = [error] * len(requests)
        await self._settle(lease, members, results)
        return 1

    async def _settle(self, lease: Lease, members: list[Member], results: Sequence[Any]) -> None:
        for index, (member, result) in enumerate(zip(members, results, strict=True), 1):
            receipt = as_receipt(member.record)
            if receipt is not None:
                _settle_receipt(receipt, result)
            elif isinstance(result, Exception):
                await self.queue.bury(lease, member.number, _words(result))
            if index % SLICE == 0:
                # The answers are there: a cancellation has to wait until all are delivered.
                await anyio.lowlevel.cancel_shielded_checkpoint()


def _request(member: Member) -> Any:
    if as_receipt(member.record) is not None or not getattr(member.record, "encoded", True):
        return member.element
    return decode(member.element)


def _settle_receipt(receipt: Receipt[Any], result: Any) -> None:
    if isinstance(result, Exception):
        receipt.fail(Failure(RequestFailed, str(result), type(result).__name__, result))
    else:
        receipt.answer(result)


def _is_cancelled() -> bool:
    """Whether it is this very task that is being cancelled, by a scope or natively."""
    if anyio.current_effective_deadline() == float("-inf"):
        return True
    # Only asyncio lets a cancellation out of something that was merely awaited.
    asyncio = sys.modules.get("asyncio")
    if asyncio is None or not hasattr(anyio.lowlevel.current_token().native_token, "call_soon"):
        return True
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _check_length(results: object, count: int) -> None:
    if not isinstance(results, Sequence) or isinstance(results, (str, bytes)):
        raise TypeError(
            f"the function returned {type(results).__name__}; return a sequence with one result "
            "for each request"
        )
    length = len(results)  # pyright: ignore[reportUnknownArgumentType]
    if length != count:
        raise ValueError(
            f"the function returned {length} results for {count} requests; return one for "
            "each, an exception for one that failed"
        )

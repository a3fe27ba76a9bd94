"""`process()`: requests in from a source, answers out as they come, back-pressure both ways."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Generic, TypeVar

import anyio

from ._exceptions import ReceiptError, RequestFailed
from ._receipts import Receipt

RequestT = TypeVar("RequestT")
AnswerT = TypeVar("AnswerT")


class Conveyor(Generic[RequestT, AnswerT]):
    """Carries a source's requests to a dispatcher, and the answers back.

    Args:
        source: where requests come from.
        submit: takes one, and returns its receipt.
        flush: makes all that was submitted due; called when the source ends, and when no more may
            be under way.
        bound: requests submitted and not yet taken by the consumer.
        ordered: whether answers keep the source's order.
    """

    def __init__(
        self,
        source: Iterable[RequestT] | AsyncIterable[RequestT],
        submit: Callable[[RequestT], Awaitable[Receipt[AnswerT]]],
        flush: Callable[[], Awaitable[None]],
        *,
        bound: int,
        ordered: bool,
    ) -> None:
        self._source = source
        self._submit = submit
        self._flush = flush
        self._ordered = ordered
        self._room = anyio.Semaphore(bound, max_value=bound)
        self._scope = anyio.CancelScope()
        self._under_way: dict[int, Receipt[AnswerT]] = {}
        self._ready: deque[Receipt[AnswerT]] = deque()
        self._queue: deque[Receipt[AnswerT]] = deque()
        self._changed = anyio.Event()
        self._ended = False
        self._error: BaseException | None = None

    async def feed(self) -> None:
        """Take from the source until it ends; runs as a task of the dispatcher."""
        try:
            with self._scope:
                await self._feed()
        finally:
            self._ended = True
            self._changed.set()

    async def _feed(self) -> None:
        try:
            async for request in _each(self._source):
                await self._wait_room()
                self._add(await self._submit(request))
        except Exception as error:
            # What was submitted stays submitted: its answers come first, then this is raised.
            self._error = error
        await self._flush()

    async def _wait_room(self) -> None:
        try:
            self._room.acquire_nowait()
        except anyio.WouldBlock:
            await self._flush()  # nothing new can fill the batch that the consumer waits for
            await self._room.acquire()

    def _add(self, receipt: Receipt[AnswerT]) -> None:
        self._under_way[id(receipt)] = receipt
        if self._ordered:
            self._queue.append(receipt)
        receipt.subscribe(self._settled)

    def _settled(self, receipt: Receipt[AnswerT]) -> None:
        self._under_way.pop(id(receipt), None)
        if not self._ordered:
            self._ready.append(receipt)
        self._changed.set()

    def _next_ready(self) -> Receipt[AnswerT] | None:
        if self._ordered and self._queue and self._queue[0].settled:
            return self._queue.popleft()
        return self._ready.popleft() if self._ready else None

    async def answers(self) -> AsyncIterator[AnswerT | RequestFailed]:
        """The answers as they come; afterwards what kept others from coming is raised."""
        lost: ReceiptError | None = None
        while True:
            self._changed = anyio.Event()
            while (receipt := self._next_ready()) is not None:
                self._room.release()
                outcome = _outcome(receipt)
                if isinstance(outcome, ReceiptError) and not isinstance(outcome, RequestFailed):
                    lost = lost or outcome
                else:
                    yield outcome
            if self._ended and not self._under_way and not self._queue:
                break
            await self._changed.wait()
        if self._error is not None or lost is not None:
            raise self._error or lost or RuntimeError

    def stop(self) -> None:
        """Take no more from the source; what was submitted stays submitted."""
        self._scope.cancel()


def _outcome(receipt: Receipt[Any]) -> Any:
    try:
        return receipt.outcome()
    except ReceiptError as error:
        return error


async def _each(source: Iterable[Any] | AsyncIterable[Any]) -> AsyncIterator[Any]:
    if isinstance(source, AsyncIterable):
        async for item in source:
            yield item
    else:
        for item in source:
            yield item

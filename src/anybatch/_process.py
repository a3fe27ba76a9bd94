"""`process()`: requests in from a source, answers out as they come, back-pressure both ways."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from typing import Any, Generic, TypeVar

import anyio
import anyio.lowlevel

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
        left: what to raise where the dispatcher was left before the source's end.
        bound: requests submitted and not yet taken by the consumer.
        ordered: whether answers keep the source's order.
    """

    def __init__(
        self,
        source: Iterable[RequestT] | AsyncIterable[RequestT],
        submit: Callable[[RequestT], Awaitable[Receipt[AnswerT]]],
        flush: Callable[[], Awaitable[None]],
        *,
        left: Callable[[], Exception],
        bound: int,
        ordered: bool,
    ) -> None:
        self._left = left
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
        self._loop: anyio.lowlevel.EventLoopToken | None = None  # while it takes from the source
        self._complete = False  # the source has ended, or has raised
        self._stopped = False
        self._ended = False
        self._error: BaseException | None = None
        self._lost: ReceiptError | None = None

    async def feed(self) -> None:
        """Take from the source until it ends; runs as a task of the dispatcher."""
        self._loop = anyio.lowlevel.current_token()
        with self._scope:
            await self._feed()

    def end(self) -> None:
        """Nothing more is taken from the source: the consumer gets what is under way, then ends."""
        if not self._complete and not self._stopped:
            self._error = self._left()
        self._loop = None
        self._ended = True
        self._changed.set()

    async def _feed(self) -> None:
        try:
            if isinstance(self._source, AsyncIterable):
                async for request in self._source:
                    await self._take(request)
            else:
                for request in self._source:
                    await self._take(request)
        except Exception as error:  # noqa: BLE001 - the consumer is who has to know
            # What was submitted stays submitted: its answers come first, then this is raised.
            self._error = error
        self._complete = True
        await self._flush()

    async def _take(self, request: RequestT) -> None:
        await self._wait_room()
        self._add(await self._submit(request))

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

    async def next(self) -> AnswerT | RequestFailed:
        """The next answer that comes; at the end, what kept others from coming is raised."""
        while True:
            self._changed = anyio.Event()
            while (receipt := self._next_ready()) is not None:
                self._room.release()
                outcome = _outcome(receipt)
                if not isinstance(outcome, ReceiptError) or isinstance(outcome, RequestFailed):
                    return outcome
                self._lost = self._lost or outcome
            if self._ended and not self._under_way and not self._queue:
                raise self._last_words()
            await self._changed.wait()

    def _last_words(self) -> BaseException:
        error = self._error or self._lost
        self._error = self._lost = None
        return error or StopAsyncIteration()

    def stop(self) -> None:
        """Take no more from the source; what was submitted stays submitted."""
        self._stopped = True
        if self._loop is not None:
            self._scope.cancel()

    def drop(self) -> None:
        """Stop, from a finalizer: it may run when the event loop is gone, or in another thread."""
        try:
            here = anyio.lowlevel.current_token()
        except RuntimeError:
            return
        self._stopped = True
        if here == self._loop:
            self._scope.cancel()


def _outcome(receipt: Receipt[Any]) -> Any:
    try:
        return receipt.outcome()
    except ReceiptError as error:
        return error


class Answers(AsyncIterator[AnswerT | RequestFailed]):
    """What `process()` returns: iterate it. Dropping it, or `aclose()`, stops the source.

    An object and no generator, so that leaving the loop by `break` needs no clean-up that awaits.
    """

    def __init__(self, conveyor: Conveyor[Any, AnswerT], start: Callable[[], None]) -> None:
        self._conveyor = conveyor
        self._start: Callable[[], None] | None = start

    async def __anext__(self) -> AnswerT | RequestFailed:
        if self._start is not None:
            start, self._start = self._start, None
            start()
        return await self._conveyor.next()

    async def aclose(self) -> None:
        """Take no more from the source."""
        self._conveyor.stop()
        await anyio.lowlevel.checkpoint()

    def __del__(self) -> None:
        self._conveyor.drop()

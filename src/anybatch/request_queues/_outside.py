"""The queue that somebody else keeps: how its three methods are called, and what they gave."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio

from .._encoding import plain
from .._threads import run_sync
from ..abc import RequestQueueLike


class Outside:
    """A queue that pops, called one method at a time: in a worker thread unless it is async.

    Args:
        queue: a `RequestQueue` of a user's, or a langbatch one.
    """

    def __init__(self, queue: RequestQueueLike) -> None:
        self.queue = queue
        self.count = 0  # requests in it at the last look, and what we did since
        self.taken: list[Any] = []  # written by the thread that popped, before anything awaits
        self._calls = anyio.Lock()

    async def look(self) -> None:
        """Count what it holds.

        Raises:
            NotImplementedError: it can neither say its size nor its length.
        """
        size = getattr(self.queue, "size", None) or getattr(self.queue, "__len__", None)
        if size is None:
            raise NotImplementedError(
                f"{type(self.queue).__name__} has neither size() nor __len__(); give it one"
            )
        self.count = int(await self._call(size))

    async def add(self, values: list[Any]) -> None:
        """Append values at its tail."""
        await self._call(self.queue.add_requests, values)
        self.count += len(values)

    def add_from_thread(self, values: list[Any]) -> None:
        """Append values while no event loop is there to order the calls.

        Raises:
            RuntimeError: its method is async.
        """
        if inspect.isawaitable(result := self.queue.add_requests(values)):
            if inspect.iscoroutine(result):
                result.close()
            raise RuntimeError(
                f"{type(self.queue).__name__}.add_requests is async and no dispatcher has entered "
                "the queue; await it on the event loop"
            )

    async def get(self, count: int) -> list[Any]:
        """Pop values for somebody else than the dispatcher."""
        values: list[Any] = list(await self._call(self.queue.get_requests, count) or ())
        self.count = max(0, self.count - len(values))
        return values

    async def take(self, count: int) -> None:
        """Pop values into `taken`: they are there before the next await, whatever is cancelled."""
        get = self.queue.get_requests
        async with self._calls:
            if inspect.iscoroutinefunction(get):
                self.taken.extend(await get(count) or ())
            else:
                for later in await run_sync(self._take_in_thread, get, count):
                    self.taken.extend(await later or ())

    def _take_in_thread(self, get: Callable[[int], Any], count: int) -> Sequence[Awaitable[Any]]:
        result = get(count)
        if inspect.isawaitable(result):
            return (result,)
        self.taken.extend(result or ())
        return ()

    async def _call(self, method: Callable[..., Any], *args: Any) -> Any:
        async with self._calls:
            if inspect.iscoroutinefunction(method):
                return await method(*args)
            # Trio lets no thread return a coroutine: hence the tuple.
            (result,) = await run_sync(lambda: (method(*args),))
            return await result if inspect.isawaitable(result) else result


def values_of(requests: list[Any]) -> list[Any]:
    """Requests as plain JSON values, which is all that such a queue knows."""
    return [plain(request) for request in requests]

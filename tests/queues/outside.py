"""Queues of a user's own: three methods, plain or async."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import anyio

from anybatch.request_queues import RequestQueue
from anybatch.request_queues.adapter import AdaptedQueue


class PlainQueue(RequestQueue):
    def __init__(self) -> None:
        self.values: deque[Any] = deque()

    def add_requests(self, requests: list[Any]) -> None:
        self.values.extend(requests)

    def get_requests(self, count: int) -> list[Any]:
        return [self.values.popleft() for _ in range(min(count, len(self.values)))]

    def __len__(self) -> int:
        return len(self.values)


class AsyncQueue(RequestQueue):
    def __init__(self) -> None:
        self.values: deque[Any] = deque()

    async def add_requests(self, requests: list[Any]) -> None:
        self.values.extend(requests)

    async def get_requests(self, count: int) -> list[Any]:
        return [self.values.popleft() for _ in range(min(count, len(self.values)))]

    async def size(self) -> int:
        return len(self.values)


class LooseQueue(AsyncQueue):
    """Plain methods that return awaitables, and None for nothing."""

    def add_requests(self, requests: list[Any]) -> Any:
        return super().add_requests(requests)

    def get_requests(self, count: int) -> Any:
        return super().get_requests(count) if self.values else None

    def size(self) -> Any:
        return super().size()


def adapted(queue: Any, *, time_interval: float = 600) -> AdaptedQueue:
    return AdaptedQueue(queue, time_interval=time_interval)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what a thread does, which no event tells."""
    while not condition():  # noqa: ASYNC110
        await anyio.sleep(0.01)

"""What several test modules use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import anyio

from anybatch import BatchDispatcher, Receipt
from anybatch.request_queues import InMemoryRequestQueue


class Doubler:
    """A function as handler: doubles, and records its batches and when they came."""

    def __init__(self, *, takes: float = 0.0) -> None:
        self.batches: list[list[int]] = []
        self.times: list[float] = []
        self.takes = takes
        self.started = anyio.Event()
        self.gate: anyio.Event | None = None

    async def __call__(self, requests: list[int]) -> Sequence[int]:
        self.times.append(anyio.current_time())
        self.batches.append(list(requests))
        self.started.set()
        if self.gate is not None:
            await self.gate.wait()
        await anyio.sleep(self.takes)
        return [2 * request for request in requests]


def queued_in(queue: Any) -> list[Any]:
    """What a queue in memory still holds, in order."""
    assert isinstance(queue, InMemoryRequestQueue)
    return [record.element for record in queue.records()]


def each_once(
    submitted: Sequence[Any], receipts: Sequence[Receipt[Any]], d: BatchDispatcher[Any, Any]
) -> None:
    """The invariant: submitted = delivered + failed + still queued, each exactly once."""
    ended = [r for r in receipts if r.status in ("done", "failed", "cancelled")]
    kept = queued_in(d.queue)
    assert len(ended) + len(kept) == len(submitted), (len(ended), kept, submitted)
    assert len(set(map(id, receipts))) == len(receipts)

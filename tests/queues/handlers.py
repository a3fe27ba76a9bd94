"""A handler that keeps what it is given, for the tests of queues."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio

from anybatch._models import Accepted, Part
from anybatch.providers import OpenAI


class KeepingHandler:
    """Takes every part, with the time; `refusals` of them it refuses first."""

    store_id = "store"
    live_batches = 0

    def __init__(self, refusals: int = 0) -> None:
        self.provider = OpenAI(api_key="none")
        self.refusals = refusals
        self.parts: list[Part] = []
        self.ids: list[str] = []  # of all parts, refused ones too
        self.lines: list[bytes] = []
        self.times: list[float] = []
        self.gate: anyio.Event | None = None
        self.asked = anyio.Event()

    @asynccontextmanager
    async def entered_for(self, dispatcher: Any) -> AsyncIterator[KeepingHandler]:
        yield self

    async def add_batch(self, batch_id: str) -> None:
        raise AssertionError("batches are handed over by accept")

    def room(self) -> int | None:
        return None

    async def wait_room(self) -> None:
        raise AssertionError("there is always room")

    async def accept(self, part: Part) -> Accepted:
        self.ids.append(part.id)
        self.asked.set()
        if self.gate is not None:
            await self.gate.wait()
        if self.refusals:
            self.refusals -= 1
            raise OSError("the disk is full")
        self.parts.append(part)
        self.times.append(anyio.current_time())
        self.lines += [line async for chunk in part.lines() for line in chunk]
        for receipt in part.receipts.values():
            receipt.dispatched()
        return Accepted.NEW

    @property
    def texts(self) -> list[str]:
        """The user's words in each line."""
        from anybatch._encoding import decode

        return [decode(line)["body"]["messages"][0]["content"] for line in self.lines]

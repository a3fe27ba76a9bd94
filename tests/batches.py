"""Batches for the tests of handlers: parts, as the dispatcher makes them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

import anyio

from anybatch._handler import BatchHandler
from anybatch._models import Answer, Part
from anybatch._receipts import Receipt
from anybatch.batch_stores import SQLiteBatchStore
from anybatch.testing.provider import FakeProvider

ENDPOINT = "/v1/chat/completions"


def line(custom_id: str) -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": f"hello {custom_id}"}]}
    request = {"custom_id": custom_id, "method": "POST", "url": ENDPOINT, "body": body}
    return json.dumps(request).encode()


def make_part(
    part_id: str = "q-1-0",
    count: int = 3,
    *,
    start: int = 0,
    lines: Callable[[], AsyncIterator[Sequence[bytes]]] | None = None,
) -> Part:
    ids = [f"r{number}" for number in range(start, start + count)]

    async def chunks() -> AsyncIterator[Sequence[bytes]]:
        for first in range(0, count, 2000):
            yield [line(custom_id) for custom_id in ids[first : first + 2000]]

    return Part(
        id=part_id,
        interval=part_id,
        queue="q",
        members=((start, start + count),),
        endpoint=ENDPOINT,
        count=count,
        custom_ids=ids,
        lines=lines or chunks,
        receipts={custom_id: Receipt(custom_id, b"") for custom_id in ids},
    )


def handler_on(provider: FakeProvider, **arguments: Any) -> BatchHandler:
    return BatchHandler(batch_type=provider, **arguments)


def default_store(home: Path, name: str = "default") -> SQLiteBatchStore:
    return SQLiteBatchStore(home / "handlers" / name / "store.db")


async def outcomes(handler: BatchHandler, batch_id: str = "q-1-0") -> dict[str | None, str]:
    """What became of each request: its text, or the code of its failure."""
    found: dict[str | None, str] = {}
    async for outcome in handler.results(batch_id):
        text = outcome.text if isinstance(outcome, Answer) else str(outcome.code)
        assert outcome.custom_id not in found
        found[outcome.custom_id] = text
    return found


def all_answered(count: int = 3, start: int = 0) -> dict[str | None, str]:
    return {f"r{number}": f"hello r{number}" for number in range(start, start + count)}


async def until(true: Callable[[], bool]) -> None:
    """Look again and again, in virtual time, for what has no event."""
    while not true():  # noqa: ASYNC110 - the outside's view, which nothing announces
        await anyio.sleep(0.01)

"""From a provider's rows to a file with one row for each request: streamed, safe, repeatable."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import TypeVar

import anyio
import attrs
import orjson

from ._batch_rows import custom_id_of, ends, outcome_of, read_row
from ._batch_states import Record
from ._exceptions import RequestFailed
from ._models import Answer
from ._threads import run_sync
from .abc import Provider
from .batch_stores.files import BatchBytes, Draft, WriteOnceFiles, read_slice
from .batch_stores.sqlite import RowPlace

T = TypeVar("T")
logger = logging.getLogger(__name__)

SLICE = 2000
"""Rows that are parsed or settled in one go."""


@asynccontextmanager
async def drafted(files: WriteOnceFiles | BatchBytes) -> AsyncGenerator[Draft]:
    """A file in the making, gone at the end unless it was linked."""
    draft = await run_sync(files.draft)
    try:
        yield draft
    finally:
        draft.discard()


async def download(provider: Provider, record: Record, files: WriteOnceFiles) -> None:
    """Bring the provider's rows of this attempt to the disk, as they come, whole or not at all."""
    assert record.remote is not None
    raw = files.raw_rows(record.attempt_id)
    if raw.exists():
        return
    async with drafted(files) as draft:
        results = provider.results(record.remote)
        async with closing(results) as rows, closing(_chunks(rows)) as chunks:
            async for chunk in chunks:
                await run_sync(draft.write, chunk)
        await run_sync(files.link, draft, raw.name)


async def _chunks(rows: AsyncIterator[bytes]) -> AsyncIterator[list[bytes]]:
    chunk: list[bytes] = []
    async for row in rows:
        chunk.append(row)
        if len(chunk) == SLICE:
            yield chunk
            chunk = []
    yield chunk


@asynccontextmanager
async def closing(iterator: AsyncIterator[T]) -> AsyncGenerator[AsyncIterator[T]]:
    """End an iteration in this task: a generator left over would end who knows where."""
    try:
        yield iterator
    finally:
        aclose = getattr(iterator, "aclose", None)
        if aclose is not None:  # a user's provider may return any iterator
            with anyio.move_on_after(5, shield=True):
                await aclose()


@attrs.define
class _Sift:
    """Keeps the first row of each request; drops what belongs to none.

    Args:
        missing: custom id → line, of the requests that have no row yet.
    """

    draft: Draft
    missing: dict[str, int]
    places: list[RowPlace] = attrs.field(factory=list[RowPlace])
    malformed: int = 0
    strangers: int = 0

    def slice(self, path: Path, offset: int) -> int:
        """Take the rows from this offset on; returns the next, or the same at the end. Blocks."""
        lines, after = read_slice(path, offset, SLICE)
        kept = [(custom_id, line) for line in lines if (custom_id := self._keep(line)) is not None]
        self.write(kept)
        return after

    def _keep(self, line: bytes) -> str | None:
        if not line.strip():
            return None
        row = read_row(line)
        if row is None:
            self.malformed += 1
            return None
        custom_id: str = row["custom_id"]
        if self.missing.pop(custom_id, None) is None:
            self.strangers += 1
            return None
        return custom_id

    def write(self, rows: list[tuple[str, bytes]]) -> None:
        """Append rows and note their places. Blocks."""
        start = self.draft.size
        self.draft.write([line for _, line in rows])
        for custom_id, line in rows:
            self.places.append(RowPlace(custom_id, start, len(line)))
            start += len(line) + 1

    def finish(self, record: Record) -> None:
        """Give every request that is left the reason why it has no row. Blocks."""
        self.write([(custom_id_of(row), row) for row in ends(record, self.missing)])

    def report(self, record: Record) -> None:
        """Say what was dropped; a prompt or an answer is never logged."""
        if self.malformed or self.strangers:
            logger.warning(
                "batch %s: dropped %d malformed rows and %d rows of unknown or repeated requests",
                record.id,
                self.malformed,
                self.strangers,
            )


async def merge(record: Record, requests: Path, files: WriteOnceFiles) -> list[RowPlace]:
    """Write the batch's file of rows: one for each request. The same again if it is repeated."""
    async with drafted(files) as draft:
        sift = _Sift(draft, await run_sync(members, requests))
        raw, offset = files.raw_rows(record.attempt_id), 0
        if raw.exists():
            while (after := await run_sync(sift.slice, raw, offset)) != offset:
                offset = after
        sift.report(record)
        await run_sync(sift.finish, record)
        await run_sync(files.link, draft, files.rows(record.key).name)
        return sift.places


def members(path: Path) -> dict[str, int]:
    """The custom ids of a batch file, and their lines, from 1. Blocks."""
    with path.open("rb") as lines:
        numbered = zip(count(1), lines, strict=False)
        return {custom_id_of(line): number for number, line in numbered if line.strip()}


def read_outcomes(path: Path, offset: int) -> tuple[list[Answer | RequestFailed], int]:
    """A slice of a batch's file of rows, and the offset after it. Blocks."""
    lines, after = read_slice(path, offset, SLICE)
    return [outcome_of(orjson.loads(line)) for line in lines], after
